"""Changes that operators have staged: what is to be done, not yet what follows from it.

A stage names the map that it was begun from and lists changes in order.  What follows,
the nodes and the plan, is computed from the map in force each time somebody looks, so
that nothing stale is ever applied: a stage of another epoch is refused until it is
planned again.

Invariants: pure; the text form is versioned JSON, read strictly; nodes and tables change
in separate steps, because a plan moves seats between the tables that there are.

Source: Garage's staged layouts.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hcefs.errors import Conflict, Invalid
from hcefs.ids import AccountId
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.planner import Plan, first_table, plan
from hcefs.placement.split import split_table
from hcefs.placement.waves import SeatName, apply_plan, is_planned

VERSION = 1
CHANGES_MAX = 1024


class Verb(enum.StrEnum):
    """What a change does."""

    ADD = "add"
    DRAIN = "drain"
    KEEP = "keep"
    REPLACE = "replace"
    REMOVE = "remove"
    REWEIGHT = "reweight"
    OUT = "out"
    ADD_PROFILE = "add-profile"
    SPLIT = "split"


TABLE_VERBS = frozenset({Verb.ADD_PROFILE, Verb.SPLIT})


@dataclass(frozen=True)
class Change:
    """One change.

    ``node_id`` is whom it concerns, 0 for none; ``new`` is the node that is added;
    ``weight`` and ``profile`` (with k and m) are what some verbs need.
    """

    verb: Verb
    node_id: int = 0
    new: Node | None = None
    weight: int = 0
    profile: str = ""
    k: int = 0
    m: int = 0

    def text(self) -> str:
        """In words."""
        new = f"node {self.new.node_id} ({self.new.zone}, {self.new.host})" if self.new else ""
        return {
            Verb.ADD: f"add {new}, weight {self.new.weight if self.new else 0}",
            Verb.DRAIN: f"drain node {self.node_id}",
            Verb.KEEP: f"keep node {self.node_id}: no longer drain it",
            Verb.REPLACE: f"replace node {self.node_id} by {new}",
            Verb.REMOVE: f"remove node {self.node_id}",
            Verb.REWEIGHT: f"weight {self.weight} for node {self.node_id}",
            Verb.OUT: f"give up node {self.node_id}",
            Verb.ADD_PROFILE: f"add profile {self.profile} ({self.k}+{self.m})",
            Verb.SPLIT: f"split the partitions of {self.profile}",
        }[self.verb]

    def nodes(self, current: ClusterMap) -> changes.Nodes:
        """The nodes after this change of a map's nodes.

        Raises:
            Invalid, Conflict, NotFound, Infeasible: it cannot be meant; it names the cure.
        """
        match self.verb:
            case Verb.ADD if self.new is not None:
                return changes.add(current, [self.new])
            case Verb.DRAIN:
                return changes.drain(current, self.node_id)
            case Verb.KEEP:
                return changes.mark_up(current, self.node_id)
            case Verb.REPLACE if self.new is not None:
                return changes.replace_node(current, self.node_id, self.new)
            case Verb.REMOVE:
                return changes.remove(current, self.node_id)
            case Verb.REWEIGHT:
                return changes.reweight(current, self.node_id, self.weight)
            case Verb.OUT:
                return changes.mark_out(current, [self.node_id])
            case _:
                raise Invalid(f"{self.verb} changes no nodes", reason="bad-stage")


@dataclass(frozen=True)
class Stage:
    """Staged changes, and the map that they were begun from."""

    epoch: int
    digest: bytes
    changes: tuple[Change, ...] = ()

    @classmethod
    def of(cls, current: ClusterMap) -> Stage:
        """An empty stage."""
        return cls(current.epoch, current.digest())

    def with_change(self, change: Change) -> Stage:
        """This stage and one change more.

        Raises:
            Conflict: changes of nodes and of tables are applied one after the other.
            Invalid: too many.
        """
        kinds = {each.verb in TABLE_VERBS for each in (*self.changes, change)}
        if len(kinds) > 1:
            raise Conflict(
                "nodes and tables are changed one after the other: apply what is staged first, "
                "or forget it with `hcefs layout revert-staged`",
                reason="mixed-stage",
            )
        if len(self.changes) >= CHANGES_MAX:
            raise Invalid(f"at most {CHANGES_MAX} changes at once", reason="too-many-changes")
        return replace(self, changes=(*self.changes, change))

    def require_current(self, current: ClusterMap) -> None:
        """Check that the map has not changed since this stage was begun.

        Raises:
            Conflict: ``stale-plan``.
        """
        if (self.epoch, self.digest) != (current.epoch, current.digest()):
            raise Conflict(
                f"these changes were staged on the map of epoch {self.epoch}, and epoch "
                f"{current.epoch} is in force: nothing was moved; look at them again with "
                "`hcefs layout plan`, then apply",
                reason="stale-plan",
            )

    def rebased(self, current: ClusterMap) -> Stage:
        """The same changes on the map in force."""
        return replace(self, epoch=current.epoch, digest=current.digest())

    def encode(self) -> str:
        """The text form."""
        return json.dumps(
            {
                "version": VERSION,
                "epoch": self.epoch,
                "digest": self.digest.hex(),
                "changes": [_change_data(change) for change in self.changes],
            },
            indent=2,
        )

    @classmethod
    def decode(cls, text: str) -> Stage:
        """Read the text form.

        Raises:
            Invalid: ``bad-stage``: it is damaged, or of another version.
        """
        try:
            data = json.loads(text)
            if data["version"] != VERSION:
                raise ValueError("another version")
            found = tuple(_change_of(each) for each in data["changes"])
            return cls(_whole(data["epoch"]), bytes.fromhex(data["digest"]), found)
        except (ValueError, TypeError, KeyError, AttributeError, Invalid) as error:
            raise Invalid(
                f"the staged changes cannot be read ({type(error).__name__}): forget them with "
                "`hcefs layout revert-staged`",
                reason="bad-stage",
            ) from None


@dataclass(frozen=True)
class Outlook:
    """What follows from a stage: the next map, and the plan where seats move."""

    successor: ClusterMap
    plan: Plan | None


def outlook(
    current: ClusterMap,
    staged: Sequence[Change],
    done: frozenset[SeatName] = frozenset(),
    *,
    weaker_caps: bool = False,
) -> Outlook:
    """What changes of a map lead to; ``done`` are seats in flight that have arrived.

    Raises:
        Invalid: nothing is staged, or a change cannot be meant.
        Conflict, NotFound, Infeasible: why it cannot be done, and the cure.
    """
    if not staged:
        raise Invalid(
            "nothing is staged: stage a change with `hcefs node` or `hcefs layout` first",
            reason="nothing-staged",
        )
    if staged[0].verb in TABLE_VERBS:
        return Outlook(_with_tables(current, staged), None)
    nodes = current.nodes
    for change in staged:
        nodes = change.nodes(replace(current, nodes=nodes))
    made = plan(current, nodes, weaker_caps=weaker_caps)
    return Outlook(apply_plan(made, current, done), made)


def _with_tables(current: ClusterMap, staged: Sequence[Change]) -> ClusterMap:
    if is_planned(current):
        raise Conflict(
            "seats are moving: change the tables after the plan", reason="plan-in-progress"
        )
    tables = list(current.tables)
    for change in staged:
        known = [table.profile for table in tables]
        if change.verb is Verb.ADD_PROFILE:
            if change.profile in known:
                raise Conflict(f"the map has {change.profile} already", reason="table-twice")
            tables.append(
                first_table(current.nodes, change.profile, change.k, change.m, current.seed)
            )
        else:
            current.table(change.profile)  # NotFound where it has none
            at = known.index(change.profile)
            tables[at] = split_table(tables[at])
    found = replace(
        current, epoch=current.epoch + 1, previous=current.digest(), tables=tuple(tables)
    )
    found.check()
    return found


def _change_data(change: Change) -> dict[str, Any]:
    data: dict[str, Any] = {"verb": str(change.verb)}
    for name in ("node_id", "weight", "profile", "k", "m"):
        if getattr(change, name):
            data[name] = getattr(change, name)
    if change.new is not None:
        node = change.new
        data["new"] = {
            "node_id": node.node_id,
            "account": node.account.text,
            "address": node.address,
            "peer_address": node.peer_address,
            "zone": node.zone,
            "rack": node.rack,
            "host": node.host,
            "weight": node.weight,
        }
    return data


def _change_of(data: dict[str, Any]) -> Change:
    new = None
    if "new" in data:
        fields = data["new"]
        new = Node(
            _whole(fields["node_id"]),
            AccountId.parse(fields["account"]),
            _text(fields["address"]),
            _text(fields["peer_address"]),
            _text(fields["zone"]),
            _text(fields["rack"]),
            _text(fields["host"]),
            _whole(fields["weight"]),
            NodeState.JOINING,
        )
        new.check()
    return Change(
        Verb(data["verb"]),
        _whole(data.get("node_id", 0)),
        new,
        _whole(data.get("weight", 0)),
        _text(data.get("profile", "")),
        _whole(data.get("k", 0)),
        _whole(data.get("m", 0)),
    )


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a number")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("not a text")
    return value

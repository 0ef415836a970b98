"""Whether nodes can hold rows under caps, and the smallest change that cures it.

Invariants: pure.  Quotas and chains succeed exactly when one row fits
(``row_capacity``), because failure domains nest; so a table is refused before it
is planned, never half way, and each cure named here is enough by itself.

A weight that caps or one-seat-a-row keep from being filled is no obstacle but
capacity stranded: ``advice`` says so, with the weight that could be filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hcefs.errors import Invalid
from hcefs.placement.cluster_map import LEVELS, Caps, ClusterMap, Node, NodeState, Table
from hcefs.placement.quotas import default_caps, domains_of, members, row_capacity


@dataclass(frozen=True)
class Cure:
    """One change that is enough: a stable ``action`` for programs, and a sentence."""

    action: str
    text: str


class Infeasible(Invalid):
    """The change cannot be planned; ``cures`` are the smallest changes that would allow it."""

    def __init__(self, message: str, *, reason: str, cures: Sequence[Cure] = ()) -> None:
        also = f": {'; or '.join(cure.text for cure in cures)}" if cures else ""
        super().__init__(message + also, reason=reason)
        self.cures = tuple(cures)


def require_row(nodes: Sequence[Node], caps: Caps, profile: str, n: int) -> None:
    """Check that the members of ``nodes`` can hold a row.

    Raises:
        Infeasible: too few members, or too few under the caps.
    """
    seated = members(nodes)
    if len(seated) < n:
        raise Infeasible(
            f"{profile} needs {n} nodes that take seats (joining, up or down, weight above 0), "
            f"{len(seated)} would be left",
            reason="too-few-nodes",
            cures=_hosts_to_add(seated, caps, n) or (_hosts_anywhere(n - len(seated)),),
        )
    held = row_capacity(seated, caps)
    if held < n:
        raise Infeasible(
            f"{profile} needs {n} seats a row, and {caps.zone} a zone, {caps.rack} a rack and "
            f"{caps.host} a host allow only {held} on the {len(seated)} nodes that take seats",
            reason="infeasible",
            cures=(*_hosts_to_add(seated, caps, n), *_caps_to_raise(seated, caps, n)),
        )


def _hosts_anywhere(count: int) -> Cure:
    return Cure("add-hosts", f"add {_count(count, 'host')}")


def _hosts_to_add(seated: Sequence[Node], caps: Caps, n: int) -> tuple[Cure, ...]:
    """Hosts to add, each in a rack of its own: one that helps adds one seat to a row."""
    short = n - row_capacity(seated, caps)
    zones = sorted({node.zone for node in seated})
    room = {}
    for zone in zones:
        inside = [node for node in seated if node.zone == zone]
        room[zone] = caps.zone - row_capacity(inside, caps)
    if short <= 0:
        return ()
    parts = []
    left = short
    for zone in sorted(zones, key=lambda name: (-room[name], name)):
        if left and room[zone]:
            taken = min(left, room[zone])
            parts.append(f"{_count(taken, 'host')} in zone {zone}")
            left -= taken
    if left:
        new_zones = -(-left // caps.zone)
        parts.append(f"{_count(left, 'host')} in {_count(new_zones, 'new zone')}")
    return (Cure("add-hosts", f"add {' and '.join(parts)}"),)


def _caps_to_raise(seated: Sequence[Node], caps: Caps, n: int) -> tuple[Cure, ...]:
    """The one cap whose least raise is enough, innermost first: it gives up least."""
    for level in reversed(LEVELS):
        values = {name: caps.of(name) for name in LEVELS}
        for cap in range(caps.of(level) + 1, n + 1):
            if row_capacity(seated, Caps(**(values | {level: cap}))) >= n:
                return (Cure("raise-cap", f"allow {cap} seats of a row in one {level}"),)
    return ()


def caps_for(old: ClusterMap, table: Table, nodes: Sequence[Node]) -> Caps:
    """The caps of a table on changed nodes.

    Caps that are the default follow it: that of the old members, or that of the
    nodes that the table seats (some may have joined or been lost since its last
    plan).  Other caps were chosen by somebody, and stay.

    Raises:
        Infeasible: too few nodes, or chosen caps that cannot hold.
    """
    if len(members(nodes)) < table.n:
        require_row(nodes, table.caps, table.profile, table.n)
    seated = {node_id for row in table.target_rows for node_id in row}
    holders = [
        replace(node, state=NodeState.UP, weight=1) for node in old.nodes if node.node_id in seated
    ]
    for given in (old.nodes, holders):
        if len(members(given)) >= table.n and default_caps(given, table.k, table.m) == table.caps:
            return default_caps(nodes, table.k, table.m)
    require_row(nodes, table.caps, table.profile, table.n)
    return table.caps


def require_caps_kept(old: Caps, new: Caps, nodes: Sequence[Node], profile: str, n: int) -> None:
    """Check that a change does not weaken a cap in silence.

    Raises:
        Infeasible: it does; the cure is more nodes, or the operator's consent.
    """
    weaker = [level for level in LEVELS if new.of(level) > old.of(level)]
    if weaker:
        level = weaker[0]
        raise Infeasible(
            f"the nodes that are left hold a row of {profile} only with up to {new.of(level)} "
            f"seats in one {level}, {old.of(level)} so far",
            reason="weaker-caps",
            cures=(
                *_hosts_to_add(members(nodes), old, n),
                Cure("consent", "consent to weaker caps"),
            ),
        )


def advice(nodes: Sequence[Node], caps: Caps, profile: str, n: int) -> tuple[str, ...]:
    """Weights that cannot be filled, and what each could be at most; empty is well."""
    seated = members(nodes)
    total = sum(node.weight for node in seated)
    found = []
    for node in seated:
        # One seat a row: weight / total <= 1 / n.
        most = (total - node.weight) // (n - 1)
        if node.weight > most:
            found.append(
                f"{profile}: node {node.node_id} has weight {node.weight}, and a node holds at "
                f"most one seat of a row: lower the weight of node {node.node_id} to at most "
                f"{most}, or add nodes"
            )
    seen: set[tuple[int, ...]] = set()
    for domain in domains_of(seated, caps):
        inside = [seated[position] for position in domain.positions]
        weight = sum(node.weight for node in inside)
        if domain.cap >= n or domain.positions in seen:
            continue
        seen.add(domain.positions)
        most = (total - weight) * domain.cap // (n - domain.cap)
        if weight > most:
            name = _common_domain(inside)
            found.append(
                f"{profile}: {name} has weight {weight}, and holds at most {domain.cap} of "
                f"{n} seats of a row: lower its weights to at most {most} together, or add "
                f"weight elsewhere"
            )
    return tuple(found)


def _common_domain(inside: Sequence[Node]) -> str:
    """The outermost level that the nodes share, with its label."""
    for level in LEVELS:
        if len({node.domain(level) for node in inside}) == 1:
            return f"{level} {'/'.join(filter(None, inside[0].domain(level)))}"
    return "a group of nodes"


def _count(number: int, noun: str) -> str:
    return f"one {noun}" if number == 1 else f"{number} {noun}s"

"""The cluster map: who the nodes are and which of them sit at which partition.

One map per epoch, committed on the ledger by compare-and-swap on the epoch.
Its digest covers every field, so two nodes with one digest place every blob
alike.  Nodes are named in tables by a 16-bit id that is never used twice: a
node that left stays in the map as REMOVED.

Invariants (``ClusterMap.check``, ``check_successor``): ids and live accounts
are unique; every row of a table has n different nodes of the map, none of them
REMOVED; an epoch follows its predecessor by number and digest; rows change only
by a plan, never by a mere new map.  The verdicts depend on the arguments alone,
not on the profiles or the Unicode tables that this software happens to know,
because every follower of the ledger must reach the same one.

Not guaranteed: that rows keep to the caps.  Labels may be corrected after seats
were given, so that is a warning, and a plan repairs it.

Source: the placement section of the design; Dynamo (SOSP 2007) section 6.2,
strategy 3.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hcefs.encoding import Encoded
from hcefs.errors import Conflict, Invalid, NotFound
from hcefs.ids import AccountId
from hcefs.integrity import blake3_digest

BITS_MIN = 8
BITS_MAX = 18
SEATS_MAX = 255
"""Most seats of a row: an erasure code over GF(2^8) has at most 256 pieces."""
NODES_MAX = 4096
"""Most nodes of a map, removed ones included."""
TABLES_MAX = 16
WEIGHT_MAX = 1 << 24
LABEL_MAX = 64
ADDRESS_MAX = 255
SEED_MAX = 64
DIGEST_SIZE = 32

LEVELS = ("zone", "rack", "host")
"""Failure domains, largest first; each lies inside one of the level before."""

_NODE_ID_MAX = 0xFFFF
_EPOCH_MAX = 1 << 63


class NodeState(enum.IntEnum):
    """What the map says of a node; only operators and the planner change it."""

    JOINING = 1
    UP = 2
    DOWN = 3
    DRAINING = 4
    OUT = 5
    REMOVED = 6


@dataclass(frozen=True)
class Node(Encoded):
    """One storage node.

    ``node_id`` is 1..65535; 0 means "none" wherever a node is named.
    ``address`` is for clients, ``peer_address`` for nodes.  ``weight`` is the
    capacity relative to the other nodes; any unit.
    """

    KIND = "node"

    node_id: int
    account: AccountId
    address: str
    peer_address: str
    zone: str
    rack: str
    host: str
    weight: int
    state: NodeState

    def domain(self, level: str) -> tuple[str, ...]:
        """The failure domain at a level of ``LEVELS``.

        A rack is named within its zone and a host within its rack, so equal
        labels in two zones are two domains and domains always nest.
        """
        return (self.zone, self.rack, self.host)[: LEVELS.index(level) + 1]

    def check(self) -> None:
        """Raises Invalid: an id, text or weight is outside its bounds."""
        if not 1 <= self.node_id <= _NODE_ID_MAX:
            raise Invalid(
                f"node id {self.node_id} is outside 1..{_NODE_ID_MAX}", reason="bad-node-id"
            )
        name = f"node {self.node_id}"
        if not self.account:
            raise Invalid(f"{name} has no account: register it first", reason="bad-account")
        _check_text(f"{name}: address", self.address, 1, ADDRESS_MAX)
        _check_text(f"{name}: peer address", self.peer_address, 1, ADDRESS_MAX)
        _check_text(f"{name}: zone", self.zone, 1, LABEL_MAX)
        _check_text(f"{name}: rack", self.rack, 0, LABEL_MAX)
        _check_text(f"{name}: host", self.host, 1, LABEL_MAX)
        if not 0 <= self.weight <= WEIGHT_MAX:
            raise Invalid(
                f"{name}: weight {self.weight} is outside 0..{WEIGHT_MAX}", reason="bad-weight"
            )


@dataclass(frozen=True)
class Caps(Encoded):
    """Most seats of one row inside one zone, one rack, one host."""

    KIND = "caps"

    zone: int
    rack: int
    host: int

    def of(self, level: str) -> int:
        """The cap at a level of ``LEVELS``."""
        return (self.zone, self.rack, self.host)[LEVELS.index(level)]

    def check(self, n: int) -> None:
        """Raises Invalid: a cap is outside 1..n, the seats of a row."""
        for level in LEVELS:
            if not 1 <= self.of(level) <= n:
                raise Invalid(
                    f"the {level} cap {self.of(level)} is outside 1..{n}", reason="bad-caps"
                )


@dataclass(frozen=True)
class Move(Encoded):
    """A seat in flight; ``source`` is the node it is copied from, 0 = rebuild it."""

    KIND = "move"

    partition: int
    seat: int
    source: int


@dataclass(frozen=True)
class Table(Encoded):
    """Partition -> n seats for one profile.

    ``rows`` are big-endian u16 node ids, ``2**bits`` rows of ``k + m``.
    ``target`` has the same shape and is where a plan leads, empty for none;
    ``moving`` are the seats of wave ``wave`` of ``waves``.
    """

    KIND = "table"

    profile: str
    k: int
    m: int
    bits: int
    caps: Caps
    rows: bytes
    target: bytes
    moving: tuple[Move, ...]
    wave: int
    waves: int

    @property
    def n(self) -> int:
        return self.k + self.m

    @property
    def partitions(self) -> int:
        return 1 << self.bits

    @cached_property
    def node_rows(self) -> tuple[tuple[int, ...], ...]:
        """``rows`` decoded once: node ids by partition and seat.

        Raises:
            Invalid: ``rows`` has not the size that ``bits``, ``k`` and ``m`` say.
        """
        self._check_shape()
        return tuple(struct.iter_unpack(f">{self.n}H", self.rows))

    @cached_property
    def target_rows(self) -> tuple[tuple[int, ...], ...]:
        """Where the plan leads, decoded once; the rows in force without a plan."""
        if not self.target:
            return self.node_rows
        return replace(self, rows=self.target).node_rows

    def _check_shape(self) -> None:
        _check_text("profile", self.profile, 1, LABEL_MAX)
        if self.k < 1 or self.m < 1 or self.n > SEATS_MAX:
            raise Invalid(
                f"profile {self.profile}: k = {self.k}, m = {self.m}; both must be at least 1 "
                f"and their sum at most {SEATS_MAX}",
                reason="bad-profile",
            )
        if not BITS_MIN <= self.bits <= BITS_MAX:
            raise Invalid(
                f"table {self.profile}: {self.bits} partition bits are outside "
                f"{BITS_MIN}..{BITS_MAX}",
                reason="bad-table-size",
            )
        if len(self.rows) != 2 * self.n * self.partitions:
            raise Invalid(
                f"table {self.profile}: {self.partitions} rows of {self.n} seats need "
                f"{2 * self.n * self.partitions} bytes, not {len(self.rows)}",
                reason="bad-table-size",
            )

    def check(self, nodes: dict[int, Node], *, plans: bool = False) -> None:
        """Check shape, caps and rows against the nodes of the map.

        ``plans`` allows a plan in progress, which :mod:`hcefs.placement.successor`
        checks; version 1 of the ledger's protocol does not.

        Raises:
            Invalid: with a reason for each rule.
        """
        self._check_shape()
        if not plans and (self.target or self.moving or self.wave or self.waves):
            raise Invalid(
                f"table {self.profile} carries a plan in progress (target, moving seats or "
                "waves); this version of the software cannot carry it out: upgrade it first",
                reason="unsupported",
            )
        self.caps.check(self.n)
        for partition, row in enumerate(self.node_rows):
            if len(set(row)) != self.n:
                raise Invalid(
                    f"table {self.profile}: partition {partition} names a node twice",
                    reason="node-twice",
                )
        named = set().union(*self.node_rows)
        for node_id in sorted(named):
            node = nodes.get(node_id)
            if node is None:
                raise Invalid(
                    f"table {self.profile} names node {node_id}, which the map does not have",
                    reason="unknown-node",
                )
            if node.state is NodeState.REMOVED:
                raise Invalid(
                    f"table {self.profile} still seats node {node_id}, which is removed: "
                    "move its seats first",
                    reason="removed-node",
                )


@dataclass(frozen=True)
class ClusterMap(Encoded):
    """Nodes and tables of one epoch.

    ``previous`` is the digest of the map of the epoch before, empty for the
    first.  ``seed`` decides ties of the planner; it is public.
    """

    KIND = "cluster-map"
    MAX_BYTES = 8 << 20

    epoch: int
    previous: bytes
    seed: bytes
    default_profile: str
    nodes: tuple[Node, ...]
    tables: tuple[Table, ...]

    def digest(self) -> bytes:
        """BLAKE3 of the encoding: what the next epoch names as ``previous``."""
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        return blake3_digest(self.encode())

    @cached_property
    def _nodes(self) -> dict[int, Node]:
        return {node.node_id: node for node in self.nodes}

    @cached_property
    def _accounts(self) -> dict[AccountId, Node]:
        return {node.account: node for node in self.nodes if node.state is not NodeState.REMOVED}

    @cached_property
    def _tables(self) -> dict[str, Table]:
        return {table.profile: table for table in self.tables}

    @cached_property
    def derived(self) -> dict[tuple[str, str], Any]:
        """What other modules compute from this map once, by (module, name)."""
        return {}

    def node(self, node_id: int) -> Node | None:
        """The node of that id, removed or not, or None."""
        return self._nodes.get(node_id)

    def node_of_account(self, account: AccountId) -> Node | None:
        """The live (not removed) node of that account, or None."""
        return self._accounts.get(account)

    def table(self, profile: str) -> Table:
        """The table of that profile.

        Raises:
            NotFound: the map has none.
        """
        table = self._tables.get(profile)
        if table is None:
            known = ", ".join(self._tables) or "none"
            raise NotFound(
                f"the cluster map has no table for profile {profile[:LABEL_MAX]!r}; it has: "
                f"{known}",
                reason="unknown-profile",
            )
        return table

    def check(self, *, plans: bool = False) -> None:
        """Check everything that this map says by itself; ``plans`` as in ``Table.check``.

        Raises:
            Invalid: with a reason for each rule.
        """
        if not 1 <= self.epoch < _EPOCH_MAX:
            raise Invalid(f"epoch {self.epoch} is outside 1..2^63-1", reason="bad-epoch")
        if len(self.previous) != (DIGEST_SIZE if self.epoch > 1 else 0):
            raise Invalid(
                "the previous digest is empty in epoch 1 and has "
                f"{DIGEST_SIZE} bytes in every other",
                reason="bad-previous",
            )
        if not 1 <= len(self.seed) <= SEED_MAX:
            raise Invalid(f"the seed must have 1 to {SEED_MAX} bytes", reason="bad-seed")
        if len(self.nodes) > NODES_MAX or len(self.tables) > TABLES_MAX:
            raise Invalid(
                f"a map has at most {NODES_MAX} nodes (removed ones included) and "
                f"{TABLES_MAX} tables",
                reason="map-too-large",
            )
        for node in self.nodes:
            node.check()
        _unique("node id", (node.node_id for node in self.nodes), "node-id-twice")
        _unique(
            "account of a live node",
            (node.account for node in self.nodes if node.state is not NodeState.REMOVED),
            "account-twice",
        )
        _unique("table", (table.profile for table in self.tables), "table-twice")
        for table in self.tables:
            table.check(self._nodes, plans=plans)
        if self.default_profile not in self._tables:
            raise Invalid("the default profile has no table in the map", reason="unknown-profile")
        if len(self.encode()) > self.MAX_BYTES:
            raise Invalid(
                f"the map is larger than {self.MAX_BYTES} bytes: use fewer partitions",
                reason="map-too-large",
            )

    def warnings(self) -> tuple[str, ...]:
        """What an operator must see in every status; empty is well.  Of a map that passed check."""
        return self._warnings

    @cached_property
    def _warnings(self) -> tuple[str, ...]:
        found = [warning for table in self.tables for warning in self._cap_warnings(table)]
        seated = {node_id for table in self.tables for row in table.node_rows for node_id in row}
        out = [n.node_id for n in self.nodes if n.state is NodeState.OUT and n.node_id in seated]
        if out:
            found.append(
                f"SEATS LOST: {_names(out)} out of the cluster but still seated; rebuild by a plan"
            )
        idle = [
            node.node_id
            for node in self.nodes
            if node.state in (NodeState.JOINING, NodeState.UP)
            and node.weight
            and node.node_id not in seated
        ]
        if idle:
            found.append(f"NO SEATS: {_names(idle)} in the map without a seat until a plan")
        return tuple(found)

    def _cap_warnings(self, table: Table) -> list[str]:
        worst, broken = self._row_figures(table)
        found = []
        for level in LEVELS:
            # A rack (or host) that is its zone would only say the same thing twice.
            same = level != "zone" and self._domains(level) == self._domains("zone")
            if worst[level] > table.m and not same:
                found.append(
                    f"NOT {level.upper()}-SAFE: {table.profile}: losing one {level} can take "
                    f"{worst[level]} of {table.n} shards of a blob, only {table.m} may be lost; "
                    f"add {level}s, or nodes in the small ones"
                )
            elif level == "host" and table.caps.host > 1:
                found.append(
                    f"HOST CAP DEGRADED: {table.profile}: up to {worst[level]} shards of a blob "
                    f"on one host, 1 is wanted; add hosts"
                )
        if broken:
            found.append(
                f"CAPS BROKEN: {table.profile}: {broken} of {table.partitions} partitions have "
                "more seats in one zone, rack or host than their cap; repair by a plan"
            )
        return found

    def _domains(self, level: str) -> int:
        """Number of domains among live nodes; levels nest, so equal numbers mean equal domains."""
        return len(
            {node.domain(level) for node in self.nodes if node.state is not NodeState.REMOVED}
        )

    def _row_figures(self, table: Table) -> tuple[dict[str, int], int]:
        """Most seats in one domain at each level, and the rows that exceed a cap."""
        worst = dict.fromkeys(LEVELS, 0)
        over: set[int] = set()
        for level in LEVELS:
            label = {node.node_id: node.domain(level) for node in self.nodes}
            cap = table.caps.of(level)
            for partition, row in enumerate(table.node_rows):
                labels = [label[node_id] for node_id in row]
                most = max(map(labels.count, set(labels)))
                worst[level] = max(worst[level], most)
                if most > cap:
                    over.add(partition)
        return worst, len(over)


def encode_rows(rows: Sequence[Sequence[int]]) -> bytes:
    """Node ids by partition and seat as the bytes of ``Table.rows``."""
    return b"".join(struct.pack(f">{len(row)}H", *row) for row in rows)


def check_successor(old: ClusterMap | None, new: ClusterMap) -> None:
    """Check that ``new`` may replace ``old`` (None: that it may be the first map).

    A repeat of the map that is in force is a Conflict here; whoever commits maps
    compares digests first and treats it as done.

    Raises:
        Conflict: another epoch or another previous map than the one in force.
        Invalid: ``new`` is malformed, forgets or re-uses a node id, or moves
            seats without a plan.
    """
    new.check()
    require_next(old, new)
    if old is None:
        return
    check_nodes_kept(old, new)
    check_tables_kept(old, new)
    for before in old.tables:
        after = new.table(before.profile)
        # Seats that change hands without a source would leave blobs where no reader looks.
        if (after.bits, after.rows) != (before.bits, before.rows):
            raise Invalid(
                f"the rows of table {before.profile} differ from those in force without a plan "
                "that moves the shards",
                reason="unplanned-move",
            )


def require_next(old: ClusterMap | None, new: ClusterMap) -> None:
    """Check that ``new`` is for the epoch after ``old``, and was made from it.

    Raises:
        Conflict: it is not.
    """
    expected = 1 if old is None else old.epoch + 1
    if new.epoch != expected:
        raise Conflict(
            f"the next epoch is {expected}, this map is for epoch {new.epoch}: "
            "make it again from the map in force",
            reason="wrong-epoch",
        )
    if old is not None and new.previous != old.digest():
        raise Conflict(
            f"this map follows another map than the one of epoch {old.epoch}: "
            "make it again from the map in force",
            reason="wrong-previous",
        )


def check_nodes_kept(old: ClusterMap, new: ClusterMap) -> None:
    """Check that no node id is forgotten or used twice.

    Raises:
        Invalid: one is.
    """
    for before in old.nodes:
        after = new.node(before.node_id)
        if after is None:
            raise Invalid(
                f"node {before.node_id} is missing; a node that left stays in the map as "
                "removed, so that its id is never used twice",
                reason="node-forgotten",
            )
        if after.account != before.account:
            raise Invalid(
                f"node id {before.node_id} belonged to another account; ids are never used twice",
                reason="node-id-reused",
            )
        if before.state is NodeState.REMOVED and after.state is not NodeState.REMOVED:
            raise Invalid(
                f"node {before.node_id} was removed; add it again under a new id",
                reason="node-id-reused",
            )


def check_tables_kept(old: ClusterMap, new: ClusterMap) -> None:
    """Check that no profile is forgotten or changed.

    Raises:
        Invalid: one is.
    """
    tables = {table.profile: table for table in new.tables}
    for before in old.tables:
        after = tables.get(before.profile)
        if after is None:
            raise Invalid(
                f"the table of profile {before.profile} is missing; blobs may be stored by it",
                reason="table-forgotten",
            )
        if (after.k, after.m) != (before.k, before.m):
            raise Invalid(
                f"profile {before.profile} was {before.k}+{before.m}; a profile never changes: "
                "add one under a new name",
                reason="profile-changed",
            )


def _check_text(what: str, text: str, shortest: int, longest: int) -> None:
    # Visible ASCII only: no look-alikes, and the same verdict under every Unicode version.
    if not shortest <= len(text) <= longest or any(not "!" <= char <= "~" for char in text):
        raise Invalid(
            f"{what} must be {shortest} to {longest} visible ASCII characters without spaces",
            reason="bad-text",
        )


def _unique(what: str, values: Iterable[object], reason: str) -> None:
    listed = list(values)
    if len(set(listed)) != len(listed):
        raise Invalid(f"the map names one {what} twice", reason=reason)


def _names(node_ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, node_ids[:8])) + (", ..." if len(node_ids) > 8 else "")
    return f"node {shown} is" if len(node_ids) == 1 else f"nodes {shown} are"

"""The first table of a profile and the first map of a cluster.

All (partition, node) pairs are ranked by weighted rendezvous score and accepted
while row, quota and caps allow; ``hcefs.placement.chains`` fills the holes that
are left.  So each row is pseudo-random, each node has exactly its quota, and no
cap is broken.

Invariants: a pure function of its arguments; integers only (``math.log`` and
hash seeds differ between platforms), so every node that recomputes a table gets
the same bytes.  The order in which nodes are given does not matter.

Not guaranteed: few moves against another first table.  That is for plans, which
start from the rows in force.

Source: weighted rendezvous hashing (Schindelhauer and Schomaker, SPAA 2005):
the node with the least -log(u) / weight comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hcefs.errors import Invalid
from hcefs.placement.chains import HOLE, Rows, fill_hole
from hcefs.placement.cluster_map import (
    SEATS_MAX,
    Caps,
    ClusterMap,
    Node,
    Table,
    encode_rows,
)
from hcefs.placement.quotas import (
    default_caps,
    domains_of,
    members,
    partition_bits,
    quotas,
)
from hcefs.placement.scores import key_of, ranked_pairs, tie_of

PAIRS_MAX = 1 << 23
"""Most (partition, node) pairs that a first table ranks: memory and seconds."""


def first_map(
    nodes: Sequence[Node],
    profiles: Sequence[tuple[str, int, int]],
    seed: bytes,
    default_profile: str,
    nodes_expected: int = 0,
) -> ClusterMap:
    """The map of epoch 1 with a table for each (name, k, m).

    ``nodes_expected`` is the size to provide partitions for, at least the nodes
    given.

    Raises:
        Invalid: too few or too many nodes, or what ``ClusterMap.check`` refuses.
    """
    expected = max(nodes_expected, len(members(nodes)))
    for node in nodes:
        node.check()
    first = ClusterMap(
        epoch=1,
        previous=b"",
        seed=seed,
        default_profile=default_profile,
        nodes=tuple(sorted(nodes, key=lambda node: node.node_id)),
        tables=tuple(
            first_table(nodes, name, k, m, seed, nodes_expected=expected) for name, k, m in profiles
        ),
    )
    first.check()
    return first


def first_table(
    nodes: Sequence[Node],
    profile: str,
    k: int,
    m: int,
    seed: bytes,
    *,
    caps: Caps | None = None,
    nodes_expected: int = 0,
) -> Table:
    """The first table of a profile on the nodes that take seats.

    Without ``caps`` they are 1 a host and m a rack and a zone, or the least more
    that can hold (``default_caps``).

    Raises:
        Invalid: fewer than k + m nodes, caps that cannot hold, or more nodes
            than a first table ranks.
    """
    n = k + m
    if k < 1 or m < 1 or n > SEATS_MAX:
        raise Invalid(
            f"profile {profile}: k = {k}, m = {m}; both must be at least 1 "
            f"and their sum at most {SEATS_MAX}",
            reason="bad-profile",
        )
    least = default_caps(nodes, k, m)
    caps = caps if caps is not None else least
    caps.check(n)
    seated = members(nodes)
    bits = partition_bits(max(nodes_expected, len(seated)), n)
    if len(seated) << bits > PAIRS_MAX:
        raise Invalid(
            f"{len(seated)} nodes over {1 << bits} partitions are too many for a first table; "
            "begin with fewer nodes and add the others by plans",
            reason="too-many-nodes",
        )
    domains = domains_of(seated, caps)
    quota = quotas(
        [node.weight for node in seated],
        domains,
        1 << bits,
        n,
        [tie_of(seed, profile, node) for node in seated],
    )
    rows = Rows(len(seated), domains, 1 << bits, n)
    _accept_by_score(rows, quota, ranked_pairs(seated, bits, key_of(seed, profile)))
    for partition, row in enumerate(rows.rows):
        for seat in range(n):
            if row[seat] == HOLE:
                fill_hole(rows, partition, seat, quota)
    rows.check(quota)
    return Table(
        profile=profile,
        k=k,
        m=m,
        bits=bits,
        caps=caps,
        rows=encode_rows([[seated[position].node_id for position in row] for row in rows.rows]),
        target=b"",
        moving=(),
        wave=0,
        waves=0,
    )


def _accept_by_score(rows: Rows, quota: Sequence[int], ranked: Iterable[tuple[int, int]]) -> None:
    taken = [0] * len(rows.rows)
    left = rows.n * len(rows.rows)
    for partition, position in ranked:
        if (
            taken[partition] < rows.n
            and rows.loads[position] < quota[position]
            and rows.may_join(partition, position)
        ):
            rows.place(partition, taken[partition], position)
            taken[partition] += 1
            left -= 1
            if not left:
                return

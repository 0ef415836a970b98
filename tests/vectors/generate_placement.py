"""Makes the golden vectors of placement: digests, look-ups, quotas, tables, map bytes.

Run ``python -m tests.vectors.generate_placement`` only when a new version of a
format or of the planner is meant; a changed vector moves every blob of every
cluster that was set up before.
"""

from __future__ import annotations

import json
from hashlib import blake2b, sha256
from pathlib import Path

from hcefs.ids import AccountId
from hcefs.placement import planner, scores
from hcefs.placement.cluster_map import Node, NodeState
from hcefs.placement.quotas import default_caps, domains_of, members, quotas, shares
from hcefs.placement.ring import partition_of, rotation_of, seats

FROZEN = Path(__file__).with_name("placement.json")
SEED = bytes(range(32))
BASES = (
    bytes(16),
    bytes(range(16)),
    b"\xff" * 16,
    bytes.fromhex("00112233445566778899aabbccddeeff"),
)
CASES = (
    # name, nodes, zones, racks a zone, nodes a host, weights in turn, profile, k, m
    ("six-equal", 6, 3, 1, 1, (100,), "ec-4-2", 4, 2),
    ("six-one-zone", 6, 1, 1, 1, (100,), "ec-4-2", 4, 2),
    ("nine-weighted", 9, 3, 1, 1, (100, 150, 250), "ec-4-2", 4, 2),
    ("twelve-copies", 12, 4, 2, 1, (100, 120), "copy-3", 1, 2),
    ("twenty-racks", 20, 2, 5, 1, (7, 8, 9), "ec-8-3", 8, 3),
    ("thirty-hosts", 30, 5, 1, 2, (100,), "ec-10-4", 10, 4),
)


def _nodes(
    count: int, zones: int, racks: int, per_host: int, weights: tuple[int, ...]
) -> list[Node]:
    return [
        Node(
            node_id=number + 1,
            account=AccountId((number + 1).to_bytes(16, "big")),
            address=f"node-{number + 1}.example:7000",
            peer_address=f"node-{number + 1}.example:7001",
            zone=f"zone-{number // per_host % zones}",
            rack=f"rack-{number // per_host // zones % racks}",
            host=f"host-{number // per_host}",
            weight=weights[number % len(weights)],
            state=NodeState.UP,
        )
        for number in range(count)
    ]


def _look_up(base: bytes) -> dict[str, object]:
    return {
        "base": base.hex(),
        "digest": blake2b(base, digest_size=16).hexdigest(),
        "partition_of_8_bits": partition_of(base, 8),
        "partition_of_11_bits": partition_of(base, 11),
        "rotation_of_3": rotation_of(base, 3),
        "rotation_of_6": rotation_of(base, 6),
        "rotation_of_14": rotation_of(base, 14),
    }


def _case(
    name: str,
    count: int,
    zones: int,
    racks: int,
    per_host: int,
    weights: tuple[int, ...],
    profile: str,
    k: int,
    m: int,
) -> dict[str, object]:
    nodes = _nodes(count, zones, racks, per_host, weights)
    made = planner.first_map(nodes, [(profile, k, m)], SEED, profile)
    (table,) = made.tables
    seated = members(nodes)
    domains = domains_of(seated, default_caps(nodes, k, m))
    each = [node.weight for node in seated]
    fair = shares(each, domains, table.partitions, k + m)
    ties = [scores.tie_of(SEED, profile, node) for node in seated]
    return {
        "name": name,
        "bits": table.bits,
        "caps": {"zone": table.caps.zone, "rack": table.caps.rack, "host": table.caps.host},
        "quotas": quotas(each, domains, table.partitions, k + m, ties),
        "shares": [str(share) for share in fair],
        "first_rows": [list(row) for row in table.node_rows[:4]],
        "rows_sha256": sha256(table.rows).hexdigest(),
        "map_bytes": len(made.encode()),
        "map_digest": made.digest().hex(),
        "warnings": list(made.warnings()),
        "seats": [
            {
                "base": base.hex(),
                "nodes": [seat.node.node_id for seat in seats(made, profile, base)],
                "indexes": [seat.index for seat in seats(made, profile, base)],
            }
            for base in BASES
        ],
    }


def vectors() -> dict[str, object]:
    """The vectors, made anew."""
    logs = scores.log_table()
    draws = (1, 2, 3, 1 << 32, (1 << 63) - 1, 1 << 63, 0x123456789ABCDEF0, (1 << 64) - 1)
    smallest = planner.first_map(_nodes(3, 3, 1, 1, (100,)), [("copy-3", 1, 2)], SEED, "copy-3")
    return {
        "seed": SEED.hex(),
        "look_ups": [_look_up(base) for base in BASES],
        "minus_log2": [
            {"draw": f"{draw:016x}", "value": scores.minus_log2(draw, logs)} for draw in draws
        ],
        "cases": [_case(*case) for case in CASES],
        "map_of_three": smallest.encode().hex(),
    }


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(vectors(), indent=1) + "\n")

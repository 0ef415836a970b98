"""What the versions of all processes say about the next step of an upgrade.  Pure.

The order: nodes one by one, then the ledger, then its protocol (docs/operations/upgrade.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hcefs.cli.cluster_files import LEDGER
from hcefs.transport.versions import versions_in
from hcefs.versions import Versions
from hcefs.wire.v1 import admin_pb2


class Asked(Protocol):
    """One process that was asked for its status."""

    @property
    def name(self) -> str:
        """``ledger``, ``node-1``..."""

    @property
    def answer(self) -> admin_pb2.StatusResponse | None:
        """None when it gave none."""


def process_facts(process: Asked) -> dict[str, Any]:
    """What one process said, as JSON shows it."""
    answer = process.answer
    if answer is None:
        return {"version": None}
    said = versions_in(answer)
    return {
        "version": answer.version,
        "protocol_oldest": said.protocols.oldest,
        "protocol_newest": said.protocols.newest,
        "protocol": answer.protocol or None,
        "shard_oldest": said.shards.oldest,
        "shard_newest": said.shards.newest,
        "shard_version": answer.shard_version or None,
    }


def next_steps(found: Sequence[Asked], *, tell_silent: bool = True) -> list[str]:
    """What is to be done next; nothing when all run one release and follow its newest rules.

    ``tell_silent``: a process that gave no answer is a step of its own, the first one.
    """
    said = {each.name: versions_in(each.answer) for each in found if each.answer is not None}
    silent = [each.name for each in found if each.answer is None]
    steps = (
        [f"{', '.join(silent)} gave no answer: start or look at it first"]
        if silent and tell_silent
        else []
    )
    if not said:
        return steps
    newest = max(said.values(), key=_order)
    behind = [name for name, each in said.items() if _order(each) < _order(newest)]
    protocol = max((each.answer.protocol for each in found if each.answer is not None), default=0)
    rules = _rules(protocol, newest)
    if behind:
        nodes = [name for name in behind if name != LEDGER]
        now = nodes or behind
        versions = ", ".join(sorted({said[name].software for name in now}))
        verb = "runs" if len(now) == 1 else "run"
        then = "one at a time, each after `hcefs ok-to-stop`" if nodes else "now"
        steps.append(
            f"{', '.join(now)} still {verb} {versions}: restart with {newest.software}, {then}"
            f"{rules}"
        )
    elif not silent and protocol and protocol < newest.protocols.newest:
        steps.append(
            f"all run {newest.software}{rules}: `hcefs ledger upgrade --to "
            f"{newest.protocols.newest}`"
        )
    return steps


def _rules(protocol: int, newest: Versions) -> str:
    if not protocol or protocol >= newest.protocols.newest:
        return ""
    return f"; the ledger follows protocol {protocol} and can go to {newest.protocols.newest}"


def _order(versions: Versions) -> tuple[tuple[int, int], str]:
    return (versions.release or (-1, -1), versions.software)

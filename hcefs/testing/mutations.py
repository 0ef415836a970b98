"""Bugs planted on purpose, one at a time, to see whether the simulator catches each.

A mutation replaces one production function while seeds run.  ``python -m
hcefs.testing.mutations`` runs seeds until each was caught and prints which checker saw
it, under which seed and when.  A mutation that survives is a gap in the simulator.

Not here: bugs that need a real process, such as a missing ``fsync`` of RocksDB itself;
the crash matrix has those.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hcefs.access import rights
from hcefs.blobs import put
from hcefs.crypto import stream
from hcefs.errors import HcefsError
from hcefs.formats.shard import ShardFooter
from hcefs.ledger import follower, log
from hcefs.store import files, rows
from hcefs.stripes import adopt, holder, pack_read, read, write
from hcefs.stripes.transfers import whole
from hcefs.testing.simulator.simulation import PHASE_SECONDS, simulate
from hcefs.upkeep import collect, erase_rows, repair, retire
from hcefs.upkeep.worker import Progress

SEEDS_MAX = 12
MODULE = "hcefs.testing.mutations"


@dataclass(frozen=True)
class Mutation:
    """One bug: what it is, and how to plant it."""

    name: str
    what: str
    plant: Callable[[], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def swapped(*swaps: tuple[Any, str, Any]) -> Iterator[None]:
    """Replace attributes for a while."""
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in swaps]
    for owner, name, value in swaps:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


class _Without:
    """A disk that forgets one of its calls."""

    def __init__(self, disk: Any, call: str) -> None:
        self._disk = disk
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: None) if name == self._call else getattr(self._disk, name)


def _file_not_synced() -> contextlib.AbstractContextManager[None]:
    finish = files.FileShardWriter.finish

    def forgetful(self: Any, footer: Any) -> None:
        self._disk = _Without(self._disk, "sync")
        finish(self, footer)

    return swapped((files.FileShardWriter, "finish", forgetful))


def _folder_not_synced() -> contextlib.AbstractContextManager[None]:
    publish = files.FileShardStore.publish

    def forgetful(self: Any, *args: Any) -> None:
        disk, self.disk = self.disk, _Without(self.disk, "sync_folder")
        try:
            publish(self, *args)
        finally:
            self.disk = disk

    return swapped((files.FileShardStore, "publish", forgetful))


def _rows_not_synced() -> contextlib.AbstractContextManager[None]:
    begin = rows.RocksTables.__init__

    def forgetful(self: Any, *args: Any, **named: Any) -> None:
        begin(self, *args, **named)
        self._synced.sync = False

    return swapped((rows.RocksTables, "__init__", forgetful))


def _blocks_not_synced() -> contextlib.AbstractContextManager[None]:
    wrote = log.LedgerLog._write

    def forgetful(self: Any, batch: Any, *, sync: bool = True) -> None:
        wrote(self, batch, sync=False)

    return swapped((log.LedgerLog, "_write", forgetful))


def _acknowledged_at_k() -> contextlib.AbstractContextManager[None]:
    def needed(self: Any) -> int:
        return int(self._profile.k)

    return swapped((write.StripeWriter, "needed", property(needed)))


def _failed_holders_counted() -> contextlib.AbstractContextManager[None]:
    finish = write.StripeWriter.finish

    async def hopeful(self: Any, *args: Any, **named: Any) -> Any:
        stored = await finish(self, *args, **named)
        return replace(stored, durable=tuple(range(self._profile.n)))

    return swapped((write.StripeWriter, "finish", hopeful))


def _digests_unchecked() -> contextlib.AbstractContextManager[None]:
    return swapped((read, "damaged_indexes", lambda pieces: []))


def _payloads_unchecked() -> contextlib.AbstractContextManager[None]:
    def believed(row: Any, parts: Any) -> bytes:
        return b"".join(parts)

    return swapped((pack_read, "_checked", believed))


def _adopts_anything() -> contextlib.AbstractContextManager[None]:
    def footer(self: Any) -> Any:
        return ShardFooter.of(self._wanted.plaintext_length, b"".join(self._digests))

    return swapped((adopt.Copy, "_footer", footer))


def _retires_unasked() -> contextlib.AbstractContextManager[None]:
    async def retire_all(self: Any, place: Any, owner: Any, shards: Any) -> int:
        job = partial(retire.delete_shards, self._stores, self._pending, shards, self._forget)
        await whole(self._runtime, job)
        return 0

    return swapped(
        (retire.Retirer, "_retire", retire_all),
        (retire.Retirer, "_is_over", lambda self, sweep, key: True),
    )


def _collector_ignores_commit_by() -> contextlib.AbstractContextManager[None]:
    settle = collect.Collector._settle

    def pending(self: Any) -> bool:
        replica = self._replica

        class Late:
            time_ms = 1 << 62

            def __getattr__(self, name: str) -> Any:
                return getattr(replica, name)

        self._replica = Late()
        try:
            return pending_now(self)
        finally:
            self._replica = replica

    pending_now = collect.Collector._pending
    return swapped((collect.Collector, "_pending", pending), (collect.Collector, "_settle", settle))


def _collects_the_committed() -> contextlib.AbstractContextManager[None]:
    return swapped((collect.Collector, "_committed", lambda self, opening: False))


def _never_collects() -> contextlib.AbstractContextManager[None]:
    return swapped((collect.Collector, "_pending", lambda self: False))


def _lease_unchecked() -> contextlib.AbstractContextManager[None]:
    return swapped((follower.Follower, "require_fresh", lambda self: self._require_trusted()))


def _skew_unchecked() -> contextlib.AbstractContextManager[None]:
    fresh = follower.Follower.require_fresh

    def lenient(self: Any) -> None:
        try:
            fresh(self)
        except HcefsError as error:
            if error.reason != "clock-skew":
                raise

    return swapped((follower.Follower, "require_fresh", lenient))


def _revoked_permitted() -> contextlib.AbstractContextManager[None]:
    live = rights._check_live

    def forgetful(grant: Any, now_ms: int, prefix: str) -> None:
        live(replace(grant, revoked_height=0), now_ms, prefix)

    return swapped((rights, "_check_live", forgetful))


def _decisions_kept() -> contextlib.AbstractContextManager[None]:
    decide = rights.decide
    kept: dict[Any, Any] = {}

    def remembered(view: Any, request: Any, now_ms: int) -> Any:
        name = (request.grant, request.holder, request.action)
        if name not in kept:
            made = decide(view, request, now_ms)
            if not made.permitted:
                return made
            kept[name] = made
        return kept[name]

    return swapped((rights, "decide", remembered))


def _keys_reused() -> contextlib.AbstractContextManager[None]:
    begin = put.PutSession.__init__

    def forgetful(self: Any, *args: Any, **named: Any) -> None:
        begin(self, *args, **named)
        self._dek = self._dek and b"k" * 32

    return swapped((put.PutSession, "__init__", forgetful))


def _no_repair() -> contextlib.AbstractContextManager[None]:
    async def idle(self: Any) -> Any:
        return Progress.IDLE

    return swapped((repair.Repairer, "work", idle))


def _shards_after_rows() -> contextlib.AbstractContextManager[None]:
    finish = holder.Holder._finish

    def eager(self: Any, start: Any, writer: Any, received: int, kept: Any) -> bool:
        real = writer.finish
        never: Any = _NeverFinishes(writer)
        lists = bool(finish(self, start, never, received, kept))
        # The answer goes out; the shard is finished a little later, if anything comes of it.
        self._runtime.spawn(_later(self._runtime, real), name="late-shard")
        return lists

    return swapped((holder.Holder, "_finish", eager))


class _NeverFinishes:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def finish(self, footer: Any) -> None:
        """Not now."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


async def _later(runtime: Any, finish: Callable[..., None]) -> None:
    await runtime.sleep(1.0)
    del finish


def _sealed_in_the_clear() -> contextlib.AbstractContextManager[None]:
    class Clear:
        def __init__(self, key: bytes) -> None:
            """Of no use."""

        def encrypt(self, nonce: bytes, data: Any, aad: Any) -> bytes:
            return bytes(data) + bytes(16)

        def encrypt_into(self, nonce: bytes, data: Any, aad: Any, out: Any) -> int:
            out[: len(data) + 16] = self.encrypt(nonce, data, aad)
            return len(data) + 16

        def decrypt(self, nonce: bytes, data: Any, aad: Any) -> bytes:
            return bytes(data)[:-16]

        def decrypt_into(self, nonce: bytes, data: Any, aad: Any, out: Any) -> int:
            out[: len(data) - 16] = bytes(data)[:-16]
            return len(data) - 16

    return swapped((stream, "AESGCM", Clear))


def _wrapped_keys_stay() -> contextlib.AbstractContextManager[None]:
    def none(*_: Any) -> Iterator[list[erase_rows.FoundKey]]:
        return iter(())

    return swapped((erase_rows, "_packed_key_rows", none))


MUTATIONS = (
    Mutation("file-not-synced", "a shard is visible before its file is synchronised",
             _file_not_synced),
    Mutation("folder-not-synced", "a shard is acknowledged before its name is synchronised",
             _folder_not_synced),
    Mutation("rows-not-synced", "rows are acknowledged before their log is synchronised",
             _rows_not_synced),
    Mutation("blocks-not-synced", "blocks are acknowledged before their log is synchronised",
             _blocks_not_synced),
    Mutation("shard-after-answer", "a holder answers, and finishes its shard later, or never",
             _shards_after_rows),
    Mutation("acknowledged-at-k", "k durable shards are enough for an acknowledgement",
             _acknowledged_at_k),
    Mutation("failed-holders-counted", "the receipt counts holders that failed",
             _failed_holders_counted),
    Mutation("digests-unchecked", "readers do not compare pieces with their digests",
             _digests_unchecked),
    Mutation("payloads-unchecked", "readers do not compare packed payloads with their digests",
             _payloads_unchecked),
    Mutation("adopts-anything", "a copied shard is kept without a look at the layout's digest",
             _adopts_anything),
    Mutation("retires-unasked", "a former holder deletes before the new one has its copy",
             _retires_unasked),
    Mutation("collector-ignores-commit-by", "what waits for its append is collected at once",
             _collector_ignores_commit_by),
    Mutation("collects-the-committed", "the collector does not ask the ledger",
             _collects_the_committed),
    Mutation("never-collects", "what was never committed stays for ever", _never_collects),
    Mutation("lease-unchecked", "a node serves however old its view of the ledger is",
             _lease_unchecked),
    Mutation("skew-unchecked", "a node whose clock is behind believes its old lease",
             _skew_unchecked),
    Mutation("revoked-permitted", "revocation is not looked at", _revoked_permitted),
    Mutation("decisions-kept", "what was permitted once is permitted for ever", _decisions_kept),
    Mutation("keys-reused", "every put through a node has the same data key", _keys_reused),
    Mutation("wrapped-keys-stay", "an erasure does not look for the keys of packed payloads",
             _wrapped_keys_stay),
    Mutation("no-repair", "nobody rebuilds what is missing", _no_repair),
    Mutation("sealed-in-the-clear", "segments are stored as they came", _sealed_in_the_clear),
)  # fmt: skip


def named(name: str) -> Mutation:
    """One of :data:`MUTATIONS`."""
    return next(mutation for mutation in MUTATIONS if mutation.name == name)


def hunt(mutation: Mutation, seeds: int, phase: float) -> tuple[int, float, str, str] | None:
    """Run seeds until the mutation is caught: (seed, virtual seconds, checker, what it said)."""
    for seed in range(1, seeds + 1):
        report = simulate(seed, phase, mutation.plant)
        if report.violation is not None:
            violation = report.violation
            return seed, report.seconds, violation.checker, violation.text
    return None


def main() -> int:
    """Print the table; the exit code is 1 when a mutation survives."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = dict(os.environ, PYTHONHASHSEED="0")
        os.execve(sys.executable, [sys.executable, "-m", MODULE, *sys.argv[1:]], environment)  # noqa: S606 - itself
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("names", nargs="*", help="only these mutations")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX)
    parser.add_argument("--phase", type=float, default=PHASE_SECONDS)
    wanted = parser.parse_args()
    logging.disable(logging.CRITICAL)
    chosen = [named(name) for name in wanted.names] or list(MUTATIONS)
    survived = 0
    print("mutation | caught by | seed | virtual time | what it said")
    for mutation in chosen:
        found = hunt(mutation, wanted.seeds, wanted.phase)
        if found is None:
            survived += 1
            print(f"{mutation.name} | SURVIVED {wanted.seeds} seeds | | |", flush=True)
            continue
        seed, seconds, checker, text = found
        print(f"{mutation.name} | {checker} | {seed} | {seconds:.1f} s | {text[:90]}", flush=True)
    print(f"{len(chosen)} mutations, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

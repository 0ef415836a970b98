"""Bugs planted on purpose, each with the crash that shows it.

None of them changes what a process does that is not killed: each gets an order wrong, so that
only a death between two steps tells.  A mutation rewrites the text of one function in the
process that is to be killed, and in the one that starts again; text that is not there any
more is an error, so that the table follows the code.
"""

from __future__ import annotations

import inspect
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hcefs.crashpoints import CrashPoint
from hcefs.ledger.feed import Feed
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.writer import LedgerWriter
from hcefs.store import keys as keys_module
from hcefs.store import recovery
from hcefs.store.files import FileShardStore, FileShardWriter
from hcefs.store.keys import RocksKeyStore
from hcefs.stripes import placed
from hcefs.stripes.adopt import Adopter
from hcefs.stripes.holder import Holder
from hcefs.stripes.pack_holder import PackHolder
from hcefs.stripes.relayout import LayoutTaker
from hcefs.upkeep.collect import Collector
from hcefs.upkeep.quarantine import Quarantine
from hcefs.upkeep.rebalance import Rebalancer
from hcefs.upkeep.replaced import ReplacedSweeper
from hcefs.upkeep.retire import delete_shards
from hcefs.upkeep.set_aside import SettingAside
from hcefs.upkeep.stand_in import StandInKeeper

P = CrashPoint


@dataclass(frozen=True)
class Mutation:
    """One bug, the scenario and the crash that show it, and what is then found."""

    bug: str
    scenario: str
    point: CrashPoint
    hit: int
    found: str
    apply: Callable[[], None]


def patch(target: Any, name: str, value: Any) -> None:
    """Put another function in the place of one."""
    setattr(target, name, value)


def rewrite(function: Any, *changes: tuple[str, str]) -> Callable[[], None]:
    """Replace text in a function, for all who have it."""

    def apply() -> None:
        source = textwrap.dedent(inspect.getsource(function))
        for old, new in changes:
            if source.count(old) != 1:
                raise AssertionError(f"{function.__qualname__} has not, or not once: {old!r}")
            source = source.replace(old, new)
        made: dict[str, Any] = {}
        exec(compile(source, "mutation", "exec"), function.__globals__, made)  # noqa: S102
        function.__code__ = made[function.__name__].__code__

    return apply


def move(function: Any, line: str, before: str) -> Callable[[], None]:
    """Have a function carry out one line of it before another one."""
    return rewrite(function, (line, "pass"), (before, f"{line}; {before}"))


def _acknowledge_late() -> None:
    """Each shard is published when the next one is finished."""
    finish, lock = FileShardWriter.finish, threading.Lock()
    late: list[tuple[FileShardWriter, Any]] = []

    def deferred(writer: FileShardWriter, footer: Any) -> None:
        with lock:
            due, late[:] = late[:], [(writer, footer)]
        for earlier, its in due:
            finish(earlier, its)

    abort = FileShardWriter.abort

    def spared(writer: FileShardWriter) -> None:
        if all(writer is not waiting for waiting, _ in late):
            abort(writer)

    patch(FileShardWriter, "finish", deferred)
    patch(FileShardWriter, "abort", spared)


def _forget_unfinished() -> None:
    """Opening does not complete the deletion that a stop has interrupted."""
    erase = RocksKeyStore._erase

    def only_new(store: RocksKeyStore, ranges: Any) -> None:
        if ranges:
            erase(store, ranges)

    patch(RocksKeyStore, "_erase", only_new)
    patch(keys_module, "_data_files", lambda _: set())


def _acknowledge_alone() -> None:
    """A transaction is acknowledged when the writer has it; followers take a while."""
    take = Feed.take

    async def at_once(_: LedgerWriter, __: int) -> None:
        return

    def later(feed: Feed, blocks: Any) -> Any:
        threading.Event().wait(0.3)
        return take(feed, blocks)

    patch(LedgerWriter, "_wait_replicated", at_once)
    patch(Feed, "take", later)


def _marked_when_empty() -> None:
    """The mark of a lost database is written when the empty one is open."""
    rewrite(recovery._set_aside, ("restoring.add(folder.name)", "pass"))()
    rewrite(
        recovery.opened_or_set_aside,
        (
            "crash_point(CrashPoint.RESTORING_EMPTY)",
            "crash_point(CrashPoint.RESTORING_EMPTY); restoring.add(name)",
        ),
    )()


KEEP = "self._stores.rows.put(kept)"
KEY = "self._stores.keys.put_new(KeyTable.KEY_ROWS, bytes(blob), rows.key_row)"
FINISH = "writer.finish(checked.footer)"
NOT_THERE = "is named and is not there"

MUTATIONS: dict[str, Mutation] = {
    "blob-rows-before-shard": Mutation(
        "a holder writes the rows of a blob before its shard", "puts", P.SHARD_SYNCED, 1,
        NOT_THERE, move(Holder._finish, KEEP, FINISH),
    ),
    "blob-rows-before-key": Mutation(
        "a holder shows a blob before it has the key row", "puts", P.BLOB_KEY_ROW, 1,
        "no key row",
        rewrite(
            Holder._finish,
            (KEY, "pass"),
            ("crash_point(CrashPoint.BLOB_KEY_ROW)", "pass"),
            (KEEP, f"{KEEP}; crash_point(CrashPoint.BLOB_KEY_ROW); {KEY}"),
        ),
    ),
    "shard-before-pending": Mutation(
        "nothing leads the collector to a shard whose put stops", "puts", P.BLOB_SHARD, 1,
        "is left",
        rewrite(
            Holder._finish,
            ("self.pending.add(waiting, checked.core.commit_by_ms)", "pass"),
            ("crash_point(CrashPoint.BLOB_SHARD)",
             "crash_point(CrashPoint.BLOB_SHARD); "
             "self.pending.add(waiting, checked.core.commit_by_ms)"),
        ),
    ),
    "name-before-bytes": Mutation(
        "a shard has its name before its last bytes", "puts", P.SHARD_LINKED, 1, "index",
        move(
            FileShardWriter.finish,
            "self._store.publish(self._name, self._temporary, self._written)",
            "self._flush_last()",
        ),
    ),
    "incoming-is-kept": Mutation(
        "opening leaves unfinished shards where they are", "puts", P.SHARD_DATA_WRITTEN, 1,
        "is left in incoming",
        rewrite(
            FileShardStore._recover, ("self.disk.unlink(self._incoming / name)", "pass"),
        ),
    ),
    "acknowledged-before-published": Mutation(
        "a holder acknowledges before its shard has its name", "puts", P.SHARD_BEGUN, 4,
        "acknowledged", _acknowledge_late,
    ),
    "pack-rows-before-shard": Mutation(
        "a holder writes the rows of a pack before its shard", "packs", P.SHARD_SYNCED, 1,
        NOT_THERE,
        rewrite(
            PackHolder._store,
            (FINISH,
             "named = shard_row(shard.base, shard.index, checked.shape.profile.name); "
             f"self._stores.rows.put([*_rows(shard), named, *_index_rows(listed)]); {FINISH}"),
        ),
    ),
    "box-before-record": Mutation(
        "a box is kept before its record is named", "boxes", P.BOX_RECORD, 1,
        "its record is not named",
        rewrite(
            Holder._keep_key,
            ("named = record_row(call.record)",
             "named = record_row(call.record); self._stores.keys.put_new(table, key, value); "
             "crash_point(CrashPoint.BOX_RECORD)"),
        ),
    ),
    "erasure-not-completed": Mutation(
        "opening does not complete an interrupted erasure", "erase", P.ERASE_TOMBSTONES, 1,
        "an erased value is in", _forget_unfinished,
    ),
    "erased-by-tombstone": Mutation(
        "an erasure is acknowledged at its tombstones, and carried out with the next",
        "erase", P.ERASE_TOMBSTONES, 2, "an erased value is in",
        rewrite(
            RocksKeyStore.delete,
            ("self._erase(_ranges(present))",
             "self._late, due = present, getattr(self, '_late', []); "
             "due and self._erase(_ranges(due))"),
        ),
    ),
    "collect-shard-first": Mutation(
        "the collector removes a shard before its rows", "collect", P.SHARD_UNLINKED, 1,
        NOT_THERE,
        rewrite(
            Collector._carry_out,
            ("if unit.rows:", "[self._stores.shards.remove(*each) for each in unit.shards]\n"
                              "    if unit.rows:"),
        ),
    ),
    "collect-settled-first": Mutation(
        "the collector settles before it has deleted", "collect", P.COLLECT_ROWS, 1,
        "is left",
        rewrite(
            Collector._carry_out,
            ("if unit.rows:", "self._stores.rows.delete(unit.settled)\n    if unit.rows:"),
        ),
    ),
    "adopt-rows-before-shard": Mutation(
        "a shard that moves in is named before it is there", "fill", P.SHARD_SYNCED, 1,
        NOT_THERE,
        move(
            Adopter.publish, "self._keep(wanted, index, fitting)", "writer.finish(footer)"
        ),
    ),
    "reported-before-filled": Mutation(
        "a seat is reported as arrived before it is filled", "fill", P.ADOPT_SHARD, 1,
        "the new holder has not its shard",
        rewrite(
            Rebalancer.work,
            ("filled: list[SeatName] = []",
             "filled: list[SeatName] = []; await self._report(SeatsArrived(current.epoch, "
             "tuple(ArrivedSeat.of(name) for name in sorted(chosen))))"),
        ),
    ),
    "retire-shard-first": Mutation(
        "a shard that has moved away goes before its rows", "retire", P.SHARD_UNLINKED, 1,
        NOT_THERE,
        rewrite(
            delete_shards,
            ("        if rows:\n", "        [stores.shards.remove(shard.base, shard.index, "
                                   "shard.form) for shard in shards]\n        if rows:\n"),
        ),
    ),
    "retire-name-first": Mutation(
        "the name of a shard that has moved away goes first", "retire", P.RETIRE_ROWS, 1,
        "still has",
        rewrite(
            delete_shards,
            ("        if rows:\n",
             "        stores.rows.delete(names)\n        if rows:\n"),
        ),
    ),
    "entered-without-mark": Mutation(
        "a layout enters in one write and its mark in another", "reprofile", P.ENTER_LAYOUT, 1,
        "is still there",
        rewrite(
            LayoutTaker._enter,
            ("entered.append((Table.META, REPLACED + base, b\"\"))", "pass"),
            ("crash_point(CrashPoint.ENTER_LAYOUT)",
             "any(each.form != wanted.form for each in here) and "
             "crash_point(CrashPoint.ENTER_LAYOUT)"),
            ("self._changed(wanted.base)",
             "self._changed(wanted.base); rows.put([(Table.META, REPLACED + base, b\"\")])"),
        ),
    ),
    "replaced-mark-first": Mutation(
        "a base loses its mark before its old shards", "reprofile", P.REPLACED_NAMES, 1,
        "the files",
        rewrite(
            ReplacedSweeper._delete,
            ("stores.rows.delete(rows)",
             "stores.rows.delete([(Table.META, REPLACED + bytes(base)), *rows])"),
        ),
    ),
    "migration-marked-first": Mutation(
        "an old store counts as migrated before it is", "migrate", P.MIGRATE_PAGE, 1,
        "not everything is named",
        rewrite(
            placed.ensure_placed,
            ("named = 0", "named = 0; stores.rows.put([(Table.META, _MADE, b\"\")])"),
        ),
    ),
    "stand-in-unmarked-first": Mutation(
        "what stood in loses its mark before it is deleted", "stand-ins", P.RETIRE_ROWS, 1,
        "left elsewhere",
        rewrite(
            StandInKeeper._offer,
            ("await self._unmark([each for each, _ in gone])", "pass"),
            ("await whole(self._runtime, job)",
             "await self._unmark([each for each, _ in gone]); await whole(self._runtime, job)"),
        ),
    ),
    "set-aside-before-note": Mutation(
        "a shard is set aside before its note", "mend", P.QUARANTINE_UNLINKED, 1, "unexplained",
        rewrite(
            SettingAside._move,
            ("self._log.set_aside(note)", "pass"),
            ("self.forget(shard.base)", "self._log.set_aside(note); self.forget(shard.base)"),
        ),
    ),
    "discarded-before-forgotten": Mutation(
        "a file leaves quarantine before its note", "mend", P.QUARANTINE_DISCARDED, 1,
        "a note of a file that is gone is left",
        rewrite(
            Quarantine._delete,
            ("    same = (", "    self._stores.shards.discard(each.shard.name); "
                             "crash_point(CrashPoint.QUARANTINE_DISCARDED)\n    same = ("),
        ),
    ),
    "marked-when-empty": Mutation(
        "the mark of a lost database comes after the empty one", "restore", P.RESTORING_EMPTY, 1,
        "an empty database is taken for a whole one", _marked_when_empty,
    ),
    "term-in-two-writes": Mutation(
        "a term begins in one write and ends the old head in another", "term", P.TERM_BEGUN, 1,
        "is still there",
        rewrite(
            LedgerLog.begin_term,
            ("batch.delete(HEAD_ROW)", "pass"),
            ("crash_point(CrashPoint.TERM_BEGUN)",
             "crash_point(CrashPoint.TERM_BEGUN); batch = self._new_batch(); "
             "batch.delete(HEAD_ROW); self._write(batch)"),
        ),
    ),
    "block-in-two-writes": Mutation(
        "a block is written as two batches, the tip first", "ledger", P.BLOCK_WRITTEN, 1,
        "",
        rewrite(
            LedgerLog._append,
            ("self._write(_fill(self._new_batch(), draft))",
             "from hcefs.crashpoints import CrashPoint, crash_point; rest = dict(draft.rows); "
             "draft.rows = {TIP_ROW: rest.pop(TIP_ROW)}; "
             "self._write(_fill(self._new_batch(), draft)); "
             "crash_point(CrashPoint.BLOCK_WRITTEN); draft.rows = rest; "
             "self._write(_fill(self._new_batch(), draft))"),
        ),
    ),
    "acknowledged-by-the-writer-alone": Mutation(
        "a transaction is acknowledged before two followers have its block", "ledger",
        P.FOLLOWED_VERIFIED, 1, "is only at", _acknowledge_alone,
    ),
}  # fmt: skip

"""The work of ``restore --ledger``: from a backup to a ledger of a new term.

It takes the place of :func:`hcefs.cli.recovery.propose` where no replica is left; what comes
after, signing and installing, is the same.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.new_node import generate_keys
from hcefs.cli.recovery import (
    Proposal,
    new_data,
    new_key,
    replicas_of,
    require_unused,
)
from hcefs.client.backup_check import Found, checked, replayed
from hcefs.client.backup_file import BackupReader, opened
from hcefs.config import load_ledger_config
from hcefs.crypto.accounts import AccountKeys, load_account
from hcefs.errors import Conflict, HcefsError
from hcefs.ids import AccountId
from hcefs.ledger.highest import ask_all
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.recovery import make_statement, plan_recovery, survey
from hcefs.runtime import Runtime


async def propose_from_backup(
    layout: ClusterFolder, file: Path, keys: AccountKeys, runtime: Runtime, *, forced: bool
) -> Proposal:
    """Replay the ledger of a backup beside what is there, and judge whether a term may begin.

    Raises:
        Conflict: ``not-empty``: a ledger's log is here; ``older-backup``: a node holds more
            than the backup; ``too-few-followers``: an acknowledged block may be on nodes that
            do not answer, and the loss is not accepted.
        Corrupt: the backup is not whole, or does not verify.
    """
    _require_lost(layout)
    layout.ledger.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".restored-", dir=layout.ledger))
    try:
        with opened(file) as source:
            entries = checked(BackupReader(source, keys), found := Found())
            log = await replayed(scratch / "log", entries, found, runtime)
        try:
            proposal = await _proposed(layout, log, runtime, forced=forced)
        finally:
            await runtime.disk(log.close)
        # What is left of an attempt that did not end; nothing names it yet.
        shutil.rmtree(proposal.data, ignore_errors=True)
        (scratch / "log").rename(proposal.data)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return proposal


def _require_lost(layout: ClusterFolder) -> None:
    try:
        data = load_ledger_config(layout.ledger / "config.toml").data
    except HcefsError:
        return
    if data.is_dir() and any(data.iterdir()):
        raise Conflict(
            f"{data} is not empty: a ledger that is there is not replaced by an older one; start "
            "it, or move it away if it is lost indeed",
            reason="not-empty",
        )


async def _proposed(
    layout: ClusterFolder, log: LedgerLog, runtime: Runtime, *, forced: bool
) -> Proposal:
    async with replicas_of(layout, runtime) as replicas:
        current = log.cluster_map()
        addresses = [*layout.load_connection().nodes]
        addresses += [node.address for node in current.nodes] if current is not None else []
        answers = await ask_all(replicas, dict.fromkeys(addresses), runtime)
        for address, answer in answers.items():
            if (len(answer.terms), answer.height) > (len(log.terms.changes), log.height):
                raise Conflict(
                    f"{address} holds block {answer.height}, and this backup ends at block "
                    f"{log.height}: recover from the nodes (`hcefs ledger recover`)",
                    reason="older-backup",
                )
        found = await survey(log, replicas, runtime)
    plan = plan_recovery(log, found, forced=forced)
    term = log.terms.term + 1
    data = new_data(layout, term)
    require_unused(layout, data)
    key_file = new_key(layout, term)
    if not key_file.exists():
        generate_keys(log.genesis.cluster, runtime).save(key_file)
    writer = load_account(key_file).signing_key.public_key
    statement = make_statement(log, plan, writer, runtime.now_ms())
    return Proposal(data, AccountId.zero(), found, plan, statement)

"""The work of ``hcefs ledger recover``: from the nodes' replicas to a ledger of a new term.

Everything is made beside what is there, and one replaced file, the ledger's
configuration, puts it in force: before that nothing has changed, and after it the old log
and key are still where they were.  A recovery that was interrupted is begun again.
Source: docs/decisions/0024-terms-and-recovery.md.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hcefs.cli.cluster_files import ClusterFolder, node_name
from hcefs.cli.new_node import generate_keys, tls_of, write_certificate
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.client.authorize import Authorizer
from hcefs.client.replicas import GrpcReplicas, operator_asker
from hcefs.config import (
    LedgerConfig,
    load_ledger_config,
    load_node_config,
    render_ledger_config,
)
from hcefs.crypto.accounts import load_account
from hcefs.durable_files import replace_file
from hcefs.errors import Conflict, HcefsError, NotFound, Unavailable
from hcefs.ids import AccountId
from hcefs.ledger.highest import Report, ask_all, copy_highest
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.recovery import (
    RecoveryPlan,
    Survey,
    make_statement,
    plan_recovery,
    survey,
    take_term,
)
from hcefs.ledger.snapshot_join import join
from hcefs.ledger.terms import SignedTermChange
from hcefs.runtime import Runtime
from hcefs.transport.dial import AuthorityDialer
from hcefs.transport.replica_calls import ReplicaCalls

ROUNDS = 3
"""The highest replica is looked for anew when the map names nodes that nobody knew of."""


@dataclass(frozen=True)
class Proposal:
    """What a recovery would do: the copied log, who answered, and the statement to sign."""

    data: Path
    source: AccountId
    found: Survey
    plan: RecoveryPlan
    statement: SignedTermChange


@asynccontextmanager
async def replicas_of(layout: ClusterFolder, runtime: Runtime) -> AsyncIterator[GrpcReplicas]:
    """The replicas of the cluster's nodes, asked as an operator of this folder.

    Raises:
        NotFound: no operator's keys are here.
    """
    names = layout.operator_names()
    if not names:
        raise NotFound(
            f"no operator's keys are in {layout.accounts}: the nodes answer operators only",
            reason="unknown-account",
        )
    connection = layout.load_connection()
    authorizer = Authorizer(connection.cluster, layout.load_keys(names[0]), runtime)
    calls = ReplicaCalls(runtime, AuthorityDialer(connection.authority))
    try:
        yield GrpcReplicas(calls, operator_asker(authorizer))
    finally:
        await calls.close()


def new_data(layout: ClusterFolder, term: int) -> Path:
    """Where the log of a new term is made."""
    return layout.ledger / f"data-term-{term}"


def require_unused(layout: ClusterFolder, data: Path) -> None:
    """Refuse to make a term again that the ledger's configuration has already turned to.

    Raises:
        Conflict: ``already-recovered``.
    """
    config = layout.ledger / "config.toml"
    if config.exists() and load_ledger_config(config).data.resolve() == data.resolve():
        raise Conflict(
            f"a recovery was finished here already, and {config} names its log: start the ledger; "
            "no second statement of the same term is made",
            reason="already-recovered",
        )


def new_key(layout: ClusterFolder, term: int) -> Path:
    """Where the key of a new term's writer is made."""
    return layout.ledger / f"writer-term-{term}.key"


async def propose(
    layout: ClusterFolder,
    replicas: GrpcReplicas,
    addresses: list[str],
    runtime: Runtime,
    *,
    wanted: str = "",
    forced: bool = False,
    report: Report,
) -> Proposal:
    """Copy the highest replica, verify all of it, and judge whether a term may begin there.

    ``wanted`` is the address of the replica to copy; by default the highest of the newest
    term is.

    Raises:
        Unavailable: ``no-replica``: no node answers.
        Conflict: why no term may begin; see :func:`plan_recovery`.
        Corrupt: the replica does not verify.
    """
    genesis = layout.load_genesis()
    report(f"asking {len(addresses)} nodes what they hold")
    answers = await ask_all(replicas, addresses, runtime)
    healthy = {at: each for at, each in answers.items() if not each.superseded}
    if wanted:
        healthy = {at: each for at, each in healthy.items() if at == wanted}
    if not healthy:
        raise Unavailable(
            "no node answers with a replica that counts: start the nodes, or name their client "
            "addresses with --node",
            reason="no-replica",
        )
    term = max(len(each.terms) for each in healthy.values()) + 2
    data = new_data(layout, term)
    layout.ledger.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_unused(layout, data)
    # What is left of an attempt that did not end; nothing names it yet.
    shutil.rmtree(data, ignore_errors=True)
    log = await runtime.disk(LedgerLog.open, data, genesis)
    try:
        source = AccountId.zero()
        for _ in range(ROUNDS):
            copied = await copy_highest(log, replicas, healthy, runtime, report)
            source = copied.source or source
            if copied.beyond:
                # Nobody who answers has the blocks before its snapshot.
                best, answer = copied.beyond, healthy[copied.beyond]
                log = await _begin_with_snapshot(
                    log, replicas, answer.account, best, runtime, report
                )
                copied = await copy_highest(log, replicas, {best: answer}, runtime, report)
                source = answer.account
            found = await survey(log, replicas, runtime)
            higher = [each for each in found.answers.values() if each.height > log.height]
            if wanted or not higher:
                break
            current = log.cluster_map()
            nodes = current.nodes if current is not None else ()
            known = {node.account: node.address for node in nodes}
            healthy = {known[each.account]: each for each in higher if not each.superseded}
            if not healthy:
                break
        plan = plan_recovery(log, found, forced=forced)
        key_file = new_key(layout, term)
        if not key_file.exists():
            generate_keys(genesis.cluster, runtime).save(key_file)
        writer = load_account(key_file).signing_key.public_key
        statement = make_statement(log, plan, writer, runtime.now_ms())
    finally:
        await runtime.disk(log.close)
    return Proposal(data, source, found, plan, statement)


async def _begin_with_snapshot(
    log: LedgerLog,
    replicas: GrpcReplicas,
    account: AccountId,
    address: str,
    runtime: Runtime,
    report: Report,
) -> LedgerLog:
    """Put the snapshot of a replica that has no older blocks in the place of an empty log.

    Raises:
        NotFound: ``no-snapshot``: it offers none.
        HcefsError: it does not verify, or cannot be fetched.
    """
    data, genesis = log.path, log.genesis
    report(f"{address} began with a snapshot: copying that, and the blocks after it")
    await runtime.disk(log.close)
    shutil.rmtree(data)
    try:
        height = await join(data, genesis, replicas.snapshot(account, address, runtime), runtime)
        if not height:
            raise NotFound(
                f"{address} began with a snapshot and offers none that a header names: name "
                "another replica with --from",
                reason="no-snapshot",
            )
    except HcefsError:
        report(f"the snapshot of {address} cannot be used")
        raise
    return await runtime.disk(LedgerLog.open, data, genesis)


def sign_here(layout: ClusterFolder, statement: SignedTermChange) -> SignedTermChange:
    """The statement with the signatures of every operator whose keys are in this folder."""
    for name in layout.operator_names():
        keys = layout.load_keys(name)
        statement = statement.signed(keys.account, keys.key_version, keys.signing_key)
    return statement


async def install(layout: ClusterFolder, signed: SignedTermChange, runtime: Runtime) -> Path:
    """Begin the term on the copied log and put it in force; the ledger's new configuration.

    Raises:
        NotFound: ``no-recovery``: nothing was copied here for this statement.
        HcefsError: the statement is not the operators', or of another log or key.
    """
    genesis = layout.load_genesis()
    change = signed.change
    data, key_file = new_data(layout, change.term), new_key(layout, change.term)
    if not data.is_dir() or not key_file.is_file():
        raise NotFound(
            f"no log was copied here for term {change.term}: run `hcefs ledger recover "
            "--prepare FILE` on this machine first",
            reason="no-recovery",
        )
    if load_account(key_file).signing_key.public_key != change.writer_key:
        raise Conflict(
            f"the statement names another writer's key than {key_file}: prepare it again",
            reason="other-statement",
        )
    log = await runtime.disk(LedgerLog.open, data, genesis)
    try:
        await runtime.disk(take_term, log, signed.encode())
    finally:
        await runtime.disk(log.close)
    if not (layout.ledger / "tls.key").exists():
        write_certificate(layout, layout.ledger, "ledger", runtime)
    path = layout.ledger / "config.toml"
    config = _config(layout, data, key_file, runtime)
    text = render_ledger_config(config, relative_to=layout.ledger)
    # The one step that puts the new log in force.
    replace_file(path, text.encode())
    return path


def _config(layout: ClusterFolder, data: Path, key_file: Path, runtime: Runtime) -> LedgerConfig:
    """As it was but for log and key; where it is lost too, what the nodes are told of it."""
    folder = layout.ledger
    try:
        old = load_ledger_config(folder / "config.toml")
        addresses = (old.client_address, old.peer_address, old.metrics_address)
    except HcefsError:
        first = layout.node_numbers()[:1]
        if not first:
            raise NotFound(
                f"{folder / 'config.toml'} is lost and no node's configuration is here to tell "
                "the ledger's peer address: write one",
                reason="no-config",
            ) from None
        peer = load_node_config(layout.config_of(node_name(first[0]))).ledger_address
        with reserved_ports(1, runtime.random) as ports:
            addresses = (layout.load_connection().ledger, peer, f"{HOST}:{ports[0]}")
    return LedgerConfig(
        data=data,
        genesis=folder / ".." / layout.genesis_file.name,
        writer_key=key_file,
        client_address=addresses[0],
        peer_address=addresses[1],
        metrics_address=addresses[2],
        tls=tls_of(folder, ".."),
    )


async def announce(
    replicas: GrpcReplicas, addresses: list[str], signed: SignedTermChange
) -> dict[str, str]:
    """Bring every node the statement; what each is doing then, or why it has not taken it."""

    async def tell(address: str) -> str:
        try:
            term, status = await replicas.begin_term(address, signed.encode())
        except HcefsError as error:
            return error.message
        return f"term {term}, {status}"

    words = await asyncio.gather(*(tell(address) for address in addresses))
    return dict(zip(addresses, words, strict=True))

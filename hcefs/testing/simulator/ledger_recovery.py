"""What operators do when the ledger's disk is lost: they begin a new term from the replicas.

The steps are those of ``hcefs ledger recover`` (:mod:`hcefs.cli.recovery`, which is made of
files and processes), with the production's own judgements (:mod:`hcefs.ledger.recovery`):
the highest replica is copied and verified, the followers are asked, and only a statement
that nobody had to force is signed.
"""

from __future__ import annotations

import asyncio

from hcefs.client.authorize import Authorizer
from hcefs.client.replicas import GrpcReplicas, operator_asker
from hcefs.errors import HcefsError, Unavailable
from hcefs.ledger.highest import ask_all, copy_highest
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.recovery import (
    make_statement,
    plan_recovery,
    survey,
    take_term,
)
from hcefs.ledger.terms import SignedTermChange
from hcefs.testing.simulator.database import Table
from hcefs.testing.simulator.machine import Life
from hcefs.testing.simulator.network import SimDialer
from hcefs.testing.simulator.world import World
from hcefs.transport.replica_calls import ReplicaCalls

RETRY_SECONDS = 2.0


async def recover(world: World) -> None:
    """Until a ledger of a new term can be started on the ledger's machine."""
    while True:
        life = Life(world.ledger.machine)
        try:
            await life.start(_attempt(world, life), "recover")
        except HcefsError as error:
            world.trace.note(f"no new term yet: {error.kind} {error.reason}")
        else:
            world.ledger.is_lost, world.ledger.recovery = False, None
            return
        finally:
            life.end()
        await asyncio.sleep(RETRY_SECONDS)


async def _attempt(world: World, life: Life) -> None:
    world.ledger.disks += 1
    table = Table(f"{world.seed}/ledger/log{world.ledger.disks}")
    calls = ReplicaCalls(life.runtime, SimDialer(world.network, life, None))
    authorizer = Authorizer(world.cluster, world.operator_keys[0], life.runtime)
    replicas = GrpcReplicas(calls, operator_asker(authorizer))
    log = world.open_ledger_log(table, life)
    try:
        await _copy_highest(world, life, replicas, log)
        found = await survey(log, replicas, life.runtime)
        plan = plan_recovery(log, found)
        keys = world.new_writer_keys()
        writer = keys.signing_key.public_key
        statement = make_statement(log, plan, writer, life.runtime.now_ms())
        for each in world.operator_keys:
            statement = statement.signed(each.account, each.key_version, each.signing_key)
        await life.runtime.disk(take_term, log, statement.encode())
        await life.runtime.disk(log.close)
        world.ledger.table, world.ledger.keys = table, keys
        world.trace.note(f"term {statement.change.term} begins after block {plan.height}")
        await _announce(world, replicas, statement)
    finally:
        await calls.close()


async def _copy_highest(world: World, life: Life, replicas: GrpcReplicas, log: LedgerLog) -> None:
    nodes = {node.client_address: node.name for node in world.nodes}
    answers = await ask_all(replicas, nodes, life.runtime)
    missing = [name for address, name in nodes.items() if address not in answers]
    if missing:
        # A block that nobody was told of may be on it; with the new term it would be void,
        # and its holder of no more use.
        raise Unavailable(f"{missing} do not answer", reason="nodes-missing")
    copied = await copy_highest(log, replicas, answers, life.runtime)
    if copied.beyond:
        world.trace.note(f"{nodes[copied.beyond]} began with a snapshot beyond the others")


async def _announce(world: World, replicas: GrpcReplicas, statement: SignedTermChange) -> None:
    """Whoever does not hear it now hears it of the new ledger."""

    async def tell(address: str) -> None:
        try:
            await replicas.begin_term(address, statement.encode())
        except HcefsError as error:
            world.trace.note(f"{address} does not take the term: {error.reason}")

    await asyncio.gather(*(tell(node.client_address) for node in world.nodes))

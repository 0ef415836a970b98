"""From an empty folder to a cluster that serves: keys, genesis, ledger, nodes, map.

Two halves.  :func:`prepare` only writes files and ends with ``cluster.toml``.
:func:`bring_up` starts what does not run and, on the ledger, does what has not been
done: upgrades the ledger to the newest rules, registers the nodes and sets the first
cluster map.  Everything may be repeated: a registration that is sent twice returns the
first result, and a cluster that has a map gets no other.

The cluster is for one machine: it listens on the loopback interface, each node
counts as a host of its own (on purpose), and the operators' keys lie next to each
other: it is for trying, developing and testing.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hcefs.cli.cluster_files import LEDGER, ClusterFolder, node_name
from hcefs.cli.new_node import (
    PORTS_PER_PROCESS,
    Ports,
    generate_keys,
    make_node,
    map_node,
    register_node,
    tls_of,
    write_certificate,
)
from hcefs.cli.place import load_place
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.cli.processes import Processes
from hcefs.client.ledger import LedgerClient
from hcefs.config import (
    LedgerConfig,
    load_ledger_config,
    load_node_config,
    render_ledger_config,
)
from hcefs.crypto.accounts import SEED_SIZE, AccountKeys, load_account
from hcefs.durable_files import replace_file, write_private
from hcefs.erasure.scheme import DEFAULT_PROFILE, PROFILES
from hcefs.errors import Conflict, Invalid, NotFound, Unavailable
from hcefs.ids import ClusterId
from hcefs.ledger.block import PROTOCOL_NEWEST
from hcefs.ledger.cluster_facts import ProtocolStatus
from hcefs.ledger.genesis import Genesis, OperatorKey
from hcefs.ledger.transactions import (
    SetClusterMap,
    SignedTransaction,
    Upgrade,
    sign_transaction,
)
from hcefs.placement.cluster_map import ClusterMap, NodeState
from hcefs.placement.planner import first_map
from hcefs.runtime import Runtime
from hcefs.transport.tls import (
    client_credentials,
    new_authority,
)

OPERATORS = ("operator-1", "operator-2", "operator-3")
THRESHOLD = 2
NODES_MIN = min(profile.n for profile in PROFILES.values())
NODES_MAX = 64
LEASE_MS = 10_000
SKEW_MS = 5_000
NONCE_SIZE = 32
SEED_BYTES = 32

UPGRADE_ATTEMPTS = 5

READY_SECONDS = 60.0
POLL_SECONDS = 0.1
CHECK_SECONDS = 2.0

Report = Callable[[str], None]


# --- the whole ------------------------------------------------------------------


async def bring_up(
    layout: ClusterFolder,
    nodes: int,
    runtime: Runtime,
    *,
    report: Report,
    lease_ms: int = LEASE_MS,
) -> None:
    """Make the cluster of this folder serve; make it first if the folder is empty.

    ``nodes`` is the number of nodes of a new cluster; for an existing one, 0 or the
    number that it has; ``lease_ms`` too is for a new one.  ``report`` is told of each
    step.  What was started keeps running when a later step fails; a repeat goes on
    from there.

    Raises:
        Invalid: too few nodes, or another number than the cluster has.
        Conflict: the folder holds something else, or another ``up`` is at work.
        Unavailable: a process ended, or does not serve in time.
    """
    with contextlib.ExitStack() as held:
        if load_place(layout.ledger) is not None:
            raise Invalid(
                f"the processes of the cluster in {layout.root} have machines of their own: start "
                "them there, then run `hcefs found` here",
                reason="other-machines",
            )
        if layout.exists():
            have = len(layout.node_numbers())
            if nodes not in (0, have):
                raise Invalid(
                    f"the cluster in {layout.root} has {have} nodes, not {nodes}: leave --nodes "
                    "out, or make another cluster in another folder",
                    reason="wrong-node-count",
                )
            held.enter_context(layout.locked())
        else:
            check_node_count(nodes)
            _check_empty(layout.root)
            held.enter_context(layout.locked())
            # The ports are held until the processes have them.
            ports = held.enter_context(
                reserved_ports(PORTS_PER_PROCESS * (nodes + 1), runtime.random)
            )
            report(f"making keys and certificates for {nodes} nodes in {layout.root}")
            with _removed_on_failure(layout.root):
                prepare(layout, ports, runtime, lease_ms=lease_ms)
        await _start(layout, runtime, report)


def check_node_count(nodes: int) -> None:
    """Raises Invalid: no profile fits on so many nodes, or they are too many for one machine."""
    if not NODES_MIN <= nodes <= NODES_MAX:
        raise Invalid(
            f"a cluster on one machine has {NODES_MIN} to {NODES_MAX} nodes, not {nodes}; "
            f"{DEFAULT_PROFILE} needs {PROFILES[DEFAULT_PROFILE].n}",
            reason="wrong-node-count",
        )


async def found(layout: ClusterFolder, runtime: Runtime, *, report: Report) -> None:
    """Make a cluster serve whose processes run on machines of their own; may be repeated.

    Raises:
        Invalid: too few nodes, or the processes are for this machine (``one-machine``).
        Unavailable: a process does not serve in time.
    """
    if load_place(layout.ledger) is None:
        raise Invalid(
            f"the cluster in {layout.root} is one of `hcefs up`, which starts it and sets its map",
            reason="one-machine",
        )
    check_node_count(len(layout.node_numbers()))
    with layout.locked():
        await _start(layout, runtime, report, here=False)


async def _start(
    layout: ClusterFolder, runtime: Runtime, report: Report, *, here: bool = True
) -> None:
    """``here``: the processes are this machine's, and those that do not run are started."""
    processes = Processes(layout)
    if here and not processes.alive(LEDGER):
        report("starting the ledger")
        processes.start_ledger()
    await wait_serving(layout, LEDGER, runtime)
    operators = [layout.load_keys(name) for name in layout.operators(THRESHOLD)]
    async with LedgerClient(layout.load_connection(), operators[0], runtime) as client:
        new_map = await _first_map(layout, client, operators, runtime, report)
        numbers, joining = await _taking_part(layout, client, new_map is None)
        for number in numbers + joining:
            if here and not processes.alive(node_name(number)):
                report(f"starting node {number}")
                processes.start_node(number)
        if new_map is not None:
            report("setting the first cluster map")
            # Its acknowledgement needs nodes that follow; whether they do is seen below.
            with unreplicated_is_fine():
                await client.submit(new_map)

        async def ready(number: int) -> None:
            await wait_serving(layout, node_name(number), runtime)
            report(f"node {number} serves")

        # All of them, so that one which is ill does not hide the others.
        results = await asyncio.gather(
            *(ready(number) for number in numbers), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result


async def _taking_part(
    layout: ClusterFolder, client: LedgerClient, has_map: bool
) -> tuple[list[int], list[int]]:
    """The nodes of this folder that the map has serve, and those that have yet to join it.

    Nodes that were given up or removed are neither: they stay as they are.
    """
    if not has_map:
        return layout.node_numbers(), []
    states = {node.account: node.state for node in (await client.cluster_map()).nodes}
    serving, joining = [], []
    for number in layout.node_numbers():
        account = load_account(layout.node(number) / "account.keys").account
        if account not in states:
            joining.append(number)
        elif states[account] not in (NodeState.OUT, NodeState.REMOVED):
            serving.append(number)
    return serving, joining


@contextlib.contextmanager
def unreplicated_is_fine() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        if error.reason != "not-replicated":
            raise


# --- files ------------------------------------------------------------------------


def prepare(
    layout: ClusterFolder, ports: list[int], runtime: Runtime, *, lease_ms: int = LEASE_MS
) -> None:
    """Write every file of a new cluster; three ports for the ledger and for each node.

    Raises:
        Conflict: a file is there already.
    """
    addresses = [f"{HOST}:{port}" for port in ports]
    parties = [
        Ports(*addresses[i : i + PORTS_PER_PROCESS])
        for i in range(0, len(addresses), PORTS_PER_PROCESS)
    ]
    cluster = _write_authority(layout, runtime, "HCE-FS local cluster", lease_ms)
    layout.ledger.mkdir(mode=0o700, exist_ok=True)  # the writer's key is there already
    write_certificate(layout, layout.ledger, LEDGER, runtime)
    _write_ledger_config(layout, parties[0])
    for number, node in enumerate(parties[1:], 1):
        make_node(layout, number, node, cluster, parties[0].peer, runtime)
    layout.save_connection(cluster, parties[0].client, [node.client for node in parties[1:]])


def prepare_authority(layout: ClusterFolder, runtime: Runtime, *, name: str) -> ClusterId:
    """Write the authority, the genesis and the operators' keys of a cluster on machines of its own.

    Raises:
        Conflict: the folder is not empty.
        Invalid: the name cannot be a certificate's.
    """
    _check_empty(layout.root)
    with layout.locked(), _removed_on_failure(layout.root):
        return _write_authority(layout, runtime, name, LEASE_MS)


def _write_authority(
    layout: ClusterFolder, runtime: Runtime, name: str, lease_ms: int
) -> ClusterId:
    layout.root.chmod(0o700)
    authority, authority_key = new_authority(name, now_ms=runtime.now_ms())
    layout.authority.parent.mkdir()
    replace_file(layout.authority, authority)
    write_private(layout.authority_key, authority_key)
    return _write_genesis(layout, runtime, lease_ms)


def _write_genesis(layout: ClusterFolder, runtime: Runtime, lease_ms: int) -> ClusterId:
    seeds = [runtime.random(4 * SEED_SIZE) for _ in OPERATORS]
    # The cluster's id follows from the genesis, which names the operators' public keys.
    founders = [AccountKeys.generate(ClusterId.zero(), seed) for seed in seeds]
    writer = generate_keys(ClusterId.zero(), runtime)
    genesis = Genesis(
        name=layout.root.name[:64].encode("ascii", "replace").decode() or "hcefs",
        time_ms=runtime.now_ms(),
        operators=tuple(
            OperatorKey(
                keys.signing_key.public_key,
                keys.token_key.public_key,
                keys.receiving_key.public_key,
            )
            for keys in founders
        ),
        threshold=THRESHOLD,
        writer_key=writer.signing_key.public_key,
        lease_ms=lease_ms,
        skew_ms=SKEW_MS,
        nonce=runtime.random(NONCE_SIZE),
    )
    genesis.check()
    replace_file(layout.genesis_file, genesis.encode())
    for name, seed in zip(OPERATORS, seeds, strict=True):
        AccountKeys.generate(genesis.cluster, seed).save(layout.account_file(name))
    writer.save(layout.ledger / "writer.key")
    return genesis.cluster


def _write_ledger_config(layout: ClusterFolder, ports: Ports) -> None:
    folder = layout.ledger
    config = LedgerConfig(
        data=folder / "data",
        # Written as "..", not resolved, so that the whole folder can be moved.
        genesis=folder / ".." / layout.genesis_file.name,
        writer_key=folder / "writer.key",
        client_address=ports.client,
        peer_address=ports.peer,
        metrics_address=ports.metrics,
        tls=tls_of(folder, ".."),
    )
    text = render_ledger_config(config, relative_to=folder)
    replace_file(folder / "config.toml", text.encode())


def _check_empty(root: Path) -> None:
    """Make the folder if it is missing.

    Raises:
        Conflict: something is in it.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise Conflict(f"{root} is not a folder: choose another one", reason="not-empty") from None
    # An earlier attempt that was refused leaves its lock file, and nothing else.
    if any(path.name != "run" for path in root.iterdir()):
        raise Conflict(
            f"{root} is neither empty nor a complete cluster: choose another folder, or remove "
            "this one if it is left over from an interrupted `hcefs up`",
            reason="not-empty",
        )


@contextlib.contextmanager
def _removed_on_failure(root: Path) -> Iterator[None]:
    """Leave an empty folder behind, not half a cluster."""
    try:
        yield
    except BaseException:
        for path in root.iterdir():
            if path.is_dir() and path.name != "run":
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file():
                path.unlink(missing_ok=True)
        raise


# --- the ledger -------------------------------------------------------------------


async def _first_map(
    layout: ClusterFolder,
    client: LedgerClient,
    operators: list[AccountKeys],
    runtime: Runtime,
    report: Report,
) -> SignedTransaction | None:
    """The transaction that sets the first map, its nodes registered; None if there is a map."""
    try:
        await client.cluster_map()
    except NotFound:
        pass
    else:
        return None
    report("upgrading the ledger to its newest rules")
    await upgrade_protocol(client, operators, PROTOCOL_NEWEST)
    report("registering the nodes on the ledger")
    await asyncio.gather(
        *(register_node(layout, number, client, operators[1:]) for number in layout.node_numbers())
    )
    current = await runtime.disk(plan_first_map, layout, runtime.random(SEED_BYTES))
    return sign_transaction(
        SetClusterMap(0, current.encode()),
        client.connection.cluster,
        [(keys.account, keys.key_version, keys.signing_key) for keys in operators],
    )


async def upgrade_protocol(
    client: LedgerClient, operators: list[AccountKeys], version: int, height: int | None = None
) -> ProtocolStatus:
    """Have the ledger follow newer rules from a height on, or from the next block but one.

    Does nothing about a version that is in force or scheduled.  Blocks are made of
    transactions, so the rules of a ledger that nobody uses change with its next use.

    Raises:
        Conflict: the height has passed, another upgrade is scheduled, or it skips a version.
        Invalid: the ledger's software does not know the version.
    """
    if height is None:
        # Versions come one after the other.
        status = await client.protocol_version()
        for step in range(status.version + 1, version):
            await _upgrade_step(client, operators, step, None)
    return await _upgrade_step(client, operators, version, height)


async def _upgrade_step(
    client: LedgerClient, operators: list[AccountKeys], version: int, height: int | None
) -> ProtocolStatus:
    for attempt in range(1, UPGRADE_ATTEMPTS + 1):
        status = await client.protocol_version()
        if status.version >= version or status.next_version == version:
            return status
        change = sign_transaction(
            Upgrade(version, height if height is not None else status.height + 2),
            client.connection.cluster,
            [(keys.account, keys.key_version, keys.signing_key) for keys in operators],
        )
        try:
            with unreplicated_is_fine():
                await client.submit(change)
        except Conflict as error:
            # Blocks of others may have come before it.
            passed = error.reason == "bad-upgrade-height"
            if height is not None or not passed or attempt == UPGRADE_ATTEMPTS:
                raise
    return await client.protocol_version()


def plan_first_map(layout: ClusterFolder, seed: bytes) -> ClusterMap:
    """The first map of the folder's nodes, with a table for each profile that fits.

    Raises:
        Invalid: none fits.
    """
    nodes = [map_node(layout, number) for number in layout.node_numbers()]
    fitting = [profile for profile in PROFILES.values() if profile.n <= len(nodes)]
    check_node_count(len(nodes))
    names = [profile.name for profile in fitting]
    default = DEFAULT_PROFILE if DEFAULT_PROFILE in names else names[-1]
    triples = [(profile.name, profile.k, profile.m) for profile in fitting]
    return first_map(nodes, triples, seed, default)


# --- readiness ----------------------------------------------------------------------


def client_address(layout: ClusterFolder, process: str) -> str:
    """The client port of a process: where its place says, or its configuration."""
    place = load_place(layout.folder_of(process))
    if place is not None:
        return place.client
    path = layout.config_of(process)
    if process == LEDGER:
        return load_ledger_config(path).client_address
    return load_node_config(path).client_address


async def wait_serving(
    layout: ClusterFolder, process: str, runtime: Runtime, seconds: float = READY_SECONDS
) -> None:
    """Wait until the health service of a process says that it serves.

    Raises:
        Unavailable: the process ended (``process-ended``) or does not serve in time
            (``not-serving``); the message names its log.
    """
    processes, is_here = Processes(layout), load_place(layout.folder_of(process)) is None
    address = client_address(layout, process)
    credentials = client_credentials(layout.authority.read_bytes())
    try:
        async with (
            runtime.timeout(seconds),
            grpc.aio.secure_channel(
                address, credentials, options=[("grpc.max_reconnect_backoff_ms", 500)]
            ) as channel,
        ):
            health = health_pb2_grpc.HealthStub(channel)
            while not await _serves(health):
                if is_here and not processes.alive(process):
                    raise _ended(layout, processes, process)
                await runtime.sleep(POLL_SECONDS)
    except TimeoutError:
        if not is_here:
            raise Unavailable(
                f"{process} at {address} does not serve after {seconds:.0f} s: run `hcefs doctor` "
                "on its machine",
                reason="not-serving",
            ) from None
        raise Unavailable(
            f"{process} does not serve after {seconds:.0f} s: its log is "
            f"{layout.log_of(process)}{_quoted(processes.last_words(process))}",
            reason="not-serving",
        ) from None


async def _serves(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=CHECK_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _ended(layout: ClusterFolder, processes: Processes, process: str) -> Unavailable:
    return Unavailable(
        f"{process} ended as it started: its log is {layout.log_of(process)}"
        f"{_quoted(processes.last_words(process))}",
        reason="process-ended",
    )


def _quoted(line: str) -> str:
    return f" ({line[:300]})" if line else ""

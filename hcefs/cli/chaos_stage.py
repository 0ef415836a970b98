"""The cluster of a chaos run: its processes, the relays between them, its small disks.

Owns every process, relay, mount and client that the run makes; :meth:`Stage.close` ends
them all.  The cluster is an ordinary one (``hcefs up``), with three settings changed: short
leases, upkeep that looks after rows and shards all the time, and relays before each node's
peer port and before its way to the ledger.

A disk that is full is a small tmpfs with ballast where this user may mount one, else the
reserve of the node's own configuration, which it is restarted with; ``full_by`` says which.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from hcefs.access.facts import AccountKind
from hcefs.cli.bringup import OPERATORS, THRESHOLD, bring_up, wait_serving
from hcefs.cli.chaos_proxy import Relay
from hcefs.cli.cluster_files import LEDGER, ClusterFolder, node_name
from hcefs.cli.new_node import PORTS_PER_PROCESS, Ports, make_node, map_node, register_node
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.cli.processes import Processes
from hcefs.client.client import Client
from hcefs.client.connection import Connection
from hcefs.client.layout import LayoutClient
from hcefs.config import (
    NodeConfig,
    UpkeepConfig,
    load_ledger_config,
    load_node_config,
    render_node_config,
)
from hcefs.crypto.accounts import AccountKeys
from hcefs.durable_files import replace_file
from hcefs.errors import HcefsError, NotFound, Unavailable
from hcefs.ids import RecordId
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.runtime import SystemRuntime

LEASE_MS = 5_000
UPKEEP = UpkeepConfig(
    rate_min_mib=32.0,
    rate_max_mib=512.0,
    grace_s=2.0,
    round_s=2.0,
    scrub_cycle_s=20.0,
    scrub_rate_mib=256.0,
)
PUT_DEADLINE_SECONDS = 3.0
SMALL_DISK_BYTES = 512 << 20
RESERVE_MIB = 64
FULL_RESERVE_MIB = 1 << 30
SERVING_SECONDS = 60.0
LEVEL_SECONDS = 60.0
POLL_SECONDS = 0.1
RECORDS = 3
MOUNT_SECONDS = 10.0

Say = Callable[[str], None]


class Stage:
    """Everything that faults and load act on."""

    connection: Connection
    patient: Client
    operator: Client
    layout: LayoutClient

    def __init__(self, root: Path, runtime: SystemRuntime, say: Say) -> None:
        self.folder = ClusterFolder(root)
        self.processes = Processes(self.folder)
        self.runtime = runtime
        self.say = say
        self.records: list[RecordId] = []
        self.peers: dict[int, Relay] = {}
        self.ledger_links: dict[int, Relay] = {}
        self.small_disk = 0
        """The node whose data lies on a disk of its own; 0 when none could be mounted."""

        self._clients: list[Client] = []

    # -- coming and going

    async def start(self, nodes: int, *, small_disk: bool) -> None:
        """Bring the cluster up behind its relays, and let a patient in.

        ``small_disk`` asks for a small disk of its own for the last node.

        Raises:
            HcefsError: it does not come up.
        """
        await bring_up(self.folder, nodes, self.runtime, report=self.say, lease_ms=LEASE_MS)
        self.connection = self.folder.load_connection()
        numbers = self.folder.node_numbers()
        await self.runtime.disk(self.processes.stop, [node_name(number) for number in numbers])
        with reserved_ports(len(numbers), self.runtime.random) as ports:
            for number, port in zip(numbers, ports, strict=True):
                await self._insert_relays(number, port)
            if small_disk:
                self.small_disk = await self.runtime.disk(self._mount, numbers[-1])
            await self.start_processes(map(node_name, numbers))
        keys = [self.folder.load_keys(name) for name in OPERATORS[:THRESHOLD]]
        self.operator = self._client(keys[0])
        self.layout = LayoutClient(self.operator, keys)
        await self._admit(keys[1])

    async def _admit(self, second: AccountKeys) -> None:
        hospital, patient = self._new_keys(), self._new_keys()
        async with (
            Client(self.connection, second, self.runtime) as other,
            Client(self.connection, hospital, self.runtime) as institution,
        ):
            signed = await self.operator.register(hospital, AccountKind.INSTITUTION)
            await other.admit(self.operator.cosign(signed))
            await institution.admit(await institution.register(patient, AccountKind.PATIENT))
        self.patient = self._client(patient)
        self.records = [(await self.patient.open_record()).record for _ in range(RECORDS)]

    async def _insert_relays(self, number: int, port: int) -> None:
        """Relays at the address that the map names, and on the way to the ledger."""
        config = self.config(number)
        peer = f"{HOST}:{port}"
        self.peers[number] = Relay(self.runtime, config.peer_address, peer)
        await self.peers[number].start()
        link = f"{HOST}:{await self._relay_to_ledger(number, config.ledger_address)}"
        self._write_config(number, replace(config, peer_address=peer, ledger_address=link))

    async def _relay_to_ledger(self, number: int, target: str) -> int:
        with reserved_ports(1, self.runtime.random) as ports:
            chosen = ports[0]
            relay = Relay(self.runtime, f"{HOST}:{chosen}", target)
            await relay.start()
        self.ledger_links[number] = relay
        return chosen

    def _write_config(self, number: int, config: NodeConfig) -> None:
        path = self.folder.config_of(node_name(number))
        reserve = config.limits.reserve_mib
        limits = replace(
            config.limits,
            reserve_mib=reserve if reserve == FULL_RESERVE_MIB else RESERVE_MIB,
            put_deadline_s=PUT_DEADLINE_SECONDS,
        )
        changed = replace(config, upkeep=UPKEEP, limits=limits)
        replace_file(path, render_node_config(changed, relative_to=path.parent).encode())

    async def close(self) -> None:
        """End everything; safe at any moment, and twice."""
        clients, self._clients = self._clients, []
        for client in clients:
            await client.close()
        await self.runtime.disk(self._end_processes)
        for relay in [*self.peers.values(), *self.ledger_links.values()]:
            await relay.close()
        if self.small_disk:
            await self.runtime.disk(self._unmount, self.small_disk)
            self.small_disk = 0

    def _end_processes(self) -> None:
        for name in self.folder.process_names():
            with contextlib.suppress(NotFound):
                self.processes.kill(name)

    def _client(self, keys: AccountKeys) -> Client:
        client = Client(self.connection, keys, self.runtime)
        self._clients.append(client)
        return client

    def _new_keys(self) -> AccountKeys:
        return AccountKeys.generate(self.connection.cluster, self.runtime.random(128))

    # -- processes

    async def start_processes(self, names: Iterable[str]) -> None:
        """Start what does not run, wake what is stopped, and wait until all of it serves.

        Raises:
            Unavailable: one ended, or does not serve in time.
        """
        chosen = list(names)
        for name in chosen:
            await self.runtime.disk(self.processes.start, name)
            await self.runtime.disk(self.processes.kill, name, signal.SIGCONT)
        await asyncio.gather(
            *(wait_serving(self.folder, name, self.runtime, SERVING_SECONDS) for name in chosen)
        )

    async def kill(self, names: Iterable[str]) -> None:
        """kill -9, all at once: nobody acts after the first of them was stopped."""
        chosen = list(names)

        def job() -> None:
            for name in chosen:
                self.processes.kill(name, signal.SIGSTOP)
            for name in chosen:
                self.processes.kill(name)

        await self.runtime.disk(job)

    async def pause(self, names: Iterable[str]) -> None:
        """Stop processes as hung machines would."""
        for name in names:
            await self.runtime.disk(self.processes.kill, name, signal.SIGSTOP)

    def serving_nodes(self) -> list[int]:
        """The nodes that have a folder and run."""
        return [
            number
            for number in self.folder.node_numbers()
            if self.processes.alive(node_name(number))
        ]

    def all_running(self) -> list[str]:
        """Every process that runs."""
        return [name for name in self.folder.process_names() if self.processes.alive(name)]

    async def level(self) -> tuple[int, bytes]:
        """Wait until every node has applied what the ledger has; its height and state digest.

        Raises:
            Unavailable: they do not come so far.
        """
        until = self.runtime.monotonic() + LEVEL_SECONDS
        last: object = "no answer"
        while self.runtime.monotonic() < until:
            try:
                head = await self.operator.status(self.connection.ledger)
                heads = [
                    await self.operator.status(map_node(self.folder, number).address)
                    for number in self.folder.node_numbers()
                ]
                # The heights are the same only when nothing came in between.
                last = [each.height for each in heads]
                again = await self.operator.status(self.connection.ledger)
                if {each.height for each in heads} == {head.height} == {again.height}:
                    digests = {bytes(each.app_hash) for each in [head, *heads]}
                    if len(digests) > 1:
                        raise Unavailable("ledger heads differ at one height", reason="fork")
                    return head.height, digests.pop()
            except HcefsError as error:
                if error.reason == "fork":
                    raise
                last = error.reason
            await self.runtime.sleep(POLL_SECONDS)
        raise Unavailable(
            f"the nodes are not level with the ledger after {LEVEL_SECONDS:.0f} s ({last})",
            reason="not-level",
        )

    # -- disks

    def config(self, number: int) -> NodeConfig:
        """A node's configuration."""
        return load_node_config(self.folder.config_of(node_name(number)))

    def data(self, number: int) -> Path:
        """A node's data folder."""
        return self.config(number).data

    @property
    def full_by(self) -> str:
        """What makes a disk full in this run."""
        return "ballast on a tmpfs" if self.small_disk else "the reserve of its configuration"

    def _mount(self, number: int) -> int:
        """Put a node's data on a small disk of its own; 0 where that is not allowed."""
        data = self.data(number)
        aside = data.with_name("data-before")
        data.rename(aside)
        data.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES},mode=0700", "hcefs"]
        try:
            subprocess.run(
                [*command, str(data)], check=True, capture_output=True, timeout=MOUNT_SECONDS
            )
        except (OSError, subprocess.SubprocessError):
            data.rmdir()
            aside.rename(data)
            return 0
        shutil.copytree(aside, data, dirs_exist_ok=True)
        shutil.rmtree(aside)
        return number

    def _unmount(self, number: int) -> None:
        subprocess.run(
            ["umount", str(self.data(number))],
            check=False,
            capture_output=True,
            timeout=MOUNT_SECONDS,
        )

    def fill_disk(self, number: int) -> Path:
        """Ballast on a small disk until nothing more fits; the file, to be deleted again."""
        ballast = self.data(number) / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(512))
        return ballast

    def set_full(self, number: int, full: bool) -> None:
        """Have a node believe, from its next start on, that its disk is full."""
        config = self.config(number)
        reserve = FULL_RESERVE_MIB if full else RESERVE_MIB
        self._write_config(
            number, replace(config, limits=replace(config.limits, reserve_mib=reserve))
        )

    def empty_disk(self, number: int) -> None:
        """A new disk in the place of a node's: nothing of its data is left."""
        data = self.data(number)
        for path in list(data.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    # -- changes of the cluster

    async def new_node(self) -> Node:
        """Files, account and process of one node more; as the map would name it."""
        current = await self.layout.current()
        number = max(node.node_id for node in current.nodes) + 1
        ledger = load_ledger_config(self.folder.config_of(LEDGER)).peer_address
        with reserved_ports(PORTS_PER_PROCESS, self.runtime.random) as ports:
            addresses = Ports(*(f"{HOST}:{port}" for port in ports))
            cluster = self.connection.cluster
            make_node(self.folder, number, addresses, cluster, ledger, self.runtime)
            config = self.config(number)
            link = f"{HOST}:{await self._relay_to_ledger(number, config.ledger_address)}"
            self._write_config(number, replace(config, ledger_address=link))
            others = [self.folder.load_keys(name) for name in OPERATORS[1:THRESHOLD]]
            await register_node(self.folder, number, self.operator, others)
            await self.runtime.disk(self.processes.start_node, number)
        return replace(map_node(self.folder, number), state=NodeState.JOINING)

    async def take_away(self, number: int) -> None:
        """Stop a node that has left the map; its folder is set aside."""
        await self.runtime.disk(self.processes.stop, [node_name(number)])
        for relays in (self.peers, self.ledger_links):
            relay = relays.pop(number, None)
            if relay is not None:
                await relay.close()
        if number == self.small_disk:
            await self.runtime.disk(self._unmount, number)
            self.small_disk = 0
        folder = self.folder.node(number)
        await self.runtime.disk(folder.rename, folder.with_name(f"{number}.removed"))

    async def current_map(self) -> ClusterMap:
        """The map in force."""
        return await self.layout.current()

"""The client for programs without asyncio: the same methods, blocking.

Owns a thread with an event loop; every call runs there.  Safe to use from several
threads.  ``put`` takes bytes, paths and binary files.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from hcefs.access.token import Narrowing
from hcefs.client.bundle import UNNARROWED
from hcefs.client.client import Client
from hcefs.client.connection import Connection
from hcefs.client.streams import BlobStream
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import Invalid
from hcefs.formats.manifest import Core, Metadata
from hcefs.ids import AccountId, GrantId
from hcefs.ledger.transactions import SignedTransaction, Transaction
from hcefs.runtime import Runtime

P = ParamSpec("P")
T = TypeVar("T")


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="hcefs-client", daemon=True)
        self._closed = False
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it; an interrupt here cancels it there."""
        if self._closed:
            work.close()
            raise Invalid("this client is closed: open another", reason="client-closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncClient, P], T]:
    """A method of :class:`Client` as one that waits."""

    @functools.wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(method(self._client, *args, **kwargs))

    return call


def _streaming(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, BlobStream]],
) -> Callable[Concatenate[SyncClient, P], SyncBlobStream]:
    """A method of :class:`Client` that begins a stream, as one that waits."""

    @functools.wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> SyncBlobStream:
        return SyncBlobStream(self._loop, self._loop.run(method(self._client, *args, **kwargs)))

    return call


class SyncBlobStream:
    """A :class:`BlobStream` to iterate over, or to read whole."""

    def __init__(self, loop: _Loop, stream: BlobStream) -> None:
        self._loop = loop
        self._stream = stream

    @property
    def core(self) -> Core:
        """The blob's core."""
        return self._stream.core

    @property
    def metadata(self) -> Metadata | None:
        """The blob's metadata, where the right opens it."""
        return self._stream.metadata

    @property
    def start(self) -> int:
        """First byte of the blob that this reads."""
        return self._stream.start

    @property
    def length(self) -> int:
        """Number of bytes that this reads."""
        return self._stream.length

    @property
    def signed(self) -> bool:
        """True once the writer's signature over the whole content has been checked."""
        return self._stream.signed

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self._loop.run(_next(self._stream))
        if piece is None:
            raise StopIteration
        return piece

    def read(self) -> bytes:
        """All bytes that are left, in memory.

        Raises:
            HcefsError: as the iteration.
        """
        return self._loop.run(self._stream.read())

    def close(self) -> None:
        """End the stream now.  Idempotent."""
        self._loop.run(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    # A future cannot carry the exception that ends an iteration.
    return await anext(stream, None)


class SyncClient:
    """:class:`Client`, blocking::

    with SyncClient(load_connection(path), load_account(file)) as client:
        client.get(record, blob).read()
    """

    def __init__(
        self, connection: Connection, keys: AccountKeys, runtime: Runtime | None = None
    ) -> None:
        self._loop = _Loop()

        async def make() -> Client:
            return Client(connection, keys, runtime)

        try:
            self._client = self._loop.run(make())
        except BaseException:
            self._loop.close()
            raise
        self._open = True

    def __repr__(self) -> str:
        return f"SyncClient({self.account}, {self._client.connection.cluster})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the client and end its thread.  Idempotent."""
        if self._open:
            self._open = False
            try:
                self._loop.run(self._client.close())
            finally:
                self._loop.close()

    @property
    def account(self) -> AccountId:
        """The account that this client acts for."""
        return self._client.account

    @property
    def height(self) -> int:
        """The highest ledger height that this client knows of."""
        return self._client.height

    def cosign(self, signed: SignedTransaction) -> SignedTransaction:
        """As :meth:`Client.cosign`."""
        return self._client.cosign(signed)

    def prepare(self, transaction: Transaction) -> SignedTransaction:
        """As :meth:`Client.prepare`."""
        return self._client.prepare(transaction)

    def mint(self, grant: GrantId | None = None, narrowing: Narrowing = UNNARROWED) -> bytes:
        """As :meth:`Client.mint`."""
        return self._client.mint(grant, narrowing)

    def receive_for(self, keys: AccountKeys) -> None:
        """As :meth:`Client.receive_for`."""
        self._client.receive_for(keys)

    genesis = _blocking(Client.genesis)
    terms = _blocking(Client.terms)
    submit = _blocking(Client.submit)
    register = _blocking(Client.register)
    admit = _blocking(Client.admit)
    fetch_account = _blocking(Client.fetch_account)
    fresh_account = _blocking(Client.fresh_account)
    past_keys = _blocking(Client.past_keys)
    signed_with = _blocking(Client.signed_with)
    signed_at = _blocking(Client.signed_at)
    record = _blocking(Client.record)
    records = _blocking(Client.records)
    grant = _blocking(Client.grant)
    grants = _blocking(Client.grants)
    generation = _blocking(Client.generation)
    cluster_map = _blocking(Client.cluster_map)
    fresh_map = _blocking(Client.fresh_map)
    map_progress = _blocking(Client.map_progress)
    upkeep_policy = _blocking(Client.upkeep_policy)
    node_reports = _blocking(Client.node_reports)
    map_history = _blocking(Client.map_history)
    operators = _blocking(Client.operators)
    protocol_version = _blocking(Client.protocol_version)
    leaves = _blocking(Client.leaves)
    has_leaf = _blocking(Client.has_leaf)
    has_leaves = _blocking(Client.has_leaves)
    status = _blocking(Client.status)
    inventory = _blocking(Client.inventory)
    repair_status = _blocking(Client.repair_status)
    repair_now = _blocking(Client.repair_now)
    repair_list = _blocking(Client.repair_list)
    explain = _blocking(Client.explain)
    find_lost = _blocking(Client.find_lost)
    verify = _blocking(Client.verify)
    scrub = _blocking(Client.scrub)
    collect = _blocking(Client.collect)
    set_retention = _blocking(Client.set_retention)
    place_hold = _blocking(Client.place_hold)
    lift_hold = _blocking(Client.lift_hold)
    erase = _blocking(Client.erase)
    record_end = _blocking(Client.record_end)
    erasure = _blocking(Client.erasure)
    erasure_states = _blocking(Client.erasure_states)
    erasure_certificate = _blocking(Client.erasure_certificate)
    open_record = _blocking(Client.open_record)
    give = _blocking(Client.give)
    deliver = _blocking(Client.deliver)
    revoke = _blocking(Client.revoke)
    certify = _blocking(Client.certify)
    signed_head = _blocking(Client.signed_head)
    record_class = _blocking(Client.record_class)
    record_classes = _blocking(Client.record_classes)
    choose_records = _blocking(Client.choose_records)
    give_all = _blocking(Client.give_all)
    request_access = _blocking(Client.request_access)
    requests = _blocking(Client.requests)
    access_request = _blocking(Client.access_request)
    approve = _blocking(Client.approve)
    refuse = _blocking(Client.refuse)
    withdraw = _blocking(Client.withdraw)
    rotate = _blocking(Client.rotate)
    change_keys = _blocking(Client.change_keys)
    key_givers = _blocking(Client.key_givers)
    deliver_again = _blocking(Client.deliver_again)
    verify_keys = _blocking(Client.verify_keys)
    guard = _blocking(Client.guard)
    emergency_policy = _blocking(Client.emergency_policy)
    emergency_totals = _blocking(Client.emergency_totals)
    namings = _blocking(Client.namings)
    name_emergency = _blocking(Client.name_emergency)
    deliver_naming = _blocking(Client.deliver_naming)
    end_namings = _blocking(Client.end_namings)
    refuse_emergency = _blocking(Client.refuse_emergency)
    emergency_refusals = _blocking(Client.emergency_refusals)
    open_emergency = _blocking(Client.open_emergency)
    close_emergency = _blocking(Client.close_emergency)
    review_emergency = _blocking(Client.review_emergency)
    renew_after = _blocking(Client.renew_after)
    emergency = _blocking(Client.emergency)
    emergencies = _blocking(Client.emergencies)
    put = _blocking(Client.put)
    put_many = _blocking(Client.put_many)
    get_many = _blocking(Client.get_many)
    stat = _blocking(Client.stat)
    list = _blocking(Client.list)
    bundle = _blocking(Client.bundle)
    evidence = _blocking(Client.evidence)
    audit = _blocking(Client.audit)
    get = _streaming(Client.get)
    get_bundle = _streaming(Client.get_bundle)

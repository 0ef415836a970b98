"""TLS files that change under a running process: seen, judged whole, then used.

Owns the look at the files that the configuration names, every few seconds and at SIGHUP,
and the decision to use what they hold.

Invariants: a set that is not right in every point is never used, and the one in use stays;
a set is read whole before it is judged, so that a certificate and a key which are being
replaced one after the other are not mixed.  A set that is wrong is only called so when it
was found the same at two looks: whoever copies files needs a moment.

Not guaranteed: that others accept a set which is right by itself.  An authority that they
do not know yet makes the process unreachable for them (``hcefs ca rollover`` looks first).
Source: docs/decisions/0043-certificates-that-rotate.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from hcefs.config import TlsConfig
from hcefs.errors import HcefsError, Invalid
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime, end_tasks
from hcefs.transport.tls import Identity, spki_hash, validity
from hcefs.transport.tls_identity import CurrentIdentity, check_identity

LOOK_SECONDS = 2.0
FILE_BYTES_MAX = 256 << 10

log = logging.getLogger(__name__)

Seen = tuple[tuple[int, int, int], ...]
"""Time of change, length and inode of each file; zeros for one that is not there."""


class TlsWatch:
    """Exchanges what ``current`` holds when the files hold something better."""

    def __init__(
        self,
        runtime: Runtime,
        files: TlsConfig,
        current: CurrentIdentity,
        metrics: Metrics,
        pinned: Callable[[], bytes] | None = None,
    ) -> None:
        """``pinned``: for a node, the TLS key that the ledger names; empty while it names none."""
        self._runtime = runtime
        self._paths = (files.certificate, files.key, files.authority)
        self._current = current
        self._metrics = metrics
        self._pinned = pinned
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._seen: Seen | None = None
        self._suspect = b""
        self._refused = b""
        metrics.set("tls_files_refused", 0)

    @property
    def refused(self) -> bool:
        """Whether the files hold what is not used because it is wrong."""
        return bool(self._refused)

    def start(self) -> None:
        """Look from now on."""
        self._task = self._runtime.spawn(self._run(), name="tls-watch")

    def look_now(self) -> None:
        """Read the files at once, whatever their times say."""
        self._seen = None
        self._wake.set()

    async def stop(self) -> None:
        """Look no more."""
        task, self._task = self._task, None
        await end_tasks(task)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - the watch goes on
                # Certificates that stay as they are are better than none.
                log.error("the TLS files could not be looked at: %s", type(error).__name__)
            try:
                async with self._runtime.timeout(LOOK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def look(self) -> None:
        """Look at the files once, and use them if they are others and right."""
        seen = await self._runtime.disk(_states, self._paths)
        # What is not right is judged again each time: the ledger or the clock may have moved.
        if seen == self._seen and not self._suspect and not self._refused:
            return
        self._seen = seen
        try:
            found = await self._runtime.disk(_read, self._paths)
        except Invalid as error:
            self._is_wrong(hashlib.sha256(error.message.encode()).digest(), error)
            return
        used = self._current.identity
        if found != used:
            try:
                await self._runtime.disk(self._check, found, used, self._pin(used))
            except Invalid as error:
                self._is_wrong(_digest(found), error)
                return
        self._is_right()
        if found != used:
            self._use(found)

    def _pin(self, used: Identity) -> bytes | None:
        """The key that it must be for: a node that is yet to be registered keeps its own."""
        return None if self._pinned is None else self._pinned() or spki_hash(used.certificate)

    def _check(self, found: Identity, used: Identity, pin: bytes | None) -> None:
        hosts = validity(used.certificate).hosts
        check_identity(found, self._runtime.now_ms(), pin=pin, hosts=hosts)

    def _is_right(self) -> None:
        if self._refused:
            log.info("the TLS files are in order again")
        self._suspect = self._refused = b""
        self._metrics.set("tls_files_refused", 0)

    def _use(self, found: Identity) -> None:
        self._current.replace(found)
        self._metrics.count("tls_files_changes_total")
        log.info("this process uses the new TLS files from now on; connections that exist go on")

    def _is_wrong(self, digest: bytes, fault: HcefsError) -> None:
        """Say so, if the look before has found the same."""
        if digest not in (self._suspect, self._refused):
            self._suspect = digest
            return
        if digest != self._refused:
            log.error("the new TLS files are not used, the old ones are: %s", fault.message)
        self._suspect, self._refused = b"", digest
        self._metrics.set("tls_files_refused", 1)


def _states(paths: tuple[Path, ...]) -> Seen:
    found = []
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(found)


def _read(paths: tuple[Path, ...]) -> Identity:
    """Certificate, key and authority, as they are in the files.

    Raises:
        Invalid: ``unreadable``, naming the file.
    """
    found = []
    for path in paths:
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise Invalid(
                f"{path} cannot be read ({error.strerror}): put the file back, or correct its "
                "owner and mode",
                reason="unreadable",
            ) from None
        if len(data) > FILE_BYTES_MAX:
            raise Invalid(
                f"{path} has more than {FILE_BYTES_MAX} bytes: it is no TLS file",
                reason="unreadable",
            )
        found.append(data)
    certificate, key, authority = found
    return Identity(authority, certificate, key)


def _digest(identity: Identity) -> bytes:
    """Tells sets apart; lengths first, so that no two parts can be read as another pair."""
    parts = (identity.certificate, identity.key, identity.authority)
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big") + part)
    return state.digest()

"""Waiting until a change of certificates has arrived in every process, and who is missing.

Asks the processes themselves, by handshakes (:mod:`hcefs.transport.tls_probe`): what they
would show to, and take from, whoever comes next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from hcefs.cli.authority import Member, fault_of, read_certificate
from hcefs.errors import HcefsError, Unavailable
from hcefs.runtime import Runtime
from hcefs.transport.tls import Identity, is_issued_by
from hcefs.transport.tls_identity import fingerprint
from hcefs.transport.tls_probe import shown_certificate, trusts

POLL_SECONDS = 0.5
WAIT_SECONDS = 20.0

Test = Callable[[Member], Awaitable[str]]
"""What is still missing at a process; empty: nothing."""


async def all_have(
    runtime: Runtime,
    asked: Sequence[Member],
    test: Test,
    *,
    copied: str,
    again: str,
    seconds: float = WAIT_SECONDS,
) -> None:
    """Return when the test is passed by every process.

    ``copied`` is what has to be on a process's machine, ``again`` the command to repeat.

    Raises:
        Unavailable: ``not-everywhere``, naming who is missing and what to do.
    """
    end = runtime.monotonic() + seconds
    missing: dict[str, str] = {}
    waiting = list(asked)
    while True:
        results = await asyncio.gather(*(_asked(test, each) for each in waiting))
        missing = {each.name: what for each, what in zip(waiting, results, strict=True) if what}
        waiting = [each for each in waiting if each.name in missing]
        if not waiting:
            return
        if runtime.monotonic() >= end:
            break
        await runtime.sleep(POLL_SECONDS)
    named = [f"{each.name} ({missing[each.name]}; {_advice(each, copied)})" for each in waiting]
    raise Unavailable(
        f"not everywhere yet, {len(waiting)} of {len(asked)} missing: {', '.join(named)}. Then run "
        f"`{again}` again; a process that is gone for good is left out with --without NAME",
        reason="not-everywhere",
    )


async def _asked(test: Test, each: Member) -> str:
    try:
        return await test(each)
    except HcefsError as error:
        return fault_of(error)


def _advice(each: Member, copied: str) -> str:
    if each.is_elsewhere:
        return f"copy {copied} of {each.folder} to its machine, and see that it runs"
    return f"start it, or look into its log in {each.folder}"


def shows_its_file(runtime: Runtime) -> Test:
    """Both ports show the certificate that is in the process's folder."""

    async def test(each: Member) -> str:
        wanted = fingerprint(read_certificate(each.certificate))
        for address in (each.client, each.peer):
            if fingerprint(await shown_certificate(runtime, address)) != wanted:
                return f"{address} still shows another certificate"
        return ""

    return test


def shows_one_of(runtime: Runtime, authority: bytes) -> Test:
    """Both ports show a certificate of this authority."""

    async def test(each: Member) -> str:
        for address in (each.client, each.peer):
            if not is_issued_by(await shown_certificate(runtime, address), authority):
                return f"{address} still shows a certificate of another authority"
        return ""

    return test


def takes(runtime: Runtime, probe: Identity) -> Test:
    """The peer port trusts the authority of the probe's certificate."""

    async def test(each: Member) -> str:
        trusted = await trusts(runtime, each.peer, probe)
        return "" if trusted else "it does not trust the new authority yet"

    return test


def takes_no_more(runtime: Runtime, probe: Identity) -> Test:
    """The peer port does not trust the authority of the probe's certificate."""

    async def test(each: Member) -> str:
        trusted = await trusts(runtime, each.peer, probe)
        return "it still trusts the old authority" if trusted else ""

    return test

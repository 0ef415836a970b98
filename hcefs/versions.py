"""What this software is and speaks, what others say of themselves, and who gets on with whom.

Every process tells the others its release, the protocols of the ledger that it follows and the
versions of the shard file that it reads.  Who says nothing is of the release before this was
said (0.1.0).

Two processes get on when their releases are neighbours (the same major number, and minor
numbers that differ by one at most), and when both know the protocol that the ledger follows:
one that does not has stopped at that block, and decides nothing any more.

Not guaranteed: that what a process says is true; it is its own word over a connection that
proves its account.  Source: docs/decisions/0041-upgrades.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hcefs import __version__
from hcefs.errors import Conflict

GUIDE = "docs/operations/upgrade.md"
"""Where the way out of a refusal is described."""

SOFTWARE_MAX = 32
NUMBER_MAX = 0xFFFF
_RELEASE = re.compile(r"(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})(?:\.[0-9A-Za-z.+-]{1,20})?")


@dataclass(frozen=True)
class Known:
    """The versions of one thing that a process knows: all from ``oldest`` to ``newest``."""

    oldest: int
    newest: int

    def __contains__(self, version: int) -> bool:
        return self.oldest <= version <= self.newest


PROTOCOLS = Known(1, 5)
"""The ledger's protocols that this software follows."""
SHARD_FORMATS = Known(1, 2)
"""The versions of the shard file that this software reads."""
PROTOCOL_OF_SHARD_FORMAT_2 = 5
"""Shards are written in version 2 from this version of the ledger's protocol on."""


@dataclass(frozen=True)
class Versions:
    """What one process says of itself."""

    software: str
    protocols: Known
    shards: Known

    @property
    def release(self) -> tuple[int, int] | None:
        """Major and minor number; None of what is no release."""
        found = _RELEASE.fullmatch(self.software)
        return (int(found[1]), int(found[2])) if found is not None else None


RELEASE_BEFORE = Versions("0.1.0", Known(1, 4), Known(1, 1))
"""What a process is that says nothing of its versions."""
OWN = Versions(__version__, PROTOCOLS, SHARD_FORMATS)
"""What this process is."""


def said(software: str, protocols: tuple[int, int], shards: tuple[int, int]) -> Versions:
    """What somebody else says of itself, made safe to keep and to print.

    What cannot be is taken for a process that knows nothing, with which nobody gets on.
    """
    numbers = (*protocols, *shards)
    fits = (
        len(software) <= SOFTWARE_MAX
        and _RELEASE.fullmatch(software) is not None
        and all(0 < number <= NUMBER_MAX for number in numbers)
        and protocols[0] <= protocols[1]
        and shards[0] <= shards[1]
    )
    if not fits:
        return Versions("unknown", Known(1, 0), Known(1, 0))
    return Versions(software, Known(*protocols), Known(*shards))


def problem(who: str, theirs: Versions, protocol: int, mine: Versions = OWN) -> str:
    """Why this process cannot talk to ``who``, and what to do; empty when it can.

    ``protocol`` is the one that the ledger follows now, as far as this process knows.
    """
    if theirs.release is None:
        return f"{who} does not say which release it is of, this is {mine.software}: see {GUIDE}"
    ours = mine.release or (0, 0)
    apart = theirs.release[0] != ours[0] or abs(theirs.release[1] - ours[1]) > 1
    if apart:
        older, wanted = (who, ours) if theirs.release < ours else ("this process", theirs.release)
        step = max(0, wanted[1] - 1)
        return (
            f"{who} runs {theirs.software}, this is {mine.software}, and only neighbouring "
            f"releases talk to each other: upgrade {older} to {wanted[0]}.{step} first, then on; "
            f"see {GUIDE}"
        )
    if protocol not in theirs.protocols:
        return (
            f"{who} runs {theirs.software}, this is {mine.software}, and the ledger follows "
            f"protocol version {protocol}, of which {who} knows {theirs.protocols.oldest} to "
            f"{theirs.protocols.newest}: upgrade {who} to {ours[0]}.{ours[1]} first; see {GUIDE}"
        )
    return ""


def require_talk(who: str, theirs: Versions, protocol: int, mine: Versions = OWN) -> None:
    """Refuse a peer that this process cannot talk to.

    Raises:
        Conflict: ``version-refused``; the message names both versions and the way out.
    """
    found = problem(who, theirs, protocol, mine)
    if found:
        raise Conflict(found, reason="version-refused")


def named(numbers: Iterable[int]) -> str:
    """``node 2``, or ``nodes 2, 5``."""
    found = sorted(numbers)
    return f"node{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"

"""A second opinion on rights, written from the text of the design and not from the code.

What it says, sentence by sentence:

* "Deny by default": every function here answers no unless all of its sentences hold.
* "A record has one owner, the patient": the owner in person needs no grant, for any known
  purpose; no grant can make somebody else the owner, and an owner's token is not lent.
* "A grant: grantee, record (or blob, or range), actions, purposes of use, not-before (from
  then on), not-after (until just before then)."
* "A presenter who is not the token's root needs a grant with ``share`` behind it and is a
  registered account."
* "A grantee with ``share`` may pass on what is not wider; the whole chain up to the owner
  must be alive at each decision, at most 8 deep."
* "Revocation ends a grant and all given under it"; an account that was ended can do
  nothing, and what it passed on ends with it.

It reads sets of bytes and explicit lists instead of comparing bounds, and works on what
the test *did* (:class:`Given`, a log of what was given and revoked), not on the ledger's
state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PURPOSES = (
    "TREAT", "ETREAT", "BTG", "HPAYMT", "CLMATTCH", "COVAUTH", "HOPERAT", "HRESCH", "PUBHLTH",
    "PATRQT", "FAMRQT", "FRAUD", "HLEGAL",
)  # fmt: skip
DEPTH = 8
END = 1 << 62
"""Where "to the end" ends: further than any blob."""


@dataclass(frozen=True)
class Given:
    """A grant as it was given: names, and ``bytes_`` as first and one past the last, or None."""

    by: str
    to: str
    record: str
    blob: str | None
    bytes_: tuple[int, int] | None
    actions: frozenset[str]
    purposes: frozenset[str]
    since: int
    until: int
    under: str | None


@dataclass(frozen=True)
class World:
    """Everything that happened: who exists and still lives, who owns what, what was given."""

    living: frozenset[str]
    ended: frozenset[str]
    owner_of: Mapping[str, str]
    given: Mapping[str, Given]
    revoked: frozenset[str]


@dataclass(frozen=True)
class Wanted:
    """What somebody asks to do.  ``grant`` None: as the owner."""

    action: str
    record: str
    blob: str | None
    bytes_: tuple[int, int] | None
    purpose: str
    presenter: str
    holder: str
    grant: str | None


def may(world: World, wanted: Wanted, now: int) -> bool:
    """Whether the design lets this happen."""
    if wanted.record not in world.owner_of:
        return False
    if not {wanted.presenter, wanted.holder} <= world.living:
        return False
    if wanted.purpose not in PURPOSES or wanted.action not in ("read", "append", "share"):
        return False
    if wanted.bytes_ is not None and wanted.blob is None:
        return False
    owner = world.owner_of[wanted.record]
    if wanted.grant is None:
        return wanted.presenter == wanted.holder == owner
    chain = _chain(world, wanted.grant)
    if chain is None or chain[0].to != wanted.holder or chain[-1].by != owner:
        return False
    if wanted.presenter != wanted.holder and "share" not in chain[0].actions:
        return False
    if not all(
        _alive_and_covers(world, link, name, wanted, now)
        for name, link in _named(world, wanted.grant)
    ):
        return False
    # Everything below the first link was passed on: by a living account with share.
    return all("share" in above.actions and above.to in world.living for above in chain[1:])


def _named(world: World, grant: str) -> list[tuple[str, Given]]:
    found = []
    name: str | None = grant
    while name is not None:
        found.append((name, world.given[name]))
        name = world.given[name].under
    return found


def _chain(world: World, grant: str) -> list[Given] | None:
    """From the grant presented up to the one that an owner gave; None if it does not hold."""
    links: list[Given] = []
    name: str | None = grant
    while name is not None:
        link = world.given.get(name)
        if link is None or len(links) == DEPTH:
            return None
        if links and links[-1].by != link.to:
            return None
        links.append(link)
        name = link.under
    return links


def _alive_and_covers(world: World, link: Given, name: str, wanted: Wanted, now: int) -> bool:
    if name in world.revoked or now not in range(link.since, link.until):
        return False
    if link.record != wanted.record or wanted.action not in link.actions:
        return False
    if wanted.purpose not in link.purposes:
        return False
    if link.blob is None:
        return True
    if link.blob != wanted.blob:
        return False
    if link.bytes_ is None:
        return True
    # Without a range the whole blob is wanted, which no range covers.
    return wanted.bytes_ is not None and _inside(wanted.bytes_, link.bytes_)


def _inside(wanted: tuple[int, int], allowed: tuple[int, int]) -> bool:
    first, end = wanted
    return first in range(*allowed) and end - 1 in range(*allowed)

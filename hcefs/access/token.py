"""Capability tokens: Biscuits that can only narrow what their presenter may do.

A Biscuit trusts the facts and rules of its first block, and here the holder
writes that block.  So a token is never a source of permission; the ledger is
(:mod:`hcefs.access.rights`).  A token names whose right it uses and adds checks.

The shape, and the only shape that is accepted:

* block 0: the fact ``use(cluster, account, grant)``, then check lines;
* later blocks: check lines only; no block is signed by a third party.

Check lines are exactly those that :func:`mint` writes (below, ``_CHECKS``), over
the facts that the node supplies: ``time``, ``action``, ``record``, ``blob``,
``range`` (first byte, end), ``purpose``, ``presenter``.

Why matching the printed source is sound although Biscuit prints strings and
names unescaped: it prints a fact as ``name(terms);`` and a rule with `` <- ``,
each followed by a line feed, and no accepted line holds a line feed inside.
Every fact therefore starts a line with its name and every rule shows its arrow;
neither a rule nor a fact with a name that any check reads can be accepted.
What a forged name could hide is another check, and a check can only narrow.

Not guaranteed: that the holder still has the right, or that the presenter is
the one that was meant: see :mod:`hcefs.access.verifier`.

Source: biscuitsec.org specification 3; docs/decisions/0003-tokens-only-narrow.md.
"""

from __future__ import annotations

import base64
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import biscuit_auth

from hcefs.access.facts import PURPOSES
from hcefs.access.rights import ACTION_NAMES, RANGE_END_MAX
from hcefs.crypto.signing import SigningKey
from hcefs.errors import Denied, Invalid, Unauthenticated, Unavailable
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId
from hcefs.integrity import blake3_digest

# The stubs of 0.4.0 describe an older interface: no limits, no choice of algorithm.
biscuit: Any = biscuit_auth

TOKEN_BYTES_MAX: Final = 8 << 10
"""Fits in gRPC metadata."""
BLOCKS_MAX: Final = 16
CACHE_SIZE: Final = 4096
PASSED_MAX: Final = 64
"""Requests that a token is known to pass; more are checked by running its checks."""

_NOT_AFTER_MS_MAX: Final = 253_402_300_799_999  # the last millisecond of the year 9999
_ACTIONS: Final = frozenset(ACTION_NAMES.values())

# Biscuit's own default of 1 ms refuses valid tokens when a core is busy.
_TIME_MAX = timedelta(seconds=1)
_FACTS_MAX: Final = 64
_ITERATIONS_MAX: Final = 16

_ID: Final = "hex:[0-9a-f]{32}"
_USE: Final = re.compile(
    r"use\(hex:([0-9a-f]{32}), hex:([0-9a-f]{32}), hex:([0-9a-f]{32})\);", re.ASCII
)
_CHECKS: Final = re.compile(
    "check if (?:"
    + "|".join(
        (
            r"time\(\$t\), \$t < [0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z",
            r'action\("[a-z]{1,16}"\)(?: or action\("[a-z]{1,16}"\))*',
            rf"record\({_ID}\)",
            r"blob\(hex:[0-9a-f]{36}\)",
            r"range\(\$s, \$e\), \$s >= [0-9]{1,19}, \$e <= [0-9]{1,19}",
            r'purpose\("[A-Z]{1,16}"\)(?: or purpose\("[A-Z]{1,16}"\))*',
            rf"presenter\({_ID}\)",
        )
    )
    + ");",
    re.ASCII,
)


_ENDS: Final = re.compile(r"check if time\(\$t\), \$t < ([0-9TZ:-]+);", re.ASCII)
_NAMED: Final = re.compile(r"check if (?:record|blob)\(hex:([0-9a-f]+)\);", re.ASCII)


@dataclass(frozen=True)
class Narrowing:
    """What a block of checks leaves open; a field at its default adds no check.

    ``not_after_ms`` is exclusive and rounded down to a whole second.
    ``range_length`` 0 adds no check of the range.  A token narrowed to a blob or
    a range does not serve requests on the whole record.
    """

    not_after_ms: int | None = None
    actions: tuple[str, ...] = ()
    record: RecordId | None = None
    blob: BlobId | None = None
    range_start: int = 0
    range_length: int = 0
    purposes: tuple[str, ...] = ()
    presenter: AccountId | None = None


@dataclass(frozen=True)
class Use:
    """Whose right a token uses; a zero ``grant`` means 'as the owner'."""

    cluster: ClusterId
    account: AccountId
    grant: GrantId


@dataclass(frozen=True)
class TokenFacts:
    """What the node tells the checks; ``blob`` None means the whole record.

    ``range_length`` 0 means to the end.
    """

    now_ms: int
    action: str
    record: RecordId
    blob: BlobId | None
    range_start: int
    range_length: int
    purpose: str
    presenter: AccountId


@dataclass(frozen=True)
class VerifiedToken:
    """A token of the right shape whose signatures were checked.

    ``root_key`` is the public token key that it was checked with.
    ``named`` are the ids of the records and blobs that its checks compare with, and
    ``ends_s`` is the first second since the Unix epoch at which its checks of time fail.
    """

    use: Use
    root_key: bytes
    _token: Any = field(repr=False, compare=False)
    named: frozenset[bytes] = field(repr=False)
    ends_s: int | None = field(default=None, repr=False)
    _passed: set[tuple[Any, ...]] = field(default_factory=set, repr=False, compare=False)

    def apart(self, record: RecordId, blob: BlobId | None) -> tuple[bytes, bytes, bool]:
        """What the checks see of a request on a whole record (``blob`` None) or blob.

        Two requests for which this is equal, and which differ in nothing else, get
        one answer: a check only compares record and blob with ids that it names, and
        the range is the whole blob, or there is none.
        """
        return (
            bytes(record) if record in self.named else b"",
            bytes(blob) if blob is not None and blob in self.named else b"",
            blob is None,
        )

    def authorize(self, facts: TokenFacts) -> None:
        """Run every check of the token against the request.

        What passed once passes again until ``ends_s`` without another run (0.2 ms):
        time is only ever compared with that, and the other facts are the same.

        Raises:
            Denied: a check failed (``token-check``).
            Unavailable: the checks did not finish within their limits.
        """
        same = (
            facts.action,
            facts.purpose,
            facts.presenter,
            facts.range_start,
            facts.range_length,
            *self.apart(facts.record, facts.blob),
        )
        alive = self.ends_s is None or facts.now_ms // 1000 < self.ends_s
        if alive and same in self._passed:
            return
        self._run(facts)
        if len(self._passed) < PASSED_MAX:
            self._passed.add(same)

    def _run(self, facts: TokenFacts) -> None:
        authorizer = biscuit.AuthorizerBuilder(*_authorizer_source(facts))
        limits = authorizer.limits()
        limits.max_time = _TIME_MAX
        limits.max_facts = _FACTS_MAX
        limits.max_iterations = _ITERATIONS_MAX
        authorizer.set_limits(limits)
        try:
            authorizer.build(self._token).authorize()
        except biscuit.AuthorizationError as error:
            if "limits" in str(error):
                raise Unavailable(
                    "the token's checks did not finish in time: retry", reason="token-limits"
                ) from None
            raise _check_failed() from None


def mint(
    key: SigningKey,
    cluster: ClusterId,
    account: AccountId,
    grant: GrantId,
    narrowing: Narrowing = Narrowing(),
) -> bytes:
    """A new token for ``account``, signed by its token key.

    Raises:
        Invalid: the narrowing is malformed (``bad-narrowing``).
    """
    use = f"use({_hex(cluster)}, {_hex(account)}, {_hex(grant)})"
    source = ";\n".join((use, *_checks(narrowing)))
    root = biscuit.PrivateKey.from_bytes(key.seed, biscuit.Algorithm.Ed25519)
    return _bounded(biscuit.BiscuitBuilder(source).build(root).to_bytes())


def sign_block(key: SigningKey, source: str) -> bytes:
    """A well-signed token with any first block, for showing that nodes refuse it.

    Raises:
        Invalid: ``source`` is no Datalog (``token-malformed``).
    """
    root = biscuit.PrivateKey.from_bytes(key.seed, biscuit.Algorithm.Ed25519)
    try:
        return bytes(biscuit.BiscuitBuilder(source).build(root).to_bytes())
    except biscuit.DataLogError:
        raise _malformed("its first block is not Datalog") from None


def narrow(token: bytes, narrowing: Narrowing, root_key: bytes) -> bytes:
    """``token`` with one more block of checks; anyone who has the token may do this.

    ``root_key`` is the *public* token key of the token's account; Biscuit
    verifies before it appends.  An empty narrowing gives the token back.

    Raises:
        Invalid: the token's shape or the narrowing is malformed, or the result
            would be too large or have too many blocks.
        Unauthenticated: the token was not signed by ``root_key``.
    """
    verified = verify_token(token, root_key)
    checks = _checks(narrowing)
    if not checks:
        return bytes(token)
    if verified._token.block_count() >= BLOCKS_MAX:
        raise _bad_shape(f"it has {BLOCKS_MAX} blocks already: narrow an earlier version of it")
    try:
        narrowed = verified._token.append(biscuit.BlockBuilder(";\n".join(checks)))
    except biscuit.BiscuitBuildError:
        raise _bad_shape("it is sealed and cannot be narrowed") from None
    return _bounded(narrowed.to_bytes())


def read_use(token: bytes) -> Use:
    """Check the token's shape and return whose right it uses; verifies no signature.

    Raises:
        Invalid: not a Biscuit or too long (``token-malformed``), or holding
            anything but one use and known checks (``token-shape``).
    """
    sources = _sources(token)
    use = _read_first(sources[0])
    for source in sources[1:]:
        _require_checks(_lines(source))
    return use


def read_checks(token: bytes) -> tuple[tuple[str, ...], ...]:
    """The checks of each block, as text for people; verifies no signature.

    Raises:
        Invalid: as :func:`read_use`.
    """
    read_use(token)
    first, *later = (tuple(_lines(source)) for source in _sources(token))
    return (first[1:], *later)


def _sources(token: bytes) -> list[str]:
    """The printed source of each block."""
    if not token or len(token) > TOKEN_BYTES_MAX:
        raise _malformed(f"it must have 1 to {TOKEN_BYTES_MAX} bytes")
    try:
        unverified = biscuit.UnverifiedBiscuit.from_base64(
            base64.urlsafe_b64encode(token).decode("ascii")
        )
        count = unverified.block_count()
        if count > BLOCKS_MAX:
            raise _bad_shape(f"it has more than {BLOCKS_MAX} blocks")
        sources = [unverified.block_source(index) for index in range(count)]
        root_key_id = unverified.root_key_id()
    except (biscuit.BiscuitValidationError, biscuit.BiscuitBlockError):
        raise _malformed("it is not a serialized Biscuit") from None
    if root_key_id is not None:
        raise _bad_shape("it names a root key; the root is the account's token key")
    return sources


def verify_token(token: bytes, root_key: bytes) -> VerifiedToken:
    """Check shape and signatures; ``root_key`` is the account's public token key.

    Raises:
        Invalid: as :func:`read_use`, or an unusual encoding, or a block signed by a
            third party.
        Unauthenticated: a signature does not verify (``token-signature``).
    """
    use = read_use(token)
    try:
        root = biscuit.PublicKey.from_bytes(root_key, biscuit.Algorithm.Ed25519)
        verified = biscuit.Biscuit.from_bytes(bytes(token), root)
    except (biscuit.BiscuitValidationError, ValueError):
        raise Unauthenticated(
            "the token is not signed by the current token key of the account it names: "
            "mint a new one",
            reason="token-signature",
        ) from None
    if verified.to_bytes() != token:
        # Protobuf has many encodings of one token; one is enough.
        raise _malformed("it is not encoded as the library encodes it")
    if any(verified.block_external_key(index) for index in range(verified.block_count())):
        raise _bad_shape("a third party signed a block of it")
    lines = [line for source in _sources(token) for line in source.split("\n")]
    named = (_NAMED.fullmatch(line) for line in lines)
    ends = [_seconds(end.group(1)) for line in lines if (end := _ENDS.fullmatch(line))]
    return VerifiedToken(
        use,
        bytes(root_key),
        verified,
        frozenset(bytes.fromhex(name.group(1)) for name in named if name),
        min(ends, default=None),
    )


class TokenCache:
    """Verified tokens by hash and root key, least recently used first out.

    Keyed by the root key too, so that a changed key forgets its tokens.  Holds no
    decision: checks run for every request.  For one thread.
    """

    def __init__(self, size: int = CACHE_SIZE) -> None:
        if size < 1:
            raise Invalid("the token cache needs room for one token", reason="bad-config")
        self._size = size
        self._verified: OrderedDict[tuple[bytes, bytes], VerifiedToken] = OrderedDict()

    def __len__(self) -> int:
        return len(self._verified)

    def forget(self, concerned: Callable[[Use], bool]) -> int:
        """Forget the tokens whose use is concerned, and how they were checked; how many."""
        gone = [key for key, known in self._verified.items() if concerned(known.use)]
        for key in gone:
            del self._verified[key]
        return len(gone)

    def verify(self, token: bytes, root_key: bytes) -> VerifiedToken:
        """As :func:`verify_token`, at the price of one hash for a known token."""
        if len(token) > TOKEN_BYTES_MAX:
            raise _malformed(f"it must have 1 to {TOKEN_BYTES_MAX} bytes")
        key = (blake3_digest(token), bytes(root_key))
        known = self._verified.get(key)
        if known is not None:
            self._verified.move_to_end(key)
            return known
        verified = verify_token(token, root_key)
        self._verified[key] = verified
        if len(self._verified) > self._size:
            self._verified.popitem(last=False)
        return verified


def _authorizer_source(facts: TokenFacts) -> tuple[str, dict[str, Any]]:
    """The facts as Datalog with parameters: no text of a request becomes source."""
    parameters: dict[str, Any] = {
        "time": _datetime(facts.now_ms),
        "action": facts.action,
        "record": bytes(facts.record),
        "purpose": facts.purpose,
        "presenter": bytes(facts.presenter),
    }
    source = (
        "time({time}); action({action}); record({record}); purpose({purpose}); "
        "presenter({presenter}); "
    )
    if facts.blob is not None:
        end = facts.range_start + facts.range_length if facts.range_length else RANGE_END_MAX
        if not 0 <= facts.range_start <= end <= RANGE_END_MAX:
            raise _check_failed()
        source += "blob({blob}); range({start}, {end}); "
        parameters |= {"blob": bytes(facts.blob), "start": facts.range_start, "end": end}
    return source + "allow if true", parameters


def _checks(narrowing: Narrowing) -> list[str]:
    """The check lines of a narrowing, in a fixed order."""
    checks = []
    if narrowing.not_after_ms is not None:
        if not 0 <= narrowing.not_after_ms <= _NOT_AFTER_MS_MAX:
            raise _bad_narrowing("the last moment must lie between the years 1970 and 9999")
        moment = _datetime(narrowing.not_after_ms).strftime("%Y-%m-%dT%H:%M:%SZ")
        checks.append(f"check if time($t), $t < {moment}")
    if narrowing.actions:
        checks.append(_any_of("action", narrowing.actions, _ACTIONS))
    if narrowing.record is not None:
        checks.append(f"check if record({_hex(narrowing.record)})")
    if narrowing.blob is not None:
        checks.append(f"check if blob({_hex(narrowing.blob)})")
    if narrowing.range_start or narrowing.range_length:
        start, end = narrowing.range_start, narrowing.range_start + narrowing.range_length
        if not 0 <= start < end <= RANGE_END_MAX:
            raise _bad_narrowing("a range needs a start from 0 and a length from 1")
        checks.append(f"check if range($s, $e), $s >= {start}, $e <= {end}")
    if narrowing.purposes:
        checks.append(_any_of("purpose", narrowing.purposes, PURPOSES))
    if narrowing.presenter is not None:
        checks.append(f"check if presenter({_hex(narrowing.presenter)})")
    return checks


def _any_of(name: str, values: Iterable[str], known: frozenset[str]) -> str:
    wanted = sorted(set(values))
    if not known.issuperset(wanted):
        raise _bad_narrowing(f"an {name} is unknown; known are {', '.join(sorted(known))}")
    return "check if " + " or ".join(f'{name}("{value}")' for value in wanted)


def _read_first(source: str) -> Use:
    lines = _lines(source)
    use = _USE.fullmatch(lines[0]) if lines else None
    if use is None:
        raise _bad_shape("its first block must begin with one use of cluster, account and grant")
    _require_checks(lines[1:])
    cluster, account, grant = (bytes.fromhex(text) for text in use.groups())
    return Use(ClusterId(cluster), AccountId(account), GrantId(grant))


def _lines(source: str) -> list[str]:
    """Lines at line feeds only: ``splitlines`` would also cut at what a name may hold."""
    *lines, rest = source.split("\n")
    if rest:
        raise _bad_shape("a statement is not ended")
    return lines


def _require_checks(lines: list[str]) -> None:
    for line in lines:
        if not _CHECKS.fullmatch(line):
            raise _bad_shape("beside the use it may hold only the known checks")


def _seconds(moment: str) -> int:
    """A moment of a check of time as seconds since the Unix epoch; one that is none is past."""
    try:
        return int(datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp())
    except ValueError:
        return 0


def _datetime(time_ms: int) -> datetime:
    # Rounding both sides down keeps a token from outliving its last moment.
    return datetime.fromtimestamp(time_ms // 1000, UTC)


def _hex(raw: bytes) -> str:
    return "hex:" + bytes(raw).hex()


def _bounded(token: bytes) -> bytes:
    if len(token) > TOKEN_BYTES_MAX:
        raise _malformed(f"with these checks it would exceed {TOKEN_BYTES_MAX} bytes")
    return token


def _check_failed() -> Denied:
    return Denied(
        "a check of the token refuses this request: present a token that is narrowed less",
        reason="token-check",
    )


def _malformed(why: str) -> Invalid:
    return Invalid(f"the token cannot be read: {why}", reason="token-malformed")


def _bad_shape(why: str) -> Invalid:
    return Invalid(f"the token is not accepted: {why}", reason="token-shape")


def _bad_narrowing(why: str) -> Invalid:
    return Invalid(f"the narrowing is malformed: {why}", reason="bad-narrowing")

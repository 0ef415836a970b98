"""The ledger's state: typed keys over a key-value map, overlays and a view.

Owns the layout of keys.  Parts of fixed length follow each other with a slash
between, numbers big-endian, so that a prefix scan never meets a neighbour's rows
and the order of keys is the order of numbers::

    account/<id>                       Account
    operator/<id>                      "" (active operators only)
    record/<id>                        Record
    generation/<record>/<u32>          Generation
    records-of/<owner>/<record>        ""
    grant/<id>                         Grant
    grants-on/<record>/<grant>         ""
    grants-to/<account>/<grant>        ""
    map                                ClusterMap
    put-key/<account>/<key>            PutRow
    put-expiry/<u64 ms>/<account>/<key>  ""
    protocol                           ProtocolSchedule

and, from protocol version 2 on::

    arrivals                           Arrivals (while seats are in flight)
    arrived/<u32 partition>/<u8 seat>/<profile>  ""
    map-change/<u64 epoch>             MapChange
    upkeep-policy                      UpkeepPolicy
    report/<u16 node id>               ReportRow

and, from protocol version 4 on::

    ask/<id>                           AskedAccess
    asks-by/<requester>/<ask>          "" (until it expires)
    asks-to/<patient>/<ask>            "" (while it is open)
    past-keys/<account>/<u32 version>  PastKeys
    retention/<record>                 Retention
    hold/<record>/<hold>               Hold (lifted ones too)
    erased/<record>                    Erasure
    erased-at/<u64 height>/<record>    ""
    emergency-policy                   EmergencyPolicy
    emergency-naming/<id>              EmergencyNaming
    emergency-named/<record>/<grantee>  <naming id> (while it stands)
    emergency-named-of/<owner>/<naming>  "" (while it stands)
    emergency-refusal/<record>         EmergencyRefusal
    emergency-withdrawn/<owner>/<key>  "" (keys of withdrawals of refusals; kept)
    emergency-opening/<id>             EmergencyOpening
    emergency-openings-of/<account>/<u64 height>/<opening>  "" (patient and opener)
    emergency-unreviewed/<u64 ms>/<opening>  "" (by when it is to be reviewed)
    emergency-unreviewed-of/<opener>/<opening>  ""
    emergency-totals                   EmergencyTotals
    receipt-anchor/<node account>      ReceiptAnchor

Invariants: keys and values are bytes, a value is never None; an overlay never
changes its base, and its base does not change while it is used.  A fact is what the
value of its key decodes to, however often it is asked for and whoever remembers it.
The height, the app hash and the log are not part of the state.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

from hcefs.access.emergency import EmergencyNaming, EmergencyPolicy, EmergencyRefusal
from hcefs.access.erasure_facts import Erasure, Hold, Retention
from hcefs.access.facts import Account, Generation, Grant, PastKeys, Record
from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, Invalid
from hcefs.ids import AccountId, AskId, GrantId, HoldId, PutKey, RecordId
from hcefs.ledger.cluster_facts import (
    Arrivals,
    MapChange,
    ProtocolSchedule,
    ReceiptAnchor,
    ReportRow,
    UpkeepPolicy,
)
from hcefs.ledger.outcome import LeafResult
from hcefs.ledger.request_facts import AskedAccess
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.waves import SeatName

_Fact = TypeVar("_Fact", bound=Encoded)

MAP_KEY = b"map"
OPERATORS = b"operator/"
PUT_EXPIRIES = b"put-expiry/"
PROTOCOL_KEY = b"protocol"
ARRIVALS_KEY = b"arrivals"
ARRIVED = b"arrived/"
MAP_CHANGES = b"map-change/"
POLICY_KEY = b"upkeep-policy"
REPORTS = b"report/"
ERASED_AT = b"erased-at/"
HEIGHTS_SOUGHT = 64
"""Up to so many heights are sought one by one, which costs less than all erasures ever."""
EMERGENCY_POLICY_KEY = b"emergency-policy"
RECEIPT_ANCHORS = b"receipt-anchor/"


def account_key(account: AccountId) -> bytes:
    return b"account/" + account


def past_keys_key(account: AccountId, key_version: int) -> bytes:
    return b"past-keys/" + account + b"/" + key_version.to_bytes(4, "big")


def operator_key(account: AccountId) -> bytes:
    return OPERATORS + account


def record_key(record: RecordId) -> bytes:
    return b"record/" + record


def generation_key(record: RecordId, number: int) -> bytes:
    return b"generation/" + record + b"/" + number.to_bytes(4, "big")


def records_of_prefix(owner: AccountId) -> bytes:
    return b"records-of/" + owner + b"/"


def records_of_key(owner: AccountId, record: RecordId) -> bytes:
    return records_of_prefix(owner) + record


def grant_key(grant: GrantId) -> bytes:
    return b"grant/" + grant


def grants_on_prefix(record: RecordId) -> bytes:
    return b"grants-on/" + record + b"/"


def grants_on_key(record: RecordId, grant: GrantId) -> bytes:
    return grants_on_prefix(record) + grant


def grants_to_prefix(account: AccountId) -> bytes:
    return b"grants-to/" + account + b"/"


def grants_to_key(account: AccountId, grant: GrantId) -> bytes:
    return grants_to_prefix(account) + grant


def ask_key(ask: AskId) -> bytes:
    return b"ask/" + ask


def asks_by_prefix(requester: AccountId) -> bytes:
    return b"asks-by/" + requester + b"/"


def asks_by_key(requester: AccountId, ask: AskId) -> bytes:
    return asks_by_prefix(requester) + ask


def asks_to_prefix(patient: AccountId) -> bytes:
    return b"asks-to/" + patient + b"/"


def asks_to_key(patient: AccountId, ask: AskId) -> bytes:
    return asks_to_prefix(patient) + ask


def put_row_key(account: AccountId, put_key: PutKey) -> bytes:
    return b"put-key/" + account + b"/" + put_key


def put_expiry_key(commit_by_ms: int, account: AccountId, put_key: PutKey) -> bytes:
    return PUT_EXPIRIES + commit_by_ms.to_bytes(8, "big") + b"/" + account + b"/" + put_key


def parse_put_expiry(key: bytes) -> tuple[int, AccountId, PutKey]:
    """The inverse of :func:`put_expiry_key`."""
    rest = key[len(PUT_EXPIRIES) :]
    return int.from_bytes(rest[:8], "big"), AccountId(rest[9:25]), PutKey(rest[26:])


def arrived_key(name: SeatName) -> bytes:
    # The profile, whose length varies, comes last.
    place = name.partition.to_bytes(4, "big") + b"/" + name.seat.to_bytes(1, "big")
    return ARRIVED + place + b"/" + name.profile.encode()


def parse_arrived(key: bytes) -> SeatName:
    """The inverse of :func:`arrived_key`."""
    rest = key[len(ARRIVED) :]
    return SeatName(rest[7:].decode(), int.from_bytes(rest[:4], "big"), rest[5])


def receipt_anchor_key(node: AccountId) -> bytes:
    return RECEIPT_ANCHORS + node


def map_change_key(epoch: int) -> bytes:
    return MAP_CHANGES + epoch.to_bytes(8, "big")


def report_key(node_id: int) -> bytes:
    return REPORTS + node_id.to_bytes(2, "big")


def retention_key(record: RecordId) -> bytes:
    return b"retention/" + record


def holds_prefix(record: RecordId) -> bytes:
    return b"hold/" + record + b"/"


def hold_key(record: RecordId, hold: HoldId) -> bytes:
    return holds_prefix(record) + hold


def erased_key(record: RecordId) -> bytes:
    return b"erased/" + record


def erased_at_key(height: int, record: RecordId) -> bytes:
    return ERASED_AT + height.to_bytes(8, "big") + b"/" + record


def parse_erased_at(key: bytes) -> tuple[int, RecordId]:
    """The inverse of :func:`erased_at_key`."""
    rest = key[len(ERASED_AT) :]
    return int.from_bytes(rest[:8], "big"), RecordId(rest[9:])


def naming_key(naming: GrantId) -> bytes:
    return b"emergency-naming/" + naming


def refusal_key(record: RecordId) -> bytes:
    return b"emergency-refusal/" + record


@dataclass(frozen=True)
class PutRow(Encoded):
    """What a put key is remembered by until ``commit_by_ms``: the leaves it made."""

    KIND = "put-row"

    commit_by_ms: int
    leaves: tuple[LeafResult, ...]


class State(Protocol):
    """Read access to keys and values at one height."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs whose key starts with ``prefix``, by ascending key, read as they are asked for.

        The state must not change while the iterator is in use.
        """

    def fact(self, cls: type[_Fact], key: bytes) -> _Fact | None:
        """The value, decoded; a key always has the same class.

        Raises:
            Corrupt: ``bad-state``: the value cannot be read.
        """


def decode_fact(cls: type[_Fact], value: bytes | None) -> _Fact | None:
    """What a value of the state means.

    Raises:
        Corrupt: ``bad-state``: it cannot be read.
    """
    if value is None:
        return None
    try:
        return cls.decode(value)
    except Invalid as error:
        raise Corrupt(
            f"a {cls.KIND} row of the ledger's state cannot be read ({error.message}): "
            "verify the log and rebuild the state",
            reason="bad-state",
        ) from error


class MemoryState:
    """A state in memory: for verification by replay, and for tests."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for position in range(bisect_left(self._keys, prefix), len(self._keys)):
            key = self._keys[position]
            if not key.startswith(prefix):
                return
            yield key, self._values[key]

    def fact(self, cls: type[_Fact], key: bytes) -> _Fact | None:
        return decode_fact(cls, self._values.get(key))

    def write(self, writes: Mapping[bytes, bytes | None]) -> None:
        """Apply the writes of an overlay; None deletes."""
        for key, value in writes.items():
            known = key in self._values
            if value is not None:
                self._values[key] = value
                if not known:
                    insort(self._keys, key)
            elif known:
                del self._values[key]
                del self._keys[bisect_left(self._keys, key)]


class Overlay:
    """A state with changes on top of a base that stays as it is."""

    def __init__(self, base: State) -> None:
        self._base = base
        self._writes: dict[bytes, bytes | None] = {}
        # What was decoded or written here; a write of bytes takes its key out.
        self._facts: dict[bytes, Encoded] = {}

    @property
    def writes(self) -> Mapping[bytes, bytes | None]:
        """What changed; None means deleted."""
        return self._writes

    @property
    def written_facts(self) -> Mapping[bytes, Encoded]:
        """What some of the writes mean, by their keys."""
        return {key: self._facts[key] for key in self._writes if key in self._facts}

    def get(self, key: bytes) -> bytes | None:
        if key in self._writes:
            return self._writes[key]
        return self._base.get(key)

    def fact(self, cls: type[_Fact], key: bytes) -> _Fact | None:
        known = self._facts.get(key)
        if known is not None:
            return cast(_Fact, known)
        if key in self._writes:
            found = decode_fact(cls, self._writes[key])
        else:
            found = self._base.fact(cls, key)
        if found is not None:
            self._facts[key] = found
        return found

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        changed = sorted(key for key in self._writes if key.startswith(prefix))
        below = (pair for pair in self._base.scan(prefix) if pair[0] not in self._writes)
        above = ((key, value) for key in changed if (value := self._writes[key]) is not None)
        return heapq.merge(below, above)

    def put(self, key: bytes, value: bytes) -> None:
        self._facts.pop(key, None)
        self._writes[key] = value

    def put_fact(self, key: bytes, fact: Encoded) -> None:
        """Put the canonical bytes of a fact, which then need not be decoded again."""
        self._writes[key] = fact.encode()
        self._facts[key] = fact

    def delete(self, key: bytes) -> None:
        self._facts.pop(key, None)
        self._writes[key] = None

    def absorb(self, child: Overlay) -> None:
        """Take over the writes of an overlay whose base is this one."""
        self._writes.update(child._writes)
        for key in child._writes:
            fact = child._facts.get(key)
            if fact is None:
                self._facts.pop(key, None)
            else:
                self._facts[key] = fact


class StateView:
    """A :class:`hcefs.access.facts.LedgerView` over any state.

    Raises (every method):
        Corrupt: ``bad-state``: a row cannot be read.
    """

    def __init__(self, state: State, height: int, time_ms: int) -> None:
        self._state = state
        self._height = height
        self._time_ms = time_ms

    @property
    def state(self) -> State:
        """What this is a view of."""
        return self._state

    @property
    def height(self) -> int:
        """Height of the last block applied."""
        return self._height

    @property
    def time_ms(self) -> int:
        """Time of the last block applied, milliseconds since the Unix epoch."""
        return self._time_ms

    def account(self, account: AccountId) -> Account | None:
        """The account, or None."""
        return self._state.fact(Account, account_key(account))

    def past_keys(self, account: AccountId, key_version: int) -> PastKeys | None:
        """A version of an account's public keys that has ended, or None."""
        if not 0 <= key_version < 1 << 32:
            return None
        return self._state.fact(PastKeys, past_keys_key(account, key_version))

    def record(self, record: RecordId) -> Record | None:
        """The record, or None."""
        return self._state.fact(Record, record_key(record))

    def generation(self, record: RecordId, number: int) -> Generation | None:
        """One generation of a record, or None."""
        if not 0 <= number < 1 << 32:
            return None
        return self._state.fact(Generation, generation_key(record, number))

    def grant(self, grant: GrantId) -> Grant | None:
        """The grant, revoked or not, or None."""
        return self._state.fact(Grant, grant_key(grant))

    def emergency_naming(self, naming: GrantId) -> EmergencyNaming | None:
        """Who was named for emergencies, whether the naming has ended or not, or None."""
        return self._state.fact(EmergencyNaming, naming_key(naming))

    def emergency_policy(self) -> EmergencyPolicy:
        """What operators allow in an emergency; by default nothing."""
        return self._state.fact(EmergencyPolicy, EMERGENCY_POLICY_KEY) or EmergencyPolicy()

    def emergency_refused(self, record: RecordId) -> bool:
        """Whether the record's owner refuses openings in an emergency."""
        return self.emergency_refusal(record) is not None

    def emergency_refusal(self, record: RecordId) -> EmergencyRefusal | None:
        """The wish of a record's owner that nobody opens it, or None."""
        return self._state.fact(EmergencyRefusal, refusal_key(record))

    def cluster_map(self) -> ClusterMap | None:
        """The cluster map in force, or None before the first."""
        return self._state.fact(ClusterMap, MAP_KEY)

    def protocol(self) -> ProtocolSchedule:
        """Every change of the rules."""
        return self._state.fact(ProtocolSchedule, PROTOCOL_KEY) or ProtocolSchedule()

    def arrivals(self) -> Arrivals:
        """The number of seats in flight in the epoch in force, and of those that have arrived."""
        found = self._state.fact(Arrivals, ARRIVALS_KEY)
        if found is not None:
            return found
        current = self.cluster_map()
        return Arrivals(0 if current is None else current.epoch, 0, 0)

    def arrived(self) -> frozenset[SeatName]:
        """The seats in flight that have arrived."""
        return frozenset(parse_arrived(key) for key, _ in self._state.scan(ARRIVED))

    def map_change(self, epoch: int) -> MapChange | None:
        """How an epoch began; None for one of version 1, or to come."""
        if not 0 <= epoch < 1 << 63:
            return None
        return self._state.fact(MapChange, map_change_key(epoch))

    def map_changes(self, first: int, count: int) -> Iterator[MapChange]:
        """How epochs began, in order: at most ``count``, from the first one at or after ``first``.

        The rows have no gap, so those wanted are found by number, wherever version 2 began.
        """
        current = self.cluster_map()
        last = 0 if current is None else current.epoch
        known = next(iter(self._state.scan(MAP_CHANGES)), None)
        begun = last + 1 if known is None else int.from_bytes(known[0][len(MAP_CHANGES) :], "big")
        first = max(first, begun)
        for epoch in range(first, min(last + 1, first + count)):
            found = self.map_change(epoch)
            if found is not None:
                yield found

    def policy(self) -> UpkeepPolicy:
        """What nodes may do by themselves."""
        return self._state.fact(UpkeepPolicy, POLICY_KEY) or UpkeepPolicy()

    def report(self, node_id: int) -> ReportRow | None:
        """What a node last reported, or None."""
        return self._state.fact(ReportRow, report_key(node_id))

    def reports(self) -> tuple[ReportRow, ...]:
        """What each node last reported, by ascending node id."""
        ids = (int.from_bytes(key[len(REPORTS) :], "big") for key, _ in self._state.scan(REPORTS))
        found = (self.report(node_id) for node_id in ids)
        return tuple(row for row in found if row is not None)

    def retention(self, record: RecordId) -> Retention | None:
        """Until when a record must be kept, or None where nobody has said so."""
        return self._state.fact(Retention, retention_key(record))

    def hold(self, record: RecordId, hold: HoldId) -> Hold | None:
        """One hold on a record, lifted or not, or None."""
        return self._state.fact(Hold, hold_key(record, hold))

    def holds(self, record: RecordId) -> list[Hold]:
        """All holds on a record, lifted ones included, by id."""
        prefix = holds_prefix(record)
        ids = [HoldId(key[len(prefix) :]) for key, _ in self._state.scan(prefix)]
        found = (self.hold(record, each) for each in ids)
        return [hold for hold in found if hold is not None]

    def erasure(self, record: RecordId) -> Erasure | None:
        """That a record was erased, and when, or None."""
        return self._state.fact(Erasure, erased_key(record))

    def erased_after(self, height: int, record: RecordId, limit: int) -> list[Erasure]:
        """Erasures in order of height and record, behind this one; at most ``limit``.

        Cheap for who asks again soon; else it begins at the first one of all.
        """
        found: list[Erasure] = []
        prefixes = [ERASED_AT]
        if 0 <= self.height - height <= HEIGHTS_SOUGHT:
            heights = range(height, self.height + 1)
            prefixes = [ERASED_AT + each.to_bytes(8, "big") + b"/" for each in heights]
        for key in (key for prefix in prefixes for key, _ in self._state.scan(prefix)):
            at = parse_erased_at(key)
            if at <= (height, record):
                continue
            erasure = self.erasure(at[1])
            if erasure is not None:
                found.append(erasure)
            if len(found) == limit:
                break
        return found

    def receipt_anchor(self, node: AccountId) -> ReceiptAnchor | None:
        """The last batch of receipts that a node anchored, or None."""
        return self._state.fact(ReceiptAnchor, receipt_anchor_key(node))

    def put_row(self, account: AccountId, put_key: PutKey) -> PutRow | None:
        """What a put key made, while it is remembered."""
        return self._state.fact(PutRow, put_row_key(account, put_key))

    def operators(self) -> frozenset[AccountId]:
        """The active operators."""
        return frozenset(AccountId(key[len(OPERATORS) :]) for key, _ in self._state.scan(OPERATORS))

    def grants_on_record(self, record: RecordId) -> list[Grant]:
        """All grants on a record, revoked ones included, by id."""
        return self._grants(grants_on_prefix(record))

    def grants_to(self, account: AccountId) -> list[Grant]:
        """All grants to an account, revoked ones included, by id."""
        return self._grants(grants_to_prefix(account))

    def records_of(self, owner: AccountId) -> list[Record]:
        """All records of an owner, by id."""
        prefix = records_of_prefix(owner)
        found = (self.record(RecordId(key[len(prefix) :])) for key, _ in self._state.scan(prefix))
        return [record for record in found if record is not None]

    def asked(self, ask: AskId) -> AskedAccess | None:
        """A request for access, or None when there is none or it was forgotten."""
        return self._state.fact(AskedAccess, ask_key(ask))

    def asks_by(self, requester: AccountId) -> list[AskedAccess]:
        """The requests of an account, answered ones included, by id; expired ones may be there."""
        return self._asks(asks_by_prefix(requester))

    def asks_to(self, patient: AccountId) -> list[AskedAccess]:
        """The open requests to a patient, by id; expired ones may be among them."""
        return self._asks(asks_to_prefix(patient))

    def _asks(self, prefix: bytes) -> list[AskedAccess]:
        found = (self.asked(AskId(key[len(prefix) :])) for key, _ in self._state.scan(prefix))
        return [asked for asked in found if asked is not None]

    def _grants(self, prefix: bytes) -> list[Grant]:
        found = (self.grant(GrantId(key[len(prefix) :])) for key, _ in self._state.scan(prefix))
        return [grant for grant in found if grant is not None]

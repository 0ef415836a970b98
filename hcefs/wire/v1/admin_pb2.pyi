from hcefs.wire.v1 import facts_pb2 as _facts_pb2
from hcefs.wire.v1 import versions_pb2 as _versions_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ShardState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHARD_STATE_UNSPECIFIED: _ClassVar[ShardState]
    SHARD_STATE_WHOLE: _ClassVar[ShardState]
    SHARD_STATE_DAMAGED: _ClassVar[ShardState]
    SHARD_STATE_MISSING: _ClassVar[ShardState]
SHARD_STATE_UNSPECIFIED: ShardState
SHARD_STATE_WHOLE: ShardState
SHARD_STATE_DAMAGED: ShardState
SHARD_STATE_MISSING: ShardState

class StatusRequest(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    def __init__(self, proof: _Optional[bytes] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("account", "node_id", "version", "height", "app_hash", "lease_age_ms", "epoch", "shards", "shard_bytes", "free_bytes", "pending_blobs", "warnings", "erasure_kernel", "moving_seats", "rebalanced_bytes", "versions", "protocol", "shard_version", "facts")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    APP_HASH_FIELD_NUMBER: _ClassVar[int]
    LEASE_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARD_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PENDING_BLOBS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    ERASURE_KERNEL_FIELD_NUMBER: _ClassVar[int]
    MOVING_SEATS_FIELD_NUMBER: _ClassVar[int]
    REBALANCED_BYTES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SHARD_VERSION_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    account: bytes
    node_id: int
    version: str
    height: int
    app_hash: bytes
    lease_age_ms: int
    epoch: int
    shards: int
    shard_bytes: int
    free_bytes: int
    pending_blobs: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    erasure_kernel: str
    moving_seats: int
    rebalanced_bytes: int
    versions: _versions_pb2.Versions
    protocol: int
    shard_version: int
    facts: _facts_pb2.NodeFacts
    def __init__(self, account: _Optional[bytes] = ..., node_id: _Optional[int] = ..., version: _Optional[str] = ..., height: _Optional[int] = ..., app_hash: _Optional[bytes] = ..., lease_age_ms: _Optional[int] = ..., epoch: _Optional[int] = ..., shards: _Optional[int] = ..., shard_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., pending_blobs: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., erasure_kernel: _Optional[str] = ..., moving_seats: _Optional[int] = ..., rebalanced_bytes: _Optional[int] = ..., versions: _Optional[_Union[_versions_pb2.Versions, _Mapping]] = ..., protocol: _Optional[int] = ..., shard_version: _Optional[int] = ..., facts: _Optional[_Union[_facts_pb2.NodeFacts, _Mapping]] = ...) -> None: ...

class InventoryRequest(_message.Message):
    __slots__ = ("proof", "profile", "first", "count")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    profile: str
    first: int
    count: int
    def __init__(self, proof: _Optional[bytes] = ..., profile: _Optional[str] = ..., first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class PartitionInventory(_message.Message):
    __slots__ = ("partition", "shards", "digest")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    partition: int
    shards: int
    digest: bytes
    def __init__(self, partition: _Optional[int] = ..., shards: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class InventoryResponse(_message.Message):
    __slots__ = ("epoch", "partitions", "elsewhere")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    partitions: _containers.RepeatedCompositeFieldContainer[PartitionInventory]
    elsewhere: int
    def __init__(self, epoch: _Optional[int] = ..., partitions: _Optional[_Iterable[_Union[PartitionInventory, _Mapping]]] = ..., elsewhere: _Optional[int] = ...) -> None: ...

class RepairStatusRequest(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    def __init__(self, proof: _Optional[bytes] = ...) -> None: ...

class Backlog(_message.Message):
    __slots__ = ("margin", "shards")
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    margin: str
    shards: int
    def __init__(self, margin: _Optional[str] = ..., shards: _Optional[int] = ...) -> None: ...

class LiveBlobs(_message.Message):
    __slots__ = ("profile", "live", "blobs")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    profile: str
    live: int
    blobs: int
    def __init__(self, profile: _Optional[str] = ..., live: _Optional[int] = ..., blobs: _Optional[int] = ...) -> None: ...

class Stock(_message.Message):
    __slots__ = ("epoch", "began_ms", "ended_ms", "rows", "seats", "waiting", "lacking", "blobs", "full", "degraded", "lost", "unreachable", "gone")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BEGAN_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SEATS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    LACKING_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    began_ms: int
    ended_ms: int
    rows: int
    seats: int
    waiting: int
    lacking: int
    blobs: _containers.RepeatedCompositeFieldContainer[LiveBlobs]
    full: int
    degraded: int
    lost: int
    unreachable: int
    gone: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, epoch: _Optional[int] = ..., began_ms: _Optional[int] = ..., ended_ms: _Optional[int] = ..., rows: _Optional[int] = ..., seats: _Optional[int] = ..., waiting: _Optional[int] = ..., lacking: _Optional[int] = ..., blobs: _Optional[_Iterable[_Union[LiveBlobs, _Mapping]]] = ..., full: _Optional[int] = ..., degraded: _Optional[int] = ..., lost: _Optional[int] = ..., unreachable: _Optional[int] = ..., gone: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RepairStatusResponse(_message.Message):
    __slots__ = ("epoch", "backlog", "oldest_ms", "pace_shards", "pace_bytes", "left_seconds", "left_bytes", "repaired_shards", "repaired_bytes", "passing", "last", "whole_ms", "rate_bytes", "hints")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    OLDEST_MS_FIELD_NUMBER: _ClassVar[int]
    PACE_SHARDS_FIELD_NUMBER: _ClassVar[int]
    PACE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEFT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LEFT_BYTES_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_SHARDS_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PASSING_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    WHOLE_MS_FIELD_NUMBER: _ClassVar[int]
    RATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HINTS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    backlog: _containers.RepeatedCompositeFieldContainer[Backlog]
    oldest_ms: int
    pace_shards: float
    pace_bytes: float
    left_seconds: float
    left_bytes: int
    repaired_shards: int
    repaired_bytes: int
    passing: Stock
    last: Stock
    whole_ms: int
    rate_bytes: float
    hints: int
    def __init__(self, epoch: _Optional[int] = ..., backlog: _Optional[_Iterable[_Union[Backlog, _Mapping]]] = ..., oldest_ms: _Optional[int] = ..., pace_shards: _Optional[float] = ..., pace_bytes: _Optional[float] = ..., left_seconds: _Optional[float] = ..., left_bytes: _Optional[int] = ..., repaired_shards: _Optional[int] = ..., repaired_bytes: _Optional[int] = ..., passing: _Optional[_Union[Stock, _Mapping]] = ..., last: _Optional[_Union[Stock, _Mapping]] = ..., whole_ms: _Optional[int] = ..., rate_bytes: _Optional[float] = ..., hints: _Optional[int] = ...) -> None: ...

class RepairNowRequest(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    def __init__(self, proof: _Optional[bytes] = ...) -> None: ...

class RepairNowResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RepairListRequest(_message.Message):
    __slots__ = ("proof", "limit")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    limit: int
    def __init__(self, proof: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class QueuedShard(_message.Message):
    __slots__ = ("base", "index", "profile", "reason", "found_ms", "live", "attempts", "tried_ms", "error", "due_ms")
    BASE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FOUND_MS_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    TRIED_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    base: bytes
    index: int
    profile: str
    reason: str
    found_ms: int
    live: int
    attempts: int
    tried_ms: int
    error: str
    due_ms: int
    def __init__(self, base: _Optional[bytes] = ..., index: _Optional[int] = ..., profile: _Optional[str] = ..., reason: _Optional[str] = ..., found_ms: _Optional[int] = ..., live: _Optional[int] = ..., attempts: _Optional[int] = ..., tried_ms: _Optional[int] = ..., error: _Optional[str] = ..., due_ms: _Optional[int] = ...) -> None: ...

class RepairListResponse(_message.Message):
    __slots__ = ("shards", "total")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[QueuedShard]
    total: int
    def __init__(self, shards: _Optional[_Iterable[_Union[QueuedShard, _Mapping]]] = ..., total: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("proof", "base")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    base: bytes
    def __init__(self, proof: _Optional[bytes] = ..., base: _Optional[bytes] = ...) -> None: ...

class AuditedShard(_message.Message):
    __slots__ = ("base", "index", "profile", "state", "reason", "bytes", "layout_profile", "layout_version", "layout_digest", "committed", "problem")
    BASE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_PROFILE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_VERSION_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    base: bytes
    index: int
    profile: str
    state: ShardState
    reason: str
    bytes: int
    layout_profile: str
    layout_version: int
    layout_digest: bytes
    committed: bool
    problem: str
    def __init__(self, base: _Optional[bytes] = ..., index: _Optional[int] = ..., profile: _Optional[str] = ..., state: _Optional[_Union[ShardState, str]] = ..., reason: _Optional[str] = ..., bytes: _Optional[int] = ..., layout_profile: _Optional[str] = ..., layout_version: _Optional[int] = ..., layout_digest: _Optional[bytes] = ..., committed: _Optional[bool] = ..., problem: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("epoch", "shards", "queued")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    shards: _containers.RepeatedCompositeFieldContainer[AuditedShard]
    queued: _containers.RepeatedCompositeFieldContainer[QueuedShard]
    def __init__(self, epoch: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[AuditedShard, _Mapping]]] = ..., queued: _Optional[_Iterable[_Union[QueuedShard, _Mapping]]] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("proof", "profile", "partition", "after", "count")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    profile: str
    partition: int
    after: bytes
    count: int
    def __init__(self, proof: _Optional[bytes] = ..., profile: _Optional[str] = ..., partition: _Optional[int] = ..., after: _Optional[bytes] = ..., count: _Optional[int] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("epoch", "shards", "next")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    shards: _containers.RepeatedCompositeFieldContainer[AuditedShard]
    next: bytes
    def __init__(self, epoch: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[AuditedShard, _Mapping]]] = ..., next: _Optional[bytes] = ...) -> None: ...

class FindLostRequest(_message.Message):
    __slots__ = ("proof", "partitions")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    partitions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, proof: _Optional[bytes] = ..., partitions: _Optional[_Iterable[int]] = ...) -> None: ...

class FindLostResponse(_message.Message):
    __slots__ = ("lost", "unheard")
    LOST_FIELD_NUMBER: _ClassVar[int]
    UNHEARD_FIELD_NUMBER: _ClassVar[int]
    lost: _containers.RepeatedScalarFieldContainer[bytes]
    unheard: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, lost: _Optional[_Iterable[bytes]] = ..., unheard: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ScrubRequest(_message.Message):
    __slots__ = ("proof", "now")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    now: bool
    def __init__(self, proof: _Optional[bytes] = ..., now: _Optional[bool] = ...) -> None: ...

class QuarantinedShard(_message.Message):
    __slots__ = ("name", "size", "profile", "reason", "at_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    profile: str
    reason: str
    at_ms: int
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., profile: _Optional[str] = ..., reason: _Optional[str] = ..., at_ms: _Optional[int] = ...) -> None: ...

class ScrubResponse(_message.Message):
    __slots__ = ("cycle", "started_ms", "stage", "progress_permille", "resting", "rate_bytes", "shards", "read_bytes", "rows", "damaged", "oldest_verified_ms", "quarantined", "rows_put_away", "disk_state", "restoring", "warnings", "disagreements", "undecided", "superfluous")
    CYCLE_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_PERMILLE_FIELD_NUMBER: _ClassVar[int]
    RESTING_FIELD_NUMBER: _ClassVar[int]
    RATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_VERIFIED_MS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    ROWS_PUT_AWAY_FIELD_NUMBER: _ClassVar[int]
    DISK_STATE_FIELD_NUMBER: _ClassVar[int]
    RESTORING_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    DISAGREEMENTS_FIELD_NUMBER: _ClassVar[int]
    UNDECIDED_FIELD_NUMBER: _ClassVar[int]
    SUPERFLUOUS_FIELD_NUMBER: _ClassVar[int]
    cycle: int
    started_ms: int
    stage: str
    progress_permille: int
    resting: bool
    rate_bytes: int
    shards: int
    read_bytes: int
    rows: int
    damaged: int
    oldest_verified_ms: int
    quarantined: _containers.RepeatedCompositeFieldContainer[QuarantinedShard]
    rows_put_away: int
    disk_state: str
    restoring: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    disagreements: int
    undecided: int
    superfluous: int
    def __init__(self, cycle: _Optional[int] = ..., started_ms: _Optional[int] = ..., stage: _Optional[str] = ..., progress_permille: _Optional[int] = ..., resting: _Optional[bool] = ..., rate_bytes: _Optional[int] = ..., shards: _Optional[int] = ..., read_bytes: _Optional[int] = ..., rows: _Optional[int] = ..., damaged: _Optional[int] = ..., oldest_verified_ms: _Optional[int] = ..., quarantined: _Optional[_Iterable[_Union[QuarantinedShard, _Mapping]]] = ..., rows_put_away: _Optional[int] = ..., disk_state: _Optional[str] = ..., restoring: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ..., disagreements: _Optional[int] = ..., undecided: _Optional[int] = ..., superfluous: _Optional[int] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("proof", "dry_run")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    dry_run: bool
    def __init__(self, proof: _Optional[bytes] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class CollectItem(_message.Message):
    __slots__ = ("what", "name", "size", "deleted", "why")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    what: str
    name: str
    size: int
    deleted: bool
    why: str
    def __init__(self, what: _Optional[str] = ..., name: _Optional[str] = ..., size: _Optional[int] = ..., deleted: _Optional[bool] = ..., why: _Optional[str] = ...) -> None: ...

class CollectResponse(_message.Message):
    __slots__ = ("items", "restoring")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    RESTORING_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[CollectItem]
    restoring: bool
    def __init__(self, items: _Optional[_Iterable[_Union[CollectItem, _Mapping]]] = ..., restoring: _Optional[bool] = ...) -> None: ...

class StateErasureRequest(_message.Message):
    __slots__ = ("proof", "record_id")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    record_id: bytes
    def __init__(self, proof: _Optional[bytes] = ..., record_id: _Optional[bytes] = ...) -> None: ...

class StateErasureResponse(_message.Message):
    __slots__ = ("height", "stage", "statement")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    height: int
    stage: str
    statement: bytes
    def __init__(self, height: _Optional[int] = ..., stage: _Optional[str] = ..., statement: _Optional[bytes] = ...) -> None: ...

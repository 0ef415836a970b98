from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Named(_message.Message):
    __slots__ = ("name", "count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    count: int
    def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class LiveShards(_message.Message):
    __slots__ = ("profile", "live", "blobs")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    profile: str
    live: int
    blobs: int
    def __init__(self, profile: _Optional[str] = ..., live: _Optional[int] = ..., blobs: _Optional[int] = ...) -> None: ...

class NodeFacts(_message.Message):
    __slots__ = ("taken_ms", "version", "started_ms", "height", "lag_blocks", "lease_age_ms", "disk_state", "free_bytes", "total_bytes", "shards", "shard_bytes", "quarantined", "live", "pass_ended_ms", "pass_rows", "pass_seats", "backlog", "repair_bytes_second", "repair_left_seconds", "repaired_shards", "scrub_permille", "scrub_resting", "scrub_damaged", "scrub_oldest_ms", "moving_seats", "stand_ins_waiting", "requests", "put_bytes", "get_bytes", "denials")
    TAKEN_MS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    LAG_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LEASE_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    DISK_STATE_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARD_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    PASS_ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    PASS_ROWS_FIELD_NUMBER: _ClassVar[int]
    PASS_SEATS_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    REPAIR_BYTES_SECOND_FIELD_NUMBER: _ClassVar[int]
    REPAIR_LEFT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_SHARDS_FIELD_NUMBER: _ClassVar[int]
    SCRUB_PERMILLE_FIELD_NUMBER: _ClassVar[int]
    SCRUB_RESTING_FIELD_NUMBER: _ClassVar[int]
    SCRUB_DAMAGED_FIELD_NUMBER: _ClassVar[int]
    SCRUB_OLDEST_MS_FIELD_NUMBER: _ClassVar[int]
    MOVING_SEATS_FIELD_NUMBER: _ClassVar[int]
    STAND_INS_WAITING_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    GET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DENIALS_FIELD_NUMBER: _ClassVar[int]
    taken_ms: int
    version: str
    started_ms: int
    height: int
    lag_blocks: int
    lease_age_ms: int
    disk_state: str
    free_bytes: int
    total_bytes: int
    shards: int
    shard_bytes: int
    quarantined: int
    live: _containers.RepeatedCompositeFieldContainer[LiveShards]
    pass_ended_ms: int
    pass_rows: int
    pass_seats: int
    backlog: _containers.RepeatedCompositeFieldContainer[Named]
    repair_bytes_second: float
    repair_left_seconds: float
    repaired_shards: int
    scrub_permille: int
    scrub_resting: bool
    scrub_damaged: int
    scrub_oldest_ms: int
    moving_seats: int
    stand_ins_waiting: int
    requests: int
    put_bytes: int
    get_bytes: int
    denials: _containers.RepeatedCompositeFieldContainer[Named]
    def __init__(self, taken_ms: _Optional[int] = ..., version: _Optional[str] = ..., started_ms: _Optional[int] = ..., height: _Optional[int] = ..., lag_blocks: _Optional[int] = ..., lease_age_ms: _Optional[int] = ..., disk_state: _Optional[str] = ..., free_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., shards: _Optional[int] = ..., shard_bytes: _Optional[int] = ..., quarantined: _Optional[int] = ..., live: _Optional[_Iterable[_Union[LiveShards, _Mapping]]] = ..., pass_ended_ms: _Optional[int] = ..., pass_rows: _Optional[int] = ..., pass_seats: _Optional[int] = ..., backlog: _Optional[_Iterable[_Union[Named, _Mapping]]] = ..., repair_bytes_second: _Optional[float] = ..., repair_left_seconds: _Optional[float] = ..., repaired_shards: _Optional[int] = ..., scrub_permille: _Optional[int] = ..., scrub_resting: _Optional[bool] = ..., scrub_damaged: _Optional[int] = ..., scrub_oldest_ms: _Optional[int] = ..., moving_seats: _Optional[int] = ..., stand_ins_waiting: _Optional[int] = ..., requests: _Optional[int] = ..., put_bytes: _Optional[int] = ..., get_bytes: _Optional[int] = ..., denials: _Optional[_Iterable[_Union[Named, _Mapping]]] = ...) -> None: ...

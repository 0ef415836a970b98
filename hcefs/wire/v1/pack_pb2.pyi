from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BatchAuthorization(_message.Message):
    __slots__ = ("tokens", "proof")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[bytes]
    proof: bytes
    def __init__(self, tokens: _Optional[_Iterable[bytes]] = ..., proof: _Optional[bytes] = ...) -> None: ...

class BatchGroup(_message.Message):
    __slots__ = ("token", "record_id", "blob_ids")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_IDS_FIELD_NUMBER: _ClassVar[int]
    token: int
    record_id: bytes
    blob_ids: bytes
    def __init__(self, token: _Optional[int] = ..., record_id: _Optional[bytes] = ..., blob_ids: _Optional[bytes] = ...) -> None: ...

class PackGroup(_message.Message):
    __slots__ = ("token", "record_id", "slots", "cores", "wrapped_keys", "envelope", "opening")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    WRAPPED_KEYS_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    token: int
    record_id: bytes
    slots: bytes
    cores: _containers.RepeatedScalarFieldContainer[bytes]
    wrapped_keys: bytes
    envelope: bytes
    opening: bytes
    def __init__(self, token: _Optional[int] = ..., record_id: _Optional[bytes] = ..., slots: _Optional[bytes] = ..., cores: _Optional[_Iterable[bytes]] = ..., wrapped_keys: _Optional[bytes] = ..., envelope: _Optional[bytes] = ..., opening: _Optional[bytes] = ...) -> None: ...

class PutManyRequest(_message.Message):
    __slots__ = ("header", "data", "groups")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    header: PutManyHeader
    data: bytes
    groups: PackGroups
    def __init__(self, header: _Optional[_Union[PutManyHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., groups: _Optional[_Union[PackGroups, _Mapping]] = ...) -> None: ...

class PackGroups(_message.Message):
    __slots__ = ("groups",)
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[PackGroup]
    def __init__(self, groups: _Optional[_Iterable[_Union[PackGroup, _Mapping]]] = ...) -> None: ...

class PutManyHeader(_message.Message):
    __slots__ = ("authorization", "base", "profile", "lengths", "commit_by_ms", "writer", "groups", "min_height", "epoch", "request_id")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_BY_MS_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    authorization: BatchAuthorization
    base: bytes
    profile: str
    lengths: bytes
    commit_by_ms: int
    writer: bytes
    groups: int
    min_height: int
    epoch: int
    request_id: bytes
    def __init__(self, authorization: _Optional[_Union[BatchAuthorization, _Mapping]] = ..., base: _Optional[bytes] = ..., profile: _Optional[str] = ..., lengths: _Optional[bytes] = ..., commit_by_ms: _Optional[int] = ..., writer: _Optional[bytes] = ..., groups: _Optional[int] = ..., min_height: _Optional[int] = ..., epoch: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class PutManyResponse(_message.Message):
    __slots__ = ("layout", "durable_shards", "total_shards", "degraded")
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SHARDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SHARDS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    layout: bytes
    durable_shards: int
    total_shards: int
    degraded: bool
    def __init__(self, layout: _Optional[bytes] = ..., durable_shards: _Optional[int] = ..., total_shards: _Optional[int] = ..., degraded: _Optional[bool] = ...) -> None: ...

class GetManyRequest(_message.Message):
    __slots__ = ("authorization", "groups", "min_height", "epoch", "request_id")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    authorization: BatchAuthorization
    groups: _containers.RepeatedCompositeFieldContainer[BatchGroup]
    min_height: int
    epoch: int
    request_id: bytes
    def __init__(self, authorization: _Optional[_Union[BatchAuthorization, _Mapping]] = ..., groups: _Optional[_Iterable[_Union[BatchGroup, _Mapping]]] = ..., min_height: _Optional[int] = ..., epoch: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class GetManyResponse(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[PackedPart]
    def __init__(self, parts: _Optional[_Iterable[_Union[PackedPart, _Mapping]]] = ...) -> None: ...

class PackedPart(_message.Message):
    __slots__ = ("record_id", "base", "envelope", "opening", "payloads", "layout", "failure")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    record_id: bytes
    base: bytes
    envelope: bytes
    opening: bytes
    payloads: _containers.RepeatedCompositeFieldContainer[PackedPayload]
    layout: bytes
    failure: PackedFailure
    def __init__(self, record_id: _Optional[bytes] = ..., base: _Optional[bytes] = ..., envelope: _Optional[bytes] = ..., opening: _Optional[bytes] = ..., payloads: _Optional[_Iterable[_Union[PackedPayload, _Mapping]]] = ..., layout: _Optional[bytes] = ..., failure: _Optional[_Union[PackedFailure, _Mapping]] = ...) -> None: ...

class PackedPayload(_message.Message):
    __slots__ = ("slot", "core", "wrapped_key", "proof", "sealed", "failure")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    CORE_FIELD_NUMBER: _ClassVar[int]
    WRAPPED_KEY_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    slot: int
    core: bytes
    wrapped_key: bytes
    proof: bytes
    sealed: bytes
    failure: PackedFailure
    def __init__(self, slot: _Optional[int] = ..., core: _Optional[bytes] = ..., wrapped_key: _Optional[bytes] = ..., proof: _Optional[bytes] = ..., sealed: _Optional[bytes] = ..., failure: _Optional[_Union[PackedFailure, _Mapping]] = ...) -> None: ...

class PackedFailure(_message.Message):
    __slots__ = ("kind", "reason", "message")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    reason: str
    message: str
    def __init__(self, kind: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class BatchContext(_message.Message):
    __slots__ = ("authorization", "method", "groups", "min_height", "epoch", "request_id", "stand_in")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STAND_IN_FIELD_NUMBER: _ClassVar[int]
    authorization: BatchAuthorization
    method: str
    groups: _containers.RepeatedCompositeFieldContainer[BatchGroup]
    min_height: int
    epoch: int
    request_id: bytes
    stand_in: bool
    def __init__(self, authorization: _Optional[_Union[BatchAuthorization, _Mapping]] = ..., method: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[BatchGroup, _Mapping]]] = ..., min_height: _Optional[int] = ..., epoch: _Optional[int] = ..., request_id: _Optional[bytes] = ..., stand_in: _Optional[bool] = ...) -> None: ...

class PackWanted(_message.Message):
    __slots__ = ("record_id", "base", "slots")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    record_id: bytes
    base: bytes
    slots: bytes
    def __init__(self, record_id: _Optional[bytes] = ..., base: _Optional[bytes] = ..., slots: _Optional[bytes] = ...) -> None: ...

class ColumnsWanted(_message.Message):
    __slots__ = ("payloads", "index", "column_of", "profile")
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    COLUMN_OF_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    payloads: PackWanted
    index: int
    column_of: int
    profile: str
    def __init__(self, payloads: _Optional[_Union[PackWanted, _Mapping]] = ..., index: _Optional[int] = ..., column_of: _Optional[int] = ..., profile: _Optional[str] = ...) -> None: ...

class Columns(_message.Message):
    __slots__ = ("data", "failure")
    DATA_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    failure: PackedFailure
    def __init__(self, data: _Optional[bytes] = ..., failure: _Optional[_Union[PackedFailure, _Mapping]] = ...) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    def __init__(self, proof: _Optional[bytes] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("account", "node_id", "version", "height", "app_hash", "lease_age_ms", "epoch", "shards", "shard_bytes", "free_bytes", "pending_blobs", "warnings", "erasure_kernel", "moving_seats", "rebalanced_bytes")
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
    def __init__(self, account: _Optional[bytes] = ..., node_id: _Optional[int] = ..., version: _Optional[str] = ..., height: _Optional[int] = ..., app_hash: _Optional[bytes] = ..., lease_age_ms: _Optional[int] = ..., epoch: _Optional[int] = ..., shards: _Optional[int] = ..., shard_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., pending_blobs: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., erasure_kernel: _Optional[str] = ..., moving_seats: _Optional[int] = ..., rebalanced_bytes: _Optional[int] = ...) -> None: ...

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

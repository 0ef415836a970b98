from hcefs.wire.v1 import facts_pb2 as _facts_pb2
from hcefs.wire.v1 import pack_pb2 as _pack_pb2
from hcefs.wire.v1 import shard_pb2 as _shard_pb2
from hcefs.wire.v1 import versions_pb2 as _versions_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LayoutStep(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LAYOUT_STEP_UNSPECIFIED: _ClassVar[LayoutStep]
    LAYOUT_STEP_STAGE: _ClassVar[LayoutStep]
    LAYOUT_STEP_PLACE: _ClassVar[LayoutStep]
    LAYOUT_STEP_ENTER: _ClassVar[LayoutStep]
LAYOUT_STEP_UNSPECIFIED: LayoutStep
LAYOUT_STEP_STAGE: LayoutStep
LAYOUT_STEP_PLACE: LayoutStep
LAYOUT_STEP_ENTER: LayoutStep

class Place(_message.Message):
    __slots__ = ("epoch", "profile", "partition")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    profile: str
    partition: int
    def __init__(self, epoch: _Optional[int] = ..., profile: _Optional[str] = ..., partition: _Optional[int] = ...) -> None: ...

class ListShardsRequest(_message.Message):
    __slots__ = ("place", "after", "also")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    ALSO_FIELD_NUMBER: _ClassVar[int]
    place: Place
    after: bytes
    also: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., after: _Optional[bytes] = ..., also: _Optional[_Iterable[int]] = ...) -> None: ...

class ListedShard(_message.Message):
    __slots__ = ("base", "index")
    BASE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    base: bytes
    index: int
    def __init__(self, base: _Optional[bytes] = ..., index: _Optional[int] = ...) -> None: ...

class ListShardsResponse(_message.Message):
    __slots__ = ("shards", "next")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[ListedShard]
    next: bytes
    def __init__(self, shards: _Optional[_Iterable[_Union[ListedShard, _Mapping]]] = ..., next: _Optional[bytes] = ...) -> None: ...

class ListRecordsRequest(_message.Message):
    __slots__ = ("place", "after", "also")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    ALSO_FIELD_NUMBER: _ClassVar[int]
    place: Place
    after: bytes
    also: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., after: _Optional[bytes] = ..., also: _Optional[_Iterable[int]] = ...) -> None: ...

class ListedRecord(_message.Message):
    __slots__ = ("record_id", "digest")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    record_id: bytes
    digest: bytes
    def __init__(self, record_id: _Optional[bytes] = ..., digest: _Optional[bytes] = ...) -> None: ...

class ListRecordsResponse(_message.Message):
    __slots__ = ("records", "next")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[ListedRecord]
    next: bytes
    def __init__(self, records: _Optional[_Iterable[_Union[ListedRecord, _Mapping]]] = ..., next: _Optional[bytes] = ...) -> None: ...

class LoadRowsRequest(_message.Message):
    __slots__ = ("place", "base")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    place: Place
    base: bytes
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., base: _Optional[bytes] = ...) -> None: ...

class LoadRowsResponse(_message.Message):
    __slots__ = ("layout", "core", "key_row", "opening", "groups", "commit_by_ms")
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    CORE_FIELD_NUMBER: _ClassVar[int]
    KEY_ROW_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_BY_MS_FIELD_NUMBER: _ClassVar[int]
    layout: bytes
    core: bytes
    key_row: bytes
    opening: bytes
    groups: _containers.RepeatedCompositeFieldContainer[_pack_pb2.PackGroup]
    commit_by_ms: int
    def __init__(self, layout: _Optional[bytes] = ..., core: _Optional[bytes] = ..., key_row: _Optional[bytes] = ..., opening: _Optional[bytes] = ..., groups: _Optional[_Iterable[_Union[_pack_pb2.PackGroup, _Mapping]]] = ..., commit_by_ms: _Optional[int] = ...) -> None: ...

class LoadShardRequest(_message.Message):
    __slots__ = ("place", "base", "index", "first")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    place: Place
    base: bytes
    index: int
    first: int
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., base: _Optional[bytes] = ..., index: _Optional[int] = ..., first: _Optional[int] = ...) -> None: ...

class LoadRecordRequest(_message.Message):
    __slots__ = ("place", "record_id", "after")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    place: Place
    record_id: bytes
    after: bytes
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., record_id: _Optional[bytes] = ..., after: _Optional[bytes] = ...) -> None: ...

class PendingOpening(_message.Message):
    __slots__ = ("opening", "commit_by_ms")
    OPENING_FIELD_NUMBER: _ClassVar[int]
    COMMIT_BY_MS_FIELD_NUMBER: _ClassVar[int]
    opening: bytes
    commit_by_ms: int
    def __init__(self, opening: _Optional[bytes] = ..., commit_by_ms: _Optional[int] = ...) -> None: ...

class LoadRecordResponse(_message.Message):
    __slots__ = ("openings", "boxes", "links", "next")
    OPENINGS_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    openings: _containers.RepeatedCompositeFieldContainer[PendingOpening]
    boxes: _containers.RepeatedScalarFieldContainer[bytes]
    links: _containers.RepeatedScalarFieldContainer[bytes]
    next: bytes
    def __init__(self, openings: _Optional[_Iterable[_Union[PendingOpening, _Mapping]]] = ..., boxes: _Optional[_Iterable[bytes]] = ..., links: _Optional[_Iterable[bytes]] = ..., next: _Optional[bytes] = ...) -> None: ...

class HasShardsRequest(_message.Message):
    __slots__ = ("place", "shards")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    place: Place
    shards: _containers.RepeatedCompositeFieldContainer[ListedShard]
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., shards: _Optional[_Iterable[_Union[ListedShard, _Mapping]]] = ...) -> None: ...

class HasShardsResponse(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: bytes
    def __init__(self, held: _Optional[bytes] = ...) -> None: ...

class HasRowsRequest(_message.Message):
    __slots__ = ("place", "record_id", "digests")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    place: Place
    record_id: bytes
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., record_id: _Optional[bytes] = ..., digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class HasRowsResponse(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: bytes
    def __init__(self, held: _Optional[bytes] = ...) -> None: ...

class ManifestDigestsRequest(_message.Message):
    __slots__ = ("place", "also", "bases")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    ALSO_FIELD_NUMBER: _ClassVar[int]
    BASES_FIELD_NUMBER: _ClassVar[int]
    place: Place
    also: _containers.RepeatedScalarFieldContainer[int]
    bases: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., also: _Optional[_Iterable[int]] = ..., bases: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ManifestDigestsResponse(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class HintRequest(_message.Message):
    __slots__ = ("place", "shards")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    place: Place
    shards: _containers.RepeatedCompositeFieldContainer[ListedShard]
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., shards: _Optional[_Iterable[_Union[ListedShard, _Mapping]]] = ...) -> None: ...

class HintResponse(_message.Message):
    __slots__ = ("taken",)
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    taken: int
    def __init__(self, taken: _Optional[int] = ...) -> None: ...

class OfferRequest(_message.Message):
    __slots__ = ("place", "shards", "records")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    place: Place
    shards: _containers.RepeatedCompositeFieldContainer[ListedShard]
    records: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., shards: _Optional[_Iterable[_Union[ListedShard, _Mapping]]] = ..., records: _Optional[_Iterable[bytes]] = ...) -> None: ...

class OfferResponse(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: bytes
    def __init__(self, held: _Optional[bytes] = ...) -> None: ...

class PingRequest(_message.Message):
    __slots__ = ("epoch", "height", "versions")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    height: int
    versions: _versions_pb2.Versions
    def __init__(self, epoch: _Optional[int] = ..., height: _Optional[int] = ..., versions: _Optional[_Union[_versions_pb2.Versions, _Mapping]] = ...) -> None: ...

class PingResponse(_message.Message):
    __slots__ = ("epoch", "height", "versions", "facts")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    height: int
    versions: _versions_pb2.Versions
    facts: _facts_pb2.NodeFacts
    def __init__(self, epoch: _Optional[int] = ..., height: _Optional[int] = ..., versions: _Optional[_Union[_versions_pb2.Versions, _Mapping]] = ..., facts: _Optional[_Union[_facts_pb2.NodeFacts, _Mapping]] = ...) -> None: ...

class TakeLayoutRequest(_message.Message):
    __slots__ = ("place", "base", "step", "rows")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    place: Place
    base: bytes
    step: LayoutStep
    rows: LoadRowsResponse
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., base: _Optional[bytes] = ..., step: _Optional[_Union[LayoutStep, str]] = ..., rows: _Optional[_Union[LoadRowsResponse, _Mapping]] = ...) -> None: ...

class TakeLayoutResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

from hcefs.wire.v1 import blob_pb2 as _blob_pb2
from hcefs.wire.v1 import pack_pb2 as _pack_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HintShardRequest(_message.Message):
    __slots__ = ("context", "index")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    context: CallContext
    index: int
    def __init__(self, context: _Optional[_Union[CallContext, _Mapping]] = ..., index: _Optional[int] = ...) -> None: ...

class HintShardResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CallContext(_message.Message):
    __slots__ = ("authorization", "method", "record_id", "blob_id", "range_start", "range_length", "min_height", "epoch", "request_id", "profile", "stand_in")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_ID_FIELD_NUMBER: _ClassVar[int]
    RANGE_START_FIELD_NUMBER: _ClassVar[int]
    RANGE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    STAND_IN_FIELD_NUMBER: _ClassVar[int]
    authorization: _blob_pb2.Authorization
    method: str
    record_id: bytes
    blob_id: bytes
    range_start: int
    range_length: int
    min_height: int
    epoch: int
    request_id: bytes
    profile: str
    stand_in: bool
    def __init__(self, authorization: _Optional[_Union[_blob_pb2.Authorization, _Mapping]] = ..., method: _Optional[str] = ..., record_id: _Optional[bytes] = ..., blob_id: _Optional[bytes] = ..., range_start: _Optional[int] = ..., range_length: _Optional[int] = ..., min_height: _Optional[int] = ..., epoch: _Optional[int] = ..., request_id: _Optional[bytes] = ..., profile: _Optional[str] = ..., stand_in: _Optional[bool] = ...) -> None: ...

class StoreRequest(_message.Message):
    __slots__ = ("header", "data", "finish", "crc32c")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    header: StoreHeader
    data: bytes
    finish: StoreFinish
    crc32c: int
    def __init__(self, header: _Optional[_Union[StoreHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., finish: _Optional[_Union[StoreFinish, _Mapping]] = ..., crc32c: _Optional[int] = ...) -> None: ...

class StoreHeader(_message.Message):
    __slots__ = ("context", "index", "profile", "segment_size", "expected_length")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_SIZE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    context: CallContext
    index: int
    profile: str
    segment_size: int
    expected_length: int
    def __init__(self, context: _Optional[_Union[CallContext, _Mapping]] = ..., index: _Optional[int] = ..., profile: _Optional[str] = ..., segment_size: _Optional[int] = ..., expected_length: _Optional[int] = ...) -> None: ...

class StoreFinish(_message.Message):
    __slots__ = ("core", "layout", "key_row", "opening", "piece_digests")
    CORE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    KEY_ROW_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    PIECE_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    core: bytes
    layout: bytes
    key_row: bytes
    opening: bytes
    piece_digests: bytes
    def __init__(self, core: _Optional[bytes] = ..., layout: _Optional[bytes] = ..., key_row: _Optional[bytes] = ..., opening: _Optional[bytes] = ..., piece_digests: _Optional[bytes] = ...) -> None: ...

class StoreWholeRequest(_message.Message):
    __slots__ = ("header", "data", "finish", "crc32c")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    header: StoreHeader
    data: bytes
    finish: StoreFinish
    crc32c: int
    def __init__(self, header: _Optional[_Union[StoreHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., finish: _Optional[_Union[StoreFinish, _Mapping]] = ..., crc32c: _Optional[int] = ...) -> None: ...

class StoreResponse(_message.Message):
    __slots__ = ("stored_bytes", "listed")
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LISTED_FIELD_NUMBER: _ClassVar[int]
    stored_bytes: int
    listed: bool
    def __init__(self, stored_bytes: _Optional[int] = ..., listed: _Optional[bool] = ...) -> None: ...

class LoadRequest(_message.Message):
    __slots__ = ("context", "index", "first", "count")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    context: CallContext
    index: int
    first: int
    count: int
    def __init__(self, context: _Optional[_Union[CallContext, _Mapping]] = ..., index: _Optional[int] = ..., first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class LoadResponse(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: LoadHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[LoadHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class LoadPiecesResponse(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: LoadHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[LoadHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class LoadHeader(_message.Message):
    __slots__ = ("pieces", "piece_digests", "audit_path")
    PIECES_FIELD_NUMBER: _ClassVar[int]
    PIECE_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    AUDIT_PATH_FIELD_NUMBER: _ClassVar[int]
    pieces: int
    piece_digests: bytes
    audit_path: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, pieces: _Optional[int] = ..., piece_digests: _Optional[bytes] = ..., audit_path: _Optional[_Iterable[bytes]] = ...) -> None: ...

class StoreOpeningRequest(_message.Message):
    __slots__ = ("context", "opening", "commit_by_ms")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    COMMIT_BY_MS_FIELD_NUMBER: _ClassVar[int]
    context: CallContext
    opening: bytes
    commit_by_ms: int
    def __init__(self, context: _Optional[_Union[CallContext, _Mapping]] = ..., opening: _Optional[bytes] = ..., commit_by_ms: _Optional[int] = ...) -> None: ...

class StoreOpeningResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StoreBoxRequest(_message.Message):
    __slots__ = ("context", "box", "link")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    context: CallContext
    box: bytes
    link: bytes
    def __init__(self, context: _Optional[_Union[CallContext, _Mapping]] = ..., box: _Optional[bytes] = ..., link: _Optional[bytes] = ...) -> None: ...

class StoreBoxResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LoadManifestRequest(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: CallContext
    def __init__(self, context: _Optional[_Union[CallContext, _Mapping]] = ...) -> None: ...

class LoadManifestResponse(_message.Message):
    __slots__ = ("core", "layout", "key_row", "opening")
    CORE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    KEY_ROW_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    core: bytes
    layout: bytes
    key_row: bytes
    opening: bytes
    def __init__(self, core: _Optional[bytes] = ..., layout: _Optional[bytes] = ..., key_row: _Optional[bytes] = ..., opening: _Optional[bytes] = ...) -> None: ...

class LoadListingRequest(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: CallContext
    def __init__(self, context: _Optional[_Union[CallContext, _Mapping]] = ...) -> None: ...

class LoadListingResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[_blob_pb2.ListEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[_blob_pb2.ListEntry, _Mapping]]] = ...) -> None: ...

class LoadBoxesRequest(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: CallContext
    def __init__(self, context: _Optional[_Union[CallContext, _Mapping]] = ...) -> None: ...

class LoadBoxesResponse(_message.Message):
    __slots__ = ("boxes", "links")
    BOXES_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    boxes: _containers.RepeatedScalarFieldContainer[bytes]
    links: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, boxes: _Optional[_Iterable[bytes]] = ..., links: _Optional[_Iterable[bytes]] = ...) -> None: ...

class StorePackRequest(_message.Message):
    __slots__ = ("context", "base", "index", "layout", "piece", "crc32c", "piece_digest", "groups", "commit_by_ms")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    PIECE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_BY_MS_FIELD_NUMBER: _ClassVar[int]
    context: _pack_pb2.BatchContext
    base: bytes
    index: int
    layout: bytes
    piece: bytes
    crc32c: int
    piece_digest: bytes
    groups: _containers.RepeatedCompositeFieldContainer[_pack_pb2.PackGroup]
    commit_by_ms: int
    def __init__(self, context: _Optional[_Union[_pack_pb2.BatchContext, _Mapping]] = ..., base: _Optional[bytes] = ..., index: _Optional[int] = ..., layout: _Optional[bytes] = ..., piece: _Optional[bytes] = ..., crc32c: _Optional[int] = ..., piece_digest: _Optional[bytes] = ..., groups: _Optional[_Iterable[_Union[_pack_pb2.PackGroup, _Mapping]]] = ..., commit_by_ms: _Optional[int] = ...) -> None: ...

class StorePackResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StoreOpeningsRequest(_message.Message):
    __slots__ = ("context", "openings", "commit_by_ms")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    OPENINGS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_BY_MS_FIELD_NUMBER: _ClassVar[int]
    context: _pack_pb2.BatchContext
    openings: _containers.RepeatedScalarFieldContainer[bytes]
    commit_by_ms: int
    def __init__(self, context: _Optional[_Union[_pack_pb2.BatchContext, _Mapping]] = ..., openings: _Optional[_Iterable[bytes]] = ..., commit_by_ms: _Optional[int] = ...) -> None: ...

class StoreOpeningsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LoadPackedRequest(_message.Message):
    __slots__ = ("call", "batch", "wanted")
    CALL_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    call: CallContext
    batch: _pack_pb2.BatchContext
    wanted: _containers.RepeatedCompositeFieldContainer[_pack_pb2.PackWanted]
    def __init__(self, call: _Optional[_Union[CallContext, _Mapping]] = ..., batch: _Optional[_Union[_pack_pb2.BatchContext, _Mapping]] = ..., wanted: _Optional[_Iterable[_Union[_pack_pb2.PackWanted, _Mapping]]] = ...) -> None: ...

class LoadPackedResponse(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[_pack_pb2.PackedPart]
    def __init__(self, parts: _Optional[_Iterable[_Union[_pack_pb2.PackedPart, _Mapping]]] = ...) -> None: ...

class LoadColumnsRequest(_message.Message):
    __slots__ = ("call", "batch", "wanted")
    CALL_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    call: CallContext
    batch: _pack_pb2.BatchContext
    wanted: _containers.RepeatedCompositeFieldContainer[_pack_pb2.ColumnsWanted]
    def __init__(self, call: _Optional[_Union[CallContext, _Mapping]] = ..., batch: _Optional[_Union[_pack_pb2.BatchContext, _Mapping]] = ..., wanted: _Optional[_Iterable[_Union[_pack_pb2.ColumnsWanted, _Mapping]]] = ...) -> None: ...

class LoadColumnsResponse(_message.Message):
    __slots__ = ("columns",)
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedCompositeFieldContainer[_pack_pb2.Columns]
    def __init__(self, columns: _Optional[_Iterable[_Union[_pack_pb2.Columns, _Mapping]]] = ...) -> None: ...

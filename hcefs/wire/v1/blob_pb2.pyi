from hcefs.wire.v1 import pack_pb2 as _pack_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Authorization(_message.Message):
    __slots__ = ("token", "proof")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    proof: bytes
    def __init__(self, token: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("header", "data", "trailer")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TRAILER_FIELD_NUMBER: _ClassVar[int]
    header: PutHeader
    data: bytes
    trailer: PutTrailer
    def __init__(self, header: _Optional[_Union[PutHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., trailer: _Optional[_Union[PutTrailer, _Mapping]] = ...) -> None: ...

class PutHeader(_message.Message):
    __slots__ = ("authorization", "blob_id", "record_id", "generation", "profile", "commit_by_ms", "salt", "previous_leaf", "min_height", "epoch", "request_id", "client_seal", "writer", "expected_length")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    BLOB_ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_BY_MS_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_LEAF_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SEAL_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    authorization: Authorization
    blob_id: bytes
    record_id: bytes
    generation: int
    profile: str
    commit_by_ms: int
    salt: bytes
    previous_leaf: bytes
    min_height: int
    epoch: int
    request_id: bytes
    client_seal: ClientSeal
    writer: bytes
    expected_length: int
    def __init__(self, authorization: _Optional[_Union[Authorization, _Mapping]] = ..., blob_id: _Optional[bytes] = ..., record_id: _Optional[bytes] = ..., generation: _Optional[int] = ..., profile: _Optional[str] = ..., commit_by_ms: _Optional[int] = ..., salt: _Optional[bytes] = ..., previous_leaf: _Optional[bytes] = ..., min_height: _Optional[int] = ..., epoch: _Optional[int] = ..., request_id: _Optional[bytes] = ..., client_seal: _Optional[_Union[ClientSeal, _Mapping]] = ..., writer: _Optional[bytes] = ..., expected_length: _Optional[int] = ...) -> None: ...

class ClientSeal(_message.Message):
    __slots__ = ("dek_commitment", "sealed_dek")
    DEK_COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SEALED_DEK_FIELD_NUMBER: _ClassVar[int]
    dek_commitment: bytes
    sealed_dek: bytes
    def __init__(self, dek_commitment: _Optional[bytes] = ..., sealed_dek: _Optional[bytes] = ...) -> None: ...

class PutTrailer(_message.Message):
    __slots__ = ("plaintext_length", "metadata", "sealed_metadata", "authorization")
    PLAINTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SEALED_METADATA_FIELD_NUMBER: _ClassVar[int]
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    plaintext_length: int
    metadata: bytes
    sealed_metadata: bytes
    authorization: Authorization
    def __init__(self, plaintext_length: _Optional[int] = ..., metadata: _Optional[bytes] = ..., sealed_metadata: _Optional[bytes] = ..., authorization: _Optional[_Union[Authorization, _Mapping]] = ...) -> None: ...

class PutResponse(_message.Message):
    __slots__ = ("core", "layout", "durable_shards", "total_shards", "degraded")
    CORE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SHARDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SHARDS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    core: bytes
    layout: bytes
    durable_shards: int
    total_shards: int
    degraded: bool
    def __init__(self, core: _Optional[bytes] = ..., layout: _Optional[bytes] = ..., durable_shards: _Optional[int] = ..., total_shards: _Optional[int] = ..., degraded: _Optional[bool] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("authorization", "blob_id", "record_id", "range_start", "range_length", "min_height", "epoch", "request_id", "dek", "secrets", "sealed")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    BLOB_ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    RANGE_START_FIELD_NUMBER: _ClassVar[int]
    RANGE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DEK_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    authorization: Authorization
    blob_id: bytes
    record_id: bytes
    range_start: int
    range_length: int
    min_height: int
    epoch: int
    request_id: bytes
    dek: bytes
    secrets: SegmentSecrets
    sealed: bool
    def __init__(self, authorization: _Optional[_Union[Authorization, _Mapping]] = ..., blob_id: _Optional[bytes] = ..., record_id: _Optional[bytes] = ..., range_start: _Optional[int] = ..., range_length: _Optional[int] = ..., min_height: _Optional[int] = ..., epoch: _Optional[int] = ..., request_id: _Optional[bytes] = ..., dek: _Optional[bytes] = ..., secrets: _Optional[_Union[SegmentSecrets, _Mapping]] = ..., sealed: _Optional[bool] = ...) -> None: ...

class SegmentSecrets(_message.Message):
    __slots__ = ("first", "secrets")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    first: int
    secrets: bytes
    def __init__(self, first: _Optional[int] = ..., secrets: _Optional[bytes] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: GetHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[GetHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class GetHeader(_message.Message):
    __slots__ = ("plaintext_length", "range_start", "range_length", "first_segment", "segment_size")
    PLAINTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    RANGE_START_FIELD_NUMBER: _ClassVar[int]
    RANGE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEGMENT_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_SIZE_FIELD_NUMBER: _ClassVar[int]
    plaintext_length: int
    range_start: int
    range_length: int
    first_segment: int
    segment_size: int
    def __init__(self, plaintext_length: _Optional[int] = ..., range_start: _Optional[int] = ..., range_length: _Optional[int] = ..., first_segment: _Optional[int] = ..., segment_size: _Optional[int] = ...) -> None: ...

class StatRequest(_message.Message):
    __slots__ = ("authorization", "blob_id", "record_id", "min_height", "request_id")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    BLOB_ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    authorization: Authorization
    blob_id: bytes
    record_id: bytes
    min_height: int
    request_id: bytes
    def __init__(self, authorization: _Optional[_Union[Authorization, _Mapping]] = ..., blob_id: _Optional[bytes] = ..., record_id: _Optional[bytes] = ..., min_height: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class StatResponse(_message.Message):
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

class ListRequest(_message.Message):
    __slots__ = ("authorization", "record_id", "min_height", "request_id")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    authorization: Authorization
    record_id: bytes
    min_height: int
    request_id: bytes
    def __init__(self, authorization: _Optional[_Union[Authorization, _Mapping]] = ..., record_id: _Optional[bytes] = ..., min_height: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[ListEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[ListEntry, _Mapping]]] = ...) -> None: ...

class ListEntry(_message.Message):
    __slots__ = ("opening", "leaf_index")
    OPENING_FIELD_NUMBER: _ClassVar[int]
    LEAF_INDEX_FIELD_NUMBER: _ClassVar[int]
    opening: bytes
    leaf_index: int
    def __init__(self, opening: _Optional[bytes] = ..., leaf_index: _Optional[int] = ...) -> None: ...

class StateRecordRequest(_message.Message):
    __slots__ = ("authorization", "record_id", "min_height", "request_id")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    authorization: Authorization
    record_id: bytes
    min_height: int
    request_id: bytes
    def __init__(self, authorization: _Optional[_Union[Authorization, _Mapping]] = ..., record_id: _Optional[bytes] = ..., min_height: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class StateRecordResponse(_message.Message):
    __slots__ = ("statement",)
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    statement: bytes
    def __init__(self, statement: _Optional[bytes] = ...) -> None: ...

class PutBoxRequest(_message.Message):
    __slots__ = ("authorization", "box", "min_height", "request_id")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    authorization: Authorization
    box: bytes
    min_height: int
    request_id: bytes
    def __init__(self, authorization: _Optional[_Union[Authorization, _Mapping]] = ..., box: _Optional[bytes] = ..., min_height: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class PutBoxResponse(_message.Message):
    __slots__ = ("durable",)
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    durable: int
    def __init__(self, durable: _Optional[int] = ...) -> None: ...

class PutLinkRequest(_message.Message):
    __slots__ = ("authorization", "link", "min_height", "request_id")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    authorization: Authorization
    link: bytes
    min_height: int
    request_id: bytes
    def __init__(self, authorization: _Optional[_Union[Authorization, _Mapping]] = ..., link: _Optional[bytes] = ..., min_height: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class PutLinkResponse(_message.Message):
    __slots__ = ("durable",)
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    durable: int
    def __init__(self, durable: _Optional[int] = ...) -> None: ...

class GetBoxesRequest(_message.Message):
    __slots__ = ("authorization", "record_id", "min_height", "request_id", "blob_id")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_ID_FIELD_NUMBER: _ClassVar[int]
    authorization: Authorization
    record_id: bytes
    min_height: int
    request_id: bytes
    blob_id: bytes
    def __init__(self, authorization: _Optional[_Union[Authorization, _Mapping]] = ..., record_id: _Optional[bytes] = ..., min_height: _Optional[int] = ..., request_id: _Optional[bytes] = ..., blob_id: _Optional[bytes] = ...) -> None: ...

class GetBoxesResponse(_message.Message):
    __slots__ = ("boxes", "links")
    BOXES_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    boxes: _containers.RepeatedScalarFieldContainer[bytes]
    links: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, boxes: _Optional[_Iterable[bytes]] = ..., links: _Optional[_Iterable[bytes]] = ...) -> None: ...

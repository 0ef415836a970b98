from hcefs.wire.v1 import blob_pb2 as _blob_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListReceiptsRequest(_message.Message):
    __slots__ = ("authorization", "record_id", "after", "min_height", "request_id")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    authorization: _blob_pb2.Authorization
    record_id: bytes
    after: int
    min_height: int
    request_id: bytes
    def __init__(self, authorization: _Optional[_Union[_blob_pb2.Authorization, _Mapping]] = ..., record_id: _Optional[bytes] = ..., after: _Optional[int] = ..., min_height: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class ListReceiptsResponse(_message.Message):
    __slots__ = ("proofs", "unanchored", "anchors", "next")
    PROOFS_FIELD_NUMBER: _ClassVar[int]
    UNANCHORED_FIELD_NUMBER: _ClassVar[int]
    ANCHORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    proofs: _containers.RepeatedScalarFieldContainer[bytes]
    unanchored: _containers.RepeatedScalarFieldContainer[bytes]
    anchors: _containers.RepeatedScalarFieldContainer[bytes]
    next: int
    def __init__(self, proofs: _Optional[_Iterable[bytes]] = ..., unanchored: _Optional[_Iterable[bytes]] = ..., anchors: _Optional[_Iterable[bytes]] = ..., next: _Optional[int] = ...) -> None: ...

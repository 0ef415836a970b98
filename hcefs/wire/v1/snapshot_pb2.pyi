from hcefs.wire.v1 import replica_pb2 as _replica_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OfferSnapshotRequest(_message.Message):
    __slots__ = ("asker",)
    ASKER_FIELD_NUMBER: _ClassVar[int]
    asker: _replica_pb2.ReplicaAsker
    def __init__(self, asker: _Optional[_Union[_replica_pb2.ReplicaAsker, _Mapping]] = ...) -> None: ...

class OfferSnapshotResponse(_message.Message):
    __slots__ = ("manifest", "base", "carrier", "terms", "made_height", "made_root")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    MADE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    MADE_ROOT_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    base: bytes
    carrier: bytes
    terms: _containers.RepeatedScalarFieldContainer[bytes]
    made_height: int
    made_root: bytes
    def __init__(self, manifest: _Optional[bytes] = ..., base: _Optional[bytes] = ..., carrier: _Optional[bytes] = ..., terms: _Optional[_Iterable[bytes]] = ..., made_height: _Optional[int] = ..., made_root: _Optional[bytes] = ...) -> None: ...

class ReadSnapshotRequest(_message.Message):
    __slots__ = ("height", "first_part", "asker")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FIRST_PART_FIELD_NUMBER: _ClassVar[int]
    ASKER_FIELD_NUMBER: _ClassVar[int]
    height: int
    first_part: int
    asker: _replica_pb2.ReplicaAsker
    def __init__(self, height: _Optional[int] = ..., first_part: _Optional[int] = ..., asker: _Optional[_Union[_replica_pb2.ReplicaAsker, _Mapping]] = ...) -> None: ...

class ReadSnapshotResponse(_message.Message):
    __slots__ = ("part",)
    PART_FIELD_NUMBER: _ClassVar[int]
    part: bytes
    def __init__(self, part: _Optional[bytes] = ...) -> None: ...

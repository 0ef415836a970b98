from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Versions(_message.Message):
    __slots__ = ("software", "protocol_oldest", "protocol_newest", "shard_oldest", "shard_newest")
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_OLDEST_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_NEWEST_FIELD_NUMBER: _ClassVar[int]
    SHARD_OLDEST_FIELD_NUMBER: _ClassVar[int]
    SHARD_NEWEST_FIELD_NUMBER: _ClassVar[int]
    software: str
    protocol_oldest: int
    protocol_newest: int
    shard_oldest: int
    shard_newest: int
    def __init__(self, software: _Optional[str] = ..., protocol_oldest: _Optional[int] = ..., protocol_newest: _Optional[int] = ..., shard_oldest: _Optional[int] = ..., shard_newest: _Optional[int] = ...) -> None: ...

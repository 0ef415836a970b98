from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ConfirmRevocationRequest(_message.Message):
    __slots__ = ("proof", "grant", "height")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    grant: bytes
    height: int
    def __init__(self, proof: _Optional[bytes] = ..., grant: _Optional[bytes] = ..., height: _Optional[int] = ...) -> None: ...

class ConfirmRevocationResponse(_message.Message):
    __slots__ = ("statement",)
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    statement: bytes
    def __init__(self, statement: _Optional[bytes] = ...) -> None: ...

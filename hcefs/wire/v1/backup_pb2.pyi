from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReadRowsRequest(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    def __init__(self, proof: _Optional[bytes] = ...) -> None: ...

class ReadRowsResponse(_message.Message):
    __slots__ = ("start", "page", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: RowsStart
    page: bytes
    end: RowsEnd
    def __init__(self, start: _Optional[_Union[RowsStart, _Mapping]] = ..., page: _Optional[bytes] = ..., end: _Optional[_Union[RowsEnd, _Mapping]] = ...) -> None: ...

class RowsStart(_message.Message):
    __slots__ = ("account", "height")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    account: bytes
    height: int
    def __init__(self, account: _Optional[bytes] = ..., height: _Optional[int] = ...) -> None: ...

class RowsEnd(_message.Message):
    __slots__ = ("rows", "pages")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    rows: int
    pages: int
    def __init__(self, rows: _Optional[int] = ..., pages: _Optional[int] = ...) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReplicaAsker(_message.Message):
    __slots__ = ("proof", "writer_ask", "term_change")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    WRITER_ASK_FIELD_NUMBER: _ClassVar[int]
    TERM_CHANGE_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    writer_ask: bytes
    term_change: bytes
    def __init__(self, proof: _Optional[bytes] = ..., writer_ask: _Optional[bytes] = ..., term_change: _Optional[bytes] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("asker",)
    ASKER_FIELD_NUMBER: _ClassVar[int]
    asker: ReplicaAsker
    def __init__(self, asker: _Optional[_Union[ReplicaAsker, _Mapping]] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("account", "height", "block_hash", "head", "terms", "status", "problem", "fork_proofs", "superseded")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_HASH_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    FORK_PROOFS_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    account: bytes
    height: int
    block_hash: bytes
    head: bytes
    terms: _containers.RepeatedScalarFieldContainer[bytes]
    status: str
    problem: str
    fork_proofs: _containers.RepeatedScalarFieldContainer[bytes]
    superseded: bytes
    def __init__(self, account: _Optional[bytes] = ..., height: _Optional[int] = ..., block_hash: _Optional[bytes] = ..., head: _Optional[bytes] = ..., terms: _Optional[_Iterable[bytes]] = ..., status: _Optional[str] = ..., problem: _Optional[str] = ..., fork_proofs: _Optional[_Iterable[bytes]] = ..., superseded: _Optional[bytes] = ...) -> None: ...

class ReadBlocksRequest(_message.Message):
    __slots__ = ("asker", "from_height", "last_height")
    ASKER_FIELD_NUMBER: _ClassVar[int]
    FROM_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    LAST_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    asker: ReplicaAsker
    from_height: int
    last_height: int
    def __init__(self, asker: _Optional[_Union[ReplicaAsker, _Mapping]] = ..., from_height: _Optional[int] = ..., last_height: _Optional[int] = ...) -> None: ...

class ReadBlocksResponse(_message.Message):
    __slots__ = ("block", "term_change")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    TERM_CHANGE_FIELD_NUMBER: _ClassVar[int]
    block: bytes
    term_change: bytes
    def __init__(self, block: _Optional[bytes] = ..., term_change: _Optional[bytes] = ...) -> None: ...

class BeginTermRequest(_message.Message):
    __slots__ = ("term_change",)
    TERM_CHANGE_FIELD_NUMBER: _ClassVar[int]
    term_change: bytes
    def __init__(self, term_change: _Optional[bytes] = ...) -> None: ...

class BeginTermResponse(_message.Message):
    __slots__ = ("term", "status")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    term: int
    status: str
    def __init__(self, term: _Optional[int] = ..., status: _Optional[str] = ...) -> None: ...

from hcefs.wire.v1 import versions_pb2 as _versions_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetGenesisRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetGenesisResponse(_message.Message):
    __slots__ = ("genesis", "terms")
    GENESIS_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    genesis: bytes
    terms: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, genesis: _Optional[bytes] = ..., terms: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("transaction",)
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    transaction: bytes
    def __init__(self, transaction: _Optional[bytes] = ...) -> None: ...

class SubmitResponse(_message.Message):
    __slots__ = ("height", "leaves", "time_ms")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    height: int
    leaves: _containers.RepeatedCompositeFieldContainer[AppendedLeaf]
    time_ms: int
    def __init__(self, height: _Optional[int] = ..., leaves: _Optional[_Iterable[_Union[AppendedLeaf, _Mapping]]] = ..., time_ms: _Optional[int] = ...) -> None: ...

class AppendedLeaf(_message.Message):
    __slots__ = ("record_id", "index", "leaf")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LEAF_FIELD_NUMBER: _ClassVar[int]
    record_id: bytes
    index: int
    leaf: bytes
    def __init__(self, record_id: _Optional[bytes] = ..., index: _Optional[int] = ..., leaf: _Optional[bytes] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("from_height", "persisted_height", "versions")
    FROM_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    PERSISTED_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    from_height: int
    persisted_height: int
    versions: _versions_pb2.Versions
    def __init__(self, from_height: _Optional[int] = ..., persisted_height: _Optional[int] = ..., versions: _Optional[_Union[_versions_pb2.Versions, _Mapping]] = ...) -> None: ...

class FollowResponse(_message.Message):
    __slots__ = ("block", "head", "term_change", "block_head", "versions")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    TERM_CHANGE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_HEAD_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    block: bytes
    head: bytes
    term_change: bytes
    block_head: bytes
    versions: _versions_pb2.Versions
    def __init__(self, block: _Optional[bytes] = ..., head: _Optional[bytes] = ..., term_change: _Optional[bytes] = ..., block_head: _Optional[bytes] = ..., versions: _Optional[_Union[_versions_pb2.Versions, _Mapping]] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("proof", "account", "record", "grant", "grants_on_record", "my_grants", "my_records", "cluster_map", "generation", "leaves", "head", "map_progress", "upkeep_policy", "node_reports", "map_history_from", "protocol_version", "my_requests", "past_keys", "record_end", "emergency_policy", "emergency_namings", "emergency_refusals", "emergency_opening", "emergency_openings", "emergency_totals", "operators")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    GRANTS_ON_RECORD_FIELD_NUMBER: _ClassVar[int]
    MY_GRANTS_FIELD_NUMBER: _ClassVar[int]
    MY_RECORDS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_MAP_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    MAP_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    UPKEEP_POLICY_FIELD_NUMBER: _ClassVar[int]
    NODE_REPORTS_FIELD_NUMBER: _ClassVar[int]
    MAP_HISTORY_FROM_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MY_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PAST_KEYS_FIELD_NUMBER: _ClassVar[int]
    RECORD_END_FIELD_NUMBER: _ClassVar[int]
    EMERGENCY_POLICY_FIELD_NUMBER: _ClassVar[int]
    EMERGENCY_NAMINGS_FIELD_NUMBER: _ClassVar[int]
    EMERGENCY_REFUSALS_FIELD_NUMBER: _ClassVar[int]
    EMERGENCY_OPENING_FIELD_NUMBER: _ClassVar[int]
    EMERGENCY_OPENINGS_FIELD_NUMBER: _ClassVar[int]
    EMERGENCY_TOTALS_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    account: bytes
    record: bytes
    grant: bytes
    grants_on_record: bytes
    my_grants: bool
    my_records: bool
    cluster_map: bool
    generation: GenerationQuestion
    leaves: LeavesQuestion
    head: bool
    map_progress: bool
    upkeep_policy: bool
    node_reports: bool
    map_history_from: int
    protocol_version: bool
    my_requests: bool
    past_keys: PastKeysQuestion
    record_end: bytes
    emergency_policy: bool
    emergency_namings: bytes
    emergency_refusals: bool
    emergency_opening: bytes
    emergency_openings: bool
    emergency_totals: bool
    operators: bool
    def __init__(self, proof: _Optional[bytes] = ..., account: _Optional[bytes] = ..., record: _Optional[bytes] = ..., grant: _Optional[bytes] = ..., grants_on_record: _Optional[bytes] = ..., my_grants: _Optional[bool] = ..., my_records: _Optional[bool] = ..., cluster_map: _Optional[bool] = ..., generation: _Optional[_Union[GenerationQuestion, _Mapping]] = ..., leaves: _Optional[_Union[LeavesQuestion, _Mapping]] = ..., head: _Optional[bool] = ..., map_progress: _Optional[bool] = ..., upkeep_policy: _Optional[bool] = ..., node_reports: _Optional[bool] = ..., map_history_from: _Optional[int] = ..., protocol_version: _Optional[bool] = ..., my_requests: _Optional[bool] = ..., past_keys: _Optional[_Union[PastKeysQuestion, _Mapping]] = ..., record_end: _Optional[bytes] = ..., emergency_policy: _Optional[bool] = ..., emergency_namings: _Optional[bytes] = ..., emergency_refusals: _Optional[bool] = ..., emergency_opening: _Optional[bytes] = ..., emergency_openings: _Optional[bool] = ..., emergency_totals: _Optional[bool] = ..., operators: _Optional[bool] = ...) -> None: ...

class PastKeysQuestion(_message.Message):
    __slots__ = ("account", "key_version")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    KEY_VERSION_FIELD_NUMBER: _ClassVar[int]
    account: bytes
    key_version: int
    def __init__(self, account: _Optional[bytes] = ..., key_version: _Optional[int] = ...) -> None: ...

class GenerationQuestion(_message.Message):
    __slots__ = ("record_id", "generation")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    record_id: bytes
    generation: int
    def __init__(self, record_id: _Optional[bytes] = ..., generation: _Optional[int] = ...) -> None: ...

class LeavesQuestion(_message.Message):
    __slots__ = ("record_id", "first", "count")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    record_id: bytes
    first: int
    count: int
    def __init__(self, record_id: _Optional[bytes] = ..., first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class QueryResponse(_message.Message):
    __slots__ = ("facts", "head")
    FACTS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    facts: _containers.RepeatedScalarFieldContainer[bytes]
    head: bytes
    def __init__(self, facts: _Optional[_Iterable[bytes]] = ..., head: _Optional[bytes] = ...) -> None: ...

class HasLeafRequest(_message.Message):
    __slots__ = ("proof", "record_id", "commitment", "signer")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    record_id: bytes
    commitment: bytes
    signer: bytes
    def __init__(self, proof: _Optional[bytes] = ..., record_id: _Optional[bytes] = ..., commitment: _Optional[bytes] = ..., signer: _Optional[bytes] = ...) -> None: ...

class HasLeafResponse(_message.Message):
    __slots__ = ("found", "leaf")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    LEAF_FIELD_NUMBER: _ClassVar[int]
    found: bool
    leaf: bytes
    def __init__(self, found: _Optional[bool] = ..., leaf: _Optional[bytes] = ...) -> None: ...

class HasLeavesRequest(_message.Message):
    __slots__ = ("proof", "record_id", "commitments", "signers")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    COMMITMENTS_FIELD_NUMBER: _ClassVar[int]
    SIGNERS_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    record_id: bytes
    commitments: _containers.RepeatedScalarFieldContainer[bytes]
    signers: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, proof: _Optional[bytes] = ..., record_id: _Optional[bytes] = ..., commitments: _Optional[_Iterable[bytes]] = ..., signers: _Optional[_Iterable[bytes]] = ...) -> None: ...

class HasLeavesResponse(_message.Message):
    __slots__ = ("leaves",)
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    leaves: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, leaves: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ProveRequest(_message.Message):
    __slots__ = ("proof", "record_id", "size", "leaf_index", "consistent_with")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    LEAF_INDEX_FIELD_NUMBER: _ClassVar[int]
    CONSISTENT_WITH_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    record_id: bytes
    size: int
    leaf_index: int
    consistent_with: int
    def __init__(self, proof: _Optional[bytes] = ..., record_id: _Optional[bytes] = ..., size: _Optional[int] = ..., leaf_index: _Optional[int] = ..., consistent_with: _Optional[int] = ...) -> None: ...

class ProveResponse(_message.Message):
    __slots__ = ("size", "root", "path")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    size: int
    root: bytes
    path: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, size: _Optional[int] = ..., root: _Optional[bytes] = ..., path: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ProveTransactionsRequest(_message.Message):
    __slots__ = ("proof", "account", "grant", "record", "erasure", "leaf")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    ERASURE_FIELD_NUMBER: _ClassVar[int]
    LEAF_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    account: bytes
    grant: bytes
    record: bytes
    erasure: bytes
    leaf: LeavesQuestion
    def __init__(self, proof: _Optional[bytes] = ..., account: _Optional[bytes] = ..., grant: _Optional[bytes] = ..., record: _Optional[bytes] = ..., erasure: _Optional[bytes] = ..., leaf: _Optional[_Union[LeavesQuestion, _Mapping]] = ...) -> None: ...

class ProveTransactionsResponse(_message.Message):
    __slots__ = ("proofs",)
    PROOFS_FIELD_NUMBER: _ClassVar[int]
    proofs: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, proofs: _Optional[_Iterable[bytes]] = ...) -> None: ...

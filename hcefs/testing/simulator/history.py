"""What was promised to clients during a run: the ground truth of the checkers."""

from __future__ import annotations

from dataclasses import dataclass, field

from hcefs.errors import Internal
from hcefs.ids import BlobId, GrantId, RecordId


class Violation(Exception):
    """A promise was broken; it says which checker saw it."""

    def __init__(self, checker: str, text: str) -> None:
        super().__init__(f"{checker}: {text}")
        self.checker = checker
        self.text = text

    def __reduce__(self) -> tuple[type[Violation], tuple[str, str]]:
        return Violation, (self.checker, self.text)


@dataclass(frozen=True)
class Acknowledged:
    """A put whose receipt the client has."""

    record: RecordId
    blob: BlobId
    data: bytes = field(repr=False)
    durable: int
    total: int
    height: int
    at: float

    @property
    def is_packed(self) -> bool:
        """Whether it lies in a pack."""
        return self.blob.slot != 0

    @property
    def spare(self) -> int:
        """How many of its shards may be lost."""
        return self.durable - (4 if self.total == 6 else 1)


@dataclass
class Revoked:
    """A grant that was revoked, and until when it may still work."""

    grant: GrantId
    record: RecordId
    height: int
    until: float


@dataclass
class History:
    """Everything that clients were told."""

    puts: dict[BlobId, Acknowledged] = field(default_factory=dict)
    revoked: list[Revoked] = field(default_factory=list)
    destroyed: dict[bytes, set[int]] = field(default_factory=dict)
    """By blob base, the indexes of acknowledged shards that faults destroyed."""

    shards: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    """The digest of each shard when it was first safe on a disk; copies are the same bytes."""

    height: int = 0
    """The highest block of which a client knows."""

    def put(self, made: Acknowledged) -> None:
        """Note a receipt; one blob id never comes twice."""
        if made.blob in self.puts:
            raise Violation("history", f"{made.blob} was acknowledged twice")
        self.puts[made.blob] = made
        self.height = max(self.height, made.height)

    def destroy(self, base: bytes, index: int) -> None:
        """Note that a fault took a shard."""
        self.destroyed.setdefault(base, set()).add(index)


def unexpected(error: BaseException, doing: str) -> Violation:
    """A client got something that is no typed error."""
    return Violation("typed-errors", f"{doing}: {type(error).__name__}: {error}")


def internal(error: Internal, doing: str) -> Violation:
    """A node met a fault of its own."""
    return Violation("typed-errors", f"{doing}: a fault of the node: {error.message}")

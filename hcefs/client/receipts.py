"""What a put returns."""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.formats.manifest import BlobRef, Core


@dataclass(frozen=True)
class PutReceipt:
    """A committed put: how to find the blob again, and how durable it is.

    ``durable_shards`` of ``total_shards`` are on disk on distinct nodes.
    """

    ref: BlobRef
    core: Core
    durable_shards: int
    total_shards: int
    degraded: bool
    height: int
    leaf: bytes

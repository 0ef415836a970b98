"""What a reader or a writer tells about shards that are not where, or what, they should be.

A word between layers: reads and puts say it in passing, and never wait for what comes of
it (:mod:`hcefs.upkeep.hints`).
"""

from __future__ import annotations

from collections.abc import Callable

from hcefs.errors import HcefsError
from hcefs.ids import BlobBase
from hcefs.placement.cluster_map import Node

Suspect = Callable[[Node, BlobBase, int, str], None]
"""Told of a node, and of the base, index and profile of a shard that it should have whole.
Quick, and never raises."""


def nobody(node: Node, base: BlobBase, index: int, profile: str) -> None:
    """For who has nobody to tell."""


def is_telling(error: HcefsError) -> bool:
    """Whether a failure to load says that the shard itself is missing or damaged."""
    return error.kind in ("corrupt", "not-found") or error.reason == "disk-error"

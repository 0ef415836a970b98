"""Messages from the network, decoded; listings cut into answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from hcefs.errors import Invalid
from hcefs.wire.v1 import blob_pb2

LIST_PAGE = 500
LIST_PAGE_BYTES = 900 << 10
"""The opening of a pack has up to 35 KiB: pages stay below the limit of a client's port."""

M = TypeVar("M", bound=Message)


def decoded(kind: type[M], data: bytes) -> M:
    """A message from the network.

    Raises:
        Invalid: malformed protobuf.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise Invalid(
            f"these bytes are not a {kind.DESCRIPTOR.name}; generate the client from proto/",
            reason="malformed-message",
        ) from None


def pages(entries: Iterable[tuple[bytes, int]]) -> Iterator[list[blob_pb2.ListEntry]]:
    """Openings with their leaf indexes, cut into answers of a bounded size."""
    page: list[blob_pb2.ListEntry] = []
    size = 0
    for opening, index in entries:
        if page and (len(page) >= LIST_PAGE or size + len(opening) > LIST_PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(blob_pb2.ListEntry(opening=opening, leaf_index=index))
        size += len(opening) + 16
    if page:
        yield page

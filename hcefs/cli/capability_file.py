"""The file of a capability: one line of URL-safe Base64, mode 0600.

A capability is useful only to the presenter whose key signs each request, but
there is no reason to show it around.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from hcefs.access.token import TOKEN_BYTES_MAX, read_use
from hcefs.durable_files import replace_file
from hcefs.errors import Invalid, NotFound

FILE_BYTES_MAX = 2 * TOKEN_BYTES_MAX


def token_text(token: bytes) -> str:
    """The printable form of a token."""
    return base64.urlsafe_b64encode(token).decode("ascii").rstrip("=")


def parse_token(text: str) -> bytes:
    """The inverse of :func:`token_text`; the token's shape is checked.

    Raises:
        Invalid: not a capability.
    """
    stripped = text.strip()
    try:
        token = base64.b64decode(
            stripped + "=" * (-len(stripped) % 4), altchars=b"-_", validate=True
        )
    except (binascii.Error, ValueError):
        raise Invalid(
            "this is not a capability: expected one line of URL-safe Base64",
            reason="token-malformed",
        ) from None
    read_use(token)
    return token


def save_token(path: Path, token: bytes) -> None:
    """Write a capability's file."""
    replace_file(path, (token_text(token) + "\n").encode("ascii"), mode=0o600)


def read_token(path: Path) -> bytes:
    """Read a capability's file.

    Raises:
        NotFound: there is none.
        Invalid: it is not one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no capability file {path}", reason="unknown-capability") from None
    if len(data) > FILE_BYTES_MAX or not data.isascii():
        raise Invalid(f"{path} is not a capability's file", reason="token-malformed")
    return parse_token(data.decode("ascii"))

"""Where passphrases come from: a file that the caller names, else the terminal.

Never from the command line, which other users of the machine can read, and never into a
log.  A file for passphrases is refused when others may read it.
"""

from __future__ import annotations

import os
import stat
import sys
from getpass import getpass
from pathlib import Path

from hcefs.crypto.passphrase import (
    PASSPHRASE_BYTES_MAX,
    PASSPHRASE_CHARACTERS_MIN,
    check_new_passphrase,
)
from hcefs.errors import Invalid, NotFound
from hcefs.ids import AccountId


class Passphrases:
    """The passphrases of one run of the command line; asked for once an account."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._known: dict[AccountId, str] = {}

    def use(self, file: Path | None) -> None:
        """Begin a run: take passphrases from ``file``, or (None) from the terminal."""
        self._file = file
        self._known = {}

    def of(self, account: AccountId) -> str:
        """The passphrase that opens an account's keys.

        Raises:
            Invalid: ``passphrase-needed``: there is neither a file nor a terminal; or as
                :func:`read_passphrase`.
            NotFound: there is no such file.
        """
        known = self._known.get(account)
        if known is None:
            known = self._known[account] = self._ask(f"Passphrase of {account}: ")
        return known

    def new(self, what: str, file: Path | None = None) -> str:
        """A passphrase to set; typed twice, when it is typed.

        Raises:
            Invalid: ``weak-passphrase``, ``passphrases-differ`` or ``passphrase-needed``.
            NotFound: there is no such file.
        """
        file = file or self._file
        if file is not None:
            chosen = read_passphrase(file)
            if len(chosen) < PASSPHRASE_CHARACTERS_MIN:
                raise Invalid(
                    f"the passphrase in {file} is too short to be set: it has "
                    f"{PASSPHRASE_CHARACTERS_MIN} characters at least; several random words are a "
                    "good one",
                    reason="weak-passphrase",
                )
        else:
            chosen = self._ask(f"New passphrase {what}: ")
            if self._ask("The same once more: ") != chosen:
                raise Invalid("the two passphrases differ: try again", reason="passphrases-differ")
        check_new_passphrase(chosen)
        return chosen

    def remember(self, account: AccountId, passphrase: str) -> None:
        """Know a passphrase that was just set."""
        self._known[account] = passphrase

    def _ask(self, prompt: str) -> str:
        if self._file is not None:
            return read_passphrase(self._file)
        if not sys.stdin.isatty():
            raise Invalid(
                "the keys are under a passphrase, and there is no terminal to ask on: name a file "
                "with it by --passphrase-file (before the verb) or HCEFS_PASSPHRASE_FILE",
                reason="passphrase-needed",
            )
        try:
            typed = getpass(prompt)
        except EOFError:
            raise Invalid(
                "no passphrase was typed: try again, or name a file with it by --passphrase-file "
                "(before the verb)",
                reason="passphrase-needed",
            ) from None
        if not _is_text(typed):
            raise Invalid(
                "what was typed is no text in the terminal's encoding: set LANG to one of UTF-8, "
                "or name a file by --passphrase-file (before the verb)",
                reason="bad-passphrase",
            )
        return typed


PASSPHRASES = Passphrases()
"""Those of this process: the command line begins a run by :meth:`Passphrases.use`."""


def _is_text(typed: str) -> bool:
    """Whether it can be encoded; what a terminal could not decode comes as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in typed)


def read_passphrase(path: Path) -> str:
    """The passphrase in a file; one newline at its end is not part of it.

    Errors name the file and never what is in it.

    Raises:
        NotFound: there is none.
        Invalid: ``bad-file``: it cannot be read; ``open-file``: others may read it;
            ``bad-passphrase-file``: it is empty or too long, or not UTF-8.
    """
    try:
        with path.expanduser().open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(PASSPHRASE_BYTES_MAX + 3)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path} with a passphrase", reason="no-file") from None
    except OSError as error:
        raise Invalid(
            f"{path} with the passphrase cannot be read: {error.strerror}", reason="bad-file"
        ) from None
    if mode & 0o077:
        raise Invalid(f"{path} can be read by others: chmod 600 {path}", reason="open-file")
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    problem = ""
    if not data:
        problem = "it is empty"
    elif len(data) > PASSPHRASE_BYTES_MAX:
        problem = f"it has more than {PASSPHRASE_BYTES_MAX} bytes"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text, problem = "", problem or "it is not UTF-8"
    if problem:
        raise Invalid(
            f"{path} holds no passphrase: {problem}; write it on one line and nothing else",
            reason="bad-passphrase-file",
        )
    return text

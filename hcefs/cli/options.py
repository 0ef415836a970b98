"""Options that many commands share, and how their texts are read.

Pure but for the clock that a caller passes in.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from hcefs.access.facts import PURPOSES, Action
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.errors import Invalid
from hcefs.formats.record_class import SENSITIVITIES, Confidentiality, known_sensitivities

DEFAULT_FOLDER = "hcefs-cluster"
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,9})\s*(s|m|min|h|d|w)", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,19})\s*([kmgt]?)(i?b)?", re.ASCII | re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
ACTIONS: Final = {"read": Action.READ, "append": Action.APPEND, "share": Action.SHARE}

FolderOption = Annotated[
    Path,
    typer.Option("--dir", envvar="HCEFS_DIR", metavar="DIR", help="Folder of the cluster."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
AsOption = Annotated[
    str,
    typer.Option("--as", metavar="NAME", help="Account to act as: its name or its key file."),
]
GrantOption = Annotated[
    str,
    typer.Option(
        "--grant", metavar="GRANT", help="Grant to use; by default one that fits, or ownership."
    ),
]
PurposeOption = Annotated[
    str, typer.Option("--purpose", metavar="CODE", help="Purpose of use, such as TREAT.")
]

CeilingOption = Annotated[
    str,
    typer.Option(
        "--max-confidentiality",
        metavar="LEVEL",
        help="Only records of at most this level: U, L, M, N, R or V.",
    ),
]
ExcludeOption = Annotated[
    str,
    typer.Option(
        "--exclude",
        metavar="CODES",
        help="Not records of these sensitivities, such as HIV,PSY; joined by commas.",
    ),
]


def folder(path: Path) -> ClusterFolder:
    """The cluster's folder.

    Raises:
        NotFound: no cluster is there.
    """
    return ClusterFolder(path).require()


def parse_until(text: str, now_ms: int) -> int:
    """A moment in milliseconds: a time from now (``90s 30m 2h 7d 1w``) or an ISO 8601 time.

    A time without an offset is UTC; a date alone is its first moment.

    Raises:
        Invalid: neither of them, or not in the future (``bad-time``).
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is not None:
        end = now_ms + int(match[1]) * _SECONDS[match[2]] * 1000
    else:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            raise Invalid(
                f"{text[:80]!r} is no time: write a duration such as 2h or 7d, or a moment such "
                "as 2030-01-31T12:00Z",
                reason="bad-time",
            ) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        end = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    if end <= now_ms:
        raise Invalid(f"{text[:80]!r} is not in the future", reason="bad-time")
    return end


def parse_size(text: str) -> int:
    """A number of bytes: ``1048576``, ``512k``, ``1MiB`` (powers of two).

    Raises:
        Invalid: not a number of bytes (``bad-size``).
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise Invalid(
            f"{text[:80]!r} is no number of bytes: write 1048576 or 1MiB", reason="bad-size"
        )
    size = int(match[1]) << 10 * _POWERS[match[2].lower()]
    if size >= 1 << 63:
        raise Invalid(f"{text[:80]!r} is too many bytes", reason="bad-size")
    return size


def parse_actions(text: str) -> Action:
    """Actions joined by commas: ``read,append,share``.

    Raises:
        Invalid: none, or an unknown one (``unknown-action``).
    """
    found = Action(0)
    for name in _words(text):
        if name.lower() not in ACTIONS:
            raise Invalid(
                f"{name[:80]!r} is no action: use {', '.join(ACTIONS)}", reason="unknown-action"
            )
        found |= ACTIONS[name.lower()]
    if not found:
        raise Invalid(f"name at least one of {', '.join(ACTIONS)}", reason="unknown-action")
    return found


def action_names(actions: Action) -> tuple[str, ...]:
    """The names of actions, in a fixed order."""
    return tuple(name for name, action in ACTIONS.items() if action in actions)


def parse_purposes(text: str) -> tuple[str, ...]:
    """Purposes of use joined by commas.

    Raises:
        Invalid: none, or an unknown one (``unknown-purpose``).
    """
    found = tuple(dict.fromkeys(name.upper() for name in _words(text)))
    unknown = [name for name in found if name not in PURPOSES]
    if unknown or not found:
        what = f"{unknown[0][:80]!r} is no purpose of use" if unknown else "name a purpose of use"
        raise Invalid(f"{what}: use {', '.join(sorted(PURPOSES))}", reason="unknown-purpose")
    return found


def parse_purpose(text: str) -> str:
    """One purpose of use.

    Raises:
        Invalid: unknown, or several (``unknown-purpose``).
    """
    found = parse_purposes(text)
    if len(found) != 1:
        raise Invalid("a request has one purpose of use", reason="unknown-purpose")
    return found[0]


def parse_ceiling(text: str) -> Confidentiality:
    """A level of confidentiality: ``U L M N R V``, from unrestricted to very restricted.

    Raises:
        Invalid: unknown (``unknown-confidentiality``).
    """
    try:
        return Confidentiality[text.strip().upper()]
    except KeyError:
        names = ", ".join(level.name for level in Confidentiality)
        raise Invalid(
            f"{text[:80]!r} is no level of confidentiality: use one of {names}",
            reason="unknown-confidentiality",
        ) from None


def parse_sensitivities(text: str) -> tuple[str, ...]:
    """Sensitivities of HL7 v3-ActCode joined by commas; none is allowed.

    Raises:
        Invalid: unknown (``unknown-sensitivity``).
    """
    found = dict.fromkeys(word.upper() for word in _words(text))
    unknown = next((word for word in found if word not in SENSITIVITIES), None)
    if unknown is not None:
        raise Invalid(
            f"{unknown[:80]!r} is no sensitivity: use codes of HL7 v3-ActCode, such as "
            f"{', '.join(SENSITIVITIES)}",
            reason="unknown-sensitivity",
        )
    return known_sensitivities(found)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]

"""The configuration files of a node and of the ledger: TOML into frozen dataclasses.

Each key is described once, as the metadata of its dataclass field: how it is
checked and what its comment says.  The loader and the writer both read that.

Invariants: what a loader returns has been checked whole; every error names the
file, the key and, where it can be found, the line.  An unknown key is an error,
because a misspelt limit would otherwise silently be the default.  Relative paths
are relative to the configuration file and come back absolute.  No key holds a
secret: keys are in files that the configuration names.

Not guaranteed: that the named files exist, or that addresses can be listened on.

Source: TOML 1.0.0.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import urlsplit

from hcefs.errors import Invalid

FILE_BYTES_MAX = 256 << 10
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("human", "json")
LOG_REQUESTS: Final = ("none", "failures", "all")

_Check = Callable[[Any, Path], Any]
"""Turns a TOML value into a field's value; ValueError says what is wrong with it."""


# --- what a value may be ------------------------------------------------------


def _path(value: Any, folder: Path) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError('must be a path in quotes, such as "node.key"')
    return folder / value


def _address(*, listen: bool) -> _Check:
    def check(value: Any, folder: Path) -> str:
        text = value if isinstance(value, str) else ""
        host, _, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if (
            not host
            or any(c.isspace() for c in host)
            or (":" in host and not bracketed)
            or not port.isascii()
            or not port.isdigit()
        ):
            raise ValueError('must be "host:port", with an IPv6 address in brackets')
        number = int(port) if len(port) <= 5 else 65536
        if not (0 if listen else 1) <= number < 65536:
            raise ValueError(f"has the port {port[:10]}: use {0 if listen else 1} to 65535")
        return text

    return check


def _whole(low: int, high: int) -> _Check:
    def check(value: Any, folder: Path) -> int:
        # bool is an int in Python, but `true` is no number in TOML.
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return check


def _number(low: float, high: float) -> _Check:
    def check(value: Any, folder: Path) -> float:
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not low <= value <= high  # also refuses nan and inf
        ):
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return float(value)

    return check


def _choice(*choices: str) -> _Check:
    def check(value: Any, folder: Path) -> str:
        if value not in choices:
            raise ValueError("must be one of " + ", ".join(f'"{c}"' for c in choices))
        return str(value)

    return check


def _endpoint(value: Any, folder: Path) -> str:
    if value == "":
        return ""
    parts = urlsplit(value) if isinstance(value, str) and value.isprintable() else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError('must be a URL such as "http://127.0.0.1:4318/v1/traces", or ""')
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("may hold no password and no query: this file holds no secrets")
    if parts.port == 0:  # one that is out of range raises here
        raise ValueError("has the port 0")
    return str(value)


def _key(check: _Check, comment: str) -> dict[str, Any]:
    """Metadata of a dataclass field that is a key of the file."""
    return {"check": check, "comment": comment}


# --- the files ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Where the TLS files are (PEM)."""

    certificate: Path = field(metadata=_key(_path, "This process's TLS certificate (PEM)."))
    key: Path = field(metadata=_key(_path, "Its private key (PEM, mode 0600)."))
    authority: Path = field(metadata=_key(_path, "The certificate authority of the cluster (PEM)."))


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Bounds of a node; beyond them requests are refused with a retry delay."""

    streams: int = field(metadata=_key(_whole(1, 65_536), "Puts and gets at one time."), default=64)
    memory_mib: int = field(
        metadata=_key(_whole(16, 1 << 20), "MiB that the streams may hold together."), default=512
    )
    put_deadline_s: float = field(
        metadata=_key(
            _number(0.1, 3600),
            "Seconds a put waits for all shards before k+1 durable ones are enough.",
        ),
        default=10.0,
    )
    reserve_mib: int = field(
        metadata=_key(_whole(0, 1 << 30), "MiB of the disk that shards never use."), default=256
    )
    account_requests: float = field(
        metadata=_key(
            _number(0.25, 1e6),
            "Requests a second that one account may make; four seconds' worth may come at once.",
        ),
        default=4000.0,
    )
    account_denials: float = field(
        metadata=_key(
            _number(0.25, 1e6),
            "Requests a second of one account that may be refused for want of a right; likewise.",
        ),
        default=25.0,
    )


@dataclass(frozen=True, slots=True)
class UpkeepConfig:
    """How a node copies, rebuilds and deletes shards when seats move."""

    rate_min_mib: float = field(
        metadata=_key(
            _number(0.001, 1 << 20), "MiB a second that copies may take while clients are served."
        ),
        default=16.0,
    )
    rate_max_mib: float = field(
        metadata=_key(_number(0.001, 1 << 20), "The same while no client asks for anything."),
        default=512.0,
    )
    grace_s: float = field(
        metadata=_key(
            _number(0, 30 * 86_400),
            "Seconds that a shard is kept after its seat has moved, for readers with an old map.",
        ),
        default=600.0,
    )
    round_s: float = field(
        metadata=_key(
            _number(0.1, 30 * 86_400),
            "Seconds between two rounds over this node's rows for shards that it lacks.",
        ),
        default=3600.0,
    )
    scrub_cycle_s: float = field(
        metadata=_key(
            _number(1, 365 * 86_400), "Seconds in which the scrub reads everything on this node."
        ),
        default=14 * 86_400.0,
    )
    scrub_rate_mib: float = field(
        metadata=_key(_number(0.001, 1 << 20), "MiB a second that the scrub never exceeds."),
        default=32.0,
    )
    quarantine_s: float = field(
        metadata=_key(
            _number(0, 365 * 86_400), "Seconds that a damaged shard is kept at the least."
        ),
        default=7 * 86_400.0,
    )
    anchor_s: float = field(
        metadata=_key(
            _number(0.1, 86_400),
            "Seconds after which receipts are anchored on the ledger at the latest.",
        ),
        default=60.0,
    )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How the process logs, on standard error."""

    level: str = field(
        metadata=_key(_choice(*LOG_LEVELS), f"One of: {', '.join(LOG_LEVELS)}."), default="info"
    )
    format: str = field(
        metadata=_key(_choice(*LOG_FORMATS), "human (coloured lines) or json (one object a line)."),
        default="human",
    )
    requests: str = field(
        metadata=_key(
            _choice(*LOG_REQUESTS), "A line for each request: none, of failures, or of all."
        ),
        default="failures",
    )


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """Where the process sends its spans, if anywhere."""

    endpoint: str = field(
        metadata=_key(
            _endpoint,
            "URL of an OpenTelemetry collector (OTLP over HTTP), such as "
            '"http://127.0.0.1:4318/v1/traces"; empty: no traces.',
        ),
        default="",
    )
    sample_ratio: float = field(
        metadata=_key(_number(0.0, 1.0), "The share of all traces that is recorded."),
        default=0.01,
    )


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything a storage node reads at its start."""

    data: Path = field(
        metadata=_key(_path, "Folder of the shards and databases: one node process a disk.")
    )
    genesis: Path = field(metadata=_key(_path, "The genesis file, which names the cluster."))
    account: Path = field(metadata=_key(_path, "Key file of this node's account (mode 0600)."))
    client_address: str = field(metadata=_key(_address(listen=True), "Clients connect here (TLS)."))
    peer_address: str = field(
        metadata=_key(_address(listen=True), "Other nodes connect here (mutual TLS).")
    )
    metrics_address: str = field(
        metadata=_key(
            _address(listen=True), "Prometheus reads http://.../metrics here; keep it internal."
        )
    )
    ledger_address: str = field(
        metadata=_key(_address(listen=False), "The peer port of the ledger.")
    )
    tls: TlsConfig = field(metadata={"comment": "TLS"})
    limits: LimitsConfig = field(metadata={"comment": "Limits"}, default_factory=LimitsConfig)
    upkeep: UpkeepConfig = field(metadata={"comment": "Upkeep"}, default_factory=UpkeepConfig)
    log: LogConfig = field(metadata={"comment": "Logging"}, default_factory=LogConfig)
    trace: TraceConfig = field(metadata={"comment": "Traces"}, default_factory=TraceConfig)


@dataclass(frozen=True, slots=True)
class QueriesConfig:
    """How much one account may ask of the ledger; nodes, on the peer port, as much as they need."""

    account_requests: float = field(
        metadata=_key(
            _number(0.25, 1e6),
            "Questions and transactions a second of one account; four seconds' worth may come at "
            "once.",
        ),
        default=2000.0,
    )


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """Everything the embedded ledger's writer reads at its start."""

    data: Path = field(metadata=_key(_path, "Folder of the ledger's log."))
    genesis: Path = field(metadata=_key(_path, "The genesis file, which names the cluster."))
    writer_key: Path = field(
        metadata=_key(_path, "Key file that signs blocks and heads (mode 0600).")
    )
    client_address: str = field(metadata=_key(_address(listen=True), "Clients connect here (TLS)."))
    peer_address: str = field(
        metadata=_key(_address(listen=True), "Nodes connect here (mutual TLS).")
    )
    metrics_address: str = field(
        metadata=_key(
            _address(listen=True), "Prometheus reads http://.../metrics here; keep it internal."
        )
    )
    tls: TlsConfig = field(metadata={"comment": "TLS"})
    queries: QueriesConfig = field(
        metadata={"comment": "What one account may ask"}, default_factory=QueriesConfig
    )
    log: LogConfig = field(metadata={"comment": "Logging"}, default_factory=LogConfig)
    trace: TraceConfig = field(metadata={"comment": "Traces"}, default_factory=TraceConfig)


_SECTIONS: Final[Mapping[str, type[Any]]] = {
    "tls": TlsConfig,
    "limits": LimitsConfig,
    "upkeep": UpkeepConfig,
    "queries": QueriesConfig,
    "log": LogConfig,
    "trace": TraceConfig,
}

C = TypeVar("C", NodeConfig, LedgerConfig)


def load_node_config(path: Path) -> NodeConfig:
    """Read and check a node's configuration.

    Raises:
        Invalid: unreadable, not TOML, or a key that is unknown, missing or wrong
            (``bad-config``); the message names file, key and line.
    """
    return _load(path, NodeConfig)


def load_ledger_config(path: Path) -> LedgerConfig:
    """Read and check the ledger's configuration.

    Raises:
        Invalid: as for :func:`load_node_config`.
    """
    return _load(path, LedgerConfig)


def render_node_config(config: NodeConfig, *, relative_to: Path | None = None) -> str:
    """The configuration as commented TOML.

    Paths below ``relative_to`` (the folder of the file) are written relative to it.

    Raises:
        Invalid: a value that the loader would refuse (``bad-config``).
    """
    return _render(config, "a storage node", relative_to)


def render_ledger_config(config: LedgerConfig, *, relative_to: Path | None = None) -> str:
    """The configuration as commented TOML; see :func:`render_node_config`."""
    return _render(config, "the ledger", relative_to)


# --- reading ------------------------------------------------------------------


class _Source:
    """A file being read: knows where its keys stand, for the messages."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.folder = path.absolute().parent
        self._lines = _lines_of_keys(text)

    def fail(self, key: str, problem: str) -> NoReturn:
        line = self._lines.get(key)
        where = f"{self.path}, line {line}" if line else f"{self.path}"
        raise Invalid(f"{where}: {key} {problem}", reason="bad-config")


def _load(path: Path, cls: type[C]) -> C:
    text = _read(path)
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib lets a ValueError of int() through
        raise Invalid(f"{path}: not TOML: {error}", reason="bad-config") from None
    source = _Source(path, text)
    config: C = _build(source, values, cls, "")
    _check_ports(source, config)
    return config


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Invalid(
            f"{path}: cannot be read: {error.strerror or type(error).__name__}",
            reason="bad-config",
        ) from None
    if len(data) > FILE_BYTES_MAX:
        raise Invalid(
            f"{path}: more than {FILE_BYTES_MAX} bytes are not a configuration",
            reason="bad-config",
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Invalid(f"{path}, line {line}: not UTF-8", reason="bad-config") from None


def _build(source: _Source, values: Mapping[str, Any], cls: type[Any], prefix: str) -> Any:
    fields = dataclasses.fields(cls)
    names = [f.name for f in fields]
    for name in values:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known are {', '.join(names)}"
            source.fail(prefix + name, f"is unknown: {hint}")
    built: dict[str, Any] = {}
    for f in fields:
        key = prefix + f.name
        optional = (
            f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
        )
        section = _SECTIONS.get(f.name) if not prefix else None
        if section is not None:
            table = values.get(f.name, {})
            if not isinstance(table, dict):
                source.fail(key, f"must be a table: write [{f.name}] on a line of its own")
            built[f.name] = _build(source, table, section, key + ".")
        elif f.name in values:
            try:
                built[f.name] = f.metadata["check"](values[f.name], source.folder)
            except ValueError as error:
                source.fail(key, str(error))
        elif not optional:
            source.fail(key, f"is missing: {f.metadata['comment']}")
    return cls(**built)


def _check_ports(source: _Source, config: NodeConfig | LedgerConfig) -> None:
    seen: dict[str, str] = {}
    for name in ("client_address", "peer_address", "metrics_address"):
        address = getattr(config, name)
        if address in seen:
            source.fail(name, f"is the same as {seen[address]}: each needs a port of its own")
        if not address.endswith(":0"):  # port 0 means any free one
            seen[address] = name


_TABLE_LINE = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]\s*(#.*)?$")
_KEY_LINE = re.compile(r"\s*([A-Za-z0-9_-]+(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=")


def _lines_of_keys(text: str) -> dict[str, int]:
    """Line numbers by full key: tomllib does not tell.  Best effort, for messages only."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _TABLE_LINE.match(line):
            lines.setdefault(match[1], number)
            table = match[1] + "."
        elif match := _KEY_LINE.match(line):
            lines.setdefault(table + re.sub(r"\s", "", match[1]), number)
    return lines


# --- writing ------------------------------------------------------------------


def _render(config: Any, whose: str, relative_to: Path | None) -> str:
    lines = [
        f"# Configuration of {whose} of HCE-FS.",
        "# Relative paths are relative to this file.",
    ]
    tables: list[tuple[Any, Any]] = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            tables.append((f, value))
        else:
            lines += _render_key(f, value, f.name, relative_to)
    for table, section in tables:
        lines += ["", f"# {table.metadata['comment']}", f"[{table.name}]"]
        for f in dataclasses.fields(section):
            name = f"{table.name}.{f.name}"
            lines += _render_key(f, getattr(section, f.name), name, relative_to)
    return "\n".join(lines) + "\n"


def _render_key(f: Any, value: Any, name: str, relative_to: Path | None) -> list[str]:
    if isinstance(value, Path):
        if relative_to is not None and value.is_relative_to(relative_to):
            value = value.relative_to(relative_to)
        value = str(value)
    try:
        f.metadata["check"](value, Path())
        text = _toml(value)
        text.encode("utf-8")
    except ValueError as error:  # UnicodeEncodeError is one: a path that is not text
        problem = "is not UTF-8" if isinstance(error, UnicodeError) else str(error)
        raise Invalid(f"{name} {problem}", reason="bad-config") from None
    return ["", f"# {f.metadata['comment']}", f"{f.name} = {text}"]


def _toml(value: str | int | float) -> str:
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)

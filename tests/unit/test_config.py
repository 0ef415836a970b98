"""Configuration: every mistake is named with file, key and line."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcefs import config
from hcefs.config import (
    LedgerConfig,
    LimitsConfig,
    LogConfig,
    NodeConfig,
    TlsConfig,
    load_ledger_config,
    load_node_config,
    render_ledger_config,
    render_node_config,
)
from hcefs.errors import Invalid

NODE = """\
data = "data"
genesis = "../genesis.cbor"
account = "/keys/node.key"
client_address = "0.0.0.0:7001"
peer_address = "[::1]:7002"
metrics_address = "localhost:7003"
ledger_address = "ledger.example:7012"

[tls]
certificate = "tls/node.pem"
key = "tls/node.key"
authority = "tls/ca.pem"
"""

LEDGER = """\
data = "data"
genesis = "genesis.cbor"
writer_key = "writer.key"
client_address = "127.0.0.1:7011"
peer_address = "127.0.0.1:7012"
metrics_address = "127.0.0.1:7013"
tls.certificate = "c.pem"
tls.key = "c.key"
tls.authority = "ca.pem"
[log]
level = "debug"
format = "json"
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "node.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(folder: Path, text: str | bytes) -> str:
    """The message about a node's configuration that must not load."""
    path = write(folder, text)
    with pytest.raises(Invalid) as caught:
        load_node_config(path)
    assert caught.value.reason == "bad-config"
    message = caught.value.message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_a_node(tmp_path: Path) -> None:
    loaded = load_node_config(write(tmp_path, NODE))
    assert loaded == NodeConfig(
        data=tmp_path / "data",
        genesis=tmp_path / "../genesis.cbor",
        account=Path("/keys/node.key"),
        client_address="0.0.0.0:7001",
        peer_address="[::1]:7002",
        metrics_address="localhost:7003",
        ledger_address="ledger.example:7012",
        tls=TlsConfig(
            tmp_path / "tls/node.pem", tmp_path / "tls/node.key", tmp_path / "tls/ca.pem"
        ),
        limits=LimitsConfig(streams=64, memory_mib=512, put_deadline_s=10.0, reserve_mib=256),
        log=LogConfig(level="info", format="human"),
    )


def test_a_ledger(tmp_path: Path) -> None:
    loaded = load_ledger_config(write(tmp_path, LEDGER))
    assert loaded.writer_key == tmp_path / "writer.key"
    assert loaded.tls.key == tmp_path / "c.key"
    assert loaded.log == LogConfig(level="debug", format="json")


def test_relative_paths_come_back_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, NODE)
    monkeypatch.chdir(tmp_path)
    assert load_node_config(Path("node.toml")).data == tmp_path / "data"


def test_limits_and_whole_seconds(tmp_path: Path) -> None:
    text = NODE + "[limits]\nstreams = 8\nmemory_mib = 64\nput_deadline_s = 2\nreserve_mib = 0\n"
    limits = load_node_config(write(tmp_path, text)).limits
    assert limits == LimitsConfig(8, 64, 2.0, 0)
    assert isinstance(limits.put_deadline_s, float)


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ('data = "data"', "data = 5", 1, "data"),
        ('data = "data"', 'data = ""', 1, "data"),
        ('data = "data"', 'data = "a\\u0000"', 1, "data"),
        ('"0.0.0.0:7001"', '"0.0.0.0"', 4, "client_address"),
        ('"0.0.0.0:7001"', '":7001"', 4, "client_address"),
        ('"0.0.0.0:7001"', '"::1:7001"', 4, "client_address"),
        ('"0.0.0.0:7001"', '"a b:7001"', 4, "client_address"),
        ('"0.0.0.0:7001"', '"h:65536"', 4, "client_address"),
        ('"0.0.0.0:7001"', '"h:' + "9" * 5000 + '"', 4, "client_address"),
        ('"0.0.0.0:7001"', "7001", 4, "client_address"),
        ('"ledger.example:7012"', '"ledger.example:0"', 7, "ledger_address"),
        ('"localhost:7003"', '"0.0.0.0:7001"', 6, "metrics_address"),
        ('key = "tls/node.key"', "key = false", 11, "tls.key"),
        ("[tls]", "[tls]\npassword = 'x'", 10, "tls.password"),
        ("[tls]", "tls_ = 1\n[tls]", 9, "tls_"),
        ("[tls]", "[limits]\nstreams = 0\n[tls]", 10, "limits.streams"),
        ("[tls]", "[limits]\nstreams = true\n[tls]", 10, "limits.streams"),
        ("[tls]", "[limits]\nstreams = 1.5\n[tls]", 10, "limits.streams"),
        ("[tls]", "[limits]\nmemory_mib = -1\n[tls]", 10, "limits.memory_mib"),
        ("[tls]", "[limits]\nput_deadline_s = nan\n[tls]", 10, "limits.put_deadline_s"),
        ("[tls]", "[limits]\nput_deadline_s = true\n[tls]", 10, "limits.put_deadline_s"),
        ("[tls]", "[limits]\nput_deadline_s = '1'\n[tls]", 10, "limits.put_deadline_s"),
        ("[tls]", "log.level = 'loud'\n[tls]", 9, "log.level"),
        ("[tls]", "[log] # how\nformat = []\n[tls]", 10, "log.format"),
        ("[tls]", "log = 3\n[tls]", 9, "log"),
    ],
)
def test_mistakes_name_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, key: str
) -> None:
    message = refused(tmp_path, NODE.replace(old, new, 1))
    assert message.startswith(f", line {line}: {key} "), message


@pytest.mark.parametrize("key", ["data", "account", "ledger_address", "certificate"])
def test_missing_keys_are_named_and_explained(tmp_path: Path, key: str) -> None:
    message = refused(tmp_path, re.sub(rf"(?m)^{key} = .*\n", "", NODE))
    full = "tls.certificate" if key == "certificate" else key
    assert message.startswith(f": {full} is missing: ")


def test_a_missing_table_names_its_first_key(tmp_path: Path) -> None:
    assert ": tls.certificate is missing" in refused(tmp_path, NODE.partition("[tls]")[0])


def test_a_misspelt_key_gets_a_hint(tmp_path: Path) -> None:
    message = refused(tmp_path, NODE + "[limits]\nstream = 3\n")
    assert "did you mean limits.streams?" in message
    assert "known are" in refused(tmp_path, NODE + "[limits]\nzzz = 3\n")


def test_a_ledgers_key_is_not_a_nodes(tmp_path: Path) -> None:
    assert "writer_key is unknown" in refused(tmp_path, 'writer_key = "w"\n' + NODE)


def test_ports_zero_may_repeat(tmp_path: Path) -> None:
    text = re.sub(r'(client|peer|metrics)_address = ".*"', r'\1_address = "127.0.0.1:0"', NODE)
    assert load_node_config(write(tmp_path, text)).peer_address == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data = \n", "line 1"),
        ('data = "a"\ndata = "b"\n', "line 2"),
        (b'data = "a"\ngenesis = "\xff"\n', ", line 2: not UTF-8"),
        ("a = " + "[" * 5000, "not TOML"),
        ("a = " + "9" * 5000, "not TOML"),
        ("#" * (config.FILE_BYTES_MAX + 1), "are not a configuration"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert expected in refused(tmp_path, text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(Invalid, match="cannot be read") as caught:
            load_node_config(path)
        assert str(path) in caught.value.message


def test_rendering_round_trips_with_comments(tmp_path: Path) -> None:
    node = load_node_config(write(tmp_path, NODE))
    text = render_node_config(node, relative_to=tmp_path)
    assert 'data = "data"' in text
    assert 'account = "/keys/node.key"' in text
    assert load_node_config(write(tmp_path, text)) == node
    assert load_node_config(write(tmp_path, render_node_config(node))) == node
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if "=" in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line
    ledger = load_ledger_config(write(tmp_path, LEDGER))
    text = render_ledger_config(ledger, relative_to=tmp_path)
    assert load_ledger_config(write(tmp_path, text)) == ledger


@settings(max_examples=30, deadline=None)
@given(name=st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1))
def test_any_path_survives_rendering(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("config")
    node = load_node_config(write(folder, NODE))
    odd = replace(node, data=folder / name / "d")
    assert load_node_config(write(folder, render_node_config(odd))) == odd


def test_rendering_refuses_what_loading_would(tmp_path: Path) -> None:
    node = load_node_config(write(tmp_path, NODE))
    for bad in (
        replace(node, client_address="nowhere"),
        replace(node, limits=LimitsConfig(streams=0)),
        replace(node, data=Path("/\udcff")),
    ):
        with pytest.raises(Invalid) as caught:
            render_node_config(bad)
        assert caught.value.reason == "bad-config"


def test_configurations_are_frozen(tmp_path: Path) -> None:
    loaded: LedgerConfig = load_ledger_config(write(tmp_path, LEDGER))
    with pytest.raises(AttributeError):
        loaded.data = Path("x")  # type: ignore[misc]


def test_config_and_metrics_import_neither_grpc_nor_cryptography() -> None:
    code = (
        "import sys, hcefs.config, hcefs.metrics;"
        "print([m for m in ('grpc', 'cryptography') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"

"""The connection file: what it accepts and how it says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcefs.client.connection import Connection, load_connection
from hcefs.errors import Invalid, NotFound
from hcefs.ids import ClusterId

CLUSTER = ClusterId(b"c" * 16)
GOOD = f"""
cluster = "{CLUSTER.text}"
authority = "ca/ca.crt"
ledger = "127.0.0.1:7000"
nodes = ["127.0.0.1:7001", "[::1]:7002", "node.example:443"]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "ca").mkdir(exist_ok=True)
    (folder / "ca" / "ca.crt").write_bytes(b"PEM")
    path = folder / "cluster.toml"
    path.write_text(text)
    return path


def test_a_good_file(tmp_path: Path) -> None:
    connection = load_connection(write(tmp_path, GOOD))
    assert connection == Connection(
        CLUSTER, b"PEM", "127.0.0.1:7000", ("127.0.0.1:7001", "[::1]:7002", "node.example:443")
    )
    assert "PEM" not in repr(connection)


def test_nodes_may_be_left_to_the_map(tmp_path: Path) -> None:
    text = "\n".join(line for line in GOOD.splitlines() if not line.startswith("nodes"))
    assert load_connection(write(tmp_path, text)).nodes == ()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (CLUSTER.text, "clu-12", "ClusterId"),
        ('ledger = "127.0.0.1:7000"', "", "ledger"),
        ('"127.0.0.1:7000"', "7000", "ledger"),
        ("127.0.0.1:7000", "127.0.0.1", "host:port"),
        ("127.0.0.1:7000", "127.0.0.1:0", "host:port"),
        ("127.0.0.1:7001", "::1:7001", "host:port"),
        ("127.0.0.1:7001", "a b:7001", "host:port"),
        ('["127.0.0.1:7001", ', "[1, ", "nodes"),
        ("nodes =", "node =", "'node' is unknown"),
        ("cluster =", "cluster", "not TOML"),
    ],
)
def test_what_is_refused(tmp_path: Path, old: str, new: str, named: str) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(Invalid) as caught:
        load_connection(path)
    assert caught.value.reason == "bad-connection-file"
    assert str(path) in caught.value.message
    assert named in caught.value.message


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"cluster\.toml"):
        load_connection(tmp_path / "cluster.toml")
    path = write(tmp_path, GOOD)
    (tmp_path / "ca" / "ca.crt").unlink()
    with pytest.raises(NotFound, match=r"ca\.crt"):
        load_connection(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="more than"):
        load_connection(write(tmp_path, "#" * (300 << 10)))

"""``hcefs doctor``: what it finds, what it advises, and with which code it ends."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hcefs.cli import doctor_machine
from hcefs.cli.bringup import prepare
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.doctor_disk import filesystem_of, judge_kind, judge_room, judge_speed
from hcefs.cli.doctor_findings import Finding, Level
from hcefs.cli.doctor_process import EXPIRY_PROBLEM_MS, EXPIRY_WARNING_MS, certificates
from hcefs.cli.ports import reserved_ports
from hcefs.config import load_node_config
from hcefs.runtime import SystemRuntime
from hcefs.transport.tls import is_issued_by, new_authority, validity
from tests.cli.conftest import Invoke


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ClusterFolder:
    """A prepared cluster of one node, on ports that are free."""
    folder = ClusterFolder(tmp_path_factory.mktemp("made"))
    runtime = SystemRuntime()
    with reserved_ports(6, runtime.random) as ports:
        prepare(folder, ports, runtime)
    runtime.close()
    return folder


@pytest.fixture
def node(made: ClusterFolder, tmp_path: Path) -> Path:
    """The configuration of a node in a copy that a test may damage."""
    shutil.copytree(made.root, tmp_path / "cluster", symlinks=True)
    return tmp_path / "cluster" / "nodes" / "1" / "config.toml"


def findings(invoke: Invoke, *arguments: object) -> tuple[int, list[dict[str, Any]]]:
    result = invoke("doctor", "--json", *arguments)
    return result.exit_code, json.loads(result.output)["findings"]


def bad(found: list[dict[str, Any]], check: str) -> list[dict[str, Any]]:
    return [each for each in found if each["check"] == check and each["level"] != "ok"]


def test_a_stopped_node_whose_ledger_is_away(invoke: Invoke, node: Path) -> None:
    code, found = findings(invoke, "--config", node)
    assert code == 1
    assert {each["check"] for each in found} >= {
        "clock", "kernel", "libraries", "isa-l", "processor", "limits", "configuration",
        "genesis", "certificates", "modes", "ports", "disk", "process",
    }  # fmt: skip
    (away,) = bad(found, "ports")
    assert "the ledger's peer port" in away["what"]
    assert "start the ledger" in away["remedy"]
    assert bad(found, "process")[0]["what"] == "it does not run"
    assert not bad(found, "certificates")
    assert all(each["remedy"] for each in found if each["level"] != "ok")
    assert not list(node.parent.glob(".doctor-*"))


def test_people_see_only_what_is_not_well(invoke: Invoke, node: Path) -> None:
    result = invoke("doctor", "--config", node)
    assert result.exit_code == 1
    assert "problem  ports: the ledger's peer port" in result.output
    assert "genesis" not in result.output
    assert "genesis" in invoke("doctor", "--config", node, "--all").output


def test_a_folder_without_processes(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("doctor", "--dir", tmp_path / "none", "--json")
    assert result.exit_code == 3
    assert json.loads(result.output)["error"]["reason"] == "no-configuration"


def test_a_bad_key_of_the_configuration_is_named_with_its_line(invoke: Invoke, node: Path) -> None:
    node.write_text(node.read_text() + "\n[uppkeep]\n")
    code, found = findings(invoke, "--config", node)
    assert code == 1
    (wrong,) = bad(found, "configuration")
    assert "uppkeep is unknown" in wrong["what"]
    assert "line" in wrong["what"]


def test_secrets_that_others_may_read(invoke: Invoke, node: Path) -> None:
    (node.parent / "tls.key").chmod(0o640)
    (node.parent / "data").mkdir(mode=0o755)
    _, found = findings(invoke, "--config", node)
    remedies = [each["remedy"] for each in bad(found, "modes")]
    assert remedies == [f"chmod 600 {node.parent / 'tls.key'}", f"chmod 700 {node.parent / 'data'}"]


def test_a_port_that_somebody_else_has(invoke: Invoke, node: Path) -> None:
    host, port = load_node_config(node).client_address.split(":")
    with socket.create_server((host, int(port))):
        _, found = findings(invoke, "--config", node)
    assert any("the process does not run" in each["what"] for each in bad(found, "ports"))


def test_certificates_near_their_end(made: ClusterFolder) -> None:
    config = load_node_config(made.config_of("node-1"))
    until = validity(config.tls.certificate.read_bytes()).until_ms

    def level(now_ms: int) -> Level:
        return max(each.level for each in certificates(config, "", now_ms))

    assert level(until - EXPIRY_WARNING_MS - 1000) is Level.OK
    assert level(until - EXPIRY_WARNING_MS + 1000) is Level.WARNING
    assert level(until - EXPIRY_PROBLEM_MS + 1000) is Level.PROBLEM
    assert level(until + 1000) is Level.PROBLEM
    assert level(0) is Level.PROBLEM, "a clock that is far behind"


def test_a_certificate_of_another_authority(invoke: Invoke, node: Path) -> None:
    other, _ = new_authority("another")
    authority = node.parent / ".." / ".." / "ca" / "ca.crt"
    assert is_issued_by((node.parent / "tls.crt").read_bytes(), authority.read_bytes())
    authority.write_bytes(other)
    _, found = findings(invoke, "--config", node)
    assert bad(found, "certificates")[0]["what"] == "the certificate is not of this authority"


@pytest.fixture
def page(node: Path) -> Iterator[None]:
    """Something that answers on the node's metrics port as a node does that is not ready."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"ok": false, "reasons": ["this node\'s clock is behind"]}'
            self.send_response(503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    host, port = load_node_config(node).metrics_address.split(":")
    with http.server.HTTPServer((host, int(port)), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("page")
def test_what_a_running_process_says_of_itself(invoke: Invoke, node: Path) -> None:
    _, found = findings(invoke, "--config", node)
    assert [each["what"] for each in bad(found, "process")] == ["this node's clock is behind"]
    assert any("client port" in each["what"] for each in bad(found, "ports")), "it should answer"


def level(finding: Finding) -> Level:
    assert bool(finding.remedy) == (finding.level is not Level.OK)
    return finding.level


def test_judgements() -> None:
    clock = doctor_machine.judge_clock
    assert level(clock(synchronized=True, error_us=20_000)) is Level.OK
    assert level(clock(synchronized=True, error_us=2_000_000)) is Level.WARNING
    assert level(clock(synchronized=False, error_us=0)) is Level.WARNING
    assert level(doctor_machine.judge_files(1024)) is Level.WARNING
    assert level(doctor_machine.judge_files(-1)) is Level.OK
    assert level(judge_kind("tmpfs", "")) is Level.WARNING
    assert level(judge_kind("nfs4", "")) is Level.WARNING
    assert level(judge_kind("xfs", "")) is Level.OK
    assert level(judge_room(99, 1000, 99, "")) is Level.PROBLEM
    assert level(judge_room(99, 1000, 0, "")) is Level.WARNING
    assert level(judge_room(500, 1000, 99, "")) is Level.OK
    assert level(judge_speed(200 << 20, 2, "")) is Level.OK
    assert level(judge_speed(20 << 20, 2, "")) is Level.WARNING
    assert level(judge_speed(200 << 20, 200, "")) is Level.WARNING


def test_a_processor_without_aes(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("flags\t\t: fpu sse2\n")
    assert level(doctor_machine.processor(path)) is Level.WARNING
    path.write_text("Features\t: fp asimd aes pmull\n")
    assert level(doctor_machine.processor(path)) is Level.OK


def test_the_innermost_mount_counts(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 0:9 / {tmp_path} rw shared:1 - tmpfs tmpfs rw\n"
        "broken\n"
    )
    assert filesystem_of(tmp_path / "data", mounts) == "tmpfs"
    assert filesystem_of(Path("/usr"), mounts) == "ext4"
    assert filesystem_of(Path("/usr"), tmp_path / "none") == ""

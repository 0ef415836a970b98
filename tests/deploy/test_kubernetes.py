"""The Kubernetes manifests: valid by the schemas of the API, and right by what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from hcefs.cli.machines import LEDGER_PORT, NODE_PORT
from hcefs.node.health import LIVE_PATH, READY_PATH

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
VERSION = "1.31"
"""The oldest supported; strict: a misspelt field is an error."""


def documents(path: Path) -> list[Any]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


ALL = [document for path in FILES for document in documents(path)]
SETS = [each for each in ALL if each["kind"] == "StatefulSet"]


def of_kind(kind: str) -> dict[str, Any]:
    return {each["metadata"]["name"]: each for each in ALL if each["kind"] == kind}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_api_takes_it(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_api_would_not_take_a_misspelt_field() -> None:
    wrong = documents(FOLDER / "zone-a.yaml")[0]
    wrong["spec"]["template"]["spec"]["nodeSelectr"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_everything_is_applied() -> None:
    kustomization = documents(FOLDER / "kustomization.yaml")[0]
    assert sorted(kustomization["resources"]) == [path.name for path in FILES]


def test_a_set_for_each_zone() -> None:
    zones = [
        each["spec"]["template"]["spec"]["nodeSelector"]["topology.kubernetes.io/zone"]
        for each in SETS
        if each["metadata"]["name"] != "hcefs-ledger"
    ]
    assert zones == ["zone-a", "zone-b", "zone-c"]


@pytest.mark.parametrize("each", SETS, ids=lambda each: each["metadata"]["name"])
def test_a_pod(each: Any) -> None:
    spec = each["spec"]["template"]["spec"]
    name = each["metadata"]["name"]
    is_ledger = name == "hcefs-ledger"
    (container,) = spec["containers"]
    first = LEDGER_PORT if is_ledger else NODE_PORT
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"client": first, "peer": first + 1, "metrics": first + 2}
    assert container["args"][0] == ("ledger" if is_ledger else "node")
    assert container["livenessProbe"]["httpGet"] == {"path": LIVE_PATH, "port": "metrics"}
    assert container["readinessProbe"]["httpGet"] == {"path": READY_PATH, "port": "metrics"}
    assert spec["securityContext"]["runAsNonRoot"]
    for any_container in (container, *spec["initContainers"]):
        security = any_container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"]["drop"] == ["ALL"]
    assert each["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"
    (machine,) = (volume for volume in spec["volumes"] if volume["name"] == "machine")
    sources = [source["secret"]["name"] for source in machine["projected"]["sources"]]
    assert sources == [f"{name}-{pod}" for pod in range(each["spec"]["replicas"])]
    if not is_ledger:
        (term,) = spec["affinity"]["podAntiAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert term["labelSelector"]["matchLabels"].items() <= labels.items()


def test_one_node_may_be_taken_at_a_time() -> None:
    budgets = of_kind("PodDisruptionBudget")
    assert budgets["hcefs-nodes"]["spec"]["maxUnavailable"] == 1
    assert budgets["hcefs-ledger"]["spec"]["maxUnavailable"] == 0
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in SETS]
    for name, count in (("hcefs-nodes", 3), ("hcefs-ledger", 1)):
        chosen = budgets[name]["spec"]["selector"]["matchLabels"].items()
        assert sum(chosen <= labels.items() for labels in pods) == count


def test_peer_ports_are_for_the_cluster_alone() -> None:
    policies = of_kind("NetworkPolicy")
    assert policies["nothing-else"]["spec"]["podSelector"] == {}
    for name, first in (("hcefs-nodes", NODE_PORT), ("hcefs-ledger", LEDGER_PORT)):
        rules = policies[name]["spec"]["ingress"]
        (peers,) = (rule for rule in rules if rule["ports"] == [{"port": first + 1}])
        assert all("podSelector" in each and len(each) == 1 for each in peers["from"])
        assert {port["port"] for rule in rules for port in rule["ports"]} == {
            first, first + 1, first + 2,
        }  # fmt: skip


def test_services_name_the_pods_ports() -> None:
    for name, first in (("hcefs-nodes", NODE_PORT), ("hcefs-ledger", LEDGER_PORT)):
        service = of_kind("Service")[name]["spec"]
        assert service["clusterIP"] == "None"
        assert [port["port"] for port in service["ports"]] == [first, first + 1, first + 2]
    assert {each["spec"]["serviceName"] for each in SETS} == {"hcefs-nodes", "hcefs-ledger"}

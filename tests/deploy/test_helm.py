"""The chart: taken by Helm's own check, rendered into objects that Kubernetes' schemas take, and a configuration that is good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kit import KIT, cannot_run

from holdfast._version import __version__
from holdfast_coordinator.config import ENV_SECRET, load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

try:
    import helm_python as helm
    import kubernetes_validate
except ImportError:
    helm = None

CHART = KIT / "helm" / "holdfast"
KUBERNETES = "1.32"
"""The chart asks for 1.27 or later."""
SECRET = {"existingSecret": "holdfast"}
ACCESS = {"identities": [{"name": "payments", "bearer_sha256": ["ab" * 32], "may": []}]}
HTTP_TLS = {"certificate": "/etc/holdfast/tls/{node}.pem", "key": "/etc/holdfast/tls/{node}.key"}
SETTINGS = {"access": ACCESS, "http_tls": HTTP_TLS}
GIVEN: dict[str, Any] = {"secret": SECRET, "settings": SETTINGS}
OF_OPERATORS = {"PodMonitor", "PrometheusRule"}
"""Kinds that Kubernetes itself does not know."""


@pytest.fixture(autouse=True)
def _helm() -> None:
    if helm is None:
        cannot_run("Helm's library", "pip install --group deploy")


def rendered(values: Mapping[str, Any] = GIVEN) -> dict[str, dict[str, Any]]:
    """The objects, by kind and name. Raises helm's errors."""
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(dict(values))
        files = chart.render(dict(values), name="locks", namespace="prod")
    objects = [
        each
        for name, text in files.items()
        if not name.endswith(".txt")
        for each in yaml.safe_load_all(text)
        if each
    ]
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in objects}


EVERYTHING = {
    **GIVEN,
    "replicas": 5,
    "settings": {**SETTINGS, "timing": {"heartbeat_ms": 120}},
    "files": [{"name": "tls", "mountPath": "/etc/holdfast/tls", "secretName": "holdfast-tls"}],
    "storage": {"className": "fast"},
    "probes": {"scheme": "HTTPS"},
    "imagePullSecrets": [{"name": "registry"}],
    "priorityClassName": "high",
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "locks", "operator": "Exists"}],
    "podAnnotations": {"a": "b"},
    "monitoring": {"podMonitor": True, "prometheusRule": True, "labels": {"team": "x"}},
    "networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]},
}


def test_helm_takes_the_chart() -> None:
    """`helm lint` has nothing to complain of; that charts should have icons is its only wish."""
    found = helm.lint(str(CHART))
    assert found["errors"] == []
    assert [each["error"] for each in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("values", [GIVEN, {**GIVEN, "probes": {"tcp": True}}, EVERYTHING])
def test_kubernetes_takes_what_the_chart_makes(values: dict[str, Any]) -> None:
    """By the schemas of its API, strictly: no field that it would pass over."""
    for each in rendered(values).values():
        if each["kind"] not in OF_OPERATORS:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_the_check_notices_a_field_that_kubernetes_does_not_know() -> None:
    """The check above can fail."""
    budget = rendered()["PodDisruptionBudget/locks-holdfast"]
    budget["spec"]["maxUnavailabel"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(budget, KUBERNETES, strict=True)


@pytest.mark.parametrize("values", [GIVEN, EVERYTHING])
def test_the_configuration_that_the_chart_writes_is_good(
    values: dict[str, Any], tmp_path: Path
) -> None:
    """A node would start with it, and finds itself in it under the name of its pod."""
    objects = rendered(values)
    file = tmp_path / "cluster.yml"
    file.write_text(objects["ConfigMap/locks-holdfast"]["data"]["cluster.yml"])
    config = load(file, {ENV_SECRET: "0123456789abcdef" * 4})
    stateful = objects["StatefulSet/locks-holdfast"]
    names = [f"{stateful['metadata']['name']}-{n}" for n in range(stateful["spec"]["replicas"])]
    assert [node.name for node in config.nodes] == names
    assert config.warnings == ()
    for node in config.nodes:
        # What a pod finds in its own /etc/hosts.
        assert (
            node.http.host
            == f"{node.name}.{stateful['spec']['serviceName']}.prod.svc.cluster.local"
        )
    assert str(config.data_dir) in {
        mount["mountPath"]
        for mount in stateful["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    }


def test_settings_reach_the_configuration() -> None:
    """What stands under `settings` stands in cluster.yml."""
    text = rendered(EVERYTHING)["ConfigMap/locks-holdfast"]["data"]["cluster.yml"]
    assert yaml.safe_load(text)["timing"] == {"heartbeat_ms": 120}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"settings": GIVEN["settings"]}, "secret.existingSecret is required"),
        ({"secret": SECRET}, "settings.access is missing"),
        ({**GIVEN, "replicas": 2}, "replicas"),
        ({**GIVEN, "replica": 3}, "replica"),
        ({**GIVEN, "settings": {"nodes": []}}, "settings"),
        ({**GIVEN, "probes": {"scheme": "ftp"}}, "scheme"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], said: str) -> None:
    """An even number, a name that does not exist, a cluster without a secret, and what the chart itself sets."""
    with pytest.raises(helm.HelmError, match=said):
        rendered(values)


def test_at_most_one_node_is_taken_away_at_a_time() -> None:
    """The budget covers exactly the pods of the StatefulSet."""
    objects = rendered()
    budget = objects["PodDisruptionBudget/locks-holdfast"]["spec"]
    pods = objects["StatefulSet/locks-holdfast"]["spec"]["template"]["metadata"]["labels"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= pods.items()


def test_probes_ask_what_they_should() -> None:
    """Alive for the restart, ready for the traffic: a node without a majority must not be restarted for it."""
    objects = rendered()
    (node,) = objects["StatefulSet/locks-holdfast"]["spec"]["template"]["spec"]["containers"]
    assert node["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert node["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert node["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert objects["Service/locks-holdfast-nodes"]["spec"]["publishNotReadyAddresses"] is True


def test_the_alerts_of_the_chart_are_those_of_the_kit() -> None:
    """Renew them with `cp deploy/monitoring/alerts.yml deploy/helm/holdfast/`."""
    alerts = (KIT / "monitoring" / "alerts.yml").read_text()
    assert (CHART / "alerts.yml").read_text() == alerts
    rule = rendered(EVERYTHING)["PrometheusRule/locks-holdfast"]
    assert rule["spec"] == yaml.safe_load(alerts)


def test_the_chart_and_the_package_have_one_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__

"""Image and compose file: taken by their tools, built from what is in the repository, and a cluster that a node would start."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kit import KIT, ROOT, run

from holdfast_coordinator.config import ENV_SECRET, load
from holdfast_coordinator.http_settings import INSECURE

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCKERFILE = KIT / "docker" / "Dockerfile"
COMPOSE = KIT / "compose" / "compose.yml"
SECRET = "0123456789abcdef" * 4


def copied() -> list[str]:
    """What the Dockerfile takes from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def let_through(path: str) -> bool:
    """Whether .dockerignore lets the engine see a path: the last pattern that fits decides, also one for a folder above."""
    ways = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    seen = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#") and any(fnmatch.fnmatch(w, pattern) for w in ways):
            seen = line.startswith("!")
    return seen


def test_hadolint_takes_the_dockerfile() -> None:
    """Every rule of it; a waiver would stand in the file with its reason."""
    run("hadolint", "--failure-threshold", "style", str(DOCKERFILE))


def test_the_engine_sees_what_is_copied_and_nothing_else() -> None:
    """In particular no journal, no secret, no history."""
    for source in copied():
        assert (ROOT / source).exists(), source
        assert let_through(source), source
    for other in (
        "data/n1/journal-1",
        ".git/config",
        "deploy/compose/.env",
        "cluster.secret",
        ".venv/bin/python",
    ):
        assert not let_through(other), other


@pytest.mark.slow
def test_the_image_can_be_built_from_what_is_copied(tmp_path: Path) -> None:
    """The step that could fail is run here: a wheel from these files alone, which has the server and its openapi.yaml."""
    for source in copied():
        target = tmp_path / "src" / source
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, target)
    done = subprocess.run(  # noqa: S603 - what this test says
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path), "."],
        cwd=tmp_path / "src", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("holdfast-*.whl")
    names = subprocess.run(  # noqa: S603 - likewise
        [sys.executable, "-m", "zipfile", "-l", str(wheel)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "holdfast_coordinator/server.py" in names
    assert "holdfast_coordinator/http/openapi.yaml" in names


def test_the_image_runs_as_a_user_of_its_own() -> None:
    """A number, which Kubernetes can tell from root."""
    assert re.search(r"^USER 7600:7600$", DOCKERFILE.read_text(), re.MULTILINE)


class _Node(BaseHTTPRequestHandler):
    """Alive or not."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def node() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Node) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def healthcheck(url: str) -> int:
    script = KIT / "docker" / "healthcheck.py"
    environ = {"HOLDFAST_HEALTH_URL": url, "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, str(script)], env=environ, check=False)  # noqa: S603 - ours
    return done.returncode


def test_the_health_check_says_what_the_node_says(
    node: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 for one that answers, 1 for one that has a fault, is not there, or is no HTTP address at all; a proxy is not asked."""
    url = f"http://127.0.0.1:{node.server_port}/healthz"
    assert healthcheck(url) == 0
    monkeypatch.setattr(_Node, "status", 500)
    assert healthcheck(url) == 1
    assert healthcheck("http://127.0.0.1:1/healthz") == 1
    assert healthcheck("file:///etc/passwd") == 1


def rendered() -> dict[str, Any]:
    """The compose file as Docker's own program reads it."""
    said = run(
        "docker-compose", "-f", str(COMPOSE), "config", "--format", "json", HOLDFAST_SECRET=SECRET
    )
    config: dict[str, Any] = json.loads(said)
    return config


def test_compose_takes_the_file() -> None:
    """Three nodes, each with a volume and a name of its own, and what watches them."""
    services = rendered()["services"]
    assert set(services) == {"n1", "n2", "n3", "prometheus", "grafana"}
    for name in ("n1", "n2", "n3"):
        node = services[name]
        assert node["command"] == ["serve", "--node", name, "--bootstrap"]
        assert node["hostname"] == name
        assert node["read_only"] is True
        assert node["cap_drop"] == ["ALL"]
        assert [m["source"] for m in node["volumes"] if m["type"] == "volume"] == [name]
        assert node["environment"] == {ENV_SECRET: SECRET}
    for service in services.values():
        for port in service["ports"]:
            assert port["host_ip"] == "127.0.0.1", "nothing is offered to other machines"


def test_compose_says_that_the_secret_is_missing() -> None:
    """Rather than start nodes that refuse to run."""
    with pytest.raises(
        AssertionError, match=r"HOLDFAST_SECRET is missing a value: .*deploy/compose/.env"
    ):
        run("docker-compose", "-f", str(COMPOSE), "config", "--quiet", HOLDFAST_SECRET="")


def test_what_compose_mounts_is_there() -> None:
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (COMPOSE.parent / source).exists(), source


def test_the_configuration_of_the_containers_is_good() -> None:
    config = load(KIT / "compose" / "cluster.yml", {ENV_SECRET: SECRET})
    assert config.warnings == (f"insecure is set: {INSECURE}",)
    assert [node.name for node in config.nodes] == ["n1", "n2", "n3"]

"""What docs/security.md shows works: its cluster.yml, its commands for certificates, its figures, its words."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import holdfast
from holdfast import credentials
from holdfast_coordinator import certificates, server_certificates
from holdfast_coordinator.access import Right
from holdfast_coordinator.config import HttpLimits, load
from holdfast_coordinator.http_settings import INSECURE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
OPENSSL_SECONDS_MAX = 50


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_its_configuration_is_one_that_three_machines_can_run_on(tmp_path: Path) -> None:
    """Without a warning; everybody in it may do what the page says."""
    (written,) = blocks("yaml")
    path = tmp_path / "cluster.yml"
    path.write_text(written)
    found = load(path, {"HOLDFAST_SECRET": "a secret that stands in for the file"})
    assert found.warnings == ()
    assert found.access is not None
    assert found.http_tls is not None
    who = {identity.name: identity for identity in found.access.identities}
    assert who["payments"].may(Right.ACQUIRE, "payments/1")
    assert not who["payments"].may(Right.READ, "payments/1")
    assert who["ann"].may_all(Right.ADMIN)
    assert who["prometheus"].rights == {}


def test_its_commands_make_certificates_that_nodes_take(tmp_path: Path) -> None:
    """With the openssl of this machine; and a client can show the one of the worker."""
    (commands,) = blocks("sh")
    subprocess.run(  # noqa: S603 - the page's own commands
        ["/bin/bash", "-eu", "-c", commands],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=OPENSSL_SECONDS_MAX,
    )
    nodes, callers = tmp_path / "nodes-ca.pem", tmp_path / "callers-ca.pem"
    files = (tmp_path / "n1.pem", tmp_path / "n1.key")
    certificates.load(certificates.CertificateFiles(nodes, *files), "n1")
    shown = (tmp_path / "n1-http.pem", tmp_path / "n1-http.key")
    served = server_certificates.ServerFiles(*shown, ca=callers)
    server_certificates.load(served)
    assert server_certificates.warnings(served, "n1.example") == []
    holdfast.tls_context(
        ca_file=nodes,
        certificate_file=tmp_path / "worker.pem",
        key_file=tmp_path / "worker.key",
    )


def test_its_figures_are_the_defaults() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, re.MULTILINE))
    defaults = dataclasses.asdict(HttpLimits())
    elsewhere = {"list_limit_max", "waiters_shown_max", "watchers_max"}
    assert {name: int(value) for name, value in rows.items()} == {
        name: value for name, value in defaults.items() if name not in elsewhere
    }


def test_its_words_are_those_of_the_code() -> None:
    """The rights, the variables, and the sentence that switches it all off."""
    for right in Right:
        assert f"| `{right}` |" in PAGE
    for name, value in vars(credentials).items():
        if name.startswith("ENV_"):
            assert f"| `{value}` |" in PAGE
    assert f'`insecure: "{INSECURE}"`' in PAGE


def test_what_the_threat_model_points_at_is_there() -> None:
    """Every file, and every test by its name."""
    model = (ROOT / "THREAT_MODEL.md").read_text(encoding="utf-8")
    paths = re.findall(r"`(tests/[\w/.]+?)(?:::(\w+))?`", model)
    assert len(paths) > 10
    for path, name in paths:
        assert (ROOT / path).exists(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name

"""The systemd unit: taken by systemd's own check, shut in, and true to what the node does."""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

import pytest
from kit import KIT, run, tool

from holdfast.cli import exit_codes
from holdfast_coordinator.config import ENV_SECRET_FILE, load
from holdfast_coordinator.server import EXIT_CONFIGURATION, HAND_OVER_SECONDS

UNIT = KIT / "systemd" / "holdfast@.service"
EXPOSURE_MAX = 2.0
"""Of `systemd-analyze security`, from 0 to 10: what is left is the network, which is the node's whole purpose."""


class Unit(configparser.RawConfigParser):
    """A unit file: names keep their case, and one that is given twice adds up."""

    def __init__(self) -> None:
        super().__init__(strict=False, interpolation=None, delimiters=("=",))
        self.read(UNIT)

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The unit as it would be where Holdfast is installed in this very environment, for a user that exists."""
    holdfast = Path(sys.executable).parent / "holdfast"
    text = UNIT.read_text().replace("/opt/holdfast/bin/holdfast", str(holdfast))
    unit = tmp_path / "holdfast@n1.service"
    unit.write_text(text)
    return unit


def test_systemd_takes_the_unit(here: Path) -> None:
    """`systemd-analyze verify` has nothing to say: no unknown setting, no value that it would pass over."""
    said = run("systemd-analyze", "verify", "--man=no", str(here))
    assert [line for line in said.splitlines() if "holdfast" in line] == []


def test_the_check_of_systemd_notices_a_mistake(here: Path) -> None:
    """The check above can fail."""
    here.write_text(here.read_text().replace("ProtectHome=yes", "ProtectHome=perhaps"))
    said = run("systemd-analyze", "verify", "--man=no", str(here))
    assert "Failed to parse protect home value" in said


def test_the_node_is_shut_in(here: Path) -> None:
    """What a node that was taken over could still reach, by systemd's own reckoning."""
    tool("systemd-analyze")
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(here))
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", said)
    assert found, said
    assert float(found[1]) <= EXPOSURE_MAX


def test_the_unit_fits_what_a_node_does() -> None:
    """It says READY=1 by itself, an exit of 2 is not tried again, and it is given the time to hand over."""
    service = Unit()["Service"]
    assert service["Type"] == "notify"
    assert service["RestartPreventExitStatus"] == str(EXIT_CONFIGURATION) == str(exit_codes.USAGE)
    assert int(service["TimeoutStopSec"]) > 10 * HAND_OVER_SECONDS
    assert f"{ENV_SECRET_FILE}=%d/cluster.secret" in service["Environment"]
    assert service["LoadCredential"].startswith("cluster.secret:")


def test_the_configuration_beside_the_unit_is_good(tmp_path: Path) -> None:
    """With the secret that the unit gives, and without one it is refused."""
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 4)
    secret.chmod(0o600)
    config = load(KIT / "systemd" / "cluster.yml", {ENV_SECRET_FILE: str(secret)})
    assert config.warnings == ()
    assert str(config.data_dir) == "/var/lib/" + Unit()["Service"]["StateDirectory"]

"""What a node's process tells of itself: certificates and their ends, syncs, the settings that nodes ought to share."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from holdfast_coordinator import config
from holdfast_coordinator.certificate_dates import not_after_ms
from holdfast_coordinator.config import ClusterConfig
from holdfast_coordinator.node_report import SyncTimes
from holdfast_coordinator.vitals import SYNCS_KEPT, VitalSigns, settings_of, sync_times

ENDS = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
LATER = datetime(2062, 1, 2, tzinfo=UTC)
"""Beyond 2049 a date is written in another form."""


def written(directory: Path, **changes: Any) -> ClusterConfig:
    nodes = [
        {"name": f"n{n}", "http": f"127.0.0.1:{7600 + n}", "raft": f"127.0.0.1:{7700 + n}"}
        for n in (1, 2, 3)
    ]
    raw = {"cluster": "test", "data_dir": ".", "nodes": nodes, **changes}
    file = directory / "cluster.yml"
    file.write_text(yaml.safe_dump(raw))
    return config.load(file, {})


@pytest.mark.parametrize("ends", [ENDS, LATER])
def test_the_end_of_a_certificate_is_read(tmp_path: Path, ends: datetime) -> None:
    """Of the first to end, if a file holds several; whatever stands around them."""
    ca = trustme.CA()
    leaf = ca.issue_cert("n1", not_after=ends).cert_chain_pems[0].bytes()
    file = tmp_path / "n1.pem"
    file.write_bytes(leaf)
    assert not_after_ms(file) == int(ends.timestamp() * 1000)
    other = ca.issue_cert("n1", not_after=LATER).cert_chain_pems[0].bytes()
    file.write_bytes(b"a remark\n" + other + b"\n" + leaf)
    assert not_after_ms(file) == int(ends.timestamp() * 1000)


def test_the_end_of_a_ca_is_what_the_tls_library_says(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    context = ssl.create_default_context(cafile=str(file))
    (found,) = context.get_ca_certs()
    assert not_after_ms(file) == ssl.cert_time_to_seconds(str(found["notAfter"])) * 1000


def test_what_is_no_certificate_is_refused_and_never_a_fault(tmp_path: Path) -> None:
    """However it is cut or damaged."""
    file = tmp_path / "n1.pem"
    file.write_text("no certificate")
    with pytest.raises(ValueError, match="no certificate in PEM form"):
        not_after_ms(file)
    der = ssl.PEM_cert_to_DER_cert(trustme.CA().cert_pem.bytes().decode())
    for cut in range(0, 200, 3):
        file.write_text(ssl.DER_cert_to_PEM_cert(der[:cut]))
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
            not_after_ms(file)
    for at in range(200):
        damaged = bytearray(der)
        damaged[at] ^= 0xFF
        file.write_text(ssl.DER_cert_to_PEM_cert(bytes(damaged)))
        try:
            assert type(not_after_ms(file)) is int
        except ValueError:
            continue


def test_certificates_of_the_configuration_are_told_with_the_reason_if_they_cannot_be(
    tmp_path: Path,
) -> None:
    leaf = trustme.CA().issue_cert("n1", not_after=ENDS)
    (tmp_path / "n1.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
    tls = {"ca": "ca.pem", "certificate": "{node}.pem", "key": "n1.key"}
    signs = VitalSigns(written(tmp_path, raft_tls=tls), "n1")
    certificate, ca = signs.read().certificates
    assert (certificate.use, certificate.error) == ("raft_tls.certificate", None)
    assert certificate.not_after_ms == int(ENDS.timestamp() * 1000)
    assert (ca.use, ca.not_after_ms, ca.error) == ("raft_tls.ca", None, "No such file or directory")


def test_the_last_syncs_are_kept_and_passed_on(tmp_path: Path) -> None:
    """A bounded number of them."""
    passed_on: list[float] = []
    signs = VitalSigns(written(tmp_path), "n1", stalls=lambda: 7)
    observe = signs.observing(passed_on.append)
    assert signs.read().syncs == SyncTimes()
    for number in range(SYNCS_KEPT + 50):
        observe(number / 1000)
    told = signs.read()
    assert len(passed_on) == SYNCS_KEPT + 50
    assert told.syncs == SyncTimes(SYNCS_KEPT, 550_000, 1_040_000, 1_049_000)
    assert (told.stalls, told.certificates) == (7, ())
    assert sync_times([0.25]) == SyncTimes(1, 250_000, 250_000, 250_000)


@pytest.mark.parametrize(
    ("changes", "differ"),
    [
        ({}, set()),
        ({"limits": {"waiters_max": 7}}, {"limits"}),
        ({"limits": {"watchers_max": 7}}, {"http_limits"}),
        ({"quotas": [{"prefix": "a/", "holds": 5}]}, {"limits"}),
        ({"quotas": [{"prefix": "a/", "acquires_per_second": 5}]}, {"rates"}),
        ({"timing": {"heartbeat_ms": 50}}, {"timing"}),
        ({"format_level_max": 1}, {"format_level_max"}),
        ({"secret": "x" * 32}, set()),
        ({"snapshots": {"keep_entries": 9}}, set()),
    ],
)
def test_a_setting_that_nodes_ought_to_share_shows_when_it_differs(
    tmp_path: Path, changes: dict[str, Any], differ: set[str]
) -> None:
    """And the secret never does, nor a digest of it."""
    usual, changed = settings_of(written(tmp_path)), settings_of(written(tmp_path, **changes))
    assert {name for name in usual if usual[name] != changed[name]} == differ


@pytest.mark.parametrize("level", [0, 3, -1])
def test_a_format_level_that_this_version_does_not_know_is_refused(
    tmp_path: Path, level: int
) -> None:
    with pytest.raises(config.ConfigError, match="outside 1 to 2, the levels that this version"):
        written(tmp_path, format_level_max=level)

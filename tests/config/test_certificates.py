"""The files of `raft_tls`: what is wrong with them is said at the start, with the file and what to do."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization

from holdfast.cli.app import command
from holdfast_coordinator import config
from holdfast_coordinator.certificates import CertificateError, CertificateFiles, load
from holdfast_coordinator.config import ClusterConfig, ConfigError

LONG_AGO = {
    "not_before": datetime(2019, 1, 1, tzinfo=UTC),
    "not_after": datetime(2020, 1, 1, tzinfo=UTC),
}


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, ca: trustme.CA) -> CertificateFiles:
    """Good ones of node n1, where `loaded` looks for them."""
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    found = CertificateFiles(tmp_path / "ca.pem", tmp_path / "n1.pem", tmp_path / "n1.key")
    issue(ca, found, "n1")
    return found


def issue(ca: trustme.CA, files: CertificateFiles, name: str, **dates: datetime) -> None:
    leaf = ca.issue_cert(name, **dates)
    leaf.cert_chain_pems[0].write_to_path(files.certificate)
    leaf.private_key_pem.write_to_path(files.key)
    files.key.chmod(0o600)


def loaded(directory: Path, **changes: Any) -> ClusterConfig:
    """cluster.yml beside the files, with three nodes."""
    raw = {
        "cluster": "c",
        "data_dir": "data",
        "nodes": [
            {"name": f"n{n}", "http": f"127.0.0.1:760{n}", "raft": f"127.0.0.1:770{n}"}
            for n in (1, 2, 3)
        ],
        "raft_tls": {"ca": "ca.pem", "certificate": "{node}.pem", "key": "{node}.key"},
    }
    path = directory / "cluster.yml"
    path.write_text(yaml.safe_dump(raw | changes))
    return config.load(path, {})


def test_good_files_are_two_contexts_that_demand_a_certificate_and_tls_1_3(
    files: CertificateFiles,
) -> None:
    contexts = load(files, "n1")
    for context in (contexts.acceptor, contexts.dialer):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert len(context.get_ca_certs()) == 1
    assert contexts.acceptor.num_tickets == 0


def test_capitals_of_a_nodes_name_do_not_matter(ca: trustme.CA, files: CertificateFiles) -> None:
    """No two nodes differ in them alone, and whoever makes certificates may lower them."""
    load(files, "N1")


Break = Callable[[trustme.CA, CertificateFiles], None]


def passphrase(ca: trustme.CA, files: CertificateFiles) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    form = serialization.PrivateFormat.PKCS8
    hidden = serialization.BestAvailableEncryption(b"passphrase")
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, hidden))


def another_key(ca: trustme.CA, files: CertificateFiles) -> None:
    ca.issue_cert("n1").private_key_pem.write_to_path(files.key)


BROKEN: list[tuple[str, Break, str, list[str]]] = [
    ("no ca", lambda _, f: f.ca.unlink(), "ca", ["cannot be read: No such file"]),
    ("no key", lambda _, f: f.key.unlink(), "key", ["cannot be read: No such file"]),
    ("no certificate", lambda _, f: f.certificate.unlink(), "certificate", ["No such file"]),
    ("binary", lambda _, f: f.ca.write_bytes(bytes(range(256))), "ca", ["is not a PEM file"]),
    ("empty", lambda _, f: f.key.write_text(""), "key", ["is not a PEM file"]),
    (
        "the certificate as key",
        lambda _, f: f.key.write_text(f.certificate.read_text()),
        "key",
        ["holds no private key"],
    ),
    (
        "the key as certificate",
        lambda _, f: f.certificate.write_text(f.key.read_text()),
        "certificate",
        ["holds no certificate"],
    ),
    (
        "a damaged key",
        lambda _, f: f.key.write_text(
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
        ),
        "key",
        ["cannot be used"],
    ),
    ("a passphrase", passphrase, "key", ["protected by a passphrase", "without one"]),
    ("another key", another_key, "key", ["is not the key of", "n1.pem"]),
    (
        "another ca",
        lambda _, f: trustme.CA().cert_pem.write_to_path(f.ca),
        "certificate",
        ["would be refused by the other nodes", "ca.pem"],
    ),
    (
        "expired",
        lambda ca, f: issue(ca, f, "n1", **LONG_AGO),
        "certificate",
        ["certificate has expired", "clock of this machine"],
    ),
    (
        "another node",
        lambda ca, f: issue(ca, f, "n2"),
        "certificate",
        ["does not name node n1", "DNS:n1", "it holds n2"],
    ),
]


@pytest.mark.parametrize(
    ("what", "spoil", "field", "words"), BROKEN, ids=[each[0] for each in BROKEN]
)
def test_each_fault_is_named_with_its_setting_and_its_file(
    tmp_path: Path,
    ca: trustme.CA,
    files: CertificateFiles,
    what: str,
    spoil: Break,
    field: str,
    words: list[str],
) -> None:
    """By the loader, by `holdfast config check`, and by `holdfast serve`, which does not start."""
    spoil(ca, files)
    with pytest.raises(CertificateError) as caught:
        load(files, "n1")
    assert (caught.value.field, caught.value.file) == (field, getattr(files, field))
    found = loaded(tmp_path)
    with pytest.raises(ConfigError) as refused:
        found.check_certificates("n1")
    assert refused.value.path == f"$.raft_tls.{field}"
    for words_of in (str(caught.value), str(refused.value)):
        assert str(getattr(files, field)) in words_of
        assert all(word in words_of for word in words)
    for words_of_command in (["config", "check"], ["serve", "--node", "n1"]):
        result = CliRunner().invoke(command, [*words_of_command, "--config", str(found.file)])
        assert result.exit_code == 2
        assert f"$.raft_tls.{field}" in result.stderr


def test_config_check_looks_at_the_nodes_whose_files_are_here(
    tmp_path: Path, ca: trustme.CA, files: CertificateFiles
) -> None:
    """Those of the others are on other machines. If none is here at all, that is said."""
    found = loaded(tmp_path)
    assert found.check_certificates_here() == []
    n3 = CertificateFiles(files.ca, tmp_path / "n3.pem", tmp_path / "n3.key")
    issue(ca, n3, "n2")
    with pytest.raises(ConfigError, match="does not name node n3"):
        found.check_certificates_here()
    for path in (files.certificate, files.key, n3.certificate, n3.key):
        path.unlink()
    with pytest.raises(ConfigError, match=r"n1\.pem' cannot be read"):
        found.check_certificates_here()


def test_a_key_that_everybody_can_read_is_a_warning(
    tmp_path: Path, files: CertificateFiles
) -> None:
    files.key.chmod(0o644)
    assert loaded(tmp_path).check_certificates("n1") == [
        f"{files.key}: every user of this machine can read the key (chmod 600)"
    ]


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"ca": "ca.pem", "certificate": "c"}, "$.raft_tls.key", "is required"),
        ({"ca": "", "certificate": "c", "key": "k"}, "$.raft_tls.ca", "is not a file name"),
        ({"ca": "a\0b", "certificate": "c", "key": "k"}, "$.raft_tls.ca", "is not a file name"),
        ({"ca": 3, "certificate": "c", "key": "k"}, "$.raft_tls.ca", "got `int`"),
        (
            {"ca": "a", "certificates": "c", "certificate": "c", "key": "k"},
            "$.raft_tls.certificates",
            "did you mean 'certificate'?",
        ),
        ("ca.pem", "$.raft_tls", "Expected `object | null`, got `str`"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, change: Any, path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, raft_tls=change)
    assert caught.value.path == path
    assert words in str(caught.value)


def test_without_the_setting_there_is_nothing_to_check(tmp_path: Path) -> None:
    """The files beside cluster.yml stay as they are."""
    found = loaded(tmp_path, raft_tls=None)
    assert found.raft_tls is None
    assert found.check_certificates("n1") == found.check_certificates_here() == []

"""cluster.yml: what is right is typed, what is wrong is named, and a secret is never shown."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from holdfast_coordinator import compaction, config
from holdfast_coordinator.certificates import CertificateFiles
from holdfast_coordinator.config import (
    Address,
    ConfigError,
    HttpLimits,
    Rate,
    load,
    parse_address,
)
from holdfast_coordinator.machine import Limits, Quota

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SECRET = "correct-horse-battery-staple"  # noqa: S105 - of a test


def good() -> dict[str, Any]:
    return {
        "cluster": "c",
        "data_dir": "data",
        "nodes": [
            {"name": f"n{n}", "http": f"127.0.0.1:760{n}", "raft": f"127.0.0.1:770{n}"}
            for n in (1, 2, 3)
        ],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: Any) -> Path:
        path = tmp_path / "cluster.yml"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


ACCESS = {"identities": [{"name": "a", "bearer_sha256": ["0" * 64]}]}
"""Enough to be reachable from other machines."""


def refused(path: Path, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    assert str(caught.value).startswith(str(path))
    assert SECRET not in str(caught.value)
    return caught.value


def test_the_file_of_the_project_runs_as_it_stands():
    """Three nodes on loopback at the documented ports, without a secret and without a warning."""
    loaded = load(ROOT / "cluster.yml", {})
    assert loaded.cluster == "holdfast-local"
    assert [node.name for node in loaded.nodes] == ["n1", "n2", "n3"]
    assert loaded.endpoints == "http://127.0.0.1:7601,http://127.0.0.1:7602,http://127.0.0.1:7603"
    assert loaded.members == {f"n{n}": ("127.0.0.1", 7700 + n) for n in (1, 2, 3)}
    assert loaded.data_dir == ROOT / "data"
    assert loaded.node("n2").data_dir == ROOT / "data" / "n2"
    assert loaded.timing == config.Timing(100, 400, 800)
    assert (loaded.machine_limits, loaded.http_limits) == (Limits(), HttpLimits())
    assert loaded.warnings == ()
    assert not loaded.has_secret
    assert loaded.secret.reveal()


def test_what_the_files_comments_suggest_is_valid(write):
    """The commented settings of the project's own file are the defaults, and would load."""
    text = (ROOT / "cluster.yml").read_text()
    for name in ("timing:", "  heartbeat_ms", "  election_ms_min", "  election_ms_max"):
        text = text.replace(f"# {name}", name)
    for name in ("limits:", "  body_bytes_max", "  list_limit_max", "  watchers_max", "  done_max"):
        text = text.replace(f"# {name}", name)
    for name in ("quotas:", "  - {prefix: reports/", "  - {owner: nightly-batch"):
        text = text.replace(f"# {name}", name)
    loaded = load(write(text), {})
    assert "timing:\n" in text
    assert (loaded.timing, loaded.http_limits) == (config.Timing(100, 400, 800), HttpLimits())
    assert loaded.machine_limits.quotas == (
        Quota(prefix="reports/", holds=100, waiters=500),
        Quota(owner="nightly-batch", sessions=10),
    )
    assert loaded.rates == (Rate("reports/", None, 50),)


def test_the_certificates_that_the_files_comments_suggest_are_each_nodes_own(write):
    """Relative to the file, with the node's name in them."""
    text = (ROOT / "cluster.yml").read_text()
    for section in ("raft_tls", "http_tls", "access"):
        before, head, rest = text.partition(f"\n# {section}:\n")
        block, end, after = rest.partition("\n\n")
        text = (
            before
            + head.replace("# ", "")
            + block.replace("# ", "", 1).replace("\n# ", "\n")
            + end
            + after
        )
    path = write(text)
    loaded = load(path, {})
    assert loaded.raft_tls is not None
    below = path.parent / "tls"
    assert loaded.http_tls is not None
    assert loaded.http_tls.of("n2").certificate == below / "n2-http.pem"
    assert loaded.access is not None
    files = CertificateFiles(below / "ca.pem", below / "n2.pem", below / "n2.key")
    assert loaded.raft_tls.of("n2") == files
    assert load(ROOT / "cluster.yml", {}).raft_tls is None


def test_limits_go_to_whom_they_bound(write):
    """Those of the machine and those of HTTP stand side by side in the file."""
    raw = good() | {"limits": {"ttl_ms_min": 50, "list_limit_max": 7}}
    loaded = load(write(raw), {})
    assert loaded.machine_limits.ttl_ms_min == 50
    assert loaded.http_limits.list_limit_max == 7


def test_a_quota_goes_to_whom_it_is_counted_by(write):
    """What is held and waited for is counted by the machine, on all nodes alike; how often somebody asks, by each node alone."""
    quotas = [
        {"prefix": "pay/", "holds": 5, "waiters": 6, "acquires_per_second": 7},
        {"owner": "batch", "sessions": 2},
        {"owner": "web", "acquires_per_second": 3},
    ]
    loaded = load(write(good() | {"quotas": quotas, "limits": {"ttl_ms_min": 50}}), {})
    assert loaded.machine_limits == Limits(
        ttl_ms_min=50,
        quotas=(Quota(prefix="pay/", holds=5, waiters=6), Quota(owner="batch", sessions=2)),
    )
    assert loaded.rates == (Rate("pay/", None, 7), Rate(None, "web", 3))


def test_the_process_that_takes_snapshots_decides_by_the_same_limits(write):
    """They go to it as text, quotas and all."""
    quotas = [{"prefix": "pay/", "holds": 5}, {"owner": "batch", "sessions": 2}]
    limits = load(write(good() | {"quotas": quotas, "limits": {"done_max": 3}}), {}).machine_limits
    given = json.loads(json.dumps(compaction.parameters(limits)))
    assert compaction.limits_of(given["limits"]) == limits


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"cluster": None}, "$.cluster", "Expected `str`, got `null`"),
        ({"cluster": 3}, "$.cluster", "3"),
        ({"cluster": "a b"}, "$.cluster", "'a b' is not a name"),
        ({"cluster": "../up"}, "$.cluster", "is not a name"),
        ({"data_dir": ""}, "$.data_dir", "is not a directory name"),
        ({"data_dir": ["x"]}, "$.data_dir", "Expected `str`, got `array`"),
        ({"nodes": []}, "$.nodes", "is empty"),
        ({"nodes": {"n1": 1}}, "$.nodes", "Expected `array`, got `object`"),
        ({"nodes": ["n1"]}, "$.nodes[0]", "Expected `object`, got `str`: 'n1'"),
        ({"node": []}, "$.node", "did you mean 'nodes'?"),
        ({"colour": "red"}, "$.colour", "there is no such setting"),
        ({"timing": {"heartbeat": 1}}, "$.timing.heartbeat", "did you mean 'heartbeat_ms'?"),
        ({"timing": {"heartbeat_ms": "100"}}, "$.timing.heartbeat_ms", "got `str`: '100'"),
        ({"timing": {"heartbeat_ms": 1}}, "$.timing.heartbeat_ms", "1 is outside 10 to 60000 ms"),
        (
            {"timing": {"election_ms_min": 150}},
            "$.timing.election_ms_min",
            "not more than 3 heartbeats",
        ),
        ({"timing": {"election_ms_max": 400}}, "$.timing.election_ms_max", "split every vote"),
        ({"limits": {"ttl_ms_mix": 1}}, "$.limits.ttl_ms_mix", "did you mean 'ttl_ms_min'?"),
        ({"limits": {"waiters_max": 0}}, "$.limits.waiters_max", "0 is outside 1 to"),
        (
            {"limits": {"waiters_max": "many"}},
            "$.limits.waiters_max",
            "'many' is not a whole number",
        ),
        ({"limits": {"waiters_max": True}}, "$.limits.waiters_max", "True is not a whole number"),
        ({"limits": [1]}, "$.limits", "Expected `object`, got `array`"),
        ({"limits": {"ttl_ms_max": 10}}, "$.limits.ttl_ms_min", "is more than ttl_ms_max (10)"),
        (
            {"limits": {"wait_ms_max": 29_999}},
            "$.limits.wait_ms_max",
            "is less than 30000, for which clients wait in one call",
        ),
        ({"limits": {"quotas": 1}}, "$.limits.quotas", "there is no such limit"),
        ({"quotas": {"prefix": "p"}}, "$.quotas", "Expected `array`, got `object`"),
        ({"quotas": [{"prefx": "p"}]}, "$.quotas[0].prefx", "did you mean 'prefix'?"),
        (
            {"quotas": [{"holds": 1}]},
            "$.quotas[0]",
            "exactly one of two ways: prefix (of keys) or owner",
        ),
        ({"quotas": [{"prefix": "p", "owner": "o", "holds": 1}]}, "$.quotas[0]", "exactly one"),
        (
            {"quotas": [{"prefix": "p"}]},
            "$.quotas[0]",
            "bounds nothing; give one of sessions, holds",
        ),
        (
            {"quotas": [{"prefix": "", "holds": 1}]},
            "$.quotas[0].prefix",
            "'' is not of 1 to 512 bytes",
        ),
        ({"quotas": [{"owner": "o" * 257, "holds": 1}]}, "$.quotas[0].owner", "1 to 256 bytes"),
        ({"quotas": [{"prefix": "p", "holds": 0}]}, "$.quotas[0].holds", "0 is outside 1 to"),
        ({"quotas": [{"prefix": "p", "waiters": "2"}]}, "$.quotas[0].waiters", "got `str`: '2'"),
        (
            {"quotas": [{"prefix": "p", "acquires_per_second": 0.5}]},
            "$.quotas[0].acquires_per_second",
            "got `float`: 0.5",
        ),
        (
            {"quotas": [{"prefix": "p", "sessions": 1}]},
            "$.quotas[0].sessions",
            "goes with owner only",
        ),
        (
            {"quotas": [{"prefix": "p", "holds": 1}, {"prefix": "p", "waiters": 1}]},
            "$.quotas[1]",
            "is for the same tenant as $.quotas[0]",
        ),
        ({"quotas": [{"prefix": str(n), "holds": 1} for n in range(65)]}, "$.quotas", "at most 64"),
        ({"secret": "short"}, "$.secret", "has 5 bytes; at least 16"),
        ({"secret": 1234567890123456}, "$.secret", "(the value is not shown)"),
        ({"secret": [SECRET]}, "$.secret", "(the value is not shown)"),
        ({"secrets": SECRET}, "$.secrets", "did you mean 'secret'?"),
        ({"secret": SECRET, "secret_file": "f"}, "$.secret_file", "both given"),
        ({"secret_file": "no/such/file"}, "$.secret_file", "No such file"),
        ({"secret_file": "."}, "$.secret_file", "Is a directory"),
        ({"secret_file": "a\0b"}, "$.secret_file", "cannot be read"),
    ],
)
def test_each_wrong_setting_is_named_with_its_path_and_value(write, change, path, words):
    error = refused(write(good() | change))
    assert error.path == path
    assert words in str(error)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("http", "127.0.0.1", "'127.0.0.1' is not host:port"),
        ("http", ":7601", "is not host:port"),
        ("http", "127.0.0.1:http", "has no port number"),
        ("http", "127.0.0.1:", "has no port number"),
        ("http", "127.0.0.1:0", "port outside 1 to 65535"),
        ("raft", "127.0.0.1:65536", "port outside 1 to 65535"),
        ("raft", "127.0.0.1:99999999999999999999", "port outside 1 to 65535"),
        ("raft", "127.0.0.1:-1", "has no port number"),
        ("raft", "127.0.0.1:\u0663\u0663", "has no port number"),
        ("raft", "::1:7701", "stands in brackets"),
        ("raft", "[no]:7701", "stands in brackets"),
        ("raft", "[127.0.0.1]:7701", "stands in brackets"),
        ("raft", "a b:7701", "no valid host name"),
        ("raft", "http://127.0.0.1:7701", "is not host:port"),
        ("raft", 7701, "Expected `str`, got `int`: 7701"),
        ("raft", "127.0.0.1:7601", "is taken already ($.nodes[0].http)"),
        ("raft", "localhost:7701", "is taken already ($.nodes[0].raft)"),
        ("raft", "10.0.0.1:7701", "needs a secret"),
        ("http", "0.0.0.0:7601", "needs a secret"),
        ("http", "coordinator.example:7601", "needs a secret"),
        ("name", "n1", "is the name of another node too ($.nodes[0].name)"),
        ("name", "N1", "is the name of another node too"),
        ("name", "..", "is not a name"),
        ("name", "a/b", "is not a name"),
        ("name", "", "is not a name"),
    ],
)
def test_each_wrong_part_of_a_node_is_named(write, name, value, words):
    raw = good()
    raw["nodes"][1][name] = value
    error = refused(write(raw))
    assert error.path == f"$.nodes[1].{name}"
    assert words in str(error)


def test_a_missing_or_unknown_part_of_a_node_is_named(write):
    raw = good()
    raw["nodes"][2]["htpp"] = raw["nodes"][2].pop("http")
    error = refused(write(raw))
    assert error.path in {"$.nodes[2].htpp", "$.nodes[2].http"}
    raw = good()
    del raw["nodes"][2]["raft"]
    error = refused(write(raw))
    assert (error.path, error.detail) == ("$.nodes[2].raft", "is required and is not there")


def test_too_many_nodes_are_refused(write):
    raw = good()
    raw["nodes"] = [
        {"name": f"n{n}", "http": f"127.0.0.1:{100 + n}", "raft": f"127.0.0.1:{200 + n}"}
        for n in range(10)
    ]
    assert "has 10 nodes; at most 9" in str(refused(write(raw)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n", "Expected `object`, got `array`"),
        ("just text", "Expected `object`, got `str`"),
        ("cluster: [", "cluster.yml:1: column 11"),
        ("cluster: a\n nodes: b\n", "cluster.yml:2: column"),
        (
            "cluster: a\ncluster: b\n",
            "cluster.yml:2: column 1: is not valid YAML: 'cluster' is given twice",
        ),
        ("nodes: [{name: a, name: b}]", "'name' is given twice"),
        ("a: !!python/object/apply:os.system [true]", "is not valid YAML"),
        ("a: &a [*a]", "is not valid YAML|no such setting"),
        ("a: *b", "is not valid YAML"),
        ("a: 2026-99-99", "is not valid YAML"),
        ("? [a]\n: b", "is not valid YAML|Expected|no such"),
        (b"cluster: \xff\xfe", "is not UTF-8"),
        (b"cluster: \x00", "is not valid YAML"),
        (b"#" * (1024 * 1024 + 1), "is larger than"),
        ("[" * 5000, "is not valid YAML|nested"),
    ],
)
def test_what_is_no_configuration_at_all_is_one_sentence(write, content, words):
    error = str(refused(write(content)))
    assert any(word in error for word in words.split("|")), error
    assert "\n" not in error


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert str(refused(tmp_path / "none.yml")).endswith("there is no such file")
    assert "cannot be read" in str(refused(tmp_path))


def test_a_secret_lets_the_cluster_leave_this_machine(write):
    """And is what the file says, byte for byte."""
    raw = good() | {"secret": SECRET, "access": ACCESS}
    raw["nodes"][0] = {"name": "n1", "http": "db-1.example:7601", "raft": "10.0.0.1:7701"}
    loaded = load(write(raw), {})
    assert loaded.has_secret
    assert loaded.secret.reveal() == SECRET.encode()


def test_nobody_can_connect_to_every_address_at_once(write):
    """0.0.0.0 is where to listen; the other nodes need where to connect. For HTTP it works, with a warning."""
    raw = good() | {"secret": SECRET}
    raw["nodes"][0]["raft"] = "0.0.0.0:7701"
    assert "no address that the other nodes can connect to" in str(refused(write(raw)))
    raw = good() | {"secret": SECRET, "access": ACCESS}
    raw["nodes"][0]["http"] = "0.0.0.0:7601"
    warning, _ = load(write(raw), {}).warnings
    assert "n1: 0.0.0.0:7601" in warning


def test_the_secret_of_the_environment_comes_first(write, tmp_path):
    """So that the file can be shared and the secret kept elsewhere."""
    path = write(good() | {"secret": "x" * 20})
    assert load(path, {"HOLDFAST_SECRET": SECRET}).secret.reveal() == SECRET.encode()
    file = tmp_path / "s"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    assert load(path, {"HOLDFAST_SECRET_FILE": str(file)}).secret.reveal() == SECRET.encode()
    both = {"HOLDFAST_SECRET": SECRET, "HOLDFAST_SECRET_FILE": str(file)}
    assert "both set" in str(refused(path, both))
    assert "at least 16" in str(refused(path, {"HOLDFAST_SECRET": ""}))
    assert "No such file" in str(refused(path, {"HOLDFAST_SECRET_FILE": str(tmp_path / "no")}))


def test_a_secret_file_is_relative_to_the_configuration_and_should_be_private(write, tmp_path):
    """One that everybody can read works, with a warning."""
    file = tmp_path / "cluster.secret"
    file.write_bytes(SECRET.encode() + b"\r\n")
    file.chmod(0o600)
    path = write(good() | {"secret_file": "cluster.secret"})
    loaded = load(path, {})
    assert (loaded.secret.reveal(), loaded.warnings) == (SECRET.encode(), ())
    file.chmod(0o644)
    (warning,) = load(path, {}).warnings
    assert "chmod 600" in warning


def test_a_secret_file_that_may_not_be_read_is_named(write, monkeypatch):
    """Permission is taken away in the call, because root may read everything."""
    path = write(good() | {"secret_file": "cluster.secret"})
    really_open = Path.open

    def open_unless_secret(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "cluster.secret":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_unless_secret)
    error = refused(path)
    assert error.path == "$.secret_file"
    assert "Permission denied" in str(error)


def test_no_secret_is_ever_in_a_repr(write):
    """Configurations end up in logs and tracebacks."""
    loaded = load(write(good() | {"secret": SECRET}), {})
    assert SECRET not in repr(loaded)
    assert SECRET not in repr(loaded.secret)
    assert SECRET not in f"{loaded.secret}"
    assert loaded.secret == config.Secret(SECRET.encode())


@pytest.mark.parametrize(
    ("count", "words"), [(1, "survives the loss of none"), (2, "odd number"), (4, "odd number")]
)
def test_a_count_that_helps_nobody_is_a_warning(write, count, words):
    raw = good()
    raw["nodes"].append({"name": "n4", "http": "127.0.0.1:7604", "raft": "127.0.0.1:7704"})
    raw["nodes"] = raw["nodes"][:count]
    (warning,) = load(write(raw), {}).warnings
    assert words in warning


def test_a_node_that_is_not_in_the_file_is_refused_with_those_that_are(write):
    loaded = load(write(good()), {})
    with pytest.raises(
        ConfigError, match=r"no node 'n11'; did you mean 'n1'\?; the nodes are n1, n2, n3"
    ):
        loaded.node("n11")


@pytest.mark.parametrize(
    ("text", "address", "is_loopback"),
    [
        ("127.0.0.1:1", Address("127.0.0.1", 1), True),
        ("127.8.8.8:65535", Address("127.8.8.8", 65535), True),
        ("localhost:80", Address("localhost", 80), True),
        ("[::1]:80", Address("::1", 80), True),
        ("[fe80::1]:80", Address("fe80::1", 80), False),
        ("holdfast-0.holdfast:80", Address("holdfast-0.holdfast", 80), False),
        ("0.0.0.0:80", Address("0.0.0.0", 80), False),  # noqa: S104 - parsed, not bound
    ],
)
def test_an_address_is_read_and_written_alike(text, address, is_loopback):
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_loopback == is_loopback


def test_snapshots_are_taken_as_the_file_says(write):
    """The commented settings of the project's own file are the defaults; a value that cannot be is refused by path."""
    text = (ROOT / "cluster.yml").read_text()
    for name in ("snapshots:", "  after_entries", "  after_mib", "  keep_entries"):
        text = text.replace(f"# {name}", name)
    assert load(write(text), {}).snapshots == config.Snapshots(100_000, 64, 10_000)
    assert load(ROOT / "cluster.yml", {}).snapshots == config.Snapshots(100_000, 64, 10_000)
    with pytest.raises(config.ConfigError, match=r"\$\.snapshots\.after_mib.*0 is outside"):
        load(write(good() | {"snapshots": {"after_mib": 0}}), {})


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("incarnation: -1", "$.incarnation"),
        ("incarnation: 8192", "$.incarnation"),
        ("incarnation: two", "$.incarnation"),
        ("epoch: -1", "$.epoch"),
        ("epoch: 9007199254740992", "$.epoch"),
    ],
)
def test_an_incarnation_and_an_epoch_are_counted_up_from_zero(
    tmp_path: Path, line: str, path: str
) -> None:
    """Tokens stay below 2^53: there are 8,191 incarnations."""
    file = tmp_path / "cluster.yml"
    text = "cluster: c\ndata_dir: ./data\nnodes: [{name: n1, http: '127.0.0.1:1', raft: '127.0.0.1:2'}]\n"
    file.write_text(text)
    assert (load(file, {}).incarnation, load(file, {}).epoch) == (0, 0)
    assert load(file, {}).cluster_id == "c"
    file.write_text(f"{text}incarnation: 8191\n")
    assert load(file, {}).cluster_id == "c#8191"
    file.write_text(f"{text}{line}\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert caught.value.path == path

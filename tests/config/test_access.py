"""`access`, `http_tls` and `insecure`: who may call is typed, what is wrong is named, nothing is open by oversight."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from holdfast_coordinator import config
from holdfast_coordinator.access import Identity, Right
from holdfast_coordinator.config import ClusterConfig, ConfigError, load
from holdfast_coordinator.http_settings import INSECURE

SECRET = "correct-horse-battery-staple"  # noqa: S105 - of a test
DIGEST = hashlib.sha256(b"a credential").hexdigest()
TLS = {"certificate": "{node}.pem", "key": "{node}.key"}


def raw(http: str = "127.0.0.1:7601", raft: str = "127.0.0.1:7701", **more: Any) -> dict[str, Any]:
    node = {"name": "n1", "http": http, "raft": raft}
    return {"cluster": "c", "data_dir": "data", "nodes": [node]} | more


def access(*may: Any, **more: Any) -> dict[str, Any]:
    """One identity."""
    return {"identities": [{"name": "a", "bearer_sha256": [DIGEST], "may": list(may)} | more]}


def loaded(directory: Path, content: dict[str, Any]) -> ClusterConfig:
    path = directory / "cluster.yml"
    path.write_text(yaml.safe_dump(content))
    return load(path, {})


def refused(directory: Path, content: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(directory, content)
    return caught.value


def identity(directory: Path, *may: Any) -> Identity:
    found = loaded(directory, raw(access=access(*may))).access
    assert found is not None
    return found.identities[0]


# -- who may do what -------------------------------------------------------------------------------------------------------


def test_a_right_holds_under_its_prefixes_and_nowhere_else(tmp_path: Path) -> None:
    """Prefixes are compared letter by letter: `pay` covers `payments`, `pay/` does not."""
    who = identity(
        tmp_path,
        {"rights": ["acquire", "read"], "prefixes": ["pay/", "x"]},
        {"rights": ["read"], "prefixes": ["pay/reports", "y"]},
        {"rights": ["admin"]},
    )
    assert who.rights == {
        Right.ACQUIRE: ("pay/", "x"),
        Right.READ: ("pay/", "x", "y"),
        Right.ADMIN: ("",),
    }
    assert who.may(Right.ACQUIRE, "pay/1")
    assert not who.may(Right.ACQUIRE, "payments/1")
    assert not who.may(Right.ACQUIRE, "y")
    assert not who.may(Right.FORCE, "pay/1")
    assert who.within(Right.READ, "") == ("pay/", "x", "y")
    assert who.within(Right.READ, "pay/1") == ("pay/1",)
    assert who.within(Right.READ, "pa") == ("pay/",)
    assert who.within(Right.READ, "z") == ()
    assert not who.may_all(Right.READ)
    assert who.may_all(Right.ADMIN)


prefixes = st.lists(st.text("ab/", min_size=1, max_size=3), min_size=1, max_size=4)


@given(prefixes, st.text("ab/", max_size=3), st.lists(st.text("ab/", min_size=1, max_size=4)))
def test_a_listing_covers_exactly_the_keys_that_may_be_read(
    granted: list[str], asked: str, keys: list[str]
) -> None:
    """Whatever is granted and asked: a key is under one of the prefixes if, and only if, it begins with what was asked and may be
    read; and it is under one of them only, or it would be shown twice."""
    from holdfast_coordinator import access as settings

    who = settings.checked(
        settings.AccessFile(
            [settings.IdentityFile("a", [DIGEST], may=[settings.GrantFile(["read"], granted)])]
        ),
        by_certificate=False,
    ).identities[0]
    within = who.within(Right.READ, asked)
    assert list(within) == sorted(within)
    for key in keys:
        shown = key.startswith(asked) and any(key.startswith(each) for each in granted)
        assert who.may(Right.READ, key) == any(key.startswith(each) for each in granted)
        assert sum(key.startswith(each) for each in within) == shown


def test_who_shows_what_is_who(tmp_path: Path) -> None:
    """Only digests are in the file; both an old and a new credential may be."""
    other = hashlib.sha256(b"another").hexdigest()
    content = access(bearer_sha256=[DIGEST, other])
    content["identities"].append({"name": "b", "certificate_names": ["B.example"]})
    found = loaded(tmp_path, raw(access=content, http_tls=TLS | {"ca": "ca.pem"})).access
    assert found is not None
    for shown, expected in (
        (b"a credential", "a"),
        (b"another", "a"),
        (b"a third", None),
        (b"", None),
    ):
        who = found.of_bearer(shown)
        assert (None if who is None else who.name) == expected
    for names, expected in ((["b.example"], "b"), (["c.example"], None), ([], None)):
        who = found.of_certificate(names)
        assert (None if who is None else who.name) == expected
    assert DIGEST not in repr(found)


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        ({"identities": []}, ".identities", "nobody could call"),
        ({}, ".identities", "is required"),
        ({"identity": []}, ".identity", "did you mean 'identities'?"),
        (access(), "", ""),
        (access(name="a:b"), ".identities[0].name", "is not a name"),
        (access(name=""), ".identities[0].name", "is not a name"),
        (access(bearer_sha256=["secret-itself"]), ".identities[0].bearer_sha256", "not a SHA-256"),
        (access(bearer_sha256=[DIGEST.upper()]), ".identities[0].bearer_sha256", "64 hexadecimal"),
        (access(bearer_sha256=7), ".identities[0].bearer_sha256", "(the value is not shown)"),
        (access(bearer_sha256=[DIGEST] * 5), ".identities[0].bearer_sha256", "more than 4"),
        (access(bearer_sha256=[]), ".identities[0]", "can prove itself in no way"),
        (access(certificate_names=["x"]), ".identities[0].certificate_names", "without http_tls"),
        (access(bearer_sha=[]), ".identities[0].bearer_sha", "did you mean 'bearer_sha256'?"),
        (access({"rights": ["lock"]}), ".identities[0].may[0].rights", "'lock' is none of acquire"),
        (access({"rights": []}), ".identities[0].may[0].rights", "is empty"),
        (access({"right": []}), ".identities[0].may[0].right", "did you mean 'rights'?"),
        (
            access({"rights": ["read"], "prefixes": []}),
            ".identities[0].may[0].prefixes",
            "leave it out to grant every key",
        ),
        (
            access({"rights": ["read"], "prefixes": [""]}),
            ".identities[0].may[0].prefixes",
            "leave prefixes out to grant every key",
        ),
        (
            access({"rights": ["admin"], "prefixes": ["a"]}),
            ".identities[0].may[0].prefixes",
            "without prefixes",
        ),
        (
            access({"rights": ["read"], "prefixes": [f"{n:03}" for n in range(65)]}),
            ".identities[0].may",
            "more than 64 prefixes",
        ),
    ],
)
def test_each_wrong_part_of_access_is_named(
    tmp_path: Path, content: dict[str, Any], where: str, words: str
) -> None:
    """And what may be a credential, by mistake, is not repeated."""
    if not words:
        assert loaded(tmp_path, raw(access=content)).access is not None
        return
    error = refused(tmp_path, raw(access=content))
    assert error.path == f"$.access{where}"
    assert words in str(error)
    assert "secret-itself" not in str(error)


def test_no_two_identities_are_one(tmp_path: Path) -> None:
    """Neither by name, nor by credential, nor by certificate."""
    tls = TLS | {"ca": "ca.pem"}
    for other, where in (
        ({"name": "a", "bearer_sha256": ["0" * 64]}, "name"),
        ({"name": "b", "bearer_sha256": [DIGEST]}, "bearer_sha256"),
        ({"name": "b", "certificate_names": ["X.example"]}, "certificate_names"),
    ):
        content = access(certificate_names=["x.example"])
        content["identities"].append(other)
        error = refused(tmp_path, raw(access=content, http_tls=tls))
        assert error.path == f"$.access.identities[1].{where}"


# -- http_tls --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        (TLS | {"certificate": ""}, ".certificate", "is not a file name"),
        (TLS | {"key": "a\0b"}, ".key", "is not a file name"),
        ({"key": "k"}, ".certificate", "is required"),
        (TLS | {"cert": "c"}, ".cert", "there is no such setting"),
        (TLS | {"require_client_certificate": True}, ".require_client_certificate", "needs ca"),
    ],
)
def test_each_wrong_part_of_http_tls_is_named(
    tmp_path: Path, content: dict[str, Any], where: str, words: str
) -> None:
    error = refused(tmp_path, raw(http_tls=content))
    assert error.path == f"$.http_tls{where}"
    assert words in str(error)


def test_the_files_of_http_tls_are_tried_out_where_they_are(tmp_path: Path) -> None:
    """`holdfast config check` says what is wrong with them, or strange; addresses are https then."""
    found = loaded(tmp_path, raw(http_tls=TLS))
    assert found.endpoints == "https://127.0.0.1:7601"
    with pytest.raises(ConfigError, match="No such file") as caught:
        found.check_certificates_here()
    assert caught.value.path == "$.http_tls.certificate"
    leaf = trustme.CA().issue_cert("elsewhere.example")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "n1.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "n1.key")
    (tmp_path / "n1.key").chmod(0o600)
    (warning,) = found.check_certificates("n1")
    assert "does not name 127.0.0.1" in warning


# -- secure by default -----------------------------------------------------------------------------------------------------

ELSEWHERE = [("10.0.0.1:7601", "127.0.0.1:7701"), ("127.0.0.1:7601", "10.0.0.1:7701")]


@pytest.mark.parametrize(("http", "raft"), ELSEWHERE)
@pytest.mark.parametrize("secret", [True, False])
@pytest.mark.parametrize("who", [True, False])
def test_a_node_that_others_reach_needs_a_secret_and_identities(
    tmp_path: Path, http: str, raft: str, secret: bool, who: bool
) -> None:
    """Each of the two is asked for by itself; HTTP that stays on the machine needs no identities. The error says what to write."""
    content = raw(http, raft)
    content |= {"secret": SECRET} if secret else {}
    content |= {"access": access()} if who else {}
    if secret and (who or http.startswith("127")):
        loaded(tmp_path, content)
        return
    error = refused(tmp_path, content)
    assert ("needs a secret" in str(error)) == (not secret)
    assert ("under access who may call" in str(error)) == (secret and not who)
    assert INSECURE in str(error)


@pytest.mark.parametrize(("http", "raft"), ELSEWHERE)
def test_who_says_it_in_plain_words_gets_it(tmp_path: Path, http: str, raft: str) -> None:
    """With a warning at each start; other words are not enough."""
    (warning,) = (
        each
        for each in loaded(tmp_path, raw(http, raft, insecure=INSECURE)).warnings
        if "one node" not in each
    )
    assert INSECURE in warning
    for words in ("yes", True, "true", INSECURE.upper()):
        assert refused(tmp_path, raw(http, raft, insecure=words)).path == "$.insecure"


def test_identities_without_encryption_are_a_warning(tmp_path: Path) -> None:
    """Something else may encrypt it. On this machine nobody listens."""
    content = raw("10.0.0.1:7601", secret=SECRET, access=access())
    assert any("can be read on the way" in each for each in loaded(tmp_path, content).warnings)
    content["http_tls"] = TLS
    assert not any("can be read" in each for each in loaded(tmp_path, content).warnings)
    here = loaded(tmp_path, raw(access=access()))
    assert not any("can be read" in each for each in here.warnings)


# -- anything at all -------------------------------------------------------------------------------------------------------

names = st.sampled_from(
    [
        *("cluster", "data_dir", "nodes", "secret", "raft_tls", "http_tls", "access", "insecure"),
        *("timing", "snapshots", "limits", "quotas", "identities", "name", "http", "raft", "may"),
        *("rights", "prefixes", "bearer_sha256", "certificate_names", "certificate", "key", "ca"),
    ]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    names,
    st.sampled_from(["127.0.0.1:7601", DIGEST, "acquire", "n1", INSECURE]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(names, st.text(max_size=8)), inner, max_size=6),
    ),
    max_leaves=30,
)
few = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@few
@example(content={"a\nb": 1})
@example(content={"limits": {"\x1b[2J": 1}})
@given(content=st.one_of(anything, st.dictionaries(names, anything, max_size=8)))
def test_any_structure_is_a_configuration_or_one_sentence(tmp_path: Path, content: Any) -> None:
    """Whatever stands where: `ConfigError`, and nothing else."""
    whole = content | raw() if isinstance(content, dict) else content
    for each in (content, whole):
        path = tmp_path / "cluster.yml"
        path.write_text(yaml.safe_dump(each, allow_unicode=True), encoding="utf-8")
        _one_sentence(path)


@few
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_a_configuration_or_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cluster.yml"
    path.write_bytes(data)
    _one_sentence(path)
    path.write_bytes(yaml.safe_dump(raw()).encode() + data)
    _one_sentence(path)


def _one_sentence(path: Path) -> None:
    said = ""
    try:
        config.load(path, {})
    except ConfigError as error:
        said = str(error)
    assert said.isprintable()

"""One address decides where the locks are."""

from __future__ import annotations

import importlib.util

import pytest

import holdfast
from holdfast.stores import capabilities
from holdfast.stores.address import parse_store


@pytest.mark.parametrize(
    ("address", "store"),
    [
        ("memory://", capabilities.MEMORY),
        ("memory://jobs", capabilities.MEMORY),
        ("memory:///var/lib/app/locks", capabilities.MEMORY_WITH_FILE),
        ("sqlite:///locks.db", capabilities.SQLITE),
        ("postgresql+psycopg://u@host/name", capabilities.POSTGRESQL),
        ("postgresql://u@host/name", capabilities.POSTGRESQL),
        ("redis://host:6379/0", capabilities.REDIS),
        ("rediss://host:6379/0", capabilities.REDIS),
    ],
)
def test_the_scheme_names_the_store(address: str, store: capabilities.Capabilities) -> None:
    """Also as the only one of a sequence."""
    for given in (address, [address]):
        found = parse_store(given)
        assert found is not None
        assert found.capabilities is store


@pytest.mark.parametrize(
    "address", ["http://a:1,https://b:2", "localhost:7601", ["http://a:1", "b:2"]]
)
def test_nodes_are_a_cluster(address: str | list[str]) -> None:
    """With a scheme of HTTP, or without one."""
    assert parse_store(address) is None


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("gopher://host", "no store that Holdfast knows"),
        ("mysql://host/name", "no store that Holdfast knows"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        (["redis://a", "redis://b"], "a store has one address"),
    ],
)
def test_what_cannot_be_a_store_is_refused_in_a_sentence(
    address: str | list[str], why: str
) -> None:
    """At once, without I/O."""
    with pytest.raises(ValueError, match=why):
        holdfast.connect(address)


def test_a_credential_of_the_http_api_is_not_for_a_store() -> None:
    """It would be ignored, and its owner would believe otherwise."""
    with pytest.raises(ValueError, match="credentials in its address"):
        holdfast.connect("memory://", token="secret")  # noqa: S106 - not one


@pytest.mark.parametrize(
    "address",
    [
        "redis://user:hunter2@host/0",
        "redis://host/0?password=hunter2",
        "postgresql://u:hunter2@h/n",
    ],
)
async def test_a_password_is_never_shown(address: str) -> None:
    """Neither in what is printed of the settings nor in the name of the endpoint, which stands in errors."""
    client = holdfast.connect(address)
    assert "hunter2" not in repr(client._settings)
    assert "hunter2" not in "".join(client._settings.endpoints)
    assert "***" in client._settings.endpoints[0]
    await client.aclose()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base install knows the address and says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'holdfast\[redis\]'"):
        holdfast.connect("redis://host")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'holdfast\[sql\]'"):
        holdfast.connect("sqlite:///locks.db")

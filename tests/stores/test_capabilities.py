"""What stores promise, where it is shown, and how a store that promises less is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import holdfast
from holdfast.cli.app import command
from holdfast.stores import capabilities

PAGE = Path(__file__).parents[2] / "docs" / "capabilities.md"


def test_the_page_is_made_from_the_data() -> None:
    """Renew it with `python -m holdfast.stores.capabilities > docs/capabilities.md`."""
    assert PAGE.read_text() == capabilities.as_markdown()


@pytest.mark.parametrize("name", capabilities.NAMES)
def test_every_value_is_explained(name: str) -> None:
    """The page says what each value of each capability means."""
    for value in type(capabilities.CLUSTER.values()[name]):
        assert f"`{value.value}`" in PAGE.read_text()


def test_the_cluster_promises_the_most() -> None:
    """Whatever can be required, the cluster gives it."""
    for name, best in capabilities.CLUSTER.values().items():
        assert best.strength == len(type(best)) - 1, name


@pytest.mark.parametrize(
    ("address", "require"),
    [
        ("memory://", "fencing=global"),
        ("redis://localhost", "fencing=global"),
        ("redis://localhost", "durability=disk"),
        ("postgresql://localhost/locks", ["failover=keeps"]),
        ("sqlite:///locks.db", "waiting=pushed, fencing=global"),
    ],
)
def test_a_store_that_promises_less_is_refused_in_a_sentence(
    address: str, require: str | list[str]
) -> None:
    """The sentence says what is missing and which stores have it; nothing was asked of the store."""
    for connect in (holdfast.connect, holdfast.connect_sync):
        with pytest.raises(
            holdfast.Unsuitable, match=r"is required, and .* It is given by: .*cluster"
        ):
            connect(address, require=require)


def test_a_store_that_promises_enough_is_taken() -> None:
    """A stronger value will do."""
    holdfast.connect("sqlite:///locks.db", require="fencing=per_key, durability=process")
    holdfast.connect("http://127.0.0.1:7601", require=("failover=keeps", "clock=steady"))


@pytest.mark.parametrize("require", ["speed=high", "fencing", "fencing=", "fencing=strong"])
def test_a_requirement_that_does_not_exist_is_an_error(require: str) -> None:
    """A typing mistake must not pass as met."""
    with pytest.raises(ValueError, match=r"not '"):
        holdfast.connect("memory://", require=require)


def test_the_command_shows_one_store_and_checks_it() -> None:
    """`holdfast capabilities URL`, with exit codes for scripts."""
    shown = CliRunner().invoke(command, ["capabilities", "redis://localhost"])
    assert shown.exit_code == 0
    assert "until_loss" in shown.output
    assert "asynchronous" in shown.output
    refused = CliRunner().invoke(
        command, ["capabilities", "redis://localhost", "--require", "fencing=global"]
    )
    assert refused.exit_code == 1
    unknown = CliRunner().invoke(command, ["capabilities", "gopher://localhost"])
    assert unknown.exit_code == 2
    everything = CliRunner().invoke(command, ["capabilities", "--json"])
    assert '"cluster": {"fencing": "global"' in everything.output

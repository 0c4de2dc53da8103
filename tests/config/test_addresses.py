"""A node reads the addresses of others again: one other node at a time, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast_coordinator.addresses import AddressFile
from holdfast_coordinator.config import load
from holdfast_coordinator.node_types import AdminRefused, Moved

if TYPE_CHECKING:
    from pathlib import Path

NOBODY: frozenset[str] = frozenset()


def text(epoch: int = 0, n3: int = 3, n2: int = 2, n1: int = 1, more: str = "") -> str:
    ports = {"n1": n1, "n2": n2, "n3": n3}
    lines = ["cluster: c", "data_dir: ./data", f"epoch: {epoch}", "nodes:"]
    lines += [
        f"  - {{name: {name}, http: '127.0.0.1:760{port}', raft: '127.0.0.1:770{port}'}}"
        for name, port in ports.items()
    ]
    return "\n".join([*lines, more, ""])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yml"
    path.write_text(text())
    return path


@pytest.fixture
def book(file: Path) -> AddressFile:
    return AddressFile(load(file, {}), "n1", {})


def test_the_new_addresses_of_one_other_node_are_taken_over(book: AddressFile, file: Path) -> None:
    """Once: asked again, nothing has changed."""
    file.write_text(text(epoch=1, n3=9))
    moved = Moved("n3", "http://127.0.0.1:7609", "127.0.0.1:7709", ("127.0.0.1", 7709))
    assert book.reread(frozenset({"n2"})) == (moved,)
    assert book.epoch == 1
    assert book.reread(frozenset({"n2", "n3"})) == ()


def test_a_change_after_a_change(book: AddressFile, file: Path) -> None:
    """It is held against what was taken over last, not against what the node was started with."""
    file.write_text(text(epoch=1, n3=9))
    book.reread(NOBODY)
    file.write_text(text(epoch=2, n3=9, n2=8))
    assert [each.name for each in book.reread(NOBODY)] == ["n2"]


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (text(epoch=0, n3=9), "epoch is 0 there, and 0 here"),
        (text(epoch=2, n3=9), "epoch is 2 there, and 0 here"),
        (text(epoch=1, n3=9, n2=8), "n2 and n3 have changed; change one node at a time"),
        (text(epoch=1, n1=9), "own addresses have changed"),
        (text(epoch=1, n3=9, more="incarnation: 1"), "incarnation has changed"),
        (text(epoch=1, n3=9, more="limits: {done_max: 7}"), "machine_limits has changed"),
        (text(epoch=1, n3=9, more="secret: 0123456789abcdef0123"), "secret has changed"),
        (text(epoch=1, n3=9).replace("cluster: c", "cluster: d"), "cluster has changed"),
        (text(epoch=1).replace("name: n3", "name: n4"), "names of the nodes have changed"),
        (text(epoch=1, n3=3, n2=3), "is taken already"),
        ("nodes: 7", "cluster.yml"),
    ],
)
def test_anything_else_is_refused_and_nothing_is_taken_over(
    book: AddressFile, file: Path, new: str, words: str
) -> None:
    file.write_text(new)
    with pytest.raises(AdminRefused, match=words) as caught:
        book.reread(NOBODY)
    assert caught.value.code == "conflict"
    assert book.epoch == 0
    file.write_text(text(epoch=1, n3=9))
    assert [each.name for each in book.reread(NOBODY)] == ["n3"]


def test_a_secret_is_not_shown_when_it_has_changed(book: AddressFile, file: Path) -> None:
    file.write_text(text(epoch=1, more="secret: 0123456789abcdef0123"))
    with pytest.raises(AdminRefused) as caught:
        book.reread(NOBODY)
    assert "0123456789abcdef0123" not in str(caught.value)


def test_a_node_that_is_connected_is_not_moved(book: AddressFile, file: Path) -> None:
    file.write_text(text(epoch=1, n3=9))
    with pytest.raises(AdminRefused, match="n3 is connected at its old address; stop it first"):
        book.reread(frozenset({"n2", "n3"}))

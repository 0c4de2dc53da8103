"""docs/client.md: every piece of code on the page runs, in order, against a real store in memory."""

from __future__ import annotations

import ast
import inspect
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import holdfast

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


class Recorder:
    """Whatever the page calls, it notes."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> None:
            self.calls.append((name, kwargs.get("fence")))

        return call


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """The page takes SIGTERM over; whoever comes next finds it as it was."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


async def test_every_piece_of_the_page_runs() -> None:
    """And does what it says: two captures with rising fences, a charge, batches."""
    ledger, provider, stored = Recorder(), Recorder(), []

    async def store(batch: int) -> None:
        stored.append(batch)

    names: dict[str, Any] = {
        "ledger": ledger,
        "provider": provider,
        "store": store,
        "batches": [1, 2, 3],
    }
    assert len(BLOCKS) == 6
    for block in BLOCKS:
        code = compile(block, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        outcome = eval(code, names)  # noqa: S307 - our own page
        if inspect.isawaitable(outcome):
            await outcome
    await names["hf"].aclose()
    assert [name for name, _ in ledger.calls] == ["capture", "capture"]
    assert ledger.calls[0][1] < ledger.calls[1][1]
    assert [name for name, _ in provider.calls] == ["charge"]
    assert stored == [1, 2, 3]
    assert names["is_ours"] is True


def test_the_page_names_what_there_is() -> None:
    """Every exception and function that it names is a name of the library."""
    named = set(re.findall(r"`(?:holdfast\.)?([A-Z]\w+)`", PAGE.read_text()))
    for name in named - {"None", "SystemExit"}:
        assert hasattr(holdfast, name), name

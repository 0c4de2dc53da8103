"""The kill loop itself, short: `tools/kill_loop.py` runs it as long as anybody likes."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

KILL_LOOP = Path(__file__).parents[2] / "tools" / "kill_loop.py"


def marked(test: Any) -> Any:
    """Starts real processes, and may take its time on a busy machine."""
    return pytest.mark.cluster(pytest.mark.slow(pytest.mark.timeout(270)(test)))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The program as a module; it is in no package."""
    spec = importlib.util.spec_from_file_location("kill_loop", KILL_LOOP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kill_loop"] = module
    spec.loader.exec_module(module)
    return module


def test_a_token_that_does_not_rise_and_a_key_with_two_holders_are_noticed(
    tool: ModuleType,
) -> None:
    told = tool.Told()
    told.granted("a", 5, above=4)
    with pytest.raises(tool.Wrong, match="token 5 after token 5"):
        told.granted("b", 5, above=5)
    with pytest.raises(tool.Wrong, match="granted as 6 while 5 holds it"):
        told.granted("a", 6, above=5)


@pytest.mark.parametrize(
    "table", [{}, {"a": 6}, {"a": 5, "b": 7}], ids=["lost", "another grant", "a release undone"]
)
def test_a_table_that_is_not_what_the_clients_were_told_is_noticed(
    tool: ModuleType, table: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(_self: Any, _node: str) -> dict[str, int]:
        return table

    monkeypatch.setattr(tool.Checks, "_table", read)
    told = tool.Told(held={"a": 5})
    with pytest.raises(tool.Wrong, match="read through n1"):
        asyncio.run(tool.Checks(None, None, told)._nothing_lost("n1"))


def test_states_that_differ_at_the_same_index_are_noticed(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def get(_self: Any, node: str, _path: str, **_query: str) -> dict[str, Any]:
        return {"applied_index": 9, "state_hash": "other" if node == "n3" else "same"}

    class Cluster:
        names = ("n1", "n2", "n3")

    monkeypatch.setattr(tool.Checks, "_get", get)
    with pytest.raises(tool.Wrong, match="states differ"):
        asyncio.run(tool.Checks(Cluster(), None, tool.Told())._equal_hashes())


def run(*options: str) -> str:
    """The verdict of a run in which nothing was wrong."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(KILL_LOOP), "--quiet", "--minutes", "4", *options],
        capture_output=True,
        text=True,
        timeout=260,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@marked
def test_twenty_kills_across_compactions_lose_nothing() -> None:
    """kill -9 of random nodes under load, while they write snapshots all the time; after each start every acknowledged grant and
    release is there, tokens have risen, and the three states have one hash."""
    verdict = run("--kills", "20", "--compaction")
    assert verdict.startswith("nothing was lost. 20 kills")
    compacting = re.search(r"(\d+) while a snapshot was written", verdict)
    assert compacting is not None
    assert int(compacting[1]) > 0


@marked
def test_all_nodes_killed_at_once_lose_nothing() -> None:
    """What was acknowledged rests on the disks alone."""
    assert run("--kills", "4", "--all").startswith("nothing was lost. 4 kills")

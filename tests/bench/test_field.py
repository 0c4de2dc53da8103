"""A load process that failed is replaced, and the run says so; a program that does not end is ended with all that it started."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"

LOADER = """
import json, os, sys
is_first = not os.path.exists(sys.argv[1])
open(sys.argv[1], "a").close()
for line in sys.stdin:
    print(json.dumps({"failed": "a lease was lost"} if is_first else {"pid": os.getpid()}), flush=True)
"""
"""The first process can do nothing, those after it can."""


class Server:
    title = "etcd, three nodes"
    pids: tuple[int, ...] = ()
    address = 0

    def version(self) -> str:
        return "3.5.1"


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    import field

    monkeypatch.setattr(field, "HELD_SECONDS_MAX", 0.0)
    made = field.Field([], tmp_path)
    made.servers["etcd"] = Server()

    async def start_loader(name: str) -> None:
        made._loaders[name] = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LOADER, str(tmp_path / "tried")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    monkeypatch.setattr(made, "_start_loader", start_loader)
    return made


async def test_a_failed_order_is_given_to_a_new_load_process_and_the_result_says_so(
    field: Any,
) -> None:
    """The one that failed still keeps its sessions, and so its locks, alive: it has to be gone."""
    async with field:
        await field._start_loader("etcd")
        failed = field._loaders["etcd"]
        answered = await field.order("etcd", do="cycles", seconds=0)
        assert failed.returncode is not None
        assert answered["pid"] == field._loaders["etcd"].pid != failed.pid
        assert field.facts["retried"] == ["etcd: a lease was lost"]


async def test_an_order_that_is_not_given_again_leaves_no_load_process(field: Any) -> None:
    async with field:
        with pytest.raises(RuntimeError, match="a lease was lost"):
            await field.order("etcd", again=False, do="cycles", seconds=0)
        assert field._loaders == {}
        assert field.facts["retried"] == []


async def test_versions_carry_the_names_of_the_services(field: Any) -> None:
    assert field.facts["versions"] == {"etcd": "3.5.1"}

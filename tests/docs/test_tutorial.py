"""docs/tutorial.md is walked: every piece of Python in order, every command, and what is printed is what the page says."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import holdfast
from holdfast.stores import memory
from holdfast_coordinator.local_cluster import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
INSTALL = "pip install 'holdfast[server,ledger,redis,postgres]'\n"
CLUSTER = "http://127.0.0.1:7601,http://127.0.0.1:7602,http://127.0.0.1:7603"
POSTGRES = "postgresql+psycopg://app@localhost/app"
REDIS = "redis://localhost:6379/0"


def blocks() -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


class Reader:
    """Somebody who types what the page says. Addresses are those of servers that the tests brought."""

    def __init__(
        self, runner: asyncio.Runner, cluster: LocalCluster, addresses: dict[str, str]
    ) -> None:
        self.commands: dict[str, Callable[[], object]] = {
            INSTALL: lambda: None,  # whoever runs the tests has done so
            "holdfast up\n": lambda: runner.run(cluster.__aenter__()),
            'kill -9 "$LEADER"\n': lambda: runner.run(self.kill_the_leader()),
        }
        self._cluster = cluster
        self._addresses = addresses
        self._names: dict[str, Any] = {"__name__": "tutorial"}

    async def kill_the_leader(self) -> None:
        async with holdfast.connect(self._cluster.endpoints) as hf:
            leader = (await hf.status()).leader
        assert leader is not None
        await self._cluster.kill(leader)

    def run(self, text: str) -> str:
        """A piece of Python; what it printed."""
        for written, real in self._addresses.items():
            text = text.replace(written, real)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(text, PAGE.name, "exec"), self._names)  # noqa: S102 - our own page
        return output.getvalue()


def test_the_tutorial_keeps_its_word(
    postgres_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From memory to a cluster that loses its leader, as a newcomer would type it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "_tables", {})  # as in a process that has just begun
    with asyncio.Runner() as runner:
        cluster = LocalCluster(tmp_path)
        addresses = {POSTGRES: postgres_url, REDIS: redis_url, CLUSTER: cluster.endpoints}
        reader = Reader(runner, cluster, addresses)
        printed, compared = "", 0
        try:
            for language, text in blocks():
                if language == "text":
                    assert printed == text
                    printed, compared = "", compared + 1
                    continue
                assert not printed, f"what a block prints stands below it: {printed}"
                if language == "sh":
                    reader.commands[text]()
                else:
                    assert language == "python"
                    printed = reader.run(text)
            assert not printed
            assert compared == 14
        finally:
            runner.run(cluster.stop())


def test_what_changes_from_store_to_store_is_one_line() -> None:
    """The work is written once; each further store is one call of `connect_sync` with another address."""
    page = PAGE.read_text()
    assert page.count("def collect(customer: str)") == 1
    addresses = re.findall(r'^hf = holdfast\.connect_sync\("(\w+[+:])', page, re.MULTILINE)
    assert addresses == ["memory:", "sqlite:", "postgresql+", "redis:", "http:"]

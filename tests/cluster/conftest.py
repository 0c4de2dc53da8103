"""A cluster of three processes for a whole module, on an event loop of the module's own: its tests may kill nodes of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from holdfast_coordinator.local_cluster import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def cluster(
    runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"))
    runner.run(cluster.__aenter__())
    yield cluster
    runner.run(cluster.stop())

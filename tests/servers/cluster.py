"""A real three-node cluster for a whole test run, on an event loop of its own: `cluster_endpoints` are its addresses."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from holdfast_coordinator.local_cluster import LocalCluster, LocalClusterError
from servers.absent import cannot_run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def cluster_endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`http://127.0.0.1:...,...`. Tests share it, so each uses keys of its own and leaves the nodes alone."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="cluster")
    thread.start()
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"))
    try:
        try:
            asyncio.run_coroutine_threadsafe(cluster.__aenter__(), loop).result()
        except (LocalClusterError, OSError) as error:
            cannot_run("cluster", str(error))
        yield cluster.endpoints
        asyncio.run_coroutine_threadsafe(cluster.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

"""Testing your own workers: an in-memory cluster on a clock that only the test moves, which fails on demand.

    async def test_a_stale_worker_is_refused(holdfast_cluster):
        hf = holdfast_cluster.connect()
        async with hf.lock("payments/7") as grant:
            holdfast_cluster.expire(grant)
            ...

The fixture comes with the installation (pytest finds it by itself); `Cluster` works without pytest too. The clients are the real
ones, and so are sessions, leases, tokens, queues and repeats; only the network and the time are not.
"""

from holdfast.testing.clock import VirtualClock, VirtualTime
from holdfast.testing.cluster import Cluster

__all__ = ["Cluster", "VirtualClock", "VirtualTime"]

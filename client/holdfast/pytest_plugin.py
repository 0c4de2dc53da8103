"""The pytest plugin: one fixture.

Rule: pytest loads this module by itself wherever Holdfast is installed, so it imports nothing until the fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.testing.cluster import Cluster


@pytest.fixture
def holdfast_cluster() -> Iterator[Cluster]:
    """An in-memory cluster on a virtual clock, which fails on demand: see `holdfast.testing`."""
    from holdfast.testing.cluster import Cluster

    with Cluster() as cluster:
        yield cluster

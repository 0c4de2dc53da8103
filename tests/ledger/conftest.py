"""Where the stories about concurrency take place: a SQLite file, and PostgreSQL if the tester names one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine

from holdfast_ledger.schema import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POSTGRES = "HOLDFAST_TEST_POSTGRES"
"""A SQLAlchemy URL of an EMPTY database that the tests may fill and empty again."""


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh ledger."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    url = os.environ.get(POSTGRES)
    if url is None:
        pytest.skip(f"set {POSTGRES} to the URL of an empty database to run this on PostgreSQL")
    yield url
    engine = create_engine(url)
    metadata.drop_all(engine)
    engine.dispose()

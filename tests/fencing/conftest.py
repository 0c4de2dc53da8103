"""Every guard in one shape, so that one set of tests tells the same story about all of them."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
import psycopg2
import pytest
from sqlalchemy import MetaData, create_engine, text

from holdfast.fencing import MemoryGuard, Stale
from holdfast.fencing.dbapi import DbapiGuard
from holdfast.fencing.sql import SqlGuard, fences_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path


class Guard(Protocol):
    """What each of them can do, each call in a transaction of its own."""

    refused: list[Stale]

    def raise_floor(self, keys: str | Sequence[str], fence: int) -> None: ...
    def highest(self, key: str) -> int | None: ...


class OnDatabase(Guard, Protocol):
    """A guard with a table of its own in a database, and a table that it protects: `writes (fence)`."""

    is_postgres: bool

    def transaction(self) -> AbstractContextManager[Any]:
        """A connection in a transaction that is committed, or rolled back by an exception. The driver begins it, if it does."""

    def raise_on(self, connection: Any, keys: str | Sequence[str], fence: int) -> None: ...
    def write(self, connection: Any, fence: int) -> None: ...
    def written(self) -> list[int]: ...
    def autocommitting(self) -> AbstractContextManager[Any]: ...
    def close(self) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.refused: list[Stale] = []
        self._guard = MemoryGuard(on_refused=self.refused.append)
        self.raise_floor = self._guard.raise_floor
        self.highest = self._guard.highest


class ThroughSqlalchemy:
    """On the engine as a user makes it, without the ledger's settings."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        self.is_postgres = self.engine.dialect.name == "postgresql"
        self.refused: list[Stale] = []
        metadata = MetaData()
        # A name that has to be quoted, and that holds what a driver takes for a placeholder.
        self._guard = SqlGuard(
            fences_table(metadata, "Floors, 100 %"), on_refused=self.refused.append
        )
        metadata.create_all(self.engine)
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TABLE writes (fence BIGINT)"))

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self.engine.begin() as connection:
            yield connection

    def raise_on(self, connection: Any, keys: str | Sequence[str], fence: int) -> None:
        self._guard.raise_floor(connection, keys, fence)

    def write(self, connection: Any, fence: int) -> None:
        connection.execute(text("INSERT INTO writes VALUES (:fence)"), {"fence": fence})

    def written(self) -> list[int]:
        with self.engine.connect() as connection:
            return list(connection.execute(text("SELECT fence FROM writes")).scalars())

    @contextmanager
    def autocommitting(self) -> Iterator[Any]:
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    def raise_floor(self, keys: str | Sequence[str], fence: int) -> None:
        with self.transaction() as connection:
            self.raise_on(connection, keys, fence)

    def highest(self, key: str) -> int | None:
        with self.transaction() as connection:
            return self._guard.highest(connection, key)

    def close(self) -> None:
        self.engine.dispose()


class ThroughDriver:
    """On connections as the driver makes them."""

    def __init__(self, driver: Any, address: str) -> None:
        self._driver = driver
        self._address = address
        self.is_postgres = driver is not sqlite3
        self.refused: list[Stale] = []
        self._guard = DbapiGuard(driver, table="floors", on_refused=self.refused.append)
        with self.transaction() as connection:
            self._guard.create(connection)
            connection.cursor().execute("CREATE TABLE writes (fence BIGINT)")

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        connection = self._driver.connect(self._address)
        try:
            yield connection
            connection.commit()
        finally:
            connection.close()

    def raise_on(self, connection: Any, keys: str | Sequence[str], fence: int) -> None:
        self._guard.raise_floor(connection, keys, fence)

    def write(self, connection: Any, fence: int) -> None:
        statement = "INSERT INTO writes VALUES (?)"
        if self.is_postgres:
            statement = statement.replace("?", "%s")
        connection.cursor().execute(statement, (fence,))

    def written(self) -> list[int]:
        with self.transaction() as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT fence FROM writes")
            return [fence for (fence,) in cursor.fetchall()]

    @contextmanager
    def autocommitting(self) -> Iterator[Any]:
        connection = self._driver.connect(self._address)
        if self.is_postgres:
            connection.autocommit = True
        else:
            connection.isolation_level = None
        yield connection
        connection.close()

    def raise_floor(self, keys: str | Sequence[str], fence: int) -> None:
        with self.transaction() as connection:
            self.raise_on(connection, keys, fence)

    def highest(self, key: str) -> int | None:
        with self.transaction() as connection:
            return self._guard.highest(connection, key)

    def close(self) -> None:
        """Each connection was closed by whoever made it."""


ON_DATABASES = (
    "sqlalchemy on sqlite",
    "sqlalchemy on postgresql",
    "sqlite3",
    "psycopg",
    "psycopg2",
)


def open_guard(name: str, request: pytest.FixtureRequest, folder: Path) -> OnDatabase:
    if name == "sqlite3":
        return ThroughDriver(sqlite3, str(folder / "guarded.db"))
    if name == "sqlalchemy on sqlite":
        return ThroughSqlalchemy(f"sqlite:///{folder / 'guarded.db'}")
    url: str = request.getfixturevalue("postgres_url")
    if name == "sqlalchemy on postgresql":
        return ThroughSqlalchemy(url)
    address = url.replace("postgresql+psycopg://", "postgresql://", 1)
    return ThroughDriver({"psycopg": psycopg, "psycopg2": psycopg2}[name], address)


@pytest.fixture(params=ON_DATABASES)
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnDatabase]:
    """A guard in a database, with its transactions."""
    opened = open_guard(request.param, request, tmp_path)
    yield opened
    opened.close()


@pytest.fixture(params=("memory", *ON_DATABASES))
def guard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guard]:
    """Any guard."""
    if request.param == "memory":
        yield InMemory()
        return
    opened = open_guard(request.param, request, tmp_path)
    yield opened
    opened.close()

"""The servers that the tests bring by themselves."""

from __future__ import annotations

import psycopg
import pytest
import redis

from servers.absent import ACCEPTED, cannot_run
from servers.postgres import PostgresServer


def test_a_real_postgres_answers_in_an_empty_database(postgres_url: str) -> None:
    """Whoever asks for `postgres_url` gets a database with nothing in it."""
    address = postgres_url.replace("+psycopg", "", 1)
    with psycopg.connect(address) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchone()
        assert tables == (0,)
        connection.execute("CREATE TABLE something (key text)")


def test_the_server_is_gone_when_its_block_is_left() -> None:
    """No process outlives the tests."""
    with PostgresServer() as server:
        process = server._process
        assert process is not None
        assert process.poll() is None
    assert process.poll() is not None


def test_a_real_redis_answers_and_is_empty(redis_url: str) -> None:
    """Whoever asks for `redis_url` gets a database with nothing in it."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("something", "1")


def test_a_missing_server_fails_unless_that_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is skipped in silence."""
    monkeypatch.delenv(ACCEPTED, raising=False)
    with pytest.raises(pytest.fail.Exception, match="no postgres server could be brought: gone"):
        cannot_run("postgres", "gone")
    monkeypatch.setenv(ACCEPTED, "redis,postgres")
    with pytest.raises(pytest.skip.Exception, match="accepts that"):
        cannot_run("postgres", "gone")

"""What `import holdfast` costs and shows."""

from __future__ import annotations

import subprocess
import sys

import pytest

import holdfast

FOREIGN = (
    "holdfast_coordinator",
    "holdfast_ledger",
    "pysyncobj",
    "sqlalchemy",
    "psycopg",
    "redis",
    "click",
    "rich",
)


def loaded(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_making_clients_loads_no_server() -> None:
    """The base install is aiohttp and msgpack; neither face needs more."""
    modules = loaded(
        "import holdfast\nfrom holdfast import connect, connect_sync\n"
        "connect('127.0.0.1:7601'); connect('memory://'); connect_sync('127.0.0.1:7601').close()"
    )
    assert "aiohttp" in modules
    assert not modules & set(FOREIGN)


def test_the_names_alone_load_no_network_library() -> None:
    """Whoever only catches `holdfast.NotAcquired` pays for nothing."""
    assert "aiohttp" not in loaded("import holdfast\nholdfast.NotAcquired")


def test_every_public_name_is_there() -> None:
    """`__all__` tells the truth, lazily or not; anything else is an AttributeError."""
    for name in holdfast.__all__:
        assert getattr(holdfast, name) is not None
        assert name in dir(holdfast)
    with pytest.raises(AttributeError):
        _ = holdfast.no_such_name

"""Locks for the frameworks' tests: those of this process, with a way to lose them."""

from __future__ import annotations

import itertools
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import django
import pytest
from django.conf import settings

import holdfast
from holdfast.clock import BootClock
from holdfast.stores.memory import shared_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", autouse=True)
def logging_as_before() -> Iterator[None]:
    """A Celery worker takes over the root logger; whoever is tested next listens to its own."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


settings.configure(INSTALLED_APPS=[], DATABASES={}, USE_I18N=False)
django.setup()

WITHIN_SECONDS = 20.0
"""Only a broken test waits this long."""

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Locks:
    """The locks at `address`, in the memory of this process."""

    address: str

    def expire_all(self) -> None:
        """Every session ends, as if its client had been frozen for longer than its lease. Clients learn of it at their next
        renewal."""
        shared = shared_of(self.address)
        with shared.gate:
            shared.table.advance(BootClock().now() + 1e6)

    def client(self) -> holdfast.Client:
        return holdfast.connect_sync(self.address)


@pytest.fixture
def locks() -> Locks:
    return Locks(f"memory://contrib-{next(_NUMBERS)}")


@pytest.fixture(scope="module")
def module_locks() -> Locks:
    return Locks(f"memory://contrib-{next(_NUMBERS)}")


class Signals:
    """Names that one thread says and another waits for."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._changed = threading.Condition()

    def say(self, name: str) -> None:
        with self._changed:
            self._said.append(name)
            self._changed.notify_all()

    def wait_for(self, name: str, times: int = 1) -> None:
        with self._changed:
            heard = self._changed.wait_for(lambda: self._said.count(name) >= times, WITHIN_SECONDS)
            assert heard, f"{name} was said {self._said.count(name)} times: {self._said}"

    @property
    def said(self) -> list[str]:
        with self._changed:
            return list(self._said)


@pytest.fixture
def signals() -> Signals:
    return Signals()

"""docs/frameworks.md is run: each of its programs, as it stands there, in its framework."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command
from django.test import override_settings
from fastapi.testclient import TestClient

import holdfast
from holdfast.contrib.celery import client_of

if TYPE_CHECKING:
    from conftest import Locks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "frameworks.md"


@pytest.fixture
def programs(locks: Locks) -> dict[str, dict[str, Any]]:
    """What each program of the page has defined, by the heading above it."""
    found: dict[str, dict[str, Any]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        for text in re.findall(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL):
            namespace: dict[str, Any] = {"__name__": "page", "ADDRESS": locks.address}
            exec(compile(text, PAGE.name, "exec"), namespace)  # noqa: S102 - our own page
            found[section.partition(":")[0]] = namespace
    return found


def test_the_celery_task_of_the_page(programs: dict[str, dict[str, Any]], locks: Locks) -> None:
    """It locks by its argument, and knows its fence."""
    page = programs["Celery"]
    assert page["collect"]("1234", payment="p-1") == 1
    with locks.client() as client:
        assert client.acquire_lock("customers/1234/collect")
        with pytest.raises(holdfast.NotAcquired):
            page["collect"]("1234", "p-2")
    client_of(page["app"]).close()


def test_the_application_of_the_page(programs: dict[str, dict[str, Any]]) -> None:
    """It leads, and says so."""
    with TestClient(programs["FastAPI and Starlette"]["app"]) as client:
        for _ in range(1000):  # each is a round of the application's own loop
            if client.get("/leader").json():
                break
        assert client.get("/leader").json() is True


def test_the_command_of_the_page(programs: dict[str, dict[str, Any]], locks: Locks) -> None:
    """It runs under the key of its tenant."""
    command = programs["Django"]["Command"]
    command.requires_system_checks = []
    with override_settings(HOLDFAST_ADDRESS=locks.address), locks.client() as client:
        out = call_command(command(), "a", stdout=io.StringIO())
        assert out == "written with fence 1"
        assert client.acquire_lock("reports/a")
        assert call_command(command(), "a", stderr=io.StringIO()) is None


def test_every_program_of_the_page_is_run_and_every_file_is_there(
    programs: dict[str, dict[str, Any]],
) -> None:
    """A new snippet needs a test here; a file that moved is noticed."""
    assert set(programs) == {"Celery", "FastAPI and Starlette", "Django"}
    for link in re.findall(r"\]\(([^)]+)\)", PAGE.read_text()):
        assert (PAGE.parent / link).exists(), link

"""docs/fencing.md is run: every block of Python, in order, and what it prints is what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from holdfast.stores import memory

PAGE = Path(__file__).parents[2] / "docs" / "fencing.md"
ADDRESS = "postgresql://localhost/payments"


def blocks(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def test_every_block_of_the_page_runs_and_prints_what_it_says(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One program, as a reader would type it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "_tables", {})  # as in a process that has just begun: fences from 1
    opened: list[psycopg.Connection[Any]] = []
    connect = psycopg.connect

    def to_the_tests_database(address: str) -> psycopg.Connection[Any]:
        assert address == ADDRESS
        opened.append(connect(postgres_url.replace("+psycopg", "", 1)))
        return opened[-1]

    monkeypatch.setattr(psycopg, "connect", to_the_tests_database)
    namespace: dict[str, Any] = {"__name__": "page"}
    printed, ran, compared = "", 0, 0
    for language, text in blocks(PAGE.read_text()):
        if language == "python":
            assert not printed, "what a block prints stands below it"
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(text, PAGE.name, "exec"), namespace)  # noqa: S102 - our own page
            printed = output.getvalue()
            ran += 1
        else:
            assert language == "text", f"a block of {language} that nobody runs"
            assert printed == text
            printed = ""
            compared += 1
    assert not printed
    assert (ran, compared) == (7, 5)
    namespace["engine"].dispose()
    for each in opened:
        each.close()

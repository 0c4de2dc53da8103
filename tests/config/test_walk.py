"""What may stand where in cluster.yml, read off types; and the line in which something stands."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from holdfast_coordinator.config_walk import line_of, names_at, struct_at, walk


class Right(msgspec.Struct, frozen=True):
    prefix: str | None = None


class Person(msgspec.Struct):
    name: str
    may: list[Right] = []


class Access(msgspec.Struct, rename={"is_open": "open"}):
    people: list[Person]
    is_open: bool = False


class File(msgspec.Struct):
    cluster: str
    access: Access | None = None
    extra: Annotated[Right, "a note"] = Right("x")


def test_every_section_is_found_however_it_is_written() -> None:
    """Optional, repeated, nested, annotated: a section that somebody adds is found without being named anywhere."""
    found = {path: [field.path for field in fields] for path, fields in walk(File)}
    assert found == {
        "": ["cluster", "access", "extra"],
        "access": ["access.people[]", "access.open"],
        "access.people[]": ["access.people[].name", "access.people[].may[]"],
        "access.people[].may[]": ["access.people[].may[].prefix"],
        "extra": ["extra.prefix"],
    }


def test_defaults_are_those_of_the_struct() -> None:
    (_, fields), *_ = walk(File)
    assert [field.default for field in fields] == [msgspec.NODEFAULT, None, Right("x")]


@pytest.mark.parametrize(
    ("where", "struct"),
    [
        ("$", File),
        ("$.access", Access),
        ("$.access.people[7]", Person),
        ("$.access.people[0].may[1]", Right),
        ("$.cluster", None),
        ("$.nothing.at[0].all", None),
    ],
)
def test_a_path_leads_to_its_struct(where: str, struct: type | None) -> None:
    assert struct_at(File, where) is struct


def test_the_names_at_a_path_are_as_they_are_written() -> None:
    """Under the name in the file, not in the code."""
    assert names_at(File, "$.access") == ["people", "open"]
    assert names_at(File, "$.cluster") == []


TEXT = """\
cluster: c
access:
  people:
    - name: a
    - name: b
      may:
        - {prefix: x}
"""


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("$.cluster", 1),
        ("$.access.people[1].name", 5),
        ("$.access.people[1].may[0].prefix", 7),
        ("$.access.people[0].missing", 4),
        ("$.access.people[9]", 3),
        ("$.nowhere", None),
        ("$", None),
    ],
)
def test_a_path_leads_to_its_line(where: str, line: int | None) -> None:
    """What is not there is looked for where it would stand."""
    assert line_of(TEXT, where) == line


def test_what_is_no_yaml_has_no_lines() -> None:
    """Nor does it raise: this is only ever asked while another mistake is told."""
    assert line_of("a: [", "$.a") is None
    assert line_of("[" * 100_000, "$[0]") is None

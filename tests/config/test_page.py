"""docs/configuration.md says what the code does: made from it, complete, and with limits that are the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml

from holdfast_coordinator import config_page, config_walk
from holdfast_coordinator.config import (
    ENV_SECRET,
    ENV_SECRET_FILE,
    FILE,
    ConfigError,
    HttpLimits,
    load,
)
from holdfast_coordinator.config_page import LIMITS, SETTINGS, Between, Undescribed
from holdfast_coordinator.logs import ENV_FORMAT
from holdfast_coordinator.machine import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"

COMPANIONS: dict[str, dict[str, Any]] = {
    # The three times depend on each other, so the others are put where they are in nobody's way.
    "timing.heartbeat_ms": {"election_ms_min": 59_999, "election_ms_max": 60_000},
    "timing.election_ms_min": {"heartbeat_ms": 10, "election_ms_max": 60_000},
    "timing.election_ms_max": {"heartbeat_ms": 10, "election_ms_min": 31},
}
"""What else stands in a section while one of its settings is tried."""

NARROWED: dict[str, Between] = {
    "timing.heartbeat_ms": Between(10, 19_999),
    "timing.election_ms_min": Between(31, 59_999),
    "timing.election_ms_max": Between(32, 60_000),
}
"""What the others leave of a setting's limits."""


def good() -> dict[str, Any]:
    nodes = [
        {"name": f"n{n}", "http": f"127.0.0.1:760{n}", "raft": f"127.0.0.1:770{n}"}
        for n in (1, 2, 3)
    ]
    return {"cluster": "c", "data_dir": "data", "nodes": nodes}


def test_the_page_is_made_from_the_code() -> None:
    """Renew it with `python -m holdfast_coordinator.config_page > docs/configuration.md`."""
    assert PAGE.read_text() == config_page.render()


def test_the_page_names_the_variables() -> None:
    for name in (ENV_SECRET, ENV_SECRET_FILE, ENV_FORMAT, "HOLDFAST_CONFIG"):
        assert f"`{name}`" in PAGE.read_text()


def test_every_row_says_unit_default_and_reason() -> None:
    """No cell of these is empty."""
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    settings = [row for row in rows if len(row) == 5]
    assert len(settings) > 50
    for name, unit, default, _, why in settings:
        assert unit, name
        assert default, name
        assert why.endswith(". |"), name


def test_a_setting_that_nobody_describes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds one has to say what it is; and what is described must exist."""
    monkeypatch.delitem(SETTINGS, "timing.heartbeat_ms")
    with pytest.raises(Undescribed, match=r"timing\.heartbeat_ms: put a docstring below it"):
        config_page.render()
    monkeypatch.undo()
    monkeypatch.setitem(SETTINGS, "timing.pace_ms", SETTINGS["timing.heartbeat_ms"])
    with pytest.raises(Undescribed, match=r"no such setting: timing\.pace_ms"):
        config_page.render()


def bounded() -> Iterator[tuple[str, Between]]:
    """Every setting that the page gives a least and a greatest value."""
    for path, setting in SETTINGS.items():
        if isinstance(setting.limits, Between):
            yield path, NARROWED.get(path, setting.limits)
    for owner in (Limits, HttpLimits):
        for name in owner.__dataclass_fields__:
            if name != "quotas":
                yield f"limits.{name}", LIMITS.get(name, config_page.COUNT)


def with_setting(path: str, value: int) -> dict[str, Any]:
    section, _, name = path.rpartition(".")
    raw = good()
    beside = dict(COMPANIONS.get(path, {}))
    if section == "quotas[]":
        raw["quotas"] = [{"owner": "o", name: value}]
    elif not section:
        raw[name] = value
    else:
        raw[section] = {**beside, name: value}
    return raw


@pytest.mark.parametrize(("path", "limits"), list(bounded()), ids=str)
def test_the_limits_of_the_page_are_the_real_ones(
    path: str, limits: Between, tmp_path: Path
) -> None:
    """The least and the greatest are taken, what lies just outside is refused."""
    file = tmp_path / "cluster.yml"

    def attempt(value: int) -> None:
        file.write_text(yaml.safe_dump(with_setting(path, value)))
        load(file, {})

    least_of_two = {"limits.ttl_ms_max": 1_000, "limits.ttl_ms_min": 1}
    most_of_two = {"limits.ttl_ms_min": Limits().ttl_ms_max}
    attempt(least_of_two.get(path, limits.low))
    attempt(most_of_two.get(path, limits.high))
    for outside in (limits.low - 1, limits.high + 1):
        with pytest.raises(ConfigError):
            attempt(outside)


def test_every_section_refuses_a_name_that_does_not_exist_with_the_nearest_that_does(
    tmp_path: Path,
) -> None:
    """In the file itself and in each of its sections, present and future: the types decide."""
    file = tmp_path / "cluster.yml"
    for path, fields in config_walk.walk(FILE):
        raw = good()
        place: Any = raw
        for step in path.split(".") if path else ():
            name = step.removesuffix("[]")
            fresh: Any = [{}] if step.endswith("[]") else {}
            place = place.setdefault(name, fresh)
            place = place[0] if isinstance(place, list) else place
        known = max((field.name for field in fields), key=len)
        place[known + "x"] = 1
        # Required settings are missed before a wrong name is noticed, so all are there.
        for field in fields:
            if field.default is msgspec.NODEFAULT:
                place.setdefault(field.name, [] if "[]" in field.path else "x")
        file.write_text(yaml.safe_dump(raw))
        with pytest.raises(
            ConfigError, match=rf"there is no such setting; did you mean '{known}'\?"
        ):
            load(file, {})

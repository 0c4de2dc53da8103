"""What a node logs: one line for each event, as JSON or for people, whoever's logger it came from."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from holdfast_coordinator.config import ConfigError, load
from holdfast_coordinator.logs import LogFile, chosen_format, configure
from holdfast_coordinator.machine import Limits
from holdfast_coordinator.node import Node
from holdfast_coordinator.raft.scripted import ScriptedLog
from holdfast_coordinator.readiness import ReadinessLog, sentence, why_not_ready

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What was logged; everything is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ours = [logging.getLogger(name) for name in ("holdfast", "holdfast_coordinator")]
    levels = [each.level for each in ours]
    yield io.StringIO()
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    for each, before in zip(ours, levels, strict=True):
        each.setLevel(before)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_a_line_of_json_with_its_node_and_its_reason(stream: io.StringIO) -> None:
    """From structlog and from the standard library alike."""
    configure(LogFile(), "n1", stream)
    structlog.get_logger("holdfast.node").warning("leader_lost", leader="n2", reason="silence")
    engine = logging.getLogger("holdfast_coordinator.raft.transport")
    engine.info("peer_lost", extra={"peer": "n2", "reason": "silent peer"})
    engine.warning("%s refuses %s", "n2", "n1")
    first, second, third = lines(stream)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "leader_lost", "leader": "n2", "reason": "silence",
        "level": "warning", "logger": "holdfast.node", "node": "n1",
    }  # fmt: skip
    assert second["event"] == "peer_lost"
    assert (second["peer"], second["reason"], second["node"]) == ("n2", "silent peer", "n1")
    assert (third["event"], third["level"]) == ("n2 refuses n1", "warning")


def test_an_exception_is_part_of_its_line(stream: io.StringIO) -> None:
    """Whoever collects logs gets one record, not thirty."""
    configure(LogFile(), "n1", stream)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("asyncio").exception("a task failed")
    (line,) = lines(stream)
    assert "RuntimeError: broken" in line["exception"]


@pytest.mark.parametrize(
    ("level", "events"),
    [("debug", ["d", "i", "w"]), ("info", ["i", "w"]), ("warning", ["w"]), ("error", [])],
)
def test_nothing_below_the_level_is_written(
    stream: io.StringIO, level: Any, events: list[str]
) -> None:
    configure(LogFile(level=level), "n1", stream)
    for log in (
        structlog.get_logger("holdfast.node"),
        logging.getLogger("holdfast_coordinator.raft"),
    ):
        log.debug("d")
        log.info("i")
        log.warning("w")
    assert [line["event"] for line in lines(stream)] == events * 2


def test_the_chatter_of_libraries_is_left_out(stream: io.StringIO) -> None:
    """Their warnings are not."""
    configure(LogFile(level="debug"), "n1", stream)
    logging.getLogger("somebody.else").info("hello")
    logging.getLogger("somebody.else").warning("careful")
    assert [line["event"] for line in lines(stream)] == ["careful"]


def test_auto_is_for_people_on_a_terminal_and_json_elsewhere(stream: io.StringIO) -> None:
    terminal = Terminal()
    configure(LogFile(), "n1", terminal)
    structlog.get_logger("holdfast.node").info("ready")
    assert "ready" in terminal.getvalue()
    assert "{" not in terminal.getvalue()
    configure(LogFile(format="json"), "n1", terminal)
    structlog.get_logger("holdfast.node").info("again")
    assert json.loads(terminal.getvalue().splitlines()[-1])["event"] == "again"
    configure(LogFile(format="console"), "n1", stream)
    structlog.get_logger("holdfast.node").info("plain", reason="asked")
    assert "reason=asked" in stream.getvalue()
    assert "\x1b" not in stream.getvalue(), "no colours where there is no terminal"


def test_the_environment_comes_before_the_file_and_is_checked(tmp_path: Path) -> None:
    assert chosen_format({}, "console") == "console"
    assert chosen_format({"HOLDFAST_LOG_FORMAT": "json"}, "console") == "json"
    file = tmp_path / "cluster.yml"
    text = (
        "cluster: c\ndata_dir: d\nnodes: [{name: n1, http: '127.0.0.1:1', raft: '127.0.0.1:2'}]\n"
    )
    file.write_text(text + "log: {format: console, level: warning}\n")
    assert load(file, {}).log == LogFile(format="console", level="warning")
    with pytest.raises(
        ConfigError, match="HOLDFAST_LOG_FORMAT is 'xml'; it may be auto, json or console"
    ):
        load(file, {"HOLDFAST_LOG_FORMAT": "xml"})
    file.write_text(text + "log: {level: loud}\n")
    with pytest.raises(
        ConfigError, match=r"cluster.yml:4: \$.log.level: Invalid enum value 'loud'"
    ):
        load(file, {})


def test_the_page_for_operators_lists_every_event() -> None:
    """What the coordinator logs under a name, at which level; nothing is left over."""
    root = Path(__file__).parents[2]
    call = re.compile(r"""log\.(info|warning|error)\(\s*"([a-z_]+)"(?=[,)])""")
    logged = {
        (event, level)
        for file in (root / "coordinator").rglob("*.py")
        if "demo" not in file.parts
        for level, event in call.findall(file.read_text())
    }
    page = (root / "docs" / "operators.md").read_text().partition("## The log")[2]
    assert set(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE)) == logged


class Scene:
    """One node of three on a scripted engine; its log."""

    def __init__(self) -> None:
        self.log = ScriptedLog()
        self.now_ns = 10**12
        self.node = Node(
            "n1",
            lambda node: self.log.attach("n1", node),
            clock_ns=lambda: self.now_ns,
            limits=Limits(),
            cluster="c",
            members={name: (f"http-{name}", f"raft-{name}") for name in ("n1", "n2", "n3")},
            session_ref_key=b"",
        )


async def test_a_change_of_leader_is_told_once_with_its_reason() -> None:
    """time 0: n2 leads; time 1: it is gone; time 2: n1 leads; time 3: it does not any more."""
    scene = Scene()
    with structlog.testing.capture_logs() as told:
        for leader, term in (("n2", 4), ("n2", 4), (None, 4), ("n1", 5), (None, 5)):
            scene.node.on_leader(leader, term)
    assert [(each["event"], each["leader"], each["term"]) for each in told] == [
        ("leader_elected", "n2", 4),
        ("leader_lost", "n2", 4),
        ("leader_elected", "n1", 5),
        ("leader_lost", "n1", 5),
    ]
    assert told[1]["reason"] == "its connection is gone"
    assert told[3]["reason"].startswith("this node leads no more")
    assert [each["log_level"] for each in told] == ["info", "warning", "info", "warning"]


async def test_readiness_is_told_when_it_changes_with_why() -> None:
    """Not ready at first, and why; ready; behind. Nothing is told twice."""
    scene = Scene()
    readiness = ReadinessLog(scene.node)
    with structlog.testing.capture_logs() as told:
        readiness.look()
        readiness.look()
        scene.log.elect("n2")
        scene.log.engines["n1"].leader_commit_index = 0
        scene.node.keep_house()
        readiness.look()
        readiness.look()
        scene.log.engines["n1"].leader_commit_index = 5_000
        scene.now_ns += 3_000_000_000
        readiness.look()
    mine = [each for each in told if each["event"] in {"ready", "not_ready"}]
    assert [each["event"] for each in mine] == ["not_ready", "ready", "not_ready"]
    assert mine[0]["reason"] == "no leader is known; not connected: n2, n3"
    assert mine[2]["reason"] == "behind what is committed for 3000 ms"


async def test_a_node_that_has_just_started_says_that_it_catches_up() -> None:
    """And what it says in one line for `systemctl status`."""
    scene = Scene()
    scene.log.elect("n2")
    scene.log.engines["n1"].leader_commit_index = 1_000
    assert (why_not_ready(scene.node) or "").startswith("catching up: ")
    assert sentence(scene.node).startswith("follower of n2 in term 1, not ready: catching up")

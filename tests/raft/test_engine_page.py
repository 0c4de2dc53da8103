"""docs/engine.md is complete and true as far as a test can tell; and two deviations that are impossible here."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import os
import re
from pathlib import Path

import pytest
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.poller import createPoller
from pysyncobj.transport import Transport
from raft_schedules import Shielded, kernel

from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.inmem import VirtualClock
from holdfast_coordinator.raft.messages import Ack, Append
from holdfast_coordinator.raft.shield import next_index_after_reset

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "engine.md").read_text()
RAFT = ROOT / "coordinator" / "holdfast_coordinator" / "raft"
SECTIONS = {
    int(number): text
    for number, text in re.findall(r"^### D(\d+)\. (.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
}
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)*)`", PAGE)))
MODULES = "|".join(sorted(path.stem for path in RAFT.glob("[a-z]*.py")))
NAMES = sorted(set(re.findall(rf"`((?:{MODULES})\.(?!py\b)\w+(?:\.\w+)?)`", PAGE)))


@functools.cache
def names_in(path: Path) -> dict[str, set[str]]:
    """The tests of a module; of a class, its methods."""
    found: dict[str, set[str]] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {
                each.name
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = set()
    return found


def test_every_deviation_has_one_section() -> None:
    assert re.findall(r"^### D(\d+)\.", PAGE, re.MULTILINE) == [str(n) for n in range(1, 38)]


@pytest.mark.parametrize("number", range(1, 38))
def test_a_section_says_what_happens_whether_it_loses_and_what_we_do_and_names_a_test(
    number: int,
) -> None:
    section = SECTIONS[number]
    parts = re.findall(r"^\*\*(.+?)\*\*", section, re.MULTILINE)
    assert parts == ["Stock.", "Can lose data:", "Here.", "Tests."]
    assert re.search(r"`tests/[\w/]+\.py::\w+", section.partition("**Tests.**")[2])


@pytest.mark.parametrize("number", range(1, 38))
def test_a_section_names_a_test_that_shows_the_stock_library_failing(number: int) -> None:
    """Each of the 37 is shown, none is only told: by a test with "stock" in its name, or in a class that has one."""
    cited = [each.split("::") for each in re.findall(r"`(tests/[^`]+)`", SECTIONS[number])]
    names = set[str]()
    for file, *path in cited:
        names |= {path[-1]} if path else set()
        names |= names_in(ROOT / file).get(path[0], set()) if len(path) == 1 else set()
    assert any("stock" in name for name in names)


@pytest.mark.parametrize("cited", TESTS)
def test_a_test_that_the_page_names_exists(cited: str) -> None:
    name, *path = cited.split("::")
    assert (ROOT / name).is_file()
    if path:
        assert path[0].lower().startswith("test")
        assert path[0] in names_in(ROOT / name)
        assert set(path[1:]) <= names_in(ROOT / name)[path[0]]


@pytest.mark.parametrize("cited", NAMES)
def test_a_function_that_the_page_names_exists(cited: str) -> None:
    module, *path = cited.split(".")
    found = importlib.import_module(f"holdfast_coordinator.raft.{module}")
    functools.reduce(getattr, path, found)


def test_the_page_names_enough_for_these_checks_to_mean_something() -> None:
    """A change of the page's form must not switch them off."""
    assert len(TESTS) > 80
    assert len(NAMES) > 40


def test_d26_stock_fails_a_command_that_it_has_queued_and_ours_has_no_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stock opens a pipe that can be full, and queues what it then reports as failed."""
    monkeypatch.setattr("pysyncobj.syncobj.PIPE_NOTIFIER_ENABLED", True)  # as it is shipped
    monkeypatch.setattr("pysyncobj.syncobj.createPoller", createPoller)
    stock_node = SyncObj(
        "127.0.0.1:1",
        [],
        SyncObjConf(autoTick=False, appendEntriesUseBatch=False),
        transport=Transport(None, None, []),
    )
    pipe = stock_node._SyncObj__pipeNotifier
    with contextlib.suppress(BlockingIOError):
        while True:  # what 65,536 commands between two ticks do
            pipe.notify()
    with pytest.raises(BlockingIOError):
        stock_node._applyCommand(b"x", None, 0)
    assert stock_node._SyncObj__commandsQueue.get_nowait()[0] == b"\x00x"
    os.close(pipe._PipeNotifier__pipeR)
    os.close(pipe._PipeNotifier__pipeW)
    node = kernel("n1", ("n2",), clock=VirtualClock())
    assert not hasattr(node._raft, "_SyncObj__pipeNotifier")
    with pytest.raises(EngineFailure, match="misassembled"):
        node._raft._applyCommand(b"x", None, 0)


def test_d27_a_leader_never_goes_beyond_the_end_of_its_log() -> None:
    """A follower that has more than the leader asks for an entry that does not exist."""
    assert next_index_after_reset(Ack(1, 500, False, True, 1), 0, 7) == 8
    three = Shielded()
    leader = three.elect()
    three.cluster.run_for(0.3)
    follower = next(name for name in three.names if name != leader)
    node = three.kernel(leader)
    node.receive(follower, Ack(node.term, 500, False, True, node._stamp))
    node.tick()
    sent: list[Append] = []
    node.release(
        lambda peer, said: sent.extend(
            each for each in said if peer == follower and isinstance(each, Append)
        )
    )
    assert sent
    assert max(message.prev_index for message in sent) <= node.last_index


def test_d29_the_librarys_lock_manager_is_not_used() -> None:
    """Nothing imports it."""
    sources = [*(ROOT / "coordinator").rglob("*.py"), *(ROOT / "client").rglob("*.py")]
    assert len(sources) > 50
    for path in sources:
        assert "batteries" not in path.read_text(), path

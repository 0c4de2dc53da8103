"""What `holdfast doctor` and `holdfast status --watch` make of what the nodes tell; each finding with what to do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

import holdfast
from holdfast.cli import doctor, live
from holdfast.cli.app import command
from holdfast.diagnosis import (
    CLOCK_PART_BAD,
    DAY_MS,
    Finding,
    Round,
    clock_rate,
    diagnose,
    has_majority,
)
from holdfast.reports import NodeReport, report_of

NAMES = ("n1", "n2", "n3")
NOW_MS = 1_800_000_000_000
ON_THE_WAY = 0.001


def raw(node: str, **changed: Any) -> dict[str, Any]:
    """A node with which all is well; a dot in the name of a change leads inside."""
    peers = [
        {"name": name, "connected": True, "version": "0.1.0", "format_level_max": 2}
        for name in NAMES
        if name != node
    ]
    made: dict[str, Any] = {
        "cluster": "test",
        "node": node,
        "version": "0.1.0",
        "format_levels": {"current": 2, "min": 1, "max": 2},
        "leader": "n1",
        "term": 3,
        "ready": True,
        "lag_ms": 0,
        "commit_index": 9,
        "applied_index": 9,
        "leader_changes": 1,
        "clock_us": 0,
        "boot": 1,
        "stalls": 0,
        "peers": peers,
        "syncs": {"count": 100, "median_us": 500, "p99_us": 900, "longest_us": 5_000},
        "storage": {
            "journal_bytes": 1,
            "log_entries": 1,
            "snapshot_index": 0,
            "free_bytes": 9 << 30,
        },
        "certificates": [
            {"use": "raft_tls.certificate", "file": "n.pem", "not_after_ms": NOW_MS + 99 * DAY_MS, "error": None}
        ],
        "settings": {"limits": "aa", "timing": "100 ms"},
        "locks": {
            "sessions": 5,
            "holds": 4,
            "keys": 4,
            "waiters": 3,
            "grants_total": 100,
            "releases_total": 90,
            "expired_total": 2,
            "forced_total": 0,
        },
    }  # fmt: skip
    for path, value in changed.items():
        inside = made
        *parents, last = path.split("__")
        for parent in parents:
            inside = inside[parent]
        inside[last] = value
    return made


def report(node: str, at: float, rate: float = 1.0, **changed: Any) -> NodeReport:
    """Asked at `at`; its clock runs `rate` times as fast as ours."""
    body = raw(node, **changed)
    body["clock_us"] = int((1_000 + (at + ON_THE_WAY / 2) * rate) * 1e6)
    return report_of(body, at, at + ON_THE_WAY)


def look(at: float = 10.0, *, without: tuple[str, ...] = (), **changed: dict[str, Any]) -> Round:
    reports = tuple(
        report(name, at, **changed.get(name, {})) for name in NAMES if name not in without
    )
    return Round(
        reports, {f"http://{name}": holdfast.Unreachable("connection refused") for name in without}
    )


def wrong(first: Round, second: Round | None = None) -> list[Finding]:
    found = diagnose(first, second or first, now_ms=NOW_MS)
    assert all(each.advice for each in found if each.severity != "ok"), "each says what to do"
    return [each for each in found if each.severity != "ok"]


def test_nothing_is_wrong_with_a_cluster_that_is_well() -> None:
    """And each check says so."""
    found = diagnose(look(0.0), look(3.0), now_ms=NOW_MS)
    assert {each.severity for each in found} == {"ok"}
    assert {each.check for each in found} == {
        *("answers", "leader", "majority", "lag", "versions", "format level", "disk", "settings"),
        *("clocks", "certificates"),
    }


@pytest.mark.parametrize(
    ("changed", "check", "severity", "words"),
    [
        ({"leader": None}, "leader", "bad", "knows no leader, although others do"),
        ({"leader": "n2"}, "leader", "warning", "different leaders: n1, n2"),
        ({"ready": False, "lag_ms": 4_000}, "lag", "bad", "4000 ms"),
        ({"ready": False, "lag_ms": None}, "lag", "bad", "has not caught up"),
        ({"version": "0.2.0"}, "versions", "warning", "0.1.0, 0.2.0"),
        ({"cluster": "other"}, "cluster", "bad", "other, test"),
        ({"syncs__p99_us": 30_000}, "disk", "warning", "30.0 ms"),
        ({"syncs__p99_us": 300_000}, "disk", "bad", "300.0 ms"),
        ({"syncs__count": 0}, "disk", "warning", "has not synced"),
        ({"storage__free_bytes": 1 << 30}, "disk space", "warning", "1.00 GiB"),
        ({"storage__free_bytes": 1 << 20}, "disk space", "bad", "0.00 GiB"),
        ({"settings": {"limits": "bb", "timing": "100 ms"}}, "settings", "bad", "n1, n3: aa; n2: bb"),
        ({"settings": {"limits": "aa"}}, "settings", "warning", "timing differs"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_one_node_is_found_and_nothing_else(
    changed: dict[str, Any], check: str, severity: str, words: str
) -> None:
    found = wrong(look(0.0, n2=changed), look(3.0, n2=changed))
    assert [(each.check, each.severity) for each in found] == [(check, severity)]
    assert words in found[0].seen


def test_a_majority_at_risk_is_found_from_whoever_answers() -> None:
    """One of three is down; then two. A node that does not answer us, but is connected with others, is up."""
    gone = [{"name": "n3", "connected": False, "version": None, "format_level_max": None}]
    partly = {"peers": [*raw("n1")["peers"][:1], *gone]}
    at_risk = look(without=("n3",), n1=partly, n2={"peers": [raw("n2")["peers"][0], *gone]})
    found = {each.check: each for each in wrong(at_risk)}
    assert "the loss of one more stops the cluster" in found["majority"].seen
    assert found["majority"].nodes == ("n3",)
    assert found["answers"].nodes == ("http://n3",)
    assert has_majority(at_risk)
    alone = look(
        without=("n2", "n3"),
        n1={"peers": [{**peer, "connected": False} for peer in raw("n1")["peers"]]},
    )
    found = {each.check: each for each in wrong(alone)}
    assert "2 are needed: nothing is granted" in found["majority"].seen
    assert not has_majority(alone)
    unseen = look(without=("n3",))
    assert [each.check for each in wrong(unseen)] == ["answers"]


def test_a_leader_that_is_gone_is_not_taken_for_one() -> None:
    """A node that hears nothing names the leader that it heard last."""
    peers = [{**peer, "connected": False} for peer in raw("n2")["peers"]]
    alone = look(without=("n1", "n3"), n2={"peers": peers})
    assert alone.reports[0].leader is None
    assert "no node knows a leader" in {each.check: each.seen for each in wrong(alone)}["leader"]


def test_two_nodes_that_answer_and_are_not_connected_are_found() -> None:
    peers = [raw("n2")["peers"][0], {**raw("n2")["peers"][1], "connected": False}]
    found = wrong(look(n2={"peers": peers}))
    assert [(each.check, each.nodes) for each in found] == [("connections", ("n2 and n3",))]


def test_a_level_that_could_rise_says_who_holds_it() -> None:
    """A node that knows no higher one; or one that is not there."""
    low = {"format_levels": {"current": 1, "min": 1, "max": 2}}
    held = {"format_levels": {"current": 1, "min": 1, "max": 1}}
    (found,) = wrong(look(n1=low, n2=held, n3=low))
    assert (found.check, found.severity, found.nodes) == ("format level", "warning", ("n2",))
    away = {each.check: each for each in wrong(look(without=("n3",), n1=low, n2=low))}
    assert away["format level"].nodes == ("n3",)
    assert "could be of level 2" in away["format level"].seen


@pytest.mark.parametrize("rate", [0.9, 0.97, 0.995, 1.0, 1.0004, 1.006, 1.02, 1.5])
def test_a_clock_that_runs_apart_is_found_however_long_answers_take(rate: float) -> None:
    """The true rate lies between the bounds; what is said to be wrong surely is."""
    first, second = look(0.0, n2={"rate": rate}), look(3.0, n2={"rate": rate})
    pairs = {name: (first.by_node[name], second.by_node[name]) for name in NAMES}
    slow, fast = clock_rate(pairs["n2"], pairs["n1"])
    assert slow <= rate <= fast
    assert fast - slow < 0.003
    found = [each for each in wrong(first, second) if each.check == "clocks"]
    if abs(rate - 1) > CLOCK_PART_BAD * 1.2:
        assert [each.severity for each in found] == ["bad", "bad"]
        assert all("n2" in each.nodes for each in found)
    elif abs(rate - 1) < 0.001:
        assert found == []


def test_clocks_that_cannot_be_compared_are_not_called_good() -> None:
    """Answers that took as long as the time between: that nothing was found says nothing. Nor does a clock that was restarted."""
    slow_way = [
        Round(
            tuple(
                report_of(copy.deepcopy(dict(each.raw)), at, at + 1.0) for each in look(at).reports
            )
        )
        for at in (0.0, 2.0)
    ]
    (found,) = wrong(*slow_way)
    assert (found.check, found.severity) == ("clocks", "warning")
    assert "says little" in found.seen
    restarted = diagnose(look(0.0), look(3.0, n2={"boot": 2}), now_ms=NOW_MS)
    clocks = next(each for each in restarted if each.check == "clocks")
    assert "n2" not in clocks.nodes


@pytest.mark.parametrize(
    ("days", "severity", "words"),
    [
        (-1, "bad", "has ended"),
        (3, "bad", "ends in 3.0 days"),
        (20, "warning", "ends in 20.0 days"),
    ],
)
def test_a_certificate_near_its_end_is_found(days: int, severity: str, words: str) -> None:
    ending = {"use": "raft_tls.ca", "file": "ca.pem", "not_after_ms": NOW_MS + days * DAY_MS, "error": None}  # fmt: skip
    (found,) = wrong(look(n3={"certificates": [ending]}))
    assert (found.check, found.severity, found.nodes) == ("certificates", severity, ("n3",))
    assert f"raft_tls.ca (ca.pem) {words}" in found.seen


def test_a_certificate_that_cannot_be_read_is_found() -> None:
    lost = {"use": "raft_tls.ca", "file": "ca.pem", "not_after_ms": None, "error": "No such file"}
    (found,) = wrong(look(n3={"certificates": [lost]}))
    assert (found.severity, found.seen) == ("bad", "raft_tls.ca (ca.pem): No such file")


def test_what_changes_while_we_look_is_found() -> None:
    """Not what changed because a node was restarted."""
    later = look(3.0, n2={"leader_changes": 2}, n3={"stalls": 1})
    assert [(each.check, each.nodes) for each in wrong(look(0.0), later)] == [
        ("leader changes", ("n2",)),
        ("stalls", ("n3",)),
    ]
    assert wrong(look(0.0), look(3.0, n2={"leader_changes": 9, "boot": 2})) == []


# -- the commands --------------------------------------------------------------------------------------------------------


class FakeClient:
    """Answers each look in turn, and the last one for ever."""

    def __init__(self, rounds: list[Round]) -> None:
        self.rounds = rounds

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def reports(self) -> dict[str, NodeReport | holdfast.HoldfastError]:
        now = self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]
        return {
            **{f"http://{each.node}": each for each in now.reports},
            **now.silent,
        }


def invoke(monkeypatch: pytest.MonkeyPatch, rounds: list[Round], *words: str) -> Any:
    client = FakeClient(rounds)
    for module in (doctor, live):
        monkeypatch.setattr(module, "connect_cluster", lambda endpoints: client)
    return CliRunner().invoke(command, [*words, "--seconds", "0.1"])


NOBODY = Round((), {"http://n1": holdfast.Unreachable("connection refused")})


def test_doctor_tells_what_to_do_and_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    full = {"n2": {"storage__free_bytes": 1 << 20}}
    result = invoke(monkeypatch, [look(0.0, **full), look(3.0, **full)], "doctor")
    assert result.exit_code == 1
    first, advice, *others = result.output.splitlines()
    assert first.startswith("BAD     disk space: n2: 0.00 GiB")
    assert "-> make room" in advice
    assert "ok      leader: n1 leads" in others


def test_doctor_of_a_cluster_that_is_well_ends_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificates of these reports are of a time when they were good."""
    good = {name: {"certificates": []} for name in NAMES}
    result = invoke(monkeypatch, [look(0.0, **good), look(3.0, **good)], "doctor", "--json")
    assert result.exit_code == 0
    findings = json.loads(result.output)["findings"]
    assert {each["severity"] for each in findings} == {"ok"}


def test_doctor_of_nobody_ends_with_69(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, [NOBODY], "doctor", "--json")
    assert result.exit_code == 69
    assert "connection refused" in result.output


def test_doctor_measures_a_disk_of_this_machine(tmp_path: Path) -> None:
    found = doctor.measure_disk(tmp_path)
    assert found.check == "disk here"
    assert "a sync takes" in found.seen
    assert list(tmp_path.iterdir()) == []
    assert doctor.measure_disk(tmp_path / "missing").severity == "bad"


def test_watch_prints_a_line_for_each_look_where_no_terminal_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With rates from the second one on, over the time that the nodes say has passed."""
    more = {name: {"locks__grants_total": 400} for name in NAMES}
    rounds = [look(0.0), look(3.0, without=("n3",), **more)]
    result = invoke(monkeypatch, rounds, "status", "--watch", "--rounds", "2")
    assert result.exit_code == 0
    first, second = result.output.splitlines()
    assert first.startswith(
        "leader n1, term 3; 5 sessions, 4 holds, 3 waiters; n1 leader lag 0 ms; n2"
    )
    assert "100.0 grants/s, 0.0 expired/s" in second
    assert "http://n3 unreachable" in second


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_watch_goes_on_while_no_node_answers_and_ends_with_69(
    monkeypatch: pytest.MonkeyPatch, json_option: list[str]
) -> None:
    words = ["status", "--watch", "--rounds", "3", *json_option]
    result = invoke(monkeypatch, [look(0.0), NOBODY, NOBODY], *words)
    assert result.exit_code == 69
    lines = result.output.splitlines()
    assert len(lines) == 3
    if json_option:
        assert json.loads(lines[0])["leader"] == "n1"
        assert json.loads(lines[2])["leader"] is None
    else:
        assert lines[2] == "no node answers; http://n1 unreachable"


def test_watch_draws_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row for each node; what cannot be known is a dash."""
    console = Console(force_terminal=True, width=200, record=True, color_system=None)
    monkeypatch.setattr(live, "console", lambda: console)
    result = invoke(monkeypatch, [look(0.0, without=("n3",))], "status", "--watch", "--rounds", "1")
    assert result.exit_code == 0
    shown = console.export_text()
    assert "leader n1, term 3" in shown
    rows = {row.split()[-1]: row.split()[:2] for row in shown.splitlines() if "http://" in row}
    assert rows["http://n1"] == ["n1", "leader"]
    assert rows["http://n2"] == ["n2", "follower"]
    assert rows["http://n3"] == ["-", "unreachable"]


def test_a_store_has_no_nodes_to_look_at() -> None:
    for words in (["doctor"], ["status", "--watch"]):
        result = CliRunner().invoke(command, [*words, "--endpoints", "sqlite:///locks.db"])
        assert result.exit_code == 2, result.output
    assert isinstance(command, click.Group)


@pytest.mark.parametrize(
    ("error", "advice", "word"),
    [
        (holdfast.Unreachable("refused"), "start it", "unreachable"),
        (holdfast.NotAllowed("forbidden: no", code="forbidden", status=403), "credential", "forbidden"),
        (holdfast.Refused("not_found: no such path", code="not_found"), "upgrade it", "not_found"),
    ],
)  # fmt: skip
def test_a_node_that_gives_no_report_is_not_always_one_that_is_gone(
    error: holdfast.HoldfastError, advice: str, word: str
) -> None:
    """What is advised, and what is shown, says which it is."""
    now = Round(look(without=("n3",)).reports, {"http://n3": error})
    (found,) = wrong(now)
    assert (found.check, found.nodes) == ("answers", ("http://n3",))
    assert advice in found.advice
    shown: live.Answers = {**{f"http://{r.node}": r for r in now.reports}, "http://n3": error}
    assert live.line({}, shown).endswith(f"http://n3 {word}")

"""The commands about the whole lock service, against a pretended client: what they ask, what they print, how they exit."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import holdfast
from holdfast.cli import explaining, histories, locking, operating, reading, watching
from holdfast.cli.app import command
from holdfast.closed import closed_page_of
from holdfast.explanation import explanation_of
from holdfast.records import history_page_of, record_of
from holdfast.views import lock_of
from holdfast_coordinator.http.export import export
from holdfast_coordinator.machine.limits import TRAIL_BLOCK_RECORDS
from holdfast_coordinator.machine.trail import Trail
from holdfast_ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CLOSED = {
    "key": "k",
    "by": "in_doubt",
    "token": 7,
    "ended": "expired",
    "remaining_ms": None,
    "result": None,
}
LOCK = {
    "key": "k",
    "holders": [
        {
            "token": 9,
            "session_ref": "aa",
            "owner": "anna",
            "context": "task 1",
            "mode": "shared",
            "limit": 2,
            "held_ms": 500,
            "remaining_ms": 1500,
        }
    ],
    "waiters": [
        {
            "session_ref": "bb",
            "owner": "bert",
            "context": "task 4",
            "keys": ["k", "j"],
            "mode": "exclusive",
            "limit": None,
            "waited_ms": 250,
            "remaining_wait_ms": 3000,
        }
    ],
    "queue_length": 2,
    "closed": None,
    "checkpoint": {"token": 5, "value": "psp_called"},
    "previous": {"token": 5, "ended": "forced", "floor": 6},
}
RECORD = {
    "revision": 3,
    "kind": "ended",
    "cluster_ms": 10,
    "wall_ms": 1_700_000_000_000,
    "token": 7,
    "keys": ["k"],
    "owner": "anna",
    "held_ms": 1500,
    "ended": "forced",
    "operator": "olga",
    "reason": "hung",
}


def trail_file(blocks: int = 2, rest: int = 3) -> bytes:
    trail = Trail(10, 10_000_000)
    for number in range(blocks * TRAIL_BLOCK_RECORDS + rest):
        common = (number, 1_700_000_000_000 + number, number + 1, ("k",), "owner")
        trail.append(("granted", *common, None, "exclusive", None, 5), 1)
    return b"".join(export(trail, "c", 0))


class FakeClient:
    """Answers as it was told, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.lock_body: dict[str, Any] = LOCK
        self.records = [RECORD]
        self.events: list[Any] = []
        self.exported = trail_file()
        self.refusal: holdfast.HoldfastError | None = None
        self.resolved = True

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read_lock(self, key: str) -> holdfast.LockInfo:
        return lock_of(self.lock_body)

    async def explain(self, key: str) -> holdfast.Explanation:
        blocker = {"key": "k", "token": 9, "session_ref": "aa", "owner": "anna", "context": None}
        waiter = LOCK["waiters"][0] | {"waits_for": [blocker]}  # type: ignore[index,operator]
        figures = {
            "count": 4,
            "waited_ms": {"p50": 20, "max": 900},
            "held_ms": None,
            "since_revision": 1,
        }
        return explanation_of(LOCK | {"waiters": [waiter], "grants": figures})

    async def closures(self, prefix: str, **more: Any) -> holdfast.ClosedPage:
        self.asked |= {"prefix": prefix, **more}
        return closed_page_of({"closed": [CLOSED], "next": "k"})

    async def history(self, key: str, **more: Any) -> AsyncIterator[holdfast.Record]:
        self.asked |= {"key": key, **more}
        for each in self.records:
            yield record_of(each)

    async def history_page(self, key: str, *, limit: int) -> holdfast.HistoryPage:
        return history_page_of(
            {"key": key, "records": [], "next": None, "first_revision": 12, "last_revision": 12}
        )

    async def export_history(self, *, after: int) -> AsyncIterator[bytes]:
        self.asked |= {"after": after}
        for start in range(0, len(self.exported), 1000):
            yield self.exported[start : start + 1000]
        if self.refusal is not None:
            raise self.refusal

    async def force_release(self, key: str, **more: Any) -> holdfast.Forced:
        self.asked |= {"key": key, **more}
        if self.refusal is not None:
            raise self.refusal
        return holdfast.Forced((9,), 10)

    async def resolve(self, key: str, **more: Any) -> bool:
        self.asked |= {"key": key, **more}
        return self.resolved

    def watch(self, prefix: str, **more: Any) -> FakeWatch:
        self.asked |= {"prefix": prefix, **more}
        return FakeWatch(self.events)


class FakeWatch:
    """Some events, and then Ctrl-C, or an error."""

    revision = 2

    def __init__(self, events: list[Any]) -> None:
        self._events = iter(events)

    async def __aenter__(self) -> FakeWatch:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def __aiter__(self) -> FakeWatch:
        return self

    async def __anext__(self) -> Any:
        event = next(self._events, None)
        if event is None:
            raise KeyboardInterrupt
        if isinstance(event, Exception):
            raise event
        return event


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    for module in (explaining, histories, operating, reading, watching):
        monkeypatch.setattr(module, "connect", lambda _: fake)
    return fake


def run(*words: str) -> Any:
    return CliRunner().invoke(command, list(words))


def test_show_tells_modes_tasks_checkpoint_and_the_hold_before(client: FakeClient) -> None:
    """And of a closed key why nobody gets it."""
    shown = run("show", "k").stdout
    assert "held as one of 2 with token 9 by anna (session aa, task 1)" in shown
    assert "waits: bert (session bb, task 4), for another 3.0 s, together with j" in shown
    assert "and 1 more" in shown
    assert "checkpoint of token 5: psp_called" in shown
    assert "before: token 5, forced, floor 6" in shown
    client.lock_body = LOCK | {"holders": [], "closed": CLOSED}
    assert "in doubt: its last hold (token 7) expired" in run("show", "k").stdout


def test_explain_says_who_waits_for_whom_and_how_long_it_takes(client: FakeClient) -> None:
    """In words, or as the cluster said it."""
    told = run("explain", "k").stdout
    assert "1. has waited 0.2 s, for:\n       k, token 9 of anna (session aa)" in told
    assert "4 grants since revision 1; waited 0.020 s (median), 0.900 s at most" in told
    assert json.loads(run("explain", "k", "--json").stdout)["grants"]["count"] == 4


def test_closed_lists_what_nobody_gets(client: FakeClient) -> None:
    """By reason if wanted; and says how to go on."""
    result = run("closed", "pay/", "--by", "in_doubt")
    assert "until resolved" in result.stdout
    assert "--after 'k'" in result.stderr
    assert client.asked == {"prefix": "pay/", "by": "in_doubt", "limit": 100, "after": None}
    assert json.loads(run("closed", "--json").stdout)["closed"] == [CLOSED]


def test_history_of_a_key_between_two_times(client: FakeClient) -> None:
    """A time without a zone is UTC on every machine; Unix seconds do as well."""
    result = run("history", "k", "--since", "2026-11-24T09:30", "--until", "1700000000.5")
    assert result.exit_code == 0
    assert "2023-11-14T22:13:20.000+00:00  ended  token 7  k  by anna  forced" in result.stdout
    assert "operator olga: hung" in result.stdout
    assert client.asked["since"] == datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
    assert client.asked["until"] == datetime.fromtimestamp(1_700_000_000.5, UTC)
    assert json.loads(run("history", "k", "--json").stdout) == RECORD
    assert run("history", "k", "--since", "yesterday").exit_code == 2


def test_a_key_that_is_named_like_a_command_has_a_history_too(client: FakeClient) -> None:
    """`history of` says that the next word is a key; nothing known is said to be bounded by what is kept."""
    client.records = []
    result = run("history", "of", "verify")
    assert (result.exit_code, client.asked["key"]) == (0, "verify")
    assert "since revision 12" in result.stderr


def test_an_export_appears_when_it_is_whole_and_checked(client: FakeClient, tmp_path: Path) -> None:
    """One that broke off, or does not check, leaves no file that looks like one; what was there stays."""
    file = tmp_path / "trail.jsonl"
    assert run("history", "export", str(file), "--after", "0").exit_code == 0
    whole = file.read_bytes()
    assert whole == client.exported
    client.refusal = holdfast.Unreachable("it broke off")
    assert run("history", "export", str(file)).exit_code == 69
    client.refusal, client.exported = None, client.exported.replace(b"owner", b"0wner")
    assert run("history", "export", str(file)).exit_code == 1
    assert file.read_bytes() == whole
    assert [each.name for each in tmp_path.iterdir()] == ["trail.jsonl"]


def test_verify_needs_no_cluster_and_names_the_first_bad_block(tmp_path: Path) -> None:
    """Exit code 0 for a whole file, 1 for a forged one."""
    file = tmp_path / "trail.jsonl"
    file.write_bytes(trail_file())
    result = run("history", "verify", str(file))
    assert (result.exit_code, "is whole" in result.stdout) == (0, True)
    assert "last 3 records are in no block yet" in result.stderr
    assert json.loads(run("history", "verify", str(file), "--json").stdout)["blocks"] == 2
    lines = file.read_bytes().splitlines(keepends=True)
    number = 2 + TRAIL_BLOCK_RECORDS + 1
    lines[number] = lines[number].replace(b'"owner"', b'"0wner"').replace(b"0wner", b"owner", 1)
    lines[number] = lines[number].replace(b'"owner":"owner"', b'"owner":"other"')
    file.write_bytes(b"".join(lines))
    bad = run("history", "verify", str(file))
    assert bad.exit_code == 1
    assert f"block {TRAIL_BLOCK_RECORDS + 1}" in bad.stderr
    told = json.loads(run("history", "verify", str(file), "--json").stdout)
    assert (told["ok"], told["block"]) == (False, TRAIL_BLOCK_RECORDS + 1)


def test_force_carries_the_floor_to_a_ledger(client: FakeClient, tmp_path: Path) -> None:
    """After which the holder that was forced out is refused there."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Ledger(url) as ledger:
        ledger.raise_floor("k", 9)
    words = ("force", "k", "--reason", "hung", "--operator", "olga", "--token", "9")
    result = run(*words, "--ledger", url, "--json")
    assert json.loads(result.stdout) == {"released": [9], "floor": 10, "ledger_told": True}
    assert client.asked == {"key": "k", "reason": "hung", "operator": "olga", "token": 9}
    with Ledger(url) as ledger, pytest.raises(holdfast.fencing.Stale):
        ledger.raise_floor("k", 9)
    with Ledger(url) as ledger:
        ledger.raise_floor("k", 11)
    assert "newer holder already" in run(*words, "--ledger", url).stdout
    # A ledger that cannot be told: the hold has ended, the floor can be had again, and the exit code says that it is not over.
    failed = run(*words, "--ledger", "sqlite:////no/such/folder/ledger.db")
    assert failed.exit_code == 1
    assert "--token 9" in failed.stderr


def test_an_operator_has_a_name_and_a_reason(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them nothing is asked; the name may come from the environment."""
    monkeypatch.delenv("HOLDFAST_OPERATOR", raising=False)
    assert run("force", "k", "--reason", "hung").exit_code == 2
    assert run("resolve", "k", "--token", "7", "--operator", "olga").exit_code == 2
    assert client.asked == {}
    monkeypatch.setenv("HOLDFAST_OPERATOR", "olga")
    client.refusal = holdfast.Refused("not_held: nobody holds it", code="not_held")
    assert run("force", "k", "--reason", "hung").exit_code == 1


def test_resolve_opens_what_that_hold_closed(client: FakeClient) -> None:
    """Exit code 1 if nothing was closed under that token."""
    words = ("resolve", "k", "--token", "7", "--reason", "looked", "--operator", "olga")
    assert run(*words).exit_code == 0
    assert client.asked == {"key": "k", "token": 7, "reason": "looked", "operator": "olga"}
    client.resolved = False
    failed = run(*words, "--json")
    assert (failed.exit_code, json.loads(failed.stdout)) == (1, {"resolved": False})


def test_watch_prints_a_line_for_each_event_until_it_is_ended(client: FakeClient) -> None:
    """Ctrl-C is the usual end; a gap is an error, or a line if that was asked for."""
    client.events = [record_of(RECORD), holdfast.Restarted(9)]
    result = run("watch", "k", "--after", "2", "--restart")
    assert result.exit_code == 130
    assert "ended  token 7" in result.stdout
    assert "going on from revision 9" in result.stderr
    assert client.asked == {"prefix": "k", "after": 2, "restart": True}
    lines = run("watch", "--json").stdout.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["ended", "restarted"]
    client.events = [holdfast.NoLongerKept("dropped")]
    assert run("watch").exit_code == 1


@pytest.mark.parametrize(
    ("words", "terms"),
    [
        (("--shared",), {"mode": "shared"}),
        (("--holders", "3"), {"mode": "shared", "limit": 3}),
        (("--delay", "30"), {"on_unclean": "delay", "delay": 30.0}),
        (("--on-unclean", "refuse"), {"on_unclean": "refuse"}),
        (("--require-clean",), {"require_clean": True}),
    ],
)
def test_lock_takes_the_terms(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], terms: dict[str, Any]
) -> None:
    """Each option becomes what the client calls it, and nothing else."""
    seen: list[Any] = []

    async def lock(request: locking._Request) -> int:
        seen.append(request)
        return 0

    monkeypatch.setattr(locking, "_lock", lock)
    assert run("lock", *words, "k", "--", "true").exit_code == 0
    assert seen[0].terms == terms


@pytest.mark.parametrize(
    "words", [("--on-unclean", "delay"), ("--on-unclean", "refuse", "--delay", "3")]
)
def test_terms_that_contradict_each_other_start_nothing(words: tuple[str, ...]) -> None:
    assert run("lock", *words, "k", "--", "true").exit_code == 2


def test_elect_campaigns_until_it_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a lock that is waited for as long as it takes."""
    seen: list[Any] = []

    async def lock(request: locking._Request) -> int:
        seen.append(request)
        return 75

    monkeypatch.setattr(locking, "_lock", lock)
    assert run("elect", "boss", "--", "run", "it").exit_code == 75
    assert (seen[0].key, seen[0].command, seen[0].wait) == ("boss", ("run", "it"), None)


def test_what_a_refused_lock_says() -> None:
    """The result of work that is done; what to do about a key in doubt."""
    closed = holdfast.Closure("k", "done", 7, "completed", 60.0, "psp-77")
    done = holdfast.AlreadyDone("'k' is done already", keys=("k",), closed=closed)
    assert locking._conflict("k", done) == "'k' is done already: psp-77"
    doubt = holdfast.InDoubt("'k' is in doubt", keys=("k",), closed=closed)
    assert "holdfast resolve 'k' --token 7" in locking._conflict("k", doubt)

"""Lock stories in text, in tests/transcripts: what is asked, then after `----` what the machine answers.

    entry [+MS] [term=T]        one log entry; the indented lines below it are its operations
      n1 acquire anna k wait=5000 as=1
    time MS [every=MS]          entries that carry nothing but time
    burst COUNT +A +B ...       so many entries with nothing but these elapsed times, in turn
    show KEY                    who holds it, who waits, what closes it, what was noted
    trail [after=REVISION]      what happened
    quota prefix=P|owner=O ...  before anything else: what this tenant may use (sessions=, holds=, waiters=)

An operation begins with its node: `n1` is the next sequence of the node's present boot, `n1/2` begins or goes on in boot 2,
`n1/1#7` is exactly that. Answers name their origin the same way. In every story each entry also passes through the codec, the
invariants hold after each, and a second machine, restored from a snapshot before every block, gives the same answers.

To write the answers of a new story: HOLDFAST_WRITE_TRANSCRIPTS=1 pytest tests/machine/test_transcripts.py, then READ them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from holdfast_coordinator.machine import (
    Acquire,
    Barrier,
    Cancel,
    Checkpoint,
    ClosedView,
    CloseSession,
    Complete,
    Entry,
    ForceRelease,
    Limits,
    Machine,
    Malformed,
    Note,
    OpenSession,
    Operation,
    Origin,
    Outcome,
    Previous,
    Quota,
    Record,
    Refused,
    Release,
    RenewSession,
    Resolve,
    Terms,
    Withdraw,
    check_invariants,
    decode_entry,
    encode_entry,
)

STORIES = sorted((Path(__file__).parent.parent / "transcripts").glob("*.txt"))


def request_id(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def read_origin(text: str) -> Origin:
    node, _, place = text.partition("/")
    boot, _, sequence = place.partition("#")
    return Origin(node, int(boot), int(sequence))


def write_origin(origin: Origin) -> str:
    return f"{origin.node}/{origin.boot}#{origin.sequence}"


def read_operation(words: list[str]) -> Operation:
    verb, *rest = words
    plain = [word for word in rest if "=" not in word]
    named = dict(word.split("=", 1) for word in rest if "=" in word)
    match verb:
        case "open":
            return OpenSession(plain[0], int(named["ttl"]), named.get("owner"))
        case "renew":
            return RenewSession(plain[0])
        case "close":
            return CloseSession(plain[0])
        case "acquire":
            return Acquire(
                tuple(plain[1].split(",")),
                plain[0],
                ttl_ms=int(named["ttl"]) if "ttl" in named else None,
                wait_ms=int(named.get("wait", "0")),
                request_id=request_id(named["as"]) if "as" in named else None,
                settled=int(named["settled"]) if "settled" in named else None,
                owner=named.get("owner"),
                context=named.get("task"),
                terms=read_terms(named, "clean" in plain),
            )
        case "complete":
            retain_ms = int(named["retain"])
            return Complete(plain[0], int(named["token"]), named["result"], retain_ms)
        case "checkpoint":
            number = int(named["number"]) if "number" in named else None
            return Checkpoint(plain[0], int(named["token"]), named["value"], number)
        case "force":
            token = int(named["token"]) if "token" in named else None
            return ForceRelease(plain[0], token, named["why"], named["by"])
        case "resolve":
            return Resolve(plain[0], int(named["token"]), named["why"], named["by"])
        case "release":
            return Release(plain[0], int(named["token"]))
        case "cancel":
            return Cancel(plain[0], request_id(named["as"]))
        case "withdraw":
            return Withdraw(*read_origin(plain[0]))
        case "barrier":
            return Barrier()
        case "malformed":
            return Malformed(" ".join(rest))
    raise ValueError(f"no such operation: {words}")


def read_terms(named: dict[str, str], require_clean: bool) -> Terms:
    """`shared`, `limit=N`, `unclean=grant|refuse|delay:MS`."""
    policy, _, delay_ms = named.get("unclean", "grant").partition(":")
    return Terms(
        mode=cast("Any", named.get("mode", "exclusive")),
        limit=int(named["limit"]) if "limit" in named else None,
        on_unclean=cast("Any", policy),
        delay_ms=int(delay_ms or "0"),
        require_clean=require_clean,
    )


def write_value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Previous):
        floor = "" if value.floor is None else f":floor={value.floor}"
        return f"{value.token}:{value.ended}{floor}{':resolved' * value.resolved}"
    if isinstance(value, Note):
        return f"{value.token}:{value.value}"
    if isinstance(value, ClosedView):
        result = "" if value.result is None else f":{value.result}"
        return f"{value.key}:{value.by}:{value.token}:{write_value(value.remaining_ms)}{result}"
    if isinstance(value, tuple):
        return ",".join(map(write_value, value)) or "-"
    return str(value)


def write_outcome(outcome: Outcome) -> str:
    if isinstance(outcome, Refused):
        words = [f"refused {outcome.code}"]
        words += [f"ended={outcome.ended}"] if outcome.ended else []
        words += [f"field={outcome.field}"] if outcome.field else []
        words += [f"limit={outcome.limit}"] if outcome.limit else []
        words += [f"holders={','.join(str(h.token) for h in outcome.holders)}"] * bool(
            outcome.holders
        )
        words += [f"closed={write_value(outcome.closed)}"] * (outcome.closed is not None)
        words += [
            f"{step.session}/{step.context}--{step.key}:{write_value(step.token)}"
            for step in outcome.cycle
        ]
        return " ".join(words)
    hidden = {"mode", "previous_horizon"}
    if getattr(outcome, "mode", "exclusive") == "exclusive":
        hidden.add("fence")
    hidden |= {
        name for name in ("checkpoints", "limit", "forced") if not getattr(outcome, name, None)
    }
    fields = [name for name in outcome.__struct_fields__ if name not in hidden]
    values = [f"{name}={write_value(getattr(outcome, name))}" for name in fields]
    return " ".join([type(outcome).__name__.lower(), *values])


def write_record(record: Record) -> str:
    words = [f"{record.revision} at {record.cluster_ms}: {record.kind} {record.token}"]
    words.append(",".join(record.keys))
    for name in ("owner", "mode", "limit", "waited_ms", "held_ms", "ended", "operator", "reason"):
        value = getattr(record, name)
        if value is not None:
            words.append(f"{name}={value}")
    return " ".join(words)


class Player:
    def __init__(self) -> None:
        self.limits = Limits()
        self.machine = Machine()
        self.shadow = Machine()
        self.term = 1
        self.last: dict[str, tuple[int, int]] = {}

    def origin(self, text: str) -> Origin:
        if "#" in text:
            return read_origin(text)
        node, _, boot_text = text.partition("/")
        boot, sequence = self.last.get(node, (1, 0))
        if boot_text and int(boot_text) != boot:
            boot, sequence = int(boot_text), 0
        self.last[node] = (boot, sequence + 1)
        return Origin(node, boot, sequence + 1)

    def apply(self, elapsed_ms: int, operations: list[tuple[Origin, Operation]]) -> list[str]:
        entry = Entry(self.term, elapsed_ms, tuple(operations))
        assert decode_entry(encode_entry(entry)) == entry
        outcomes = self.machine.apply(entry)
        assert self.shadow.apply(entry) == outcomes
        check_invariants(self.machine)
        return [f"{write_origin(origin)} {write_outcome(outcome)}" for origin, outcome in outcomes]

    def play(self, lines: list[str]) -> list[str]:
        self.shadow = Machine.restore(self.machine.snapshot(), self.limits)
        answers: list[str] = []
        commands = [line for line in lines if not line.startswith("#")]
        while commands:
            words = commands.pop(0).split()
            below: list[list[str]] = []
            while commands and commands[0].startswith(" "):
                below.append(commands.pop(0).split())
            answers += self.command(words, below)
        assert self.shadow.state_hash() == self.machine.state_hash()
        return answers

    def command(self, words: list[str], below: list[list[str]]) -> list[str]:
        verb, *rest = words
        for word in rest:
            if word.startswith("term="):
                self.term = int(word.removeprefix("term="))
        elapsed = [int(word) for word in rest if word.startswith("+")]
        match verb:
            case "entry":
                operations = [(self.origin(line[0]), read_operation(line[1:])) for line in below]
                return self.apply(elapsed[0] if elapsed else 0, operations)
            case "time":
                every = next((int(w[6:]) for w in rest if w.startswith("every=")), 250)
                whole, part = divmod(int(rest[0]), every)
                return self.burst([every] * whole + [part] * bool(part))
            case "burst":
                return self.burst([elapsed[n % len(elapsed)] for n in range(int(rest[0]))])
            case "quota":
                self.set_quota(dict(word.split("=", 1) for word in rest))
                return []
            case "show":
                return [self.show(rest[0])]
            case "trail":
                after = int(rest[0].removeprefix("after=")) if rest else 0
                return [write_record(each) for each in self.machine.trail.read(after, 1_000)]
        raise ValueError(f"no such command: {words}")

    def set_quota(self, words: dict[str, str]) -> None:
        counts = {
            name: int(words[name]) for name in ("sessions", "holds", "waiters") if name in words
        }
        quota = Quota(words.get("prefix"), words.get("owner"), **counts)
        assert self.machine.cluster_time_ms == self.machine.last_token == 0, "quotas come first"
        self.limits = replace(self.limits, quotas=(*self.limits.quotas, quota))
        self.machine, self.shadow = Machine(self.limits), Machine(self.limits)

    def burst(self, elapsed: list[int]) -> list[str]:
        answers = []
        for elapsed_ms in elapsed:
            told = self.apply(elapsed_ms, [])
            answers += [f"at {self.machine.cluster_time_ms}: {answer}" for answer in told]
        return [*answers, f"time is {self.machine.cluster_time_ms}"]

    def show(self, key: str) -> str:
        view = self.machine.lock(key)
        held = [f"{h.token} by {h.session} for {h.remaining_ms}" for h in view.holders]
        waits = [f"{w.session} for {w.remaining_wait_ms}" for w in view.waiters]
        told = f"{key}: held {'; '.join(held) or '-'}, waits {'; '.join(waits) or '-'}"
        for name in ("closed", "checkpoint"):
            value = getattr(view, name)
            told += f", {name} {write_value(value)}" * (value is not None)
        return told


def perform(text: str) -> str:
    """The story with the answers that the machine gives now."""
    player = Player()
    told: list[str] = []
    block: list[str] = []
    skipping = False
    for line in [*text.splitlines(), ""]:
        if line == "----":
            told += [*block, "----", *player.play(block)]
            block, skipping = [], True
        elif line == "":
            assert skipping or all(each.startswith("#") for each in block), "a block lacks its ----"
            told += [*block, ""]
            block, skipping = [], False
        elif not skipping:
            block.append(line)
    return "\n".join(told).rstrip("\n") + "\n"


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.stem)
def test_the_story_is_told_as_written(story: Path) -> None:
    """The machine gives exactly the answers that the transcript says."""
    written = story.read_text()
    performed = perform(written)
    if os.environ.get("HOLDFAST_WRITE_TRANSCRIPTS"):
        story.write_text(performed)
    else:
        assert performed == written


def test_there_are_stories() -> None:
    """An empty folder would pass silently."""
    assert len(STORIES) >= 12

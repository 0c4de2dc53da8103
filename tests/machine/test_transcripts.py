"""Lock stories in text, in tests/transcripts: what is asked, then after `----` what the machine answers.

    entry [+MS] [term=T]        one log entry; the indented lines below it are its operations
      n1 acquire anna k wait=5000 as=1
    time MS [every=MS]          entries that carry nothing but time
    burst COUNT +A +B ...       so many entries with nothing but these elapsed times, in turn
    show KEY                    who holds it, who waits

An operation begins with its node: `n1` is the next sequence of the node's present boot, `n1/2` begins or goes on in boot 2,
`n1/1#7` is exactly that. Answers name their origin the same way. In every story each entry also passes through the codec, the
invariants hold after each, and a second machine, restored from a snapshot before every block, gives the same answers.

To write the answers of a new story: HOLDFAST_WRITE_TRANSCRIPTS=1 pytest tests/machine/test_transcripts.py, then READ them.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from holdfast_coordinator.machine import (
    Acquire,
    Barrier,
    Cancel,
    CloseSession,
    Entry,
    Machine,
    Malformed,
    OpenSession,
    Operation,
    Origin,
    Outcome,
    Previous,
    Refused,
    Release,
    RenewSession,
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
            )
        case "release":
            return Release(plain[0], int(named["token"]))
        case "cancel":
            return Cancel(plain[0], request_id(named["as"]))
        case "withdraw":
            return Withdraw(read_origin(plain[0]))
        case "barrier":
            return Barrier()
        case "malformed":
            return Malformed(" ".join(rest))
    raise ValueError(f"no such operation: {words}")


def write_value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Previous):
        return f"{value.token}:{value.ended}"
    if isinstance(value, tuple):
        return ",".join(map(write_value, value)) or "-"
    return str(value)


def write_outcome(outcome: Outcome) -> str:
    if isinstance(outcome, Refused):
        words = [f"refused {outcome.code}"]
        words += [f"ended={outcome.ended}"] if outcome.ended else []
        words += [f"field={outcome.field}"] if outcome.field else []
        words += [f"holders={','.join(str(h.token) for h in outcome.holders)}"] * bool(
            outcome.holders
        )
        return " ".join(words)
    hidden = {"mode", "fence", "previous_horizon"}
    fields = [field.name for field in dataclasses.fields(outcome) if field.name not in hidden]
    values = [f"{name}={write_value(getattr(outcome, name))}" for name in fields]
    return " ".join([type(outcome).__name__.lower(), *values])


class Player:
    def __init__(self) -> None:
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
        self.shadow = Machine.restore(self.machine.snapshot())
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
            case "show":
                return [self.show(rest[0])]
        raise ValueError(f"no such command: {words}")

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
        return f"{key}: held {'; '.join(held) or '-'}, waits {'; '.join(waits) or '-'}"


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

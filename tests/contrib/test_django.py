"""A management command that runs once at a time, called by the real Django."""

from __future__ import annotations

import io
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import ManagementUtility, call_command
from django.core.management.base import CommandError
from django.test import override_settings

import holdfast
from holdfast.cli import exit_codes
from holdfast.contrib.django import LockedCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Locks

KEY = "reports/nightly"


@pytest.fixture(autouse=True)
def configured(locks: Locks) -> Iterator[None]:
    with override_settings(HOLDFAST_ADDRESS=locks.address):
        yield


def command(handle: Callable[..., object], **attributes: Any) -> LockedCommand:
    """A command as a user writes it."""
    made = {"requires_system_checks": [], "lock": KEY, "handle": handle, **attributes}
    return type("Command", (LockedCommand,), made)()


def never(*_args: object, **_options: object) -> None:
    raise AssertionError("it ran without the lock")


def test_it_runs_with_the_lock_and_gives_it_back(locks: Locks) -> None:
    """While `handle` runs the lock is held, under a fence for whatever it writes; afterwards it is free."""

    def handle(self: LockedCommand, *_args: object, **_options: object) -> str:
        with locks.client() as client:
            (holder,) = client.read_lock(KEY).holders
            assert holder.token == self.grant.token
        return f"fence {self.grant.fence}"

    assert call_command(command(handle), stdout=io.StringIO()) == "fence 1"
    assert call_command(command(handle), stdout=io.StringIO()) == "fence 2"
    with locks.client() as client:
        assert not client.read_lock(KEY).holders


def test_while_it_is_held_the_command_fails(locks: Locks) -> None:
    """With the exit code of `holdfast lock`."""
    with locks.client() as client:
        assert client.acquire_lock(KEY)
        with pytest.raises(CommandError) as caught:
            call_command(command(never))
    assert caught.value.returncode == exit_codes.CONFLICT
    assert isinstance(caught.value.__cause__, holdfast.NotAcquired)


def test_or_skips_if_it_says_so(locks: Locks) -> None:
    """A second run of a nightly report is nothing to wake anybody for."""
    stderr = io.StringIO()
    with locks.client() as client:
        assert client.acquire_lock(KEY)
        assert call_command(command(never, lock_when_held="skip"), stderr=stderr) is None
    assert stderr.getvalue().startswith("skipped: ")


def test_the_key_may_come_from_the_options(locks: Locks) -> None:
    """Two tenants do not wait for each other."""

    def key(_self: LockedCommand, *_args: object, **options: Any) -> str:
        return f"reports/{options['tenant']}"

    def add_arguments(_self: LockedCommand, parser: Any) -> None:
        parser.add_argument("--tenant")

    def handle(self: LockedCommand, *_args: object, **options: Any) -> str:
        assert self.grant.keys == (f"reports/{options['tenant']}",)
        return str(options["tenant"])

    report = command(handle, lock=None, lock_key=key, add_arguments=add_arguments)
    with locks.client() as client:
        assert client.acquire_lock("reports/a")
        assert call_command(report, tenant="b", stdout=io.StringIO()) == "b"
        with pytest.raises(CommandError):
            call_command(report, tenant="a")


def test_a_lock_that_is_lost_interrupts_the_command(locks: Locks) -> None:
    """time 0: it works; time 1: the lease is over; time 2: it is interrupted in the middle, and ends with exit code 75."""
    tidied = []

    def handle(self: LockedCommand, *_args: object, **_options: object) -> None:
        locks.expire_all()
        try:
            threading.Event().wait()  # for ever: only the interrupt ends it
        finally:
            tidied.append(self.grant.is_lost)

    with pytest.raises(CommandError) as caught:
        call_command(command(handle, lock_ttl=1.0))
    assert caught.value.returncode == exit_codes.LOST
    assert tidied == [True]


def test_a_run_that_hangs_is_bounded() -> None:
    """`lock_max_hold` gives the lock to the next one, and interrupts this one."""

    def handle(_self: LockedCommand, *_args: object, **_options: object) -> None:
        threading.Event().wait()

    with pytest.raises(CommandError) as caught:
        call_command(command(handle, lock_max_hold=0.05))
    assert caught.value.returncode == exit_codes.LOST


def test_an_interrupt_of_the_person_stays_one() -> None:
    """Ctrl-C is not taken for a lost lock."""

    def handle(_self: LockedCommand, *_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_command(command(handle))


def test_errors_of_the_command_are_its_own(locks: Locks) -> None:
    """Also those that look like the lock's; and the lock is given back."""
    for error in (
        holdfast.NotAcquired("of another lock"),
        holdfast.Unreachable("another cluster"),
        holdfast.LockLost("another lock", token=7_000),
    ):

        def handle(_self: LockedCommand, *_args: object, **_options: object) -> None:
            raise error  # noqa: B023 - called at once

        with pytest.raises(type(error)) as caught:
            call_command(command(handle))
        assert caught.value is error
    with locks.client() as client:
        assert not client.read_lock(KEY).holders


def test_a_cluster_that_cannot_be_reached_fails_the_command() -> None:
    """With the exit code of `holdfast lock`."""
    with (
        override_settings(HOLDFAST_ADDRESS="http://127.0.0.1:9", HOLDFAST_OPTIONS={"timeout": 0.1}),
        pytest.raises(CommandError) as caught,
    ):
        call_command(command(never))
    assert caught.value.returncode == exit_codes.UNREACHABLE


def test_what_is_not_configured_is_said_with_its_name() -> None:
    """The setting, or the attribute of the command."""
    with (
        override_settings(HOLDFAST_ADDRESS=None),
        pytest.raises(ImproperlyConfigured, match="HOLDFAST_ADDRESS"),
    ):
        call_command(command(never))
    with pytest.raises(ImproperlyConfigured, match="says no `lock`"):
        call_command(command(never, lock=None))


def test_the_command_line_gives_the_exit_code(
    locks: Locks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`manage.py report`, as cron calls it."""
    package = types.ModuleType("reports.management.commands.report")
    package.__dict__["Command"] = type(command(never))
    monkeypatch.setitem(sys.modules, "reports.management.commands.report", package)
    monkeypatch.setattr("django.core.management.get_commands", lambda: {"report": "reports"})
    with locks.client() as client:
        assert client.acquire_lock(KEY)
        with pytest.raises(SystemExit) as ended:
            ManagementUtility(["manage.py", "report"]).execute()
    assert ended.value.code == exit_codes.CONFLICT
    assert "CommandError" in capsys.readouterr().err

"""Celery as it runs in production: a worker that forks, in a process of its own, with the locks in a database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery import Celery

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

RESULT_WITHIN_SECONDS = 60
CUSTOMERS = 2
MESSAGES = 6

PROGRAM = """
import os
import time
from pathlib import Path
from celery import Celery
from holdfast.contrib import celery as contrib
from holdfast.contrib.celery import LockedTask

contrib.RETRY_SECONDS_MAX = 1
HERE = Path(__file__).parent
app = Celery("payments", broker="filesystem://", backend=f"file://{HERE}/results")
app.conf.update(
    broker_transport_options={
        "data_folder_in": f"{HERE}/queue", "data_folder_out": f"{HERE}/queue",
        "control_folder": f"{HERE}/control", "polling_interval": 0.05,
    },
    holdfast_address=f"sqlite:///{HERE}/locks.db",
    holdfast_options={"ttl": 5.0},
    worker_hijack_root_logger=False,
)

@app.task(base=LockedTask, bind=True, lock="customers/{customer}", max_retries=0, acks_late=True)
def collect(self, customer):
    # Whoever is in here alone can make the file, and nobody else can.
    inside = HERE / f"inside-{customer}"
    inside.touch(exist_ok=False)
    fence = self.grant.fence
    # Both customers at once, which takes two processes.
    (HERE / f"came-{customer}").touch()
    for _ in range(3000):
        if len(list(HERE.glob("came-*"))) == 2:
            break
        time.sleep(0.01)
    inside.unlink()
    return [fence, os.getpid()]
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """The app of the program, with a worker of four processes."""
    (tmp_path / "prefork_payments.py").write_text(PROGRAM)
    for folder in ("queue", "control", "results"):
        (tmp_path / folder).mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    log = (tmp_path / "log").open("w")
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "prefork_payments", "worker", "--pool", "prefork",
         "-c", "4", "-l", "INFO", "--without-mingle", "--without-gossip", "--without-heartbeat"],
        cwd=tmp_path, env={**os.environ, "C_FORCE_ROOT": "1"}, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        import prefork_payments

        yield prefork_payments.app
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(30)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        log.close()
        sys.modules.pop("prefork_payments", None)


def test_forked_workers_have_sessions_of_their_own_and_never_meet(app: Celery) -> None:
    """Many messages of few customers in four processes: none overlaps with another of its customer, each runs once, and each has a
    fence of its own. Messages of different customers do not wait for each other."""
    collect = app.tasks["prefork_payments.collect"]
    sent = [collect.delay(str(number % CUSTOMERS)) for number in range(CUSTOMERS * MESSAGES)]
    results = [each.get(RESULT_WITHIN_SECONDS, interval=0.05) for each in sent]
    fences = [fence for fence, _ in results]
    assert len(set(fences)) == len(sent)
    assert len({pid for _, pid in results}) > 1

"""A node whose clock is not that of the machine: `python -m holdfast_jepsen.live.clock RATE BOOT_SECONDS WALL_SECONDS serve ...`.

It replaces the adapter and nothing else: what the process reads as CLOCK_BOOTTIME runs RATE times as fast and stands BOOT_SECONDS
further on (as after a reboot, which begins anew), and its wall clock is WALL_SECONDS wrong. The event loop's own timers stay true:
they are some milliseconds long, and a rate differs from 1 by less than half a percent. Clocks cannot be changed while a node runs.
"""

from __future__ import annotations

import sys
import time

from holdfast.__main__ import main


def disturb(rate: float, boot_seconds: float, wall_seconds: float) -> None:
    """From now on, in this process."""
    now, now_ns, wall_ns = time.clock_gettime, time.clock_gettime_ns, time.time_ns
    begun = now_ns(time.CLOCK_BOOTTIME)

    def clock_gettime_ns(clock: int) -> int:
        true = now_ns(clock)
        if clock != time.CLOCK_BOOTTIME:
            return true
        return begun + int((true - begun) * rate) + int(boot_seconds * 1_000_000_000)

    def clock_gettime(clock: int) -> float:
        return clock_gettime_ns(clock) / 1e9 if clock == time.CLOCK_BOOTTIME else now(clock)

    time.clock_gettime_ns = clock_gettime_ns
    time.clock_gettime = clock_gettime
    time.time_ns = lambda: wall_ns() + int(wall_seconds * 1_000_000_000)


if __name__ == "__main__":
    disturb(*map(float, sys.argv[1:4]))
    print(f"this node's clock runs {sys.argv[1]} times as fast", file=sys.stderr, flush=True)
    sys.argv[1:] = sys.argv[4:]
    main()

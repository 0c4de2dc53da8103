"""One-line ways in, a module for each framework: `celery`, `starlette` (and so FastAPI), `django`; and `prometheus`.

The rule: a framework is imported by its own module here and by nothing else, so that whoever does not use it does not need it. Each
is an extra of its own. `leading` is what `starlette` is made of, for any asyncio program. docs/frameworks.md shows them all.
"""

from __future__ import annotations

import os
import socket


def process_owner() -> str:
    """What others see as the holder: enough to find the process, nothing about the person."""
    return f"{socket.gethostname()}:{os.getpid()}"

"""What every folder of tests may use: the servers that tests bring by themselves (`postgres_url`, `redis_url`)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ("servers.postgres", "servers.redis", "servers.cluster")

"""What earlier versions wrote: tests/fixtures/formats, made by tools/format_fixtures.py and never changed afterwards."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any, Final

FORMATS: Final = Path(__file__).parents[1] / "fixtures" / "formats"
LEVELS: Final = sorted(int(path.name.removeprefix("level-")) for path in FORMATS.glob("level-*"))
SECRET: Final = b"the secret of the kept frames"


def folder(level: int) -> Path:
    return FORMATS / f"level-{level}"


def read_json(level: int, name: str) -> Any:
    return json.loads((folder(level) / name).read_text())


def unpack_directories(level: int, path: Path) -> None:
    """The data directories of n1, n2 and n3, below `path`/data."""
    with tarfile.open(folder(level) / "cluster.tar.gz") as archive:
        archive.extractall(path, filter="data")

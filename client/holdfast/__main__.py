"""The entry point of the `holdfast` command, and of `python -m holdfast`.

Rule: it works in a base install as far as saying what is missing. Everything else lives in `holdfast.cli`, which needs click
and rich.
"""

from __future__ import annotations

import importlib.util
import sys

_MISSING = (
    "holdfast: the command line needs {missing}, which this installation does not have. "
    "Install it with: pip install 'holdfast[cli]' (or 'holdfast[server]' to run nodes as well)."
)


def main() -> None:
    """Run the command; exits with its code (see `holdfast --help`)."""
    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(_fail(_MISSING.format(missing=" and ".join(missing))))
    from holdfast.cli.app import command

    command(prog_name="holdfast")


def _fail(sentence: str) -> int:
    sys.stderr.write(sentence + "\n")
    return 2


if __name__ == "__main__":
    main()

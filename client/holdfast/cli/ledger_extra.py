"""The one door from the command to the ledger: `force --ledger`.

Rule: as in `server_extra.py`: imported inside the function, so that everything else works where only the client is installed.
"""

from __future__ import annotations

import importlib

from holdfast.cli import exit_codes
from holdfast.cli.server_extra import Refusal
from holdfast.fencing import Stale


def check() -> None:
    """Raises `Refusal` if there is no ledger to tell: asked before anything is forced."""
    try:
        importlib.import_module("holdfast_ledger")
    except ModuleNotFoundError as error:
        raise Refusal(
            f"--ledger needs {error.name}, which this installation does not have. "
            "Install it with: pip install 'holdfast[ledger]'",
            exit_codes.USAGE,
        ) from error


def raise_floor(url: str, key: str, floor: int) -> bool:
    """Tell the ledger at `url` that older fences of `key` are over. False: it has seen a newer one already, which does the same.
    Raises `Refusal`: it could not be told."""
    check()
    from sqlalchemy.exc import SQLAlchemyError

    from holdfast_ledger import Ledger

    try:
        with Ledger(url) as ledger:
            ledger.raise_floor(key, floor)
    except Stale:
        return False
    except (SQLAlchemyError, ImportError, NotImplementedError, ValueError) as error:
        raise Refusal(f"the ledger was not told: {error}", exit_codes.FAILED) from error
    return True

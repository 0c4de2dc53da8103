"""What a node logs with: one line for each event, to standard error, as JSON for machines or as text for people.

Rule: every event has a name, and what caused it is a field. Messages of the standard library's loggers (the engine's, asyncio's)
take the same way. Nothing that a caller chose is logged: no key, no owner, no session (`http` and `node` see to that).
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO, cast, get_args

import msgspec
import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping

ENV_FORMAT: Final = "HOLDFAST_LOG_FORMAT"

Format = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]


class LogFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`log` of cluster.yml."""

    format: Format = "auto"
    """`json`: a line of JSON for each event. `console`: for people. `auto`: console on a terminal, else JSON.
    HOLDFAST_LOG_FORMAT and `serve --log-format` come before it."""
    level: Level = "info"
    """Nothing below it is written. `info`: what happens to the cluster. `warning`: what somebody should know of."""


def chosen_format(environ: Mapping[str, str], written: Format) -> Format:
    """The environment's, if it says one. Raises ValueError for a word that is none."""
    said = environ.get(ENV_FORMAT)
    if said is None:
        return written
    for word in get_args(Format):
        if word == said:
            return cast("Format", said)
    raise ValueError(f"{ENV_FORMAT} is {said!r}; it may be auto, json or console")


def configure(settings: LogFile, node: str, stream: TextIO | None = None) -> None:
    """From now on everything goes to `stream` (standard error), with the node's name in it. Once, in a process that is a node."""
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    as_text = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(node),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
        if as_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    # Others' libraries say at `info` what nobody asked for.
    for ours in ("holdfast", "holdfast_coordinator"):
        logging.getLogger(ours).setLevel(level)


def _named(node: str) -> Any:
    def add(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        event.setdefault("node", node)
        return event

    return add

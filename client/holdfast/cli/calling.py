"""How an operator's command speaks to nodes of its own choice: which they are, one session, made in one place, that shows who asks,
and the exit code of what they refuse."""

from __future__ import annotations

import aiohttp

from holdfast.cli import exit_codes
from holdfast.cli.common import credentials, fail
from holdfast.transport import parse_endpoints
from holdfast.wire import Code


def addresses(endpoints: str) -> tuple[str, ...]:
    """Base URLs, as every client reads them. Exits with a sentence for what is none."""
    try:
        return parse_endpoints(endpoints)
    except ValueError as error:
        fail(f"--endpoints: {error}", exit_codes.USAGE)


def exit_code_of(code: object) -> int:
    """`code`: of a node's problem."""
    if code == Code.BAD_REQUEST:
        return exit_codes.USAGE
    return exit_codes.UNREACHABLE if code == Code.NO_LEADER else exit_codes.FAILED


def session(timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """To be closed by the caller. Needs a running event loop, and the context of a command that has `endpoints_option`."""
    shown = credentials()
    headers = {} if shown.token is None else {"Authorization": f"Bearer {shown.token}"}
    connector = aiohttp.TCPConnector(ssl=True if shown.tls is None else shown.tls)
    return aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector)

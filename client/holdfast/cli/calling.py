"""How an operator's command speaks to nodes of its own choice: one session, made in one place, that shows who asks."""

from __future__ import annotations

import aiohttp

from holdfast.cli.common import credentials


def session(timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """To be closed by the caller. Needs a running event loop, and the context of a command that has `endpoints_option`."""
    shown = credentials()
    headers = {} if shown.token is None else {"Authorization": f"Bearer {shown.token}"}
    connector = aiohttp.TCPConnector(ssl=True if shown.tls is None else shown.tls)
    return aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector)

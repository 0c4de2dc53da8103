"""`credential`: make what a caller shows, and the digest of it that stands in cluster.yml. Asks nobody, keeps nothing."""

from __future__ import annotations

import hashlib
import secrets
import sys
from typing import Final

import click

from holdfast.cli import exit_codes
from holdfast.cli.common import fail, json_option, print_json
from holdfast.credentials import BEARER_BYTES_MAX

PREFIX: Final = "holdfast_"
"""So that programs which look for secrets in repositories and logs can find one."""

RANDOM_BYTES: Final = 32


@click.group(short_help="Make a bearer token and its digest.")
def credential() -> None:
    """Bearer tokens, by which callers prove who they are. The cluster knows only their digests (`access` in cluster.yml)."""


@credential.command("new", short_help="A new one: random, and kept nowhere.")
@json_option
def new(as_json: bool) -> None:
    """Print a new bearer token of 256 random bits, and its digest. The token is for the caller (HOLDFAST_BEARER_FILE); the digest
    goes into `bearer_sha256` of its identity, on every node."""
    token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    if as_json:
        print_json({"bearer": token, "sha256": digest_of(token)})
        return
    click.echo(f"bearer token   {token}")
    click.echo(f"bearer_sha256  {digest_of(token)}")


@credential.command("digest", short_help="The digest of a bearer token.")
def digest() -> None:
    """Read a bearer token from standard input and print its digest, for one that was made elsewhere. It has to be random and long:
    a digest of anything that somebody can remember is as good as that itself."""
    token = sys.stdin.read(BEARER_BYTES_MAX + 1).strip()
    if not token or len(token) > BEARER_BYTES_MAX:
        fail("standard input has no bearer token", exit_codes.USAGE)
    click.echo(digest_of(token))


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

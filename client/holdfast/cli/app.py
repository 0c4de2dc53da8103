"""The command's root: what `holdfast --help` shows, and which commands there are."""

from __future__ import annotations

import click

from holdfast._version import __version__
from holdfast.cli import (
    admin,
    backups,
    credential,
    doctor,
    explaining,
    files,
    histories,
    journal,
    locking,
    nodes,
    operating,
    reading,
    stores,
    watching,
)

_HELP = """Distributed locks you can trust: hold one around a command, look at them, run the cluster.

\b
  holdfast up                              start the nodes of cluster.yml on this machine
  holdfast lock -n nightly -- ./report.sh  run it unless somebody else does
  holdfast ls payments/                    who holds what
  holdfast explain payments/1234           why somebody waits
  holdfast history payments/1234           who held it, and how that ended
  holdfast capabilities redis://localhost  what a store can promise
  holdfast demo                            see a stale writer refused

\b
Exit codes:
    0  it worked (lock: and so did the command)
    1  it did not; standard error says why.  lock: the key is held (-E chooses another code)
    2  wrong arguments or configuration; nothing was started
   69  no node of the cluster answered, or none could
   75  lock: the lock was lost and the command was stopped; trying again is right
  126  lock: the command cannot be executed       127  lock: there is no such command
  128+n  lock: signal n ended the command, or the waiting for the lock

HOLDFAST_ENDPOINTS names the cluster or another store (--endpoints wins); HOLDFAST_CONFIG the file for up, serve and config check.
For https:// and identities: --ca, --cert, --key, --bearer-file, or the variables that their help names.
Completion for your shell: eval "$(_HOLDFAST_COMPLETE=bash_source holdfast)", or zsh_source, or fish_source.
"""


@click.group(
    help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="holdfast")
def command() -> None:
    pass


for _command in (
    nodes.up,
    nodes.serve,
    nodes.demo,
    nodes.config,
    admin.step_down,
    admin.replace_node,
    backups.backup,
    backups.restore,
    files.snapshot,
    journal.journal,
    reading.status,
    doctor.doctor,
    reading.ls,
    reading.show,
    reading.closed,
    explaining.explain,
    histories.history,
    watching.watch,
    operating.force,
    operating.resolve,
    stores.capabilities,
    credential.credential,
    locking.lock,
    locking.elect,
):
    command.add_command(_command)

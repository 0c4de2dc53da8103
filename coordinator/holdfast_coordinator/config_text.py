"""The prose of docs/configuration.md, around the tables that `config_page` makes. Text only."""

from __future__ import annotations

from typing import Final

BEFORE: Final = """\
# Configuration

Made by `python -m holdfast_coordinator.config_page > docs/configuration.md`; a test holds it to the code.

All nodes read one file, `cluster.yml` (`--config`, or HOLDFAST_CONFIG). It is YAML; a key may stand once; a setting that does not
exist is refused, with the nearest name that does. `holdfast config check [FILE]` says what is wrong, with line and path, without
starting anything:

```
$ holdfast config check
holdfast: cluster.yml:19: $.timing.heartbeet_ms: there is no such setting; did you mean 'heartbeat_ms'?
```

Exit code 0: a node would start with it (warnings are on standard error). 2: it would not.

How many nodes: three survive the loss of one, five of two, seven of three. An even number survives no more than the odd number
below it, and each grant waits for one disk more. One node is for development: it is not available while it is down.

## From the environment

| variable | replaces |
| --- | --- |
| `HOLDFAST_SECRET_FILE` | `secret` and `secret_file`: a file with the cluster's secret (systemd's credential, a mounted one) |
| `HOLDFAST_SECRET` | the same, the secret itself; one of the two may be set |
| `HOLDFAST_CONFIG` | `--config` of `up`, `serve` and `config check` |
| `HOLDFAST_LOG_FORMAT` | `log.format` |

Keys of certificates are files in any case. No secret is ever printed, logged or put into an error.

## The file

`cluster`, `nodes`, `limits` (those of the machine) and `quotas` must be the same on every node. Nodes whose limits differ refuse
each other.
"""

SECTIONS: Final = {
    "nodes[]": "Three, five or seven. Their order does not matter.",
    "raft_tls": "`holdfast config check` tries the files that are on its machine, and warns of a certificate near its end.",
    "timing": """\
Raise all three together where nodes are far apart or their machines stand still for moments. Less makes the pause after the death
of a leader shorter, and brings pauses for nothing when one was only slow.""",
    "snapshots": "A second process takes it, and needs as much memory again for a moment.",
    "quotas[]": "[operators.md](operators.md#quotas-what-one-tenant-may-use) has examples.",
    "log": "[operators.md](operators.md#the-log) lists the events.",
    "limits": """\
At a limit the caller gets 429 `limit_reached` (or 413, or 400 for a single value) with the limit's name. Each is a whole number.
""",
    "limits.machine": """\
**Of the machine: the same on every node, and part of what the log means.** A node replays its journal, and what was granted
under one limit could be refused under another. So a node does not start on a directory whose log was decided under other limits
or quotas, and nodes with other limits do not talk to each other. They are chosen for a new cluster, or with a
[restore](backup-and-restore.md): back up, stop all nodes, restore under the new ones.
""",
    "limits.http": """\
**Of each node's HTTP side.** They decide nothing that is replicated, may differ, and are taken at the next start.
""",
}

AFTER: Final = """
## What is not a setting

The format of journal and snapshots, the time that one entry may advance (500 ms), how long a node waits for a leader before it
refuses (2 s): the [guarantees](../ARCHITECTURE.md#guarantees-and-the-tests-that-stand-for-them) rest on them. They stand in the
code as named constants, each with its reason.
"""

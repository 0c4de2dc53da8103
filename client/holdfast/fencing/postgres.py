"""A PostgreSQL trigger that refuses the stale writes of code that forgot to ask a guard.

The rule: a table that has the trigger takes no INSERT, UPDATE or DELETE from a transaction that has not said its fence, and none
from one whose fence is lower than the floor of the row's key. The trigger raises the floor as `raise_floor` does, and locks it
until the transaction ends. The transaction says its fence once, in a setting that ends with it:

    SET LOCAL holdfast.fence = '34'         -- or holdfast.fencing.postgres.present(connection, grant.fence)

Why a setting and not a column of the row: an UPDATE that does not mention the column would carry the fence of whoever wrote the
row before, and a DELETE has no new row at all, so that exactly the code that forgot would get through. Why SET LOCAL: what a
whole session remembers, a pooler hands to the next worker.

Why a guard besides: the trigger closes the door at the first write, `raise_floor` before the first outside call.

It generates SQL and reads errors. It knows no library: any connection will do, and the DDL is text for your migrations.
"""

from __future__ import annotations

import string
from contextlib import closing
from typing import TYPE_CHECKING, Final

from holdfast import wire
from holdfast.fencing import Stale, checked_fence
from holdfast.fencing.statements import COLUMNS

if TYPE_CHECKING:
    from holdfast.fencing.dbapi import Connection

__all__ = [
    "NO_FENCE",
    "SETTING",
    "STALE",
    "drop_trigger_ddl",
    "fences_ddl",
    "present",
    "stale_of",
    "trigger_ddl",
]

SETTING: Final = "holdfast.fence"
"""The setting in which a transaction says its fence."""

STALE: Final = "LF001"
"""The SQLSTATE of a refused fence. Classes that begin with I to Z are the implementation's (SQL standard, part 2)."""
NO_FENCE: Final = "LF002"
"""The SQLSTATE of a write that presented no fence, or something that is none."""

TRIGGER: Final = "zz_holdfast_fence"
"""PostgreSQL fires the triggers of one kind by name: this one sees the row as the others have left it."""

IDENTIFIER_BYTES_MAX: Final = 63
"""PostgreSQL cuts longer names silently, and two cut names can be one."""


def fences_ddl(*, schema: str = "public", fences: str = "fences") -> str:
    """Return the SQL that creates the guard's table if it is missing; `SqlGuard` and `DbapiGuard` use the same one."""
    return f"CREATE TABLE IF NOT EXISTS {_qualified(schema, fences)} {COLUMNS};\n"


def trigger_ddl(table: str, *, key: str, schema: str = "public", fences: str = "fences") -> str:
    """Return the SQL that puts the trigger on `table`; running it again replaces the trigger.

    `key`: how a row names its lock, with columns in braces: `"payments/{customer}/collect"`, or `"{lock_key}"` for a column that
    holds it. An UPDATE that changes the key needs the fence for both. `fences`: the guard's table, in the same `schema`. Execute
    it without parameters. Raises `ValueError` for a template without columns, and for names that PostgreSQL would cut.
    """
    target, floors = _qualified(schema, table), _qualified(schema, fences)
    check = _qualified(schema, f"holdfast_raise_{fences}")
    function = _qualified(schema, f"holdfast_fence_{table}")
    new, old = _key_expression(key, "NEW"), _key_expression(key, "OLD")
    return f"""{_check_function(check, floors)}
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $holdfast$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    RAISE EXCEPTION USING ERRCODE = '{NO_FENCE}',
      MESSAGE = 'a fenced table is not truncated: no fence covers all of its keys',
      HINT = 'The owner of the table can disable the trigger {TRIGGER}.';
  END IF;
  IF TG_OP = 'DELETE' THEN
    PERFORM {check}({old});
    RETURN OLD;
  END IF;
  IF TG_OP = 'UPDATE' AND {old} IS DISTINCT FROM {new} THEN
    PERFORM {check}({old});
  END IF;
  PERFORM {check}({new});
  RETURN NEW;
END
$holdfast$;
{drop_trigger_ddl(table, schema=schema)}CREATE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE OR DELETE ON {target}
  FOR EACH ROW EXECUTE FUNCTION {function}();
CREATE TRIGGER {TRIGGER}_truncate BEFORE TRUNCATE ON {target}
  FOR EACH STATEMENT EXECUTE FUNCTION {function}();
"""


def drop_trigger_ddl(table: str, *, schema: str = "public") -> str:
    """Return the SQL that takes the trigger off `table` again. Functions stay: other tables may use them."""
    target = _qualified(schema, table)
    return (
        f"DROP TRIGGER IF EXISTS {TRIGGER} ON {target};\n"
        f"DROP TRIGGER IF EXISTS {TRIGGER}_truncate ON {target};\n"
    )


def present(connection: Connection, fence: int) -> None:
    """Say the fence of the transaction that `connection` (psycopg, or SQLAlchemy's `connection.connection`) is in, or begins.

    It ends with the transaction. A transaction under two grants says the other fence before it writes the other's rows. Raises
    `TypeError` for no fence at all: a lock with several holders has none, and its rows cannot have the trigger.
    """
    fence = checked_fence(fence)
    with closing(connection.cursor()) as cursor:
        # set_config(..., true) is SET LOCAL, and takes a parameter.
        cursor.execute("SELECT set_config(%s, %s, true)", (SETTING, str(fence)))


def stale_of(error: BaseException) -> Stale | None:
    """Return what the trigger refused as a `Stale`, or None if `error` (psycopg's, or SQLAlchemy's around it) is another.

    The transaction is over in any case: PostgreSQL has rolled back what it did.
    """
    diagnosis = getattr(getattr(error, "orig", None) or error, "diag", None)
    if diagnosis is None or getattr(diagnosis, "sqlstate", None) != STALE:
        return None
    presented, highest = (int(part) for part in str(diagnosis.message_detail).split("<"))
    return Stale(str(diagnosis.column_name or ""), presented, highest)


def _check_function(check: str, floors: str) -> str:
    # The key travels in the field for a column's name: unlike message and detail that one is not written to the server's log, and
    # a key may be personal data.
    return f"""CREATE OR REPLACE FUNCTION {check}(wanted text) RETURNS void LANGUAGE plpgsql AS $holdfast$
DECLARE
  said text := nullif(current_setting('{SETTING}', true), '');
  presented bigint;
  highest bigint;
BEGIN
  IF said IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = '{NO_FENCE}',
      MESSAGE = 'this table is fenced, and the transaction has not said its fence',
      HINT = 'SET LOCAL {SETTING} = ''...'' with the fence of the grant. A lock with several holders has none.';
  END IF;
  IF said !~ '^[1-9][0-9]{{0,15}}$' OR said::bigint > {wire.INTEGER_MAX} THEN
    RAISE EXCEPTION USING ERRCODE = '{NO_FENCE}',
      MESSAGE = 'what {SETTING} says is no fence: an integer between 1 and {wire.INTEGER_MAX} is needed';
  END IF;
  IF wanted IS NULL OR wanted = '' THEN
    RAISE EXCEPTION USING ERRCODE = '{NO_FENCE}',
      MESSAGE = 'the row names no key: a column of its key is null, empty, or generated';
  END IF;
  presented := said::bigint;
  -- Many rows under one key: the floor is locked again, not written again.
  PERFORM 1 FROM {floors} AS floors WHERE floors.key = wanted AND floors.fence = presented FOR NO KEY UPDATE;
  IF FOUND THEN
    RETURN;
  END IF;
  INSERT INTO {floors} AS floors (key, fence) VALUES (wanted, presented)
    ON CONFLICT (key) DO UPDATE SET fence = excluded.fence WHERE floors.fence <= excluded.fence;
  IF NOT FOUND THEN
    SELECT floors.fence INTO highest FROM {floors} AS floors WHERE floors.key = wanted;
    RAISE EXCEPTION USING ERRCODE = '{STALE}', COLUMN = wanted, DETAIL = presented || '<' || highest,
      MESSAGE = 'stale: presented fence ' || presented || ', but fence ' || highest || ' has already been seen';
  END IF;
END
$holdfast$;"""  # noqa: S608 - identifiers are quoted, and everything else is ours


def _key_expression(template: str, row: str) -> str:
    """The template as SQL over `row`. `||` gives null if any part is null, which the check refuses."""
    pieces = []
    columns = 0
    for literal, column, spec, conversion in string.Formatter().parse(template):
        if literal:
            pieces.append("'" + _plain(literal).replace("'", "''") + "'")
        if column is not None:
            if not column or spec or conversion:
                raise ValueError(
                    f"a key names columns as {{column}}, and nothing more: {template!r}"
                )
            pieces.append(f"nullif({row}.{_quoted(column)}::text, '')")
            columns += 1
    if not columns:
        raise ValueError(f"a key names at least one column in braces: {template!r}")
    return "(" + " || ".join(pieces) + ")"


def _qualified(schema: str, name: str) -> str:
    """With its schema, always: otherwise a temporary table of the same name would be asked instead."""
    return f"{_quoted(schema)}.{_quoted(name)}"


def _quoted(name: str) -> str:
    if not 1 <= len(name.encode()) <= IDENTIFIER_BYTES_MAX:
        raise ValueError(
            f"PostgreSQL keeps 1 to {IDENTIFIER_BYTES_MAX} bytes of a name: {name!r} does not fit"
        )
    return '"' + _plain(name).replace('"', '""') + '"'


def _plain(text: str) -> str:
    """`$` would end the quoting of a function's body, `\\` begins an escape under old settings, `%` is a driver's placeholder."""
    if set(text) & set("$\\%\0"):
        raise ValueError(f"names and keys are without $, %, \\ and NUL here: {text!r}")
    return text

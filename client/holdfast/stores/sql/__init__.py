"""Locks as rows of a SQL database: PostgreSQL, or a SQLite file. Needs SQLAlchemy; only this package imports it.

`schema.py` has the tables, `transactions.py` what each call does inside one short transaction, `store.py` the connections and
what an error means, `listener.py` how PostgreSQL wakes a waiter.
"""

from __future__ import annotations

from holdfast.stores.sql.store import SqlStore

__all__ = ["SqlStore"]

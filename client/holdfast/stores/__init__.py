"""Stores: the places other than a cluster where locks can be kept; the address decides which.

Rule: a store is a transport. It answers the calls of the HTTP API (sessions, acquire, release, cancel, read) with the same bodies
and problem codes, so there is one client, and everything that it does (sessions, renewal, repeats, losing a lock) is the same.
What a store cannot promise it says in code: `capabilities.py`. `sql.py` and `redis.py` need an extra and are loaded by nobody
else than `address.py`, when such an address is used.
"""

"""What each call does inside ONE short transaction. Pure in the sense that matters here: a connection in, a decision out.

How one holder at a time comes about (PostgreSQL; on SQLite every transaction has the whole file for itself):
* An acquire first locks the rows of its keys, in the order of the keys, making those that are missing: the unique key decides who
  is first. What it reads after that in new statements is what the one before has committed.
* A hold whose session is past its deadline may be taken over only after that session was ENDED in the same transaction, since
      time 0   the holder's renewal reads the clock: still in time
      time 1   somebody else reads the old deadline: past
      time 2   the renewal commits, the other takes the lock: two holders
  With the update at time 1 the other waits for the renewal's row, sees the new deadline, and leaves it alone; or it comes first,
  and the renewal finds its session ended.
* Order of locks, so that none wait in a circle: key rows, then session rows, then request rows.

A refusal that must be remembered is returned (and committed); one that is raised is rolled back.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, delete, func, insert, or_, select, union, update
from sqlalchemy.dialects import postgresql, sqlite

from holdfast.stores.base import (
    ENDED_SESSION_SECONDS,
    OTHER_BODY,
    PREVIOUS_REMEMBERED,
    REQUESTS_REMEMBERED_MAX,
    SETTLED,
    WAITERS_SHOWN_MAX,
    Ask,
    Granted,
    HolderView,
    LockView,
    Refusal,
    WaiterView,
    held,
    not_held,
    previous_of,
    request_conflict,
    session_gone,
    too_many_requests,
    waited_in_vain,
)
from holdfast.stores.sql.schema import (
    locks,
    now_ms,
    numbers,
    queue,
    requests,
    sessions,
    store,
    tokens,
)
from holdfast.stores.waiting import Queued
from holdfast.wire import Code

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Row

CHANNEL: Final = "holdfast"
"""NOTIFY's; the message is the number of a waiter."""
SETTLE_EVERY: Final = 16
"""Settled outcomes are deleted so many at a time: one statement for many acquires."""
SETTLED_KEPT: Final = 100
"""Outcomes that stay although they are settled, so that a repeated release is answered as the first one was."""
SWEEP_EVERY_MS: Final = 60_000
NEVER: Final = "never"


def _is_alive() -> ColumnElement[bool]:
    return and_(sessions.c.ended.is_(None), sessions.c.deadline_ms > now_ms())


# -- sessions


def open_session(connection: Connection, session: str, ttl_ms: int, owner: str | None) -> int:
    """The milliseconds left."""
    row = {"id": session, "ttl_ms": ttl_ms, "owner": owner, "settled": -1}
    statement = _insert(connection, sessions).values(**row, deadline_ms=now_ms() + ttl_ms)
    connection.execute(statement.on_conflict_do_nothing())
    found = connection.execute(_session_query(session)).one()
    _check_alive(found)
    if found.ttl_ms != ttl_ms:
        raise Refusal(
            Code.CONFLICT, f"this session is open with a ttl of {found.ttl_ms} ms", field="ttl_ms"
        )
    return int(found.deadline_ms - found.now)


def renew(connection: Connection, session: str) -> int:
    """The milliseconds left. One statement: it waits for whoever is ending the session just now, and then finds it ended."""
    statement = (
        update(sessions)
        .where(sessions.c.id == session, _is_alive())
        .values(deadline_ms=now_ms() + sessions.c.ttl_ms)
        .returning(sessions.c.ttl_ms)
    )
    ttl_ms = connection.execute(statement).scalar()
    if ttl_ms is None:
        _raise_gone(connection, session)
    return int(ttl_ms or 0)


def close(connection: Connection, session: str) -> list[int]:
    """The tokens released."""
    freed = _end_holds(connection, locks.c.session == session, session)
    left = connection.execute(
        delete(queue).where(queue.c.session == session).returning(queue.c.key)
    ).scalars()
    changed = {each.key for each in freed} | set(left)
    ended = connection.execute(
        update(sessions)
        .where(sessions.c.id == session, _is_alive())
        .values(ended="released", deadline_ms=now_ms())
    )
    if ended.rowcount == 0:
        found = connection.execute(_session_query(session)).first()
        if found is None or found.ended != "released":
            _raise_gone(connection, session)
    connection.execute(delete(requests).where(requests.c.session == session))
    wake(connection, changed)
    return sorted({int(each.token) for each in freed})


def sweep(connection: Connection) -> None:
    """Delete what nobody needs any more; does nothing if somebody has done so within a minute.

    Rows that somebody has locked just now are left for the next time (PostgreSQL), so that this stands in nobody's way.
    """
    due = connection.execute(
        update(store).where(store.c.swept_ms < now_ms() - SWEEP_EVERY_MS).values(swept_ms=now_ms())
    )
    if due.rowcount == 0:
        return
    old = now_ms() - ENDED_SESSION_SECONDS * 1000
    gone = select(sessions.c.id).where(sessions.c.deadline_ms < old)
    for table in (queue, requests):
        connection.execute(delete(table).where(table.c.session.in_(gone)))
    dead = ~select(1).where(sessions.c.id == locks.c.session, _is_alive()).exists()
    last = select(func.max(locks.c.token)).scalar_subquery()
    forgotten = (
        select(locks.c.key)
        .where(locks.c.token <= last - PREVIOUS_REMEMBERED, or_(locks.c.ended.isnot(None), dead))
        .with_for_update(skip_locked=True)
    )
    connection.execute(delete(locks).where(locks.c.key.in_(forgotten)))
    kept = select(1).where(locks.c.session == sessions.c.id, locks.c.ended.is_(None)).exists()
    connection.execute(delete(sessions).where(sessions.c.deadline_ms < old, ~kept))


# -- acquire


def acquire(connection: Connection, ask: Ask, first: bool) -> Granted | Queued | Refusal:
    """`first`: a call from outside, which may enqueue or extend its wait; else it only looks whether its turn has come."""
    known = _known(connection, ask.session, ask.request_id)
    _check_alive(known)
    if known.state is not None:
        answer = _repeat(connection, ask, known)
        if answer is not None:
            return answer
    elif ask.request_id <= known.settled:
        raise request_conflict(SETTLED)
    rows = _lock_keys(connection, ask.keys)
    if (
        known.state == "waiting"
    ):  # another look, or a cancel, may have decided it before this one had the rows
        known = _known(connection, ask.session, ask.request_id)
        _check_alive(known)
        answer = _repeat(connection, ask, known)
        if answer is not None:
            return answer
    if ask.settled - known.settled >= SETTLE_EVERY:
        _settle(connection, ask)
    number = known.number if known.state == "waiting" else None
    holders, ended = _holders(connection, rows)
    ahead = _ahead(connection, ask.keys, number)
    owner = ask.owner if ask.owner is not None else known.owner
    if not holders and not ahead:
        return _grant(connection, ask, owner, number, rows, ended, known.deadline_ms - known.now)
    if number is None and ask.wait_ms == 0:
        length = max((each.waiters for each in ahead), default=0)
        refusal = held(holders, length)
        _remember(connection, ask, "refused", outcome=_refusal_text(refusal))
        return refusal
    if number is None:
        return _enqueue(connection, ask, owner, _blocked_ms(holders, ahead))
    return _wait_on(connection, ask, number, first, _blocked_ms(holders, ahead))


def peek(connection: Connection, ask: Ask) -> Queued | None:
    """Reads only, and locks nothing, so that a hundred waiters that look are in nobody's way. None: it may be its turn, or its wait
    may be over; `acquire` decides. What has changed since it looked is told, or seen at the next look."""
    known = connection.execute(_known_query(ask.session, ask.request_id)).first()
    if known is None or known.state != "waiting" or known.deadline_ms <= known.now:
        return None
    mine = select(func.min(queue.c.deadline_ms) - now_ms()).where(queue.c.number == known.number)
    left_ms = connection.execute(mine).scalar()
    if left_ms is None or left_ms <= 0:
        return None
    holding = (
        select(func.min(sessions.c.deadline_ms) - now_ms())
        .join(locks, sessions.c.id == locks.c.session)
        .where(locks.c.key.in_(ask.keys), locks.c.ended.is_(None), _is_alive())
    )
    ends = [connection.execute(holding).scalar()]
    ends += [each.left_ms for each in _ahead(connection, ask.keys, known.number)]
    blocked = [int(each) for each in ends if each is not None]
    return Queued(int(known.number), int(left_ms), max(0, min(blocked))) if blocked else None


def _known(connection: Connection, session: str, request_id: int) -> Row[Any]:
    """The session, and the request if it was seen. The session's row stays (FOR KEY SHARE), but may be renewed meanwhile."""
    locked = _known_query(session, request_id).with_for_update(
        read=True, key_share=True, of=sessions
    )
    found: Any = connection.execute(locked).first()
    if found is None:
        raise session_gone(None)
    row: Row[Any] = found
    return row


def _known_query(session: str, request_id: int) -> Any:
    joined = sessions.outerjoin(
        requests, and_(requests.c.session == sessions.c.id, requests.c.request_id == request_id)
    )
    return (
        select(
            sessions.c.deadline_ms,
            sessions.c.ended,
            sessions.c.settled,
            sessions.c.owner,
            requests.c.fingerprint,
            requests.c.names,
            requests.c.state,
            requests.c.token,
            requests.c.number,
            requests.c.outcome,
            now_ms().label("now"),
        )
        .select_from(joined)
        .where(sessions.c.id == session)
    )


def _repeat(connection: Connection, ask: Ask, known: Row[Any]) -> Granted | None:
    """The outcome of a request that was seen; None: it still waits."""
    if known.fingerprint is not None and known.fingerprint != ask.fingerprint:
        raise request_conflict(OTHER_BODY)
    if known.state == "refused":
        body = json.loads(known.outcome)
        raise Refusal(Code(body.pop("code")), body.pop("detail"), **body)
    if known.state == "waiting":
        return None
    if known.state != "granted":  # it was settled, and forgotten, a moment ago
        raise request_conflict(SETTLED)
    lasting = select(locks.c.key).where(
        locks.c.session == ask.session, locks.c.token == known.token, locks.c.ended.is_(None)
    )
    if connection.execute(lasting).first() is None:
        raise not_held("released")
    outcome = json.loads(known.outcome)
    return Granted(
        token=int(known.token),
        keys=ask.keys,
        remaining_ms=int(known.deadline_ms - known.now),
        previous=tuple(previous_of(*each) for each in outcome["previous"]),
        previous_horizon=outcome["horizon"],
    )


def _settle(connection: Connection, ask: Ask) -> None:
    """Ids up to `settled` are never executed again; their outcomes go, but for the newest."""
    connection.execute(
        update(sessions)
        .where(sessions.c.id == ask.session, sessions.c.settled < ask.settled)
        .values(settled=ask.settled)
    )
    connection.execute(
        delete(requests).where(
            requests.c.session == ask.session,
            requests.c.request_id <= ask.settled - SETTLED_KEPT,
            requests.c.request_id != ask.request_id,
        )
    )


def _lock_keys(connection: Connection, keys: Sequence[str]) -> dict[str, Row[Any]]:
    """The rows of the keys, locked until the end of the transaction."""
    rows = [{"key": key, "token": 0, "ended": NEVER} for key in sorted(keys)]
    statement = _insert(connection, locks).values(rows)
    touched = statement.on_conflict_do_update(
        index_elements=[locks.c.key], set_={"key": statement.excluded.key}
    ).returning(locks.c.key, locks.c.token, locks.c.session, locks.c.owner, locks.c.ended)
    return {each.key: each for each in connection.execute(touched)}


def _holders(
    connection: Connection, rows: dict[str, Row[Any]]
) -> tuple[list[HolderView], dict[str, str]]:
    """Who holds one of the keys now, and how the last holds of the other keys ended. Ends sessions that are past their deadline."""
    holding = {each.session for each in rows.values() if each.ended is None}
    found = {}
    if holding:
        found = {each.id: each for each in connection.execute(_sessions_query(holding))}
        past = [
            each for each in found.values() if each.ended is None and each.deadline_ms <= each.now
        ]
        for each in past:
            _end_session(connection, each.id)
        if past:  # one may have been renewed just now
            found = {each.id: each for each in connection.execute(_sessions_query(holding))}
    holders: dict[int, HolderView] = {}
    ended: dict[str, str] = {}
    for key, row in rows.items():
        session = found.get(row.session)
        if row.ended is not None:
            ended[key] = row.ended
        elif session is None or session.ended is not None:
            ended[key] = "expired" if session is None else session.ended
        else:
            left = int(session.deadline_ms - session.now)
            holders[row.token] = HolderView(int(row.token), row.session, row.owner, left)
    return list(holders.values()), ended


def _end_session(connection: Connection, session: str) -> None:
    """If it is past its deadline, still, when this statement has its row."""
    connection.execute(
        update(sessions)
        .where(
            sessions.c.id == session, sessions.c.ended.is_(None), sessions.c.deadline_ms <= now_ms()
        )
        .values(ended="expired")
    )


def _ahead(connection: Connection, keys: Sequence[str], number: int | None) -> Sequence[Row[Any]]:
    """The living waiters before `number` (None: all of them), counted by key, and when the first of them would end."""
    ends_ms = case(
        (queue.c.deadline_ms < sessions.c.deadline_ms, queue.c.deadline_ms),
        else_=sessions.c.deadline_ms,
    )
    statement = (
        select(
            queue.c.key,
            func.count().label("waiters"),
            (func.min(ends_ms) - now_ms()).label("left_ms"),
        )
        .join(sessions, sessions.c.id == queue.c.session)
        .where(queue.c.key.in_(keys), queue.c.deadline_ms > now_ms(), _is_alive())
        .group_by(queue.c.key)
    )
    if number is not None:
        statement = statement.where(queue.c.number < number)
    return connection.execute(statement).all()


def _blocked_ms(holders: Iterable[HolderView], ahead: Iterable[Row[Any]]) -> int | None:
    ends = [each.remaining_ms for each in holders] + [int(each.left_ms) for each in ahead]
    return max(0, min(ends)) if ends else None


def _grant(
    connection: Connection,
    ask: Ask,
    owner: str | None,
    number: int | None,
    rows: dict[str, Row[Any]],
    ended: dict[str, str],
    remaining_ms: int,
) -> Granted:
    token = _take(connection, ask, owner)
    before = [
        (int(rows[key].token), ended[key]) if ended[key] != NEVER else (None, None)
        for key in ask.keys
    ]
    horizon = max(0, token - PREVIOUS_REMEMBERED)
    outcome = json.dumps({"previous": before, "horizon": horizon})
    if number is None:
        _remember(connection, ask, "granted", token=token, outcome=outcome)
    else:
        connection.execute(delete(queue).where(queue.c.number == number))
        _update_request(connection, ask, state="granted", token=token, outcome=outcome)
    previous = tuple(previous_of(*each) for each in before)
    return Granted(token, ask.keys, int(remaining_ms), previous, horizon)


def _take(connection: Connection, ask: Ask, owner: str | None) -> int:
    """The locked rows become a hold with the next token. With one key it is taken from the sequence in the same statement."""
    one = len(ask.keys) == 1 and connection.dialect.name == "postgresql"
    token = tokens.next_value() if one else _next(connection, "token")
    taken = connection.execute(
        update(locks)
        .where(locks.c.key.in_(ask.keys))
        .values(token=token, session=ask.session, owner=owner, ended=None)
        .returning(locks.c.token)
    )
    return int(taken.scalars().all()[0])


def _enqueue(connection: Connection, ask: Ask, owner: str | None, blocked_ms: int | None) -> Queued:
    number = _next(connection, "number")
    names = json.dumps(ask.keys, ensure_ascii=False)
    common = {"number": number, "session": ask.session, "owner": owner, "names": names}
    connection.execute(
        insert(queue).values(
            [{"key": key, **common, "deadline_ms": now_ms() + ask.wait_ms} for key in ask.keys]
        )
    )
    _remember(connection, ask, "waiting", number=number)
    return Queued(number, ask.wait_ms, blocked_ms)


def _wait_on(
    connection: Connection, ask: Ask, number: int, first: bool, blocked_ms: int | None
) -> Queued | Refusal:
    """It still waits, or has waited long enough."""
    mine = queue.c.number == number
    if first:
        later = and_(mine, queue.c.deadline_ms < now_ms() + ask.wait_ms)
        connection.execute(update(queue).where(later).values(deadline_ms=now_ms() + ask.wait_ms))
    left_ms = connection.execute(
        select(func.min(queue.c.deadline_ms) - now_ms()).where(mine)
    ).scalar()
    if left_ms is not None and left_ms > 0:
        return Queued(number, int(left_ms), blocked_ms)
    refusal = waited_in_vain()
    connection.execute(delete(queue).where(mine))
    _update_request(connection, ask, state="refused", outcome=_refusal_text(refusal))
    wake(connection, ask.keys)
    return refusal


def _remember(connection: Connection, ask: Ask, state: str, **values: Any) -> None:
    """A new request. Raises SQLAlchemy's `IntegrityError` if a repeat was faster: then the whole is begun again."""
    if ask.request_id - ask.settled > REQUESTS_REMEMBERED_MAX:
        raise too_many_requests()
    row = {
        "session": ask.session,
        "request_id": ask.request_id,
        "fingerprint": ask.fingerprint,
        "names": json.dumps(ask.keys, ensure_ascii=False),
        "state": state,
    }
    connection.execute(insert(requests).values(**row, **values))


def _update_request(connection: Connection, ask: Ask, **values: Any) -> None:
    connection.execute(
        update(requests)
        .where(requests.c.session == ask.session, requests.c.request_id == ask.request_id)
        .values(**values)
    )


def _refusal_text(refusal: Refusal) -> str:
    body = {"code": refusal.code.value, "detail": refusal.detail, **refusal.extra}
    return json.dumps(body, ensure_ascii=False)


def _next(connection: Connection, name: str) -> int:
    """The next of a counter that never goes back."""
    if connection.dialect.name == "postgresql":
        sequence = tokens if name == "token" else numbers
        return int(connection.execute(select(sequence.next_value())).scalar_one())
    column = store.c[name]
    counted = connection.execute(update(store).values({name: column + 1}).returning(column))
    return int(counted.scalar_one())


# -- release, cancel


def release(connection: Connection, session: str, token: int) -> None:
    mine = and_(locks.c.session == session, locks.c.token == token)
    freed = _end_holds(connection, mine, session)
    if freed:
        wake(connection, [each.key for each in freed])
        return
    _check_alive(connection.execute(_session_query(session)).first())
    was_ours = select(requests.c.token).where(
        requests.c.session == session, requests.c.token == token
    )
    if connection.execute(was_ours).first() is None:
        raise not_held(None)
    # It was granted to this session, which is alive, and has ended: so it was released before.


def _end_holds(
    connection: Connection, which: ColumnElement[bool], session: str
) -> Sequence[Row[Any]]:
    """Holds of a session that is alive end as released. Their rows are locked in the order of their keys, as everywhere."""
    alive = select(1).where(sessions.c.id == session, _is_alive()).exists()
    keys = (
        select(locks.c.key)
        .where(which, locks.c.ended.is_(None), alive)
        .order_by(locks.c.key)
        .with_for_update()
    )
    statement = (
        update(locks)
        .where(locks.c.key.in_(keys), which, locks.c.ended.is_(None))
        .values(ended="released")
        .returning(locks.c.key, locks.c.token)
    )
    return connection.execute(statement).all()


def cancel(connection: Connection, session: str, request_id: int) -> int | None:
    """The keys are locked before the request is looked at for good: somebody may be granting it just now."""
    known = _known(connection, session, request_id)
    _check_alive(known)
    if known.state is None:
        if request_id > known.settled:
            refusal = waited_in_vain("cancelled by its client before it arrived")
            row = {"session": session, "request_id": request_id, "names": "[]", "state": "refused"}
            connection.execute(insert(requests).values(**row, outcome=_refusal_text(refusal)))
        return None
    keys = json.loads(known.names)
    if not keys:
        return None
    _lock_keys(connection, keys)
    known = _known(connection, session, request_id)
    this = and_(requests.c.session == session, requests.c.request_id == request_id)
    if known.state == "waiting":
        refusal = waited_in_vain("cancelled by its client")
        connection.execute(delete(queue).where(queue.c.number == known.number))
        connection.execute(
            update(requests).where(this).values(state="refused", outcome=_refusal_text(refusal))
        )
        wake(connection, keys)
    elif known.state == "granted":
        mine = and_(locks.c.session == session, locks.c.token == known.token)
        freed = _end_holds(connection, mine, session)
        wake(connection, [each.key for each in freed])
        return int(known.token) if freed else None
    return None


def wake(connection: Connection, keys: Iterable[str]) -> None:
    """Tell the first waiters of these keys, when this transaction is committed. Without NOTIFY they look by themselves."""
    names = list(keys)
    if connection.dialect.name != "postgresql" or not names:
        return
    heads = (
        select(func.min(queue.c.number).label("number"))
        .join(sessions, sessions.c.id == queue.c.session)
        .where(queue.c.key.in_(names), queue.c.deadline_ms > now_ms(), _is_alive())
        .group_by(queue.c.key)
        .subquery()
    )
    connection.execute(select(func.pg_notify(CHANNEL, func.concat(heads.c.number))))


# -- looking


def views(connection: Connection, keys: Sequence[str]) -> list[LockView]:
    """What is known about these keys, in their order."""
    holding = connection.execute(
        select(
            locks.c.key,
            locks.c.token,
            locks.c.session,
            locks.c.owner,
            (sessions.c.deadline_ms - now_ms()).label("left_ms"),
        )
        .join(sessions, sessions.c.id == locks.c.session)
        .where(locks.c.key.in_(keys), locks.c.ended.is_(None), _is_alive())
    )
    holders = {
        each.key: HolderView(int(each.token), each.session, each.owner, int(each.left_ms))
        for each in holding
    }
    waiters: dict[str, list[WaiterView]] = {key: [] for key in keys}
    waiting = connection.execute(
        select(
            queue.c.key,
            queue.c.session,
            queue.c.owner,
            queue.c.names,
            (queue.c.deadline_ms - now_ms()).label("left_ms"),
        )
        .join(sessions, sessions.c.id == queue.c.session)
        .where(queue.c.key.in_(keys), queue.c.deadline_ms > now_ms(), _is_alive())
        .order_by(queue.c.number)
    )
    for each in waiting:
        view = WaiterView(
            each.session, each.owner, tuple(json.loads(each.names)), int(each.left_ms)
        )
        waiters[each.key].append(view)
    return [
        LockView(key, holders.get(key), waiters[key][:WAITERS_SHOWN_MAX], len(waiters[key]))
        for key in keys
    ]


def keys_in_use(connection: Connection, prefix: str, after: str | None, limit: int) -> list[str]:
    """Keys that are held or waited for, in order."""

    def those(column: ColumnElement[str]) -> list[ColumnElement[bool]]:
        wanted = [func.substr(column, 1, len(prefix)) == prefix] if prefix else []
        return wanted if after is None else [*wanted, column > after]

    holding = (
        select(locks.c.key)
        .join(sessions, sessions.c.id == locks.c.session)
        .where(locks.c.ended.is_(None), _is_alive(), *those(locks.c.key))
    )
    waiting = (
        select(queue.c.key)
        .join(sessions, sessions.c.id == queue.c.session)
        .where(queue.c.deadline_ms > now_ms(), _is_alive(), *those(queue.c.key))
    )
    found = union(holding, waiting).subquery()
    return list(
        connection.execute(select(found.c.key).order_by(found.c.key).limit(limit)).scalars()
    )


def clock(connection: Connection) -> int:
    """The database's clock."""
    return int(connection.execute(select(now_ms())).scalar_one())


# -- small things


def _session_query(session: str) -> Any:
    return _sessions_query([session])


def _sessions_query(ids: Iterable[str]) -> Any:
    return select(
        sessions.c.id,
        sessions.c.ttl_ms,
        sessions.c.deadline_ms,
        sessions.c.ended,
        now_ms().label("now"),
    ).where(sessions.c.id.in_(list(ids)))


def _check_alive(session: Row[Any] | None) -> None:
    if session is None:
        raise session_gone(None)
    if session.ended is not None or session.deadline_ms <= session.now:
        raise session_gone(session.ended or "expired")


def _raise_gone(connection: Connection, session: str) -> None:
    found = connection.execute(_session_query(session)).first()
    raise session_gone(None if found is None else found.ended or "expired")


def _insert(connection: Connection, table: Any) -> postgresql.Insert | sqlite.Insert:
    """The INSERT that knows ON CONFLICT."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)

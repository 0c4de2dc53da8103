"""The Lua scripts of the store on Redis: ONE for each call, so each call happens at once and as a whole, or not at all.

Keys of the database, all under one prefix with one hash tag (`P`):

    token, number        counters that only grow
    deadlines            sorted set: session -> the instant of its lease's end
    s:<session>          hash: ttl, owner, settled
    sh:<session>         hash: token -> its keys (JSON), of holds that last
    sr:<session>         sorted set: tokens that were released, for repeats; bounded
    sw:<session>         set: numbers of its waiters
    r:<session>          hash: request id -> what became of it (JSON)
    es:<session>         how an ended session ended; kept for an hour
    k:<key>              hash: token, session, owner, ended (empty while it lasts)
    q:<key>              sorted set: numbers of its waiters, in order
    w:<number>           hash: session, request, keys (JSON), owner, deadline
    inuse                sorted set, by name: keys that are held or waited for
    ended, horizon       keys whose last hold is remembered, by token; the highest token that was forgotten
    wake                 channel: the number of a waiter whose turn it may be

Instants are milliseconds of the server's clock (TIME). Every script first ends sessions that are past their deadline, a bounded
number of them. An answer is JSON: what was asked for, or {"code", "detail", ...}; an empty list of Lua is written as {}, which its
readers iterate all the same.
"""

from __future__ import annotations

from typing import Final

from holdfast.stores.base import (
    ENDED_SESSION_SECONDS,
    OTHER_BODY,
    PREVIOUS_REMEMBERED,
    RELEASES_REMEMBERED,
    REQUESTS_REMEMBERED_MAX,
    SETTLED,
    WAITERS_SHOWN_MAX,
)

PREFIX: Final = "{holdfast}:"
"""The braces make all keys one slot, so that it also runs on one primary of a Redis Cluster."""
CHANNEL: Final = f"{PREFIX}wake"
EXPIRIES_A_SCRIPT: Final = 16
"""Sessions that one script ends on the side: a mass death is spread over many calls."""

_PRELUDE: Final = f"""
local P = KEYS[1]
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
local function problem(code, detail, more)
  more = more or {{}}
  more.code, more.detail = code, detail
  return cjson.encode(more)
end
local function gone(sid)
  local ended = call('GET', P .. 'es:' .. sid)
  if not ended then return problem('no_such_session', 'no session of this id is open', {{field = 'session'}}) end
  local how = ended == 'released' and 'was closed' or 'has expired'
  return problem('session_expired', 'the session ' .. how .. '; all it held has ended', {{ended = ended}})
end

local function request_of(sid, rid)
  local raw = call('HGET', P .. 'r:' .. sid, rid)
  return raw and cjson.decode(raw) or nil
end
local function keep_request(sid, rid, request) call('HSET', P .. 'r:' .. sid, rid, cjson.encode(request)) end

-- Nobody holds it and nobody waits: it leaves the listing.
local function tidy(key)
  if call('HGET', P .. 'k:' .. key, 'ended') ~= '' and call('EXISTS', P .. 'q:' .. key) == 0 then
    call('ZREM', P .. 'inuse', key)
  end
end
local function drop_waiter(number, code, detail)
  local w = call('HMGET', P .. 'w:' .. number, 'session', 'request', 'keys')
  if not w[1] then return end
  for _, key in ipairs(cjson.decode(w[3])) do
    call('ZREM', P .. 'q:' .. key, number)
    tidy(key)
  end
  call('SREM', P .. 'sw:' .. w[1], number)
  call('DEL', P .. 'w:' .. number)
  if code then
    local request = request_of(w[1], w[2])
    if request then
      request.state, request.code, request.detail = 'refused', code, detail
      keep_request(w[1], w[2], request)
    end
  end
  return cjson.decode(w[3])
end
-- The first living waiter of a key, and how many there are.
local function head(key)
  while true do
    local first = call('ZRANGE', P .. 'q:' .. key, 0, 0)[1]
    if not first then return nil end
    local deadline = call('HGET', P .. 'w:' .. first, 'deadline')
    if deadline and tonumber(deadline) > now then return first end
    if deadline then
      drop_waiter(first, 'wait_timeout', 'waited in vain')
    else
      call('ZREM', P .. 'q:' .. key, first)
    end
  end
end
local function wake(keys)
  for _, key in ipairs(keys) do
    local first = head(key)
    if first then call('PUBLISH', P .. 'wake', first) end
  end
end
local function end_hold(sid, token, ended)
  local raw = call('HGET', P .. 'sh:' .. sid, token)
  local keys = cjson.decode(raw)
  call('HDEL', P .. 'sh:' .. sid, token)
  for _, key in ipairs(keys) do
    call('HSET', P .. 'k:' .. key, 'ended', ended)
    call('ZADD', P .. 'ended', token, key)
    tidy(key)
  end
  while call('ZCARD', P .. 'ended') > {PREVIOUS_REMEMBERED} do
    local oldest = call('ZPOPMIN', P .. 'ended')
    call('DEL', P .. 'k:' .. oldest[1])
    call('SET', P .. 'horizon', oldest[2])
  end
  return keys
end
local function end_session(sid, ended)
  local changed, released = {{}}, {{}}
  for _, number in ipairs(call('SMEMBERS', P .. 'sw:' .. sid)) do
    for _, key in ipairs(drop_waiter(number) or {{}}) do changed[#changed + 1] = key end
  end
  for _, token in ipairs(call('HKEYS', P .. 'sh:' .. sid)) do
    for _, key in ipairs(end_hold(sid, token, ended)) do changed[#changed + 1] = key end
    released[#released + 1] = tonumber(token)
  end
  call('ZREM', P .. 'deadlines', sid)
  call('DEL', P .. 's:' .. sid, P .. 'sh:' .. sid, P .. 'sr:' .. sid, P .. 'sw:' .. sid, P .. 'r:' .. sid)
  call('SET', P .. 'es:' .. sid, ended, 'PX', {ENDED_SESSION_SECONDS * 1000})
  wake(changed)
  return released
end
-- Milliseconds left, or nil: there is no such session (any more).
local function left_of(sid)
  local deadline = call('ZSCORE', P .. 'deadlines', sid)
  if not deadline then return nil end
  if tonumber(deadline) <= now then
    end_session(sid, 'expired')
    return nil
  end
  return tonumber(deadline) - now
end
for _, sid in ipairs(call('ZRANGEBYSCORE', P .. 'deadlines', '-inf', text(now), 'LIMIT', 0, {EXPIRIES_A_SCRIPT})) do
  end_session(sid, 'expired')
end
-- Who holds a key now: token, session, owner, milliseconds left; nil: nobody.
local function holder(key)
  local k = call('HMGET', P .. 'k:' .. key, 'token', 'session', 'owner', 'ended')
  if not k[1] or k[4] ~= '' then return nil end
  local left = left_of(k[2])
  if not left then return nil end
  return {{token = tonumber(k[1]), session = k[2], owner = k[3] ~= '' and k[3] or nil, left = left}}
end
"""

_OPEN: Final = """
local sid, ttl, owner = ARGV[1], ARGV[2], ARGV[3]
local left = left_of(sid)
if left then
  local known = call('HGET', P .. 's:' .. sid, 'ttl')
  if known ~= ttl then
    return problem('conflict', 'this session is open with a ttl of ' .. known .. ' ms', {field = 'ttl_ms'})
  end
  return cjson.encode({left = left})
end
if call('EXISTS', P .. 'es:' .. sid) == 1 then return gone(sid) end
call('HSET', P .. 's:' .. sid, 'ttl', ttl, 'owner', owner, 'settled', '-1')
call('ZADD', P .. 'deadlines', text(now + ttl), sid)
return cjson.encode({left = tonumber(ttl)})
"""

_RENEW: Final = """
local sid = ARGV[1]
if not left_of(sid) then return gone(sid) end
local ttl = tonumber(call('HGET', P .. 's:' .. sid, 'ttl'))
call('ZADD', P .. 'deadlines', text(now + ttl), sid)
return cjson.encode({left = ttl})
"""

_CLOSE: Final = """
local sid = ARGV[1]
if not left_of(sid) then
  if call('GET', P .. 'es:' .. sid) == 'released' then return cjson.encode({released = {}}) end
  return gone(sid)
end
return cjson.encode({released = end_session(sid, 'released')})
"""

_ACQUIRE: Final = f"""
local sid, rid, settled, wait_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local fingerprint, owner, first = ARGV[5], ARGV[6], ARGV[7] == '1'
local keys = {{}}
for i = 8, #ARGV do keys[#keys + 1] = ARGV[i] end
local left = left_of(sid)
if not left then return gone(sid) end
local session = call('HMGET', P .. 's:' .. sid, 'settled', 'owner')
if owner == '' then owner = session[2] end

local before = tonumber(session[1])
if settled > before then
  call('HSET', P .. 's:' .. sid, 'settled', text(settled))
  local known = settled - before
  if known <= 64 then
    for each = before + 1, settled do call('HDEL', P .. 'r:' .. sid, text(each)) end
  else
    for _, each in ipairs(call('HKEYS', P .. 'r:' .. sid)) do
      if tonumber(each) <= settled then call('HDEL', P .. 'r:' .. sid, each) end
    end
  end
  before = settled
end

local request = request_of(sid, rid)
local number
if request then
  if request.fingerprint and request.fingerprint ~= fingerprint then
    return problem('conflict', '{OTHER_BODY}', {{field = 'request_id'}})
  end
  if request.state == 'refused' then return problem(request.code, request.detail, request.more) end
  if request.state == 'granted' then
    if call('HEXISTS', P .. 'sh:' .. sid, text(request.token)) == 0 then
      return problem('not_held', 'the hold has ended: released', {{ended = 'released'}})
    end
    request.left = left
    return cjson.encode(request)
  end
  number = text(request.number)
elseif tonumber(rid) <= before then
  return problem('conflict', '{SETTLED}', {{field = 'request_id'}})
elseif call('HLEN', P .. 'r:' .. sid) >= {REQUESTS_REMEMBERED_MAX} then
  return problem('limit_reached', 'the limit of {REQUESTS_REMEMBERED_MAX} remembered requests of a session is reached',
    {{limit = 'request_ids_per_session_max'}})
end

local holders, seen, free, blocked, waiting = {{}}, {{}}, true, nil, 0
local function soon(ms) if not blocked or ms < blocked then blocked = ms end end
for _, key in ipairs(keys) do
  local h = holder(key)
  if h then
    free = false
    soon(h.left)
    if not seen[h.token] then
      seen[h.token] = true
      holders[#holders + 1] = h
    end
  end
  local first_waiter = head(key)
  if first_waiter and first_waiter ~= number then
    free = false
    local w = call('HMGET', P .. 'w:' .. first_waiter, 'session', 'deadline')
    soon(math.min(tonumber(w[2]) - now, left_of(w[1]) or 0))
  end
  waiting = math.max(waiting, call('ZCARD', P .. 'q:' .. key))
end

if free then
  local token = call('INCR', P .. 'token')
  local previous = {{}}
  for i, key in ipairs(keys) do
    local k = call('HMGET', P .. 'k:' .. key, 'token', 'ended')
    previous[i] = (k[1] and k[2] ~= '') and {{token = tonumber(k[1]), ended = k[2]}} or cjson.null
    call('HSET', P .. 'k:' .. key, 'token', text(token), 'session', sid, 'owner', owner, 'ended', '')
    call('ZREM', P .. 'ended', key)
    call('ZADD', P .. 'inuse', 0, key)
  end
  call('HSET', P .. 'sh:' .. sid, text(token), cjson.encode(keys))
  if number then drop_waiter(number) end
  request = {{state = 'granted', fingerprint = fingerprint, token = token, previous = previous,
    horizon = tonumber(call('GET', P .. 'horizon') or '0')}}
  keep_request(sid, rid, request)
  request.left = left
  return cjson.encode(request)
end

if not number and wait_ms == 0 then
  request = {{state = 'refused', fingerprint = fingerprint, code = 'held', detail = 'a key is held or waited for',
    more = {{holders = holders, queue_length = waiting}}}}
  keep_request(sid, rid, request)
  return problem(request.code, request.detail, request.more)
end
if not number then
  number = text(call('INCR', P .. 'number'))
  call('HSET', P .. 'w:' .. number, 'session', sid, 'request', rid, 'keys', cjson.encode(keys), 'owner', owner,
    'deadline', text(now + wait_ms))
  call('SADD', P .. 'sw:' .. sid, number)
  for _, key in ipairs(keys) do
    call('ZADD', P .. 'q:' .. key, number, number)
    call('ZADD', P .. 'inuse', 0, key)
  end
  keep_request(sid, rid, {{state = 'waiting', fingerprint = fingerprint, number = tonumber(number)}})
  return cjson.encode({{waiting = true, number = tonumber(number), wait_left = wait_ms, blocked = blocked}})
end
local deadline = tonumber(call('HGET', P .. 'w:' .. number, 'deadline'))
if first and now + wait_ms > deadline then
  deadline = now + wait_ms
  call('HSET', P .. 'w:' .. number, 'deadline', text(deadline))
end
if deadline <= now then
  drop_waiter(number, 'wait_timeout', 'waited in vain')
  wake(keys)
  return problem('wait_timeout', 'waited in vain')
end
return cjson.encode({{waiting = true, number = tonumber(number), wait_left = deadline - now, blocked = blocked}})
"""

_RELEASE_FUNCTION: Final = f"""
local function release(sid, token)
  local keys = end_hold(sid, token, 'released')
  call('ZADD', P .. 'sr:' .. sid, token, token)
  call('ZREMRANGEBYRANK', P .. 'sr:' .. sid, 0, -{RELEASES_REMEMBERED + 1})
  wake(keys)
end
"""

_RELEASE: Final = (
    _RELEASE_FUNCTION
    + """
local sid, token = ARGV[1], ARGV[2]
if not left_of(sid) then return gone(sid) end
if call('HEXISTS', P .. 'sh:' .. sid, token) == 1 then
  release(sid, token)
elseif not call('ZSCORE', P .. 'sr:' .. sid, token) then
  return problem('not_held', 'this session holds nothing under this token')
end
return '{}'
"""
)

_CANCEL: Final = (
    _RELEASE_FUNCTION
    + """
local sid, rid = ARGV[1], ARGV[2]
if not left_of(sid) then return gone(sid) end
local request = request_of(sid, rid)
if not request then
  if tonumber(rid) > tonumber(call('HGET', P .. 's:' .. sid, 'settled')) then
    keep_request(sid, rid,
      {state = 'refused', code = 'wait_timeout', detail = 'cancelled by its client before it arrived'})
  end
elseif request.state == 'waiting' then
  wake(drop_waiter(text(request.number), 'wait_timeout', 'cancelled by its client') or {})
elseif request.state == 'granted' and call('HEXISTS', P .. 'sh:' .. sid, text(request.token)) == 1 then
  release(sid, text(request.token))
  return cjson.encode({released = request.token})
end
return '{}'
"""
)

_VIEW_FUNCTION: Final = f"""
local function view(key)
  local waiters = {{}}
  head(key)
  for _, number in ipairs(call('ZRANGE', P .. 'q:' .. key, 0, {WAITERS_SHOWN_MAX - 1})) do
    local w = call('HMGET', P .. 'w:' .. number, 'session', 'owner', 'keys', 'deadline')
    waiters[#waiters + 1] = {{session = w[1], owner = w[2] ~= '' and w[2] or nil, keys = cjson.decode(w[3]),
      left = tonumber(w[4]) - now}}
  end
  return {{key = key, holder = holder(key), waiters = waiters, queue_length = call('ZCARD', P .. 'q:' .. key)}}
end
"""

_READ: Final = _VIEW_FUNCTION + "return cjson.encode(view(ARGV[1]))"

_LIST: Final = (
    _VIEW_FUNCTION
    + """
local prefix, after, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local from = '[' .. prefix
if after ~= '' and after >= prefix then from = '(' .. after end
local to = prefix == '' and '+' or '(' .. prefix .. string.char(255)
if from == '[' then from = '-' end
local found = {}
while #found < limit do
  local names = call('ZRANGEBYLEX', P .. 'inuse', from, to, 'LIMIT', 0, limit)
  for _, key in ipairs(names) do
    local one = view(key)
    if (one.holder or one.queue_length > 0) and #found < limit then found[#found + 1] = one end
  end
  if #names < limit then break end
  from = '(' .. names[#names]
end
return cjson.encode(found)
"""
)

SCRIPTS: Final = {
    "open": _PRELUDE + _OPEN,
    "renew": _PRELUDE + _RENEW,
    "close": _PRELUDE + _CLOSE,
    "acquire": _PRELUDE + _ACQUIRE,
    "release": _PRELUDE + _RELEASE,
    "cancel": _PRELUDE + _CANCEL,
    "read": _PRELUDE + _READ,
    "list": _PRELUDE + _LIST,
    "time": _PRELUDE + "return cjson.encode({now = now})",
}

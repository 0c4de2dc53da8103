-- wrk: acquire and release over plain HTTP with JSON, against one node. SESSION is a session's id.
-- A release carries the token of an answer, so whatever was granted is released next, on whichever connection is free.
-- Counted: answers that are a success.
local session = os.getenv("SESSION")
local head = "POST /v1/locks/%s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
local tokens, number, threads = {}, 0, {}
ok, failed = 0, 0

function setup(thread) table.insert(threads, thread) end

function request()
  local token = table.remove(tokens)
  local call, body
  if token then
    call, body = "release", string.format('{"token":%s,"session":"%s"}', token, session)
  else
    number = number + 1
    call, body = "acquire", string.format('{"key":"gateway/%d","session":"%s"}', number, session)
  end
  return string.format(head, call, #body, body)
end

function response(status, headers, body)
  if status ~= 200 then failed = failed + 1 return end
  ok = ok + 1
  local token = string.match(body, '"token":(%d+)')
  if token then table.insert(tokens, token) end
end

function done(summary, latency)
  local o, f = 0, 0
  for _, thread in ipairs(threads) do o = o + thread:get("ok"); f = f + thread:get("failed") end
  local e = summary.errors
  io.write(string.format('JSON {"ok":%d,"failed":%d,"us":%d,"p50":%d,"p99":%d,"errors":%d}\n', o, f, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.timeout))
end

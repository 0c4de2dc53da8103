-- wrk: the same against etcd's JSON gateway: put if absent under a lease, delete if it is ours. LEASE is its id, CONNECTIONS how many.
-- The answer does not say which key it was, so keys are taken from a ring: one is released so many requests after it was asked for
-- that the answer has come. Counted: answers that say that the transaction was carried out.
local lease, connections = os.getenv("LEASE"), tonumber(os.getenv("CONNECTIONS"))
local ring, step, threads = 4 * connections, 0, {}
local acquires, releases = {}, {}
ok, failed = 0, 0

function setup(thread) table.insert(threads, thread) end

function init()
  local headers = { ["Content-Type"] = "application/json" }
  for number = 0, ring - 1 do
    local key = string.format("%08d", number)  -- eight digits are themselves base64
    acquires[number] = wrk.format("POST", "/v3/kv/txn", headers, string.format(
      '{"compare":[{"target":"CREATE","result":"EQUAL","key":"%s","create_revision":"0"}],' ..
      '"success":[{"request_put":{"key":"%s","value":"b3duZXIx","lease":"%s"}}]}', key, key, lease))
    releases[number] = wrk.format("POST", "/v3/kv/txn", headers, string.format(
      '{"compare":[{"target":"VALUE","result":"EQUAL","key":"%s","value":"b3duZXIx"}],' ..
      '"success":[{"request_delete_range":{"key":"%s"}}]}', key, key))
  end
end

function request()
  local number = math.floor(step / 2)
  local chosen = step % 2 == 0 and acquires[number % ring] or releases[(number - connections) % ring]
  step = step + 1
  return chosen
end

function response(status, headers, body)
  if string.find(body, '"succeeded":true', 1, true) then ok = ok + 1 else failed = failed + 1 end
end

function done(summary, latency)
  local o, f = 0, 0
  for _, thread in ipairs(threads) do o = o + thread:get("ok"); f = f + thread:get("failed") end
  local e = summary.errors
  io.write(string.format('JSON {"ok":%d,"failed":%d,"us":%d,"p50":%d,"p99":%d,"errors":%d}\n', o, f, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.timeout))
end

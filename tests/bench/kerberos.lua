-- wrk's part: each request is a login with the next proof of a file, one a line, and from its end on with the first again.
-- Arguments: that file; without one, requests that bring nothing.

local thread = {}

function setup(it)
  thread = it
end

local requests, next_one = {}, 0
local path = "/v1/auth/kerberos-bench_default/login"

function init(arguments)
  accepted_here, declined_here = 0, 0
  if arguments[1] then
    for line in io.lines(arguments[1]) do
      requests[#requests + 1] = wrk.format("POST", path, { ["Authorization"] = "Negotiate " .. line, ["Host"] = "localhost" }, "")
    end
  else
    requests[1] = wrk.format("POST", path, { ["Host"] = "localhost" }, "")
  end
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
end

function response(status, headers, body)
  if body:find('"auth":{', 1, true) then
    accepted_here = accepted_here + 1
  else
    declined_here = declined_here + 1
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nFOUND {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "accepted": %d, "declined": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    thread:get("accepted_here"), thread:get("declined_here"), errors.connect + errors.read + errors.write + errors.timeout))
end

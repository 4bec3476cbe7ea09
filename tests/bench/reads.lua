-- wrk's part: each request is one person's, drawn anew from the lines "TOKEN OWNER" of a file.
-- Arguments: that file; how many of its lines to use, spread over the whole of it; "creds" to read the person's credential, or
-- "token" to look the token up; ports of the servers, one for each thread in turn, where they are several.

local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local requests = {}

function init(arguments)
  local file, wanted, what = arguments[1], tonumber(arguments[2]), arguments[3]
  local count = 0
  for _ in io.lines(file) do
    count = count + 1
  end
  local step = math.max(1, math.floor(count / wanted))
  local index = 0
  for line in io.lines(file) do
    if index % step == 0 and #requests < wanted then
      local token, owner = line:match("^(%S+) (%S+)$")
      local path = "/v1/auth/token/lookup-self"
      if what == "creds" then
        path = "/v1/secret/oauth/creds/bench/" .. owner .. ":default?minimum_seconds=60"
      end
      requests[#requests + 1] = wrk.format("GET", path, { ["X-Vault-Token"] = token, ["Host"] = "localhost" })
    end
    index = index + 1
  end
  if #arguments > 3 then
    wrk.thread.addr = wrk.lookup("127.0.0.1", arguments[4 + number % (#arguments - 3)])[1]
  end
  math.randomseed(os.time() + number)
end

function request()
  return requests[math.random(#requests)]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nFOUND {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end

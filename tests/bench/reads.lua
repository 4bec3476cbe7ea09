-- wrk's part: each request reads the credential of one person, drawn anew from the lines "TOKEN OWNER" of a file.
-- Arguments: that file, and how many of its lines to use, spread over the whole of it.

local requests = {}

function init(arguments)
  local path, wanted = arguments[1], tonumber(arguments[2])
  local lines = {}
  for line in io.lines(path) do
    lines[#lines + 1] = line
  end
  local step = math.max(1, math.floor(#lines / wanted))
  for index = 1, #lines, step do
    local token, owner = lines[index]:match("^(%S+) (%S+)$")
    requests[#requests + 1] = wrk.format("GET", "/v1/secret/oauth/creds/bench/" .. owner .. ":default?minimum_seconds=60",
      { ["X-Vault-Token"] = token, ["Host"] = "localhost" })
    if #requests == wanted then
      break
    end
  end
  math.randomseed(os.time())
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

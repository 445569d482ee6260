-- Which replica gets a request: the policy of melange-sky's gateway (melange_sky/routing/policy.py) on the
-- plan's own tables (plan.lua), within HAProxy. One state for all threads of the process.
--
-- A request passes `melange_admit` (path, key), `melange_read` (its size) and, in its model's backend,
-- `melange_route` (the replica); `melange_served` looks at the answer. HAProxy itself repeats a request
-- that failed before its answer began: at the server `again`, which is its own frontend of that name.
-- There the request is routed anew, past what it has tried, which its headers say.
local plan, requests = melange_plan, melange_requests
local floor, max, min, huge = math.floor, math.max, math.min, math.huge

local SPILL_LOAD, SPILL_GAIN, CREDIT_BOUND, OFF_PLAN, TIE_BREAK = 0.8, 8.0, 1.5, -2.0, 1e-3
local WINDOW_S, VOLUME, SHARE, MARGIN, LEAST_OUT_S, MOST_OUT_S = 20, 5, 0.5, 0.3, 1, 30
local MOST_NAME = 100

local function now()
  local t = core.now()
  return t.sec + t.usec / 1e6
end

-- Keys: in the environment or a file, never in what was exported.
local function lines(given)
  local keys = {}
  for line in (given or ""):gmatch("[^\r\n]+") do
    line = line:match("^%s*(.-)%s*$")
    if line ~= "" then keys[#keys + 1] = line end
  end
  return keys
end

local function keys_of(file, variable)
  if not file then return lines(os.getenv(variable)) end
  local handle = assert(io.open(file, "r"), "cannot read the key file " .. file)
  local keys = lines(handle:read("a"))
  handle:close()
  assert(#keys > 0, "no key in " .. file)
  return keys
end

local client_keys = keys_of(plan.key_file, "MELANGE_SKY_API_KEY")
local replica_key = keys_of(plan.replica_key_file, plan.replica_key_variable)[1]
assert(#client_keys > 0 or not plan.key_needed,
  "others can reach the address: set MELANGE_SKY_API_KEY, or export with --api-key-file or --no-key")
local digests, pass

-- What no replica can know, and what is the same before and after a reload.
local function boot_id()
  local file = io.open("/proc/sys/kernel/random/boot_id", "r")
  local id = file and file:read("a") or ""
  if file then file:close() end
  return id
end
local boot = boot_id()

local function learn_keys(txn)
  digests = {}
  for _, key in ipairs(client_keys) do digests[txn.c:sha2(key, 256)] = true end
  -- what `again` asks for in place of the key, which no replica sees
  pass = txn.c:hex(txn.c:sha2("again\n" .. boot .. table.concat(client_keys, "\n"), 256))
end

-- Models and their servers. `out_until` nil: in use; else left out, on trial one at a time after it.
local by_name, by_backend = {}, {}
math.randomseed(floor(now() * 1e6) % 2147483647)
for _, model in ipairs(plan.models) do
  by_backend[model.backend] = model
  for _, name in ipairs(model.names) do by_name[name] = model end
  model.by_server, model.servers, model.most_tokens = {}, 0, 0
  for _, option in ipairs(model.options) do
    option.cursor = 0
    model.most_tokens = max(model.most_tokens, option.limit_tokens)
    for _, server in ipairs(option.servers) do
      server.option, server.suspect = option, false
      server.bad, server.all, server.at, server.lasts, server.back = 0, 0, 0, 0, -huge
      model.by_server[server.name] = server
      model.servers = model.servers + 1
    end
  end
  model.credit, model.recent = {}, {}
  for c, mix in ipairs(model.mix) do
    model.recent[c] = {table.unpack(mix)}
    local phases, sum = {}, 0
    for k, share in ipairs(mix) do
      phases[k] = share * (math.random() - 0.5)
      sum = sum + phases[k]
    end
    for k, share in ipairs(mix) do phases[k] = share > 0 and phases[k] - sum / #mix or 0 end
    model.credit[c] = phases
  end
end

-- Answers of its own, in OpenAI's form.
local function quoted(s) return '"' .. s:gsub('["\\]', "\\%0") .. '"' end
local function shown(s) return (s:sub(1, MOST_NAME):gsub("[^\x20-\x7e]", "?")) end

local function answer(txn, status, body, headers)
  local reply = txn:reply({status = status})
  reply:add_header("content-type", "application/json")
  for name, value in pairs(headers or {}) do reply:add_header(name, value) end
  if txn.sf:method() ~= "HEAD" then reply:set_body(body) end
  txn:done(reply)
end

local ANTHROPIC = {["/v1/messages"] = true, ["/v1/messages/count_tokens"] = true}
local KINDS = {[401] = "authentication_error", [404] = "not_found_error", [503] = "overloaded_error"}

local function refuse(txn, status, message, code, param, headers)
  local kind = status < 500 and "invalid_request_error" or "server_error"
  local start = "{"
  if ANTHROPIC[txn.sf:path()] then
    start, kind = '{"type": "error", ', KINDS[status] or (status < 500 and kind or "api_error")
  end
  if status == 429 then kind = "rate_limit_error" end
  answer(txn, status, start .. '"error": {"message": ' .. quoted(message) .. ', "type": "' .. kind ..
    '", "param": ' .. (param and quoted(param) or "null") .. ', "code": "' .. code .. '"}}', headers)
end

local function unknown(txn, name)
  local said = name and "'" .. shown(name) .. "'" or "none given"
  refuse(txn, 404, "no such model (" .. said .. "); see /v1/models", "model_not_found", "model")
end

-- Paths and keys.
local function card(name)
  return '{"id": ' .. quoted(name) .. ', "object": "model", "created": 0, "owned_by": "melange-sky"}'
end

local function models(txn, path)
  local name = path:match("^/v1/models/(.+)$")
  if name then
    if by_name[name] then return answer(txn, 200, card(name)) end
    return unknown(txn, name)
  end
  local cards = {}
  for _, model in ipairs(plan.models) do
    for _, each in ipairs(model.names) do cards[#cards + 1] = card(each) end
  end
  answer(txn, 200, '{"object": "list", "data": [' .. table.concat(cards, ", ") .. "]}")
end

local function health(txn)
  if txn.sf:stopping() == "1" then
    return answer(txn, 503, '{"status": "draining"}', {["retry-after"] = "1"})
  end
  for _, model in ipairs(plan.models) do
    local backend = core.backends[model.backend]
    for name, server in pairs(backend.servers) do
      if model.by_server[name] and server:get_stats().status:find("^UP") then
        return answer(txn, 200, '{"status": "ok"}')
      end
    end
  end
  answer(txn, 503, '{"status": "no replica"}', {["retry-after"] = "2"})
end

local function authorized(txn)
  if #client_keys == 0 then return true end
  if not digests then learn_keys(txn) end
  local given = txn.sf:req_hdr("authorization")
  local scheme, key = given:match("^(%S+)%s+(.-)%s*$")
  if given == "" then scheme, key = "bearer", txn.sf:req_hdr("x-api-key") end
  return scheme ~= nil and scheme:lower() == "bearer" and digests[txn.c:sha2(key, 256)] == true
end

local NO_KEY = "a valid API key is needed (Authorization: Bearer)"

local function admit_post(txn, ask)
  local encoding = txn.sf:req_hdr("content-encoding"):lower()
  if encoding ~= "" and encoding ~= "identity" then
    return refuse(txn, 415, "a compressed body is not accepted", "unsupported_encoding")
  end
  ask.length = tonumber(txn.sf:req_hdr("content-length"))
  if (ask.length or 0) > plan.body_bytes then
    return refuse(txn, 413, "the body is larger than " .. plan.body_bytes .. " bytes", "body_too_large",
      nil, {connection = "close"})
  end
  local id = txn.sf:req_hdr("x-request-id")
  ask.id = id:match("^[A-Za-z0-9._-]+$") and #id <= 128 and id or txn.f:uuid():gsub("-", "")
  txn:set_var("txn.id", ask.id)
  txn:set_priv(ask)
end

core.register_action("melange_admit", {"http-req"}, function(txn)
  local path, method = txn.sf:path(), txn.sf:method()
  if requests.paths[path] then
    if method ~= "POST" then
      return refuse(txn, 405, "this path does not allow the method", "method_not_allowed", nil, {allow = "POST"})
    end
    if not authorized(txn) then
      return refuse(txn, 401, NO_KEY, "invalid_key", nil, {["www-authenticate"] = "Bearer"})
    end
    return admit_post(txn, {path = path, hop = 1, tried = {}})
  end
  local listed = path == "/v1/models" or path:find("^/v1/models/.")
  if not listed and path ~= "/health" and path ~= "/metrics" then
    return refuse(txn, 404, "no such path", "not_found")
  end
  if method ~= "GET" and method ~= "HEAD" then
    return refuse(txn, 405, "this path does not allow the method", "method_not_allowed", nil, {allow = "GET, HEAD"})
  end
  if path == "/health" then return health(txn) end
  if not authorized(txn) then
    return refuse(txn, 401, NO_KEY, "invalid_key", nil, {["www-authenticate"] = "Bearer"})
  end
  if listed then models(txn, path) end
end)

core.register_action("melange_readmit", {"http-req"}, function(txn)
  if not digests then learn_keys(txn) end
  if txn.sf:req_hdr("x-melange-pass") ~= pass then
    return refuse(txn, 401, NO_KEY, "invalid_key")
  end
  local ask = {path = txn.sf:path(), hop = tonumber(txn.sf:req_hdr("x-melange-hop")) + 1, tried = {}}
  for name in txn.sf:req_hdr("x-melange-tried"):gmatch("[^, ]+") do ask.tried[name] = true end
  txn:set_var("txn.attempts", ask.hop - 1)
  if ask.hop > plan.attempts then
    return refuse(txn, 502, "the replicas that were tried cannot be reached", "replica_error")
  end
  admit_post(txn, ask)
end)

-- Sizes.
local function bucket(edges, tokens)
  local last = #edges - 1
  for i = 1, last - 1 do
    if tokens <= edges[i + 1] then return i end
  end
  return last
end

local function class_of(model, input_tokens, max_tokens)
  local outputs = #model.output_edges - 1
  local most = outputs + 1
  if max_tokens and max_tokens > 0 then most = bucket(model.output_edges, max_tokens) end
  return (bucket(model.input_edges, input_tokens) - 1) * (outputs + 1) + most
end

local function model_of(name)
  if name ~= nil then return by_name[name] end
  return #plan.models == 1 and plan.models[1] or nil
end

local function body_of(txn, ask)
  local body = txn.sf:req_body()
  local whole = ask.length and #body >= ask.length or not ask.length and #body < plan.whole_bytes
  if whole then return requests.read(ask.path, body, plan.bytes_per_token) end
  return requests.skim(ask.path, body, ask.length or plan.body_bytes, plan.bytes_per_token), nil, true
end

core.register_action("melange_read", {"http-req"}, function(txn)
  local ask = txn:get_priv()
  local got, wrong, skimmed = body_of(txn, ask)
  if not got then return refuse(txn, wrong[1], wrong[2], wrong[3], wrong[4]) end
  local model = model_of(got.model)
  if skimmed and not model then
    return refuse(txn, 413, "the model's name is not within the first " .. plan.whole_bytes ..
      " bytes of the body, and larger ones are not read", "body_too_large", nil, {connection = "close"})
  end
  if not model then return unknown(txn, got.model) end
  local sequences = got.prompts * got.choices
  if got.choices > model.most_choices or sequences > model.most_sequences then
    return refuse(txn, 400, "asks for " .. sequences .. " answers at once; this model takes n up to " ..
      model.most_choices .. " and " .. model.most_sequences .. " answers in all", "invalid_value",
      got.choices > 1 and "n" or "prompt")
  end
  if skimmed then -- images, mostly: as the longest request that is taken
    got.longest_tokens = min(got.longest_tokens, model.most_tokens)
  end
  ask.longest, ask.class = got.longest_tokens, class_of(model, got.input_tokens, got.max_tokens)
  if plan.session_header then
    local given = txn.sf:req_hdr(plan.session_header)
    ask.session = given ~= "" and given or got.session
  end
  txn:set_var("txn.model", model.name)
  txn:set_var("txn.backend", model.backend)
  txn:set_var("txn.input", got.input_tokens)
  if got.max_tokens then txn:set_var("txn.most", got.max_tokens) end
  txn:set_var("txn.stream", got.stream)
end)

-- The policy. Loads are counted in requests: those of a replica by `slots`, how many of the planned mix
-- it holds at its capacity.
local function admits(server, at)
  return not server.out_until or at >= server.out_until
end

-- Look at the servers of an option: return load, number and the least loaded of those that may be used.
-- What waits for a server counts as what it serves.
local function look(txn, option, barred, at)
  local servers = option.servers
  local n = #servers
  local first = option.cursor
  local copies, conns, best, least, best_at = 0, 0, nil, huge, 0
  for step = 0, n - 1 do
    local i = (first + step) % n
    local server = servers[i + 1]
    if not barred[server.name] and admits(server, at) and txn.f:srv_is_up(server.name) then
      local own = txn.f:srv_conn(server.name) + txn.f:srv_queue(server.name)
      copies, conns = copies + server.copies, conns + own
      if own / server.copies < least then best, least, best_at = server, own / server.copies, i end
    end
  end
  if not best then return 0, 0, nil end
  return conns / (copies * option.slots), copies, best, best_at
end

local function pay(model, seen, c, chosen, total)
  local mix, credit = model.mix[c], model.credit[c]
  for k = 1, #mix do
    if seen[k] and seen[k].usable and mix[k] > 0 then
      local owed = credit[k] + mix[k]
      if k == chosen then owed = owed - total end
      credit[k] = min(CREDIT_BOUND, max(-CREDIT_BOUND, owed))
    end
  end
end

local function take(seen, k)
  local found = seen[k]
  found.option.cursor = (found.at + 1) % #found.option.servers
  return found.server
end

-- Where no fitting option is free: wait where one is healthy, else any other option that is free.
local function choose_unfit(model, seen, c, tokens)
  local best, lowest, waits, shortest, full = nil, huge, nil, huge, false
  for k, found in pairs(seen) do
    local option = found.option
    local fits = tokens <= option.limit_tokens
    if model.fit[c][k] and fits then
      if found.load < shortest then waits, shortest = k, found.load end
    elseif found.load >= plan.full_load then
      full = true
    else
      local load = found.load + (fits and 0 or 1e6 + 1e6 / option.limit_tokens)
      if load < lowest then best, lowest = k, load end
    end
  end
  if waits then return take(seen, waits), "full" end
  if best then return take(seen, best), "unfit" end
  return nil, full and "full" or "down"
end

-- Look at all options: what is there of each, and whether it can take the request.
local function survey(txn, model, ask, barred, at)
  local seen, fit = {}, model.fit[ask.class]
  for k, option in ipairs(model.options) do
    local load, copies, server, place = look(txn, option, barred, at)
    if copies > 0 then
      local usable = fit[k] and ask.longest <= option.limit_tokens and load < plan.full_load
      seen[k] = {load = load, server = server, at = place, option = option, usable = usable, copies = copies}
    end
  end
  return seen
end

local function choose(model, ask, seen)
  local c, tokens = ask.class, ask.longest
  local mix, credit = model.mix[c], model.credit[c]
  local best, best_score, planned, top, total = nil, -huge, nil, -huge, 0
  for k = 1, #mix do
    local found = seen[k]
    if found and found.usable then
      local owed = OFF_PLAN
      if mix[k] > 0 then
        total, owed = total + mix[k], credit[k] + mix[k]
        if owed > top then top, planned = owed, k end
      end
      local score = owed - TIE_BREAK * found.load
      if found.load > SPILL_LOAD then score = score - SPILL_GAIN * (found.load - SPILL_LOAD) end
      if score > best_score then best, best_score = k, score end
    end
  end
  if not best then return choose_unfit(model, seen, c, tokens) end
  if mix[best] > 0 then pay(model, seen, c, best, total) end
  local spilled = planned and best ~= planned and seen[planned].load > SPILL_LOAD -- else a tie, which loads broke
  return take(seen, best), not planned and "failover" or spilled and "spilled" or "planned"
end

-- Sessions (melange_sky/routing/affinity.py): a session is a point; each class divides all points among
-- the options by the plan's shares, so that a session stays where it is. Within an option it goes to the
-- replica that its hash puts first (rendezvous hashing), past those that hold more than 1.25 times the mean.
local SPAN, DRAWS, RECENT = 1 << 30, 8, 1024
local LEAST_LOAD, MOST_LOAD, OVER_SHARE = 0.95, 1.25, 0.2

local function option_at(pieces, point)
  local i = 1
  while pieces[i] <= point do i = i + 2 end
  return pieces[i + 1]
end

local function mixed(seed, low, high)
  local h = (seed ~ low ~ (high << 30)) * 0x9E3779B97F4A7C15
  h = (h ~ (h >> 29)) * 0xBF58476D1CE4E5B
  return (h ~ (h >> 32)) >> 1
end

local function seat(txn, found, barred, at, low, high)
  local most = math.ceil(1.25 * (found.load * found.copies * found.option.slots + 1) / found.copies)
  local best, rank = nil, -1
  for _, server in ipairs(found.option.servers) do
    if not barred[server.name] and admits(server, at) and txn.f:srv_is_up(server.name) and
      txn.f:srv_conn(server.name) / server.copies < most then
      local own = mixed(server.seed, low, high)
      if own > rank then best, rank = server, own end
    end
  end
  return best or found.server
end

local function count_share(recent, chosen)
  for k = 1, #recent do recent[k] = recent[k] * (1 - 1 / RECENT) end
  recent[chosen] = recent[chosen] + 1 / RECENT
end

local function choose_home(txn, model, ask, seen, barred, at)
  local low, high = string.unpack(">I4I4", txn.c:sha2(ask.session, 256))
  low, high = low & (SPAN - 1), high & (SPAN - 1)
  local point = (low * 0x2C1B3C6D + high * 0x297A2D39) & (SPAN - 1)
  local patience = (point & 255) / 256
  local pieces, recent, most = model.pieces[ask.class], model.recent[ask.class], model.most[ask.class]
  local home, place = option_at(pieces, point), point
  local home_is_there = seen[home] and seen[home].usable
  for draw = 1, DRAWS do
    local k = draw == 1 and home or option_at(pieces, place)
    place = (place + 2 * high + 1) & (SPAN - 1)
    local found = (draw == 1 or k ~= home) and seen[k]
    if found and found.usable and found.load <= LEAST_LOAD + (MOST_LOAD - LEAST_LOAD) * patience and
      recent[k] <= most[k] * (1 + OVER_SHARE * patience) then
      count_share(recent, home_is_there and k or home)
      return seat(txn, found, barred, at, low, high), k ~= home and home_is_there and "spilled" or "planned"
    end
  end
  if home_is_there and seen[home].load < MOST_LOAD then
    count_share(recent, home)
    return seat(txn, seen[home], barred, at, low, high), "planned"
  end
  return choose(model, ask, seen)
end

local function place_for(txn, model, ask, barred, at)
  local seen = survey(txn, model, ask, barred, at)
  if ask.session then return choose_home(txn, model, ask, seen, barred, at) end
  return choose(model, ask, seen)
end

-- Any server that was not tried, where none may be used: better one in doubt than none.
local function last_resort(txn, model, barred)
  local best, rank = nil, -1
  for _, option in ipairs(model.options) do
    for _, server in ipairs(option.servers) do
      if not barred[server.name] then
        local own = (txn.f:srv_is_up(server.name) and 2 or 0) + math.random()
        if own > rank then best, rank = server, own end
      end
    end
  end
  return best
end

local function pick(txn, model, ask)
  local at = now()
  local server, reason
  if ask.hop > 1 then -- better one whose last request went well
    local doubtful = {}
    for name, each in pairs(model.by_server) do doubtful[name] = each.suspect or ask.tried[name] end
    server, reason = place_for(txn, model, ask, doubtful, at)
    if reason == "full" then server = nil end
  end
  if not server then server, reason = place_for(txn, model, ask, ask.tried, at) end
  if not server and reason == "down" then
    server, reason = last_resort(txn, model, ask.tried), "failover"
  end
  if server and server.out_until then -- one request at a time tries it, or the next after a while
    server.out_until, ask.trial = at + max(server.lasts, LEAST_OUT_S), true
  end
  return server, reason
end

local function waiting(txn, model)
  local n = 0
  for _, option in ipairs(model.options) do
    for _, server in ipairs(option.servers) do n = n + txn.f:srv_queue(server.name) end
  end
  return n
end

-- Note who serves, for the log: the last one that was tried, where none could.
local function tell(txn, server, attempts, reason)
  if server then
    txn:set_var("txn.option", server.option.name)
    txn:set_var("txn.replica", server.name)
  end
  txn:set_var("txn.attempts", attempts)
  txn:set_var("txn.reason", reason)
end

core.register_action("melange_route", {"http-req"}, function(txn)
  local ask = txn:get_priv()
  local model = by_backend[txn.f:be_name()]
  local before, tried = 0, {}
  for name in pairs(ask.tried) do
    local server = model.by_server[name]
    if server then
      before, tried[#tried + 1], server.suspect = before + 1, name, true
    end
  end
  local server, reason = pick(txn, model, ask)
  if reason == "full" and (not server or waiting(txn, model) >= plan.queue_length) then
    return refuse(txn, 429, "all replicas that serve this model are full; try again later", "overloaded",
      nil, {["retry-after"] = "2"})
  end
  if not server then
    if ask.hop > 1 then
      return refuse(txn, 502, "every replica that was tried failed", "replica_error")
    end
    return refuse(txn, 503, "no healthy replica serves this model now", "no_replica", nil, {["retry-after"] = "2"})
  end
  ask.server, ask.reason = server, reason
  tried[#tried + 1] = server.name
  txn:set_var("txn.server", server.name)
  txn:set_var("txn.last", ask.hop >= plan.attempts or before + 1 >= model.servers)
  tell(txn, server, ask.hop, reason)
  local http = txn.http
  http:req_set_header("x-melange-hop", ask.hop)
  http:req_set_header("x-melange-tried", table.concat(tried, ","))
  if not pass then learn_keys(txn) end
  http:req_set_header("x-melange-pass", pass)
  http:req_set_header("x-request-id", ask.id)
  http:req_set_header("host", server.host)
  if replica_key then http:req_set_header("authorization", "Bearer " .. replica_key) end
end)

-- What the answers say of servers. A failure counts only where another server then served the same
-- request: what fails everywhere is the request's own fault.
local function fade(server, at)
  local kept = math.exp((server.at - at) / WINDOW_S)
  server.bad, server.all, server.at = server.bad * kept, server.all * kept, at
end

local function leave_out(server, at)
  local relapse = server.out_until or at - server.back < 10 * server.lasts
  server.lasts = max(LEAST_OUT_S, relapse and min(MOST_OUT_S, 2 * server.lasts) or LEAST_OUT_S)
  server.out_until = at + server.lasts
end

local function stands_out(model, server, at)
  if server.all < VOLUME - 0.5 or server.bad < SHARE * server.all then return false end
  local out, bad, all = 1, 0, 0
  for _, each in pairs(model.by_server) do
    if each ~= server then
      if each.out_until then
        out = out + 1
      else
        fade(each, at)
        bad, all = bad + each.bad, all + each.all
      end
    end
  end
  if out > model.servers / 2 then return false end
  local usual = all >= VOLUME and bad / all or 0
  return server.bad / server.all >= usual + MARGIN
end

local function failed(model, server, at)
  if server.out_until then return leave_out(server, at) end
  fade(server, at)
  server.bad, server.all = server.bad + 1, server.all + 1
  if stands_out(model, server, at) then
    leave_out(server, at)
    core.Warning(model.backend .. "/" .. server.name .. " fails more than the others, left out for a while")
  end
end

local function good(server, trial, at)
  server.suspect = false
  if not server.out_until then
    fade(server, at)
    server.all = server.all + 1
  elseif trial then
    server.out_until, server.bad, server.all, server.back = nil, 0, 0, at
  end
end

core.register_action("melange_served", {"http-res"}, function(txn)
  local ask = txn:get_priv()
  if not ask or not ask.server then return end
  local model = by_backend[txn.f:be_name()]
  if txn.f:srv_name() ~= ask.server.name then
    local name, attempts, reason = txn.sf:res_hdr("x-melange-served"):match("^(%S+) (%d+) (%l+)$")
    if name then tell(txn, model.by_server[name], tonumber(attempts), reason) end
    return
  end
  txn.http:res_set_header("x-melange-served", ask.server.name .. " " .. ask.hop .. " " .. ask.reason)
  local status = txn.f:status()
  if status >= 500 or status == 401 or status == 403 or status == 429 then return end
  local at = now()
  good(ask.server, ask.trial, at)
  if status >= 300 then return end
  for name in pairs(ask.tried) do
    if model.by_server[name] then failed(model, model.by_server[name], at) end
  end
end)

-- What a request asks for and how long its prompt is, read from its body as the gateway of melange-sky
-- reads it (melange_sky/gateway/client_request.py, prompts.py, tokens.py): no more than routing takes.
local find, sub, gsub = string.find, string.sub, string.gsub
local floor, max = math.floor, math.max

local M = {}
melange_requests = M

-- JSON. A list holds its length at [0], a list or an object the length of its text at [-1]; neither
-- can be a key of an object, whose keys are texts.
local NULL = {}
local DEPTH = 400
local BLANK = "[^ \t\r\n]"
local SIMPLE = {['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}
local value

local function bad() error("json", 0) end

local function unescape(kind, hex)
  if kind ~= "u" then return (SIMPLE[kind] or bad()) .. hex end
  if #hex < 4 then bad() end
  local code = tonumber(hex, 16)
  if code >= 0xD800 and code <= 0xDFFF then return "??" end -- half of a character of four bytes
  return utf8.char(code)
end

-- Where the next backslash of the body is, so that texts without any are not searched for one.
local slash = 0

local function text(s, at)
  local from = at + 1
  local to = find(s, '"', from, true) or bad()
  if slash < from then slash = find(s, "\\", from, true) or math.huge end
  if slash > to then return sub(s, from, to - 1), to + 1 end
  to = slash
  while true do
    to = find(s, '["\\]', to) or bad()
    if s:byte(to) == 34 then break end
    to = to + 2
  end
  return (gsub(sub(s, from, to - 1), "\\(.)(%x?%x?%x?%x?)", unescape)), to + 1
end

local function number(s, at)
  local _, to = find(s, "^%-?%d+", at)
  if not to or find(s, "^%-?0%d", at) then bad() end
  local _, part = find(s, "^%.%d+", to + 1)
  to = part or to
  _, part = find(s, "^[eE][+-]?%d+", to + 1)
  to = part or to
  return tonumber(sub(s, at, to)), to + 1
end

local function list(s, at, depth)
  local out, n = {}, 0
  local _, to = find(s, "^[%d \t\r\n,]+%]", at + 1) -- token ids: counted, not kept
  if to then
    local inner = sub(s, at + 1, to - 1)
    local _, ids = gsub(inner, "%d+", "")
    local _, commas = gsub(inner, ",", "")
    if commas ~= ids - 1 or find(inner, ",[ \t\r\n]*,") or find(inner, "%f[%d]0%d") then bad() end
    if find(inner, "^[ \t\r\n]*,") or find(inner, ",[ \t\r\n]*$") then bad() end
    out[0], out[-1], out.ids = ids, to - at + 1, ids
    return out, to + 1
  end
  local pos = find(s, BLANK, at + 1) or bad()
  if s:byte(pos) == 93 then
    out[0], out[-1] = 0, pos - at + 1
    return out, pos + 1
  end
  while true do
    n = n + 1
    out[n], pos = value(s, pos, depth + 1)
    pos = find(s, BLANK, pos) or bad()
    local mark = s:byte(pos)
    if mark == 93 then break end
    if mark ~= 44 then bad() end
    pos = pos + 1
  end
  out[0], out[-1] = n, pos - at + 1
  return out, pos + 1
end

local function object(s, at, depth)
  local out = {}
  local pos = find(s, BLANK, at + 1) or bad()
  if s:byte(pos) == 125 then
    out[-1] = pos - at + 1
    return out, pos + 1
  end
  while true do
    if s:byte(pos) ~= 34 then bad() end
    local key
    key, pos = text(s, pos)
    pos = find(s, BLANK, pos) or bad()
    if s:byte(pos) ~= 58 then bad() end
    out[key], pos = value(s, pos + 1, depth + 1)
    pos = find(s, BLANK, pos) or bad()
    local mark = s:byte(pos)
    if mark == 125 then break end
    if mark ~= 44 then bad() end
    pos = find(s, BLANK, pos + 1) or bad()
  end
  out[-1] = pos - at + 1
  return out, pos + 1
end

value = function(s, at, depth)
  if depth > DEPTH then bad() end
  local pos = find(s, BLANK, at) or bad()
  local mark = s:byte(pos)
  if mark == 34 then return text(s, pos) end
  if mark == 123 then return object(s, pos, depth) end
  if mark == 91 then return list(s, pos, depth) end
  if sub(s, pos, pos + 3) == "true" then return true, pos + 4 end
  if sub(s, pos, pos + 4) == "false" then return false, pos + 5 end
  if sub(s, pos, pos + 3) == "null" then return NULL, pos + 4 end
  return number(s, pos)
end

local function is_list(v) return type(v) == "table" and v[0] ~= nil end
local function is_object(v) return type(v) == "table" and v[0] == nil and v ~= NULL end

-- Return the object that a body holds, nil where it holds none. Its texts may be what JSON does not allow,
-- bytes that are no UTF-8 or control characters: that is for the replica to say.
function M.decode(body)
  slash = 0
  local ok, document, pos = pcall(value, body, 1, 0)
  if not ok or find(body, BLANK, pos) or not is_object(document) then return nil end
  return document
end

-- The prompt: bytes of its texts, the longest of them, token ids, marks between messages.
local MESSAGE_TOKENS, NESTED = 4, 4

local function add_text(p, bytes)
  p.bytes = p.bytes + bytes
  p.longest = max(p.longest, bytes)
end

-- How long a value is as JSON, about.
local function written(v)
  if v == nil or v == NULL or v == true then return 4 end
  if type(v) == "string" then return #v + 2 end
  if type(v) == "table" then return v[-1] end
  return #tostring(v)
end

local function is_nothing(v)
  if v == nil or v == NULL or v == false or v == "" or v == 0 then return true end
  if type(v) ~= "table" then return false end
  if v[0] then return v[0] == 0 end
  for key in pairs(v) do
    if type(key) == "string" then return false end
  end
  return true
end

local function add(p, content, depth)
  if type(content) == "string" then return add_text(p, #content) end
  if not is_list(content) or depth >= NESTED then return end
  for n = 1, content.ids and 0 or content[0] do
    local part = content[n]
    if is_object(part) then
      if type(part.text) == "string" then
        add_text(p, #part.text)
      elseif type(part.content) == "string" or is_list(part.content) then
        add(p, part.content, depth + 1)
      elseif part.type == "tool_use" then
        add_text(p, written(part.input))
      end
    end
  end
end

local function plain(p, prompt)
  if type(prompt) == "string" then return add_text(p, #prompt) end
  if not is_list(prompt) then return end
  if prompt.ids then
    p.ids, p.longest_ids = prompt.ids, prompt.ids
    return
  end
  for n = 1, prompt[0] do
    local part = prompt[n]
    if type(part) == "string" then
      add_text(p, #part)
    elseif is_list(part) then
      p.ids = p.ids + part[0]
      p.longest_ids = max(p.longest_ids, part[0])
    end
  end
end

local function messages(p, document, given)
  add(p, document.instructions, 0)
  add(p, document.system, 0)
  if type(given) == "string" then add_text(p, #given) end
  for n = 1, is_list(given) and not given.ids and given[0] or 0 do
    local message = given[n]
    p.marks = p.marks + MESSAGE_TOKENS
    if is_object(message) then
      add(p, message.content, 0)
      add(p, message.output, 0)
      add(p, message.arguments, 0)
      if not is_nothing(message.tool_calls) then add_text(p, written(message.tool_calls)) end
    end
  end
  if not is_nothing(document.tools) then add_text(p, written(document.tools)) end
end

local LENGTHS = {
  ["/v1/chat/completions"] = {"max_completion_tokens", "max_tokens"},
  ["/v1/completions"] = {"max_tokens"},
  ["/v1/responses"] = {"max_output_tokens"},
  ["/v1/messages"] = {"max_tokens"},
}
M.paths = {
  ["/v1/chat/completions"] = true, ["/v1/completions"] = true, ["/v1/responses"] = true,
  ["/v1/messages"] = true, ["/v1/messages/count_tokens"] = true, ["/v1/embeddings"] = true,
  ["/tokenize"] = true, ["/detokenize"] = true,
}
local COMPLETION_TOKENS, MOST = 16, 2147483648

local function invalid(message, param) return nil, {400, message, "invalid_value", param} end

local function count(document, key)
  local n = document[key]
  if n == nil or n == NULL then return nil, true end
  if math.type(n) ~= "integer" or n < 0 or n >= MOST then return nil, false end
  return n, true
end

local function output_tokens(path, document)
  local known
  for _, key in ipairs(LENGTHS[path] or {}) do
    local n, good = count(document, key)
    if not good then return nil, key end
    known = known or n
  end
  if not LENGTHS[path] then return 1 end
  return known or (path == "/v1/completions" and COMPLETION_TOKENS or nil)
end

local function prompts_of(path, document)
  local key = path == "/v1/completions" and "prompt" or path == "/v1/embeddings" and "input"
  local prompt = key and document[key]
  if not is_list(prompt) or prompt.ids then return 1 end
  local n = 0
  for i = 1, prompt[0] do
    if type(prompt[i]) == "string" or is_list(prompt[i]) then n = n + 1 end
  end
  return max(1, n)
end

local function prompt_of(path, document)
  local p = {bytes = 0, longest = 0, ids = 0, longest_ids = 0, marks = 0}
  if path == "/v1/completions" or path == "/tokenize" and document.prompt ~= nil then
    plain(p, document.prompt)
  elseif path == "/v1/embeddings" then
    plain(p, document.input)
  elseif path == "/detokenize" then
    plain(p, document.tokens)
  else
    messages(p, document, path == "/v1/responses" and document.input or document.messages)
  end
  return p
end

-- What a body calls its session, nil where it does not.
local NAMES = {"session_id", "conversation", "prompt_cache_key", "safety_identifier", "user"}

local function session_of(document)
  for _, key in ipairs(NAMES) do
    local name = document[key]
    if is_object(name) then name = name.id end
    if type(name) == "string" and name ~= "" then return name end
    if key == "conversation" and type(document.previous_response_id) == "string" then return nil end
  end
  local user = is_object(document.metadata) and document.metadata.user_id
  return type(user) == "string" and user ~= "" and user or nil
end

local function rounded(x) return floor(x + 0.5) end

-- Read a whole body: {model, stream, max_tokens, prompts, choices, input_tokens, longest_tokens, session},
-- or nil and what to answer: {status, message, code, param}.
function M.read(path, body, bytes_per_token)
  local document = M.decode(body)
  if not document then return nil, {400, "the body is not a JSON object that can be read", "invalid_json"} end
  local model = document.model
  if model == NULL then model = nil end
  if model ~= nil and type(model) ~= "string" then return invalid("model must be a string", "model") end
  local options = document.stream_options
  if options ~= nil and options ~= NULL and not is_object(options) then
    return invalid("stream_options must be an object", "stream_options")
  end
  local whole = " must be a whole number of at least 0"
  local most, wrong = output_tokens(path, document)
  if wrong then return invalid(wrong .. whole, wrong) end
  local n, good = count(document, "n")
  if not good then return invalid("n" .. whole, "n") end
  local best, fine = count(document, "best_of")
  if not fine then return invalid("best_of" .. whole, "best_of") end
  local p, prompts = prompt_of(path, document), prompts_of(path, document)
  local tokens = max(1, p.ids + p.marks + rounded(p.bytes / bytes_per_token))
  local longest = tokens
  if prompts > 1 then longest = max(1, rounded(p.longest / bytes_per_token), p.longest_ids) end
  return {
    model = model, stream = document.stream == true and LENGTHS[path] ~= nil, max_tokens = most,
    prompts = prompts, choices = max(n or 1, best or 1, 1),
    input_tokens = max(1, rounded(tokens / prompts)), longest_tokens = longest + (most or 1),
    session = session_of(document),
  }
end

-- The same of a body of which only the start is here, by its length in bytes. What it asks for is
-- looked for in that start, and the replica judges whether it is JSON at all.
function M.skim(path, start, bytes, bytes_per_token)
  local most
  for _, key in ipairs(LENGTHS[path] or {}) do
    most = most or tonumber(start:match('"' .. key .. '"%s*:%s*(%d+)%s*[,}]'))
  end
  local tokens = max(1, rounded(bytes / bytes_per_token))
  return {
    model = start:match('"model"%s*:%s*"([^"\\]*)"'), max_tokens = most, prompts = 1, choices = 1,
    stream = LENGTHS[path] ~= nil and start:find('"stream"%s*:%s*true') ~= nil,
    input_tokens = tokens, longest_tokens = tokens + (most or 1),
  }
end

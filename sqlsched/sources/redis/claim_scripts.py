"""The scripts that a scheduler lives by: look, claim, start, tend, leave."""

from sqlsched.sources.redis.prelude import KEEP_DONE_MS

JOIN = """
touch()
return redis.call('GET', seen) or '0'
"""

LOOK = """
local until_us, limit = take(), tonumber(take())
touch()

local expired = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, limit + 100)) do
  local id, scheduled = parts(name)
  local row = id and row_of(id, scheduled) or {}
  local state = id and redis.call('HGET', states, id)
  if not id or row.state ~= 'claimed' then
    redis.call('ZREM', leases, name)
  elseif row.version ~= decoded(state).version then
    drop(id, scheduled, row)
  elseif not held_and_pending(id) then
    table.insert(expired, {
      id, redis.call('HGET', contents, id), state, count_of(id),
      scheduled, row.due_us, row.trigger,
    })
  end
end

-- Those that others hold stand in the index too, and must not hide the ones behind them.
local found, offset, page = {}, 0, 100
while #found < limit and offset < limit + 10 * page do
  local ids = redis.call('ZRANGEBYSCORE', due, '-inf', until_us, 'LIMIT', offset, page)
  for _, id in ipairs(ids) do
    local free, pending = is_free(id)
    if free and #found < limit then
      table.insert(found, {
        id, redis.call('HGET', contents, id), redis.call('HGET', states, id), count_of(id), pending,
      })
    end
  end
  if #ids < page then break end
  offset = offset + page
end
return {tostring(now), expired, found}
"""

CLAIM = """
local only_ask = take() == '1'

local function apply(id, expected, state, at_us, version, firings)
  local current = redis.call('HGET', states, id)
  if current == state then return 1 end
  if only_ask or current ~= expected or held_and_pending(id) then return 0 end
  for _, firing in ipairs(firings) do
    if row_of(id, firing[1]).state == 'started' then return 0 end
  end
  redis.call('HSET', states, id, state)
  wake(id, at_us)
  if at_us == '' then redis.call('ZADD', done, now, id) end
  for _, firing in ipairs(firings) do
    save(id, firing[1], {
      owner = owner, member = member, state = 'claimed', version = version,
      due_us = firing[2], trigger = firing[3],
    })
    redis.call('ZADD', leases, now + lease, name_of(id, firing[1]))
  end
  return 1
end

local function take_over(id, scheduled)
  local row, name = row_of(id, scheduled), name_of(id, scheduled)
  if row.state ~= 'claimed' then return 0 end
  if row.member ~= member then
    local ends = tonumber(redis.call('ZSCORE', leases, name))
    if only_ask or not ends or ends > now then return 0 end
    if row.version ~= state_of(id).version or held_and_pending(id) then return 0 end
  end
  row.owner, row.member = owner, member
  save(id, scheduled, row)
  redis.call('ZADD', leases, now + lease, name)
  return 1
end

local planned, taken_over = {}, {}
for _ = 1, tonumber(take()) do
  local id, expected, state, at_us, version = take(), take(), take(), take(), take()
  local firings = {}
  for _ = 1, tonumber(take()) do
    table.insert(firings, {take(), take(), take()})
  end
  table.insert(planned, apply(id, expected, state, at_us, version, firings))
end
for _ = 1, tonumber(take()) do
  table.insert(taken_over, take_over(take(), take()))
end
return {planned, taken_over}
"""

ASIDE = """
for _ = 1, tonumber(take()) do
  local id, content, state = take(), take(), take()
  if (redis.call('HGET', contents, id) or '') == content
      and (redis.call('HGET', states, id) or '') == state then
    redis.call('ZREM', due, id)
  end
end
"""

START = """
local id, scheduled = take(), take()
touch()
local row, state = row_of(id, scheduled), state_of(id)
local name = name_of(id, scheduled)
if row.owner ~= owner or (row.state ~= 'claimed' and row.state ~= 'started') then
  return state.version and 'taken-over' or 'removed'
end
local first = row.state == 'claimed'
if first then
  if not state.version then return 'removed' end
  if state.version ~= row.version then return 'edited' end
end
redis.call('SREM', started_by(row.member), name)
row.state, row.member = 'started', member
save(id, scheduled, row)
redis.call('ZREM', leases, name)
redis.call('SADD', started_by(member), name)
local max = tonumber(state.max_runs)
if first and redis.call('HINCRBY', counts, id, 1) >= (max or math.huge) then
  redis.call('ZREM', due, id)
  redis.call('ZADD', done, now, id)
end
return ''
"""

TEND = f"""
local now_us, resend = take(), take() == '1'
touch()
if tonumber(now_us) > tonumber(redis.call('GET', seen) or '0') then
  redis.call('SET', seen, now_us)
end
for _ = 1, tonumber(take()) do
  local id, scheduled = take(), take()
  local row = row_of(id, scheduled)
  if row.owner == owner then drop(id, scheduled, row) end
end
for _ = 1, tonumber(take()) do
  local id, scheduled = take(), take()
  local row = row_of(id, scheduled)
  if row.state == 'claimed' and row.owner == owner and row.member == member then
    redis.call('ZADD', leases, 'XX', now + lease, name_of(id, scheduled))
  end
end

-- What a dead process of this ledger had started, the ledger knows the end of. What that of a dead
-- ledger had started nobody does.
local function inherit(name, from)
  local id, scheduled = parts(name)
  local row = row_of(id, scheduled)
  if row.state == 'started' and from ~= owner then
    if resend then
      row.state = 'claimed'
      save(id, scheduled, row)
      redis.call('HINCRBY', counts, id, -1)
      redis.call('ZADD', leases, 0, name)
      return
    end
    row.state = 'abandoned'
  end
  if row.state ~= 'started' and row.state ~= 'abandoned' then return end
  row.owner, row.member = owner, member
  save(id, scheduled, row)
  redis.call('SADD', started_by(member), name)
  redis.call('SADD', news_of(member), name)
end

for _, entry in ipairs(redis.call('ZRANGEBYSCORE', members, '-inf', now)) do
  local other, from = string.match(entry, '^(%S+) (.*)$')
  if not other then
    redis.call('ZREM', members, entry)
  elseif from == owner or not lives(from) then
    for _, name in ipairs(redis.call('SMEMBERS', started_by(other))) do inherit(name, from) end
    redis.call('DEL', started_by(other), news_of(other))
    redis.call('ZREM', members, entry)
  end
end
redis.call('ZREMRANGEBYSCORE', owners, '-inf', now)

for _, id in ipairs(redis.call(
    'ZRANGEBYSCORE', done, '-inf', now - {KEEP_DONE_MS}, 'LIMIT', 0, 100)) do
  for _, key in ipairs({{contents, states, counts}}) do redis.call('HDEL', key, id) end
  redis.call('ZREM', done, id)
end

local news = {{}}
for _, name in ipairs(redis.call('SMEMBERS', news_of(member))) do
  local id, scheduled = parts(name)
  local row = row_of(id, scheduled)
  if row.member == member then
    table.insert(news, {{
      id, scheduled, row.state,
      redis.call('HGET', contents, id) or redis.call('HGET', firings_of(id), 'content'),
    }})
  else
    redis.call('SREM', news_of(member), name)
  end
end
return news
"""

LEAVE = """
for _ = 1, tonumber(take()) do
  local id, scheduled = take(), take()
  local row = row_of(id, scheduled)
  if row.state == 'claimed' and row.owner == owner and row.member == member then
    redis.call('ZADD', leases, 'XX', 0, name_of(id, scheduled))
  end
end
"""

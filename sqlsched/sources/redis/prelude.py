"""What `RedisScheduleSource` does in Redis, as scripts: each is one atomic step.

Keys, all with the prefix in braces before them, so that a cluster keeps them on one node:

schedules, states      hashes by id: the schedule as JSON, and its state (`rows.State`)
dispatched             hash by id: how many firings were started
due                    sorted set of ids: when each is looked at next, in microseconds
done                   sorted set of ids that have no firing left: since when
leases                 sorted set of `id@scheduled`, claimed and not started: held until when
firings:ID             hash by nominal time: each unfinished firing, a JSON object of texts only
                       (owner, member, state, version, due_us, trigger); `content` keeps the
                       schedule of firings that outlive it
owners, members        sorted sets: until when a ledger, and a process of it, counts as living
started:M, news:M      sets of `id@scheduled` that process M has started, and that it took over
ran:ID                 the last state of a removed schedule, for a day
seen                   the latest time that any scheduler has told

Leases and lives are in milliseconds on the server's own clock, so that no other clock matters. A
script never writes a schedule or a state that it composed itself: numbers would lose digits.
"""

DAY_MS = 86_400_000
KEEP_DONE_MS = 90 * DAY_MS
"""How long a schedule that is done is known by its id, like a run in the ledger."""

KEY_TYPES = {
    "schedules": "hash",
    "states": "hash",
    "dispatched": "hash",
    "due": "zset",
    "done": "zset",
    "leases": "zset",
    "owners": "zset",
    "members": "zset",
    "seen": "string",
}

PRELUDE = """
local base = KEYS[1]
local contents, states, counts = base .. ':schedules', base .. ':states', base .. ':dispatched'
local due, done, leases = base .. ':due', base .. ':done', base .. ':leases'
local owners, members, seen = base .. ':owners', base .. ':members', base .. ':seen'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local taken = 0
local function take()
  taken = taken + 1
  return ARGV[taken]
end
local owner, member, lease = take(), take(), tonumber(take())

local function firings_of(id) return base .. ':firings:' .. id end
local function started_by(who) return base .. ':started:' .. who end
local function news_of(who) return base .. ':news:' .. who end
local function name_of(id, scheduled) return id .. '@' .. scheduled end
local function parts(name) return string.match(name, '^(.*)@(%-?%d+)$') end

local function decoded(text)
  local ok, value = pcall(cjson.decode, text or '')
  if ok and type(value) == 'table' then return value end
  return {}
end

local function row_of(id, scheduled)
  return decoded(redis.call('HGET', firings_of(id), scheduled))
end
local function save(id, scheduled, row)
  redis.call('HSET', firings_of(id), scheduled, cjson.encode(row))
end
local function state_of(id) return decoded(redis.call('HGET', states, id)) end

local function drop(id, scheduled, row)
  local rows, name = firings_of(id), name_of(id, scheduled)
  redis.call('HDEL', rows, scheduled)
  redis.call('ZREM', leases, name)
  if row.member then redis.call('SREM', started_by(row.member), name) end
  if redis.call('HLEN', rows) == 1 and redis.call('HEXISTS', rows, 'content') == 1 then
    redis.call('DEL', rows)
  end
end

local function lives(who)
  local score = redis.call('ZSCORE', owners, who)
  return score and tonumber(score) > now
end

local function touch()
  -- Where nobody at all has shown up for a while, the server was away, or its clock was set:
  -- everyone has a whole lease to show up again.
  local latest = tonumber(redis.call('ZREVRANGE', owners, 0, 0, 'WITHSCORES')[2])
  if latest and (latest < now + lease / 2 or latest > now + lease) then
    for _, key in ipairs({owners, members}) do
      for _, who in ipairs(redis.call('ZRANGE', key, 0, -1)) do
        redis.call('ZADD', key, now + lease, who)
      end
    end
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', leases, '(' .. (now + lease), '+inf')) do
      redis.call('ZADD', leases, now + lease, name)
    end
  end
  redis.call('ZADD', owners, now + lease, owner)
  redis.call('ZADD', members, now + lease, member .. ' ' .. owner)
end

-- Whether a living owner other than us has unfinished firings of a schedule, and how many are
-- claimed and not started. What was given back, with a lease of 0, is nobody's.
local function held_and_pending(id, version)
  local held, pending = false, 0
  local rows = redis.call('HGETALL', firings_of(id))
  for i = 1, #rows, 2 do
    local row = decoded(rows[i + 1])
    local holds = row.state == 'started'
    if row.state == 'claimed' then
      holds = redis.call('ZSCORE', leases, name_of(id, rows[i])) ~= '0'
      if row.version == version then pending = pending + 1 end
    end
    if holds and row.owner and row.owner ~= owner and lives(row.owner) then held = true end
  end
  return held, pending
end

local function count_of(id) return tonumber(redis.call('HGET', counts, id) or '0') or 0 end

-- Whether we may claim a firing of a schedule, and how many are pending.
local function is_free(id)
  local state = state_of(id)
  local held, pending = held_and_pending(id, state.version)
  local max = tonumber(state.max_runs)
  return not held and not (max and count_of(id) + pending >= max), pending
end

local function unstarted(id)
  local found, version = {}, state_of(id).version
  local rows = redis.call('HGETALL', firings_of(id))
  for i = 1, #rows, 2 do
    local row = decoded(rows[i + 1])
    if row.state == 'claimed' and row.version == version then table.insert(found, rows[i]) end
  end
  table.sort(found)
  return table.concat(found, ',')
end

local function wake(id, at_us)
  if at_us == '' then
    redis.call('ZREM', due, id)
  else
    redis.call('ZADD', due, at_us, id)
  end
end
"""

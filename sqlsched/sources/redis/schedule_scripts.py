"""The scripts that read and change schedules."""

from sqlsched.sources.redis.prelude import DAY_MS

PEEK = """
local id = take()
return {
  redis.call('HGET', contents, id), redis.call('HGET', states, id), count_of(id),
  redis.call('ZSCORE', done, id) and redis.call('EXISTS', firings_of(id)) == 0 and 1 or 0,
  unstarted(id), redis.call('GET', base .. ':ran:' .. id), tostring(now),
}
"""

THERE = """
local found = {}
for index = 4, #ARGV do found[index - 3] = redis.call('HEXISTS', contents, ARGV[index]) end
return found
"""

PUT = """
local id, old_content, old_state, old_unstarted = take(), take(), take(), take()
local content, state, at_us, is_done, is_new = take(), take(), take(), take(), take()
if (redis.call('HGET', contents, id) or '') ~= old_content
    or (redis.call('HGET', states, id) or '') ~= old_state
    or unstarted(id) ~= old_unstarted then
  return 0
end
redis.call('HSET', contents, id, content)
redis.call('HSET', states, id, state)
wake(id, at_us)
redis.call('ZREM', done, id)
if is_done == '1' then redis.call('ZADD', done, now, id) end
if is_new == '1' then redis.call('HDEL', counts, id) end
return 1
"""

DELETE = f"""
local id = take()
local content, state = redis.call('HGET', contents, id), redis.call('HGET', states, id)
if not content and not state then return 0 end
if content and redis.call('EXISTS', firings_of(id)) == 1 then
  redis.call('HSET', firings_of(id), 'content', content)
end
if state then redis.call('SET', base .. ':ran:' .. id, state, 'PX', {DAY_MS}) end
for _, key in ipairs({{contents, states, counts}}) do redis.call('HDEL', key, id) end
for _, key in ipairs({{due, done}}) do redis.call('ZREM', key, id) end
return 1
"""

PAGE = """
local answer = redis.call('HSCAN', contents, take(), 'COUNT', 500)
local rows, found = answer[2], {}
for i = 1, #rows, 2 do
  local id = rows[i]
  if not redis.call('ZSCORE', done, id) or redis.call('EXISTS', firings_of(id)) == 1 then
    table.insert(found, {id, rows[i + 1], redis.call('HGET', states, id)})
  end
end
return {answer[1], found}
"""

PULL_BACK = """
local now_us = take()
redis.call('SET', seen, now_us)
for _ = 1, tonumber(take()) do
  local id, expected, state, at_us = take(), take(), take(), take()
  if redis.call('HGET', states, id) == expected then
    redis.call('HSET', states, id, state)
    wake(id, at_us)
  end
end
"""

NEXT = """
local offset, page = 0, 100
while offset < 10 * page do
  local ids = redis.call('ZRANGE', due, offset, offset + page - 1, 'WITHSCORES')
  for i = 1, #ids, 2 do
    if is_free(ids[i]) then return {ids[i + 1], false} end
  end
  if #ids < 2 * page then break end
  offset = offset + page
end
local ends = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2]
if ends then return {false, string.format('%d', math.max(0, tonumber(ends) - now))} end
if redis.call('ZCARD', due) > 0 then return {false, tostring(lease)} end
return {false, false}
"""

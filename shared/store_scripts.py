"""The message store's steps as Lua scripts: each is one transaction, so a crash leaves the old or the new state.

All of them take the queue's name as their first argument and read the time from Redis, so that machines whose clocks
differ, or jump, agree on what is due. Keys are made from the queue's name inside the scripts: like RQ, the store wants
one Redis, not a cluster.
"""

from __future__ import annotations

from typing import Final

FARTHEST: Final = 3700
"""Seconds ahead past which a due time cannot be meant: the clock has jumped back, and what waits for it is due now."""

WINDOW: Final = 1.0
"""Seconds of a paced lane's credit: the most that it may send at once is its rate times this."""

_COMMON: Final = (
    f"local FARTHEST, WINDOW = {FARTHEST}, {WINDOW}"
    + """
local q = ARGV[1]
local function message(id) return q .. ':message:' .. id end
local function body(id) return q .. ':body:' .. id end
local function lane(project) return q .. ':lane:' .. project end
local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end
local function fixed(x) return string.format('%.6f', x) end
local function project_of(id)
  local project = redis.call('HGET', message(id), 'project')
  if project then return project end
  local envelope = redis.call('HGET', message(id), 'envelope')
  return envelope and cjson.decode(envelope)['project']
end
-- A lane with messages has its turn, unless it is parked until its project may send again.
local function open_lane(project)
  if not redis.call('ZSCORE', q .. ':parked', project) then
    redis.call('ZADD', q .. ':lanes', 'NX', redis.call('GET', q .. ':turn') or 0, project)
  end
end
-- Waiting messages stand in their project's lane by the time of acceptance, whatever way they came.
local function into_lane(id, project)
  redis.call('HSET', message(id), 'state', 'waiting')
  redis.call('ZADD', lane(project), redis.call('ZSCORE', q .. ':messages', id) or 0, id)
  open_lane(project)
end
local function park(project, due)
  redis.call('ZADD', q .. ':parked', 'GT', fixed(due), project)
  redis.call('ZREM', q .. ':lanes', project)
end
local function wake(t)
  for _, range in ipairs({{'-inf', fixed(t)}, {fixed(t + FARTHEST), '+inf'}}) do
    for _, project in ipairs(redis.call('ZRANGEBYSCORE', q .. ':parked', range[1], range[2], 'LIMIT', 0, 100)) do
      redis.call('ZREM', q .. ':parked', project)
      if redis.call('EXISTS', lane(project)) == 1 then open_lane(project) end
    end
  end
end
-- Whether the job still has the message in hand: one that was given to another meanwhile is left to that one.
local function holds(job, id)
  local found = redis.call('HMGET', message(id), 'state', 'job')
  return found[1] == 'sending' and found[2] == job
end
"""
)

ACCEPT: Final = (
    _COMMON
    + """
local seen_seconds = tonumber(ARGV[3])
local result, opened, i = {0, 0}, {}, 4
while i <= #ARGV do
  local id, project, accepted, digest = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local pieces, count = tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
  local seen = seen_seconds > 0 and digest ~= '' and q .. ':seen:' .. digest
  local first = seen and redis.call('GET', seen)
  if first then
    if pieces > 0 and first ~= id then redis.call('UNLINK', body(id)) end
  elseif pieces > 0 and redis.call('LLEN', body(id)) ~= pieces then
    first = ''
  else
    -- First the write that a full Redis refuses: after any other one it would refuse none.
    redis.call('HSET', message(id), unpack(ARGV, i + 6, i + 5 + count))
    if pieces > 0 then redis.call('PERSIST', body(id)) end
    redis.call('ZADD', q .. ':messages', accepted, id)
    redis.call('ZADD', lane(project), accepted, id)
    if not opened[project] then open_lane(project) end
    opened[project] = true
    if seen then redis.call('SET', seen, id, 'EX', seen_seconds) end
  end
  result[#result + 1] = first or id
  i = i + 6 + count
end
result[1] = redis.call('ZCARD', q .. ':messages')
result[2] = redis.call('LLEN', ARGV[2])
return result
"""
)
"""ARGV: the RQ queue's key, seconds a digest is kept, then a message: id, project, accepted, digest, pieces of its body
(0: it is in the hash), count, the hash.

Returns messages in the store, jobs in the queue, then each message's id: the first one's where it is a repeat (its
own pieces go), "" where not all pieces are there, so that it was not stored.
"""

UNSTAGE: Final = (
    _COMMON
    + """
for i = 2, #ARGV do
  if redis.call('EXISTS', message(ARGV[i])) == 0 then redis.call('UNLINK', body(ARGV[i])) end
end
return 1
"""
)
"""ARGV: ids. The pieces of those that are no messages go; a step that would still make one of them finds none."""

STRAYS: Final = (
    _COMMON
    + """
local strays = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  if redis.call('TTL', body(id)) == -1 and redis.call('EXISTS', message(id)) == 0 then
    strays[#strays + 1] = id .. ': is gone, but its body is kept'
  end
end
return strays
"""
)
"""ARGV: ids that have pieces. Returns a line for each whose pieces belong to no message and would not expire."""

TAKE: Final = (
    _COMMON
    + """
local job, want, budget, lease = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local t = now()
wake(t)
local open, visited = {}, {}
for _, project in ipairs(redis.call('ZRANGE', q .. ':lanes', 0, want - 1)) do
  local pace = redis.call('HMGET', q .. ':pace:' .. project, 'rate', 'at')
  local one = {project = project, ids = {}, limit = want, rate = tonumber(pace[1] or nil)}
  if one.rate then
    one.at = math.max(tonumber(pace[2] or 0), t - math.max(WINDOW, 1 / one.rate))
    one.limit = math.floor(one.rate * (t - one.at) + 0.000001)
  end
  visited[#visited + 1] = one
  if one.limit > 0 then open[#open + 1] = one end
end
local left, longest = want, 0
while left > 0 and budget > 0 and #open > 0 do
  local share, still = math.max(1, math.floor(left / #open)), {}
  for _, one in ipairs(open) do
    local ask = budget > 0 and math.min(share, one.limit, left) or 0
    local got = ask > 0 and redis.call('ZPOPMIN', lane(one.project), ask) or {}
    for n = 1, #got, 2 do
      local id = got[n]
      if redis.call('HEXISTS', message(id), 'envelope') == 1 then
        redis.call('HSET', message(id), 'state', 'sending', 'job', job)
        redis.call('ZADD', q .. ':sending', fixed(t), id)
        budget = budget - (tonumber(redis.call('HGET', message(id), 'size') or nil)
          or redis.call('HSTRLEN', message(id), 'body'))
        one.ids[#one.ids + 1] = id
      end
    end
    one.limit, left = one.limit - #got / 2, left - #got / 2
    longest = math.max(longest, #one.ids)
    if #got / 2 == ask and one.limit > 0 then still[#still + 1] = one end
  end
  open = still
end
for _, one in ipairs(visited) do
  local is_left = redis.call('EXISTS', lane(one.project)) == 1
  if one.rate then
    one.at = one.at + #one.ids / one.rate
    redis.call('HSET', q .. ':pace:' .. one.project, 'at', fixed(one.at))
  end
  if not is_left then
    redis.call('ZREM', q .. ':lanes', one.project)
  elseif one.rate and one.limit <= 0 then
    park(one.project, one.at + math.max(1, one.rate * WINDOW / 4) / one.rate)
  elseif #one.ids > 0 then
    redis.call('ZADD', q .. ':lanes', redis.call('INCR', q .. ':turn'), one.project)
  end
end
local taken = {}
for n = 1, longest do
  for _, one in ipairs(visited) do
    if one.ids[n] then taken[#taken + 1] = one.ids[n] end
  end
end
if #taken > 0 then redis.call('SET', q .. ':lease:' .. job, '1', 'PX', lease) end
return taken
"""
)
"""ARGV: job, most messages, most bytes (overstepped by one turn at most), lease in ms. Returns the ids, interleaved."""

GIVE_BACK: Final = (
    _COMMON
    + """
local count = 0
for i = 3, #ARGV do
  local id = ARGV[i]
  if holds(ARGV[2], id) then
    redis.call('ZREM', q .. ':sending', id)
    into_lane(id, project_of(id))
    count = count + 1
  end
end
return count
"""
)
"""ARGV: job, ids. Messages in a job's hand that it did not begin go back to their lanes; returns how many."""

SLOW: Final = (
    _COMMON
    + """
local project, pause, rate, refused, keep = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1', ARGV[6]
local t, pace = now(), q .. ':pace:' .. ARGV[2]
local old = redis.call('HMGET', pace, 'best', 'share', 'cut')
if not old[1] then
  redis.call('HSET', pace, 'best', fixed(rate), 'share', 1, 'rate', fixed(rate))
  redis.call('HSET', pace, 'cut', fixed(t), 'at', fixed(t + pause))
else
  -- What the headers tell is rounded down, so the quickest that was told is nearest to the truth.
  local best, share = math.max(rate, tonumber(old[1])), tonumber(old[2])
  -- Refused even at this pace: slower. Calls that were under way at the same time say nothing new.
  if refused and t - tonumber(old[3]) > 2 then
    share = math.max(share * 0.8, 0.01)
    redis.call('HSET', pace, 'cut', fixed(t))
  end
  redis.call('HSET', pace, 'best', fixed(best), 'share', fixed(share), 'rate', fixed(best * share))
end
redis.call('EXPIRE', pace, keep)
if pause > 0 then park(project, t + pause) end
return 1
"""
)
"""ARGV: project, seconds of pause (a longer one that runs stays), messages a second, whether a call was refused (1) or
nearly (0), seconds for which the pace is kept."""

RETRY: Final = (
    _COMMON
    + """
local id, job, delay = ARGV[2], ARGV[3], tonumber(ARGV[4])
if not holds(job, id) then return 0 end
local t = now()
redis.call('HSETNX', message(id), 'first_at', fixed(t))
redis.call('HSET', message(id), 'state', 'retry', 'attempts', ARGV[5], 'generation', ARGV[6], 'answer', ARGV[7])
redis.call('ZREM', q .. ':sending', id)
redis.call('ZADD', q .. ':retries', fixed(t + delay), id)
return 1
"""
)
"""ARGV: id, job, seconds until the next attempt, attempts, generation, answer. Returns 1, or 0 when not the job's."""

BURY: Final = (
    _COMMON
    + """
local id, job = ARGV[2], ARGV[3]
if not holds(job, id) then return 0 end
local t = now()
redis.call('HSETNX', message(id), 'first_at', fixed(t))
redis.call('HSET', message(id), 'state', 'dead', 'attempts', ARGV[4], 'generation', ARGV[5], 'answer', ARGV[6],
  'died_at', fixed(t))
redis.call('ZREM', q .. ':sending', id)
redis.call('ZREM', q .. ':messages', id)
redis.call('ZADD', q .. ':dead', fixed(t), id)
if ARGV[7] ~= '' then
  local event = id .. ':' .. ARGV[4]
  redis.call('HSET', q .. ':webhooks', event, ARGV[7])
  redis.call('ZADD', q .. ':webhooks:due', fixed(t), event)
  -- Bounded: a receiver that is gone for good must not fill Redis.
  local over = redis.call('ZCARD', q .. ':webhooks:due') - tonumber(ARGV[8])
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', q .. ':webhooks:due', 0, over - 1)) do
      redis.call('HDEL', q .. ':webhooks', old)
      redis.call('HDEL', q .. ':webhooks:tries', old)
      redis.call('ZREM', q .. ':webhooks:due', old)
    end
  end
end
-- At most one notice a message, also when it is retried and dies again.
if ARGV[9] ~= '' and redis.call('HSETNX', message(id), 'noticed', ARGV[9]) == 1 then
  local notice, project, accepted = ARGV[9], ARGV[10], ARGV[11]
  redis.call('HSET', message(notice), unpack(ARGV, 12, #ARGV))
  redis.call('ZADD', q .. ':messages', accepted, notice)
  redis.call('ZADD', lane(project), accepted, notice)
  open_lane(project)
end
return 1
"""
)
"""ARGV: id, job, attempts, generation, answer, webhook event or '', most events, then the notice's id or '', its
project, time of acceptance and hash. Returns 1, or 0 when the message is not the job's."""

FORGET: Final = (
    _COMMON
    + """
for i = 2, #ARGV do
  local id = ARGV[i]
  if redis.call('ZREM', q .. ':sending', id) == 0 then
    local project = project_of(id)
    if project then redis.call('ZREM', lane(project), id) end
    redis.call('ZREM', q .. ':retries', id)
    redis.call('ZREM', q .. ':dead', id)
  end
  redis.call('ZREM', q .. ':messages', id)
  redis.call('UNLINK', message(id), body(id))
end
return #ARGV - 1
"""
)
"""ARGV: ids of messages that were sent or discarded, wherever they stand now."""

PROMOTE: Final = (
    _COMMON
    + """
local t, count = now(), 0
for _, range in ipairs({{'-inf', fixed(t)}, {fixed(t + FARTHEST), '+inf'}}) do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', q .. ':retries', range[1], range[2], 'LIMIT', 0, ARGV[2])) do
    redis.call('ZREM', q .. ':retries', id)
    local project = project_of(id)
    if project then
      into_lane(id, project)
      count = count + 1
    end
  end
end
return count
"""
)
"""ARGV: most messages. Retries that are due go back to their lanes; returns how many."""

REVIVE: Final = (
    _COMMON
    + """
local t, count = now(), 0
for i = 2, #ARGV do
  local id = ARGV[i]
  if redis.call('ZREM', q .. ':dead', id) == 1 then
    local project, envelope = project_of(id), redis.call('HGET', message(id), 'envelope')
    if project then
      redis.call('ZADD', q .. ':messages', string.format('%.6f', cjson.decode(envelope)['accepted_at']), id)
      redis.call('HSET', message(id), 'since', fixed(t))
      into_lane(id, project)
      count = count + 1
    end
  end
end
return count
"""
)
"""ARGV: ids of dead letters. They wait again, their lifetime begun anew; returns how many."""

RECOVER: Final = (
    _COMMON
    + """
local count, alive = 0, {}
for _, id in ipairs(redis.call('ZRANGE', q .. ':sending', 0, ARGV[2] - 1)) do
  local job = redis.call('HGET', message(id), 'job')
  if job and alive[job] == nil then alive[job] = redis.call('EXISTS', q .. ':lease:' .. job) == 1 end
  if not (job and alive[job]) then
    redis.call('ZREM', q .. ':sending', id)
    local project = project_of(id)
    if project then
      into_lane(id, project)
      count = count + 1
    end
  end
end
return count
"""
)
"""ARGV: most messages to look at. What a job without a sign of life has in hand goes back; returns how many."""

ADOPT: Final = (
    _COMMON
    + """
local count = 0
for _, id in ipairs(redis.call('ZRANGE', q .. ':waiting', 0, ARGV[2] - 1)) do
  redis.call('ZREM', q .. ':waiting', id)
  local project = project_of(id)
  if project and redis.call('HGET', message(id), 'state') == 'waiting' then
    into_lane(id, project)
    count = count + 1
  end
end
return count
"""
)
"""ARGV: most messages. What release 0.1.0's first form kept in one list of waiting messages goes to the lanes."""

READY: Final = (
    _COMMON
    + """
wake(now())
local ready = 0
for _, project in ipairs(redis.call('ZRANGE', q .. ':lanes', 0, 999)) do
  ready = ready + redis.call('ZCARD', lane(project))
  if ready >= tonumber(ARGV[2]) then break end
end
return ready
"""
)
"""ARGV: a number that is enough. Messages that a job could take now, counted up to about that number."""

LEAD: Final = (
    _COMMON
    + """
local holder = redis.call('GET', q .. ':housekeeper')
if holder and holder ~= ARGV[2] then return 0 end
redis.call('SET', q .. ':housekeeper', ARGV[2], 'PX', ARGV[3])
return 1
"""
)
"""ARGV: who asks, ms. Take or keep the housekeepers' lock; 1 when it is held."""

STEP_DOWN: Final = (
    _COMMON
    + """
if redis.call('GET', q .. ':housekeeper') == ARGV[2] then redis.call('DEL', q .. ':housekeeper') end
return 1
"""
)

AUDIT: Final = (
    _COMMON
    + """
local counts, mistakes = {}, {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local found = redis.call('HMGET', message(id), 'state', 'job', 'project', 'pieces')
  local state, project, pieces = found[1] or 'gone', found[3] or project_of(id), tonumber(found[4] or nil)
  if not found[1] and redis.call('EXISTS', message(id)) == 1 then state = 'broken' end
  local places = {}
  local function stands(name, there) if there then places[#places + 1] = name end end
  stands('messages', redis.call('ZSCORE', q .. ':messages', id))
  stands('lane', project and redis.call('ZSCORE', lane(project), id))
  stands('sending', redis.call('ZSCORE', q .. ':sending', id))
  stands('retries', redis.call('ZSCORE', q .. ':retries', id))
  stands('dead', redis.call('ZSCORE', q .. ':dead', id))
  local where = table.concat(places, ', ')
  local must = {waiting = 'messages, lane', sending = 'messages, sending', retry = 'messages, retries',
    dead = 'dead', gone = '', broken = '?'}
  counts[state] = (counts[state] or 0) + 1
  if where ~= must[state] then
    mistakes[#mistakes + 1] = id .. ': is ' .. state .. ', but stands in ' .. (where == '' and 'no index' or where)
  elseif state ~= 'gone' and math.min(redis.call('HSTRLEN', message(id), 'envelope'),
      pieces or redis.call('HSTRLEN', message(id), 'body')) == 0 then
    mistakes[#mistakes + 1] = id .. ': is ' .. state .. ', but has no envelope or body'
  elseif pieces and redis.call('LLEN', body(id)) ~= pieces then
    mistakes[#mistakes + 1] = id .. ': is ' .. state .. ', but pieces of its body are missing'
  elseif pieces and redis.call('TTL', body(id)) ~= -1 then
    mistakes[#mistakes + 1] = id .. ': is ' .. state .. ', but its body will expire'
  elseif state == 'waiting' and not redis.call('ZSCORE', q .. ':lanes', project)
      and not redis.call('ZSCORE', q .. ':parked', project) then
    mistakes[#mistakes + 1] = id .. ': is waiting in a lane that has no turn'
  elseif state == 'sending' and redis.call('EXISTS', q .. ':lease:' .. (found[2] or '')) == 0 then
    mistakes[#mistakes + 1] = id .. ': is being sent by a job without a sign of life'
  end
end
local flat = {}
for state, count in pairs(counts) do
  flat[#flat + 1] = state
  flat[#flat + 1] = count
end
return {flat, mistakes}
"""
)
"""ARGV: ids. Returns states with their counts, and one line for each message that is not in exactly one place."""

GHOSTS: Final = (
    _COMMON
    + """
local ghosts = {}
for i = 4, #ARGV do
  local id = ARGV[i]
  local project = redis.call('HGET', message(id), 'project') or project_of(id)
  local wrong = not project and 'is gone' or ARGV[3] ~= '' and project ~= ARGV[3] and 'belongs to another project'
  if wrong and redis.call('ZSCORE', ARGV[2], id) then
    ghosts[#ghosts + 1] = id .. ': ' .. wrong .. ', but stands in ' .. ARGV[2]
  end
end
return ghosts
"""
)
"""ARGV: an index's key, a lane's project or "", ids. Returns a line for each without a message or in a wrong lane."""

TAKE_WEBHOOKS: Final = (
    _COMMON
    + """
local t, taken = now(), {}
local due = q .. ':webhooks:due'
for _, range in ipairs({{'-inf', fixed(t)}, {fixed(t + FARTHEST), '+inf'}}) do
  for _, event in ipairs(redis.call('ZRANGEBYSCORE', due, range[1], range[2], 'LIMIT', 0, ARGV[2])) do
    local body = redis.call('HGET', q .. ':webhooks', event)
    if body then
      redis.call('ZADD', due, fixed(t + tonumber(ARGV[3])), event)
      taken[#taken + 1] = event
      taken[#taken + 1] = body
      taken[#taken + 1] = redis.call('HINCRBY', q .. ':webhooks:tries', event, 1)
    else
      redis.call('ZREM', due, event)
    end
  end
end
return taken
"""
)
"""ARGV: most events, seconds of the claim. Returns event, body, tries (this one included) of each that is due."""

DELAY_WEBHOOK: Final = (
    _COMMON
    + """
return redis.call('ZADD', q .. ':webhooks:due', 'XX', fixed(now() + tonumber(ARGV[3])), ARGV[2])
"""
)
"""ARGV: event, seconds until it is due again."""

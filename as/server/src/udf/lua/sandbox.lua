-- Takes away what a function must not reach, and bounds what the hook cannot stop: loops in Lua's own C functions.
local host = ...
local error, load, next, pcall, rawget, rawset, select, setmetatable, tostring, type =
	error, load, next, pcall, rawget, rawset, select, setmetatable, tostring, type
local string_rep, string_match, gc, sub = string.rep, string.match, collectgarbage, string.sub
local wrap, raise, bad_argument, wrong_type, text, integer =
	host.wrap, host.raise, host.bad_argument, host.wrong_type, host.text, host.integer
-- Slots that one call of a function of `table` may go over.
local SLOTS_MAX = 1 << 23

local TIMEOUT = 'UDF Execution Timeout'
local is_over = host.is_over

-- Ends a function whose time is over. The hook looks at the clock between instructions; what runs for long within one, or
-- begins to be counted anew, asks here.
local function watch()
	if is_over() then raise(TIMEOUT) end
end

local function string_argument(position, qualified, ...)
	local value = text(position, ...)
	if not value then
		bad_argument(position, 'string expected, got ' .. host.type_name(position, ...), qualified)
	end
	return value
end

-- Metatables have no finalizers: the hook does not watch them.
local function set_metatable(...)
	local object, meta = ...
	if type(object) ~= 'table' then wrong_type('table', 1, ...) end
	if select('#', ...) < 2 or meta ~= nil and type(meta) ~= 'table' then wrong_type('nil or table', 2, ...) end
	local finalizer = meta and rawget(meta, '__gc')
	if finalizer ~= nil then rawset(meta, '__gc', nil) end
	local is_set = pcall(setmetatable, object, meta)
	if finalizer ~= nil then rawset(meta, '__gc', finalizer) end
	if not is_set then raise('cannot change a protected metatable') end
	return object
end
_G.setmetatable = wrap(set_metatable)

-- A handler runs when all is unwound: Lua's own `xpcall` runs it where the error was raised, which may be within the hook,
-- and there no hook watches it.
local function handled(handler, is_done, ...)
	if is_done then return true, ... end
	watch()
	return false, (select(2, pcall(handler, ...)))
end
function xpcall(...)
	local f, handler = ...
	if type(handler) ~= 'function' then
		error("bad argument #2 to 'xpcall' (function expected, got " .. host.type_name(2, ...) .. ')', 2)
	end
	return handled(handler, pcall(f, select(3, ...)))
end

-- Each coroutine has its instructions counted from zero, so the clock is looked at when one is resumed. One that died of the
-- hook has none any more: nothing of it runs again, such as what `__close` names.
local create, resume, close_coroutine = coroutine.create, coroutine.resume, coroutine.close
coroutine.resume = wrap(function(...)
	watch()
	return resume(...)
end)
coroutine.close = wrap(function(...)
	watch()
	return close_coroutine(...)
end)
coroutine.wrap = wrap(function(...)
	if type((...)) ~= 'function' then wrong_type('function', 1, ...) end
	local thread = create((...))
	local function finish(is_done, ...)
		if is_done then return ... end
		watch()
		local problem = ...
		if coroutine.status(thread) == 'dead' then
			local is_closed, other = close_coroutine(thread)
			if not is_closed then problem = other end
		end
		if type(problem) == 'string' then raise(problem) end
		error(problem, 0)
	end
	return wrap(function(...)
		watch()
		return finish(resume(thread, ...))
	end)
end)

-- Only text is compiled.
_G.load = wrap(function(...)
	local chunk, name, _, environment = ...
	if type(chunk) ~= 'string' and type(chunk) ~= 'function' then
		if type(chunk) ~= 'number' then wrong_type('function', 1, ...) end
		chunk = tostring(chunk)
	end
	name = text(2, ...)
	if select('#', ...) >= 4 then return load(chunk, name or chunk, 't', environment) end
	if name then return load(chunk, name, 't') end
	if type(chunk) == 'string' then return load(chunk, chunk, 't') end
	return load(chunk, '=(load)', 't')
end)

local function refused(name)
	return wrap(function() raise("'" .. name .. "' is not available to functions on the server") end)
end

local function refuse(prefix, library, keep)
	local limited = {}
	for name, value in next, library do
		if keep[name] then
			limited[name] = value
		elseif type(value) == 'function' then
			limited[name] = refused(prefix .. name)
		end
	end
	return limited
end

os = refuse('os.', os, { clock = true, date = true, difftime = true, time = true })
io = {}
for _, name in ipairs { 'close', 'flush', 'input', 'lines', 'open', 'output', 'popen', 'read', 'tmpfile', 'type', 'write' } do
	io[name] = refused('io.' .. name)
end
print = wrap(function(...) host.log(3, tostring((...))) end)
dofile, loadfile = refused('dofile'), refused('loadfile')
_G.collectgarbage = wrap(function(...)
	local what = text(1, ...) or 'collect'
	if what == 'count' then return gc('count') end
	watch()
	if what == 'collect' then return gc('collect') end
	if what == 'isrunning' then return true end
	return 0
end)
string.dump = refused('string.dump')

-- Modules: those that are registered, and Lua's own.
local loaded = { _G = _G, coroutine = coroutine, table = table, io = io, os = os, string = string, math = math, utf8 = utf8 }
package = { loaded = loaded, preload = {}, path = host.module_path, cpath = '', config = '/\n;\n?\n!\n-\n' }
package.loaded.package = package

local function require_module(...)
	local name = string_argument(1, nil, ...)
	if loaded[name] ~= nil then return loaded[name] end
	local source = package.preload[name]
	local origin = ':preload:'
	if type(source) ~= 'function' then
		local problem
		source, problem, origin = host.find_module(name)
		if not source then
			if problem then
				raise("error loading module '" .. name .. "' from file '" .. origin .. "':\n\t" .. problem)
			end
			raise("module '" .. name .. "' not found:\n\tno field package.preload['" .. name .. "']")
		end
	end
	local value = source(name, origin)
	if value ~= nil then loaded[name] = value end
	if loaded[name] == nil then loaded[name] = true end
	return loaded[name], origin
end
require = wrap(require_module)

-- `string` without loops that nobody watches: patterns are matched by the host, which knows the deadline.
function string.rep(...)
	local value, count, separator = string_argument(1, 'string.rep', ...), integer(nil, 2, ...), text(3, ...)
	if not count then wrong_type('number', 2, ...) end
	separator = separator or ''
	if count <= 0 or value == '' and separator == '' then return '' end
	local size = (#value + #separator) * 1.0 * count
	if size >= 2147483647 then raise('resulting string too large') end
	watch()
	return string_rep(value, count, separator)
end

local find_in = host.find_pattern

-- What the host says of a match: its start and end, and its captures. A pattern that is malformed raises an error.
local function matched(start, stop, ...)
	if start == nil then return nil end
	if start == false then raise(stop) end
	return start, stop, ...
end

local function start_at(init, size)
	if init > 0 then return init end
	if init == 0 then return 1 end
	if init < -size then return 1 end
	return size + init + 1
end

function string.find(...)
	local value, pattern = string_argument(1, 'string.find', ...), string_argument(2, 'string.find', ...)
	local init = start_at(integer(1, 3, ...), #value)
	if init > #value + 1 then return nil end
	return matched(find_in(value, pattern, init, (select(4, ...)) and true or false, true))
end

function string.match(...)
	local value, pattern = string_argument(1, 'string.match', ...), string_argument(2, 'string.match', ...)
	local init = start_at(integer(1, 3, ...), #value)
	if init > #value + 1 then return nil end
	local function captures(start, stop, ...)
		if not start then return nil end
		if select('#', ...) == 0 then return sub(value, start, stop) end
		return ...
	end
	return captures(matched(find_in(value, pattern, init, false, false)))
end

function string.gmatch(...)
	local value, pattern = string_argument(1, 'string.gmatch', ...), string_argument(2, 'string.gmatch', ...)
	local at, last = start_at(integer(1, 3, ...), #value), nil
	local function captures(start, stop, ...)
		if not start then
			at = #value + 2
			return nil
		end
		at, last = stop + 1, stop
		if select('#', ...) == 0 then return sub(value, start, stop) end
		return ...
	end
	return wrap(function()
		if at > #value + 1 then return nil end
		return captures(matched(host.find_next(value, pattern, at, last or -1)))
	end)
end

local function replacement_of(kind, replacement, whole, ...)
	if kind == 'string' then
		local new, problem = host.expand(replacement, whole, ...)
		if problem then raise(problem) end
		return new
	end
	local first = whole
	if select('#', ...) > 0 then first = ... end
	if kind == 'table' then return replacement[first] end
	if select('#', ...) == 0 then return replacement(whole) end
	return replacement(...)
end

function string.gsub(...)
	local value, pattern = string_argument(1, 'string.gsub', ...), string_argument(2, 'string.gsub', ...)
	local replacement = (select(3, ...))
	local kind = type(replacement)
	if kind == 'number' then replacement, kind = tostring(replacement), 'string' end
	if kind ~= 'string' and kind ~= 'table' and kind ~= 'function' then
		wrong_type('string/function/table', 3, ...)
	end
	local count_max = integer(#value + 1, 4, ...)
	local is_anchored = sub(pattern, 1, 1) == '^'
	local parts, size, count, at, last = {}, 0, 0, 1, -1
	local copied = 1
	local function put(part)
		size = size + 1
		parts[size] = part
	end
	local function step(start, stop, ...)
		if not start then return false end
		local whole = sub(value, start, stop)
		local new = replacement_of(kind, replacement, whole, ...)
		if kind == 'string' and new == false then
			raise("invalid use of '%' in replacement string")
		elseif kind == 'string' and type(new) == 'number' then
			raise('invalid capture index %' .. new .. ' in replacement string')
		elseif not new then
			new = whole
		elseif type(new) ~= 'string' and type(new) ~= 'number' then
			raise('invalid replacement value (a ' .. host.type_name(1, new) .. ')')
		end
		put(sub(value, copied, start - 1))
		put(new)
		copied, at, last, count = stop + 1, stop + 1, stop, count + 1
		return true
	end
	while count < count_max and at <= #value + 1 do
		if not step(matched(host.find_next(value, pattern, at, last, is_anchored))) or is_anchored then break end
	end
	put(sub(value, copied))
	return host.concat(parts, '', 1, size), count
end

for _, name in ipairs { 'rep', 'find', 'match', 'gmatch', 'gsub' } do string[name] = wrap(string[name]) end

-- `table` without loops over more slots than there can be elements.
host.concat = table.concat

-- The function `name` of a library, whose every call looks at the clock first, since it takes as long as its arguments are
-- large; and refuses to go over more than SLOTS_MAX slots.
local function bounded(library_name, name, slots)
	local library = _G[library_name]
	local original, qualified = library[name], library_name .. '.' .. name
	-- What the original raises names neither the place nor the function that a program called.
	local function finish(is_done, ...)
		if is_done then return ... end
		local problem = ...
		local position, reason = nil, nil
		if type(problem) == 'string' then
			position, reason = string_match(problem, "^bad argument #(%d+) to '[^']*' %((.*)%)$")
		end
		if position then bad_argument(math.tointeger(position), reason, qualified) end
		-- Errors of values, as of comparisons, have no place where C code runs.
		if type(problem) == 'string' and string_match(problem, '^[^:]*$') and sub(problem, 1, 11) ~= 'attempt to ' then
			raise(problem)
		end
		error(problem, 0)
	end
	library[name] = wrap(function(...)
		watch()
		local object = ...
		if slots and type(object) == 'table' and slots(...) > SLOTS_MAX then
			raise('too many elements for ' .. name)
		end
		return finish(pcall(original, ...))
	end)
end
local function length(object) return #object end
bounded('table', 'insert', length)
bounded('table', 'remove', length)
bounded('table', 'sort', length)
bounded('table', 'concat')
bounded('table', 'move', function(_, from, to)
	return math.type(from) == 'integer' and math.type(to) == 'integer' and to > from and (to - from) | 0 or 0
end)
for _, name in ipairs { 'format', 'lower', 'reverse', 'upper' } do bounded('string', name) end
for _, name in ipairs { 'codepoint', 'len', 'offset' } do bounded('utf8', name) end
bounded('os', 'date')

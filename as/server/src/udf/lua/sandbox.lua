-- Removes everything that a function must not reach, and bounds loops in Lua's own C functions, which the hook cannot stop.
local host = ...
local error, getmetatable, load, next, pcall, rawequal, rawget, rawset, select, setmetatable, tonumber, tostring, type =
	error, getmetatable, load, next, pcall, rawequal, rawget, rawset, select, setmetatable, tonumber, tostring, type
local math_type, tointeger = math.type, math.tointeger
local string_rep, string_match, gc, find, sub = string.rep, string.match, collectgarbage, string.find, string.sub
local wrap, raise, bad_argument, text = host.wrap, host.raise, host.bad_argument, host.text
-- Maximum number of slots that one call of a function of `table` may visit.
local SLOTS_MAX = 1 << 23
-- Number of elements that are joined at once.
local PIECE_SLOTS = 1 << 14
-- Number of bytes from which on an instruction that compares a string may be slow.
local SLOW_SIZE = 1 << 16
-- Number of bytes that are compiled between two looks at the clock.
local PIECE_SIZE = host.PIECE_SIZE
-- Maximum number of results of `table.unpack`: Lua's stack has no room for more.
local UNPACKED_MAX = 1000000
-- Maximum number of errors that a handler of `xpcall` handles.
local HANDLED_MAX = 200

local TIMEOUT = 'UDF Execution Timeout'
local is_over = host.is_over

-- Ends a function whose time is over. The hook checks the clock between instructions. Code that runs long within one
-- instruction, or whose count of instructions begins again, calls this.
local function watch()
	if is_over() then raise(TIMEOUT) end
end

local function wrong_argument(expected, position, qualified, ...)
	bad_argument(position, expected .. ' expected, got ' .. host.type_name(position, ...), qualified)
end

local function string_argument(position, qualified, ...)
	local value = (select(position, ...))
	if type(value) ~= 'string' and type(value) ~= 'number' then wrong_argument('string', position, qualified, ...) end
	return tostring(value)
end

-- An argument as an integer; the default if there is none.
local function whole(default, position, qualified, ...)
	local value = (select(position, ...))
	if math_type(value) == 'integer' then return value end
	if value == nil and default then return default end
	local number = value
	if type(value) == 'string' then number = tonumber(value) end
	if type(number) ~= 'number' then wrong_argument('number', position, qualified, ...) end
	return tointeger(number) or bad_argument(position, 'number has no integer representation', qualified)
end

-- Metatables have no finalizers, because the hook does not watch these.
local function set_metatable(...)
	local object, meta = ...
	if type(object) ~= 'table' then wrong_argument('table', 1, 'setmetatable', ...) end
	if select('#', ...) < 2 or meta ~= nil and type(meta) ~= 'table' then
		wrong_argument('nil or table', 2, 'setmetatable', ...)
	end
	local finalizer = meta and rawget(meta, '__gc')
	if finalizer ~= nil then rawset(meta, '__gc', nil) end
	local is_set = pcall(setmetatable, object, meta)
	if finalizer ~= nil then rawset(meta, '__gc', finalizer) end
	if not is_set then raise('cannot change a protected metatable') end
	return object
end
_G.setmetatable = host.quick('set_metatable', set_metatable)

-- A handler runs after the stack is unwound. Lua's own `xpcall` runs it at the place of the error, which may be in the
-- hook, where no hook watches it. The handler handles its own errors too, a limited number of times.
local function handled(handler, is_done, ...)
	if is_done then return true, ... end
	local problem = ...
	for _ = 1, HANDLED_MAX do
		watch()
		local is_handled, value = pcall(handler, problem)
		if is_handled then return false, value end
		problem = value
	end
	return false, 'error in error handling'
end
function xpcall(...)
	local f, handler = ...
	if type(handler) ~= 'function' then
		error("bad argument #2 to 'xpcall' (function expected, got " .. host.type_name(2, ...) .. ')', 2)
	end
	return handled(handler, pcall(f, select(3, ...)))
end

-- The count of instructions begins at zero in each coroutine, so the clock is checked when one is resumed. A coroutine
-- that the hook has ended has no hook any more: no code of it runs again, for example of `__close`.
local create, resume, close_coroutine = coroutine.create, coroutine.resume, coroutine.close
coroutine.resume, coroutine.close = host.watched(resume), host.watched(close_coroutine)
coroutine.wrap = wrap(function(...)
	if type((...)) ~= 'function' then wrong_argument('function', 1, 'coroutine.wrap', ...) end
	local thread = create((...))
	return host.quick('coroutine_step', function(problem)
		watch()
		if coroutine.status(thread) == 'dead' then
			local is_closed, other = close_coroutine(thread)
			if not is_closed then problem = other end
		end
		if type(problem) == 'string' then raise(problem) end
		error(problem, 0)
	end, thread)
end)

-- A function that returns what `read` returns, in pieces between which the clock is checked: the time of compiling may grow
-- with the square of the size, for example for a long chain of `elseif`.
local function in_pieces(read)
	local piece, from = '', 1
	return function()
		watch()
		if from > #piece then
			local next_piece = read()
			if type(next_piece) ~= 'string' then return next_piece end
			piece, from = next_piece, 1
		end
		from = from + PIECE_SIZE
		return sub(piece, from - PIECE_SIZE, from - 1)
	end
end

local function optional_string(position, qualified, ...)
	return (select(position, ...)) ~= nil and string_argument(position, qualified, ...) or nil
end

-- Only text is compiled.
_G.load = wrap(function(...)
	local chunk, _, _, environment = ...
	local mode, name = optional_string(3, 'load', ...) or 't', optional_string(2, 'load', ...)
	if type(chunk) ~= 'string' and type(chunk) ~= 'function' then
		if type(chunk) ~= 'number' then wrong_argument('function', 1, 'load', ...) end
		chunk = tostring(chunk)
	end
	if not find(mode, 't', 1, true) then return nil, "attempt to load a text chunk (mode is '" .. mode .. "')" end
	watch()
	name = name or type(chunk) == 'string' and chunk or '=(load)'
	if type(chunk) == 'function' then
		chunk = in_pieces(chunk)
	elseif #chunk > PIECE_SIZE then
		local rest = chunk
		chunk = in_pieces(function()
			local all = rest
			rest = nil
			return all
		end)
	end
	local compiled, problem
	if select('#', ...) >= 4 then
		compiled, problem = load(chunk, name, 't', environment)
	else
		compiled, problem = load(chunk, name, 't')
	end
	if compiled then return compiled end
	-- The compiler catches the error of a function whose time is over.
	watch()
	return nil, problem
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

local os_of_lua = os
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

-- Modules: registered ones and Lua's own.
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

-- `string` without loops that nobody watches: patterns are matched by the host, which knows the deadline, unless they are short.
local originals = {}
for _, name in ipairs { 'rep', 'find', 'match', 'gmatch', 'gsub' } do originals[name] = string[name] end

function string.rep(...)
	local value, count = string_argument(1, 'string.rep', ...), whole(nil, 2, 'string.rep', ...)
	local separator = optional_string(3, 'string.rep', ...) or ''
	if count <= 0 or value == '' and separator == '' then return '' end
	local size = (#value + #separator) * 1.0 * count
	if size >= 2147483647 then raise('resulting string too large') end
	watch()
	if size >= SLOW_SIZE then host.look_soon() end
	return string_rep(value, count, separator)
end

-- The functions that match are native; these raise the errors for their arguments.
for _, name in ipairs { 'find', 'match', 'gmatch' } do
	local qualified = 'string.' .. name
	string[name] = function(...)
		string_argument(1, qualified, ...)
		string_argument(2, qualified, ...)
		whole(1, 3, qualified, ...)
	end
end

function string.gsub(...)
	string_argument(1, 'string.gsub', ...)
	string_argument(2, 'string.gsub', ...)
	local kind = type((select(3, ...)))
	if kind ~= 'number' and kind ~= 'string' and kind ~= 'table' and kind ~= 'function' then
		wrong_argument('string/function/table', 3, 'string.gsub', ...)
	end
	whole(1, 4, 'string.gsub', ...)
end

for name, original in next, originals do string[name] = host.quick('string_' .. name, string[name], original) end

-- `table`: Lua's own functions work on tables without a metatable, over a bounded number of slots. Loops over other objects,
-- whose metamethods may make them endless, are in Lua, where the hook watches.
host.concat = table.concat
local move_plain, sort_plain, concat_plain, unpack_plain = table.move, table.sort, table.concat, table.unpack

-- Returns the results of a function of Lua that runs no code of the program, or raises its error again: that one names
-- neither the place nor the function that a program called.
local function finish(qualified, is_done, ...)
	if is_done then return ... end
	local problem = ...
	if type(problem) ~= 'string' then error(problem, 0) end
	local position, reason = string_match(problem, "^bad argument #(%d+) to '[^']*' %((.*)%)$")
	if position then bad_argument(tointeger(position), reason, qualified) end
	if string_match(problem, '^[^:]*$') and sub(problem, 1, 11) ~= 'attempt to ' then raise(problem) end
	error(problem, 0)
end

local function is_plain(object) return type(object) == 'table' and getmetatable(object) == nil end

local function length(object)
	local size = #object
	if math_type(size) == 'integer' then return size end
	return type(size) == 'number' and tointeger(size) or raise('object length is not an integer')
end

-- Moves elements, in the order of Lua's own function.
local function move(name, source, from, to, at, target)
	if from > to then return end
	if is_plain(source) and is_plain(target) then
		if to - from >= SLOTS_MAX then raise('too many elements for ' .. name) end
		watch()
		move_plain(source, from, to, at, target)
	elseif at > to or at <= from or not rawequal(source, target) then
		for i = 0, to - from do target[at + i] = source[from + i] end
	else
		for i = to - from, 0, -1 do target[at + i] = source[from + i] end
	end
end

-- Elements of any object as a plain table, and their number.
local function elements(object, from, to)
	local all, count = {}, 0
	for i = from, to do
		count = count + 1
		all[count] = object[i]
	end
	return all, count
end

local function by_operator(a, b) return a < b end

-- Joins elements of a table without a metatable, many in pieces.
local function join(object, separator, from, to)
	if to >= from and to - from >= 0 and to - from < PIECE_SLOTS then
		return finish('table.concat', pcall(concat_plain, object, separator, from, to))
	end
	local parts, count = {}, 0
	while from <= to do
		watch()
		local last = to - from >= 0 and to - from < PIECE_SLOTS and to or from + PIECE_SLOTS - 1
		count = count + 1
		parts[count] = finish('table.concat', pcall(concat_plain, object, separator, from, last))
		if last == to then break end
		from = last + 1
	end
	return concat_plain(parts, separator)
end

-- Sorts with one of Lua's own functions. Errors of comparisons stay as the program raised them; errors of the function
-- itself get a place.
local function sort(sort_any, object, comparator, is_direct)
	local is_called = is_direct and comparator ~= nil and not host.is_native(comparator)
	-- Each comparison runs instructions, which the hook counts.
	local compare = comparator or by_operator
	local is_less = (is_called or is_direct and not comparator) and compare or function(a, b)
		is_called = true
		return compare(a, b)
	end
	local is_done, problem = pcall(sort_any, object, is_less)
	if is_done then return end
	if problem == 'invalid order function for sorting' then raise(problem) end
	local is_text = type(problem) == 'string'
	if is_text and (comparator == nil and (is_direct or is_called) or comparator ~= nil and host.is_native(comparator)) then
		-- The error of a comparison in C code names no place.
		problem = string_match(problem, '^sandbox:%d+: (.*)$') or problem
	elseif not is_called then
		finish('table.sort', false, problem)
	end
	error(problem, 0)
end

-- Functions for a table as first argument.
local of_tables = {}

function of_tables.insert(...)
	local object, count = (...), select('#', ...)
	local behind = length(object) + 1
	if count == 2 then
		object[behind] = (select(2, ...))
		return
	end
	if count ~= 3 then raise("wrong number of arguments to 'insert'") end
	local at = whole(nil, 2, 'table.insert', ...)
	if at < 1 or at > behind then bad_argument(2, 'position out of bounds', 'table.insert') end
	move('insert', object, at, behind - 1, at + 1, object)
	object[at] = (select(3, ...))
end

function of_tables.remove(...)
	local object = ...
	local size = length(object)
	local at = whole(size, 2, 'table.remove', ...)
	if at ~= size and (at < 1 or at > size + 1) then bad_argument(2, 'position out of bounds', 'table.remove') end
	local value = object[at]
	move('remove', object, at + 1, size, at, object)
	object[at < size and size or at] = nil
	return value
end

function of_tables.sort(...)
	local object, comparator = ...
	local size = length(object)
	if size <= 1 then return end
	if size > SLOTS_MAX then raise('too many elements for sort') end
	if comparator ~= nil and type(comparator) ~= 'function' then
		wrong_argument('function', 2, 'table.sort', ...)
	end
	watch()
	if is_plain(object) then return sort(sort_plain, object, comparator, true) end
	local all, count = elements(object, 1, size)
	sort(sort_plain, all, comparator, true)
	for i = 1, count do object[i] = all[i] end
end

function of_tables.concat(...)
	local object = ...
	watch()
	local last = length(object)
	if is_plain(object) and select('#', ...) <= 2 and last < PIECE_SLOTS then
		return finish('table.concat', pcall(concat_plain, ...))
	end
	local separator = (select(2, ...)) ~= nil and string_argument(2, 'table.concat', ...) or ''
	local from, to = whole(1, 3, 'table.concat', ...), whole(last, 4, 'table.concat', ...)
	if is_plain(object) then return join(object, separator, from, to) end
	local parts, count = {}, 0
	for i = from, to do
		local value = object[i]
		if type(value) ~= 'string' and type(value) ~= 'number' then
			raise('invalid value (' .. type(value) .. ') at index ' .. i .. " in table for 'concat'")
		end
		count = count + 1
		parts[count] = value
	end
	return join(parts, separator, 1, count)
end

function of_tables.unpack(...)
	local object = ...
	local from = whole(1, 2, 'table.unpack', ...)
	local to = (select(3, ...)) == nil and length(object) or whole(nil, 3, 'table.unpack', ...)
	if from > to then return end
	if to - from < 0 or to - from >= UNPACKED_MAX then raise('too many results to unpack') end
	if is_plain(object) then return finish('table.unpack', pcall(unpack_plain, object, from, to)) end
	local all, count = elements(object, from, to)
	return finish('table.unpack', pcall(unpack_plain, all, 1, count))
end

function of_tables.move(...)
	local source, target = (...), (select(5, ...))
	local from, to = whole(nil, 2, 'table.move', ...), whole(nil, 3, 'table.move', ...)
	local at = whole(nil, 4, 'table.move', ...)
	if target == nil then target = source end
	if type(target) ~= 'table' and type(target) ~= 'userdata' then
		wrong_argument('table', 5, 'table.move', ...)
	end
	if to >= from then
		if from <= 0 and to >= math.maxinteger + from then
			bad_argument(3, 'too many elements to move', 'table.move')
		end
		if at > math.maxinteger - (to - from) then bad_argument(4, 'destination wrap around', 'table.move') end
		move('move', source, from, to, at, target)
	end
	return target
end

local short_ways = { insert = 'table_insert', remove = 'table_remove', unpack = 'table_unpack' }
for name, of_table in next, of_tables do
	local original, qualified = table[name], 'table.' .. name
	local function limited(...)
		local kind = type((...))
		if kind == 'table' or kind == 'string' and name == 'unpack' then return of_table(...) end
		-- Metamethods of lists and other proxies are in Lua.
		if kind == 'userdata' and name == 'sort' then
			local comparator = (select(2, ...))
			if comparator == nil or type(comparator) == 'function' then return sort(original, (...), comparator) end
		end
		if kind == 'userdata' or name == 'unpack' then return finish(qualified, pcall(original, ...)) end
		if name == 'move' then
			for position = 2, 4 do whole(nil, position, qualified, ...) end
		end
		wrong_argument('table', 1, qualified, ...)
	end
	local short_way = short_ways[name]
	table[name] = short_way and host.quick(short_way, limited) or wrap(limited)
end

-- Functions that check the clock first in each call, because the time of a call grows with the size of its arguments.
for library, names in next, {
	[string] = { 'lower', 'packsize', 'reverse', 'unpack', 'upper' },
	[utf8] = { 'codepoint', 'len', 'offset' },
} do
	for _, name in ipairs(names) do library[name] = host.watched(library[name]) end
end

-- Functions of any number of arguments, each of which may be the same long text, and one of a text with many parts, each of which
-- takes long. These raise the errors when the native ones refuse their arguments.
local function too_many() raise('arguments are too many or too long') end
for short_way, place in next, {
	string_char = { string, 'char' },
	string_format = { string, 'format' },
	string_pack = { string, 'pack' },
	math_max = { math, 'max' },
	math_min = { math, 'min' },
	utf8_char = { utf8, 'char' },
	os_date = { os, 'date' },
} do
	local library, name = place[1], place[2]
	library[name] = host.quick(short_way, too_many, library[name])
end

local limited_next = host.quick('next', too_many, next)
_G.next, _G.pairs = limited_next, host.quick('pairs', limited_next, pairs)
-- Lua finds the name of a function for errors here.
os_of_lua.date = os.date

-- Functions that Lua 5.4 has only for programs of earlier versions.
for _, name in ipairs { 'atan2', 'cosh', 'frexp', 'ldexp', 'log10', 'pow', 'sinh', 'tanh' } do math[name] = nil end

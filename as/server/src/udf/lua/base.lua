-- The base of the other parts of the prelude: errors as C functions raise them, checks of arguments, classes.
local host = ...
local error, getmetatable, rawget, select, setmetatable, tonumber, tostring, type =
	error, getmetatable, rawget, select, setmetatable, tonumber, tostring, type
local tointeger, math_type, find, sub = math.tointeger, math.type, string.find, string.sub
local open, proxy, wrap, quick, caller = host.open, host.proxy, host.wrap, host.quick, host.caller

-- Represents nil in lists, maps and records.
local NIL = host.NIL
local CLASS_NAMES = { 'List', 'Map', 'Bytes', 'Record', 'GeoJSON', 'Aerospike', 'Stream', 'Iterator' }
local class = {}
for number, name in ipairs(CLASS_NAMES) do class[name] = number end

-- Raises an error at the place that called the running C function.
local function raise(text)
	local level = caller()
	error(text, level)
end

local function bad_argument(position, text, qualified)
	local level, name, what = caller()
	if what == 'method' then
		position = position - 1
		if position == 0 then error("calling '" .. name .. "' on bad self (" .. text .. ")", level) end
	end
	error("bad argument #" .. position .. " to '" .. (name or qualified or '?') .. "' (" .. text .. ")", level)
end

-- The name of an argument's type: from its metatable, otherwise Lua's.
local function type_name(position, ...)
	if position > select('#', ...) then return 'no value' end
	local value = (select(position, ...))
	local number = open(value)
	if number then return CLASS_NAMES[number] end
	local meta = type(value) == 'table' and getmetatable(value)
	local name = type(meta) == 'table' and rawget(meta, '__name')
	return type(name) == 'string' and name or type(value)
end

local function wrong_type(expected, position, ...)
	bad_argument(position, expected .. ' expected, got ' .. type_name(position, ...))
end

-- Raises the error for an argument that is not a proxy of the required class.
local function wrong_class(number, position, ...)
	if type((select(position, ...))) ~= 'userdata' then
		wrong_type('userdata', position, ...)
	end
	wrong_type(CLASS_NAMES[number], position, ...)
end

-- An argument as an integer; the default if there is none.
local function integer(default, position, ...)
	local value = (select(position, ...))
	if math_type(value) == 'integer' then return value end
	if value == nil then return default end
	local number = value
	if type(value) == 'string' then number = tonumber(value) end
	if type(number) ~= 'number' then wrong_type('number', position, ...) end
	local whole = tointeger(number)
	if not whole then bad_argument(position, 'number has no integer representation') end
	return whole
end

-- An argument as a string; nil if there is none.
local function text(position, ...)
	local value = (select(position, ...))
	if type(value) == 'string' then return value end
	if value == nil then return nil end
	if type(value) ~= 'number' then wrong_type('string', position, ...) end
	return tostring(value)
end

-- A string up to its first zero byte.
local function to_zero(value)
	local zero = find(value, '\0', 1, true)
	return zero and sub(value, 1, zero - 1) or value
end

-- A value as it is kept in a list, map or record; nothing for a value that cannot be kept there.
local function kept(value)
	local kind = type(value)
	if kind == 'number' or kind == 'boolean' then return value end
	if kind == 'string' then return to_zero(value) end
	if kind == 'nil' then return NIL end
	local number = open(value)
	if number and number <= class.GeoJSON then return value, number end
	return nil
end

-- A function for programs: behind its short way if there is one of this name, or that one if it is made already.
local function made(method, short_way)
	if type(short_way) == 'function' then return short_way end
	return short_way and quick(short_way, method) or wrap(method)
end

-- A class: its real metatable, and a table that programs see in its place. `short_ways` names those of its methods.
local function define(name, methods, short_ways)
	local meta = { class[name], __name = name }
	local shown = {}
	for key, method in next, methods do
		local wrapped = made(method, short_ways and short_ways[key])
		meta[key], shown[key] = wrapped, wrapped
	end
	shown.__name = name
	meta.__metatable = shown
	return meta, shown
end

-- A table of functions that can itself be called. `short_ways` names those of the functions.
local function callable(functions, call, short_ways)
	local object = {}
	for key, method in next, functions do object[key] = made(method, short_ways and short_ways[key]) end
	call = call and made(call, short_ways and short_ways.__call)
	return setmetatable(object, { __call = call, __metatable = object })
end

-- A function that returns the content of an argument, which must be of the class with this number.
local function content_reader(class_number)
	return function(position, ...)
		local number, content = open((select(position, ...)))
		if number ~= class_number then wrong_class(class_number, position, ...) end
		return content
	end
end

-- Adds the functions that lists and maps have in common.
local function add_size_and_text(functions, content_of)
	function functions.size(...)
		return content_of(1, ...).n
	end

	function functions.nbytes(...)
		content_of(1, ...)
		return host.packed_size((...))
	end

	function functions.tostring(...)
		content_of(1, ...)
		return host.text_of((...))
	end
end

host.content_reader, host.add_size_and_text = content_reader, add_size_and_text
host.class, host.raise, host.bad_argument, host.type_name = class, raise, bad_argument, type_name
host.wrong_class, host.integer, host.text = wrong_class, integer, text
host.to_zero, host.kept, host.define, host.callable = to_zero, kept, define, callable

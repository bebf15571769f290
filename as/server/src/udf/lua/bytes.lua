-- Bytes. The content holds the buffer, which the host works on.
local host = ...
local select = select
local open, proxy, wrap = host.open, host.proxy, host.wrap
local integer, text, wrong_class, raise = host.integer, host.text, host.wrong_class, host.raise
local BYTES = host.class.Bytes
local U32 = 0xffffffff
local meta

local function make(data)
	return proxy({ data = data }, meta)
end

local function data_of(position, ...)
	local number, content = open((select(position, ...)))
	if number ~= BYTES then wrong_class(BYTES, position, ...) end
	return content.data
end

-- Whether a number is a position counted from 1.
local function is_index(index) return index >= 1 and index <= U32 end

-- The host's result; raises an error if the bytes would get too large.
local function done(result)
	if result == nil then raise('not enough memory') end
	return result
end

local functions = {}

function functions.size(...)
	if select('#', ...) ~= 1 then return 0 end
	return host.bytes_size(data_of(1, ...))
end

function functions.set_size(...)
	if select('#', ...) ~= 2 then return false end
	local data = data_of(1, ...)
	local capacity = integer(0, 2, ...)
	if capacity < 0 or capacity > U32 then return false end
	return host.bytes_has_room(data, capacity)
end

function functions.get_type(...)
	if select('#', ...) < 1 then return end
	return host.bytes_type(data_of(1, ...))
end

function functions.set_type(...)
	if select('#', ...) ~= 2 then return false end
	local data = data_of(1, ...)
	local kind = integer(0, 2, ...)
	if kind == 0 then return false end
	host.bytes_set_type(data, kind)
	return true
end

function functions.get_byte(...)
	if select('#', ...) ~= 2 then return end
	local data = data_of(1, ...)
	local index = integer(0, 2, ...)
	if not is_index(index) then return end
	local value = host.bytes_get(data, index - 1, 1, false)
	if value then return value end
end

function functions.set_byte(...)
	if select('#', ...) ~= 3 then return false end
	local data = data_of(1, ...)
	local index, value = integer(0, 2, ...), integer(0, 3, ...)
	if not is_index(index) or value < 0 or value > 255 then return false end
	return done(host.bytes_set(data, index - 1, 1, false, value))
end

function functions.append_byte(...)
	if select('#', ...) ~= 2 then return false end
	local data = data_of(1, ...)
	local value = integer(0, 2, ...)
	if value < 0 or value > 255 then return false end
	return done(host.bytes_set(data, -1, 1, false, value))
end

-- Functions for signed integers of `width` bytes.
local function define_integer(suffix, width, is_little)
	local limit = width < 8 and 1 << (8 * width - 1)
	local function fits(value) return not limit or value >= -limit and value < limit end
	functions['get_int' .. suffix] = function(...)
		if select('#', ...) ~= 2 then return end
		local data = data_of(1, ...)
		local index = integer(0, 2, ...)
		if not is_index(index) then return end
		local value = host.bytes_get(data, index - 1, width, is_little)
		if value then return value end
	end
	functions['set_int' .. suffix] = function(...)
		if select('#', ...) ~= 3 then return false end
		local data = data_of(1, ...)
		local index, value = integer(0, 2, ...), integer(0, 3, ...)
		if not is_index(index) or not fits(value) then return false end
		return done(host.bytes_set(data, index - 1, width, is_little, value))
	end
	functions['append_int' .. suffix] = function(...)
		if select('#', ...) ~= 2 then return false end
		local data = data_of(1, ...)
		local value = integer(0, 2, ...)
		if not fits(value) then return false end
		return done(host.bytes_set(data, -1, width, is_little, value))
	end
end

for _, bits in ipairs { 16, 32, 64 } do
	define_integer(bits, bits // 8, false)
	define_integer(bits .. '_be', bits // 8, false)
	define_integer(bits .. '_le', bits // 8, true)
end

local function fits_i32(value) return value >= -0x80000000 and value <= 0x7fffffff end

function functions.get_var_int(...)
	if select('#', ...) ~= 2 then return end
	local data = data_of(1, ...)
	local index = integer(0, 2, ...)
	if not is_index(index) then return end
	return host.bytes_get_varying(data, index - 1)
end

function functions.set_var_int(...)
	if select('#', ...) ~= 3 then return 0 end
	local data = data_of(1, ...)
	local index, value = integer(0, 2, ...), integer(0, 3, ...)
	if not is_index(index) or not fits_i32(value) then return 0 end
	return done(host.bytes_set_varying(data, index - 1, value & U32))
end

function functions.append_var_int(...)
	if select('#', ...) ~= 2 then return 0 end
	local data = data_of(1, ...)
	local value = integer(0, 2, ...)
	if not fits_i32(value) then return 0 end
	return done(host.bytes_set_varying(data, -1, value & U32))
end

function functions.append_string(...)
	if select('#', ...) ~= 2 then return false end
	local data = data_of(1, ...)
	local value = text(2, ...)
	if not value or value == '' then return false end
	return done(host.bytes_write(data, -1, value))
end

function functions.set_string(...)
	if select('#', ...) ~= 3 then return false end
	local data = data_of(1, ...)
	local index, value = integer(0, 2, ...), text(3, ...)
	if not is_index(index) or not value then return false end
	return done(host.bytes_write(data, index - 1, value))
end

function functions.append_bytes(...)
	if select('#', ...) ~= 3 then return false end
	local data, other = data_of(1, ...), data_of(2, ...)
	local count = integer(0, 3, ...)
	if count < 0 or count > U32 then return false end
	return done(host.bytes_write(data, -1, host.bytes_part(other, 0, count)))
end

function functions.set_bytes(...)
	if select('#', ...) ~= 4 then return false end
	local data = data_of(1, ...)
	local index, other = integer(0, 2, ...), data_of(3, ...)
	local count = integer(0, 4, ...)
	if not is_index(index) or count < 0 or count > U32 then return false end
	return done(host.bytes_write(data, index - 1, host.bytes_part(other, 0, count)))
end

-- The bytes from an index on; fewer if the bytes end before.
local function part(...)
	if select('#', ...) ~= 3 then return nil end
	local data = data_of(1, ...)
	local index, count = integer(0, 2, ...), integer(0, 3, ...)
	if not is_index(index) or count < 0 or count > U32 then return nil end
	return host.bytes_part(data, index - 1, count)
end

function functions.get_string(...)
	local value = part(...)
	if value then return value end
end

function functions.get_bytes(...)
	local value = part(...)
	if value then return make(done(host.bytes_of(value))) end
end

local function to_text(...)
	if select('#', ...) ~= 1 then return 0 end
	return host.bytes_text(data_of(1, ...))
end

local shown
meta, shown = host.define('Bytes', {
	__index = functions.get_byte,
	__newindex = functions.set_byte,
	-- Lua gives two operands, which is one too many for the size.
	__len = function() return 0 end,
	__tostring = to_text,
})

bytes = host.callable(functions, function(...)
	local count = select('#', ...)
	if count == 1 then return make(done(host.bytes_new(0))) end
	if count == 2 then return make(done(host.bytes_new(integer(0, 2, ...) & U32))) end
end)

Bytes = shown
host.make_bytes = make

-- Bytes. Their functions are native (`native/bytes.rs`); those here raise the errors when a native one refuses its arguments.
local host = ...
local select, sub = select, string.sub
local open, integer, text, wrong_class, raise = host.open, host.integer, host.text, host.wrong_class, host.raise
local BYTES = host.class.Bytes

-- Checks of an argument by the letter of its kind.
local checks = {
	b = function(position, ...)
		if open((select(position, ...))) ~= BYTES then wrong_class(BYTES, position, ...) end
	end,
	i = function(position, ...) integer(0, position, ...) end,
	t = function(position, ...) text(position, ...) end,
}

-- A function that raises an error: one of its arguments is not of its kind, or the bytes would get too large.
local function refusal(kinds)
	return function(...)
		for position = 1, #kinds do checks[sub(kinds, position, position)](position, ...) end
		raise('not enough memory')
	end
end

local kinds = {
	size = 'b',
	set_size = 'bi',
	get_type = 'b',
	set_type = 'bi',
	append_string = 'bt',
	set_string = 'bit',
	get_string = 'bii',
	append_bytes = 'bbi',
	set_bytes = 'bibi',
	get_bytes = 'bii',
}
for _, name in ipairs { 'byte', 'int16', 'int16_be', 'int16_le', 'int32', 'int32_be', 'int32_le', 'int64', 'int64_be', 'int64_le', 'var_int' } do
	kinds['get_' .. name], kinds['set_' .. name], kinds['append_' .. name] = 'bi', 'bii', 'bi'
end

local functions, short_ways = {}, { __call = 'bytes_new' }
for name, of_name in next, kinds do
	functions[name], short_ways[name] = refusal(of_name), 'bytes_' .. name
end

local meta
meta, Bytes = host.define('Bytes', {
	__index = functions.get_byte,
	__newindex = functions.set_byte,
	-- Lua gives two operands, which is one too many for the size.
	__len = function() return 0 end,
	__tostring = functions.size,
}, { __index = 'bytes_get_byte', __newindex = 'bytes_set_byte', __tostring = 'bytes_to_text' })

bytes = host.callable(functions, function(...)
	integer(0, 2, ...)
	raise('not enough memory')
end, short_ways)

host.bytes_meta = meta

-- Maps. Their functions are native (`native/map.rs`); those here raise the errors when a native one refuses its arguments.
local host = ...
local quick = host.quick
local integer, content_of = host.integer, host.content_reader(host.class.Map)

local function refuse(...) content_of(1, ...) end
local function nothing() end

local functions = {
	new = function(...) integer(0, 1, ...) end,
	pairs = refuse,
	iterator = refuse,
	keys = refuse,
	values = refuse,
	remove = refuse,
}
functions.create = functions.new

host.add_size_and_text(functions, content_of)

local meta
meta, Map = host.define('Map', {
	__index = refuse,
	__newindex = refuse,
	__len = functions.size,
	__tostring = functions.tostring,
}, { __index = 'map_get', __newindex = 'map_set', __len = 'map_size' })

local pairs_of = quick('map_iterate', refuse, quick('map_pair', nothing))
map = host.callable(functions, function(...) integer(32, 3, ...) end, {
	create = 'map_new',
	iterator = pairs_of,
	keys = quick('map_iterate', refuse, quick('map_key', nothing)),
	new = 'map_new',
	pairs = pairs_of,
	remove = 'map_remove',
	size = 'map_size',
	values = quick('map_iterate', refuse, quick('map_value', nothing)),
	__call = 'map_of_table',
})

host.map_meta = meta

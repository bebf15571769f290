-- Maps. The content of one is a table: values by key in `values`, those whose keys are bytes in `blobs` (by the text of the
-- key, with the key itself in `blob_keys`; both are made with the first), the count `n`, `keys` in their order once that is asked for, and the `flags` of
-- what described it in the bin or argument that it comes from.
local host = ...
local next, select, type, math_type = next, select, type, math.type
local open, proxy, quick = host.open, host.proxy, host.quick
local kept, integer, wrong_class = host.kept, host.integer, host.wrong_class
local NIL, MAP, ITERATOR = host.NIL, host.class.Map, host.class.Iterator
local RECORD = host.class.Record
local blob_text = host.blob_text
local meta

local function make()
	local content = { n = 0, values = {} }
	return proxy(content, meta), content
end

-- The content of the map in an argument.
local content_of = host.content_reader(MAP)

-- The place of a value with this key: the table and the key in it. Nothing if it cannot be a key.
local function place(content, key)
	local kind = type(key)
	if kind == 'string' then return content.values, host.to_zero(key) end
	if math_type(key) == 'integer' then return content.values, key end
	if kind == 'userdata' then
		local text = blob_text(key)
		if not text then return end
		if not content.blobs then content.blobs, content.blob_keys = {}, {} end
		return content.blobs, text
	end
end

local function get(content, key)
	local values, at = place(content, key)
	if not values then return nil end
	local value = values[at]
	if value == NIL then return nil end
	return value
end

local function set(content, key, value)
	local values, at = place(content, key)
	if not values then return end
	if values[at] == nil then
		content.n, content.keys = content.n + 1, nil
	end
	if values == content.blobs then content.blob_keys[at] = key end
	values[at] = value
end

local function remove(content, key)
	local values, at = place(content, key)
	if values and values[at] ~= nil then
		values[at] = nil
		if values == content.blobs then content.blob_keys[at] = nil end
		content.n, content.keys = content.n - 1, nil
	end
end

-- The keys: integers, then strings, then bytes, each in their order.
local function sorted_keys(content)
	if content.keys then return content.keys end
	local keys = host.sorted_keys(content.values)
	if content.blobs then
		local texts, blob_keys, count = host.sorted_keys(content.blobs), content.blob_keys, #keys
		for i = 1, #texts do keys[count + i] = blob_keys[texts[i]] end
	end
	content.keys = keys
	return keys
end

-- A function that gives the next pair, or a part of it.
local function stepper(short_way, pick)
	return quick(short_way, function(...)
		local number, iterator = open((...))
		-- The content of an iterator over a list is the list.
		if number ~= ITERATOR or type(iterator) ~= 'table' then return end
		local map, at = iterator.map, iterator.at + 1
		local key = iterator.keys[at]
		if key == nil then return end
		iterator.at = at
		return pick(key, get(map, key))
	end)
end

local function iterate(step)
	return function(...)
		local content = content_of(1, ...)
		local iterator = { map = content, keys = sorted_keys(content), at = 0 }
		return step, proxy(iterator, host.iterator_meta)
	end
end

local functions = {}

function functions.new(...)
	if select('#', ...) ~= 1 or integer(0, 1, ...) < 1 then return end
	return (make())
end
functions.create = functions.new
functions.pairs = iterate(stepper('map_pair', function(key, value) return key, value end))
functions.iterator = functions.pairs
functions.keys = iterate(stepper('map_key', function(key) return key end))
functions.values = iterate(stepper('map_value', function(_, value) return value end))

function functions.remove(...)
	local content = content_of(1, ...)
	remove(content, (select(2, ...)))
end

host.add_size_and_text(functions, content_of)

local shown
meta, shown = host.define('Map', {
	__index = function(...)
		local map, key = ...
		local number, content = open(map)
		if number ~= MAP then wrong_class(MAP, 1, ...) end
		return get(content, key)
	end,
	__newindex = function(...)
		local content = content_of(1, ...)
		local _, key, value = ...
		local stored, number = kept(value)
		if number == RECORD then return end
		if stored == nil then remove(content, key) else set(content, key, stored) end
	end,
	__len = functions.size,
	__tostring = functions.tostring,
}, { __index = 'map_get', __newindex = 'map_set', __len = 'map_size' })

map = host.callable(functions, function(...)
	integer(32, 3, ...)
	local made, content = make()
	local count, source = select('#', ...), (select(2, ...))
	if (count == 2 or count == 3) and type(source) == 'table' then
		for key, value in next, source do
			local stored = kept(value)
			if stored ~= nil then set(content, key, stored) end
		end
	end
	return made
end, { size = 'map_size' })

Map = shown
-- A map of the `count` values by key in a table, and of those whose keys are bytes: key and value, one after the other. Its flags.
host.make_map = function(values, others, count, flags)
	local made, content = make()
	content.values, content.n, content.flags = values, count, flags
	if others then
		for i = 1, #others, 2 do set(content, others[i], others[i + 1]) end
	end
	return made
end
-- The values of a map in the order of its keys, and the keys.
host.pairs_of = function(content)
	local keys, values = sorted_keys(content), {}
	for i = 1, #keys do
		local at, key = place(content, keys[i])
		values[i] = at and at[key]
	end
	return keys, values
end

-- Records, `aerospike`, GeoJSON, iterators and streams.
--
-- The content of a record is its cache: bins that were read or set, with their values, and which of them must be saved. The
-- host has the record itself; `id` is its number, and the host refuses the number of an earlier record.
local host = ...
local next, select, tostring, type = next, select, tostring, type
local open, proxy, wrap = host.open, host.proxy, host.wrap
local kept, integer, text, to_zero = host.kept, host.integer, host.text, host.to_zero
local wrong_class, raise, bad_argument, type_name = host.wrong_class, host.raise, host.bad_argument, host.type_name
local class, NIL = host.class, host.NIL
local RECORD, AEROSPIKE = class.Record, class.Aerospike
local BIN_NAME_SIZE_MAX, BINS_MAX, NAMES_MAX = 15, 512, 1024
-- Result of a save with too many bins.
local TOO_MANY_BINS = 21
-- Represents a missing value where nil would be a value.
local ABSENT = {}
local meta

local function clear(cache)
	cache.names, cache.values, cache.dirty, cache.index = {}, {}, {}, {}
	cache.count, cache.inserted, cache.too_many = 0, 0, false
end

-- The content of record `id`, made when it is first needed.
local function fill(id)
	local cache = { id = id }
	clear(cache)
	return cache
end

local function cache_of(position, ...)
	local number, cache = open((select(position, ...)))
	if number ~= RECORD then wrong_class(RECORD, position, ...) end
	return cache
end

local function is_value(value) return value ~= NIL and value ~= ABSENT end

local function remember(cache, name, value, dirty)
	if cache.too_many then return end
	local at = cache.index[name]
	if at then
		if is_value(cache.values[at]) then cache.inserted = cache.inserted - 1 end
	else
		if cache.count >= NAMES_MAX or is_value(value) and cache.inserted >= BINS_MAX then
			cache.too_many = true
			return
		end
		at = cache.count + 1
		cache.count, cache.index[name], cache.names[at] = at, at, name
	end
	cache.values[at], cache.dirty[at] = value, dirty
	if is_value(value) then cache.inserted = cache.inserted + 1 end
end

-- Removes entry `at`; the last entry takes its place.
local function forget(cache, at)
	local last = cache.count
	cache.index[cache.names[at]] = nil
	if at < last then
		cache.names[at], cache.values[at], cache.dirty[at] =
			cache.names[last], cache.values[last], cache.dirty[last]
		cache.index[cache.names[at]] = at
	end
	cache.names[last], cache.values[last], cache.dirty[last] = nil, nil, nil
	cache.count = last - 1
end

local function failed(cache, result)
	host.record_save_failed(cache.id, result)
	clear(cache)
	return -1
end

-- Passes the changes to the host, which stores them when the function has ended.
local function save(cache)
	local refused = host.record_begin_save(cache.id)
	if refused then return failed(cache, refused) end
	if cache.too_many then return failed(cache, TOO_MANY_BINS) end
	local at = 1
	while at <= cache.count do
		local value = cache.values[at]
		if not cache.dirty[at] then
			at = at + 1
		elseif is_value(value) then
			local result = host.record_set_bin(cache.id, cache.names[at], value)
			if result then return failed(cache, result) end
			at = at + 1
		else
			host.record_delete_bin(cache.id, cache.names[at])
			forget(cache, at)
		end
	end
	for i = 1, cache.count do cache.dirty[i] = false end
	host.record_end_save(cache.id)
	return 0
end

local functions = {}

local short_ways = { digest = 'record_digest', key = 'record_key', set_ttl = 'record_set_ttl', setname = 'record_setname' }
for _, name in ipairs { 'ttl', 'last_update_time', 'gen', 'size', 'memory_size', 'device_size', 'numbins' } do
	functions[name], short_ways[name] = function(...) cache_of(1, ...) end, 'record_' .. name
end

function functions.setname(...) return host.record_set_name(cache_of(1, ...).id) end
function functions.key(...) return host.record_key(cache_of(1, ...).id) end
function functions.digest(...) cache_of(1, ...) end

function functions.bin_names(...)
	local names = host.record_bin_names(cache_of(1, ...).id)
	if not names then raise("can't get bin names") end
	return names
end

function functions.set_ttl(...)
	cache_of(1, ...)
	integer(0, 2, ...)
end

function functions.drop_key(...) host.record_drop_key(cache_of(1, ...).id) end

local function read_bin(...)
	local cache = cache_of(1, ...)
	local name = text(2, ...)
	if not name then return nil end
	name = to_zero(name)
	if #name > BIN_NAME_SIZE_MAX then return nil end
	local at = cache.index[name]
	local value
	if at then value = cache.values[at] else value = ABSENT end
	if value == ABSENT then
		value = host.record_bin(cache.id, name)
		if value ~= nil then remember(cache, name, value, false) end
	elseif value == NIL then
		return nil
	end
	return value
end

meta = host.define('Record', {
	__index = read_bin,
	__newindex = function(...)
		local cache = cache_of(1, ...)
		local name = text(2, ...)
		if not name then return end
		name = to_zero(name)
		local value = kept((select(3, ...)))
		if value == nil then raise("can't set bin " .. name .. ' to unsupported type') end
		if #name <= BIN_NAME_SIZE_MAX then remember(cache, name, value, true) end
	end,
}, { __index = 'record_get', __newindex = 'record_set' })

meta[2] = fill

record = host.callable(functions, nil, short_ways)
host.record_meta = meta

-- The record in the arguments of a method of `aerospike`.
local function record_of(...)
	local value = (select(2, ...))
	local number, cache = open(value)
	if number == RECORD then return cache end
	if type(value) == 'userdata' then
		bad_argument(2, 'Record expected, got ' .. type_name(2, ...))
	end
	bad_argument(2, 'Record expected, got ' .. (select('#', ...) < 2 and 'no value' or type(value)))
end

local function check_self(...)
	if open((...)) ~= AEROSPIKE then wrong_class(AEROSPIKE, 1, ...) end
end

local methods = {}

function methods.create(...)
	check_self(...)
	local cache = record_of(...)
	local refused = host.record_create(cache.id)
	if refused then return refused end
	local result = save(cache)
	if result ~= 0 then host.record_uncreate(cache.id) end
	return result
end

function methods.update(...)
	check_self(...)
	local cache = record_of(...)
	local refused = host.record_update(cache.id)
	if refused then return refused end
	return save(cache)
end

function methods.exists(...)
	check_self(...)
	record_of(...)
end

function methods.remove(...)
	check_self(...)
	local cache = record_of(...)
	local names = host.record_names_to_remove(cache.id)
	if not names then return 1 end
	clear(cache)
	for i = 1, #names do remember(cache, names[i], ABSENT, true) end
	return save(cache)
end

function methods.log(...)
	check_self(...)
	host.log(integer(0, 2, ...), text(3, ...))
end

function methods.get_current_time(...)
	check_self(...)
end

function methods.set_context(...)
	check_self(...)
	record_of(...)
	integer(0, 3, ...)
	return 2
end

function methods.get_config(...)
	check_self(...)
	record_of(...)
	text(3, ...)
	return 0
end

-- Classes whose table of functions is also the value of their name.
local function class_table(name, functions, short_ways)
	local wrapped = {}
	for key, method in next, functions do
		local short_way = short_ways and short_ways[key]
		wrapped[key] = short_way and host.quick(short_way, method) or wrap(method)
	end
	local made = { class[name], __name = name, __index = wrapped, __metatable = wrapped }
	return made, wrapped
end

local aerospike_meta
aerospike_meta, Aerospike = class_table('Aerospike', methods, {
	exists = 'aerospike_exists',
	update = 'aerospike_update',
	get_current_time = 'aerospike_get_current_time',
})
local the_aerospike = proxy({}, aerospike_meta)
host.aerospike = the_aerospike
aerospike = the_aerospike

local geojson_meta
local function make_geojson(json)
	return proxy({ json = json }, geojson_meta)
end
geojson_meta = host.define('GeoJSON', {
	__tostring = function(...)
		wrong_class(class.GeoJSON, 1, ...)
	end,
}, { __tostring = 'geojson_to_text' })
geojson = host.callable({}, function(...)
	if select('#', ...) ~= 2 then return end
	local json = text(2, ...)
	if json then return make_geojson(to_zero(json)) end
end, { __call = 'geojson_new' })
host.make_geojson = make_geojson

-- Iterators are native (`native/list.rs`, `native/map.rs`).
local function no_iterator(...) wrong_class(class.Iterator, 1, ...) end
local iterator_functions = { has_next = no_iterator, next = no_iterator }
local of_iterators = { has_next = 'iterator_has_next', next = 'iterator_next' }
iterator = host.callable(iterator_functions, no_iterator, of_iterators)
host.iterator_meta, Iterator = class_table('Iterator', iterator_functions, of_iterators)
host.keep_metatables(host.list_meta, host.iterator_meta, host.bytes_meta, host.map_meta, geojson_meta)

-- A stream is read by `next`, a function of the host, and written to by `write`.
local stream_meta
local function stream_of(...)
	local number, content = open((...))
	if number == class.Stream then return content end
	if type((...)) == 'userdata' then bad_argument(1, 'Stream expected, got ' .. type_name(1, ...)) end
	bad_argument(1, 'Stream expected, got ' .. (select('#', ...) < 1 and 'no value' or type((...))))
end

local stream_functions = {}

function stream_functions.read(...)
	local content = stream_of(...)
	if not content.read then return nil end
	return content.read()
end

function stream_functions.write(...)
	local content = stream_of(...)
	if not content.write then return -1 end
	return content.write((select(2, ...)))
end

function stream_functions.readable(...) return stream_of(...).read ~= nil end
function stream_functions.writable(...) return stream_of(...).read ~= nil end
function stream_functions.tostring(...)
	stream_of(...)
	return 'Stream'
end

stream_meta = host.define('Stream', { __tostring = stream_functions.tostring })
stream = host.callable(stream_functions)
host.make_stream = function(read, write)
	return proxy({ read = read, write = write }, stream_meta)
end

-- Lists. The content is a table: the elements from 1, their count `n`, the maximum count `room` if there is one, and the
-- `flags` from the description in the bin or argument that the list comes from.
local host = ...
local next, select, type, move, math_type = next, select, type, table.move, math.type
local open, proxy, quick = host.open, host.proxy, host.quick
local kept, integer, wrong_class, raise = host.kept, host.integer, host.wrong_class, host.raise
local NIL, LIST, ITERATOR, RECORD = host.NIL, host.class.List, host.class.Iterator, host.class.Record
-- Maximum number of elements of a list: far more than a record can hold.
local COUNT_MAX = 1 << 23
local U32 = 0xffffffff
-- How many elements a list grows by, in the C server; a list that grows by none has `room`.
local STEP = 10
local meta

local function make(content, count, step, room)
	content.n = count
	if step ~= STEP then content.step = step end
	if step == 0 then content.room = room end
	return proxy(content, meta)
end

-- The content of the list in an argument.
local content_of = host.content_reader(LIST)

-- Whether the list may have `count` elements.
local function has_room(content, count)
	if count > COUNT_MAX then raise('list of ' .. count .. ' elements is too long') end
	return not content.room or count <= content.room
end

-- The element in an argument; nothing for a record, for an invalid value, and for a missing argument.
local function element(position, ...)
	local value = (select(position, ...))
	if value == nil and position > select('#', ...) then return nil end
	local stored, number = kept(value)
	if number ~= RECORD then return stored end
end

-- Puts an element after the first `before` ones.
local function insert(content, before, value)
	local count = content.n
	local grown = (before > count and before or count) + 1
	if not has_room(content, grown) then return end
	if before < count then
		move(content, before + 1, count, before + 2)
	else
		for i = count + 1, before do content[i] = NIL end
	end
	content[before + 1] = value
	content.n = grown
end

local function part(content, from, to)
	local step = content.step or STEP
	return make(move(content, from, to, 1, {}), to - from + 1, step, to - from + 1)
end

local function next_element(...)
	local number, content = open((...))
	if number ~= ITERATOR then return end
	local list, at = content.list, content.at
	if not list or at >= list.n then return end
	content.at = at + 1
	local value = list[at + 1]
	if value == NIL then return nil end
	return value
end

local functions = {}

function functions.new(...)
	local count = select('#', ...)
	if count < 1 or count > 2 then return end
	local capacity = integer(-1, 1, ...)
	if capacity < 0 then return end
	local step = integer(STEP, 2, ...)
	if step < 0 then return end
	return make({}, 0, step & U32, capacity & U32)
end
functions.create = functions.new

function functions.insert(...)
	local content = content_of(1, ...)
	local index = integer(0, 2, ...)
	if index > 0 then
		local value = element(3, ...)
		if value ~= nil then insert(content, (index & U32) - 1 & U32, value) end
	end
end

function functions.append(...)
	local number, content = open((...))
	if number ~= LIST then wrong_class(LIST, 1, ...) end
	local value = element(2, ...)
	if value == nil then return end
	local count = content.n + 1
	if has_room(content, count) then
		content[count] = value
		content.n = count
	end
end

function functions.prepend(...)
	local content = content_of(1, ...)
	local value = element(2, ...)
	if value ~= nil then insert(content, 0, value) end
end

function functions.remove(...)
	local content = content_of(1, ...)
	local index, count = integer(0, 2, ...), content.n
	if index > 0 then index = ((index & U32) - 1 & U32) + 1 end
	if index > 0 and index <= count then
		move(content, index + 1, count, index)
		content[count] = nil
		content.n = count - 1
	end
end

function functions.concat(...)
	local content, other = content_of(1, ...), content_of(2, ...)
	local count, added = content.n, other.n
	if has_room(content, count + added) then
		move(other, 1, added, count + 1, content)
		content.n = count + added
	end
end

function functions.trim(...)
	local content = content_of(1, ...)
	local index, count = integer(0, 2, ...), content.n
	if index > 0 then index = ((index & U32) - 1 & U32) + 1 end
	if index > 0 and index <= count then
		for i = index, count do content[i] = nil end
		content.n = index - 1
	end
end

function functions.take(...)
	local content = content_of(1, ...)
	local wanted, count = integer(0, 2, ...), content.n
	if wanted <= 0 then return nil end
	wanted = wanted & U32
	return part(content, 1, wanted < count and wanted or count)
end

function functions.drop(...)
	local content = content_of(1, ...)
	local dropped, count = integer(0, 2, ...), content.n
	if dropped <= 0 then return nil end
	dropped = dropped & U32
	return part(content, (dropped < count and dropped or count) + 1, count)
end

local next_wrapped = quick('list_next', next_element)

function functions.iterator(...)
	local content = content_of(1, ...)
	return next_wrapped, proxy({ list = content, at = 0 }, host.iterator_meta)
end

host.add_size_and_text(functions, content_of)

local shown
meta, shown = host.define('List', {
	__index = function(...)
		local list, index = ...
		local number, content = open(list)
		if number ~= LIST then wrong_class(LIST, 1, ...) end
		if math_type(index) ~= 'integer' then index = integer(0, 2, ...) end
		local value = content[index & U32]
		if value == NIL then return nil end
		return value
	end,
	__newindex = function(...)
		local content = content_of(1, ...)
		local index, count = integer(0, 2, ...) & U32, content.n
		if index == 0 then return end
		local value = element(3, ...)
		if value == nil then return end
		if index > count then
			if not has_room(content, index) then return end
			for i = count + 1, index - 1 do content[i] = NIL end
			content.n = index
		end
		content[index] = value
	end,
	__len = functions.size,
	__tostring = functions.tostring,
}, { __index = 'list_get', __newindex = 'list_set', __len = 'list_size' })

list = host.callable(functions, function(...)
	local _, source = ...
	local content, count = {}, 0
	if select('#', ...) == 2 and type(source) == 'table' then
		for key, value in next, source do
			if type(key) == 'number' then
				count = count + 1
				local stored = kept(value)
				if stored == nil then stored = NIL end
				content[count] = stored
			end
		end
	end
	return make(content, count, STEP)
end, {
	append = 'list_append',
	insert = 'list_insert',
	prepend = 'list_prepend',
	remove = 'list_remove',
	size = 'list_size',
})

List = shown
host.make_list = function(content, count, flags)
	content.flags = flags
	return make(content, count, STEP)
end

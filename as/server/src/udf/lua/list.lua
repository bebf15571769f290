-- Lists. Their functions are native (`native/list.rs`); those here raise the errors when a native one refuses its arguments.
local host = ...
local quick = host.quick
local integer, wrong_class, raise = host.integer, host.wrong_class, host.raise
local open = host.open
local LIST = host.class.List
-- Maximum number of elements of a list: far more than a record can hold.
local COUNT_MAX = 1 << 23
local U32 = 0xffffffff

local content_of = host.content_reader(LIST)

-- A function that raises an error: its first argument is no list, the second is no number, or the list would get too long.
-- `grown` returns the number of elements that it would have.
local function refusal(has_integer, grown)
	return function(...)
		content_of(1, ...)
		local number = has_integer and integer(0, 2, ...)
		if grown then raise('list of ' .. grown(#(...), number, ...) .. ' elements is too long') end
	end
end

local function one_more(count) return count + 1 end
local function at(count, index)
	index = index & U32
	return index > count and index or count + 1
end

local functions = {
	append = refusal(false, one_more),
	prepend = refusal(false, one_more),
	insert = refusal(true, function(count, index)
		local before = (index & U32) - 1 & U32
		return (before > count and before or count) + 1
	end),
	remove = refusal(true),
	concat = function(...)
		local _ = content_of(1, ...), content_of(2, ...)
		local first, second = ...
		raise('list of ' .. #first + #second .. ' elements is too long')
	end,
	trim = refusal(true),
	take = refusal(true),
	drop = refusal(true),
	new = function(...)
		integer(-1, 1, ...)
		integer(0, 2, ...)
	end,
	iterator = refusal(false),
}
functions.create = functions.new

host.add_size_and_text(functions, content_of)

local meta
meta, List = host.define('List', {
	__index = refusal(true),
	__newindex = refusal(true, at),
	__len = functions.size,
	__tostring = functions.tostring,
}, { __index = 'list_get', __newindex = 'list_set', __len = 'list_size' })

local step = quick('list_step', function() end)

list = host.callable(functions, function() end, {
	append = 'list_append',
	concat = 'list_concat',
	create = 'list_new',
	drop = 'list_drop',
	insert = 'list_insert',
	iterator = quick('list_iterate', functions.iterator, step),
	new = 'list_new',
	prepend = 'list_prepend',
	remove = 'list_remove',
	size = 'list_size',
	take = 'list_take',
	trim = 'list_trim',
	__call = 'list_of_table',
})

host.list_meta = meta

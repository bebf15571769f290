-- A stream function builds a chain of operations; these functions carry them out. Each takes a function that returns the
-- next value, and returns such a function.
--
-- Their line numbers appear in errors: 36, 50, 63, 76, 89, 113, 159.
local LIMIT = 1000
local ON_SERVER, ON_CLIENT, ON_EITHER, ON_BOTH = 1, 2, 3, 4

-- A copy of the initial value of an aggregation.
local function copied(value)
	local kind = type(value)
	if kind == 'table' then
		local copy = {}
		for k, v in pairs(value) do copy[k] = v end
		return copy
	elseif kind == 'userdata' then
		local meta = getmetatable(value)
		if meta == Map then return map.clone(value) end
		if meta == List then return list.clone(value) end
		return nil
	end
	return value
end

local function is_large(value) return type(value) == 'number' and value >= LIMIT end

-- A function that returns the values of `step` until its second result says that it is done.
local function until_done(step) local done = false
	return function() if done then return nil end
		local value, is_last = step() done = is_last return value end end

function filter(next, p)
	return until_done(function()
		-- Values that `p` refuses are skipped.

		for a in next do
			if p(a) then
				return a
			end
		end
		return nil, true
	end)
end


function transform(next, f)
	return until_done(function()

		local a = next()
		if a ~= nil then
			return f(a)
		end
		return nil, true
	end)
end


function reduce(next, f)

	return until_done(function()
		local a = next()
		if a ~= nil then
			for b in next do
				a = f(a, b)
			end
		end
		return a, true
	end)
end


function aggregate(next, init, f)
	return until_done(function()
		local a = copied(init)

		for b in next do
			a = f(a, b)
			if is_large(a) then
				return a
			end
		end
		return a, true
	end)
end


function stream_iterator(s)
	return until_done(function()

		local v = stream.read(s)
		return v, v == nil
	end)
end

StreamOps = {}
StreamOps_mt = { __index = StreamOps }

function StreamOps_create()
	return setmetatable({ ops = {} }, StreamOps_mt)
end







function StreamOps_apply(stream, ops, i, n)


	i, n = i or 1, n or #ops
	if i > n then return stream end
	local op = ops[i]
	local s = op.func(stream, table.unpack(op.args)) or stream
	return StreamOps_apply(s, ops, i + 1, n)
end

-- The operations for one side: the server's part ends with the first reduction, which belongs to both sides.
function StreamOps_select(stream_ops, scope)
	local of_server, of_client, is_server = {}, {}, true
	for _, op in ipairs(stream_ops) do
		if not is_server then
			table.insert(of_client, op)
		elseif op.scope == ON_BOTH then
			is_server = false
			table.insert(of_server, op)
			table.insert(of_client, op)
		else
			table.insert(of_server, op)
		end
	end
	return scope == ON_CLIENT and of_client or of_server
end

local function operation(name, scope, global)
	StreamOps[name] = function(self, ...)
		table.insert(self.ops, { scope = scope, name = name, func = _G[global], args = { ... } })
		return self
	end
end
operation('aggregate', ON_SERVER, 'aggregate')
operation('reduce', ON_BOTH, 'reduce')
operation('map', ON_EITHER, 'transform')
operation('filter', ON_EITHER, 'filter')













function StreamOps:groupby(f)
	local function collect(groups, v)
		local k = f and f(v) or nil
		local group = groups[k] or list()
		list.append(group, v)
		groups[k] = group
		return groups
	end
	function _reduce(m1, m2)
		return map.merge(m1, m2, list.merge)
	end
	return self:aggregate(map(), collect):reduce(_reduce)
end

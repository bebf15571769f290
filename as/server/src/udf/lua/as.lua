-- Functions that must be written in Lua, because programs see the places of errors in them.


function list.clone(source)
	local copy, count = {}, 0
	for value in list.iterator(source) do
		count = count + 1
		copy[count] = value
	end
	return list(copy) end
function list.merge(first, second)
	local all, count = {}, 0
	for value in list.iterator(first) do
		count = count + 1 all[count] = value
	end
	for value in list.iterator(second) do
		count = count + 1 all[count] = value
	end
	return list(all)
end
function map.merge(m1, m2, f)
	local all, can_call = {}, type(f) == 'function'
	for k, v in map.pairs(m1) do
		all[k] = v
	end
	for k, v in map.pairs(m2) do
		all[k] = (all[k] and can_call and f(m1[k], m2[k])) or v
	end
	return map(all, map.size(m1) + map.size(m2))
end
function map.diff(m1, m2)
	local only = {}
	for k, v in map.pairs(m1) do
		if not m2[k] then
			only[k] = v
		end
	end
	for k, v in map.pairs(m2) do
		if not m1[k] then
			only[k] = v
		end
	end
	return map(only, map.size(m1) + map.size(m2))
end
function map.clone(m)
	local copy = {}
	for k, v in map.pairs(m) do copy[k] = v end

	return map(copy, map.size(m))
end

function math.sum(a, b)
	return a + b
end
function math.product(a, b)
	return a * b
end

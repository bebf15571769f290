function trace(m, ...)
	return aerospike:log(4, string.format(m, ...))
end
function debug(m, ...)
	return aerospike:log(3, string.format(m, ...))
end
function info(m, ...)
	return aerospike:log(2, string.format(m, ...))
end
function warn(m, ...)
	return aerospike:log(1, string.format(m, ...))
end
-- The line numbers of these functions and of `run_stream` appear in errors: 2, 5, 8, 11, 33.

local host = ...
local error, pcall, rawget, tostring, type, globals = error, pcall, rawget, tostring, type, _G

function apply_record(f, record, ...)
	if f == nil then error('function not found', 2) end
	local is_done, value = pcall(f, record, ...)
	if not is_done then error(value, 2) end
	return value
end







-- The values that the operations of the stream function in `result` yield for the records of `input`.
local function stream_values(input)
	local ops = StreamOps_select(result.ops, 1)
	return StreamOps_apply(stream_iterator(input), ops)
end

-- Calls the global function `name` with a record. Returns whether it ended without an error, and its result or error.
local function run_record(name, record, ...)
	local f = rawget(globals, name)
	if f == nil then return false, 'function not found' end
	aerospike = host.aerospike
	success, result = pcall(f, record, ...)
	local is_done, value = success, result
	success, result = nil, nil
	return is_done, value
end

-- The reported form of an error of a stream function: the C server's handler expects a string. Errors of the host have
-- their own text; they are the only userdata that no program can make.
local function told(problem)
	if type(problem) == 'string' or problem == nil then return problem end
	if type(problem) == 'userdata' and host.open(problem) == nil then return problem end
	if type(problem) == 'number' then return tostring(problem) end
	return "bad argument #1 to '?' (string expected, got " .. host.type_name(1, problem) .. ')'
end

local function run_stream(name, input, output, ...)
	local f = rawget(globals, name)
	if f == nil then return false, 'function not found' end
	aerospike = host.aerospike
	success, result = pcall(f, StreamOps_create(), ...)
	if not success then return false, told(result) end
	local is_done, problem = pcall(function()
		for value in stream_values(input) do
			if stream.write(output, value) ~= 0 then break end
		end
		stream.write(output, nil)
	end)
	return is_done, told(problem)
end

return run_record, run_stream

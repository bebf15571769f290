//! Functions called without a server: conversion of values, saves, errors, and malicious programs.

use std::fmt::Write;

use cf::Digest;
use cf::clock::StoredMillis;
use proto::ResultCode;

use super::*;

/// Functions of one module `m` with this text.
pub(super) fn module(text: &str) -> Functions {
    let functions = Functions::new(Path::new("/nowhere"), true);
    functions.modules.accept(&[&module::tests::item("m.lua", Some(text.as_bytes()))]);
    functions
}

pub(super) fn record_input() -> RecordInput {
    RecordInput {
        digest: Digest([7; 20]),
        now: StoredMillis(1_000),
        found: None,
        created_set: b"set".to_vec(),
        sent_key: None,
        is_uncreatable: false,
        save_refusal: None,
        is_in_memory: true,
        is_on_device: false,
        is_read_only: false,
    }
}

pub(super) fn new_record() -> RecordState {
    RecordState::new(record_input())
}

fn call_with(
    functions: &Functions,
    function: &str,
    arguments: &[u8],
) -> (Result<Output, Failure>, RecordState) {
    let call = FunctionCall { module: "m", function: function.as_bytes(), arguments };
    let ended =
        functions.call(&call, new_record(), TimeLimit::of_processor(Duration::from_millis(500)), None);
    (ended.output, ended.record)
}

fn is_short(functions: &Functions, module: &str) -> bool {
    functions.lease_for_short(module).is_some()
}

#[test]
fn a_module_is_short_after_many_short_calls_and_no_longer_after_a_few_long_ones() {
    let functions = module(
        "function short(r) return 1 end function long(r) local t = 0 for i = 1, 1e6 do t = t + i end end",
    );
    let call_all = |name: &str, count: u32| {
        for _ in 0..count {
            call_with(&functions, name, &[0x90]).0.expect("it ends");
        }
        is_short(&functions, "m")
    };
    assert!(!is_short(&functions, "m") && !call_all("short", CONFIDENCE_MIN / 2));
    // A call may take longer by chance.
    assert!((0..50).any(|_| call_all("short", CONFIDENCE_MIN)));
    assert!(!call_all("long", CONFIDENCE_MAX.ilog2()), "long ones");
    assert!((0..50).any(|_| call_all("short", CONFIDENCE_MAX)));
    assert!(call_all("long", 1), "one in many");
    assert!(!is_short(&functions, "other"));
    // A call that is cut off is long.
    let call = FunctionCall { module: "m", function: b"long", arguments: &[0x90] };
    while is_short(&functions, "m") {
        assert!(functions.call(&call, new_record(), TimeLimit::by_clock(Duration::ZERO), None).was_late);
    }
}

#[test]
fn a_module_is_overdue_after_a_call_that_used_up_its_time() {
    let functions = module("function short(r) return 1 end function long(r) while true do end end");
    let call = |name: &str, millis: u64, lease| {
        let call = FunctionCall { module: "m", function: name.as_bytes(), arguments: &[0x90] };
        let limit = TimeLimit::by_clock(Duration::from_millis(millis));
        functions.call(&call, new_record(), limit, lease).was_late
    };
    let is_overdue = |module: &[u8]| functions.pace(module) == ModulePace::Overdue;
    assert!(!is_overdue(b"m"));
    assert!(call("long", 10, None) && !is_overdue(b"m"), "it had little time");
    assert!(call("long", 200, None) && is_overdue(b"m") && !is_overdue(b"other"));
    assert!(!call("short", 10_000, None) && !is_overdue(b"m"));
    // A call that is tried on a service thread has little time.
    while !is_short(&functions, "m") {
        call("short", 10_000, None);
    }
    assert_eq!(functions.pace(b"m"), ModulePace::Quick);
    assert!(call("long", 1, functions.lease_for_short("m")) && !is_overdue(b"m"));
}

/// A call that is tried on a service thread makes no strings whose comparison would take long, even if it
/// catches errors. After the attempt the module's calls run in the pool.
#[test]
fn long_strings_are_made_in_the_pool_only() {
    let body = "local a = ('\\0'):rep(2000000) local b = a .. 'x' local n = 0
        for i = 1, 10 do if a < b then n = n + 1 end end return n";
    let text = format!(
        "function short(r) return 1 end
        function long(r) {body} end
        function caught(r) pcall(function() {body} end) return 1 end
        function doubled(r) local s = 'x' for i = 1, 13 do s = s .. s end return #s end
        function given(r, s) return #s end"
    );
    let argument = [&[0x91, 0xda, 0x50, 0x00, 3][..], &[b'x'; 0x4fff]].concat();
    for (name, arguments, is_long) in [
        ("long", &[0x90][..], true),
        ("caught", &[0x90], true),
        ("given", &argument, true),
        ("doubled", &[0x90], false),
    ] {
        let functions = module(&text);
        let quick = || {
            call_with(&functions, "short", &[0x90]).0.expect("it ends");
            functions.note_quick("m");
            functions.lease_for_short("m")
        };
        let lease = quick();
        assert!(lease.is_some());
        let begun = Instant::now();
        let call = FunctionCall { module: "m", function: name.as_bytes(), arguments };
        let ended = functions.call(&call, new_record(), TimeLimit::by_clock(Duration::from_secs(100)), lease);
        assert!(!is_long || begun.elapsed() < Duration::from_millis(100), "{name}: {:?}", begun.elapsed());
        assert_eq!(ended.was_late, is_long, "{name}");
        assert_eq!(quick().is_none(), is_long, "{name}");
        // In the pool they are calls as others.
        let ended = functions.call(&call, new_record(), TimeLimit::by_clock(Duration::from_secs(100)), None);
        assert!(!ended.was_late && ended.output.is_ok(), "{name}: {:?}", shown(ended.output));
        assert_eq!(functions.pace(b"m") == ModulePace::Quick, !is_long, "{name}");
    }
    // The same is true if the first long string is made in the pool.
    let functions = module(&text);
    call_with(&functions, "given", &argument).0.expect("it ends");
    functions.note_quick("m");
    assert!(!is_short(&functions, "m"));
}

/// The result of `f` in a module with this body, as text.
pub(super) fn run(body: &str) -> Result<String, String> {
    let functions = module(&format!("function f(r, ...) {body} end"));
    shown(call_with(&functions, "f", &[0x90]).0)
}

pub(super) fn shown(result: Result<Output, Failure>) -> Result<String, String> {
    match result {
        Ok(Output { particle_type: 1, bytes }) => {
            Ok(i64::from_be_bytes(bytes.try_into().expect("eight bytes")).to_string())
        }
        Ok(Output { particle_type: 3, bytes }) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Ok(Output { particle_type, bytes }) => {
            let mut text = format!("{particle_type}:");
            bytes.iter().for_each(|byte| {
                let _ = write!(text, "{byte:02x}");
            });
            Ok(text)
        }
        Err(Failure::Module) => Err("no module".to_owned()),
        Err(Failure::Function(text)) => {
            Err(text.map_or("no text".to_owned(), |text| String::from_utf8_lossy(&text).into_owned()))
        }
    }
}

fn ok(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

#[test]
fn values_are_returned_unchanged() {
    let functions = module("function f(r, v) return v end");
    for (packed, expected) in [
        (&[0x91, 0x05][..], "5"),
        (&[0x91, 0xff], "-1"),
        (&[0x91, 0xa2, 3, b'x'], "x"),
        (&[0x91, 0xa3, 4, 1, 2], "4:0102"),
        (&[0x91, 0xc3], "17:01"),
        (&[0x91, 0xc0], "0:"),
        (&[0x91, 0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0], "2:3ff8000000000000"),
        (&[0x91, 0x92, 1, 0x91, 2], "20:92019102"),
        (&[0x91, 0x82, 0x02, 1, 0x01, 0xa2, 3, b'x'], "19:8201a2037802 01".trim()),
        (&[0x91, 0xa3, 23, b'{', b'}'], "23:0000007b7d"),
    ] {
        let result = shown(call_with(&functions, "f", packed).0);
        assert_eq!(result, Ok(expected.replace(' ', "")), "{packed:02x?}");
    }
}

#[test]
fn malformed_arguments_count_as_none() {
    let functions = module("function f(r, ...) return select('#', ...) end");
    let mut deep = vec![0x91; 100_000];
    deep.push(1);
    for packed in [&[][..], &[0x91, 0xdb, 0xff, 0xff, 0xff, 0xff, 3], &[5], &[0xdd, 0xff, 0xff, 0xff, 0xff]] {
        assert_eq!(shown(call_with(&functions, "f", packed).0), ok("0"), "{packed:02x?}");
    }
    assert_eq!(shown(call_with(&functions, "f", &[0x93, 1]).0), ok("1"));
    assert_eq!(shown(call_with(&functions, "f", &deep).0), Err("value is nested too deeply".to_owned()));
}

#[test]
fn errors_name_the_place() {
    assert_eq!(run("error('x')"), Err("/nowhere/m.lua:1: x".to_owned()));
    assert_eq!(run("error({})"), Err("no text".to_owned()));
    assert_eq!(
        run("return list.size(5)"),
        Err("/nowhere/m.lua:1: bad argument #1 to 'size' (userdata expected, got number)".to_owned())
    );
    assert_eq!(
        run("return list.size(map())"),
        Err("/nowhere/m.lua:1: bad argument #1 to 'size' (List expected, got Map)".to_owned())
    );
    assert_eq!(
        run("local l = list{1} return l.x"),
        Err("/nowhere/m.lua:1: bad argument #2 to 'index' (number expected, got string)".to_owned())
    );
    assert_eq!(
        run("return list() .. 'x'"),
        Err("/nowhere/m.lua:1: attempt to concatenate a List value".to_owned())
    );
    assert_eq!(
        run("info()"),
        Err("[string \"aerospike.lua\"]:8: bad argument #1 to 'format' (string expected, got nil)".to_owned())
    );
    let functions = module("x = 1");
    assert_eq!(shown(call_with(&functions, "missing", &[0x90]).0), Err("function not found".to_owned()));
    let call = FunctionCall { module: "n", function: b"f", arguments: &[] };
    assert_eq!(
        functions.call(&call, new_record(), TimeLimit::by_clock(Duration::ZERO), None).output,
        Err(Failure::Module)
    );
}

#[test]
fn saves_are_kept_until_the_function_ends() {
    let functions = module(
        "function f(r) r.a = 1 r.b = list{1, 'x'} local rc = aerospike:create(r) r.c = 3 return rc end",
    );
    let (result, record) = call_with(&functions, "f", &[0x90]);
    assert_eq!(shown(result), ok("0"));
    assert!(record.has_updates());
    let bins = record.bins_to_store();
    let names: Vec<&[u8]> = bins.iter().map(|bin| bin.name).collect();
    assert_eq!(names, [b"a", b"b"]);
    let functions = module("function f(r) r.a = r return aerospike:create(r) end");
    let (result, record) = call_with(&functions, "f", &[0x90]);
    assert_eq!((shown(result), record.result()), (ok("-1"), ResultCode::IncompatibleType));
    assert!(!record.has_updates());
}

/// A save that fails changes nothing, also not for a later one that succeeds.
#[test]
fn a_failed_save_changes_nothing() {
    let text = "function f(r) r.a = list{1} aerospike:create(r) r[' '] = r local first = aerospike:create(r) \
                aerospike:remove(r) r[' '] = r local second = aerospike:create(r) r.b = 2 \
                return first .. second .. tostring(aerospike:exists(r)) .. aerospike:update(r) end";
    let functions = module(text);
    let (result, record) = call_with(&functions, "f", &[0x90]);
    assert_eq!(shown(result), ok("1-1true0"));
    assert_eq!(record.bins_to_store().len(), 1);
}

#[test]
fn values_larger_than_any_record_are_refused_at_once() {
    let functions = module(
        "function f(r) local s = ('x'):rep(3e6) for i = 1, 512 do r['b' .. i] = s end return aerospike:create(r) end",
    );
    let (result, record) = call_with(&functions, "f", &[0x90]);
    assert!(shown(result).is_ok());
    assert_eq!(record.result(), ResultCode::RecordTooBig);
    assert!(!record.has_updates());
}

#[test]
fn records_of_earlier_calls_are_invalid() {
    let functions = module(
        "function f(r) local last = kept kept = r return last and record.gen(last) + (last.x and 1 or 0) end",
    );
    assert_eq!(shown(call_with(&functions, "f", &[0x90]).0), ok("0:"));
    assert_eq!(shown(call_with(&functions, "f", &[0x90]).0), ok("0"));
}

#[test]
fn malicious_programs_end_with_an_error() {
    for body in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "return coroutine.wrap(function() while true do end end)()",
        "local co = coroutine.create(function() while true do end end) while true do coroutine.resume(co) end",
        "xpcall(function() while true do end end, function() while true do end end) while true do end",
        "while true do xpcall(error, function() while true do end end) end",
        "coroutine.wrap(function() local x <close> = setmetatable({}, {__close = function() while true do end end}) \
         while true do end end)()",
        "local co = coroutine.create(function() local x <close> = setmetatable({}, {__close = function() while true do end \
         end}) while true do end end) coroutine.resume(co) coroutine.close(co) while true do end",
        "local function g(d) if d > 0 then for i = 1, 1000 do coroutine.wrap(g)(d - 1) end end end g(20)",
        "local function g(d) if d > 0 then for i = 1, 1000 do coroutine.resume(coroutine.create(g), d - 1) end end end \
         g(20) error('over')",
        "return ('x'):rep(8e6):gsub('.+', ('%0'):rep(4e6))",
        "local t = {} for i = 1, 1e6 do t[i] = i end while true do table.sort(t) end",
        "local s = ('x'):rep(1e7) while true do string.upper(s) end",
        "return ('a'):rep(1e6):find('[' .. ('b'):rep(1e7) .. ']')",
        "return ('a'):rep(1e6):find('a-[' .. ('b'):rep(1e6) .. ']')",
        "local s = 'x' while true do s = s .. s end",
        "return ('x'):rep(1 << 40)",
        "return (''):rep(1 << 40, 'x')",
        "local t = {} for i = 1, 1e9 do t[i] = i end",
        "local l = list() for i = 1, 1e9 do list.append(l, i) end",
        "local function f() return 1 + f() end return f()",
        "local l = list() l[4e9] = 1 return l",
        "local l = list() l[-1] = 1 return l",
        "list.insert(list(), 4000000000, 1)",
        "local l = list() list.append(l, l) return l",
        "local l = list() list.append(l, l) return tostring(l)",
        "local m = map() m.m = m return m",
        "local l = list{1} for i = 1, 60 do l = list{l, l} end return l",
        "return ('a'):rep(30000):find('.-.-.-.-.-b')",
        "return ('a'):rep(30000):gsub('.-.-.-.-.-b', '')",
        "table.move({}, 1, math.maxinteger - 1, 2)",
        "table.insert(setmetatable({}, {__len = function() return 1 << 60 end}), 1, 1)",
        "setmetatable({}, {__gc = function() while true do end end}) collectgarbage() while true do end",
        "os.exit()",
        "os.execute('true')",
        "io.popen('true')",
        "dofile('/etc/passwd')",
        "return require('no_such')",
        "return load('\\27Lua')()",
        "return load('local a if a then ' .. ('elseif a then '):rep(2e5) .. 'end')()",
        "local all = ('elseif a then '):rep(2e5) return load(function() return all end)()",
        "local s, n = ('elseif a then '):rep(1e5), 0 return load(function() n = n + 1 return n == 1 and 'local a if a then ' or s end)()",
        "return string.dump(function() end)",
        "return debug.getinfo(1)",
        "for i = 1, 1000 do local b = bytes(1 << 20) kept = {b, kept} end",
        "return bytes(4000000000)",
        "local l = list{1} setmetatable(l, {})",
        "list.concat()",
        "aerospike.update()",
        "aerospike:update(list())",
        "aerospike:create(map())",
    ] {
        let begun = Instant::now();
        let result = run(body);
        assert!(result.is_err(), "{body}: {result:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{body}: {:?}", begun.elapsed());
    }
}

/// One instruction that would take minutes ends when it asks for memory after its time.
#[test]
fn a_long_chain_of_calls_ends_with_its_time() {
    let begun = Instant::now();
    let result =
        run("local t = print for i = 1, 6e5 do local m = {__call = t} t = setmetatable(m, m) end return t()");
    assert!(result.is_err(), "{result:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// The hook does not check loops of Lua's own C functions. They end with the time of the call, or with an
/// error.
#[test]
fn native_loops_end_with_the_time() {
    let lie = "local function lie(n) local c = 0 return setmetatable({}, {__len = function() c = c + 1 return c == 1 and 1 \
               or n end}) end ";
    let border = "local t = {} for i = 0, 40 do t[1 << i] = 1 end ";
    for body in [
        "table.move({}, 1, 2^53, 2, {})",
        "local a = ('\\0'):rep(2000000) local b = a .. 'x' while true do if a < b then end if a < b then end end",
        "table.move({}, 1, '9007199254740992', 2, {})",
        "table.move({}, 1, 1 << 53, 2, setmetatable({}, {__newindex = rawequal}))",
        "table.move(setmetatable({}, {__index = rawlen}), 1, 1 << 53, 2)",
        "table.move('x', 1, 1 << 53, 2, {})",
        "table.move(list(), 1, 1 << 53, 2, {})",
        "table.move(map(), 1, 1 << 53, 2, {})",
        "r.x = 1 table.move({}, 1, 1 << 53, 2, setmetatable({}, {__newindex = list{1}}))",
        "local function f() return 1 + f() end while true do pcall(f) end",
        "local l = list() for i = 1, 1e6 do list.append(l, i) end while true do list.prepend(l, 1) list.remove(l, 1) end",
        "table.insert(lie(1 << 53), 1, 1) while true do end",
        "table.insert(setmetatable({}, {__len = function() return 1 << 53 end, __newindex = rawequal}), 1, 1)",
        "table.remove(lie(1 << 53), 1) table.remove(setmetatable({}, {__len = function() return 1 << 53 end}), 1)",
        "local t = lie((1 << 31) - 2) pcall(table.sort, t, rawequal) table.sort(t, rawequal) while true do end",
        "table.concat(setmetatable({}, {__index = rawlen}), '', 1, 2^53)",
        "table.concat(setmetatable({}, {__index = rawlen, __len = function() return 1 << 53 end}))",
        "getmetatable('').__len = rawlen return table.concat('x', '', 1, 1 << 53)",
        "local c = {} for i = 1, 1999 do c = setmetatable({}, {__index = c}) end while true do table.unpack(c, 1, 9e5) end",
        "local c = {} for i = 1, 1999 do c = setmetatable({}, {__index = c}) end getmetatable('').__index = c \
         while true do table.unpack('x', 1, 9e5) end",
        "BORDER table.insert(t, 1, 1) while true do end",
        "BORDER table.remove(t, 1) while true do end",
        "BORDER pcall(table.sort, t) while true do end",
        "local s, t = ('x'):rep(1e7), {} for i = 1, 1e4 do t[i] = s end table.sort(t)",
        "local t = {} for i = 1, 1e6 do t[i] = i * 7919 % 1000003 end while true do table.sort(t, math.ult) end",
        "local m = map() for i = 1, 1e6 do m[i * 7919 % 1000003] = 1 end while true do m.x = m.x and nil or 1 map.keys(m) end",
        "while true do load(os.clock) end",
        "local s = ('x=1;'):rep(1e6) while true do load(s) end",
        "local s = ('b'):rep(1e7) while true do string.packsize(s) end",
        "local s = ('x'):rep(2e7) while true do local t = s .. 'y' end",
        "local s = ('x'):rep(2e7) while true do s:sub(2) end",
        "local function g(...) while true do select('#', ...) end end g(table.unpack({}, 1, 4e5))",
    ] {
        let body = body.replace("BORDER", border);
        let functions = module(&format!("{lie} function f(r) {body} end"));
        let call = FunctionCall { module: "m", function: b"f", arguments: &[0x90] };
        let begun = Instant::now();
        let ended =
            functions.call(&call, new_record(), TimeLimit::by_clock(Duration::from_millis(100)), None);
        let took = begun.elapsed();
        assert!(ended.output.is_err(), "{body}: {:?}", shown(ended.output));
        assert!(took < Duration::from_secs(3), "{body}: {took:?}");
    }
}

/// The functions of `table` work with metamethods as without.
#[test]
fn functions_of_tables_call_metamethods() {
    let proxy = "local function proxy(t) return setmetatable({}, {__index = t, __newindex = t, __len = function() return #t \
                 end}) end ";
    for (body, expected) in [
        ("local t = {1, 2} table.insert(P, 3) table.insert(P, 1, 0) return table.concat(t, ',')", "0,1,2,3"),
        ("local t = {1, 2, 3} local v = table.remove(P, 1) return v .. table.concat(P, ',') .. #t", "12,32"),
        ("local t = {1, 2, 3} return table.remove(P) .. table.concat(t, ',')", "31,2"),
        ("local t = {3, 1, 2} table.sort(P) return table.concat(t, ',')", "1,2,3"),
        ("local t = {3, 1, 2} table.sort(P, function(a, b) return a > b end) return table.concat(P)", "321"),
        (
            "local t = {3, 1, 2} return select('#', table.unpack(P)) .. table.concat({table.unpack(P, 2, 3)})",
            "312",
        ),
        ("local t = {1, 2, 3} table.move(P, 1, 3, 2) return table.concat(t, ',')", "1,1,2,3"),
        ("local t = {1, 2, 3} table.move(P, 2, 3, 1) return table.concat(t, ',')", "2,3,3"),
        ("local t = {1, 2, 3} return table.concat(table.move(t, '1', 3.0, 3, {7, 8}), ',')", "7,8,1,2,3"),
        (
            "local t = {1, 2, 3} table.insert(t, 2, 9) return table.remove(t, 2) .. table.remove(t) .. #t",
            "932",
        ),
        ("return table.remove({}) == nil and table.concat(list{1, 2}, '-')", "1-2"),
        (
            "return load(coroutine.wrap(function() coroutine.yield('return ') coroutine.yield('4') end))()",
            "4",
        ),
        ("return math.log10 == nil and math.pow == nil and 'none'", "none"),
    ] {
        let body = body.replace('P', "proxy(t)");
        assert_eq!(run(&format!("{proxy} {body}")), ok(expected), "{body}");
    }
    for (body, expected) in [
        ("table.insert(nil, 1)", "bad argument #1 to 'insert' (table expected, got nil)"),
        ("table.insert({}, 5, 1)", "bad argument #2 to 'insert' (position out of bounds)"),
        ("table.insert({}, 'x', 1)", "bad argument #2 to 'insert' (number expected, got string)"),
        ("table.insert({})", "wrong number of arguments to 'insert'"),
        ("table.remove({1, 2}, 7)", "bad argument #2 to 'remove' (position out of bounds)"),
        ("table.sort({1, 2}, 5)", "bad argument #2 to 'sort' (function expected, got number)"),
        ("table.concat({{}})", "invalid value (table) at index 1 in table for 'concat'"),
        ("table.move({}, 1.5, 2, 1)", "bad argument #2 to 'move' (number has no integer representation)"),
        ("table.move({}, 1, 2, math.maxinteger)", "bad argument #4 to 'move' (destination wrap around)"),
        ("table.unpack({}, 1, 1e8)", "too many results to unpack"),
    ] {
        assert_eq!(run(body), Err(format!("/nowhere/m.lua:1: {expected}")), "{body}");
    }
    assert_eq!(run("table.sort({1, 'x'})"), Err("attempt to compare string with number".to_owned()));
}

/// Errors that a program raises within a function of Lua's libraries reach the client unchanged. Errors of
/// the function itself name it and the place of its call.
#[test]
fn errors_within_native_functions_stay_as_they_are() {
    for (body, expected) in [
        ("table.sort({3, 1, 2}, function() error('boom', 0) end)", "boom"),
        ("table.sort({3, 1, 2}, function() error('boom', 2) end)", "boom"),
        ("table.sort({3, 1, 2}, function() error('boom') end)", "HERE boom"),
        (
            "table.sort({3, 1}, function() error(\"bad argument #1 to 'f' (odd)\", 0) end)",
            "bad argument #1 to 'f' (odd)",
        ),
        (
            "table.sort({3, 1}, function() error('sandbox:1: attempt to compare', 0) end)",
            "sandbox:1: attempt to compare",
        ),
        ("table.sort({3, 1}, function(a, b) return a < {} end)", "HERE attempt to compare number with table"),
        ("table.sort({3, 1}, function() error({}) end)", "no text"),
        ("table.sort(setmetatable({3, 1}, {}), function() error('boom', 0) end)", "boom"),
        ("table.sort(list{3, 1, 2}, function() error('boom', 0) end)", "boom"),
        ("table.sort(list{3, 1, 2}, function() error('boom') end)", "HERE boom"),
        ("table.sort(5, rawequal)", "HERE bad argument #1 to 'sort' (table expected, got number)"),
        (
            "local t = {} for i = 1, 30 do t[i] = i end table.sort(t, function() return true end)",
            "HERE invalid order function for sorting",
        ),
        (
            "local lt = {__lt = function() error('boom', 0) end} table.sort({setmetatable({}, lt), setmetatable({}, lt)})",
            "boom",
        ),
        ("string.format('%s', setmetatable({}, {__tostring = function() error('boom', 0) end}))", "boom"),
        ("string.format('%d', 'x')", "HERE bad argument #2 to 'format' (number expected, got string)"),
        ("('%d'):format('x')", "HERE bad argument #1 to 'format' (number expected, got string)"),
        ("string.format('%d', list())", "HERE bad argument #2 to 'format' (number expected, got List)"),
        (
            "error((select(2, pcall(string.upper))), 0)",
            "bad argument #1 to 'string.upper' (string expected, got no value)",
        ),
        (
            "error((select(2, pcall(os.date, {}))), 0)",
            "bad argument #1 to 'os.date' (string expected, got table)",
        ),
        (
            "error((select(2, pcall(string.find, {}))), 0)",
            "bad argument #1 to 'string.find' (string expected, got table)",
        ),
        (
            "error((select(2, pcall(string.rep, 'x', 1.5))), 0)",
            "bad argument #2 to 'string.rep' (number has no integer representation)",
        ),
        (
            "error((select(2, pcall(setmetatable, 5, {}))), 0)",
            "bad argument #1 to 'setmetatable' (table expected, got number)",
        ),
        (
            "error((select(2, pcall(coroutine.wrap, 5))), 0)",
            "bad argument #1 to 'coroutine.wrap' (function expected, got number)",
        ),
        ("load('x = 1', {})", "HERE bad argument #2 to 'load' (string expected, got table)"),
        ("table.unpack({}, 1, 999999)", "HERE too many results to unpack"),
        ("table.move(5, {}, 1, 1)", "HERE bad argument #2 to 'move' (number expected, got table)"),
        ("utf8.len('\\xff', 7)", "HERE bad argument #2 to 'len' (initial position out of bounds)"),
    ] {
        let expected = expected.replace("HERE", "/nowhere/m.lua:1:");
        assert_eq!(run(body), Err(expected), "{body}");
    }
}

#[test]
fn unusual_programs_do_no_harm() {
    for (body, expected) in [
        ("local b = bytes(4) return tostring(bytes.get_bytes(b, 100, 4000000000))", "Bytes()"),
        ("local b = bytes(2) bytes.set_byte(b, 1, 7) return bytes.get_string(b, 1, 4000000000)", "\u{7}"),
        ("local l = list{1, 2} list.concat(l, l) return tostring(l)", "[1, 2, 1, 2]"),
        ("return tostring(list{r})", "[[ REC ]]"),
        ("local l = list() return l[-1]", "0:"),
        ("return list{r}", "20:91c0"),
        ("return type(getmetatable(list()))", "table"),
        ("List.__index = nil return list{5}[1]", "5"),
        ("local n = 0 for k in pairs(_G) do n = n + 1 end return n > 30", "17:01"),
        ("return ('%d'):rep(3, ',')", "%d,%d,%d"),
        ("return (('hello world'):gsub('o', '0'))", "hell0 w0rld"),
        ("return (('abc'):gsub('%w', '%0%0'))", "aabbcc"),
        ("return (('abc'):gsub('', '-'))", "-a-b-c-"),
        ("return ('k=v'):match('(%w)=(%w)')", "k"),
        ("local t = {} for k in ('a,b'):gmatch('%a') do t[#t + 1] = k end return table.concat(t)", "ab"),
        ("return select('#', ('x'):find('y'))", "1"),
        ("return select(2, xpcall(error, function(e) return e .. '!' end, 'x'))", "x!"),
        ("return select(2, xpcall(function(a, b) return a + b end, print, 1, 2))", "3"),
        ("return select(2, xpcall(error, error))", "error in error handling"),
        (
            "local n = 0 return select(2, xpcall(error, function() n = n + 1 if n < 3 then error() end return n end))",
            "3",
        ),
        ("return select(2, load('x = 1', 'x', 'b'))", "attempt to load a text chunk (mode is 'b')"),
        ("return load('return ' .. ('1 + '):rep(1000) .. '1')()", "1001"),
        ("local b = bytes(1) bytes.set_type(b, -1) return bytes.get_type(b)", "4294967295"),
        (
            "return select(2, pcall(xpcall, print))",
            "bad argument #2 to 'xpcall' (function expected, got no value)",
        ),
        (
            "local n = 0 for v in coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end) do n = n + v end \
          return n",
            "6",
        ),
        (
            "local closed = 'no' pcall(coroutine.wrap(function() local x <close> = setmetatable({}, {__close = function() \
          closed = 'yes' end}) error('x') end)) return closed",
            "yes",
        ),
        (
            "return select(2, pcall(coroutine.wrap(function() error({}, 0) end))) ~= nil and 'table' or 'none'",
            "table",
        ),
        ("return string.format('%s-%d', 'a', 7) .. ('x'):upper() .. ('ab'):reverse()", "a-7Xba"),
        ("return utf8.len('äö') .. os.date('!%Y', 0)", "21970"),
        ("local t = {3, 1, 2} table.insert(t, 1, 9) table.sort(t) return table.concat(t, ' ')", "1 2 3 9"),
    ] {
        assert_eq!(run(body), ok(expected), "{body}");
    }
}

#[test]
fn a_failed_call_leaves_others_alone() {
    let functions = module("function f(r) while true do end end function g(r) return 1 end");
    assert!(call_with(&functions, "f", &[0x90]).0.is_err());
    assert_eq!(shown(call_with(&functions, "g", &[0x90]).0), ok("1"));
}

#[test]
fn modules_are_checked() {
    let functions = module("");
    assert_eq!(functions.check("a.lua", b"function f(r) return 1 end"), Ok(()));
    let error = functions.check("a.lua", b"x = \n\n= 1").unwrap_err();
    assert_eq!((error.file.as_str(), error.line), ("a.lua", 3));
    let error = functions.check("a.lua", b"local x = nil; x()").unwrap_err();
    assert_eq!((error.line, error.message), (1, b"attempt to call a nil value (local 'x')".to_vec()));
    assert!(functions.check("a.lua", b"while true do end").is_err());
    let message =
        |text: &[u8]| String::from_utf8(functions.check("a.lua", text).unwrap_err().message).expect("text");
    assert_eq!(message(b"error({})"), "(Null error message returned by lua)");
    assert_eq!((message(b"error()"), message(b"error(5)")), (message(b"error({})"), "5".to_owned()));
    assert!(functions.check("a.lua", b"\x1bLua").is_err());
    // Compiling this text would take most of a minute.
    let (begun, text) =
        (Instant::now(), format!("local a if a then {}end", "elseif a then ".repeat(300_000)));
    assert!(message(text.as_bytes()).ends_with("UDF Execution Timeout"));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // One instruction of this text would take minutes.
    let begun = Instant::now();
    let chain = b"local t = print for i = 1, 4e5 do local m = {__call = t} t = setmetatable(m, m) end t()";
    assert!(functions.check("a.lua", chain).is_err());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// What the short ways of `native.rs` leave to the prelude has the effect that it has there; both go on with what the other did.
#[test]
fn short_ways_and_the_prelude_agree() {
    for (body, expected) in [
        (
            "local l = list() list.append(l, 1) list.append(l, 'a\\0b') list.append(l, nil) list.append(l) return l",
            "[1, \"a\", NIL]",
        ),
        ("local l = list() list.append(l, r) list.append(l, print) list.append(l, {}) return l", "[]"),
        (
            "local l = list() list.append(l, true, 2) list.append(l, 1.5) list.append(l, '') return l",
            "[true, 1.5, \"\"]",
        ),
        ("local l = list() list.append(l, list{1}) list.append(l, map{a = 1}) return l", "[[1], {\"a\":1}]"),
        (
            "local l = list.new(2, 0) for i = 1, 3 do list.append(l, i) end l[3] = 9 l[2] = 8 return l",
            "[1, 8]",
        ),
        (
            "local l = list{1, 2} l[1] = 'x' l[3] = 3 l[5] = 5 l['2'] = 7 l[2.0] = 8 l[0] = 9 return l",
            "[\"x\", 8, 3, NIL, 5]",
        ),
        ("local l = list{1, 2} l[1] = nil l[2] = print l[3] = {} return l", "[NIL, 2]"),
        (
            "local l = list{7, 8} return l[1] .. l['2'] .. l[2.0] .. tostring(l[3]) .. tostring(l[0]) .. tostring(l[-1])",
            "788nilnilnil",
        ),
        ("local l = list{7} list.append(l, nil) return tostring(l[2]) .. #l .. list.size(l)", "nil22"),
        ("local l, t = list{1, 2, 3}, '' for v in list.iterator(l) do t = t .. v end return t", "123"),
        (
            "local l, t = list{1}, '' list.append(l, nil) list.append(l, 3) for v in list.iterator(l) do t = t .. v end return t",
            "1",
        ),
        (
            "local l, t = list{1, 2, 3}, '' for v in list.iterator(l) do t = t .. v if #l < 5 then list.append(l, v) end end return t",
            "12312",
        ),
        (
            "local l = list{1, 2, 3} list.remove(l, 2) list.append(l, 4) list.prepend(l, 0) return l",
            "[0, 1, 3, 4]",
        ),
        (
            "local m = map() m.a = 1 m[2] = 'b' m['x\\0y'] = 3 m[-1] = true return m",
            "{-1:true, 2:\"b\", \"a\":1, \"x\":3}",
        ),
        (
            "local m = map() m.a = 1 m.a = 2 m.b = nil m.c = print m[1.5] = 1 m[true] = 1 return #m .. tostring(m)",
            "2{\"a\":2, \"b\":NIL}",
        ),
        (
            "local m = map{a = 1, b = 2} m.a = nil m[print] = 1 m.c = r return map.size(m) .. tostring(m)",
            "2{\"a\":NIL, \"b\":2}",
        ),
        (
            "local m = map{a = 1} return tostring(m.a) .. tostring(m['a\\0b']) .. tostring(m.b) .. tostring(m[1]) .. tostring(m[1.0])",
            "11nilnilnil",
        ),
        (
            "local b = bytes(2) bytes.set_string(b, 1, 'xy') local m = map() m[b] = 1 m[b] = 2 m.a = 0 return #m .. tostring(m) .. m[b]",
            "2{\"a\":0, 78 79:2}2",
        ),
        (
            "local m, t = map{b = 2, a = 1}, '' m[3] = 'c' for k, v in map.pairs(m) do t = t .. k .. v end return t",
            "3ca1b2",
        ),
        (
            "local m, t = map{b = 2, a = 1}, '' for k in map.keys(m) do t = t .. k end for v in map.values(m) do t = t .. v end return t",
            "ab12",
        ),
        (
            "local m, t = map{a = 1, b = 2, c = 3}, '' for k in map.keys(m) do t = t .. k m[k] = nil end return t .. tostring(m)",
            "abc{\"a\":NIL, \"b\":NIL, \"c\":NIL}",
        ),
        (
            "local m, t = map{a = 1, b = 2}, '' for k, v in map.pairs(m) do t = t .. k .. tostring(v) m.b = nil end return t",
            "a1bnil",
        ),
        (
            "local m = map() for i = 1, 3000 do m[('k%05d'):format(i * 7919 % 3001)] = i m[-i] = i end local p, n for k in map.keys(m) do \
          if p and type(p) == type(k) and p >= k then return 'order' end p, n = k, (n or 0) + 1 end return n .. ' ' .. #m",
            "6000 6000",
        ),
        (
            "local l = list{1, 2} list.insert(l, 1, 'a') list.insert(l, 4, 'b') list.insert(l, 7, 'c') list.insert(l, 0, 'd') return l",
            "[\"a\", 1, 2, \"b\", NIL, NIL, \"c\"]",
        ),
        (
            "local l = list{1, 2} list.prepend(l, 0) list.prepend(l, nil) list.prepend(l, print) list.insert(l, 2, nil) return l",
            "[NIL, NIL, 0, 1, 2]",
        ),
        (
            "local l = list.new(2, 0) list.prepend(l, 1) list.insert(l, 1, 2) list.prepend(l, 3) list.insert(l, 1, 4) return l",
            "[2, 1]",
        ),
        (
            "local l = list{1, 2, 3} list.remove(l, 0) list.remove(l, 4) list.remove(l, -1) list.remove(l, 1) list.remove(l, 2) return l",
            "[2]",
        ),
        (
            "local l = list{1, 2, 3} list.remove(l, '2') list.insert(l, '1', 0) list.remove(l, 3.0) return l",
            "[0, 1]",
        ),
        (
            "local l = list() for i = 1, 5000 do list.append(l, i) end list.remove(l, 1) list.prepend(l, 7) return l[1] .. l[2] .. l[5000] .. #l",
            "7250005000",
        ),
        (
            "r.a = 1 r.a = 'x' r.a = r.a .. 'y' r['a\\0b'] = r.a .. 'z' r.b = nil return r.a .. tostring(r.b) .. tostring(r.c)",
            "xyznilnil",
        ),
        (
            "return table.concat({('ab'):find('b'), ('ab'):match('(.)(.)'), ('abc'):gsub('%w', '%0%0'), ('ab'):rep(3), ('ab'):rep(2, ',')}, ' ')",
            "2 a aabbcc ababab ab,ab",
        ),
        (
            "return ('a-b'):gsub('%w', {a = 1}) .. ('ab'):gsub('.', function(c) return c:upper() end) .. ('ab'):gsub('b', 7) .. \
          ('aab'):gsub('a', 'c', 1)",
            "1-bABa7cab",
        ),
        (
            "local s, t = ('(x)y '):rep(30), {} for _, v in ipairs{'f(a(b)c)d', s} do t[#t + 1] = v:match('%b()') .. v:find('%b()') .. \
          (v:match('%f[y]%a') or '-') .. (v:match('(%a).-%1') or '-') .. v:gsub('%b()', '<%0>'):sub(1, 12) end return table.concat(t, ' ')",
            "(a(b)c)2--f<(a(b)c)>d (x)1yx<(x)>y <(x)>",
        ),
        (
            "local t = {1, 2, 3, 4, 5} t[8], t[9] = 8, 9 for i = 4, 62 do t[1 << i] = i end t[math.maxinteger] = 7 local a = #t == math.maxinteger and table.remove(t) \
          t[math.maxinteger] = 7 table.insert(t, 9) local b = t[math.mininteger] return a .. b .. \
          tostring(pcall(table.insert, t, math.maxinteger, 1)) .. tostring(pcall(table.remove, t, math.maxinteger - 5))",
            "79falsetrue",
        ),
        (
            "local t = '' for k, v in ('a=1, b=2'):gmatch('(%w+)=(%w+)') do t = t .. k .. v end return t",
            "a1b2",
        ),
        (
            "local s = ('a=1, '):rep(500) local n = 0 for k, v in s:gmatch('(%w+)=(%w+)') do n = n + 1 end return n .. #s:gsub('a', 'bb') .. s:find('=1', 9, true)",
            "500300012",
        ),
        (
            "local t = {} table.insert(t, 'a') table.insert(t, 1, 'b') table.insert(t, 3, 'c') return table.concat(t) .. #t",
            "bac3",
        ),
        (
            "local t = {1, 2, 3} local a, b = table.remove(t), table.remove(t, 1) return a .. b .. #t .. t[1] .. tostring(table.remove({}))",
            "3112nil",
        ),
        (
            "return select('#', table.unpack({1, nil, 3})) .. select('#', table.unpack({})) .. table.concat({table.unpack({4, 5})})",
            "3045",
        ),
        (
            "local t = {} for i = 1, 1000 do table.insert(t, 1, i) end for i = 1, 998 do table.remove(t, 1) end return t[1] .. t[2] .. #t",
            "212",
        ),
    ] {
        assert_eq!(
            run(&format!("local function f() {body} end return tostring(f())")),
            ok(expected),
            "{body}"
        );
    }
    for (body, expected) in [
        ("list.append(5, 1)", "bad argument #1 to 'append' (userdata expected, got number)"),
        ("list.append(map(), 1)", "bad argument #1 to 'append' (List expected, got Map)"),
        ("local l = list{1} l.x = 1", "bad argument #2 to 'newindex' (number expected, got string)"),
        ("table.insert({}, 5, 1)", "bad argument #2 to 'insert' (position out of bounds)"),
        ("table.insert({}, 1, 2, 3)", "wrong number of arguments to 'insert'"),
        ("table.insert({})", "wrong number of arguments to 'insert'"),
        ("table.remove({1}, 7)", "bad argument #2 to 'remove' (position out of bounds)"),
        ("list.insert(list(), {}, 1)", "bad argument #2 to 'insert' (number expected, got table)"),
        ("list.remove(list(), 'x')", "bad argument #2 to 'remove' (number expected, got string)"),
        ("list.prepend({}, 1)", "bad argument #1 to 'prepend' (userdata expected, got table)"),
        ("r.x = {}", "can't set bin x to unsupported type"),
        ("r.x = 1 r.x = {}", "can't set bin x to unsupported type"),
        ("string.find()", "bad argument #1 to 'find' (string expected, got no value)"),
        ("string.find('x', '[')", "malformed pattern (missing ']')"),
        ("string.gsub('x', 'x', print, {})", "bad argument #4 to 'gsub' (number expected, got table)"),
        (
            "string.gsub('x', 'x', true)",
            "bad argument #3 to 'gsub' (string/function/table expected, got boolean)",
        ),
        ("string.gsub('x', 'x', '%2')", "invalid capture index %2"),
        ("string.rep('x', {})", "bad argument #2 to 'rep' (number expected, got table)"),
        ("string.rep('x', 1 << 40)", "resulting string too large"),
        ("map.size(list())", "bad argument #1 to 'size' (Map expected, got List)"),
    ] {
        assert_eq!(run(body), Err(format!("/nowhere/m.lua:1: {expected}")), "{body}");
    }
}

/// A list agrees with a plain table after each of many random changes, with elements of all kinds.
#[test]
fn lists_agree_with_a_model() {
    let body = "
        local model, l, n, seed = {}, list(), 0, SEED
        local function random(limit) seed = (seed * 1103515245 + 12345) % 2147483648 return (seed >> 8) % limit end
        local NONE, inner = {}, {}
        local function value()
            local kind = random(7)
            if kind == 0 then return 's' .. random(50) end
            if kind == 1 then return random(10) + 0.5 end
            if kind == 2 then return random(2) == 0 end
            if kind == 3 then local i = list{random(9)} inner[i] = true return i end
            if kind == 4 then return nil end
            return random(1000)
        end
        local function same(at)
            local expected = model[at]
            if expected == NONE then expected = nil end
            if l[at] ~= expected then error('element ' .. at .. ' of ' .. n .. ': ' .. tostring(l[at]), 0) end
        end
        local function grow(before, v)
            for i = n + 1, before do model[i] = NONE end
            if before > n then n = before end
            table.insert(model, before + 1, v)
            n = n + 1
        end
        for step = 1, STEPS do
            local kind, v = random(16), value()
            local stored = v
            if v == nil then stored = NONE end
            if kind <= 2 then list.append(l, v) grow(n, stored)
            elseif kind <= 5 then list.prepend(l, v) grow(0, stored)
            elseif kind <= 8 then local at = random(n + 3) list.insert(l, at + 1, v) grow(at, stored)
            elseif kind <= 12 then
                local at = random(n + 2)
                list.remove(l, at)
                if at >= 1 and at <= n then table.remove(model, at) n = n - 1 end
            elseif kind == 13 then
                local at = random(n + 4) + 1
                l[at] = v
                for i = n + 1, at - 1 do model[i] = NONE end
                model[at] = stored
                if at > n then n = at end
            elseif kind == 14 and random(8) == 0 then
                local other, k = random(2) == 0 and l or list.take(l, 5), 0
                k = #other
                for i = 1, k do model[n + i] = model[i] end
                list.concat(l, other)
                n = n + k
            elseif kind == 15 and random(8) == 0 then
                local at = random(n + 2)
                if random(2) == 0 then
                    list.trim(l, at)
                    if at >= 1 and at <= n then for i = at, n do model[i] = nil end n = at - 1 end
                elseif at >= 1 then
                    l = list.drop(l, at)
                    if at > n then at = n end
                    for i = 1, n do model[i] = model[i + at] end
                    n = n - at
                end
            end
            if #l ~= n or list.size(l) ~= n or l[n + 1] ~= nil or l[0] ~= nil then error('size ' .. #l .. ' ' .. n, 0) end
            if n > 0 then same(1) same(n) same(random(n) + 1) end
            if step % 200 == 0 then
                for i = 1, n do same(i) end
                if n > 300 then l, model, n = list(), {}, 0 end
            end
        end
        local it, last = 0, nil
        for v in list.iterator(list.take(l, n)) do it = it + 1 same(it) end
        return 'same'";
    for seed in 1..8 {
        let body = body.replace("SEED", &seed.to_string()).replace("STEPS", "3000");
        assert_eq!(run(&body), ok("same"), "{seed}");
    }
}

/// Both ends of a list grow and shrink without a move of its elements; an insertion in the middle moves them as memory.
#[test]
fn long_lists_change_quickly_at_all_places() {
    for body in [
        "local l = list() for i = 1, 200000 do list.prepend(l, i) end return l[1] .. ' ' .. l[200000]",
        "local l = list() for i = 1, 200000 do list.append(l, i) end for i = 1, 199999 do list.remove(l, 1) end return l[1] .. ' ' .. #l",
        "local l = list() for i = 1, 100000 do list.append(l, i) list.prepend(l, 's' .. i) end return l[100001] .. ' ' .. l[100000]",
        "local l = list() for i = 1, 20000 do list.insert(l, i // 2 + 1, i) end return l[1] .. ' ' .. #l",
        "local l = list() for i = 1, 300000 do list.append(l, i) if i > 10 then list.remove(l, 1) end end return l[10] .. ' ' .. #l",
    ] {
        let functions = module(&format!("function f(r) {body} end"));
        let call = FunctionCall { module: "m", function: b"f", arguments: &[0x90] };
        let limit = TimeLimit::of_processor(Duration::from_secs(5));
        let ended = functions.call(&call, new_record(), limit, None);
        assert!(ended.output.is_ok(), "{body}: {:?}", shown(ended.output));
    }
}

#[test]
fn integers_in_bytes_come_back() {
    for (name, values) in [
        ("int16", "0 1 -2 32767 -32768"),
        ("int32", "0 305419896 -1 2147483647 -2147483648"),
        ("int64", "0 -1 9223372036854775807 1311768467463790320"),
    ] {
        for order in ["", "_be", "_le"] {
            let body = format!(
                "local b, t = bytes(), {{}} for v in ('{values}'):gmatch('%S+') do bytes.append_{name}{order}(b, tonumber(v)) end
                local width = ('{name}'):sub(4) // 8
                for i = 1, bytes.size(b) // width do
                    local v = bytes.get_{name}{order}(b, (i - 1) * width + 1) t[i] = v
                    bytes.set_{name}{order}(b, (i - 1) * width + 1, v)
                    if bytes.get_{name}{order}(b, (i - 1) * width + 1) ~= v then return 'set' end
                end
                return table.concat(t, ' ') .. tostring((bytes.get_{name}{order}(b, bytes.size(b))))"
            );
            assert_eq!(run(&body), ok(&format!("{values}nil")), "{name}{order}");
        }
    }
    for (body, expected) in [
        ("bytes.append_int16_be(b, 0x102) bytes.append_int16_le(b, 0x102)", "01 02 02 01"),
        ("bytes.append_int32(b, 1) bytes.append_int32_le(b, 1)", "00 00 00 01 01 00 00 00"),
        ("bytes.append_int16(b, 32768) bytes.append_byte(b, 256) bytes.append_byte(b, -1)", "Bytes()"),
        ("bytes.set_byte(b, 6, 9)", "00 00 00 00 00 09"),
        ("b[2] = 7 b[1] = 300 b[0] = 1 b[-1] = 1 bytes.append_byte(b, '8')", "00 07 08"),
        ("bytes.set_string(b, 3, '')", "00 00"),
        ("bytes.append_string(b, 12) bytes.append_string(b, '') bytes.set_string(b, 2, 'z')", "31 7A"),
        (
            "bytes.append_string(b, 'abc') bytes.append_bytes(b, b, 9) bytes.set_bytes(b, 2, b, 2)",
            "61 61 62 61 62 63",
        ),
        (
            "bytes.append_string(b, 'abc') for i = 1, 3 do bytes.append_bytes(b, b, 2) end",
            "61 62 63 61 62 61 62 61 62",
        ),
        ("local n = bytes.append_var_int(b, 300) bytes.append_byte(b, n)", "02"),
        ("bytes.append_byte(b, 1) bytes.append_byte(b, 2, 3) bytes.set_byte(b, 1)", "01"),
    ] {
        assert_eq!(run(&format!("local b = bytes() {body} return tostring(b)")), ok(expected), "{body}");
    }
    for (body, expected) in [
        (
            "local n = bytes.set_var_int(b, 2, 300) return n .. ' ' .. table.concat({bytes.get_var_int(b, 2)}, ' ')",
            "2 300 2",
        ),
        ("return table.concat({bytes.get_var_int(b, 400)}, ' ')", "0 0"),
        (
            "return tostring(bytes.set_size(b, 4)) .. tostring(bytes.set_size(b, 5)) .. tostring(bytes.set_size(b, -1))",
            "truefalsefalse",
        ),
        (
            "bytes.append_string(b, '12345') return tostring(bytes.set_size(b, 5)) .. tostring(bytes.set_size(b, 6))",
            "truefalse",
        ),
        (
            "return bytes.get_type(b) .. tostring(bytes.set_type(b, 7)) .. bytes.get_type(b) .. tostring(bytes.set_type(b, 0))",
            "4true7false",
        ),
        (
            "bytes.append_string(b, 'abcdef') return bytes.get_string(b, 2, 3) .. tostring(bytes.get_bytes(b, 5, 9)) .. bytes.get_string(b, 9, 1)",
            "bcd65 66",
        ),
        (
            "b[1] = 200 return b[1] .. bytes.get_byte(b, 1) .. #b .. tostring(b[2]) .. tostring((bytes.get_byte(b)))",
            "2002000nilnil",
        ),
    ] {
        assert_eq!(run(&format!("local b = bytes(4) {body}")), ok(expected), "{body}");
    }
    for (body, expected) in [
        ("bytes.append_byte(5, 1)", "bad argument #1 to 'append_byte' (userdata expected, got number)"),
        ("bytes.append_byte(list(), 1)", "bad argument #1 to 'append_byte' (Bytes expected, got List)"),
        ("bytes.append_byte(b, 'x')", "bad argument #2 to 'append_byte' (number expected, got string)"),
        (
            "bytes.set_int16(b, 1, 1.5)",
            "bad argument #3 to 'set_int16' (number has no integer representation)",
        ),
        ("bytes.set_bytes(b, 1, 'x', 1)", "bad argument #3 to 'set_bytes' (userdata expected, got string)"),
        ("bytes.append_string(b, {})", "bad argument #2 to 'append_string' (string expected, got table)"),
        ("bytes.set_byte(b, 4000000000, 1)", "not enough memory"),
        ("bytes(1 << 26)", "not enough memory"),
        ("bytes({})", "bad argument #2 to 'bytes' (number expected, got table)"),
        ("return b.x", "bad argument #2 to 'index' (number expected, got string)"),
    ] {
        let result = run(&format!("local b = bytes(4) {body}"));
        assert_eq!(result, Err(format!("/nowhere/m.lua:1: {expected}")), "{body}");
    }
}

/// Long subjects, which the native matcher has, give what Lua's own functions give for short ones.
#[test]
fn long_and_short_subjects_match_alike() {
    for (body, expected) in [
        ("local t = {} for w in S:gmatch('%a+') do t[#t + 1] = w end return t[1] .. t[#t]", "ak"),
        (
            "local t = '' for at, w in S:gmatch('()(k%d)') do t = t .. w if #t > 3 then return t .. at - P end end",
            "k1k26",
        ),
        ("local n = 0 for _ in S:gmatch('') do n = n + 1 end return n - #S", "1"),
        (
            "return S:find('k2') - P .. S:find('k2', 1, true) - P .. S:find('k%d', -6) - P .. tostring(S:find('k', #S + 2))",
            "663nil",
        ),
        (
            "return select('#', S:find('(k)(%d)()')) .. S:match('k(%d)') .. S:match('k%d', -4) .. tostring(S:match('^k'))",
            "51k2nil",
        ),
        ("local r, n = S:gsub('k(%d)', '<%1%0%%>') return r:sub(P + 1) .. n", "a <1k1%> <2k2%>2"),
        ("local r, n = S:gsub('k%d', '<%1>', 1) return r:sub(P + 1) .. n", "a <k1> k21"),
        ("local r, n = S:gsub('(k)%d', {k = 7}) return r:sub(P + 1) .. n", "a 7 72"),
        (
            "local r, n = S:gsub('(k)(%d)', function(a, b) if b == '1' then return b .. a end end) return r:sub(P + 1) .. n",
            "a 1k k22",
        ),
        ("local r, n = S:gsub('^a', 'b') return r:sub(1, 2) .. n", "b 1"),
        ("return (S:gsub('', '-', 2):sub(1, 4))", "-a- "),
        ("local r, n = S:gsub('k(', '<%0>') return r:sub(P + 1) .. n", "a <k>1 <k>22"),
        ("return tostring(S:find('()%1')) .. S:find('k' .. ('%a*'):rep(250) .. '2') - P", "nil6"),
        ("return (S:gsub('k()%d', '%1'):sub(P + 1)):gsub('%d+', function(n) return n - P end)", "a 4 7"),
    ] {
        for count in [1, 5_000] {
            let text = format!("local S, P = ('a '):rep({count}) .. 'k1 k2', {} {body}", count * 2 - 2);
            let result = run(&text);
            assert_eq!(result, ok(expected), "{count}: {body}");
        }
    }
    for (call, expected) in [
        ("find(S, '[')", "malformed pattern (missing ']')"),
        ("match(S, '%')", "malformed pattern (ends with '%')"),
        ("gsub(S, '(', '%1')", "unfinished capture"),
        ("gsub(S, '(', print)", "unfinished capture"),
        ("match(S, '(')", "unfinished capture"),
        ("gsub(S, 'a', '%2')", "invalid capture index %2"),
        ("gsub(S, 'a', '%x')", "invalid use of '%' in replacement string"),
        ("gsub(S, 'a', function() return {} end)", "invalid replacement value (a table)"),
        ("gsub(S, 'a', function() return list() end)", "invalid replacement value (a List)"),
        ("gsub(S, 'a', print, {})", "bad argument #4 to 'gsub' (number expected, got table)"),
        ("find(S, 'a', {})", "bad argument #3 to 'find' (number expected, got table)"),
        ("gsub(S, 'a')", "bad argument #3 to 'gsub' (string/function/table expected, got no value)"),
    ] {
        let result = run(&format!("local S = ('a '):rep(9000) string.{call}"));
        assert_eq!(result, Err(format!("/nowhere/m.lua:1: {expected}")), "{call}");
    }
}

/// A map agrees with a plain table after each of many random changes, with keys and values of all kinds, and gives its keys in order.
#[test]
fn maps_agree_with_a_model() {
    let body = "
        local model, m, n, seed = {}, map(), 0, SEED
        local function random(limit) seed = (seed * 1103515245 + 12345) % 2147483648 return (seed >> 8) % limit end
        local NONE, blobs = {}, {}
        for i = 1, 9 do blobs[i] = bytes(1) bytes.set_byte(blobs[i], 1, i) end
        local function key()
            local kind = random(3)
            if kind == 0 then return random(40) - 20 end
            if kind == 1 then return 'k' .. random(20) end
            return blobs[random(9) + 1]
        end
        local function rank(k) return type(k) == 'number' and 1 or type(k) == 'string' and 2 or 3 end
        local function text(k) return type(k) == 'userdata' and tostring(k) or k end
        for step = 1, 2000 do
            local k, kind = key(), random(8)
            local old = model[k]
            if kind == 0 then map.remove(m, k) model[k] = nil
            elseif kind == 1 then m[k] = print model[k] = nil
            elseif kind == 2 then m[k] = nil model[k] = NONE
            elseif kind == 3 then m[k] = r
            elseif kind == 4 then local l = list{step} m[k] = l model[k] = l
            else m[k] = 's' .. step model[k] = 's' .. step end
            if old == nil and model[k] ~= nil then n = n + 1 elseif old ~= nil and model[k] == nil then n = n - 1 end
            if #m ~= n or map.size(m) ~= n then error('size ' .. #m .. ' ' .. n, 0) end
            local expected = model[k]
            if expected == NONE then expected = nil end
            if m[k] ~= expected then error('value', 0) end
            if step % 20 == 0 then
                local count, last = 0, nil
                for k, v in map.pairs(m) do
                    local expected = model[k]
                    if expected == NONE then expected = nil end
                    if expected ~= v then error('pair', 0) end
                    if last and (rank(last) > rank(k) or rank(last) == rank(k) and text(last) >= text(k)) then error('order', 0) end
                    last, count = k, count + 1
                end
                if count ~= n then error('count', 0) end
                count = 0
                for _ in map.keys(m) do count = count + 1 end
                if count ~= n then error('keys', 0) end
                local _, it = map.iterator(m)
                if iterator.has_next(it) ~= (n > 0) or iterator.next(it) ~= nil then error('iterator', 0) end
            end
        end
        return 'same'";
    for seed in 1..6 {
        assert_eq!(run(&body.replace("SEED", &seed.to_string())), ok("same"), "{seed}");
    }
}

/// Functions of iterators, records, coroutines and metatables that have a short way.
#[test]
fn short_ways_of_other_functions_do_what_the_prelude_did() {
    for (body, expected) in [
        (
            "local next, it = list.iterator(list{1, 2}) return it:next() .. next(it) .. tostring(it:has_next()) .. tostring(it:next())",
            "12falsenil",
        ),
        (
            "local step = list.iterator(list{1}) local _, it = map.pairs(map{a = 1}) return select('#', step(it), step(5))",
            "1",
        ),
        (
            "local step, _ = map.pairs(map{a = 1}), 0 local _, it = list.iterator(list{7}) return tostring((step(it))) .. it:next()",
            "nil7",
        ),
        (
            "return record.gen(r) .. record.ttl(r) .. record.size(r) .. record.numbins(r) .. tostring(record.setname(r)) .. tostring(record.key(r))",
            "0000nilnil",
        ),
        ("return tostring(record.digest(r))", "07 07 07 07 07 07 07 07 07 07 07 07 07 07 07 07 07 07 07 07"),
        (
            "local a = tostring(aerospike:exists(r)) r.x = 1 aerospike:create(r) record.set_ttl(r, '7') return a .. tostring(aerospike:exists(r)) .. record.numbins(r)",
            "falsetrue1",
        ),
        (
            "r.x = 1 aerospike:create(r) r.x = 'a' r.y = 2.5 r.z = true local a = aerospike:update(r) r.l = list{1} return a .. aerospike:update(r) .. record.numbins(r)",
            "004",
        ),
        ("r.x = 1 return tostring(aerospike:update(r))", "-2"),
        (
            "r.x = 1 aerospike:create(r) r.x = nil r.y = 1 return aerospike:update(r) .. table.concat(record.bin_names(r), ',')",
            "0y",
        ),
        ("return type(aerospike:get_current_time())", "number"),
        (
            "return tostring(geojson('{}')) .. tostring(geojson('a\\0b')) .. tostring((geojson())) .. tostring(geojson(5))",
            "\"{}\"\"a\"nil\"5\"",
        ),
        (
            "local c = coroutine.wrap(function(a, b) local c = coroutine.yield(a + b) return c, 'end' end) return c(1, 2) .. table.concat({c(5)}, ',')",
            "35,end",
        ),
        (
            "local c = coroutine.wrap(function() return 1 end) c() return select(2, pcall(c)):match('[^:]*$')",
            "cannot resume dead coroutine",
        ),
        ("local c = coroutine.wrap(function() error({7}) end) return select(2, pcall(c))[1]", "7"),
        (
            "local c c = coroutine.wrap(function() return c() end) return select(2, pcall(c)):match('[^:]*$')",
            " cannot resume non-suspended coroutine",
        ),
        (
            "local t = setmetatable({}, {__index = {a = 1}, __metatable = 'no'}) return t.a .. select(2, pcall(setmetatable, t, {}))",
            "1cannot change a protected metatable",
        ),
        (
            "local t = setmetatable({}, {__len = function() return 4 end}) setmetatable(t, nil) return #t .. tostring(getmetatable(t))",
            "0nil",
        ),
        (
            "local t = {3, 1, 2} table.sort(t, function(a, b) return a > b end) table.sort(list{3, 1}, function(a, b) return a < b end) return table.concat(t)",
            "321",
        ),
        (
            "return ('ab'):rep(3, ',') .. ('a'):rep(0, 'x') .. ('a'):rep(2, 5) .. #('ab'):rep(3000, ', ')",
            "ab,ab,aba5a11998",
        ),
        (
            "return tostring(map{a = 1, [2] = 'x', [true] = 1, c = print, [1.5] = 2}) .. #map(nil, 5) .. tostring((map.new(0))) .. #map.new(3)",
            "{2:\"x\", \"a\":1}0nil0",
        ),
    ] {
        assert_eq!(
            run(&format!("local function f() {body} end return tostring(f())")),
            ok(expected),
            "{body}"
        );
    }
    for (body, expected) in [
        ("record.gen(5)", "bad argument #1 to 'gen' (userdata expected, got number)"),
        ("record.key(list())", "bad argument #1 to 'key' (Record expected, got List)"),
        ("record.set_ttl(r, {})", "bad argument #2 to 'set_ttl' (number expected, got table)"),
        ("aerospike:exists(5)", "bad argument #1 to 'exists' (Record expected, got number)"),
        ("map.pairs(list())", "bad argument #1 to 'pairs' (Map expected, got List)"),
        ("map.remove({}, 1)", "bad argument #1 to 'remove' (userdata expected, got table)"),
        ("map({}, 'x')", "bad argument #3 to 'map' (number expected, got string)"),
        ("map.new({})", "bad argument #1 to 'new' (number expected, got table)"),
        ("iterator.next(list())", "bad argument #1 to 'next' (Iterator expected, got List)"),
        ("setmetatable(1, {})", "bad argument #1 to 'setmetatable' (table expected, got number)"),
        ("local c = coroutine.wrap(function() error('x', 0) end) c()", "x"),
    ] {
        assert_eq!(run(body), Err(format!("/nowhere/m.lua:1: {expected}")), "{body}");
    }
}

/// A bin with values of all kinds goes through a function unchanged, in the order of its keys.
#[test]
fn containers_are_packed_in_order() {
    let functions =
        module("function f(r, v) return v end function g(r, v) r.x = v aerospike:create(r) return r.x end");
    let integer_key = [0x03, 0x01];
    let text = |text: &str| [&[0xa0 + text.len() as u8 + 1, 3][..], text.as_bytes()].concat();
    let blob = |bytes: &[u8]| [&[0xa0 + bytes.len() as u8 + 1, 4][..], bytes].concat();
    // Pairs of a map in no order: {blob: [nil], "b": true, "a": 1.5, 3: {}, -1: ""}
    let pairs = [
        [blob(&[1, 0]), vec![0x91, 0xc0]].concat(),
        [blob(&[1]), vec![0xc2]].concat(),
        [text("b"), vec![0xc3]].concat(),
        [text("a"), vec![0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]].concat(),
        [&integer_key[..1], &[0x80]].concat(),
        [vec![0xff], text("")].concat(),
    ];
    let unordered = [&[0x91, 0x86][..], &pairs.concat()].concat();
    let sorted = [5, 4, 3, 2, 1, 0].map(|at: usize| pairs[at].clone()).concat();
    let shown_sorted = |header: &[u8]| {
        let mut text = "19:".to_owned();
        [header, &sorted].concat().iter().for_each(|byte| {
            let _ = write!(text, "{byte:02x}");
        });
        Ok(text)
    };
    assert_eq!(shown(call_with(&functions, "f", &unordered).0), shown_sorted(&[0x86]));
    assert_eq!(shown(call_with(&functions, "g", &unordered).0), shown_sorted(&[0x86]));
    // An ordered map, with its description.
    let ordered = [&[0x91, 0x87, 0xc7, 0, 1, 0xc0][..], &pairs.concat()].concat();
    assert_eq!(shown(call_with(&functions, "f", &ordered).0), shown_sorted(&[0x87, 0xc7, 0, 1, 0xc0]));
    // A map with a key that is none, one whose pairs keep their order, and one that is cut off.
    assert_eq!(shown(call_with(&functions, "f", &[0x91, 0x82, 0x01, 0x02, 0xc3, 0x05]).0), ok("0:"));
    assert_eq!(shown(call_with(&functions, "f", &[0x91, 0x82, 0xc7, 0, 8, 0xc0, 2, 1]).0), ok("20:920201"));
    assert_eq!(shown(call_with(&functions, "f", &[0x91, 0x82, 0x01, 0x02, 0x03]).0), ok("0:"));
    // A key is what the bytes were when the pair was set.
    let changed = "local m, b = map(), bytes(1) for i = 1, 3 do bytes.set_byte(b, 1, 10 - i) m[b] = i end
        m[b] = 4 bytes.set_type(b, 3) bytes.set_byte(b, 1, 0) return m";
    assert_eq!(run(changed), ok("19:83a2040704a2040802a2040901"));
    // Keys that are equal up to a zero byte are one.
    let equal = [&[0x91, 0x82][..], &text("a\0b"), &[1], &text("a\0c"), &[2]].concat();
    let packed = [&[0x81][..], &text("a"), &[2]].concat();
    let mut wanted = "19:".to_owned();
    packed.iter().for_each(|byte| {
        let _ = write!(wanted, "{byte:02x}");
    });
    assert_eq!(shown(call_with(&functions, "f", &equal).0), Ok(wanted));
}

/// Highest memory of this process so far, in bytes; `None` if the system does not tell it.
fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<usize>().ok().map(|kilobytes| kilobytes << 10)
}

/// Each level of such a value is as large as the whole. It is refused before the levels have used much memory.
#[test]
fn large_containers_that_contain_themselves_use_little_memory() {
    let functions = module(
        "function f(r) local m = map() for i = 1, 65536 do m[i] = 1 end m.x = m return m end
        function g(r, l) for i = 1, 65536 do list.append(l, 1) end list.append(l, l) r.x = l return aerospike:create(r) end",
    );
    let before = peak_memory();
    let call = |function: &[u8], arguments: &[u8]| {
        let call = FunctionCall { module: "m", function, arguments };
        let ended =
            functions.call(&call, new_record(), TimeLimit::of_processor(Duration::from_secs(10)), None);
        (shown(ended.output), ended.record.result())
    };
    assert_eq!(call(b"f", &[0x90]).0, Err("value is too large".to_owned()));
    // The argument is an empty list that is ordered.
    assert_eq!(call(b"g", &[0x91, 0x91, 0xc7, 0, 1]), (ok("-1"), ResultCode::RecordTooBig));
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        assert!(after - before < 300 << 20, "{before} bytes before, {after} after");
    }
}

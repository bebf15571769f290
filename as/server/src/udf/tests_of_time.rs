//! Programs that keep one of Lua's own functions, or one of this server's, busy: they end soon after their time.

use std::time::Duration;

use cf::clock::thread_cpu_nanos;

use super::tests::{module, new_record, run, shown};
use super::*;

/// The time of each program.
const TIME: Duration = Duration::from_millis(500);
/// How much of a processor a program may take beyond its time.
const EXCESS_MAX: Duration = Duration::from_millis(900);

/// Runs `f` with this body and time. Returns its end, and the time of a processor that it took.
fn timed(body: &str, time: Duration) -> (Result<String, String>, Duration) {
    let functions = module(&format!("function f(r) {body} end"));
    let call = FunctionCall { module: "m", function: b"f", arguments: &[0x90] };
    let begun = thread_cpu_nanos();
    let ended = functions.call(&call, new_record(), TimeLimit::of_processor(time), None);
    (shown(ended.output), Duration::from_nanos(thread_cpu_nanos() - begun))
}

/// The errors of programs that exceed a limit.
const LIMITS: [&str; 3] =
    ["UDF Execution Timeout", "arguments are too many or too long", "not enough memory"];

#[track_caller]
fn assert_ends(body: &str) {
    let (ended, took) = timed(body, TIME);
    assert!(took < TIME + EXCESS_MAX, "{body}: {took:?}, {ended:?}");
    let problem = ended.unwrap_err();
    assert!(LIMITS.iter().any(|limit| problem.ends_with(limit)), "{body}: {problem}");
}

/// The same of a program whose work depends on the order of keys in a table, which differs from run to run: it may end before its
/// time.
#[track_caller]
fn assert_ends_or_is_done(body: &str) {
    let (ended, took) = timed(body, TIME);
    assert!(took < TIME + EXCESS_MAX, "{body}: {took:?}");
    let problem = ended.err();
    let is_limit = |problem: &String| LIMITS.iter().any(|limit| problem.ends_with(limit));
    assert!(problem.as_ref().is_none_or(is_limit), "{body}: {problem:?}");
}

/// Makes `s`, a long text, and `t`, which has it many times.
const MANY_TEXTS: &str = "local s, t = ('x'):rep(3e7), {} for i = 1, 4000 do t[i] = s end ";
/// The same of a number with many digits.
const MANY_DIGITS: &str = "local s, t = ('0'):rep(3e7) .. '1', {} for i = 1, 1000 do t[i] = s end ";
/// Makes `e`, a table of very many slots without values, which `next` walks over, as a metamethod too.
const EMPTY: &str = "local e, last = {} for i = 1, 2^18 do e['k' .. i] = 1 end e.x = 1 for k in pairs(e) do last = k e[k] = nil end \
                     setmetatable(e, {__index = next, __tostring = next}) ";

#[test]
fn many_long_arguments_are_refused() {
    assert_ends(&format!("{MANY_TEXTS} return string.format(('%.1s'):rep(4000), table.unpack(t))"));
    for call in [
        "string.char(table.unpack(t))",
        "utf8.char(table.unpack(t))",
        "string.pack(('b'):rep(1000), table.unpack(t))",
        "math.max(table.unpack(t))",
        "math.min(table.unpack(t))",
        "string.format(('%d'):rep(1000), table.unpack(t))",
    ] {
        assert_ends(&format!("{MANY_DIGITS} return {call}"));
    }
    assert_ends_or_is_done(&format!(
        "{EMPTY} e[last] = 1 local a = {{}} for i = 1, 40000 do a[i] = e end return string.format(('%s'):rep(40000), table.unpack(a))"
    ));
    assert_ends(&format!(
        "{EMPTY} e[e] = 1 e[e] = nil getmetatable(e).__lt = next local a = {{}} for i = 1, 6000 do a[i] = e end return math.max(table.unpack(a))"
    ));
    let refused = Err("/nowhere/m.lua:1: arguments are too many or too long".to_owned());
    assert_eq!(run("return os.date(('%n'):rep(1e5))"), refused);
    assert_eq!(
        run("local t = {} for i = 1, 7e4 do t[i] = 1 end return string.format('', table.unpack(t))"),
        refused
    );
}

#[test]
fn many_arguments_have_their_texts() {
    for (body, expected) in [
        (
            "return string.format('%s %5s %% %.2s %d %s', list{1}, setmetatable({}, {__tostring = function() return 'abc' end}), \
             'xyz', 7, map{a = 1})",
            "[1]   abc % xy 7 {\"a\":1}",
        ),
        (
            "return string.format('%d%%%s%s%s', 1, 2, nil, true) .. string.char(72, 105, 33, 33, 33)",
            "1%2niltrueHi!!!",
        ),
        ("return math.max(3, 9, 2, 7, 1) .. math.min('3', '1', '2', '9', '7')", "91"),
        ("return string.pack('bbbbb', 65, 66, 67, 68, 69) .. utf8.char(65, 228, 66, 67, 68)", "ABCDEAäBCD"),
    ] {
        assert_eq!(run(body), Ok(expected.to_owned()), "{body}");
    }
    for (body, expected) in [
        (
            "string.format('%d%d%d%d', 1, 2, 3, list())",
            "bad argument #5 to 'format' (number expected, got List)",
        ),
        ("string.format('%s%s%s%s', 1, 2, 3)", "bad argument #5 to 'format' (no value)"),
        ("string.format('%s%s%s%y', 1, 2, list(), list())", "invalid conversion '%y' to 'format'"),
    ] {
        assert_eq!(run(body), Err(format!("/nowhere/m.lua:1: {expected}")), "{body}");
    }
}

#[test]
fn compilation_ends_with_the_time() {
    assert_ends("return load('x=' .. ('a and '):rep(1e5) .. 'a')");
    assert_ends("return load('if x then ' .. ('elseif a then '):rep(1e5) .. 'end')");
    let text = format!("x = {}a", "a and ".repeat(170_000));
    let begun = thread_cpu_nanos();
    let problem = module("").check("a.lua", text.as_bytes()).unwrap_err();
    let took = Duration::from_nanos(thread_cpu_nanos() - begun);
    assert!(String::from_utf8_lossy(&problem.message).contains("UDF Execution Timeout"), "{problem:?}");
    assert!(took < TRY_OUT_TIME_MAX + EXCESS_MAX, "{took:?}");
    // Long programs are compiled as short ones.
    let long = "local s = ('x = (x or 0) + 1 '):rep(1000)";
    assert_eq!(run(&format!("{long} load(s)() return x")), Ok("1000".to_owned()));
    assert_eq!(
        run(&format!("{long} local e = {{}} load(s, 'n', 't', e)() return e.x")),
        Ok("1000".to_owned())
    );
    let problem = run(&format!("{long} return select(2, load(s .. '\\n=', '=n'))"));
    assert_eq!(problem, Ok("n:2: unexpected symbol near '='".to_owned()));
}

#[test]
fn texts_in_lists_and_maps_count_by_their_size() {
    assert_ends(&format!("{MANY_TEXTS} return list(t)"));
    assert_ends(&format!("{MANY_TEXTS} return map(t)"));
    // A pair without a text is not in the text of a map, so that many such take no memory.
    assert_ends(
        "local m, l = map(), list() m[('x'):rep(3e7)] = bytes(0) for i = 1, 330 do l[i] = m end return tostring(l)",
    );
}

#[test]
fn joined_elements_count() {
    let (ended, took) =
        timed("local t = {} for i = 1, 2e6 do t[i] = 1e300 end return table.concat(t)", TIME / 2);
    assert!(ended.is_err() && took < TIME, "{took:?}, {ended:?}");
    for (body, expected) in [
        (
            "local t = {} for i = 1, 50000 do t[i] = i % 10 end local s = table.concat(t, ',') return #s .. s:sub(-5)",
            "999998,9,0",
        ),
        ("local t = {} for i = 1, 50000 do t[i] = i % 10 end return #table.concat(t, '', 2, 49999)", "49998"),
        (
            "local t = {} for i = 1, 50000 do t[i] = 'x' end return #table.concat(setmetatable(t, {}), ' ')",
            "99999",
        ),
        (
            "return table.concat({1, 2, 3}, '-', 2) .. table.concat({}, 'x', 2, 1) .. table.concat({[math.maxinteger] = 'm'}, '', math.maxinteger, math.maxinteger)",
            "2-3m",
        ),
    ] {
        assert_eq!(run(body), Ok(expected.to_owned()), "{body}");
    }
    for (body, expected) in [
        (
            "local t = {} for i = 1, 50000 do t[i] = i end t[40000] = {} return table.concat(t)",
            "invalid value (table) at index 40000 in table for 'concat'",
        ),
        (
            "return table.concat({}, '', math.mininteger, math.maxinteger)",
            "invalid value (nil) at index -9223372036854775808 in table for 'concat'",
        ),
        ("return table.concat({1}, '', 'x')", "bad argument #3 to 'concat' (number expected, got string)"),
        ("return table.concat({1}, {}, 1)", "bad argument #2 to 'concat' (string expected, got table)"),
    ] {
        assert_eq!(run(body), Err(format!("/nowhere/m.lua:1: {expected}")), "{body}");
    }
}

/// Lua's own functions call metamethods that are written in no Lua.
#[test]
fn replacements_by_native_functions_count() {
    assert_ends_or_is_done(&format!("{EMPTY} return (('x'):rep(20000):gsub('.', e))"));
}

/// Lua closes the variables of a coroutine in a loop that runs no instructions.
#[test]
fn the_end_of_a_coroutine_counts() {
    let variables = "local x <close> = e ".repeat(20);
    assert_ends(&format!(
        "{EMPTY} getmetatable(e).__close = next \
         local function g(d) {variables} if d > 0 then g(d - 1) else coroutine.yield() end end \
         local c = coroutine.create(g) coroutine.resume(c, 150) coroutine.close(c) while true do end"
    ));
    for (body, expected) in [
        ("local n = 0 for k, v in pairs({1, 2, x = 3}) do n = n + v end return n", "6"),
        (
            "local m = setmetatable({}, {__pairs = function(t) return function(_, k) return not k and 1 or nil end, t end}) \
          local n = 0 for k in pairs(m) do n = n + k end return n",
            "1",
        ),
        ("local f, t, k = pairs({7}) return (f == next and k == nil and t[1]) + select(2, next({5}))", "12"),
    ] {
        assert_eq!(run(body), Ok(expected.to_owned()), "{body}");
    }
    for (body, expected) in [
        ("pairs()", "bad argument #1 to 'pairs' (value expected)"),
        ("for k in next, nil do end", "bad argument #1 to 'for iterator' (table expected, got nil)"),
        ("next({}, 1)", "invalid key to 'next'"),
    ] {
        let problem = run(body).unwrap_err();
        assert!(problem.ends_with(expected), "{body}: {problem}");
    }
}

#[test]
fn lists_are_sorted_with_a_comparison_that_counts() {
    for (body, expected) in [
        ("local l = list{3, 1, 2} table.sort(l) return tostring(l)", Ok("[1, 2, 3]")),
        ("local l = list{3, 1, 2} table.sort(l, nil) return tostring(l)", Ok("[1, 2, 3]")),
        ("table.sort(list{1, 'x'})", Err("attempt to compare string with number")),
        ("table.sort(r)", Err("/nowhere/m.lua:1: bad argument #1 to 'sort' (table expected, got Record)")),
    ] {
        assert_eq!(run(body), expected.map(str::to_owned).map_err(str::to_owned), "{body}");
    }
    assert_ends(
        "local a, b, l = ('x'):rep(28e6), ('x'):rep(28e6), list() for i = 1, 4000 do l[i] = i % 2 == 0 and a or b end \
         table.sort(l)",
    );
}

#[test]
fn values_are_stored_within_the_time() {
    let (ended, took) = timed(
        "local p = '[[[0,0],[10,0],[10,10],[0,0]]],' r.g = geojson('{\"type\":\"MultiPolygon\",\"coordinates\":[' .. p:rep(60000) \
         .. '[[[0,0],[10,0],[10,10],[0,0]]]]}') return aerospike:create(r)",
        TIME,
    );
    assert!(took < TIME + EXCESS_MAX, "{took:?}");
    assert_ne!(ended, Ok("0".to_owned()), "it is stored");
    assert!(!ended.is_err_and(|problem| problem.contains("geojson")), "it is a GeoJSON value");
}

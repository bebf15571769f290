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

#[track_caller]
fn assert_ends(body: &str) {
    let (ended, took) = timed(body, TIME);
    assert!(took < TIME + EXCESS_MAX, "{body}: {took:?}, {ended:?}");
    assert!(ended.is_err(), "{body}: {ended:?}");
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
fn values_are_stored_within_the_time() {
    let (_, took) = timed(
        "local p = '[[[0,0],[10,0],[10,10],[0,0]]],' r.g = geojson('{\"type\":\"MultiPolygon\",\"coordinates\":[' .. p:rep(60000) \
         .. '[[[0,0],[10,0],[10,10],[0,0]]]]}') return aerospike:create(r)",
        TIME,
    );
    assert!(took < TIME + EXCESS_MAX, "{took:?}");
}

//! Programs that keep one of Lua's own functions, or one of this server's, busy: they end soon after their time.

use std::time::Duration;

use cf::clock::thread_cpu_nanos;

use super::tests::{module, new_record, shown};
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

#[test]
fn values_are_stored_within_the_time() {
    let (_, took) = timed(
        "local p = '[[[0,0],[10,0],[10,10],[0,0]]],' r.g = geojson('{\"type\":\"MultiPolygon\",\"coordinates\":[' .. p:rep(60000) \
         .. '[[[0,0],[10,0],[10,10],[0,0]]]]}') return aerospike:create(r)",
        TIME,
    );
    assert!(took < TIME + EXCESS_MAX, "{took:?}");
}

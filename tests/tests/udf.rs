//! User-defined functions: modules are registered, listed and kept; functions run on records, alone and in
//! batches; hostile programs harm no other client.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::client::Client;
use ferrospike_tests::figures::{await_figures, expect_moved, figures, moves, run};
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::{
    Message, Operation, digest, field, info1, info2, integer_range, operation, particle, result,
};

/// The type of a field.
const RECORDS_PER_SECOND: u8 = 10;
const MODULE: &str = "
function add(r, name, n)
    r[name] = (r[name] or 0) + n
    if aerospike:exists(r) then aerospike:update(r) else aerospike:create(r) end
    return r[name]
end
function get(r, name) return r[name] end
function remove(r) return aerospike:remove(r) end
function fail(r) error('as it should') end
function forever(r) while true do end end
function caught(r) while true do pcall(function() while true do end end) end end
function pattern(r) return ('a'):rep(30000):find('.-.-.-.-.-b') end
function bomb(r) local s = 'x' while true do s = s .. s end end
function vast(r) local l = list{1} for i = 1, 60 do l = list{l, l} end r.x = l return aerospike:create(r) end
function vast_and_more(r) vast(r) while true do end end
function deep(r) local function f() return 1 + f() end return f() end
function push(r, name, value)
    local content = r[name]
    if name == 'm' then content[value] = 7 else list.append(content, value) end
    r[name] = content
    aerospike:update(r)
    return content
end
function inner(r) local c = r.l list.append(c[1], 2) r.l = c aerospike:update(r) return c end
function part(r) r.l = list.take(r.l, 2) aerospike:update(r) return r.l end
function copy(r) r.m = map.clone(r.m) aerospike:update(r) return r.m end
function set(r, name, v) r[name] = v aerospike:update(r) return v end
function overfill(r)
    for i = 1, 512 do r['b' .. i] = i end
    local first = aerospike:update(r)
    local left = tostring(r.b1)
    return first .. left .. aerospike:update(r)
end
function work(r, n)
    local begun, t = os.clock(), 0
    for i = 1, n do t = t + i % 7 end
    return math.floor((os.clock() - begun) * 1000000)
end
";

fn put_command(file_name: &str, text: &str) -> String {
    let content = BASE64_STANDARD.encode(text);
    format!("udf-put:filename={file_name};content-len={};content={content};", content.len())
}

fn register(client: &mut Client, file_name: &str, text: &str) {
    assert_eq!(client.info_value(&put_command(file_name, text)).unwrap(), "ok");
}

/// A call of a function of module `m` on the record of `key`, with packed arguments.
fn call(key: &str, function: &str, arguments: &[u8]) -> Message {
    Message { info2: info2::WRITE, ..Message::on(key) }
        .with_field(field::UDF_FILE, b"m")
        .with_field(field::UDF_FUNCTION, function.as_bytes())
        .with_field(field::UDF_ARGUMENTS, arguments)
}

/// `add(r, 'n', 5)`
fn add(key: &str) -> Message {
    call(key, "add", &[0x92, 0xa2, 3, b'n', 5])
}

fn start() -> (Server, Client) {
    let mut server = Server::usual();
    server.allow("a function failed").allow("answered with").allow("module").allow("with a policy");
    let mut client = server.connect();
    register(&mut client, "m.lua", MODULE);
    (server, client)
}

#[test]
fn modules_are_registered_listed_and_removed() {
    let (_server, mut client) = start();
    let ask = |client: &mut Client, command: &str| client.info_value(command).unwrap();
    let listed = ask(&mut client, "udf-list");
    assert!(listed.starts_with("filename=m.lua,hash=") && listed.ends_with(",type=LUA;"), "{listed}");
    let content = BASE64_STANDARD.encode(MODULE);
    assert_eq!(ask(&mut client, "udf-get:filename=m.lua"), format!("type=LUA;content={content};"));
    assert!(ask(&mut client, "smd-show:module=UDF").contains(&content));
    for (command, answer) in [
        ("udf-get:filename=none.lua", "error=not_found"),
        ("udf-get:filename=", "error=invalid_filename"),
        ("udf-get:filename=.", "error=not_found"),
        ("udf-get:filename=..", "error=not_found"),
        ("udf-get:filename=../smd/UDF.smd", "error=not_found"),
        ("udf-put:filename=m;content-len=4;content=eA==", "error=invalid_filename"),
        ("udf-put:filename=a/../m.lua;content-len=4;content=eA==", "error=invalid_filename"),
        ("udf-put:filename=m.lua;content-len=5;content=eA==", "error=invalid_content_len"),
        ("udf-put:filename=m.lua;content-len=x;content=eA==", "error=invalid_content_len"),
        ("udf-put:filename=m.lua;content-len=8;content=eA==", "error=invalid_content"),
        ("udf-put:filename=m.lua;content-len=4;udf-type=C;content=eA==", "error=invalid_udf_type"),
        ("udf-put:filename=m.lua;content-len=4;content=!!!!", "error=invalid_base64_content"),
        ("udf-put:filename=a\0.lua;content-len=4;content=eA==", "error=invalid_filename"),
        ("udf-remove:filename=none.lua", "ok"),
        ("udf-remove:filename=a\0.lua", "error=invalid_filename"),
        ("udf-clear-cache:", "ok"),
    ] {
        assert_eq!(ask(&mut client, command), answer, "{command}");
    }
    let refused = ask(&mut client, &put_command("bad.lua", "x = 1\n= 2"));
    let message = BASE64_STANDARD.encode("unexpected symbol near '='");
    assert_eq!(refused, format!("error=compile_error;file=bad.lua;line=2;message={message}"));
    assert_eq!(ask(&mut client, "udf-remove:filename=m.lua"), "ok");
    assert_eq!(ask(&mut client, "udf-list"), "");
    let answer = client.ask(&add("k")).unwrap();
    assert_eq!(answer.result, result::UDF_EXECUTION);
    assert_eq!(answer.bin("FAILURE"), Some(&b"UDF: Execution Error 1"[..]));
}

/// The answer says why, in the form in which clients show details.
#[test]
fn a_module_that_cannot_be_stored_is_refused_with_the_reason() {
    let mut server = Server::start(&usual_config());
    let mut client = server.connect();
    register(&mut client, "m.lua", MODULE);
    let save = server.folder().join("smd/UDF.smd.save");
    std::fs::create_dir(&save).unwrap();
    server.allow("cannot store metadata of module UDF").allow("answered with").allow("'udf-");
    for command in [put_command("n.lua", MODULE), "udf-remove:filename=m.lua".to_owned()] {
        let answer = client.info_value(&command).unwrap();
        let name = if command.contains("n.lua") { "n.lua" } else { "m.lua" };
        let message = answer.strip_prefix(&format!("error=not_stored;file={name};line=0;message="));
        let message = BASE64_STANDARD.decode(message.unwrap_or_else(|| panic!("{answer}"))).unwrap();
        let message = String::from_utf8(message).unwrap();
        assert!(message.starts_with("cannot be stored: ") && message.contains("UDF.smd.save: "), "{message}");
    }
    std::fs::remove_dir(&save).unwrap();
    assert_eq!(client.info_value("udf-remove:filename=m.lua").unwrap(), "ok");
}

#[test]
fn a_function_reads_and_changes_its_record() {
    let (_server, mut client) = start();
    let five = 5i64.to_be_bytes();
    moves(&mut client, &add("k"), result::OK, &["client_udf_complete", "client_lang_write_success"]);
    let read = call("k", "get", &[0x91, 0xa2, 3, b'n']);
    moves(&mut client, &read, result::OK, &["client_udf_complete", "client_lang_read_success"]);
    let answer = client.ask(&read).unwrap();
    assert_eq!((answer.generation, answer.bin("SUCCESS")), (1, Some(&five[..])));
    assert_eq!(client.ask(&Message::get("k")).unwrap().bin("n"), Some(&five[..]));
    let answer = client.ask(&add("k")).unwrap();
    assert_eq!((answer.generation, answer.bin("SUCCESS")), (2, Some(&10i64.to_be_bytes()[..])));
    assert_eq!(answer.operations[0].particle, particle::INTEGER);
    let fail = call("k", "fail", &[0x90]);
    moves(&mut client, &fail, result::UDF_EXECUTION, &["client_udf_error", "client_lang_error"]);
    let text = client.ask(&fail).unwrap().bin("FAILURE").unwrap().to_vec();
    assert!(String::from_utf8(text).unwrap().ends_with("/udf/m.lua:9: as it should"));
    let filtered = read.clone().with_field(field::FILTER_EXPRESSION, &[0xc2]);
    moves(&mut client, &filtered, result::FILTERED_OUT, &["client_udf_filtered_out"]);
    let in_time = Message { transaction_ttl: 60, ..call("k", "forever", &[0x90]) };
    let text = client.ask(&in_time).unwrap().bin("FAILURE").unwrap().to_vec();
    assert_eq!(String::from_utf8(text).unwrap(), "UDF Execution Timeout");
    let removed = call("k", "remove", &[0x90]);
    moves(&mut client, &removed, result::OK, &["client_udf_complete", "client_lang_delete_success"]);
    assert_eq!(client.ask(&Message::get("k")).unwrap().result, result::NOT_FOUND);
    assert_eq!(
        client.ask(&call("k", "remove", &[0x90])).unwrap().bin("SUCCESS"),
        Some(&1i64.to_be_bytes()[..])
    );
    let parameter = Message { info2: info2::WRITE | info2::GENERATION, ..add("k") };
    assert_eq!(client.ask(&parameter).unwrap().result, result::PARAMETER);
}

/// A save with too many bins leaves none of them, also for the next one.
#[test]
fn a_save_that_fails_changes_nothing() {
    let (_server, mut client) = start();
    assert_eq!(client.ask(&add("k")).unwrap().result, result::OK);
    let answer = client.ask(&call("k", "overfill", &[0x90])).unwrap();
    assert_eq!(answer.bin("SUCCESS"), Some(&b"-1nil0"[..]));
    let record = client.ask(&Message::get("k")).unwrap();
    assert_eq!((record.operations.len(), record.bin("n")), (1, Some(&5i64.to_be_bytes()[..])));
}

/// A list or map keeps its description in the bin or from the client, also inside other lists: when it is
/// stored again it is sorted, whatever the function did to it. A copy is new. Lists go to the client in Lua's
/// order. The fields are the bin, its value, the function and its arguments, the client's answer and the
/// stored value.
type OrderCase = (&'static str, Vec<u8>, &'static str, Vec<u8>, Vec<u8>, Vec<u8>);

#[test]
fn lists_and_maps_keep_their_order() {
    const ORDERED: [u8; 3] = [0xc7, 0, 1];
    let (_server, mut client) = start();
    let list = |values: &[u8]| [&[0x90 + values.len() as u8][..], values].concat();
    let ordered = |values: &[u8]| [&[0x91 + values.len() as u8], &ORDERED[..], values].concat();
    let map =
        |flags: u8, pairs: &[u8]| [&[0x81 + pairs.len() as u8 / 2, 0xc7, 0, flags, 0xc0], pairs].concat();
    let name = |name: u8| [0xa2, 3, name];
    let push = |to: u8| [&[0x92], &name(to)[..], &[1]].concat();
    let within = |inner: Vec<u8>| [vec![0x91], inner].concat();
    let with_index = [&[0x93, 0xc7, 0, 0x11][..], &[5, 9]].concat();
    let kept = map(8, &[5, 6]);
    let cases: [OrderCase; 12] = [
        ("l", ordered(&[5, 9]), "push", push(b'l'), list(&[5, 9, 1]), ordered(&[1, 5, 9])),
        ("l", with_index, "push", push(b'l'), list(&[5, 9, 1]), ordered(&[1, 5, 9])),
        ("l", list(&[5, 9]), "push", push(b'l'), list(&[5, 9, 1]), list(&[5, 9, 1])),
        ("l", ordered(&[]), "push", push(b'l'), list(&[1]), ordered(&[1])),
        (
            "l",
            within(ordered(&[5, 9])),
            "inner",
            vec![0x90],
            within(list(&[5, 9, 2])),
            within(ordered(&[2, 5, 9])),
        ),
        ("l", ordered(&[5, 7, 9]), "part", vec![0x90], list(&[5, 7]), list(&[5, 7])),
        ("m", map(1, &[5, 6]), "push", push(b'm'), map(1, &[1, 7, 5, 6]), map(1, &[1, 7, 5, 6])),
        ("m", map(3, &[5, 6]), "push", push(b'm'), map(3, &[1, 7, 5, 6]), map(3, &[1, 7, 5, 6])),
        ("m", vec![0x81, 5, 6], "push", push(b'm'), vec![0x82, 1, 7, 5, 6], vec![0x82, 1, 7, 5, 6]),
        ("m", map(1, &[5, 6]), "copy", vec![0x90], vec![0x81, 5, 6], vec![0x81, 5, 6]),
        (
            "l",
            list(&[]),
            "set",
            [&[0x92], &name(b'l')[..], &ordered(&[9, 5])].concat(),
            list(&[9, 5]),
            ordered(&[5, 9]),
        ),
        ("l", list(&[]), "set", [&[0x92], &name(b'l')[..], &kept].concat(), list(&[5, 6]), list(&[5, 6])),
    ];
    for (bin, value, function, arguments, received, stored) in cases {
        let what = format!("{function} of {value:02x?}");
        let particle = if bin == "m" { particle::MAP } else { particle::LIST };
        let put = Operation { particle, value, ..Operation::bare(operation::WRITE, bin) };
        client.ask(&Message::delete("k")).unwrap();
        assert_eq!(
            client.ask(&Message::write("k").with_operation(put)).unwrap().result,
            result::OK,
            "{what}"
        );
        let answer = client.ask(&call("k", function, &arguments)).unwrap();
        assert_eq!((answer.result, answer.bin("SUCCESS")), (result::OK, Some(&received[..])), "{what}");
        assert_eq!(client.ask(&Message::get("k")).unwrap().bin(bin), Some(&stored[..]), "{what}");
    }
}

/// A batch with one row for each call.
fn batch(rows: &[(&str, &str)]) -> Message {
    let mut value = (rows.len() as u32).to_be_bytes().to_vec();
    // The flag makes the server answer every row.
    value.push(4);
    for (row, (key, function)) in (0u32..).zip(rows) {
        value.extend(row.to_be_bytes());
        value.extend(digest("rig", key));
        // The row has all three bytes of flags, 5 fields and no operation.
        value.extend([2 | 8, 0, info2::WRITE, 0]);
        value.extend(0u32.to_be_bytes());
        value.extend([0, 5, 0, 0]);
        let fields: [(u8, &[u8]); 5] = [
            (field::NAMESPACE, b"test"),
            (field::SET, b"rig"),
            (field::UDF_FILE, b"m"),
            (field::UDF_FUNCTION, function.as_bytes()),
            (field::UDF_ARGUMENTS, &[0x92, 0xa2, 3, b'n', 5]),
        ];
        for (number, bytes) in fields {
            value.extend((bytes.len() as u32 + 1).to_be_bytes());
            value.push(number);
            value.extend(bytes);
        }
    }
    Message { info1: info1::READ | info1::BATCH, transaction_ttl: 1_000, ..Message::default() }
        .with_field(field::BATCH, &value)
}

#[test]
fn functions_are_rows_of_batches() {
    let (_server, mut client) = start();
    let before = figures(&mut client, "namespace/test");
    assert_eq!(run(&mut client, &batch(&[("a", "add")])), (1, result::OK));
    expect_moved(&mut client, &before, &["batch_sub_udf_complete", "batch_sub_lang_write_success"]);
    for (function, counters) in [
        ("get", ["batch_sub_udf_complete", "batch_sub_lang_read_success"]),
        ("fail", ["batch_sub_udf_error", "batch_sub_lang_error"]),
        ("remove", ["batch_sub_udf_complete", "batch_sub_lang_delete_success"]),
    ] {
        let before = figures(&mut client, "namespace/test");
        assert_eq!(run(&mut client, &batch(&[("a", function)])).0, 1);
        expect_moved(&mut client, &before, &counters);
    }
    let before = figures(&mut client, "namespace/test");
    let filtered = batch(&[("b", "add")]).with_field(field::FILTER_EXPRESSION, &[0xc2]);
    assert_eq!(run(&mut client, &batch(&[("b", "add")])).0, 1);
    assert_eq!(run(&mut client, &filtered).0, 1);
    let moved = ["batch_sub_udf_complete", "batch_sub_lang_write_success", "batch_sub_udf_filtered_out"];
    expect_moved(&mut client, &before, &moved);
    // Rows of one record, one after another, are between rows of other records.
    let rows: Vec<(&str, &str)> = (0..300).map(|row| (if row % 3 == 0 { "c" } else { "d" }, "add")).collect();
    assert_eq!(run(&mut client, &batch(&rows)), (300, result::OK));
    assert_eq!(client.ask(&Message::get("c")).unwrap().bin("n"), Some(&500i64.to_be_bytes()[..]));
    assert_eq!(client.ask(&Message::get("d")).unwrap().bin("n"), Some(&1_000i64.to_be_bytes()[..]));
}

/// A background query that applies a function of module `m`.
fn background(function: &str, arguments: &[u8]) -> Message {
    Message::default()
        .with_field(field::NAMESPACE, b"test")
        .with_field(field::SET, b"rig")
        .with_field(field::UDF_OP, &[2])
        .with_field(field::UDF_FILE, b"m")
        .with_field(field::UDF_FUNCTION, function.as_bytes())
        .with_field(field::UDF_ARGUMENTS, arguments)
}

#[test]
fn background_queries_apply_functions() {
    let (_server, mut client) = start();
    for key in 0..20 {
        assert_eq!(client.ask(&add(&format!("k{key}"))).unwrap().result, result::OK);
    }
    let name = [0x92, 0xa2, 3, b'n', 5];
    let queries = [
        ("add", "udf_sub_udf_complete", "udf_sub_lang_write_success"),
        ("get", "udf_sub_udf_complete", "udf_sub_lang_read_success"),
        ("fail", "udf_sub_udf_error", "udf_sub_lang_error"),
        ("remove", "udf_sub_udf_complete", "udf_sub_lang_delete_success"),
    ];
    for (function, first, second) in queries {
        let before = figures(&mut client, "namespace/test");
        assert_eq!(run(&mut client, &background(function, &name)), (0, result::OK));
        await_figures(&mut client, "namespace/test", |now| {
            now[first] == before[first] + 20
                && now[second] == before[second] + 20
                && now["pi_query_udf_bg_complete"] == before["pi_query_udf_bg_complete"] + 1
        });
        if function == "add" {
            assert_eq!(client.ask(&Message::get("k7")).unwrap().bin("n"), Some(&10i64.to_be_bytes()[..]));
            assert!(
                client
                    .info_value("query-show")
                    .unwrap()
                    .contains("udf-filename=m:udf-function=add:udf-active=0")
            );
        }
    }
    assert_eq!(client.ask(&Message::get("k7")).unwrap().result, result::NOT_FOUND);
}

/// Each record that an index finds is changed once, except records whose value has changed meanwhile.
#[test]
fn background_queries_by_an_index_apply_functions() {
    let (_server, mut client) = start();
    for key in 0..50 {
        let put =
            Message::write(&format!("k{key}")).with_operation(Operation::integer(operation::WRITE, "n", key));
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    let create = "sindex-create:namespace=test;set=rig;indexname=by-n;indexdata=n,numeric";
    assert_eq!(client.info_value(create).unwrap(), "ok");
    let start = Instant::now();
    while client.info_value("sindex-list").unwrap().contains(":state=WO") {
        assert!(start.elapsed() < Duration::from_secs(30), "still being filled");
    }
    let before = figures(&mut client, "namespace/test");
    let query = background("add", &[0x92, 0xa2, 3, b'n', 100])
        .with_field(field::INDEX_RANGE, &integer_range("n", 10, 19));
    assert_eq!(run(&mut client, &query), (0, result::OK));
    await_figures(&mut client, "namespace/test", |now| {
        now["udf_sub_udf_complete"] == before["udf_sub_udf_complete"] + 10
            && now["si_query_udf_bg_complete"] == before["si_query_udf_bg_complete"] + 1
    });
    for key in 0..50i64 {
        let expected = if (10..20).contains(&key) { key + 100 } else { key };
        let answer = client.ask(&Message::get(&format!("k{key}"))).unwrap();
        assert_eq!(answer.bin("n"), Some(&expected.to_be_bytes()[..]), "{key}");
    }
    let bad = background("add", &[0x90]).with_field(field::INDEX_RANGE, &[1, 1, b'x', 1, 0, 0, 0, 8]);
    assert_eq!(client.ask(&bad).unwrap().result, result::PARAMETER);
}

#[test]
fn calls_that_are_filtered_out_aborted_or_late_are_counted() {
    let (mut server, mut client) = start();
    server.allow("(udf)").allow("(query)");
    for key in 0..20 {
        assert_eq!(client.ask(&add(&format!("k{key}"))).unwrap().result, result::OK);
    }
    let get = background("get", &[0x91, 0xa2, 3, b'n']);
    // All records have 5. The query is for records with 7.
    let filter = [0x93, 0x01, 0x93, 0x51, 0x02, 0xa1, b'n', 7];
    let filtered = get.clone().with_field(field::FILTER_EXPRESSION, &filter);
    assert_eq!(run(&mut client, &filtered), (0, result::OK));
    await_figures(&mut client, "namespace/test", |now| now["udf_sub_udf_filtered_out"] == 20);
    let create = "sindex-create:namespace=test;set=rig;indexname=by-n;indexdata=n,numeric";
    assert_eq!(client.info_value(create).unwrap(), "ok");
    let start = Instant::now();
    while client.info_value("sindex-list").unwrap().contains(":state=WO") {
        assert!(start.elapsed() < Duration::from_secs(30), "still being filled");
    }
    // At ten records per second, each query would take two seconds.
    let slow = get.with_field(RECORDS_PER_SECOND, &10u32.to_be_bytes());
    let by_index = slow.clone().with_field(field::INDEX_RANGE, &integer_range("n", 0, 9));
    for (query, counter) in [(slow, "pi_query_udf_bg_abort"), (by_index, "si_query_udf_bg_abort")] {
        assert_eq!(run(&mut client, &query), (0, result::OK));
        assert_eq!(client.info_value("query-abort-all").unwrap(), "number-of-queries-killed:1");
        await_figures(&mut client, "namespace/test", |now| now[counter] == 1);
    }
    // Storing the value takes longer than the call may take, whatever the function does afterwards.
    for function in ["vast", "vast_and_more"] {
        let before = figures(&mut client, "namespace/test")["client_udf_timeout"];
        let late = Message { transaction_ttl: 300, ..call("late", function, &[0x90]) };
        // On a busy machine the time may be over before the function has come that far.
        let is_late = || match client.ask(&late).unwrap() {
            answer if answer.result == result::TIMEOUT => true,
            answer => {
                assert_eq!(answer.bin("FAILURE"), Some(&b"UDF Execution Timeout"[..]), "{function}");
                false
            }
        };
        assert!(std::iter::repeat_with(is_late).take(20).any(|is_late| is_late), "{function}");
        await_figures(&mut client, "namespace/test", |now| now["client_udf_timeout"] == before + 1);
    }
}

/// Calls on one record from several connections, with concurrent writes, lose no change.
#[test]
fn calls_on_one_record_add_up() {
    let (server, mut client) = start();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = server.connect();
                for _ in 0..100 {
                    assert_eq!(client.ask(&add("k")).unwrap().result, result::OK);
                }
            });
        }
        scope.spawn(|| {
            let mut client = server.connect();
            let increment = Message::write("k").with_operation(Operation::integer(operation::INCR, "n", 1));
            for _ in 0..100 {
                assert_eq!(client.ask(&increment).unwrap().result, result::OK);
            }
        });
    });
    assert_eq!(client.ask(&Message::get("k")).unwrap().bin("n"), Some(&2_100i64.to_be_bytes()[..]));
}

#[test]
fn modules_and_their_writes_survive_a_restart() {
    let config = usual_config().replacen(
        "namespace bar {",
        "namespace disk {\n replication-factor 1\n storage-engine device {\n file {dir}/disk.dat\n filesize 128M\n }\n}\nnamespace bar {",
        1,
    );
    let mut server = Server::start(&config);
    let mut client = server.connect();
    register(&mut client, "m.lua", MODULE);
    register(&mut client, "other.lua", "function f(r) return 1 end");
    let listed = client.info_value("udf-list").unwrap();
    let on_disk = |message: Message| {
        let mut message = message;
        message.fields[0].1 = b"disk".to_vec();
        message
    };
    assert_eq!(client.ask(&on_disk(add("k"))).unwrap().result, result::OK);
    drop(client);
    server.stop();
    server.restart();
    let mut client = server.connect();
    assert_eq!(client.info_value("udf-list").unwrap(), listed);
    let answer = client.ask(&on_disk(add("k"))).unwrap();
    assert_eq!(answer.bin("SUCCESS"), Some(&10i64.to_be_bytes()[..]));
}

/// After a kill during the registration of modules, each module is the old or the new one.
#[test]
fn a_kill_leaves_whole_modules() {
    let mut server = Server::usual();
    let text = |version: usize| format!("function f(r) return {version} end -- {}", "x".repeat(20_000));
    let mut version = 0;
    for round in 0..3 {
        let first = version;
        let mut client = server.connect();
        let acknowledged = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                (first + 1..)
                    .take_while(|version| client.info_value(&put_command("v.lua", &text(*version))).is_ok())
                    .last()
                    .unwrap_or(first)
            });
            thread::sleep(Duration::from_millis(100 + 37 * round));
            server.kill9();
            writer.join().unwrap()
        });
        server.restart();
        let got = server.connect().info_value("udf-get:filename=v.lua").unwrap();
        let content = got.strip_prefix("type=LUA;content=").and_then(|rest| rest.strip_suffix(';')).unwrap();
        let content = String::from_utf8(BASE64_STANDARD.decode(content).unwrap()).unwrap();
        version = (acknowledged..=acknowledged + 1).find(|version| text(*version) == content).unwrap();
    }
}

#[test]
fn harm_in_lua_is_an_error_for_its_caller_alone() {
    let (server, mut client) = start();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for function in ["forever", "caught", "pattern", "bomb", "deep"] {
            let (server, is_done) = (&server, &is_done);
            scope.spawn(move || {
                let mut client = server.connect();
                while !is_done.load(Relaxed) {
                    let request = Message { transaction_ttl: 300, ..call("hostile", function, &[0x90]) };
                    let answer = client.ask(&request).unwrap();
                    // The module's calls share four threads after one has used up its time, so the fifth may
                    // wait too long.
                    if answer.result != result::TIMEOUT {
                        assert_eq!(answer.result, result::UDF_EXECUTION, "{function}");
                        assert!(!answer.bin("FAILURE").unwrap().is_empty());
                    }
                }
            });
        }
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        while begun.elapsed() < Duration::from_secs(2) {
            let asked = Instant::now();
            assert_eq!(client.ask(&Message::put("quiet", vec![1; 100])).unwrap().result, result::OK);
            assert_eq!(client.ask(&Message::get("quiet")).unwrap().result, result::OK);
            slowest = slowest.max(asked.elapsed());
        }
        is_done.store(true, Relaxed);
        assert!(slowest < Duration::from_millis(500), "an ordinary client waited for {slowest:?}");
    });
    assert_eq!(client.ask(&add("after")).unwrap().result, result::OK);
    await_figures(&mut client, "namespace/test", |now| now["client_udf_error"] >= 5);
}

/// Ends busy loops when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The time of a function is that of a processor. What else the machine does makes a function slower, but does not end it.
#[test]
fn a_function_has_its_time_on_a_busy_machine_too() {
    let (server, mut client) = start();
    let work = |count: u32, time: Duration| {
        let arguments = [&[0x91, 0xce][..], &count.to_be_bytes()].concat();
        Message { transaction_ttl: time.as_millis() as u32, ..call("busy", "work", &arguments) }
    };
    let time_of = |client: &mut Client, request: &Message| {
        let answer = client.ask(request).unwrap();
        assert_eq!(answer.result, result::OK, "{:?}", answer.bin("FAILURE").map(String::from_utf8_lossy));
        let micros = i64::from_be_bytes(answer.bin("SUCCESS").unwrap().try_into().unwrap());
        Duration::from_micros(micros.cast_unsigned())
    };
    let (count, time) = std::iter::successors(Some(1_000_000u32), |count| count.checked_mul(2))
        .map(|count| (count, time_of(&mut client, &work(count, Duration::from_secs(10)))))
        .find(|(_, time)| *time >= Duration::from_millis(200))
        .unwrap();
    let is_done = AtomicBool::new(false);
    let processors = thread::available_parallelism().unwrap().get();
    thread::scope(|scope| {
        for _ in 0..8 * processors {
            scope.spawn(|| {
                while !is_done.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _ends = Ends(&is_done);
        // It takes about nine times its time now.
        for _ in 0..2 {
            time_of(&mut client, &work(count, time * 4));
        }
        let endless = Message { transaction_ttl: 200, ..call("busy", "forever", &[0x90]) };
        let answer = server.connect().ask(&endless).unwrap();
        assert_eq!(answer.bin("FAILURE"), Some(&b"UDF Execution Timeout"[..]));
    });
}

#[test]
fn functions_can_be_forbidden() {
    let config = usual_config().replacen("service {", "service {\n    disable-udf-execution true", 1);
    let server = Server::start(&config);
    let mut client = server.connect();
    register(&mut client, "m.lua", MODULE);
    moves(&mut client, &add("k"), result::FORBIDDEN, &["client_udf_error"]);
    let mut stream = background("add", &[0x90]);
    stream.fields.retain(|(number, _)| *number != field::UDF_OP);
    for kind in [1, 2] {
        let query = stream.clone().with_field(field::UDF_OP, &[kind]);
        assert_eq!(client.ask(&query).unwrap().result, result::FORBIDDEN);
    }
}

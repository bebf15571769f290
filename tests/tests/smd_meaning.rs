//! Files of system metadata that are well formed, but whose meaning is damaged. Such an item has no effect,
//! above all none that destroys data. The log reports it once, and it stays in its file. The same holds for
//! items from other nodes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferrospike_tests::client::Client;
use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::{Message, Operation, info2, operation, result};
use serde_json::json;

/// A part of the line about an item without effect.
const NO_EFFECT: &str = "has no effect, because";
/// Number of records in each set.
const KEYS: u64 = 20;
const YEAR_MS: u64 = 365 * 24 * 60 * 60 * 1_000;
/// Seconds from 1970 to 2010.
const EPOCH_2010: u64 = 1_262_304_000;
/// Items of a module.
type Items<'a> = [(&'a str, &'a str)];

/// The time in milliseconds since 2010-01-01.
fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right");
    since_1970.as_millis() as u64 - EPOCH_2010 * 1_000
}

fn path(server: &Server, module: &str) -> PathBuf {
    server.folder().join("smd").join(format!("{module}.smd"))
}

/// Writes the file of `module`.
fn store(server: &Server, module: &str, items: &Items<'_>) {
    let item =
        |(key, value): &(&str, &str)| json!({ "key": key, "value": value, "generation": 1, "timestamp": 1 });
    let entries: Vec<_> = [json!([1, 1])].into_iter().chain(items.iter().map(item)).collect();
    let path = path(server, module);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, serde_json::Value::Array(entries).to_string()).expect("a file");
}

/// The live items in the file of `module`.
fn stored(server: &Server, module: &str) -> Vec<(String, String)> {
    let text = fs::read(path(server, module)).expect("a file");
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&text).expect("JSON");
    let text = |item: &serde_json::Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    entries.iter().skip(1).map(|item| (text(item, "key"), text(item, "value"))).collect()
}

/// The value of a module with this content in base64.
fn module_of(content: &str) -> String {
    format!(r#"{{"content64": "{content}", "type": "LUA", "name": "x.lua"}}"#)
}

fn ask(client: &mut Client, request: &str) -> String {
    client.info_value(request).expect("an answer")
}

fn put(client: &mut Client, set: &str, key: u64) {
    assert_eq!(put_in(client, "test", set, key), result::OK);
}

/// Writes a record; returns the result.
fn put_in(client: &mut Client, namespace: &str, set: &str, key: u64) -> u8 {
    let record = Message::on_record(namespace, set, &key.to_string());
    let write = Message { info2: info2::WRITE, ..record };
    let answer = client.ask(&write.with_operation(Operation::integer(operation::WRITE, "n", 1)));
    answer.expect("an answer").result
}

fn objects(client: &mut Client, set: &str) -> u64 {
    client.figure(&format!("sets/test/{set}"), "objects").expect("a figure")
}

/// Checks that the log of `server` has `text` in one line.
fn check_told_once(server: &Server, text: &str) {
    let log = server.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(text)).collect();
    assert_eq!(lines.len(), 1, "{text}: {lines:?}");
}

#[test]
fn items_without_meaning_are_kept_and_destroy_nothing() {
    const SETS: [&str; 5] = ["late", "huge", "word", "negative", "kept"];
    let device = "device {\n        file {dir}/test.dat\n        filesize 128M";
    let config = usual_config().replacen("memory {\n        data-size 1G", device, 1);
    let config = config.replacen("nsup-period 1", "nsup-period 1\n    default-ttl 5000", 1);
    let mut server = Server::start(&config);
    let mut client = server.connect();
    SETS.iter().for_each(|set| (0..KEYS).for_each(|key| put(&mut client, set, key)));
    drop(client);
    server.stop();

    let (in_a_year, huge, long) = ((now() + YEAR_MS).to_string(), "9".repeat(23), "x".repeat(300));
    let long_set = format!("test|{}", "s".repeat(64));
    let large = module_of(&"eCA9IDEK".repeat(180_000));
    let truncate: &Items<'_> = &[
        ("test", "1099511627775"),
        ("test|late", &in_a_year),
        ("test|huge", &huge),
        ("test|word", "abc"),
        ("test|negative", "-5"),
        ("test|", "1"),
        ("test|a;b", "1"),
        ("test|zero", "0"),
        (&long_set, "1"),
    ];
    let evict: &Items<'_> = &[("test", "99999999999")];
    let sindex: &Items<'_> = &[
        ("test|late|a|.|I", &long),
        ("test|late|b234567890123456|.|I", "long-bin"),
        ("test|late|c|?|I", "bad-type"),
        ("test|late|d|.", "short-key"),
        ("test|late|e|c!!|.|I", "bad-context"),
        ("test|late|f|.|I", ""),
        ("test|late|g|.|I", "a;b"),
        ("test|la;te|h|.|I", "bad-set"),
        ("test|late|h,i|.|I", "bad-bin"),
        ("test||h;i|.|I", "bad-bin-too"),
    ];
    let module = &*module_of("ZnVuY3Rpb24gZigpIGVuZAo=");
    let modules: &Items<'_> = &[
        ("bad64.lua", &module.replace("ZnVu", "!!!!")),
        ("text.lua", "foo"),
        ("../../evil.lua", module),
        ("a;b.lua", module),
        ("empty.lua", &module_of("")),
        ("large.lua", &large),
        ("other.lua", &module.replace("LUA", "C")),
    ];
    // Besides, items of namespaces that this node does not have, and good ones.
    store(&server, "truncate", &[truncate, &[("nope|zz", "1")]].concat());
    store(&server, "evict", &[evict, &[("nope", "1")]].concat());
    store(&server, "sindex", &[sindex, &[("nope||n|.|I", "there"), ("test|late|n|.|I", "good")]].concat());
    store(&server, "UDF", &[modules, &[("good.lua", module)]].concat());
    server.allow(NO_EFFECT);
    let before = server.log().len();
    server.restart();
    let told = |module: &str, items: &Items<'_>| {
        for (key, _) in items {
            check_told_once(&server, &format!("item '{key}' of module {module} {NO_EFFECT}"));
        }
    };
    told("truncate", truncate);
    told("evict", evict);
    told("sindex", sindex);
    told("UDF", modules);
    for module in ["truncate", "evict", "sindex"] {
        let text = format!("module {module} has 1 items of namespaces that this node does not have (nope)");
        check_told_once(&server, &text);
    }
    assert!(server.log().len() > before);

    let mut client = server.connect();
    let client = &mut client;
    SETS.iter().for_each(|set| assert_eq!(objects(client, set), KEYS, "{set}"));
    let indexes = ask(client, "sindex-list:");
    assert!(indexes.contains("indexname=good:") && indexes.matches("indexname=").count() == 1, "{indexes}");
    // New records are not hidden either.
    SETS.iter().for_each(|set| put(client, set, KEYS));
    SETS.iter().for_each(|set| assert_eq!(objects(client, set), KEYS + 1, "{set}"));

    // A change of a module keeps its other items.
    assert_eq!(ask(client, "truncate:namespace=test;set=other"), "ok");
    assert_eq!(ask(client, "eviction-reset:namespace=bar;ttl=1000"), "ok");
    assert_eq!(ask(client, "sindex-create:namespace=test;set=kept;indexname=new;indexdata=n,numeric"), "ok");
    assert_eq!(ask(client, "udf-remove:filename=good.lua"), "ok");
    for (module, items) in [("truncate", truncate), ("evict", evict), ("sindex", sindex), ("UDF", modules)] {
        let kept = stored(&server, module);
        for (key, value) in items {
            assert!(kept.contains(&((*key).to_owned(), (*value).to_owned())), "{key} of {module}: {kept:?}");
        }
    }

    // A damaged item does not prevent a valid one.
    std::thread::sleep(Duration::from_millis(2));
    for set in SETS {
        assert_eq!(ask(client, &format!("truncate:namespace=test;set={set}")), "ok");
        let began = Instant::now();
        while objects(client, set) > 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "{set} is not truncated");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(ask(client, "eviction-reset:namespace=test;ttl=1000"), "ok");
    assert!(
        client.figure("namespace/test", "smd_evict_void_time").expect("a figure") < now() / 1_000 + 1_001
    );
}

/// The remedies in the lines about items without effect are followed, one after the other; the next start has nothing
/// to tell.
#[test]
fn remedies_work() {
    let mut server = Server::start(&usual_config());
    server.stop();
    let in_a_year = (now() + YEAR_MS).to_string();
    store(
        &server,
        "truncate",
        &[("test|late", &in_a_year), ("test", "abc"), ("test|word", "x"), ("test|a=b", "y")],
    );
    store(&server, "evict", &[("test", "99999999999"), ("bar", "x")]);
    let sindex: &Items<'_> = &[
        ("test|s|empty|.|I", ""),
        ("test|s|end|.|I", "a;b"),
        ("test|s|b234567890123456|.|I", "long-bin"),
        ("test|s|one|.|I", "same"),
        ("test|s|two|.|I", "same"),
    ];
    store(&server, "sindex", sindex);
    let module = module_of("ZnVuY3Rpb24gZigpIGVuZAo=");
    store(&server, "UDF", &[("bad64.lua", &module_of("!")), ("../evil.lua", &module), ("text.lua", "foo")]);
    server.allow(NO_EFFECT);
    server.restart();
    let log = server.log();
    let remedy = |item: &str| {
        let line = log.lines().find(|line| line.contains(&format!("item '{item}' of module ")));
        let line = line.unwrap_or_else(|| panic!("{item} is not told"));
        let (_, rest) = line.split_once(".smd; ").expect("a remedy");
        rest.strip_suffix(", or correct or remove it in that file while the server is stopped")
            .expect("both")
            .to_owned()
    };
    let mut client = server.connect();
    let mut run = |command: &str| assert_eq!(ask(&mut client, command), "ok", "{command}");
    // The commands in the lines are sent as they are there.
    for item in ["test|late", "test|word", "test|a=b"] {
        run(remedy(item).strip_prefix("truncate again or send ").expect("a command"));
    }
    assert!(log.contains("truncate again or send truncate-namespace-undo:namespace=test,"));
    run("truncate-namespace-undo:namespace=test");
    assert!(log.contains("send eviction-reset:namespace=test,"));
    run("eviction-reset:namespace=test");
    run(remedy("bar").strip_prefix("send ").expect("a command"));
    let create = |name: &str, bin: &str| {
        format!("sindex-create:namespace=test;set=s;indexname={name};indexdata={bin},numeric")
    };
    for (key, bin) in [("test|s|empty|.|I", "empty"), ("test|s|end|.|I", "end"), ("test|s|two|.|I", "two")] {
        assert_eq!(remedy(key), "create the index again, under a proper name");
        run(&create(&format!("of-{bin}"), bin));
    }
    assert_eq!(
        remedy("test|s|b234567890123456|.|I"),
        "delete the index by its name with sindex-delete and create it again"
    );
    run("sindex-delete:namespace=test;indexname=long-bin");
    run(&create("long-bin", "b23456789012345"));
    assert_eq!(remedy("../evil.lua"), "send udf-remove for it");
    run("udf-remove:filename=../evil.lua");
    for file in ["bad64.lua", "text.lua"] {
        assert_eq!(remedy(file), "register the module again, or send udf-remove for it");
    }
    run("udf-remove:filename=bad64.lua");
    run("udf-put:filename=text.lua;content-len=24;content=ZnVuY3Rpb24gZigpIGVuZAo=");
    drop(client);
    server.stop();
    server.restart();
    assert!(!server.log()[log.len()..].contains(NO_EFFECT), "{}", &server.log()[log.len()..]);
    let indexes = ask(&mut server.connect(), "sindex-list:");
    for name in ["of-empty", "of-end", "of-two", "long-bin", "same"] {
        assert_eq!(indexes.matches(&format!(":indexname={name}:")).count(), 1, "{indexes}");
    }
}

/// What a command is refused, no item of it has an effect either, and the other way round.
#[test]
fn commands_are_judged_like_items() {
    let mut server = Server::start(&usual_config());
    server.allow("'sindex-create:");
    let mut client = server.connect();
    let create = |set: &str, name: &str, bin: &str| {
        format!("sindex-create:namespace=test;set={set};indexname={name};indexdata={bin},numeric")
    };
    for (set, name, bin) in [("a|b", "i", "n"), ("s", "i", "a|b"), ("s", "", "n"), ("s", "i", "")] {
        let answer = ask(&mut client, &create(set, name, bin));
        assert!(answer.starts_with("ERROR:4:"), "{set} {name} {bin}: {answer}");
    }
    for (set, name, bin) in [("a:b", "a:b", "n:m"), ("a=b", "a=b", "n=m"), ("a,b", "a|b", "n")] {
        assert_eq!(ask(&mut client, &create(set, name, bin)), "ok");
        let exists = ask(&mut client, &format!("sindex-exists:namespace=test;indexname={name}"));
        assert_eq!(exists, "true", "{name}");
    }
    assert_eq!(ask(&mut client, "smd-show:module=sindex").matches("test|").count(), 3);
}

/// Removal of records that are yet to come is told, with a command that ends it.
#[test]
fn what_is_ahead_is_told() {
    let mut server = Server::start(&usual_config());
    server.stop();
    let in_an_hour = now() + 60 * 60 * 1_000;
    let in_a_day = in_an_hour / 1_000 + 23 * 60 * 60;
    let (moment, void_time) = (in_an_hour.to_string(), in_a_day.to_string());
    store(
        &server,
        "truncate",
        &[("test|a", &moment), ("bar", &moment), ("test|b", &(now() - 5).to_string()), ("nope", &moment)],
    );
    store(&server, "evict", &[("test", &void_time), ("bar", &(now() / 1_000 - 5).to_string())]);
    server.allow(" ahead, are ");
    server.restart();
    let log = server.log();
    let told = |start: &str, item: &str, command: &str| {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(start)).collect();
        let [line] = lines[..] else { panic!("{start}: {lines:?}") };
        assert!(line.contains(": WARNING (") && line.contains(item) && line.contains(command), "{line}");
    };
    told(
        "{test} records of set 'a' that are written before 20",
        &moment,
        "send truncate-undo:namespace=test;set=a",
    );
    told("{bar} records that are written before 20", &moment, "send truncate-namespace-undo:namespace=bar");
    told("{test} records that expire before 20", &void_time, "send eviction-reset:namespace=test");
    assert_eq!(log.matches(" ahead, are ").count(), 3, "{log}");
    let mut client = server.connect();
    // Sets that have no records yet are not concerned.
    let mut results =
        [("test", "b"), ("bar", "b")].map(|(namespace, set)| put_in(&mut client, namespace, set, 1));
    assert_eq!(results, [result::OK, result::FORBIDDEN]);
    assert_eq!(ask(&mut client, "truncate-namespace-undo:namespace=bar"), "ok");
    assert_eq!(ask(&mut client, "truncate-undo:namespace=test;set=a"), "ok");
    assert_eq!(ask(&mut client, "eviction-reset:namespace=test"), "ok");
    results = [("test", "a"), ("bar", "b")].map(|(namespace, set)| put_in(&mut client, namespace, set, 1));
    assert_eq!(results, [result::OK; 2]);
    drop(client);
    server.stop();
    server.restart();
    assert!(!server.log()[log.len()..].contains(" ahead, are "));
}

#[test]
fn repeated_items_are_reported() {
    let mut server = Server::start(&usual_config());
    server.stop();
    store(&server, "truncate", &[("test|a", "5"), ("test|b", "6"), ("test|a", "7")]);
    server.allow("truncate.smd has several items of one key ('test|a')");
    server.restart();
    check_told_once(&server, "truncate.smd has several items of one key ('test|a')");
    assert_eq!(ask(&mut server.connect(), "smd-show:module=truncate"), "test|a=5;test|b=6");
}

/// A node whose file is damaged joins another node.
#[test]
fn items_without_meaning_from_other_nodes_destroy_nothing() {
    let mut nodes = Nodes::start_apart(2, IN_MEMORY);
    nodes.servers.iter_mut().for_each(|server| _ = server.allow(NO_EFFECT));
    nodes.await_cluster(&[0]);
    nodes.await_cluster(&[1]);
    nodes.servers[0].stop();
    let (in_a_year, long) = ((now() + YEAR_MS).to_string(), "x".repeat(300));
    let huge = "9".repeat(23);
    store(&nodes.servers[0], "truncate", &[("test|late", &in_a_year), ("test|huge", &huge), ("test", "abc")]);
    store(&nodes.servers[0], "evict", &[("test", "99999999999")]);
    store(&nodes.servers[0], "sindex", &[("test|late|a|.|I", &long)]);
    store(&nodes.servers[0], "UDF", &[("text.lua", "foo")]);
    nodes.servers[0].restart();
    nodes.await_cluster(&[0]);
    let mut client = nodes.servers[1].connect();
    ["late", "huge"].iter().for_each(|set| (0..KEYS).for_each(|key| put(&mut client, set, key)));
    nodes.bring_together();
    nodes.await_members(&[0, 1]);
    nodes.await_info(1, "smd-show:module=evict", "test=99999999999");
    nodes.await_info(1, "smd-show:module=UDF", "text.lua=foo");
    nodes.await_info(1, "smd-show:module=sindex", &format!("test|late|a|.|I={long}"));
    let began = Instant::now();
    while !nodes.info(1, "smd-show:module=truncate").contains("test=abc") {
        assert!(began.elapsed() < Duration::from_secs(60), "the items do not arrive");
        std::thread::sleep(Duration::from_millis(20));
    }
    for server in &nodes.servers {
        for (module, key) in [
            ("truncate", "test|late"),
            ("truncate", "test|huge"),
            ("truncate", "test"),
            ("evict", "test"),
            ("sindex", "test|late|a|.|I"),
            ("UDF", "text.lua"),
        ] {
            check_told_once(server, &format!("item '{key}' of module {module} {NO_EFFECT}"));
        }
    }
    for set in ["late", "huge"] {
        assert_eq!(objects(&mut client, set), KEYS, "{set}");
        put(&mut client, set, KEYS);
    }
}

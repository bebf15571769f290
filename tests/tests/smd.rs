//! System metadata: files of the C server are taken, changes are on disk when they are acknowledged and outlive the server
//! however it ends, and what cannot be stored is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use ferrospike_tests::client::Client;
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::info_request;

const FILES: [&str; 4] = ["UDF.smd", "evict.smd", "sindex.smd", "truncate.smd"];

fn recorded(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpora/smd").join(name);
    fs::read(path).expect("a recorded file")
}

fn file(server: &Server, name: &str) -> PathBuf {
    server.folder().join("smd").join(name)
}

fn text(server: &Server, name: &str) -> String {
    fs::read_to_string(file(server, name)).expect("a file")
}

/// A stopped server with the files that the C server left.
fn with_recorded_files() -> Server {
    let mut server = Server::start(&usual_config());
    server.stop();
    fs::create_dir_all(server.folder().join("smd")).expect("a folder");
    FILES.iter().for_each(|name| fs::write(file(&server, name), recorded(name)).expect("a file"));
    server
}

fn ask(client: &mut Client, request: &str) -> String {
    client.info_value(request).expect("an answer")
}

fn order(client: &mut Client, ttl: u32) {
    assert_eq!(ask(client, &format!("eviction-reset:namespace=test;ttl={ttl}")), "ok");
}

/// The ordered void-time of a namespace.
fn void_time(client: &mut Client, namespace: &str) -> u64 {
    client.figure(&format!("namespace/{namespace}"), "smd_evict_void_time").expect("a figure")
}

#[test]
fn files_of_the_c_server_are_taken() {
    let mut server = with_recorded_files();
    server.restart();
    let mut client = server.connect();
    let client = &mut client;
    assert_eq!(ask(client, "smd-show:module=evict"), "bar=633609292");
    assert_eq!(
        ask(client, "smd-show:module=truncate"),
        "bar|b=533609292607;bar|a=37696000000;nope|x=533609292731;test=533609292741"
    );
    assert_eq!(
        ask(client, "smd-show:module=sindex"),
        "bar|a|i|.|I=bar_a_i;bar||s|.|S=bar_s;bar|a|g|.|G=bar_a_g;bar|b|n|ckiKiA2w=|L|I=bar_b_nl;\
         bar|a|m|K|S=new_name;bar|c|b|.|B=bar_c_b;test|t|i|.|I=test_t_i;nope||i|.|I=elsewhere"
    );
    let modules = ask(client, "smd-show:module=udf");
    assert!(modules.starts_with("counter.lua={\"content64\": \"ZnVu") && modules.contains(";twice.lua="));
    let info = ask(client, "smd-info");
    assert!(info.contains("evict:committed_key=D2629A51DB8E,committed_tid=3,n_keys=2,state=pr;"), "{info}");
    assert!(info.contains("UDF:committed_key=D2629A51DB8E,committed_tid=6,n_keys=4,state=pr;"), "{info}");
    assert_eq!((void_time(client, "bar"), void_time(client, "test")), (633_609_292, 0));
    server.stop();
    FILES.iter().for_each(|name| assert_eq!(fs::read(file(&server, name)).expect("a file"), recorded(name)));
}

#[test]
fn a_change_counts_on_from_what_the_file_says() {
    let mut server = with_recorded_files();
    server.restart();
    let mut client = server.connect();
    let client = &mut client;
    order(client, 1000);
    let ordered = void_time(client, "test");
    assert!(ordered > 500_000_000);
    assert_eq!(ask(client, "smd-show:module=evict"), format!("bar=633609292;test={ordered}"));
    let written = text(&server, "evict.smd");
    let start = "[\n   [\n      ";
    assert!(written.starts_with(start), "{written}");
    let item = format!("\"key\": \"test\",\n      \"value\": \"{ordered}\",\n      \"generation\": 3,\n");
    assert!(written.contains(&item) && written.contains(",\n      4\n   ],\n"), "{written}");
    // An earlier one changes nothing.
    order(client, 500);
    assert_eq!((void_time(client, "test"), text(&server, "evict.smd")), (ordered, written));
    let info = ask(client, "smd-info");
    assert!(info.contains("committed_tid=4,n_keys=2,state=pr;sindex:"), "{info}");
    // What is deleted stays deleted.
    assert_eq!(ask(client, "eviction-reset:namespace=bar"), "ok");
    assert_eq!(ask(client, "eviction-reset:namespace=bar"), "ok");
    server.stop();
    server.restart();
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "smd-show:module=evict"), format!("test={ordered}"));
    assert_eq!((void_time(&mut client, "bar"), void_time(&mut client, "test")), (0, ordered));
    assert!(ask(&mut client, "smd-info").contains("committed_tid=5,n_keys=2,state=pr;sindex:"));
}

#[test]
fn what_is_acknowledged_outlives_a_crash() {
    let mut server = Server::start(&usual_config());
    let mut acknowledged = 0;
    for round in 0..8_u32 {
        let (mut client, mut others) = (server.connect(), [server.connect(), server.connect()]);
        for n in 0..=round {
            order(&mut client, 1000 * (1 + round) + n);
        }
        acknowledged = void_time(&mut client, "test").max(acknowledged);
        // Killed in the middle of sets that nobody heard the end of.
        for (n, other) in others.iter_mut().enumerate() {
            let request =
                format!("eviction-reset:namespace=test;ttl={}\n", 1000 * (1 + round) + 500 + n as u32);
            other.send(&info_request(&request)).expect("it is sent");
        }
        std::thread::sleep(Duration::from_micros(300 * u64::from(round)));
        server.kill9();
        server.restart();
        let found = void_time(&mut server.connect(), "test");
        assert!(found >= acknowledged, "{found} < {acknowledged}");
        assert!(found <= acknowledged + 510, "{found} > {acknowledged}");
    }
}

#[test]
fn a_damaged_file_is_put_aside() {
    let mut server = with_recorded_files();
    fs::write(file(&server, "evict.smd"), &recorded("evict.smd")[..100]).expect("a file");
    fs::write(file(&server, "truncate.smd.save"), b"half a fi").expect("a file");
    server.allow("evict.smd cannot be used");
    server.restart();
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "smd-show:module=evict"), "<empty>");
    assert!(ask(&mut client, "smd-show:module=truncate").contains("bar|b="));
    assert_eq!(
        fs::read(file(&server, "evict.smd.unreadable")).expect("it is kept"),
        recorded("evict.smd")[..100]
    );
    order(&mut client, 1000);
    let ordered = void_time(&mut client, "test");
    server.stop();
    server.restart();
    assert_eq!(void_time(&mut server.connect(), "test"), ordered);
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let mut server = Server::start(&usual_config());
    let mut client = server.connect();
    let client = &mut client;
    order(client, 1000);
    let ordered = void_time(client, "test");
    // Not even root can write over a folder.
    let save = file(&server, "evict.smd.save");
    fs::create_dir(&save).expect("a folder");
    server.allow("cannot store metadata of module evict");
    server.allow("'eviction-reset:namespace=test");
    let answer = ask(client, "eviction-reset:namespace=test;ttl=2000");
    assert!(answer.starts_with("ERROR::cannot be stored: "), "{answer}");
    assert!(ask(client, "eviction-reset:namespace=test").starts_with("ERROR::cannot be stored: "));
    assert_eq!(
        (void_time(client, "test"), ask(client, "smd-show:module=evict")),
        (ordered, format!("test={ordered}"))
    );
    fs::remove_dir(&save).expect("it is empty");
    order(client, 2000);
    assert!(void_time(client, "test") > ordered);
}

#[test]
fn files_have_the_usual_permissions() {
    let config = usual_config().replace("    work-directory", "    os-group-perms true\n    work-directory");
    let server = Server::start(&config);
    order(&mut server.connect(), 1000);
    let mode = fs::metadata(file(&server, "evict.smd")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o066, 0o060, "it is for the group too, not for others");
}

//! System metadata in a cluster: all nodes know a change at any node when the client gets its answer. Nodes
//! that were away, that join, or that lose their principal end with the same items.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::client::Client;
use ferrospike_tests::nodes::Nodes;
use ferrospike_tests::security::{
    ADMIN, OTHER, PASS, command, create_user, field, logged_in, login, result_of,
};
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{Message, result};

const NAMESPACES: &str = "
namespace test {
    replication-factor 2
    nsup-period 1
    storage-engine memory {
        data-size 1G
    }
}
";

fn clients(nodes: &Nodes, numbers: &[usize]) -> Vec<Client> {
    numbers.iter().map(|number| nodes.servers[*number].connect()).collect()
}

fn create_index(name: &str, bin: &str) -> String {
    format!("sindex-create:namespace=test;set=rig;indexname={name};indexdata={bin},numeric")
}

fn put_module(name: &str) -> String {
    let content = BASE64_STANDARD.encode("function nothing(r) return 1 end\n");
    format!("udf-put:filename={name};content-len={};content={content};", content.len())
}

/// Waits until all these nodes report the same versions of their modules.
fn await_same_versions(nodes: &Nodes, numbers: &[usize]) -> String {
    let began = Instant::now();
    loop {
        let modules = |number: &usize| {
            let info = nodes.info(*number, "smd-info");
            let modules = info.split(';').skip(1);
            modules.map(|module| module.replace("state=npr", "state=pr")).collect::<Vec<_>>().join(";")
        };
        let all: Vec<String> = numbers.iter().map(modules).collect();
        if all.iter().all(|one| *one == all[0]) {
            return all[0].clone();
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{all:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_change_at_one_node_is_known_to_all() {
    let nodes = Nodes::start(3, NAMESPACES);
    nodes.await_cluster(&[0, 1, 2]);
    let mut clients = clients(&nodes, &[0, 1, 2]);
    for setter in 0..3 {
        let (index, module) = (format!("index{setter}"), format!("module{setter}.lua"));
        let command = create_index(&index, &format!("bin{setter}"));
        assert_eq!(clients[setter].info_value(&command).unwrap(), "ok");
        assert_eq!(clients[setter].info_value(&put_module(&module)).unwrap(), "ok");
        for client in &mut clients {
            let question = format!("sindex-exists:namespace=test;indexname={index}");
            assert_eq!(client.info_value(&question).unwrap(), "true");
            assert!(client.info_value("udf-list").unwrap().contains(&module));
        }
    }
    assert_eq!(clients[0].info_value("sindex-delete:namespace=test;indexname=index2").unwrap(), "ok");
    assert_eq!(clients[1].info_value("udf-remove:filename=module0.lua").unwrap(), "ok");
    for client in &mut clients {
        let question = "sindex-exists:namespace=test;indexname=index2";
        assert_eq!(client.info_value(question).unwrap(), "false");
        assert!(!client.info_value("udf-list").unwrap().contains("module0.lua"));
    }
    // Repeats a create, and removes a missing module.
    assert_eq!(clients[2].info_value(&create_index("index1", "bin1")).unwrap(), "ok");
    assert_eq!(clients[2].info_value("udf-remove:filename=module0.lua").unwrap(), "ok");

    for number in 0..50 {
        let put = Message::put(&format!("key-{number}"), vec![1]);
        assert_eq!(clients[number % 3].ask(&put).unwrap().result, result::OK);
    }
    assert_eq!(clients[1].info_value("truncate:namespace=test;set=rig").unwrap(), "ok");
    for number in 0..50 {
        let get = Message::get(&format!("key-{number}"));
        for client in &mut clients {
            assert_eq!(client.ask(&get).unwrap().result, result::NOT_FOUND);
        }
    }
    let versions = await_same_versions(&nodes, &[0, 1, 2]);
    assert!(versions.contains("truncate:") && !versions.contains("committed_tid=0,n_keys=1"), "{versions}");
}

#[test]
fn a_node_that_was_away_catches_up() {
    let mut nodes = Nodes::start(3, NAMESPACES);
    nodes.await_cluster(&[0, 1, 2]);
    let mut first = nodes.servers[0].connect();
    assert_eq!(first.info_value(&create_index("old", "a")).unwrap(), "ok");
    assert_eq!(first.info_value(&put_module("old.lua")).unwrap(), "ok");
    // Node 2 is the principal; node 1 is not.
    for away in [2, 1] {
        let present: Vec<usize> = (0..3).filter(|number| *number != away).collect();
        nodes.servers[away].kill9();
        // The change is sent at once, before any node has noticed that the principal has gone.
        let mut first = nodes.servers[0].connect();
        let new = format!("new{away}");
        assert_eq!(first.info_value(&create_index(&new, &new)).unwrap(), "ok");
        nodes.await_members(&present);
        assert_eq!(first.info_value(&put_module(&format!("{new}.lua"))).unwrap(), "ok");
        if away == 2 {
            assert_eq!(first.info_value("sindex-delete:namespace=test;indexname=old").unwrap(), "ok");
            assert_eq!(first.info_value("udf-remove:filename=old.lua").unwrap(), "ok");
        }
        nodes.servers[away].restart();
        nodes.await_members(&[0, 1, 2]);
        await_same_versions(&nodes, &[0, 1, 2]);
        let mut back = nodes.servers[away].connect();
        let answer = back.info_value(&format!("sindex-exists:namespace=test;indexname={new}")).unwrap();
        assert_eq!(answer, "true");
        assert_eq!(back.info_value("sindex-exists:namespace=test;indexname=old").unwrap(), "false");
        let modules = back.info_value("udf-list").unwrap();
        assert!(modules.contains(&format!("{new}.lua")) && !modules.contains("old.lua"), "{modules}");
    }
    // All metadata has been stored on disk.
    let before = nodes.info(1, "smd-show:module=sindex");
    (0..3).for_each(|number| nodes.servers[number].kill9());
    (0..3).for_each(|number| nodes.servers[number].restart());
    nodes.await_cluster(&[0, 1, 2]);
    for number in 0..3 {
        assert_eq!(nodes.info(number, "smd-show:module=sindex"), before);
    }
}

#[test]
fn nodes_with_histories_of_their_own_merge_them() {
    let nodes = Nodes::start_apart(2, NAMESPACES);
    // The items of node 0 are newer than those of node 1, the principal.
    for (number, name) in [(1, "one"), (0, "zero")] {
        nodes.await_cluster(&[number]);
        let mut client = nodes.servers[number].connect();
        assert_eq!(client.info_value(&create_index(name, name)).unwrap(), "ok");
        assert_eq!(client.info_value(&create_index("both", "both")).unwrap(), "ok");
        assert_eq!(client.info_value(&put_module("both.lua")).unwrap(), "ok");
    }
    nodes.bring_together();
    nodes.await_members(&[0, 1]);
    await_same_versions(&nodes, &[0, 1]);
    for number in 0..2 {
        for name in ["zero", "one", "both"] {
            let question = format!("sindex-exists:namespace=test;indexname={name}");
            nodes.await_info(number, &question, "true");
        }
        assert_eq!(nodes.info(number, "udf-list").matches("both.lua").count(), 1);
    }
    let mut clients: Vec<Client> = nodes.servers.iter().map(Server::connect).collect();
    for client in &mut clients {
        let answer = client.info_value("sindex-delete:namespace=test;indexname=zero").unwrap();
        assert_eq!(answer, "ok");
    }
}

/// Waits until a node, whose administrator has this credential, reports a cluster of this size.
fn await_size(nodes: &Nodes, number: usize, size: usize, credential: &str) {
    let began = Instant::now();
    let mut admin = logged_in(&nodes.servers[number], "admin", credential);
    let question = format!("cluster-stable:size={size};ignore-migrations=true");
    loop {
        let answer = admin.info_value(&question).unwrap();
        if !answer.starts_with("ERROR") {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until the administrator of a node has this credential. Failed logins are throttled.
fn await_credential(nodes: &Nodes, number: usize, credential: &str) {
    let began = Instant::now();
    while login(&mut nodes.servers[number].connect(), "admin", credential).0 != 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "node {number} has another administrator");
        std::thread::sleep(Duration::from_millis(1500));
    }
}

#[test]
fn a_node_that_joins_takes_the_users_of_the_cluster() {
    let config = format!("{NAMESPACES}security {{\n}}\n");
    let mut nodes = Nodes::start_some(3, 2, &config);
    let allow = |nodes: &mut Nodes| {
        let known = ["password that everybody knows", "login", "cannot be verified"];
        for text in known {
            nodes.servers.iter_mut().for_each(|server| _ = server.allow(text));
        }
    };
    allow(&mut nodes);
    await_size(&nodes, 0, 2, ADMIN);
    await_size(&nodes, 1, 2, ADMIN);
    std::thread::sleep(Duration::from_millis(300));
    let mut admin = logged_in(&nodes.servers[0], "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read-write"]), 0);
    let fields = [(field::USER, &b"admin"[..]), (field::PASSWORD, OTHER.as_bytes())];
    assert_eq!(result_of(&mut admin, command::SET_PASSWORD, &fields), 0);
    for number in 0..2 {
        let mut bob = logged_in(&nodes.servers[number], "bob", PASS);
        assert_eq!(bob.ask(&Message::put(&format!("of-bob-{number}"), vec![1])).unwrap().result, result::OK);
        assert_ne!(login(&mut nodes.servers[number].connect(), "admin", ADMIN).0, 0);
    }
    // The new node has its own administrator with the first password, and becomes the principal.
    nodes.start_next();
    allow(&mut nodes);
    await_size(&nodes, 0, 3, OTHER);
    await_credential(&nodes, 2, OTHER);
    for number in 0..3 {
        drop(logged_in(&nodes.servers[number], "bob", PASS));
        assert_ne!(login(&mut nodes.servers[number].connect(), "admin", ADMIN).0, 0, "node {number}");
    }
    // A token of one node is valid on the others.
    let (_, token) = login(&mut nodes.servers[2].connect(), "bob", PASS);
    let mut elsewhere = nodes.servers[0].connect();
    let fields = [(field::USER, &b"bob"[..]), (field::SESSION_TOKEN, &token[..])];
    assert_eq!(result_of(&mut elsewhere, command::AUTHENTICATE, &fields), 0);
    // A dropped user does not exist on any node.
    let mut admin = logged_in(&nodes.servers[2], "admin", OTHER);
    assert_eq!(result_of(&mut admin, command::DROP_USER, &[(field::USER, b"bob")]), 0);
    for number in 0..3 {
        assert_ne!(login(&mut nodes.servers[number].connect(), "bob", PASS).0, 0, "node {number}");
    }
}

//! Starts with a given configuration on a given machine: what the server accepts, what it refuses, and that
//! `--check-config` finds all errors before a start.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ferrospike_tests::client::Client;
use ferrospike_tests::ports::free_port;
use ferrospike_tests::programs::binary;
use ferrospike_tests::server::{NAMESPACES, Server, usual_config};
use ferrospike_tests::wire::{Message, Operation, info2, operation, result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The usual configuration with these lines in its `network` context.
fn with_network(lines: &str) -> String {
    usual_config().replacen("network {", &format!("network {{\n{lines}"), 1)
}

/// The output of `--check-config` for `config`.
fn check(folder: &Path, config: &str) -> Output {
    let path = folder.join("aerospike.conf");
    fs::write(&path, config.replace("{dir}", folder.to_str().unwrap())).unwrap();
    Command::new(binary()).args(["--check-config", "--config-file"]).arg(&path).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect()
}

#[test]
fn an_interface_is_an_address_to_listen_on() {
    // On most machines it also has an IPv6 address.
    let config = usual_config().replace("address 127.0.0.1", "address lo\n        address 127.0.0.1");
    let server = Server::start(&config);
    let mut client = server.connect();
    assert!(client.info_value("endpoints").unwrap().contains(";service.addresses=127.0.0.1;"));
}

#[test]
fn an_interface_is_an_address_to_tell_clients() {
    let names = ["access-address lo", "alternate-access-address lo"];
    let config =
        usual_config().replacen("address 127.0.0.1", &format!("address 127.0.0.1\n{}", names.join("\n")), 1);
    let server = Server::start(&config);
    let (mut client, port) = (server.connect(), server.address().port());
    for command in ["service", "service-clear-std", "service-clear-alt"] {
        assert_eq!(client.info_value(command).unwrap(), format!("127.0.0.1:{port}"), "{command}");
    }
    assert_eq!(client.info_value("service-tls-std").unwrap(), "");
}

#[test]
fn the_admin_port_accepts_operators_when_clients_are_refused() {
    let port = free_port();
    let mut server = Server::start(&with_network(&format!("admin {{\naddress 127.0.0.1\nport {port}\n}}")));
    server.allow("refusing client connection").allow("refusing admin connection");
    let admin = SocketAddr::from(([127, 0, 0, 1], port));
    let mut operator = Client::connect(admin).unwrap();
    assert_eq!(operator.info_value("status").unwrap(), "ok");
    assert_eq!(operator.ask(&Message::get("none")).unwrap().result, result::NOT_FOUND);
    // Clients take all places of clients.
    let set = "set-config:context=service;proto-fd-max=1024";
    assert_eq!(operator.info_value(set).unwrap(), "ok");
    let clients: Vec<TcpStream> = (0..1024).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    server.await_log("client port");
    let mut refused = server.connect();
    assert!(refused.info_value("status").is_err(), "there is no place for it");
    let mut operators: Vec<Client> = (0..99).map(|_| Client::connect(admin).unwrap()).collect();
    assert_eq!(operators.last_mut().unwrap().info_value("status").unwrap(), "ok");
    let mut one_more = Client::connect(admin).unwrap();
    assert!(one_more.info_value("status").is_err(), "there is a limit here too");
    drop(clients);
}

/// The configuration is that of the 8.1 packages, with additions of later versions.
#[test]
fn a_configuration_of_a_later_version_is_taken() {
    let (info, admin, fabric) = (free_port(), free_port(), free_port());
    let network = format!(
        "info {{\naddress 127.0.0.1\nport {info}\n}}\nadmin {{\naddress 127.0.0.1\nport {admin}\n}}\n\
         heartbeat {{\nmode mesh\nmesh-seed-address-port 127.0.0.1 3002\nmesh-seed-address-port 127.0.0.1 3002\n}}\n\
         fabric {{\naddress 127.0.0.1\nport {fabric}\n}}"
    );
    let config = with_network(&network)
        .replacen("service {", "service {\nproto-fd-max 4000000\ncgroup-mem-tracking true", 1)
        .replacen("namespace test {", "namespace test {\napply-ttl-reductions false", 1)
        .replace("context any info", "context any info\ncontext masking info");
    let mut server = Server::start(&config);
    for text in [
        "is new in 8.1",
        "twice; once is enough",
        "proto-fd-max is",
        "not yet in effect",
        "seeds that cannot be reached",
    ] {
        server.allow(text);
    }
    let mut client = server.connect();
    // The node searches for other nodes first, and forms its own cluster when it has found none.
    while client.info_value("partition-generation").unwrap() == "-1" {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Without reductions, a record keeps the time to live that was set first.
    let put = |ttl| Message { record_ttl: ttl, ..Message::put("key", vec![1]) };
    assert_eq!(client.ask(&put(1000)).unwrap().result, result::OK);
    let before = client.ask(&Message::get("key")).unwrap().record_ttl;
    assert_eq!(client.ask(&put(10)).unwrap().result, result::OK);
    assert_eq!(client.ask(&Message::get("key")).unwrap().record_ttl, before);
    assert_eq!(client.ask(&put(5000)).unwrap().result, result::OK);
    assert!(client.ask(&Message::get("key")).unwrap().record_ttl > before + 3000);
}

/// `build/cluster` with its own folder and with ports from this one on.
fn cluster(folder: &Path, port: u16) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../build/cluster"));
    command.arg(binary()).env("FOLDER", folder).env("PORT", port.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A port that is followed by enough free ones.
fn port_of_cluster() -> u16 {
    std::iter::repeat_with(free_port).find(|port| *port < u16::MAX - 300).unwrap()
}

#[test]
fn a_cluster_on_one_machine_starts_and_expires_records() {
    let folder = tempfile::tempdir().unwrap();
    let port = port_of_cluster();
    let mut child = cluster(folder.path(), port).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with(&format!("3 nodes, the first at 127.0.0.1:{port}")), "{line}");
    let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    assert!(client.info_value("get-config:context=namespace;id=test").unwrap().contains("nsup-period=1;"));
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_cluster_ends_when_a_node_cannot_start() {
    let folder = tempfile::tempdir().unwrap();
    let port = port_of_cluster();
    let _taken = TcpListener::bind(("127.0.0.1", port + 100)).unwrap();
    let output = cluster(folder.path(), port).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("build/cluster: node 1 could not start; the end of its log"), "{said}");
    assert!(said.matches("another process uses this port").count() >= 2, "in the log too: {said}");
    TcpListener::bind(("127.0.0.1", port)).unwrap();
}

#[test]
fn configurations_with_missing_protection_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let directory = usual_config() + "security {\nldap {\nserver ldaps://directory\n}\n}\n";
    let consistent =
        usual_config().replacen("namespace test {", "namespace test {\nstrong-consistency true", 1);
    for (config, reason) in [
        (directory, "'ldap' in security: users of a directory cannot log in yet"),
        (consistent, "'strong-consistency' in namespace 'test' is not supported yet"),
    ] {
        let output = check(folder.path(), &config);
        let said = lines(&output);
        assert_eq!(output.status.code(), Some(1), "{said:#?}");
        assert_eq!(said.len(), 2, "one line, and the one that says how many: {said:#?}");
        assert!(said[0].starts_with("error: ") && said[0].contains(reason), "{said:#?}");
    }
}

#[test]
fn a_check_finds_all_obstacles_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let taken = free_port();
    let _holder = TcpListener::bind(("127.0.0.1", taken)).unwrap();
    fs::write(folder.path().join("foreign.dat"), vec![7; 200 << 20]).unwrap();
    fs::write(folder.path().join("work"), "no folder").unwrap();
    let namespaces = "
        namespace one { storage-engine device { file {dir}/none/one.dat\nfilesize 1G } }
        namespace two { storage-engine device { file {dir}/foreign.dat\nfilesize 200M } }
        namespace three { storage-engine device { device /dev/there-is-none } }
        namespace four { storage-engine device { file {dir}/new.dat\nfilesize 1G } }
        namespace five { storage-engine device { file {dir}/../{name}/new.dat\nfilesize 1G } }
        namespace six { storage-engine device { file {dir}/keyed.dat\nfilesize 1G\nencryption-key-file {dir}/none/key } }
        namespace seven { storage-engine device { file {dir}/vault.dat\nfilesize 1G\nencryption-key-file vault:key } }
    "
    .replace('{', "{\n")
    .replace('}', "\n}")
    .replace("{\ndir\n}", "{dir}")
    .replace("{\nname\n}", folder.path().file_name().unwrap().to_str().unwrap());
    let config = format!(
        "service {{\ncluster-name c\nuser no-such-user\nnode-id-interface none0\nwork-directory {{dir}}/work\npidfile {{dir}}/none/pid\n}}\n\
         logging {{\nfile {{dir}}/none/log {{\ncontext any info\n}}\nfile {{dir}}/log {{\ncontext any info\n}}\n}}\n\
         network {{\nservice {{\naddress 127.0.0.1\nport {taken}\naccess-address no_such_interface\n}}\n\
         info {{\naddress 192.0.2.77\nport 3903\n}}\n\
         metrics {{\naddress none1\nport 3904\n}}\n}}\n\
         security {{\ndefault-password-file {{dir}}/none/password\n}}\n{namespaces}"
    );
    let output = check(folder.path(), &config);
    let said = lines(&output);
    assert_eq!(output.status.code(), Some(1), "{said:#?}");
    for expected in [
        "aerospike.conf:3: there is no user no-such-user",
        "aerospike.conf:4: node-id-interface none0",
        "none/log",
        "aerospike.conf:6: cannot hold the pidfile",
        &format!(
            "aerospike.conf:19: 'port' in network.service: cannot listen on 127.0.0.1:{taken}: another process uses this \
             port"
        ),
        "aerospike.conf:20: 'access-address' in network.service: 'no_such_interface' is neither an IP address",
        "aerospike.conf:23: 'address' in network.info: cannot listen on 192.0.2.77:3903: no interface of this machine has \
         this address",
        "aerospike.conf:27: 'address' in network.metrics: 'none1' is neither an IP address",
        "{one} ",
        "{two} ",
        "{three} /dev/there-is-none",
        "{five} ",
        "{six} encryption-key-file",
        "{seven} encryption-key-file",
        "work cannot be created: not a directory; a file is in its place: remove it, or name another work-directory",
        "none/password",
    ] {
        let found = said.iter().filter(|line| line.starts_with("error: ") && line.contains(expected)).count();
        assert_eq!(found, 1, "{expected}: {said:#?}");
    }
    assert!(!said.iter().any(|line| line.contains("{four}")), "{said:#?}");
    for name in ["log", "new.dat", "none"] {
        assert!(!folder.path().join(name).exists(), "{name}");
    }
    let good = usual_config().replace("{dir}", folder.path().to_str().unwrap());
    assert!(check(folder.path(), &good).status.success());
    assert!(good.contains(NAMESPACES.trim()));
}

/// One port for all addresses and for one of them. Binding both succeeds, so the check and the start compare
/// them beforehand.
#[test]
fn contexts_that_share_a_port_are_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let of_service = format!("address 127.0.0.1\nport {port}");
    for (network, line, context, other) in [
        (format!("service {{\n{of_service}\n}}\nadmin {{\nport {port}\n}}"), 11, "admin", "service"),
        (
            format!(
                "service {{\naddress 127.0.0.1\nport 0\n}}\nadmin {{\n{of_service}\n}}\nmetrics {{\nport {port}\n}}"
            ),
            15,
            "metrics",
            "admin",
        ),
        (
            format!(
                "service {{\naddress 127.0.0.1\nport 0\n}}\ninfo {{\nport {port}\n}}\nmetrics {{\n{of_service}\n}}"
            ),
            15,
            "metrics",
            "info",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "service {{\ncluster-name c\nwork-directory {{dir}}/work\n}}\nnetwork {{\n{network}\n}}\n{NAMESPACES}"
        );
        let output = check(folder.path(), &config);
        let said = lines(&output);
        let expected = format!(
            "aerospike.conf:{line}: 'port' in network.{context} is {port}, but that is already the port of \
             network.{other} on 127.0.0.1"
        );
        assert_eq!(output.status.code(), Some(1), "{said:#?}");
        let errors: Vec<_> = said.iter().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(&expected), "{expected}: {said:#?}");
        let path = folder.path().join("aerospike.conf");
        let output =
            Command::new(binary()).args(["--foreground", "--config-file"]).arg(&path).output().unwrap();
        let said = lines(&output);
        assert!(!output.status.success(), "{said:#?}");
        assert!(said.iter().any(|line| line.contains(&expected)), "{expected}: {said:#?}");
        assert!(!said.iter().any(|line| line.contains("another process")), "{said:#?}");
    }
}

#[test]
fn a_check_finds_files_in_use_and_files_without_a_header() {
    let config = usual_config()
        + "namespace kept {\nreplication-factor 1\nstorage-engine device {\nfile {dir}/kept.dat\nfilesize 128M\n}\n}\n";
    let mut server = Server::start(&config);
    let put = Message { info2: info2::WRITE, ..Message::on_record("kept", "s", "key") }
        .with_operation(Operation::integer(operation::WRITE, "n", 7));
    assert_eq!(server.connect().ask(&put).unwrap().result, result::OK);
    // The running server frees what it holds when it is restarted.
    let config = config.replacen("port 0", &format!("port {}", server.address().port()), 1);
    let output = check(server.folder(), &config);
    let said = lines(&output);
    assert!(output.status.success(), "{said:#?}");
    let (id, kept) = (server.process_id().unwrap(), server.folder().join("kept.dat"));
    let note = format!(
        "in use by the running server with pid {id}: port {}, {}",
        server.address().port(),
        kept.display()
    );
    assert!(said.len() == 1 && said[0].starts_with("note: ") && said[0].ends_with(&note), "{said:#?}");
    // A server with another configuration is another server.
    let elsewhere = tempfile::tempdir().unwrap();
    let output = check(elsewhere.path(), &config.replace("{dir}", server.folder().to_str().unwrap()));
    let said = lines(&output);
    assert_eq!(output.status.code(), Some(1), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("{kept} ") && line.contains("in use")), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("another process uses this port")), "{said:#?}");
    // The holder of a newly configured port is another process.
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let lines_of = format!("network {{\nmetrics {{\naddress 127.0.0.1\nport {port}\n}}");
    let output = check(server.folder(), &config.replacen("network {", &lines_of, 1));
    let said = lines(&output);
    assert_eq!(output.status.code(), Some(1), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("note: ")) && said.len() == 3, "{said:#?}");
    drop(holder);
    server.stop();
    let output = check(server.folder(), &config);
    assert!(output.status.success(), "{:#?}", lines(&output));
    server.restart();
    server.stop();
    // The file has records, but their header is gone.
    let file = fs::File::options().write(true).open(server.folder().join("kept.dat")).unwrap();
    file.write_all_at(&[0; 256 << 10], 0).unwrap();
    let said = lines(&check(server.folder(), &config));
    assert!(said.iter().any(|line| line.contains("{kept} ") && line.contains("header")), "{said:#?}");
}

/// A start continues without syslog, whose lines are then lost. The check accepts that and reports it.
#[test]
fn a_check_reports_that_no_daemon_accepts_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let sink = "console {\n        context any info\n    }\n    syslog {\n        path {dir}/syslog\n    }";
    let config = usual_config().replacen("console {\n        context any info\n    }", sink, 1);
    assert!(config.contains("{dir}/syslog"));
    let output = check(folder.path(), &config);
    let said = lines(&output);
    let is_told = |line: &String| line.starts_with("warning: syslog ") && line.contains("accepts no lines");
    assert!(output.status.success() && said.iter().filter(|line| is_told(line)).count() == 1, "{said:#?}");
    let _daemon = std::os::unix::net::UnixDatagram::bind(folder.path().join("syslog")).unwrap();
    let output = check(folder.path(), &config);
    assert!(output.status.success() && !lines(&output).iter().any(is_told), "{:#?}", lines(&output));
}

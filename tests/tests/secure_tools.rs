//! The tools and the official Python client with a server that has passwords and TLS, set up as described in
//! README.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::{Command, Output};

use ferrospike_tests::programs::built;
use ferrospike_tests::report;
use ferrospike_tests::security::{ADMIN, PASS, create_user, logged_in};
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::tls::tls_address;
use tempfile::TempDir;

/// A server with a certificate of `asd-tls` for `cluster1`, and a user `app`. `rule` is the rule for
/// certificates of clients.
fn start(rule: &str) -> (TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let made = run("asd-tls", &["--dir", dir, "node", "cluster1", "127.0.0.1"]);
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success(), "{said}");
    // The output of `asd-tls` is used as the file without changes, except for the port and the rule.
    let lines = said.replace("tls-port 4333", "address 127.0.0.1\n        port 0\n        tls-port 0");
    let lines = lines.replace("tls-authenticate-client false", &format!("tls-authenticate-client {rule}"));
    let usual = usual_config();
    let start = usual.find("network {").unwrap();
    let end = usual.find("namespace test").unwrap();
    let config = [&usual[..start], &lines, "security {\n}\n", &usual[end..]].concat();
    let mut server = Server::start(&config);
    server.allow("has the password that everybody knows").allow("TLS handshake with");
    server.allow("ignoring TLS connection from");
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "app", PASS, &["read-write-udf", "sys-admin"]), 0);
    (folder, server)
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(built(program).unwrap()).args(arguments).output().unwrap()
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn file(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn tools_log_in_and_speak_tls() {
    let (folder, server) = start("false");
    let (clear, tls) = (server.address().port(), tls_address(&server).port());
    let ca = file(folder.path(), "ca.pem");
    let clear = format!("127.0.0.1:{clear}");
    let (by_name, by_option) = (format!("127.0.0.1:cluster1:{tls}"), format!("127.0.0.1:{tls}"));
    let user = ["--no-config-file", "-U", "app", "-P", "pass"];
    let asinfo = |arguments: &[&str]| run("asinfo", &[&user[..], &["-v", "build"], arguments].concat());
    let with_tls = ["--tls-enable", "--tls-cafile", &ca];
    for arguments in [
        vec!["-h", &clear],
        [&["-h", &by_name][..], &with_tls].concat(),
        [&["-h", &by_option, "--tls-name", "cluster1"][..], &with_tls].concat(),
        // The certificate is valid for the address as well.
        [&["-h", &by_option][..], &with_tls].concat(),
    ] {
        let output = asinfo(&arguments);
        assert!(output.status.success() && says(&output) == "8.0.0.7\n", "{arguments:?}: {}", says(&output));
    }
    for (arguments, why) in [
        (
            [&["-h", &by_option, "--tls-name", "other"][..], &with_tls].concat(),
            "certificate not valid for name",
        ),
        (vec!["-h", &by_name, "--tls-enable"], "needs --tls-cafile"),
        (vec!["-h", &clear, "-P", "wrong"], ""),
    ] {
        let output = asinfo(&arguments);
        assert!(!output.status.success() && says(&output).contains(why), "{arguments:?}: {}", says(&output));
    }
    // Clients without TLS on a port with TLS, and the reverse, with and without a login.
    for (user, host, tls, why) in [
        (&user[..1], &by_option, &[][..], "this is a port with TLS: give --tls-enable"),
        (&user[..], &by_option, &[], "this is a port with TLS: give --tls-enable"),
        (&user[..1], &clear, &with_tls, "is this a port with TLS?"),
    ] {
        let output = run("asinfo", &[user, &["-v", "build", "-h", host], tls].concat());
        assert!(!output.status.success() && says(&output).contains(why), "{host}: {}", says(&output));
    }
    let wrong = run("asinfo", &["--no-config-file", "-U", "app", "-P", "wrong", "-h", &clear, "-v", "build"]);
    assert!(!wrong.status.success() && says(&wrong).contains("the password is wrong"), "{}", says(&wrong));
    let load = ["-w", "I", "-k", "500", "--connections", "4"];
    for arguments in [vec!["-h", &clear], [&["-h", &by_name][..], &with_tls].concat()] {
        let output = run("asbench", &[&user[..], &load, &arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", says(&output));
    }
    let port = tls.to_string();
    let bench = [
        &[
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--tls-name",
            "cluster1",
            "--user",
            "app",
            "--password",
            "pass",
        ][..],
        &with_tls,
        &["--keys", "1000", "--rounds", "1", "--seconds", "0.2", "--only", "read", "--connections", "4"],
    ];
    let output = run("asd-bench", &bench.concat());
    assert!(output.status.success() && says(&output).contains("read"), "{}", says(&output));
}

#[test]
fn tools_show_their_certificate() {
    let (folder, server) = start("any");
    let dir = folder.path();
    let made = run("asd-tls", &["--dir", dir.to_str().unwrap(), "client", "app"]);
    assert!(made.status.success(), "{}", says(&made));
    let host = format!("127.0.0.1:cluster1:{}", tls_address(&server).port());
    let (ca, certificate, key) = (file(dir, "ca.pem"), file(dir, "app.pem"), file(dir, "app-key.pem"));
    let common = ["--no-config-file", "-U", "app", "-P", "pass", "-h", &host, "-v", "build"];
    let tls = ["--tls-enable", "--tls-cafile", &ca, "--tls-certfile", &certificate, "--tls-keyfile", &key];
    let output = run("asinfo", &[&common[..], &tls].concat());
    assert!(output.status.success(), "{}", says(&output));
    let output = run("asinfo", &[&common[..], &tls[..3]].concat());
    assert!(!output.status.success(), "without a certificate: {}", says(&output));
}

/// The script in README for the official Python client: put and get over TLS, also of large values, a query,
/// a batch, and info; then the same with only a certificate.
const SCRIPT: &str = r#"
import sys
import aerospike
from aerospike_helpers.batch import records

folder, port = sys.argv[1], int(sys.argv[2])
tls = {"enable": True, "cafile": f"{folder}/ca.pem"}
if len(sys.argv) > 3:
    tls.update(certfile=f"{folder}/app.pem", keyfile=f"{folder}/app-key.pem")
hosts = [("127.0.0.1", port, "cluster1")]
config = {"hosts": hosts, "tls": tls, "user": "app", "password": "pass"}
if sys.argv[3:] == ["pki"]:
    config = {"hosts": hosts, "tls": tls, "policies": {"auth_mode": aerospike.AUTH_PKI}}
client = aerospike.client(config).connect()
for n in range(100):
    client.put(("test", "secure", n), {"n": n, "text": "x" * 10_000})
assert client.get(("test", "secure", 7))[2]["n"] == 7
client.put(("test", "large", 1), {"blob": bytearray(900_000)})
assert len(client.get(("test", "large", 1))[2]["blob"]) == 900_000
assert len(client.query("test", "secure").results()) == 100
batch = client.batch_read([("test", "secure", n) for n in range(100)])
assert all(one.result == 0 for one in batch.batch_records)
assert any("8.0.0.7" in answer for _, answer in client.info_all("build").values())
try:
    client.admin_create_user("eve", "pass", ["read"])
except aerospike.exception.RoleViolation:
    print("as README says")
client.close()
"#;

/// Runs the script. Returns its output; `None` if the client is not installed.
fn python(arguments: &[&str]) -> Option<Output> {
    let checked = built("asd").unwrap();
    let python = checked.parent()?.parent()?.join("venv/bin/python");
    if !python.exists() {
        report("skipped: `make target/venv/ready` installs the official Python client");
        return None;
    }
    Some(Command::new(python).args(["-W", "ignore", "-c", SCRIPT]).args(arguments).output().unwrap())
}

#[test]
fn the_python_client_connects_as_described_in_readme() {
    let (folder, server) = start("false");
    let port = tls_address(&server).port().to_string();
    let dir = folder.path().to_str().unwrap();
    let Some(output) = python(&[dir, &port]) else { return };
    assert!(says(&output).contains("as README says"), "{}", says(&output));
}

#[test]
fn the_python_client_shows_its_certificate() {
    let (folder, server) = start("app");
    let port = tls_address(&server).port().to_string();
    let dir = folder.path().to_str().unwrap();
    assert!(run("asd-tls", &["--dir", dir, "client", "app"]).status.success());
    for mode in ["certificate", "pki"] {
        let Some(output) = python(&[dir, &port, mode]) else { return };
        assert!(says(&output).contains("as README says"), "{mode}: {}", says(&output));
    }
}

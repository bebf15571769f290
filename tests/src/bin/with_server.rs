//! `with_server`: starts a server with the usual namespaces at `ASD_ADDRESS` and runs a command beside it. With
//! `--secured` the server has access control and speaks only TLS; `ASD_USER`, `ASD_PASSWORD`, `ASD_TLS_NAME` and
//! `ASD_TLS_CA` tell how to connect. Fails if the command fails, or if the server logs warnings or does not stop
//! cleanly.
#![expect(clippy::print_stderr, reason = "a command-line tool")]

use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Parser;
use ferrospike_tests::security::{ADMIN, command, field, login, names, result_of};
use ferrospike_tests::server::{BASICS, NAMESPACES, Server};
use ferrospike_tests::tls::{Authority, Wish, connect, tls_address};

/// Starts a server, runs a command with its address in ASD_ADDRESS (host:port), and stops the server.
#[derive(Parser)]
struct Arguments {
    /// Let lines of the server's log at WARNING or above pass that contain this
    #[arg(long)]
    allow: Vec<String>,
    /// Start the server with access control and TLS
    #[arg(long)]
    secured: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

/// The name in the server's certificate.
const TLS_NAME: &str = "asd.test";

/// A server with access control and TLS, whose administrator has all rights. Its files are in `folder`.
fn start_secured(folder: &Path) -> Server {
    let authority = Authority::new("tests");
    authority.write_files(folder, &authority.issue(Wish::named(TLS_NAME)));
    let file = |name: &str| folder.join(name).display().to_string();
    let network = format!(
        "network {{\n    tls {TLS_NAME} {{\n        ca-file {}\n        cert-file {}\n        key-file {}\n    }}",
        file("ca.pem"),
        file("cert.pem"),
        file("key.pem")
    );
    let service = format!(
        "service {{\n        tls-address 127.0.0.1\n        tls-port 0\n        tls-name {TLS_NAME}\n        \
         tls-authenticate-client false"
    );
    let basics = BASICS.replacen("network {", &network, 1);
    let (before, behind) = basics.rsplit_once("service {").expect("a context of that name");
    let config = format!("{before}{service}{behind}{NAMESPACES}security {{\n    enable-quotas true\n}}\n");
    let mut server = Server::start(&config);
    server.allow("has the password that everybody knows");
    let mut admin = connect(&authority.client(None), tls_address(&server), TLS_NAME).expect("a connection");
    assert_eq!(login(&mut admin, "admin", ADMIN).0, 0, "the administrator logs in");
    let roles = names(&["read-write-udf", "sys-admin", "data-admin"]);
    let granted = [(field::USER, &b"admin"[..]), (field::ROLES, &roles[..])];
    assert_eq!(result_of(&mut admin, command::GRANT_ROLES, &granted), 0, "the administrator gets rights");
    server
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let files = tempfile::tempdir().expect("a folder");
    let mut server = if arguments.secured { start_secured(files.path()) } else { Server::usual() };
    for text in &arguments.allow {
        server.allow(text);
    }
    let (program, rest) = arguments.command.split_first().expect("clap requires a command");
    let mut command = Command::new(program);
    command.args(rest).env("ASD_ADDRESS", server.address().to_string());
    if arguments.secured {
        command
            .env("ASD_ADDRESS", tls_address(&server).to_string())
            .env("ASD_USER", "admin")
            .env("ASD_PASSWORD", "admin")
            .env("ASD_TLS_NAME", TLS_NAME)
            .env("ASD_TLS_CA", files.path().join("ca.pem"));
    }
    let status = command.status();
    let succeeded = match status {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("with_server: {program}: {error}");
            false
        }
    };
    if !succeeded {
        eprintln!("with_server: the server's log:\n{}", server.log());
    }
    server.stop();
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! `with_server`: runs a command beside a server that is started for it, at `ASD_ADDRESS`, with the usual
//! namespaces. Fails if the command does, or if the server logs warnings or does not stop cleanly.
#![expect(clippy::print_stderr, reason = "a command-line tool")]

use std::process::{Command, ExitCode};

use clap::Parser;
use ferrospike_tests::server::Server;

/// Starts a server, runs a command with its address in ASD_ADDRESS (host:port), and stops the server.
#[derive(Parser)]
struct Arguments {
    /// Let lines of the server's log at WARNING or above pass that contain this
    #[arg(long)]
    allow: Vec<String>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut server = Server::usual();
    for text in &arguments.allow {
        server.allow(text);
    }
    let (program, rest) = arguments.command.split_first().expect("clap requires a command");
    let status = Command::new(program).args(rest).env("ASD_ADDRESS", server.address().to_string()).status();
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

//! The daemon `asd`.

use std::io::Write;
use std::process::ExitCode;

use asd::cli::{MANUAL_PAGE, Options};
use asd::config::Config;
use asd::daemon::run;
use asd::server::Server;
use clap::CommandFactory;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The answer to `--generate` without a document that exists.
const GENERATE_HELP: &str = "error: --generate takes the name of one document: parameters, man, or the name of a shell \
    for its completions, as in\n\n  asd --generate parameters\n";

fn main() -> ExitCode {
    if let Some(code) = cf::manual::answer(std::env::args_os(), Options::command, &MANUAL_PAGE) {
        return code;
    }
    if std::env::args_os().nth(1).is_some_and(|first| first == "--generate") {
        if !std::env::args_os().skip(2).eq(["parameters"]) {
            let _ = std::io::stderr().write_all(GENERATE_HELP.as_bytes());
            return ExitCode::from(1);
        }
        let written = std::io::stdout().write_all(asd::config::reference::markdown().as_bytes());
        return ExitCode::from(u8::from(written.is_err()));
    }
    match Options::from_arguments(std::env::args_os()) {
        Ok(options) => run(&options, start),
        Err(error) => {
            // If the message cannot be printed, the exit code still reports the error.
            let _ = error.print();
            ExitCode::from(u8::from(error.use_stderr()))
        }
    }
}

fn start(config: Config, _options: &Options) -> Result<Server, String> {
    Server::start(config).map_err(|error| error.to_string())
}

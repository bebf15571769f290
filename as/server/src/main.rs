//! The daemon `asd`.

use std::process::ExitCode;

use asd::cli::{MANUAL_PAGE, Options};
use asd::config::Config;
use asd::daemon::run;
use asd::server::Server;
use clap::CommandFactory;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if let Some(code) = cf::manual::answer(std::env::args_os(), Options::command, &MANUAL_PAGE) {
        return code;
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

//! `asbench`, see [`ferrospike_tools::asbench`].

use std::io;
use std::process::ExitCode;

use ferrospike_tools::asbench;

fn main() -> ExitCode {
    if let Some(code) = ferrospike_tools::generated(asbench::command) {
        return code;
    }
    let options = asbench::parse_arguments(std::env::args_os()).unwrap_or_else(|error| error.exit());
    asbench::run(&options, &mut io::stdout().lock(), &mut io::stderr().lock()).unwrap_or(ExitCode::FAILURE)
}

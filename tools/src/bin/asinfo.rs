//! `asinfo`, see [`ferrospike_tools::asinfo`].

use std::io;
use std::process::ExitCode;

use ferrospike_tools::asinfo;

fn main() -> ExitCode {
    if let Some(code) = ferrospike_tools::generated(asinfo::command) {
        return code;
    }
    let options = asinfo::parse_arguments(std::env::args_os()).unwrap_or_else(|error| error.exit());
    asinfo::run(&options, &mut io::stdout().lock(), &mut io::stderr().lock()).unwrap_or(ExitCode::FAILURE)
}

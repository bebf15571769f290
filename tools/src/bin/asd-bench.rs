//! `asd-bench`, see [`ferrospike_tools::compare`].

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use ferrospike_tools::compare;

fn main() -> ExitCode {
    if let Some(code) = ferrospike_tools::generated(compare::Options::command) {
        return code;
    }
    let options = compare::Options::parse();
    compare::run(&options, &mut io::stdout().lock(), &mut io::stderr().lock()).unwrap_or(ExitCode::FAILURE)
}

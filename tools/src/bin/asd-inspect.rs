//! `asd-inspect`, see [`ferrospike_tools::inspect`].

use std::io::{self, BufWriter};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use ferrospike_tools::inspect;

fn main() -> ExitCode {
    if let Some(code) = ferrospike_tools::generated(inspect::Options::command) {
        return code;
    }
    let options = inspect::Options::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    inspect::run(&options, &mut out, &mut io::stderr().lock()).unwrap_or(ExitCode::FAILURE)
}

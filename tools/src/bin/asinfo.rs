//! `asinfo`, see [`ferrospike_tools::asinfo`].

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use ferrospike_tools::asinfo;

fn main() -> ExitCode {
    if let Some(code) = ferrospike_tools::generated(asinfo::Options::command) {
        return code;
    }
    let options = asinfo::Options::parse();
    asinfo::run(&options, &mut io::stdout().lock(), &mut io::stderr().lock()).unwrap_or(ExitCode::FAILURE)
}

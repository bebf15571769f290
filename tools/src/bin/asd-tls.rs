//! `asd-tls`, see [`ferrospike_tools::asdtls`].

use std::io;
use std::process::ExitCode;

use clap::Parser;
use ferrospike_tools::asdtls;

fn main() -> ExitCode {
    if let Some(code) = ferrospike_tools::generated(asdtls::command) {
        return code;
    }
    let options = asdtls::Options::parse();
    asdtls::run(&options, &mut io::stdout().lock(), &mut io::stderr().lock()).unwrap_or(ExitCode::FAILURE)
}

//! `asinfo`, see [`ferrospike_tools::asinfo`].

use std::io;
use std::process::ExitCode;

use ferrospike_tools::asinfo;

fn main() -> ExitCode {
    if let Some(code) = ferrospike_tools::generated(asinfo::command) {
        return code;
    }
    let options = match asinfo::parse_arguments(std::env::args_os()) {
        Ok(options) => options,
        Err(error) => {
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    asinfo::run(&options, &mut io::stdout().lock(), &mut io::stderr().lock()).unwrap_or(ExitCode::FAILURE)
}

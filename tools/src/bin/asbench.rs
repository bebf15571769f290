//! `asbench`, see [`ferrospike_tools::asbench`].

use std::io;
use std::process::ExitCode;

use ferrospike_tools::asbench;

fn main() -> ExitCode {
    if let Some(code) = ferrospike_tools::generated(asbench::command) {
        return code;
    }
    let options = match asbench::parse_arguments(std::env::args_os()) {
        Ok(options) => options,
        Err(error) => {
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    asbench::run(&options, &mut io::stdout().lock(), &mut io::stderr().lock()).unwrap_or(ExitCode::FAILURE)
}

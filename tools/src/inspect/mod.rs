//! `asd-inspect`: tells what is on the devices or files of a namespace, without a server and without changing them.
//!
//! Unlike the other tools it shares code with the server: the very readers of header, write blocks and records that
//! decide at start what is loaded. The exit code is 1 when something is damaged or cannot be read.

mod report;
mod scan;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

pub use scan::{Damage, Device, Inspection, Stored};

/// Show what is on the devices or data files of a namespace.
#[derive(Parser, Debug)]
#[command(name = "asd-inspect", version)]
pub struct Options {
    /// Devices or files of one namespace; of several copies of a record the newest counts, wherever it is
    #[arg(required = true, value_name = "DEVICE")]
    pub devices: Vec<PathBuf>,

    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,

    /// List every live record
    #[arg(long)]
    pub records: bool,

    /// Read to the end; otherwise reading ends, as at a start of the server, after ten unused write blocks in a row
    #[arg(long)]
    pub all: bool,
}

/// Inspects and prints.
///
/// # Errors
/// When printing fails.
pub fn run(options: &Options, out: &mut impl Write, errors: &mut impl Write) -> io::Result<ExitCode> {
    let inspection = match Inspection::of(&options.devices, options.all) {
        Ok(inspection) => inspection,
        Err(error) => {
            writeln!(errors, "asd-inspect: {error}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let print = if options.json { report::json } else { report::text };
    print(&inspection, options.records, out)?;
    out.flush()?;
    Ok(if inspection.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

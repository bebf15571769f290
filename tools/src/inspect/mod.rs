//! `asd-inspect`: reports the contents of a namespace's devices or files, or of system metadata files. It
//! needs no server and changes nothing.
//!
//! Unlike the other tools it shares code with the server: the readers of header, write blocks and records,
//! which decide at a start which records are loaded. The exit code is 1 when something is damaged or cannot
//! be read.

mod metadata;
mod report;
mod scan;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use metadata::MetadataFile;

pub use scan::{Damage, Device, Inspection, Lock, Stored};

/// Show the contents of the devices or data files of a namespace, and of files of system metadata.
#[derive(Parser, Debug)]
#[command(name = "asd-inspect", version)]
pub struct Options {
    /// All devices or files of one namespace (of several copies of a record only the newest counts), or files of system
    /// metadata, WORK-DIRECTORY/smd/*.smd
    #[arg(required = true, value_name = "DEVICE")]
    pub devices: Vec<PathBuf>,

    /// File with the key of encrypted devices; without it only their headers are read
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,

    /// Show the hashes of passwords and the keys of sessions in system metadata
    #[arg(long)]
    pub show_secrets: bool,

    /// List every live record
    #[arg(long)]
    pub records: bool,

    /// Read to the end; without this option, reading ends after ten unused write blocks in a row, as when a server starts
    #[arg(long)]
    pub all: bool,
}

/// Inspects and prints.
///
/// # Errors
/// When printing fails.
pub fn run(options: &Options, out: &mut impl Write, errors: &mut impl Write) -> io::Result<ExitCode> {
    let is_metadata = |path: &PathBuf| MetadataFile::is_meant_by(path);
    let (metadata, devices): (Vec<PathBuf>, Vec<PathBuf>) =
        options.devices.iter().cloned().partition(is_metadata);
    let metadata: Vec<_> =
        metadata.iter().map(|path| MetadataFile::read(path, options.show_secrets)).collect();
    let mut is_sound = metadata.iter().all(MetadataFile::is_sound);
    if !options.json {
        metadata.iter().try_for_each(|file| file.text(out))?;
    }
    if devices.is_empty() {
        if options.json {
            report::json_document(&report::with_metadata(serde_json::json!({}), &metadata), out)?;
        }
    } else {
        let inspection = match Inspection::of(&devices, options.all, options.key_file.as_deref()) {
            Ok(inspection) => inspection,
            Err(error) => {
                writeln!(errors, "asd-inspect: {error}")?;
                return Ok(ExitCode::FAILURE);
            }
        };
        if options.json {
            let document = report::json(&inspection, options.records);
            report::json_document(&report::with_metadata(document, &metadata), out)?;
        } else {
            report::text(&inspection, options.records, out)?;
        }
        is_sound &= inspection.is_sound();
    }
    out.flush()?;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

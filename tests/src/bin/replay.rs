//! `replay`: sends recorded requests to a server and prints every difference in its answers.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::fs::File;
use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use ferrospike_tests::corpus;
use ferrospike_tests::replay::{Options, Report, replay};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Replays a recorded corpus against a server that starts empty, with the namespaces `test` and `bar`, and
/// compares the answers. Exit status 0 when every compared answer agrees.
#[derive(Parser)]
struct Arguments {
    /// Corpus files (`.jsonl.gz`), replayed one after the other
    #[arg(required = true)]
    corpora: Vec<PathBuf>,
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// Compare only tests whose name contains this (the rest is still sent)
    #[arg(long, default_value = "")]
    only: String,
    /// With --only: do not send the other tests' requests
    #[arg(long)]
    skip_rest: bool,
    /// Differences to print in full
    #[arg(long, default_value_t = 20)]
    show: usize,
    /// Also send requests that the reference refused with result 25
    #[arg(long)]
    send_refused: bool,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
    /// Milliseconds to wait after a request that takes effect after its answer: truncation, background jobs,
    /// changes of indexes, modules and settings
    #[arg(long, default_value_t = 150)]
    effect_delay: u64,
    /// Write the steps that agree to this corpus
    #[arg(long)]
    save_stable: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("replay: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<bool> {
    let address = (arguments.host.as_str(), arguments.port).to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::other("the host has no address"))?;
    let options = Options {
        only: arguments.only.clone(),
        skip_rest: arguments.skip_rest,
        send_refused: arguments.send_refused,
        timeout: Duration::from_secs_f64(arguments.timeout),
        effect_delay: Duration::from_millis(arguments.effect_delay),
        lost_max: usize::MAX,
        shown_max: arguments.show,
        keep_agreeing: arguments.save_stable.is_some(),
    };
    let mut all_agree = true;
    let mut agreeing = Vec::new();
    for path in &arguments.corpora {
        let start = Instant::now();
        let mut report: Report = replay(corpus::open(path)?, address, &options)?;
        print!("{}", report.in_words());
        println!("{}: {report}, {:.1} s", path.display(), start.elapsed().as_secs_f64());
        all_agree &= report.tally().differ == 0;
        agreeing.append(&mut report.agreeing);
    }
    if let Some(path) = &arguments.save_stable {
        let mut file = GzEncoder::new(File::create(path)?, Compression::best());
        for line in agreeing {
            writeln!(file, "{line}")?;
        }
        file.finish()?;
    }
    Ok(all_agree)
}

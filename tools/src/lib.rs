//! The command-line tools: `asinfo`, `asbench`, `asd-bench`, which compares servers, `asd-inspect` and `asd-tls`.
//!
//! The binaries are a few lines each; the code is in this crate, so that tests can call it. The tools have
//! their own code for the wire protocol and share none with the server, so that a mistake in the server's
//! codec cannot go unnoticed. Only `asd-inspect` shares code, because it reports what the server would read.

#![deny(unsafe_code)]

use std::process::ExitCode;

use cf::manual::{self, Page};

pub mod asbench;
pub mod asdtls;
pub mod asinfo;
pub mod astools;
pub mod compare;
pub mod host;
pub mod info;
pub mod inspect;
pub mod link;
pub mod load;
pub mod login;
pub mod process;
pub mod record;
pub mod redis;
pub mod report;
pub mod tls;
pub mod wall_clock;

/// Prints the man page or completions of a tool if its arguments request them; see [`cf::manual`].
#[must_use]
pub fn generated(command: impl FnOnce() -> clap::Command) -> Option<ExitCode> {
    const PAGE: Page = Page {
        section: "1",
        source: concat!("Ferrospike ", env!("CARGO_PKG_VERSION")),
        see_also: &["asd(8)", "asinfo(1)", "asbench(1)", "asd-inspect(1)", "asd-bench(1)", "asd-tls(1)"],
        licence: env!("CARGO_PKG_LICENSE"),
    };
    manual::answer(std::env::args_os(), command, &PAGE)
}

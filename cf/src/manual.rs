//! Man page and shell completions of a program, generated from the definition of its options.
//!
//! The program prints them if its only arguments are `--generate` and a document: `man`, or the name of a
//! shell. Package builds use it; users do not need it, so the help leaves it out.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// The option that requests a document.
const OPTION: &str = "--generate";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Document {
    ManPage,
    Completions(Shell),
}

/// Facts that the pages of a set of programs share, and the facts of one page.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Section of the manual: 1 for commands, 8 for daemons.
    pub section: &'static str,
    /// Name and version of the project.
    pub source: &'static str,
    /// Other pages, as in `asinfo(1)`.
    pub see_also: &'static [&'static str],
    /// Terms of use, an SPDX expression.
    pub licence: &'static str,
}

/// Prints the document that `arguments` request, if they request one; returns the program's exit code then.
pub fn answer(
    arguments: impl Iterator<Item = OsString>,
    command: impl FnOnce() -> Command,
    page: &Page,
) -> Option<ExitCode> {
    let written = Document::asked(arguments)?.write(command(), page, &mut io::stdout().lock());
    Some(ExitCode::from(u8::from(written.is_err())))
}

impl Document {
    /// The document that `arguments` request; `None` if they request none. The first argument is the
    /// program's name.
    fn asked(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        arguments.next()?;
        if arguments.next()? != OPTION {
            return None;
        }
        let what = arguments.next()?;
        if arguments.next().is_some() {
            return None;
        }
        match what.to_str()? {
            "man" => Some(Document::ManPage),
            shell => shell.parse().ok().map(Document::Completions),
        }
    }

    fn write(self, mut command: Command, page: &Page, out: &mut impl Write) -> io::Result<()> {
        match self {
            Document::ManPage => man_page(command, page, out),
            Document::Completions(shell) => {
                let name = command.get_name().to_owned();
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut command, name, &mut text);
                out.write_all(&text)
            }
        }
    }
}

fn man_page(command: Command, page: &Page, out: &mut impl Write) -> io::Result<()> {
    let more = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let name = command.get_name().to_owned();
    let about = |sub: &Command| (sub.get_name().to_owned(), sub.get_about().map(ToString::to_string));
    let subcommands: Vec<_> = command.get_subcommands().map(about).collect();
    let manual = if page.section == "8" { "System Administration" } else { "User Commands" };
    let man =
        Man::new(command).title(name.to_uppercase()).section(page.section).source(page.source).manual(manual);
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    let mut roff = Roff::new();
    if !subcommands.is_empty() {
        roff.control("SH", ["SUBCOMMANDS"]);
    }
    for (subcommand, about) in subcommands {
        roff.control("TP", []).text([roman(subcommand)]).text([roman(about.unwrap_or_default())]);
    }
    for paragraph in more.split("\n\n") {
        further_section(paragraph, &mut roff);
    }
    let is_other = |page: &&&str| page.split('(').next() != Some(name.as_str());
    let others: Vec<&str> = page.see_also.iter().filter(is_other).copied().collect();
    roff.control("SH", ["SEE ALSO"]).text([roman(others.join(", "))]);
    roff.control("SH", ["COPYING"]).text([roman(format!("Licence: {}", page.licence))]);
    roff.to_writer(out)
}

/// Turns a paragraph of the long help into a section: its first line is the heading, the others are set verbatim.
fn further_section(paragraph: &str, roff: &mut Roff) {
    let Some((heading, lines)) = paragraph.split_once(":\n") else { return };
    roff.control("SH", [heading.to_uppercase().as_str()]).control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
    }
    roff.control("fi", []);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    const PAGE: Page = Page {
        section: "8",
        source: "Examples 1.0",
        see_also: &["other(1)", "demo(8)", "third(5)"],
        licence: "AGPL",
    };

    fn asked(line: &str) -> Option<Document> {
        Document::asked(line.split_whitespace().map(OsString::from))
    }

    fn text_of(document: Document) -> String {
        let arg = Arg::new("config-file").long("config-file").short('f').help("Where it is -- always");
        let command = Command::new("demo")
            .about("Shows something")
            .arg(arg)
            .subcommand(Command::new("again").about("Shows it once more"))
            .after_long_help("Signals:\n  HUP    roll\n  'x'    no request of roff\n\nno section");
        let mut out = Vec::new();
        document.write(command, &PAGE, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_the_two_words_ask() {
        assert_eq!(asked("demo --generate man"), Some(Document::ManPage));
        assert_eq!(asked("demo --generate fish"), Some(Document::Completions(Shell::Fish)));
        for other in ["", "demo", "demo --generate", "demo --generate cmd", "demo -f --generate man"] {
            assert_eq!(asked(other), None, "{other}");
        }
        assert_eq!(asked("demo --generate man page"), None);
    }

    #[test]
    fn the_page_has_its_sections_in_order() {
        let text = text_of(Document::ManPage);
        assert!(text.contains("\n.TH DEMO 8 "), "{text}");
        let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        let expected = [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "SUBCOMMANDS",
            "SIGNALS",
            "\"SEE ALSO\"",
            "COPYING",
        ];
        assert_eq!(sections, expected);
        assert!(text.contains("\n.TP\nagain\nShows it once more\n"), "{text}");
        assert!(text.contains("\nHUP    roll\n") && text.contains("other(1), third(5)"), "{text}");
        assert!(!text.lines().any(|line| line.starts_with('\'')), "read as a request: {text}");
    }

    #[test]
    fn completions_contain_the_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = text_of(Document::Completions(shell));
            assert!(text.contains("config-file") && text.contains("demo"), "{shell}: {text}");
        }
    }
}

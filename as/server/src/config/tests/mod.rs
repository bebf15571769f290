//! Tests of the configuration as a whole.

mod fuzz;
mod golden;
mod messages;
mod obsolete_names;
mod samples;
mod setting;
mod table;

use super::*;

/// The smallest file without a warning, with room for more lines in three contexts.
fn file(service: &str, network: &str, namespace: &str) -> String {
    format!(
        "service {{\ncluster-name c\n{service}\n}}\nnetwork {{\nservice {{\nport 3000\n}}\n{network}\n}}\n\
         namespace test {{\nstorage-engine memory {{\ndata-size 1G\n}}\n{namespace}\n}}\n"
    )
}

/// The configuration of a file that must be valid.
fn parsed(text: &str) -> (Config, Vec<Diagnostic>) {
    parse(text, "t.conf").unwrap_or_else(|found| panic!("{}", lines(&found).join("\n")))
}

/// The messages about a file.
fn said(text: &str) -> Vec<String> {
    match parse(text, "t.conf") {
        Ok((_, found)) | Err(found) => lines(&found),
    }
}

fn lines(found: &[Diagnostic]) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

/// The only message about a file.
fn only(text: &str) -> String {
    let mut said = said(text);
    assert_eq!(said.len(), 1, "{said:#?}");
    said.remove(0)
}

/// The only message about a file with one more line in `service` (line 3).
fn in_service(line: &str) -> String {
    only(&file(line, "", ""))
}

/// The only message about a file with more lines in the namespace (from line 15).
fn in_namespace(lines: &str) -> String {
    only(&file("", "", lines))
}

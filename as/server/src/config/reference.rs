//! The reference of all parameters as Markdown, made from the tables.

use std::fmt::Write;

use super::context::{Argument, CONTEXTS, ContextSpec, default_text};
use super::kind::list_words;
use super::obsolete::{Handling, OBSOLETE};
use super::obsolete_words::{LOG_CONTEXTS, OBSOLETE_VALUES};
use super::spec::{Effect, Spec, variant};

/// The whole reference.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration reference\n\n\
         Sizes take the suffixes K, M, G, T and P, times s, m, h and d. \"Dynamic\" parameters can be changed with \
         set-config while the server runs.\n",
    );
    for context in CONTEXTS {
        section(&mut out, context);
    }
    out.push_str("\n## Names of other versions\n\n| context | name | now |\n|---|---|---|\n");
    for row in OBSOLETE {
        let names: Vec<String> = row.names.iter().map(|name| format!("`{name}`")).collect();
        let now = handling(row.handling);
        line(&mut out, &format!("| {} | {} | {now} |", row.context.path(), names.join(", ")));
    }
    out.push_str("\n## Values of other versions\n\n| context | name | values | now |\n|---|---|---|---|\n");
    for row in OBSOLETE_VALUES {
        let values: Vec<String> = row.values.iter().map(|value| format!("`{value}`")).collect();
        let (context, values) = (row.context.path(), values.join(", "));
        line(&mut out, &format!("| {context} | `{}` | {values} | {} |", row.name, row.advice));
    }
    out.push_str("\n## Log contexts of other versions\n\n| name | now |\n|---|---|\n");
    for (names, now) in LOG_CONTEXTS {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        line(&mut out, &format!("| {} | {} |", names.join(", "), handling(*now)));
    }
    out
}

fn handling(handling: Handling) -> String {
    match handling {
        Handling::Renamed(name) => format!("accepted as `{name}`"),
        Handling::ToNamespaces(name) => format!("accepted as `{name}` of every namespace"),
        Handling::ToStorage(name) => format!("accepted as `{name}` of the storage-engine"),
        Handling::Refused(advice) => format!("refused: {advice}"),
        Handling::Ignored(why) => format!("without effect: {why}"),
        Handling::NewIn(version) => format!("new in {version}, without effect here"),
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn section(out: &mut String, context: &ContextSpec) {
    let argument = match context.argument {
        Argument::None => String::new(),
        Argument::Name(_) => " NAME".to_owned(),
        Argument::OneOf(words) => {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!(" {}", words.join("|"))
        }
    };
    // Writing to a String cannot fail.
    let _ = write!(out, "\n## {}{argument}\n\n{}{}\n", context.path, context.doc, note(context.effect));
    if context.specs.is_empty() {
        return;
    }
    out.push_str("\n| parameter | values | default | dynamic | what it does |\n|---|---|---|---|---|\n");
    for spec in context.specs.iter().filter(|spec| spec.known_to & context.variant != 0) {
        row(out, context, spec);
    }
}

fn row(out: &mut String, context: &ContextSpec, spec: &Spec) {
    let default = default_text(context.kind, spec).unwrap_or_default();
    let dynamic = if spec.dynamic { "yes" } else { "" };
    let mut what = spec.doc.trim().to_owned();
    if let Some(engines) = engines(context, spec) {
        what = format!("{what} Only with {engines}.");
    }
    if context.effect == Effect::Now {
        what.push_str(note(spec.effect));
    }
    if !spec.in_file {
        what.push_str(" Only with set-config, not in the file.");
    }
    let values = spec.kind.allowed();
    line(out, &format!("| `{}` | {values} | {default} | {dynamic} | {what} |", spec.name));
}

/// The variants of a context that know a parameter, if not all do.
fn engines(context: &ContextSpec, spec: &Spec) -> Option<String> {
    let Argument::OneOf(words) = context.argument else { return None };
    if spec.known_to == variant::ALL {
        return None;
    }
    let known: Vec<&str> =
        words.iter().filter(|(_, bits)| spec.known_to & bits != 0).map(|(word, _)| *word).collect();
    Some(list_words(&known))
}

fn note(effect: Effect) -> &'static str {
    match effect {
        Effect::Now => "",
        Effect::Later => " *Not yet in effect.*",
        Effect::Unsupported => " *Accepted, without effect in this server.*",
    }
}

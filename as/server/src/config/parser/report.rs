//! Lines of contexts and parameters in a file, and the diagnostics about it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem::take;
use std::sync::Arc;

use crate::config::diagnostic::{Diagnostic, Severity, Topic};
use crate::config::model::{Engine, Lines};

/// The place outside all contexts, in messages.
pub(in crate::config) const TOP: &str = "the top of the file";

/// Lines of contexts and parameters in the file, and the diagnostics about it.
pub(in crate::config) struct Report {
    file: Arc<str>,
    found: Vec<Diagnostic>,
    errors: usize,
    lines: Lines,
    /// Parameters and contexts that were given, but with a value or name that was refused.
    refused: HashSet<(String, &'static str)>,
    contexts: HashMap<String, usize>,
    later: BTreeSet<String>,
}

impl Report {
    pub(super) fn new(file: &str) -> Self {
        Self {
            file: Arc::from(file),
            found: Vec::new(),
            errors: 0,
            lines: Lines::default(),
            refused: HashSet::new(),
            contexts: HashMap::new(),
            later: BTreeSet::new(),
        }
    }

    /// Number of errors so far.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// Remembers where a parameter was given; returns the line where it was given before.
    pub(super) fn note_line(&mut self, label: &str, name: &'static str, line: usize) -> Option<usize> {
        self.lines.add(label, name, line)
    }

    /// Removes the lines of all parameters from the report and returns them.
    pub(super) fn take_lines(&mut self) -> Lines {
        take(&mut self.lines)
    }

    /// Remembers that a parameter or context was given, but with a value or name that was refused.
    pub(super) fn note_refused(&mut self, label: &str, name: &'static str) {
        self.refused.insert((label.to_owned(), name));
    }

    /// Remembers where a context began; only the first place counts.
    pub(super) fn note_context(&mut self, label: &str, line: usize) {
        self.contexts.entry(label.to_owned()).or_insert(line);
    }

    /// Remembers that something was configured that is not in effect yet.
    pub(super) fn note_later(&mut self, name: String) {
        self.later.insert(name);
    }

    /// All diagnostics in the order of the lines. Errors of rules come last, because other errors may have caused
    /// them. Parameters not in effect yet come after them, in one sentence, and only if there is no error.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        let is_rule = |one: &Diagnostic| one.severity == Severity::Error && one.topic == Topic::Rule;
        self.found.sort_by_key(|one| (is_rule(one), one.line));
        if self.errors == 0 && !self.later.is_empty() {
            let names: Vec<&str> = self.later.iter().map(String::as_str).collect();
            let message = format!("not yet in effect: {}", names.join(", "));
            self.warn(0, Topic::NotInEffect, message);
        }
        self.found
    }

    pub(in crate::config) fn error(&mut self, line: usize, topic: Topic, message: String) {
        self.push(Severity::Error, line, topic, message);
    }

    pub(in crate::config) fn warn(&mut self, line: usize, topic: Topic, message: String) {
        self.push(Severity::Warning, line, topic, message);
    }

    fn push(&mut self, severity: Severity, line: usize, topic: Topic, message: String) {
        self.errors += usize::from(severity == Severity::Error);
        self.found.push(Diagnostic { severity, topic, file: Arc::clone(&self.file), line, message });
    }

    /// Line on which the context called `label` gives parameter `name`.
    pub(in crate::config) fn line_of(&self, label: &str, name: &'static str) -> Option<usize> {
        self.lines.last(label, name)
    }

    /// Whether the context called `label` does not give parameter `name`, not even with a refused value.
    pub(in crate::config) fn is_missing(&self, label: &str, name: &'static str) -> bool {
        self.line_of(label, name).is_none() && !self.was_refused(label, name)
    }

    /// Whether the context called `label` gives a parameter or context `name` that was refused. What follows from its
    /// absence needs no further error.
    pub(in crate::config) fn was_refused(&self, label: &str, name: &'static str) -> bool {
        self.refused.contains(&(label.to_owned(), name))
    }

    /// Whether the name of the context at `path`, or of one around it, was refused, so that its content is unknown.
    pub(in crate::config) fn is_unread(&self, path: &'static str) -> bool {
        match path.rsplit_once('.') {
            Some((outer, name)) => self.was_refused(outer, name) || self.is_unread(outer),
            None => self.was_refused(TOP, path),
        }
    }

    /// The line of the parameter, or else the line on which the context begins, or else 0.
    pub(in crate::config) fn line_near(&self, label: &str, name: &'static str) -> usize {
        self.line_of(label, name).or_else(|| self.contexts.get(label).copied()).unwrap_or(0)
    }

    /// Line on which the context called `label` begins.
    pub(in crate::config) fn line_of_context(&self, label: &str) -> Option<usize> {
        self.contexts.get(label).copied()
    }
}

/// The name of a namespace's storage engine in messages.
pub(in crate::config) fn storage_label(engine: Engine, namespace: &str) -> String {
    format!("storage-engine {} of namespace '{namespace}'", engine.name())
}

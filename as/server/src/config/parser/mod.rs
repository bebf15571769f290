//! Reads a configuration file: statement by statement, driven by the tables of contexts and parameters.
//!
//! All errors of a file are found in one pass. After an error the parser goes on as if the offending
//! statement were not there; after an unknown context its braces are skipped; a forgotten `}` is noticed
//! where a context begins that belongs further out. Pure: no files, no clock, no environment.

mod build;
mod report;

use std::sync::Arc;

pub(super) use self::report::{Report, TOP, storage_label};
use super::context::{Argument, ContextKind, ContextSpec, default_table};
use super::diagnostic::{Diagnostic, Severity, Topic, shown};
use super::kind::{Kind, ValueError, list_words};
use super::lexer::{Item, What, items};
use super::message::{hint, likely_name, value_message};
use super::model::{ClientPorts, Config};
use super::obsolete::{self, Handling};
use super::obsolete_words::{find_log_context, find_value};
use super::params::namespace::SetParams;
use super::spec::{Effect, ParamTable, Spec, find, variant};
use super::suggest::closest;
use super::validate;

/// Number of errors after which parsing stops.
const ERRORS_MAX: usize = 100;

/// Characters that would end a namespace's name in the info protocol.
const NAME_BREAKERS: [char; 3] = [':', ';', '='];

/// Reads the text of a configuration file called `file`.
///
/// # Errors
/// Errors and warnings, in the order of the lines.
pub fn parse(text: &str, file: &str) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut parser = Parser::new(file);
    parser.config.text = text.to_owned();
    parser.run(&items(text));
    parser.finish()
}

/// An open context.
struct Frame {
    kind: ContextKind,
    /// Bits of the context's variant.
    variant: u8,
    /// Its name in messages: "namespace 'test'".
    label: String,
    /// Line of its name.
    line: usize,
    /// Parameters of the set, if it is one.
    set: Option<Arc<SetParams>>,
    /// Its statements are skipped.
    skipped: bool,
}

/// A value of an obsolete parameter that belongs elsewhere.
struct Moved {
    line: usize,
    spec: &'static str,
    words: Vec<String>,
    /// Namespace to which it belongs; all if none.
    namespace: Option<String>,
    from: String,
}

struct Parser {
    config: Config,
    frames: Vec<Frame>,
    moved: Vec<Moved>,
    report: Report,
}

impl Parser {
    fn new(file: &str) -> Self {
        Self {
            config: Config { source: file.to_owned(), ..Config::default() },
            frames: Vec::new(),
            moved: Vec::new(),
            report: Report::new(file),
        }
    }

    fn run(&mut self, items: &[Item<'_>]) {
        let mut index = 0;
        while let Some(item) = items.get(index) {
            if self.report.errors() >= ERRORS_MAX {
                self.report.error(
                    item.line,
                    Topic::Syntax,
                    "too many errors, the rest is not read".to_owned(),
                );
                return;
            }
            index += 1;
            match &item.what {
                What::Words(words) => {
                    if self.words(item.line, words, items.get(index)) {
                        index += 1;
                    }
                }
                What::Open => self.stray_brace(item.line),
                What::Close => self.close(item.line),
            }
        }
        while let Some(frame) = self.frames.pop() {
            if !frame.skipped {
                let message = format!("{} is not closed: no '}}' up to the end of the file", frame.label);
                self.report.error(frame.line, Topic::Syntax, message);
            }
        }
    }

    fn kind(&self) -> ContextKind {
        self.frames.last().map_or(ContextKind::Top, |frame| frame.kind)
    }

    fn label(&self) -> &str {
        self.frames.last().map_or(TOP, |frame| &frame.label)
    }

    fn skipping(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.skipped)
    }

    /// A `{` that no context asked for; its block is skipped.
    fn stray_brace(&mut self, line: usize) {
        if !self.skipping() {
            let message = "'{' does not follow the name of a context".to_owned();
            self.report.error(line, Topic::Syntax, message);
        }
        self.skip_block(line);
    }

    fn skip_block(&mut self, line: usize) {
        let (kind, label) = (self.kind(), self.label().to_owned());
        self.frames.push(Frame { kind, variant: 0, label, line, set: None, skipped: true });
    }

    fn close(&mut self, line: usize) {
        if self.frames.pop().is_none() {
            self.report.error(line, Topic::Syntax, "'}' without an open context".to_owned());
        }
    }

    /// Handles one statement. Returns whether it consumed the next item, a `{`.
    fn words(&mut self, line: usize, words: &[&str], next: Option<&Item<'_>>) -> bool {
        if self.skipping() {
            return false;
        }
        let Some((&name, values)) = words.split_first() else { return false };
        let brace = next.is_some_and(|item| item.what == What::Open);
        self.close_forgotten(line, name, brace);
        if let Some(context) = self.kind().child(name) {
            return self.open(line, context, values, next);
        }
        let bits = self.frames.last().map_or(0, |frame| frame.variant);
        let spec = self.kind().specs().iter().find(|spec| spec.name == name);
        match spec {
            Some(spec) if spec.known_to & bits != 0 && spec.in_file => self.assign(line, spec, values),
            Some(spec) => self.misplaced(line, spec),
            None => self.unknown(line, name, values, brace),
        }
        if brace {
            self.skip_block(line);
        }
        brace
    }

    /// If `name` opens a context further out, reports and closes the contexts up to there, which lack their `}`.
    fn close_forgotten(&mut self, line: usize, name: &str, brace: bool) {
        let kind = self.kind();
        let known_here = kind.child(name).is_some() || kind.specs().iter().any(|spec| spec.name == name);
        if !brace || known_here || obsolete::find(kind, name).is_some() {
            return;
        }
        let outer = self.frames.iter().rposition(|frame| frame.kind.child(name).is_some());
        let keep = match outer {
            Some(index) => index + 1,
            None if ContextKind::Top.child(name).is_some() => 0,
            None => return,
        };
        for frame in self.frames.drain(keep..).rev() {
            let message = format!("{} is not closed: a '}}' is missing before line {line}", frame.label);
            self.report.error(frame.line, Topic::Syntax, message);
        }
    }

    /// Opens the context of that name. Returns whether it consumed the `{` after it.
    fn open(
        &mut self,
        line: usize,
        context: &'static ContextSpec,
        values: &[&str],
        next: Option<&Item<'_>>,
    ) -> bool {
        let brace = next.is_some_and(|item| item.what == What::Open);
        let wanted = usize::from(!matches!(context.argument, Argument::None));
        self.surplus(line, context.word, values, wanted);
        let (argument, bits) = match argument(context, values.first().copied()) {
            Ok(found) => found,
            Err(message) => {
                self.report.error(line, Topic::Value, message);
                let label = self.label().to_owned();
                self.report.note_refused(&label, context.word);
                match values.first() {
                    // The content of a namespace is checked even if its name is invalid.
                    Some(name) if context.kind == ContextKind::Namespace => (*name, context.variant),
                    _ => {
                        if brace {
                            self.skip_block(line);
                        }
                        return brace;
                    }
                }
            }
        };
        let frame = self.enter(line, context, argument, bits);
        let own_word = next.is_some_and(|item| match &item.what {
            What::Words(words) => words.first().is_some_and(|word| {
                context.specs.iter().any(|spec| spec.name == *word && spec.known_to & bits != 0)
            }),
            _ => false,
        });
        let has_block = brace || own_word || !matches!(context.argument, Argument::OneOf(_));
        if has_block {
            if !brace {
                let message = format!("{} has no '{{' after its name", frame.label);
                self.report.warn(line, Topic::Syntax, message);
            }
            self.frames.push(frame);
        }
        brace
    }

    /// Assigns a parameter of the innermost context.
    fn assign(&mut self, line: usize, spec: &'static Spec, values: &[&str]) {
        let words_max = match (self.kind(), self.frames.last().map_or(0, |frame| frame.variant)) {
            (ContextKind::Storage, variant::MEMORY) => 1,
            _ => spec.kind.words_max(),
        };
        let label = self.label().to_owned();
        if let Some(sign @ ("=" | ":")) = values.first().copied() {
            let message =
                format!("'{}' in {label} has a '{sign}' before its value; leave that out", spec.name);
            self.report.error(line, Topic::Syntax, message);
            self.report.note_refused(&label, spec.name);
            return;
        }
        self.surplus(line, spec.name, values, words_max);
        self.quotes(line, spec, values);
        let mut values = values.get(..words_max).unwrap_or(values);
        let present;
        if let (Kind::LogLevels, &[name, level]) = (spec.kind, values)
            && find_log_context(name).is_some()
        {
            let Some(name) = self.old_log_context(line, name) else { return };
            present = [name, level];
            values = &present;
        }
        let outcome = match self.table().and_then(|table| find(table, spec.name)) {
            Some((_, field)) => spec.kind.assign(field, values),
            None => return,
        };
        if let Err(error) = outcome {
            let place = format!("'{}' in {label}", spec.name);
            // A repeated address or seed does no harm.
            if let (ValueError::Duplicate(word), false) = (&error, matches!(spec.kind, Kind::Backings { .. }))
            {
                let message = format!("{place} names '{}' twice; once is enough", shown(word));
                self.report.warn(line, Topic::Rule, message);
                return;
            }
            let message = value_message(self.kind(), spec, &place, &error);
            self.report.error(line, Topic::Value, message);
            self.report.note_refused(&label, spec.name);
            return;
        }
        self.note_effect(line, spec);
        let before = self.report.note_line(&label, spec.name, line);
        if let Some(before) = before.filter(|_| !spec.kind.is_list()) {
            let message =
                format!("'{}' in {label} is already given on line {before}; the last one counts", spec.name);
            self.report.warn(line, Topic::Rule, message);
        }
    }

    /// Remembers that a parameter of the innermost context does nothing.
    fn note_effect(&mut self, line: usize, spec: &'static Spec) {
        let Some(context) = self.kind().spec() else { return };
        match spec.effect.max(context.effect) {
            Effect::Now => {}
            // A value that equals the default needs no warning.
            Effect::Later if self.has_default(spec) => {}
            Effect::Later => {
                self.report.note_later(format!("{}.{}", context.path, spec.name));
            }
            Effect::Unsupported => {
                let message = format!("'{}' has no effect in this server: {}", spec.name, spec.doc.trim());
                self.report.warn(line, Topic::Unsupported, message);
            }
        }
    }

    /// Whether a parameter of the innermost context has its default.
    fn has_default(&self, spec: &'static Spec) -> bool {
        let value = |table: &dyn ParamTable| find(table, spec.name).map(|(_, field)| spec.kind.text(field));
        let default = default_table(self.kind()).and_then(|table| value(&*table));
        self.table().and_then(value) == default
    }

    /// Reports words after the last meaningful one.
    fn surplus(&mut self, line: usize, name: &str, values: &[&str], wanted: usize) {
        if let Some(word) = values.get(wanted) {
            let message = format!("'{}' after '{name}' is ignored", shown(word));
            self.report.warn(line, Topic::Syntax, message);
        }
    }

    /// Quotes have no special meaning, so a value with quotes is most likely a mistake.
    fn quotes(&mut self, line: usize, spec: &Spec, values: &[&str]) {
        let quoted = values.iter().find(|value| value.starts_with(['"', '\'']) && value.len() > 1);
        let is_text = matches!(spec.kind, Kind::Text { .. } | Kind::Texts { .. } | Kind::Backings { .. });
        if let Some(value) = quoted.filter(|_| is_text) {
            let message =
                format!("the quotes around {} become part of '{}'; leave them out", shown(value), spec.name);
            self.report.warn(line, Topic::Syntax, message);
        }
    }

    /// Reports a parameter that this variant of the context does not have.
    fn misplaced(&mut self, line: usize, spec: &'static Spec) {
        let label = self.label();
        let message = if spec.in_file {
            format!("'{}' does not apply to {label}", spec.name)
        } else {
            format!("'{}' can only be set with set-config, not in {label}", spec.name)
        };
        self.report.error(line, Topic::Name, message);
    }

    /// Reports a name that is neither a context nor a parameter here.
    fn unknown(&mut self, line: usize, name: &str, values: &[&str], brace: bool) {
        let kind = self.kind();
        if let Some(handling) = obsolete::find(kind, name) {
            self.obsolete(line, handling, name, values);
            return;
        }
        let what = if brace { "context" } else { "parameter" };
        let place = match kind {
            ContextKind::Top => "at the top of the file".to_owned(),
            _ => format!("in {}", self.label()),
        };
        let variant = self.frames.last().map_or(0, |frame| frame.variant);
        if let Some(meant) = likely_name(kind, variant, name) {
            let label = self.label().to_owned();
            self.report.note_refused(&label, meant);
        }
        let message = format!("unknown {what} '{}' {place}{}", shown(name), hint(kind, variant, name));
        self.report.error(line, Topic::Name, message);
    }

    /// Handles a name of an older or newer version.
    fn obsolete(&mut self, line: usize, handling: Handling, name: &str, values: &[&str]) {
        let from = self.label().to_owned();
        let (spec, target, namespace) = match handling {
            Handling::Refused(advice) => {
                let message = format!("'{name}' in {from} is obsolete: {advice}");
                self.report.error(line, Topic::Obsolete, message);
                return;
            }
            Handling::Ignored(_) | Handling::NewIn(_) => {
                self.passed_over(line, handling, &format!("'{name}' in {from}"));
                return;
            }
            Handling::Renamed(present) => (present, format!("'{present}'"), None),
            Handling::ToNamespaces(present) => (present, format!("'{present}' in each namespace"), None),
            Handling::ToStorage(present) => {
                let namespace = self.config.namespaces.last().map(|namespace| namespace.name.clone());
                (present, format!("'{present}' in storage-engine"), namespace)
            }
        };
        let message = format!("'{name}' in {from} is obsolete, but accepted: write {target} instead");
        self.report.warn(line, Topic::Obsolete, message);
        if let Handling::Renamed(present) = handling {
            if let Some(spec) = self.kind().specs().iter().find(|spec| spec.name == present) {
                self.assign(line, spec, values);
            }
            return;
        }
        self.moved.retain(|other| other.spec != spec || other.namespace != namespace);
        let words = values.iter().map(|&word| word.to_owned()).collect();
        self.moved.push(Moved { line, spec, words, namespace, from: format!("'{name}' in {from}") });
    }

    /// Reports that `what`, of another version, has no effect.
    fn passed_over(&mut self, line: usize, handling: Handling, what: &str) {
        let message = match handling {
            Handling::Ignored(why) => format!("{what} is obsolete and has no effect: {why}"),
            Handling::NewIn(version) => {
                format!("{what} is new in {version} and has no effect here; leave it out")
            }
            _ => return,
        };
        self.report.warn(line, Topic::Obsolete, message);
    }

    /// The present name of a log context of another version, if it has one. Reports how the old name is
    /// handled.
    fn old_log_context(&mut self, line: usize, name: &str) -> Option<&'static str> {
        let what = format!("the log context '{name}' in {}", self.label());
        match find_log_context(name)? {
            Handling::Renamed(present) => {
                let message = format!("{what} is obsolete, but accepted: write '{present}' instead");
                self.report.warn(line, Topic::Obsolete, message);
                Some(present)
            }
            handling => {
                self.passed_over(line, handling, &what);
                None
            }
        }
    }

    /// Assigns the values of obsolete parameters where they belong, unless that place has its own value.
    fn apply_moved(&mut self) {
        for moved in std::mem::take(&mut self.moved) {
            let words: Vec<&str> = moved.words.iter().map(String::as_str).collect();
            let mut failed = None;
            for namespace in &self.config.namespaces {
                let name = shown(&namespace.name);
                let (kind, table, label): (_, &dyn ParamTable, String) = match &moved.namespace {
                    None => (ContextKind::Namespace, &namespace.params, format!("namespace '{name}'")),
                    Some(owner) if *owner == namespace.name => (
                        ContextKind::Storage,
                        &*namespace.storage.params,
                        storage_label(namespace.storage.engine, &name),
                    ),
                    Some(_) => continue,
                };
                let Some((spec, field)) = find(table, moved.spec) else { continue };
                if self.report.line_of(&label, spec.name).is_none()
                    && let Err(error) = spec.kind.assign(field, &words)
                {
                    failed = Some(value_message(kind, spec, &moved.from, &error));
                }
            }
            if let Some(message) = failed {
                self.report.error(moved.line, Topic::Value, message);
            }
        }
    }

    fn finish(mut self) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
        self.apply_moved();
        let has = |name| !self.report.is_missing("network.service", name);
        self.config.network.client_ports = ClientPorts { clear: has("port"), tls: has("tls-port") };
        validate::check(&self.config, &mut self.report);
        self.config.lines = self.report.take_lines();
        let found = self.report.finish();
        if found.iter().any(|one| one.severity == Severity::Error) {
            return Err(found);
        }
        Ok((self.config, found))
    }
}

/// The argument of a context and the bits of the variant it makes, or what is wrong with it.
fn argument<'a>(context: &'static ContextSpec, first: Option<&'a str>) -> Result<(&'a str, u8), String> {
    let word = context.word;
    match (context.argument, first) {
        (Argument::None, _) => Ok(("", context.variant)),
        (Argument::Name(_), None) => Err(format!("'{word}' needs a name before its '{{'")),
        (Argument::Name(size_max), Some(name)) if name.len() > size_max => {
            let name = shown(name);
            Err(format!("the name of {word} '{name}' is too long: at most {size_max} bytes are allowed"))
        }
        (Argument::Name(_), Some(name))
            if context.kind == ContextKind::Namespace && name.contains(NAME_BREAKERS) =>
        {
            let name = shown(name);
            Err(format!("the name of {word} '{name}' has one of : ; = in it, which separate names elsewhere"))
        }
        (Argument::Name(_), Some(name)) => Ok((name, context.variant)),
        (Argument::OneOf(words), first) => {
            words.iter().find(|(word, _)| Some(*word) == first).copied().ok_or_else(|| {
                let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                let names = list_words(&names);
                match first {
                    Some(first) => match find_value(context.parent, word, first) {
                        Some(advice) => format!("'{word}' cannot be '{}' any more: {advice}", shown(first)),
                        None => {
                            let meant = closest(first, words.iter().map(|(word, _)| *word));
                            let hint =
                                meant.map_or_else(String::new, |word| format!(", did you mean '{word}'?"));
                            format!("'{word}' cannot be '{}': it must be {names}{hint}", shown(first))
                        }
                    },
                    None => format!("'{word}' must be followed by {names}"),
                }
            })
        }
    }
}

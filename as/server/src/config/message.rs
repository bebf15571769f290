//! Sentences about names and values that a configuration file gets wrong.

use super::context::{CONTEXTS, ContextKind, default_table, default_text};
use super::diagnostic::shown;
use super::kind::{Kind, ValueError, list_words};
use super::obsolete_words::find_value;
use super::spec::{Spec, find};
use super::suggest::closest;

/// Longest word for which a fix is suggested, in bytes.
const WORD_SIZE_MAX: usize = 40;
/// Units of time as people write them, and the suffixes of the file.
const TIME_UNITS: [(&str, &str); 11] = [
    ("days", "d"),
    ("day", "d"),
    ("hours", "h"),
    ("hour", "h"),
    ("hr", "h"),
    ("minutes", "m"),
    ("minute", "m"),
    ("min", "m"),
    ("seconds", "s"),
    ("second", "s"),
    ("sec", "s"),
];
/// Maximum number of contexts that a hint names.
const PLACES_MAX: usize = 4;

/// The message about a refused value; `place` names parameter and context.
#[must_use]
pub(super) fn value_message(kind: ContextKind, spec: &Spec, place: &str, error: &ValueError) -> String {
    let allowed = || match default_text(kind, spec) {
        Some(demand) if demand.starts_with("must be given") => spec.kind.allowed(),
        Some(default) => format!("{} (default: {default})", spec.kind.allowed()),
        None => spec.kind.allowed(),
    };
    match error {
        ValueError::Missing => format!("{place} needs a value: {}", allowed()),
        ValueError::NotAllowed { word, suggestion } => {
            if let Some(advice) = find_value(kind, spec.name, word) {
                return format!("{place} cannot be '{}' any more: {advice}", shown(word));
            }
            let meant = suggestion.map(str::to_owned).or_else(|| likely_value(kind, spec, word));
            let hint = meant.map_or_else(String::new, |word| format!(", did you mean '{word}'?"));
            format!("{place} cannot be '{}': it must be {}{hint}", shown(word), allowed())
        }
        ValueError::Duplicate(word) => format!("{place} names '{}' twice", shown(word)),
        ValueError::TooMany(max) => format!("{place} is given on more than {max} lines"),
    }
}

/// The value that `word` likely means, with a common slip corrected, if that value is allowed.
fn likely_value(kind: ContextKind, spec: &Spec, word: &str) -> Option<String> {
    if word.len() > WORD_SIZE_MAX {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let bare = word.trim_matches([';', ',', '"', '\'', '=']).to_owned();
    let unit = ["ib", "b"].iter().find_map(|unit| lower.strip_suffix(unit)).map(str::to_ascii_uppercase);
    let time = TIME_UNITS
        .iter()
        .find_map(|(unit, suffix)| lower.strip_suffix(unit).map(|number| format!("{number}{suffix}")));
    let is_in_milliseconds = spec.doc.trim_start().starts_with("Milliseconds");
    let unit_of_its_own =
        word.strip_suffix('%').or_else(|| lower.strip_suffix("ms").filter(|_| is_in_milliseconds));
    let digits = Some(word.replace(['_', ','], ""));
    let switch = match lower.as_str() {
        "on" | "1" | "enable" | "enabled" => Some("true".to_owned()),
        "off" | "0" | "disable" | "disabled" => Some("false".to_owned()),
        _ => None,
    };
    let table = default_table(kind)?;
    let (_, field) = find(&*table, spec.name)?;
    if let (Kind::Endpoints { .. }, Some((host, port))) = (spec.kind, word.split_once(':')) {
        return spec.kind.assign(field, &[host, port]).is_ok().then(|| format!("{host} {port}"));
    }
    let unit_of_its_own = unit_of_its_own.map(str::to_owned);
    [Some(lower), Some(bare), unit, time, unit_of_its_own, digits, switch]
        .into_iter()
        .flatten()
        .filter(|candidate| !candidate.is_empty() && candidate != word)
        .find(|candidate| spec.kind.assign(field, &[candidate]).is_ok())
}

/// The end of a sentence that suggests what was meant by `name`, which is unknown in `kind`.
#[must_use]
pub(super) fn hint(kind: ContextKind, variant: u8, name: &str) -> String {
    if let Some((left, right)) = name.split_once(['=', ':'])
        && kind.specs().iter().any(|spec| spec.name == left)
        && right.len() <= WORD_SIZE_MAX
    {
        return format!(", did you mean '{left} {}'?", if right.is_empty() { "…" } else { right });
    }
    let places = places_of(name);
    if !places.is_empty() {
        return format!("; it belongs in {}", list_words(places.get(..PLACES_MAX).unwrap_or(&places)));
    }
    if let Some(meant) = likely_name(kind, variant, name) {
        return format!(", did you mean '{meant}'?");
    }
    let elsewhere = CONTEXTS.iter().flat_map(|context| {
        context.specs.iter().filter(|spec| spec.in_file).map(|spec| spec.name).chain([context.word])
    });
    match closest(name, elsewhere) {
        Some(meant) => {
            let places = places_of(meant);
            let places = places.get(..PLACES_MAX).unwrap_or(&places);
            format!(", did you mean '{meant}' in {}?", list_words(places))
        }
        None => String::new(),
    }
}

/// The context or parameter of `kind` that `name` likely means.
#[must_use]
pub(super) fn likely_name(kind: ContextKind, variant: u8, name: &str) -> Option<&'static str> {
    let here = kind.specs().iter().filter(|spec| spec.known_to & variant != 0 && spec.in_file);
    closest(name, kind.children().map(|context| context.word).chain(here.map(|spec| spec.name)))
}

/// The contexts that know a parameter or context called `name`.
fn places_of(name: &str) -> Vec<&'static str> {
    let with_parameter = CONTEXTS
        .iter()
        .filter(|context| context.specs.iter().any(|spec| spec.name == name && spec.in_file))
        .map(|context| context.path);
    let with_context =
        CONTEXTS.iter().filter(|context| context.word == name).map(|context| context.parent.path());
    let mut places: Vec<&str> = with_parameter.chain(with_context).collect();
    places.dedup();
    places
}

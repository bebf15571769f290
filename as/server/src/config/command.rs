//! The info commands `get-config` and `set-config`, from the text of their parameters to their answers.

use super::model::Config;
use super::render;
use super::set::{ParameterChange, ParameterScope, SetConfigError, set};

/// Parameters that say where a setting belongs; they are not settings themselves.
const PLACES: [&str; 4] = ["context", "namespace", "id", "set"];

/// The value of `name` in `name=value;name=value`; the first one counts.
fn param<'a>(params: &'a str, name: &str) -> Option<&'a str> {
    pairs(params).find(|(other, _)| *other == name).map(|(_, value)| value)
}

fn pairs(params: &str) -> impl Iterator<Item = (&str, &str)> {
    params.split(';').filter_map(|pair| pair.split_once('='))
}

/// The value of a parameter that must be present and not empty, or the error to answer.
fn required<'a>(value: Option<&'a str>, name: &str, code: u8) -> Result<&'a str, String> {
    match value {
        None => Err(format!("ERROR:{code}:missing '{name}'")),
        Some("") => Err(format!("ERROR:{code}:missing '{name}' value")),
        Some(value) => Ok(value),
    }
}

/// The name of the namespace, under either of its names.
fn namespace_param(params: &str) -> Option<&str> {
    param(params, "namespace").or_else(|| param(params, "id"))
}

/// Answers `get-config:params`.
#[must_use]
pub fn get_config(config: &Config, params: &str) -> String {
    if params.is_empty() {
        return render::all(config);
    }
    let answer = || -> Result<String, String> {
        match required(param(params, "context"), "context", 4)? {
            "service" => Ok(render::service(config)),
            "network" => Ok(render::network(config)),
            "security" => Ok(render::security(config)),
            "xdr" => Ok(String::new()),
            "namespace" => {
                let name = required(namespace_param(params), "namespace", 20)?;
                let namespace = config
                    .namespace(name)
                    .ok_or_else(|| error_text(&SetConfigError::UnknownNamespace(name.to_owned())))?;
                Ok(render::namespace(namespace))
            }
            _ => Err(error_text(&SetConfigError::InvalidContext)),
        }
    };
    answer().unwrap_or_else(|error| error)
}

/// The result of a `set-config`.
#[derive(Debug, PartialEq, Eq)]
pub struct SetOutcome {
    /// The answer: `ok` or an error.
    pub answer: String,
    /// The changes made.
    pub changes: Vec<ParameterChange>,
    /// The reasons of refusals, for the log.
    pub refusal: Option<SetConfigError>,
}

/// Carries out `set-config:params`. Several parameters may be given; the first that is refused ends it. As in
/// the C server, unknown parameters are ignored if at least one is known. `act` is called for each change
/// before another client can make one.
pub fn set_config(config: &Config, params: &str, act: &dyn Fn(&ParameterChange)) -> SetOutcome {
    let mut outcome = SetOutcome { answer: "ok".to_owned(), changes: Vec::new(), refusal: None };
    let place = || -> Result<(&str, Option<&str>), String> {
        let context = required(param(params, "context"), "context", 4)?;
        if context != "namespace" {
            return Ok((context, None));
        }
        Ok((context, Some(required(namespace_param(params), "namespace", 20)?)))
    };
    let (context, namespace) = match place() {
        Ok(place) => place,
        Err(answer) => {
            outcome.answer = answer;
            return outcome;
        }
    };
    let has_set = matches!(context, "namespace" | "security");
    let in_security = |name| param(params, name).filter(|_| context == "security");
    let place = ParameterScope {
        context,
        namespace: namespace.or_else(|| in_security("namespace")),
        set: param(params, "set").filter(|_| has_set),
        role: in_security("role"),
        user: in_security("user"),
    };
    let is_place =
        |name: &str| PLACES.contains(&name) || context == "security" && matches!(name, "role" | "user");
    let mut settings: Vec<_> = pairs(params).filter(|(name, _)| !is_place(name)).collect();
    if settings.is_empty() {
        // The context and the namespace are checked even if there is nothing to set.
        settings.push(("", ""));
    }
    for (name, value) in settings {
        match set(config, place, name, value, act) {
            Ok(change) => outcome.changes.push(change),
            Err(error @ SetConfigError::UnknownParameter(_)) => {
                outcome.refusal.get_or_insert(error);
            }
            Err(error) => {
                outcome.answer = error_text(&error);
                outcome.refusal = Some(error);
                return outcome;
            }
        }
    }
    if let (true, Some(error)) = (outcome.changes.is_empty(), &outcome.refusal) {
        outcome.answer = error_text(error);
    }
    outcome
}

fn error_text(error: &SetConfigError) -> String {
    format!("ERROR:{}:{}", error.code(), error.text())
}

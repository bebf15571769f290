//! Values of parameters that have several parts on a line of the configuration file.

use cf::log::{Context, Level};

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address or name.
    pub host: String,
    pub port: u16,
    /// TLS name to expect there, where one may be given.
    pub tls_name: Option<String>,
}

/// A file or device that holds records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    pub path: String,
    /// Path of a second file or device that gets the same writes.
    pub shadow: Option<String>,
}

/// Name that stands for every context.
pub const ANY_CONTEXT: &str = "any";

/// Names of the levels as files spell them.
pub const LEVEL_NAMES: [&str; 5] = ["critical", "warning", "info", "debug", "detail"];

/// One `context NAME LEVEL` line of a sink. Later rules override earlier ones; before the first, a sink
/// writes only critical lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevelRule {
    /// The context, or none for all.
    pub context: Option<Context>,
    /// The level for it.
    pub level: Level,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_names_are_those_of_the_log() {
        for (name, level) in LEVEL_NAMES.into_iter().zip(Level::ALL) {
            assert_eq!(Level::from_name(name), Some(level));
        }
    }
}

//! The `logging` context in the terms of the log itself.

use cf::log::{Context, Level, Levels, SYSLOG_FACILITIES, Settings, SinkSettings, Target, TimeStyle};

use super::model::{Config, LogSinkConfig, LogSinkKind};
use super::setting::Choices;

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

/// Facility under which syslog files the lines: a position in [`SYSLOG_FACILITIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyslogFacility(u8);

impl SyslogFacility {
    /// The facility for local use that is the default.
    pub const LOCAL0: Self = Self(12);

    /// Its number in the syslog protocol.
    #[must_use]
    pub fn number(self) -> u8 {
        SYSLOG_FACILITIES.get(usize::from(self.0)).map_or(16, |(_, number)| *number)
    }
}

const FACILITY_NAMES: [&str; SYSLOG_FACILITIES.len()] = {
    let mut names = [""; SYSLOG_FACILITIES.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = SYSLOG_FACILITIES[index].0;
        index += 1;
    }
    names
};

impl Choices for SyslogFacility {
    const NAMES: &'static [&'static str] = &FACILITY_NAMES;

    fn index(self) -> u8 {
        self.0
    }

    fn at(index: u8) -> Self {
        Self(index)
    }
}

impl LogSinkConfig {
    /// The sink as the log opens it.
    #[must_use]
    pub fn settings(&self) -> SinkSettings {
        let mut levels = Levels::all(Level::Critical);
        for rule in self.params.context.get() {
            levels.set(rule.context, rule.level);
        }
        let target = match &self.kind {
            LogSinkKind::Console => Target::Console,
            LogSinkKind::File(path) => Target::File(path.into()),
            LogSinkKind::Syslog => Target::Syslog {
                path: self.params.path.get_or_empty().as_ref().into(),
                tag: self.params.tag.get_or_empty().to_string(),
                facility: self.params.facility.get().number(),
            },
        };
        SinkSettings { target, levels }
    }
}

impl Config {
    /// What the log needs to know.
    #[must_use]
    pub fn log_settings(&self) -> Settings {
        let time_style =
            TimeStyle { local: self.service.log_local_time.get(), millis: self.service.log_millis.get() };
        Settings { sinks: self.logging.iter().map(LogSinkConfig::settings).collect(), time_style }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local0_is_where_it_is_said_to_be() {
        assert_eq!(SyslogFacility::NAMES[usize::from(SyslogFacility::LOCAL0.index())], "local0");
        assert_eq!(SyslogFacility::LOCAL0.number(), 16);
    }

    #[test]
    fn level_names_are_those_of_the_log() {
        for (name, level) in LEVEL_NAMES.into_iter().zip(Level::ALL) {
            assert_eq!(Level::from_name(name), Some(level));
        }
    }
}

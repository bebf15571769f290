//! Parameters of the `logging` and `mod-lua` contexts.

use cf::log::SYSLOG_FACILITIES;

use crate::config::setting::{Choice, Choices, Flag, List, Text};
use crate::config::spec::variant::SYSLOG;
use crate::config::spec::{boolean, choice, log_levels, params, short_text, text};
use crate::config::value::LogLevelRule;

params! {
    /// A `console`, `file` or `syslog` context in `logging`: one sink of log lines.
    pub struct LogSinkParams {
        /// A log context (or any) and the least severity written; may be repeated.
        context: List<LogLevelRule> = [], log_levels("context").note("any critical");
        /// Facility under which syslog files the lines.
        facility: Choice<SyslogFacility> = SyslogFacility::LOCAL0,
            choice::<SyslogFacility>("facility").only(SYSLOG);
        /// Socket of syslog.
        path: Text = Some("/dev/log"), text("path").only(SYSLOG);
        /// Name with which syslog marks the lines.
        tag: Text = Some("asd"), text("tag").only(SYSLOG);
    }
}

params! {
    /// The `mod-lua` context: user-defined functions.
    pub struct ModLuaParams {
        /// Keeps Lua states between calls.
        cache_enabled: Flag = true, boolean("cache-enabled");
        /// Directory of the registered Lua modules.
        user_path: Text = Some("/opt/aerospike/usr/udf/lua"), short_text("user-path", 255);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local0_is_at_its_documented_position() {
        assert_eq!(SyslogFacility::NAMES[usize::from(SyslogFacility::LOCAL0.index())], "local0");
        assert_eq!(SyslogFacility::LOCAL0.number(), 16);
    }
}

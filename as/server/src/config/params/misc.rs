//! Parameters of the `logging` and `mod-lua` contexts.

use crate::config::logging::{LogLevelRule, SyslogFacility};
use crate::config::setting::{Choice, Flag, List, Text};
use crate::config::spec::variant::SYSLOG;
use crate::config::spec::{boolean, choice, log_levels, params, short_text, text};

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

//! Converts the `logging` context to the settings of the log.

use cf::log::{Level, Levels, Settings, SinkSettings, Target, TimeStyle};

use super::model::{Config, LogSinkConfig, LogSinkKind};

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
    #[must_use]
    pub fn log_settings(&self) -> Settings {
        let time_style =
            TimeStyle { local: self.service.log_local_time.get(), millis: self.service.log_millis.get() };
        Settings { sinks: self.logging.iter().map(LogSinkConfig::settings).collect(), time_style }
    }
}

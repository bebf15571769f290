//! Contexts and levels of log lines.
//!
//! Names and their order are those of `log/<sink>`, `log-set` and the `context` lines of a configuration
//! file; both are part of the info protocol and do not change.

/// Declares [`Context`] and its names from one table.
macro_rules! contexts {
    ($($variant:ident $name:literal,)+) => {
        /// The part of the server that a line comes from. Every sink has a level for each context.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Context {
            $(#[doc = concat!("`", $name, "`")] $variant,)+
        }

        pub const CONTEXT_COUNT: usize = [$($name),+].len();

        impl Context {
            /// All contexts, in the order the info protocol lists them.
            pub const ALL: [Context; CONTEXT_COUNT] = [$(Context::$variant),+];

            const NAMES: [&'static str; CONTEXT_COUNT] = [$($name),+];
        }
    };
}

contexts! {
    Misc "misc",
    Alloc "alloc",
    Arenax "arenax",
    Hardware "hardware",
    Msg "msg",
    Os "os",
    Secrets "secrets",
    Socket "socket",
    Tls "tls",
    Vault "vault",
    Vmapx "vmapx",
    Xmem "xmem",
    Aggr "aggr",
    Appeal "appeal",
    As "as",
    Audit "audit",
    Batch "batch",
    BatchSub "batch-sub",
    Bin "bin",
    Config "config",
    Clustering "clustering",
    DrvMem "drv-mem",
    DrvPmem "drv_pmem",
    DrvSsd "drv_ssd",
    Exchange "exchange",
    Exp "exp",
    Fabric "fabric",
    Flat "flat",
    Geo "geo",
    Hb "hb",
    Health "health",
    Hlc "hlc",
    Index "index",
    Info "info",
    InfoCommand "info-command",
    InfoPort "info-port",
    KeyBusy "key-busy",
    Migrate "migrate",
    MrtAudit "mrt-audit",
    MrtMonitor "mrt-monitor",
    Namespace "namespace",
    Nsup "nsup",
    Particle "particle",
    Partition "partition",
    Proto "proto",
    Proxy "proxy",
    ProxyDivert "proxy-divert",
    Query "query",
    Record "record",
    Roster "roster",
    Rw "rw",
    RwClient "rw-client",
    Security "security",
    Service "service",
    ServiceList "service-list",
    Sindex "sindex",
    Skew "skew",
    Smd "smd",
    Storage "storage",
    Truncate "truncate",
    Tsvc "tsvc",
    Udf "udf",
    Xdr "xdr",
    XdrClient "xdr-client",
}

impl Context {
    /// The name in lines, in the configuration file and in the info protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The context called `name`, in upper or lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|context| context.name().eq_ignore_ascii_case(name))
    }
}

/// The severity of a line. A sink writes the lines of a context up to its level for the context.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// The server is about to end. Every sink writes such lines.
    Critical,
    /// An operator should examine it.
    Warning,
    /// The activity of the server, at a rate that a person can read.
    Info,
    /// For developers of the server.
    Debug,
    /// Every detail, up to one line per record.
    Detail,
}

impl Level {
    /// All levels, most severe first.
    pub const ALL: [Level; 5] = [Level::Critical, Level::Warning, Level::Info, Level::Debug, Level::Detail];

    /// The name in lines and in the info protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Level::Critical => "CRITICAL",
            Level::Warning => "WARNING",
            Level::Info => "INFO",
            Level::Debug => "DEBUG",
            Level::Detail => "DETAIL",
        }
    }

    /// The level called `name`, in upper or lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name))
    }

    /// The level for the byte `level as u8`; any other byte gives the most verbose level.
    #[must_use]
    pub(super) fn from_byte(byte: u8) -> Self {
        Self::ALL.get(usize::from(byte)).copied().unwrap_or(Level::Detail)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Levels([Level; CONTEXT_COUNT]);

impl Levels {
    /// The same level for all contexts.
    #[must_use]
    pub const fn all(level: Level) -> Self {
        Levels([level; CONTEXT_COUNT])
    }

    #[must_use]
    pub const fn get(&self, context: Context) -> Level {
        self.0[context as usize]
    }

    /// Sets the level of `context`, or with `None` (the word `any`) of all contexts.
    pub fn set(&mut self, context: Option<Context>, level: Level) {
        match context {
            Some(context) => self.0[context as usize] = level,
            None => self.0 = [level; CONTEXT_COUNT],
        }
    }

    /// Applies a line `context <name> <level>` of a configuration file, where `any` names all contexts.
    ///
    /// # Errors
    /// The error says which of the two words is unknown.
    pub fn set_by_name(&mut self, context: &str, level: &str) -> Result<(), SetLevelError> {
        let level = Level::from_name(level).ok_or(SetLevelError::UnknownLevel)?;
        if context.eq_ignore_ascii_case("any") {
            self.set(None, level);
        } else {
            self.set(Some(Context::from_name(context).ok_or(SetLevelError::UnknownContext)?), level);
        }
        Ok(())
    }
}

/// The reason why a level could not be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetLevelError {
    /// No sink has this number.
    UnknownSink,
    /// No context has this name.
    UnknownContext,
    /// No level has this name.
    UnknownLevel,
}

impl std::fmt::Display for SetLevelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SetLevelError::UnknownSink => "no log sink has this id",
            SetLevelError::UnknownContext => "no log context has this name",
            SetLevelError::UnknownLevel => "the log levels are critical, warning, info, debug and detail",
        })
    }
}

impl std::error::Error for SetLevelError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_context_and_level() {
        for context in Context::ALL {
            assert_eq!(Context::from_name(context.name()), Some(context));
            assert_eq!(Context::from_name(&context.name().to_uppercase()), Some(context));
        }
        for level in Level::ALL {
            assert_eq!(Level::from_name(&level.name().to_lowercase()), Some(level));
            assert_eq!(Level::from_byte(level as u8), level);
        }
        assert_eq!(Context::from_name("any"), None);
        assert_eq!(Level::from_name(""), None);
    }

    #[test]
    fn the_list_is_the_one_tools_know() {
        assert_eq!(CONTEXT_COUNT, 64);
        assert_eq!(Context::DrvMem.name(), "drv-mem");
        assert_eq!(Context::DrvSsd.name(), "drv_ssd");
        assert_eq!(Context::ALL[0].name(), "misc");
        assert_eq!(Context::ALL[63].name(), "xdr-client");
    }

    #[test]
    fn levels_are_set_one_by_one_or_all_at_once() {
        let mut levels = Levels::all(Level::Critical);
        levels.set_by_name("any", "info").unwrap();
        levels.set_by_name("Service", "DETAIL").unwrap();
        assert_eq!(levels.get(Context::Hb), Level::Info);
        assert_eq!(levels.get(Context::Service), Level::Detail);
        assert_eq!(levels.set_by_name("serwice", "info"), Err(SetLevelError::UnknownContext));
        assert_eq!(levels.set_by_name("service", "verbose"), Err(SetLevelError::UnknownLevel));
    }
}

//! The contexts of a configuration file: their nesting, the words after their name, and their parameter tables.

use super::kind::{Kind, size_text};
use super::model::{NAMESPACE_NAME_SIZE_MAX, SET_NAME_SIZE_MAX};
use super::params::misc::{LogSinkParams, ModLuaParams};
use super::params::namespace::{GeoParams, IndexTypeParams, NamespaceParams, SetParams};
use super::params::network::{
    AdminParams, FabricParams, HeartbeatParams, MetricsParams, NetworkInfoParams, NetworkServiceParams,
    TlsParams,
};
use super::params::security::{LdapParams, SecurityLogParams, SecurityParams};
use super::params::service::ServiceParams;
use super::params::storage::StorageParams;
use super::params::xdr::{XdrDcParams, XdrNamespaceParams, XdrParams};
use super::setting::Field;
use super::spec::{Effect, ParamTable, Spec, variant};

/// A context of the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContextKind {
    /// Outside all braces.
    Top,
    /// `service`.
    Service,
    /// `logging`.
    Logging,
    /// `logging.console`.
    Console,
    /// `logging.file`.
    LogFile,
    /// `logging.syslog`.
    Syslog,
    /// `network`.
    Network,
    /// `network.service`.
    NetworkService,
    /// `network.heartbeat`.
    Heartbeat,
    /// `network.fabric`.
    Fabric,
    /// `network.admin`.
    Admin,
    /// `network.info`.
    NetworkInfo,
    /// `network.metrics`.
    Metrics,
    /// `network.tls`.
    Tls,
    /// `namespace`.
    Namespace,
    /// `namespace.set`.
    Set,
    /// `namespace.index-type`.
    IndexType,
    /// `namespace.sindex-type`.
    SindexType,
    /// `namespace.storage-engine`.
    Storage,
    /// `namespace.geo2dsphere-within`.
    Geo,
    /// `mod-lua`.
    ModLua,
    /// `security`.
    Security,
    /// `security.ldap`.
    Ldap,
    /// `security.log`.
    SecurityLog,
    /// `xdr`.
    Xdr,
    /// `xdr.dc`.
    XdrDc,
    /// `xdr.dc.namespace`.
    XdrNamespace,
}

/// The words that follow the name of a context.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// Nothing.
    None,
    /// A name of at most that many bytes.
    Name(usize),
    /// One of these words; the bits are the variant of the context that the word selects.
    OneOf(&'static [(&'static str, u8)]),
}

/// One row of [`CONTEXTS`].
#[derive(Debug)]
pub struct ContextSpec {
    pub kind: ContextKind,
    /// The context it stands in.
    pub parent: ContextKind,
    /// Its word in the file.
    pub word: &'static str,
    /// Its name, after the names of the contexts around it.
    pub path: &'static str,
    /// The words that follow its name.
    pub argument: Argument,
    /// Bits of its variant, if the argument does not select one.
    pub variant: u8,
    /// Prefix of its parameters in get-config.
    pub get_prefix: &'static str,
    /// Prefix of its parameters in set-config.
    pub set_prefix: &'static str,
    /// Upper limit of the effect of its parameters.
    pub effect: Effect,
    /// Only the Enterprise Edition of the C server has it.
    pub enterprise: bool,
    /// Its parameters.
    pub specs: &'static [Spec],
    /// One sentence for the reference.
    pub doc: &'static str,
}

/// Media that an `index-type` or `sindex-type` line may name.
const INDEX_MEDIA: &[(&str, u8)] = &[("shmem", 0), ("pmem", variant::PMEM), ("flash", variant::FLASH)];

const fn row(
    kind: ContextKind,
    parent: ContextKind,
    word: &'static str,
    path: &'static str,
    specs: &'static [Spec],
    doc: &'static str,
) -> ContextSpec {
    ContextSpec {
        kind,
        parent,
        word,
        path,
        argument: Argument::None,
        variant: variant::ALL,
        get_prefix: "",
        set_prefix: "",
        effect: Effect::Now,
        enterprise: false,
        specs,
        doc,
    }
}

impl ContextSpec {
    const fn named(mut self, size_max: usize) -> Self {
        self.argument = Argument::Name(size_max);
        self
    }

    const fn one_of(mut self, words: &'static [(&'static str, u8)]) -> Self {
        self.argument = Argument::OneOf(words);
        self
    }

    const fn variant(mut self, bits: u8) -> Self {
        self.variant = bits;
        self
    }

    const fn prefixes(mut self, get: &'static str, set: &'static str) -> Self {
        self.get_prefix = get;
        self.set_prefix = set;
        self
    }

    const fn later(mut self) -> Self {
        self.effect = Effect::Later;
        self
    }

    const fn enterprise(mut self) -> Self {
        self.enterprise = true;
        self
    }
}

/// Every context except the top one, parents before children.
pub static CONTEXTS: &[ContextSpec] = {
    use ContextKind as K;
    &[
        row(K::Service, K::Top, "service", "service", ServiceParams::SPECS, "The process as a whole."),
        row(K::Logging, K::Top, "logging", "logging", &[], "Where log lines go."),
        row(K::Console, K::Logging, "console", "logging.console", LogSinkParams::SPECS, "Standard error.")
            .variant(variant::PLAIN_SINK),
        row(K::LogFile, K::Logging, "file", "logging.file", LogSinkParams::SPECS, "A log file.")
            .named(usize::MAX)
            .variant(variant::PLAIN_SINK),
        row(K::Syslog, K::Logging, "syslog", "logging.syslog", LogSinkParams::SPECS, "The system's log.")
            .variant(variant::SYSLOG),
        row(K::Network, K::Top, "network", "network", &[], "Where the server listens."),
        row(
            K::NetworkService,
            K::Network,
            "service",
            "network.service",
            NetworkServiceParams::SPECS,
            "Client connections.",
        )
        .prefixes("service.", "service."),
        row(
            K::Heartbeat,
            K::Network,
            "heartbeat",
            "network.heartbeat",
            HeartbeatParams::SPECS,
            "How nodes find each other.",
        )
        .prefixes("heartbeat.", "heartbeat."),
        row(
            K::Fabric,
            K::Network,
            "fabric",
            "network.fabric",
            FabricParams::SPECS,
            "Messages between nodes.",
        )
        .prefixes("fabric.", "fabric."),
        row(
            K::NetworkInfo,
            K::Network,
            "info",
            "network.info",
            NetworkInfoParams::SPECS,
            "A port for info requests in plain text.",
        )
        .prefixes("info.", "info."),
        row(
            K::Metrics,
            K::Network,
            "metrics",
            "network.metrics",
            MetricsParams::SPECS,
            "Figures for Prometheus over HTTP.",
        )
        .prefixes("metrics.", "metrics."),
        row(
            K::Admin,
            K::Network,
            "admin",
            "network.admin",
            AdminParams::SPECS,
            "One more port for clients, that of operators.",
        )
        .prefixes("admin.", "admin."),
        row(K::Tls, K::Network, "tls", "network.tls", TlsParams::SPECS, "A certificate with its key.")
            .named(usize::MAX)
            .enterprise(),
        row(
            K::Namespace,
            K::Top,
            "namespace",
            "namespace",
            NamespaceParams::SPECS,
            "A database with its own storage and policies.",
        )
        .named(NAMESPACE_NAME_SIZE_MAX),
        row(K::Set, K::Namespace, "set", "namespace.set", SetParams::SPECS, "A set of records.")
            .named(SET_NAME_SIZE_MAX),
        row(
            K::IndexType,
            K::Namespace,
            "index-type",
            "namespace.index-type",
            IndexTypeParams::SPECS,
            "Where the primary index lives; in memory without this context.",
        )
        .one_of(INDEX_MEDIA)
        .prefixes("index-type.", "index-type.")
        .later()
        .enterprise(),
        row(
            K::SindexType,
            K::Namespace,
            "sindex-type",
            "namespace.sindex-type",
            IndexTypeParams::SPECS,
            "Where secondary indexes live; in memory without this context.",
        )
        .one_of(INDEX_MEDIA)
        .prefixes("sindex-type.", "sindex-type.")
        .later()
        .enterprise(),
        row(
            K::Storage,
            K::Namespace,
            "storage-engine",
            "namespace.storage-engine",
            StorageParams::SPECS,
            "Where records live; every namespace has exactly one.",
        )
        .one_of(&super::params::storage::ENGINES)
        .prefixes("storage-engine.", ""),
        row(
            K::Geo,
            K::Namespace,
            "geo2dsphere-within",
            "namespace.geo2dsphere-within",
            GeoParams::SPECS,
            "How regions are covered by cells.",
        )
        .prefixes("geo2dsphere-within.", "geo2dsphere-within-")
        .later(),
        row(K::ModLua, K::Top, "mod-lua", "mod-lua", ModLuaParams::SPECS, "User-defined functions."),
        row(
            K::Security,
            K::Top,
            "security",
            "security",
            SecurityParams::SPECS,
            "Access control, which this context enables.",
        )
        .enterprise(),
        row(
            K::Ldap,
            K::Security,
            "ldap",
            "security.ldap",
            LdapParams::SPECS,
            "Users and roles from a directory.",
        )
        .prefixes("ldap.", "ldap.")
        .later()
        .enterprise(),
        row(
            K::SecurityLog,
            K::Security,
            "log",
            "security.log",
            SecurityLogParams::SPECS,
            "What the audit log reports.",
        )
        .prefixes("log.", "log.")
        .enterprise(),
        row(K::Xdr, K::Top, "xdr", "xdr", XdrParams::SPECS, "Replication to other data centres.")
            .later()
            .enterprise(),
        row(K::XdrDc, K::Xdr, "dc", "xdr.dc", XdrDcParams::SPECS, "Another data centre.")
            .named(31)
            .later()
            .enterprise(),
        row(
            K::XdrNamespace,
            K::XdrDc,
            "namespace",
            "xdr.dc.namespace",
            XdrNamespaceParams::SPECS,
            "The data of a namespace that is shipped.",
        )
        .named(NAMESPACE_NAME_SIZE_MAX)
        .later()
        .enterprise(),
    ]
};

impl ContextKind {
    /// The row of the context; `None` for the top.
    #[must_use]
    pub fn spec(self) -> Option<&'static ContextSpec> {
        CONTEXTS.iter().find(|context| context.kind == self)
    }

    /// The context called `word` that may stand in this one.
    #[must_use]
    pub fn child(self, word: &str) -> Option<&'static ContextSpec> {
        self.children().find(|context| context.word == word)
    }

    /// The contexts that may stand in this one.
    pub fn children(self) -> impl Iterator<Item = &'static ContextSpec> {
        CONTEXTS.iter().filter(move |context| context.parent == self)
    }

    /// The parameters of the context.
    #[must_use]
    pub fn specs(self) -> &'static [Spec] {
        self.spec().map_or(&[], |context| context.specs)
    }

    /// The name of the context with those around it.
    #[must_use]
    pub fn path(self) -> &'static str {
        self.spec().map_or("the top of the file", |context| context.path)
    }
}

/// A table of the context's parameters with their defaults.
#[must_use]
pub fn default_table(kind: ContextKind) -> Option<Box<dyn ParamTable>> {
    fn made<T: ParamTable + Default + 'static>() -> Option<Box<dyn ParamTable>> {
        Some(Box::new(T::default()))
    }
    match kind {
        ContextKind::Top | ContextKind::Logging | ContextKind::Network => None,
        ContextKind::Service => made::<ServiceParams>(),
        ContextKind::Console | ContextKind::LogFile | ContextKind::Syslog => made::<LogSinkParams>(),
        ContextKind::NetworkService => made::<NetworkServiceParams>(),
        ContextKind::Heartbeat => made::<HeartbeatParams>(),
        ContextKind::Fabric => made::<FabricParams>(),
        ContextKind::Admin => made::<AdminParams>(),
        ContextKind::NetworkInfo => made::<NetworkInfoParams>(),
        ContextKind::Metrics => made::<MetricsParams>(),
        ContextKind::Tls => made::<TlsParams>(),
        ContextKind::Namespace => made::<NamespaceParams>(),
        ContextKind::Set => made::<SetParams>(),
        ContextKind::IndexType | ContextKind::SindexType => made::<IndexTypeParams>(),
        ContextKind::Storage => made::<StorageParams>(),
        ContextKind::Geo => made::<GeoParams>(),
        ContextKind::ModLua => made::<ModLuaParams>(),
        ContextKind::Security => made::<SecurityParams>(),
        ContextKind::Ldap => made::<LdapParams>(),
        ContextKind::SecurityLog => made::<SecurityLogParams>(),
        ContextKind::Xdr => made::<XdrParams>(),
        ContextKind::XdrDc => made::<XdrDcParams>(),
        ContextKind::XdrNamespace => made::<XdrNamespaceParams>(),
    }
}

/// The default of a parameter as the reference and error messages show it, if there is one to show.
#[must_use]
pub fn default_text(kind: ContextKind, spec: &Spec) -> Option<String> {
    if !spec.default_note.is_empty() {
        return Some(spec.default_note.to_owned());
    }
    let table = default_table(kind)?;
    let (_, field) = super::spec::find(&*table, spec.name)?;
    if let (Kind::Number { bytes: true, .. }, Field::U32(_) | Field::U64(_)) = (spec.kind, field) {
        return spec.kind.text(field).parse().ok().map(size_text);
    }
    Some(spec.kind.text(field)).filter(|text| !text.is_empty() && text != "null")
}

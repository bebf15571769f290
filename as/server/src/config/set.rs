//! set-config: changing a parameter of the running server.
//!
//! A value is first read into a scratch table, then the rules that tie it to other parameters are applied,
//! then the cell is replaced. Changes are made one at a time: each holds the lock of the configuration until
//! the code that acts on it has finished.

use std::fmt;
use std::sync::Arc;

use cf::sys::limits::raise_open_files;

use super::context::{CONTEXTS, ContextKind, ContextSpec, default_table};
use super::kind::{Kind, TTL_NEVER};
use super::message::value_message;
use super::model::{Config, NamespaceConfig};
use super::params::namespace::SetParams;
use super::setting::Field;
use super::spec::{Effect, ParamTable, Spec, find, variant};

/// Descriptors the server needs beside those of clients: files, epolls, peers.
pub const OWN_DESCRIPTORS: u64 = 512;
/// Maximum number of items in each list of what the audit log reports.
const REPORTED_MAX: usize = 4_096;

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterChange {
    /// The context with those around it, such as `network.heartbeat`.
    pub context: &'static str,
    /// The namespace, if it is about one.
    pub namespace: Option<String>,
    /// The set, if it is about one; the live set may still have to be made.
    pub set: Option<String>,
    /// Name of the parameter in its context.
    pub name: &'static str,
    /// The value before.
    pub from: String,
    /// The value now.
    pub to: String,
    /// Whether the parameter has an effect.
    pub effect: Effect,
}

impl fmt::Display for ParameterChange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, &self.set) {
            (Some(namespace), Some(set)) => write!(out, "{{{namespace}|{set}}} ")?,
            (Some(namespace), None) => write!(out, "{{{namespace}}} ")?,
            _ => {}
        }
        write!(out, "{}.{} changed from {} to {}", self.context, self.name, self.from, self.to)?;
        match self.effect {
            Effect::Now => Ok(()),
            Effect::Later => out.write_str(" (not yet in effect)"),
            Effect::Unsupported => out.write_str(" (without effect in this server)"),
        }
    }
}

/// The reason why nothing was changed. The info protocol answers [`Self::code`] and [`Self::text`]; the log
/// shows the displayed form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetConfigError {
    /// There is no such context, or it has nothing to set.
    #[error("set-config knows the contexts service, network and namespace")]
    InvalidContext,
    /// The context needs a namespace and none was given.
    #[error("set-config in the context namespace needs the name of one")]
    MissingNamespace,
    /// There is no such namespace.
    #[error("there is no namespace '{0}' on this node")]
    UnknownNamespace(String),
    /// The context belongs to a part that this server does not have.
    #[error("the context {0} cannot be changed: this server does not have it yet")]
    NotHere(&'static str),
    /// There is no such parameter.
    #[error("there is no parameter '{0}' here")]
    UnknownParameter(String),
    /// The parameter or its value was refused.
    #[error("{0}")]
    Refused(String),
}

impl SetConfigError {
    /// Result code of the info protocol.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::InvalidContext | Self::UnknownParameter(_) | Self::Refused(_) => 4,
            Self::MissingNamespace | Self::UnknownNamespace(_) => 20,
            Self::NotHere(_) => 25,
        }
    }

    /// Text of the info protocol.
    #[must_use]
    pub fn text(&self) -> &'static str {
        match self {
            Self::InvalidContext => "invalid context",
            Self::MissingNamespace => "missing 'namespace'",
            Self::UnknownNamespace(_) => "namespace not found on node",
            Self::NotHere(_) => "enterprise only",
            Self::UnknownParameter(_) | Self::Refused(_) => "invalid set-config parameter",
        }
    }
}

/// Sets the parameter that set-config calls `name` to a new value.
///
/// `context` is `service`, `network` or `namespace`; the latter needs `namespace`. With `set`, the parameter
/// is one of that set, which is created if it does not exist. `act` is called before another change can be
/// made, so that its effects follow the order of the changes.
///
/// # Errors
/// The reason of the refusal; nothing is changed then.
pub fn set(
    config: &Config,
    place: ParameterScope<'_>,
    name: &str,
    value: &str,
    act: &dyn Fn(&ParameterChange),
) -> Result<ParameterChange, SetConfigError> {
    let _one_at_a_time = config.changes.lock();
    let change = set_locked(config, place, name, value)?;
    act(&change);
    Ok(change)
}

/// The place in which [`set`] finds the parameter.
#[derive(Clone, Copy)]
pub struct ParameterScope<'a> {
    /// `service`, `network`, `namespace` or `security`.
    pub context: &'a str,
    /// The namespace.
    pub namespace: Option<&'a str>,
    /// The set of the namespace.
    pub set: Option<&'a str>,
    /// The role whose operations the audit log is to report.
    pub role: Option<&'a str>,
    /// The user whose operations the audit log is to report.
    pub user: Option<&'a str>,
}

fn set_locked(
    config: &Config,
    place: ParameterScope<'_>,
    name: &str,
    value: &str,
) -> Result<ParameterChange, SetConfigError> {
    let ParameterScope { context, namespace, set, .. } = place;
    match context {
        "service" => {
            let target = lookup(config, &[ContextKind::Service], None, name)?;
            target.apply(config, None, None, value)
        }
        "network" => {
            let kinds = [
                ContextKind::NetworkService,
                ContextKind::Heartbeat,
                ContextKind::Fabric,
                ContextKind::NetworkInfo,
            ];
            lookup(config, &kinds, None, name)?.apply(config, None, None, value)
        }
        "namespace" => {
            let wanted = namespace.ok_or(SetConfigError::MissingNamespace)?;
            let namespace = config
                .namespace(wanted)
                .ok_or_else(|| SetConfigError::UnknownNamespace(wanted.to_owned()))?;
            if let Some(set_name) = set {
                return set_of_namespace(config, namespace, set_name, name, value);
            }
            let kinds = [
                ContextKind::Namespace,
                ContextKind::IndexType,
                ContextKind::SindexType,
                ContextKind::Storage,
                ContextKind::Geo,
            ];
            lookup(config, &kinds, Some(namespace), name)?.apply(config, Some(namespace), None, value)
        }
        "security" if config.security.is_some() => {
            if name.strip_prefix("log.").unwrap_or(name).starts_with("report-data-op") {
                return set_reported(config, place, value);
            }
            lookup(config, &[ContextKind::Security, ContextKind::SecurityLog], None, name)?
                .apply(config, None, None, value)
        }
        "security" => Err(SetConfigError::NotHere("security")),
        "xdr" => Err(SetConfigError::NotHere("xdr")),
        _ => Err(SetConfigError::InvalidContext),
    }
}

/// Changes the operations on records that the audit log reports: `log.report-data-op=true;namespace=NAMESPACE;set=SET`,
/// the set being optional, or with `role=ROLE` or `user=USER`.
fn set_reported(
    config: &Config,
    place: ParameterScope<'_>,
    value: &str,
) -> Result<ParameterChange, SetConfigError> {
    let refuse = |reason: &str| SetConfigError::Refused(format!("'report-data-op' in security.log {reason}"));
    let log = &config.security.as_ref().ok_or(SetConfigError::NotHere("security"))?.log;
    let (name, list, item) = match (place.role, place.user, place.namespace, place.set) {
        (Some(role), None, None, None) => ("report-data-op-role", &log.report_data_op_role, role.to_owned()),
        (None, Some(user), None, None) => ("report-data-op-user", &log.report_data_op_user, user.to_owned()),
        (None, None, Some(namespace), set) => {
            let set = set.map(|set| format!(" {set}")).unwrap_or_default();
            ("report-data-op", &log.report_data_op, format!("{namespace}{set}"))
        }
        _ => return Err(refuse("needs namespace, with or without set, or role, or user")),
    };
    let mut items = list.get();
    let from = items.join(",");
    items.retain(|other| *other != item);
    match value {
        "true" if items.len() >= REPORTED_MAX => return Err(refuse("names too much already")),
        "true" => items.push(item),
        "false" => {}
        _ => return Err(refuse("must be true or false")),
    }
    list.set(items);
    let to = list.get().join(",");
    let context = "security.log";
    Ok(ParameterChange { context, namespace: None, set: None, name, from, to, effect: Effect::Now })
}

/// Sets a parameter of a set. The parameters of a new set are created only after the value has been checked.
fn set_of_namespace(
    config: &Config,
    namespace: &NamespaceConfig,
    set_name: &str,
    name: &str,
    value: &str,
) -> Result<ParameterChange, SetConfigError> {
    let scratch = SetParams::default();
    let known = ContextKind::Set.spec().ok_or(SetConfigError::InvalidContext)?;
    let target = Parameter::find(known, &scratch, variant::ALL, name)
        .ok_or_else(|| SetConfigError::UnknownParameter(name.to_owned()))?;
    target.read(config, Some(namespace), value)?;
    let params: Arc<SetParams> =
        namespace.sets.get_or_create(set_name).map_err(|error| SetConfigError::Refused(error.to_string()))?;
    let target =
        Parameter::find(known, &*params, variant::ALL, name).ok_or(SetConfigError::InvalidContext)?;
    target.apply(config, Some(namespace), Some(set_name), value)
}

/// The parameter that set-config calls `name` in one of `kinds`.
fn lookup<'a>(
    config: &'a Config,
    kinds: &[ContextKind],
    namespace: Option<&'a NamespaceConfig>,
    name: &str,
) -> Result<Parameter<'a>, SetConfigError> {
    for context in CONTEXTS.iter().filter(|context| kinds.contains(&context.kind)) {
        let Some(name) = name.strip_prefix(context.set_prefix) else { continue };
        let Some((table, bits)) = table(config, namespace, context.kind) else { continue };
        if let Some(target) = Parameter::find(context, table, bits, name) {
            return Ok(target);
        }
    }
    Err(SetConfigError::UnknownParameter(name.to_owned()))
}

/// The table of a context and the bits of its variant.
fn table<'a>(
    config: &'a Config,
    namespace: Option<&'a NamespaceConfig>,
    kind: ContextKind,
) -> Option<(&'a dyn ParamTable, u8)> {
    let network = &config.network;
    Some(match kind {
        ContextKind::Service => (&config.service, variant::ALL),
        ContextKind::NetworkService => (&network.service, variant::ALL),
        ContextKind::Heartbeat => (&network.heartbeat, network.heartbeat_variant()),
        ContextKind::Fabric => (&network.fabric, variant::ALL),
        ContextKind::NetworkInfo => (&network.info, variant::ALL),
        ContextKind::Metrics => (&network.metrics, variant::ALL),
        ContextKind::Namespace => (&namespace?.params, variant::ALL),
        ContextKind::Security => (&config.security.as_ref()?.params, variant::ALL),
        ContextKind::SecurityLog => (&config.security.as_ref()?.log, variant::ALL),
        ContextKind::Geo => (&namespace?.geo2dsphere_within, variant::ALL),
        ContextKind::Storage => (&*namespace?.storage.params, namespace?.storage.variant()),
        ContextKind::IndexType => (&namespace?.index_type.params, namespace?.index_type.medium.variant()),
        ContextKind::SindexType => (&namespace?.sindex_type.params, namespace?.sindex_type.medium.variant()),
        _ => return None,
    })
}

/// A parameter about to be changed.
struct Parameter<'a> {
    context: &'static ContextSpec,
    spec: &'static Spec,
    field: Field<'a>,
    /// Whether the variant of the context has it.
    applies: bool,
}

impl<'a> Parameter<'a> {
    fn find(context: &'static ContextSpec, table: &'a dyn ParamTable, bits: u8, name: &str) -> Option<Self> {
        let (spec, field) = find(table, name)?;
        Some(Self { context, spec, field, applies: spec.shown_by == 0 || spec.shown_by & bits != 0 })
    }

    /// Checks everything and returns the value that would be set.
    fn read(
        &self,
        config: &Config,
        namespace: Option<&NamespaceConfig>,
        value: &str,
    ) -> Result<u64, SetConfigError> {
        let (spec, place) = (self.spec, format!("'{}' in {}", self.spec.name, self.context.path));
        let refuse = |reason: String| Err(SetConfigError::Refused(reason));
        if !spec.dynamic {
            return refuse(format!("{place} cannot be changed while the server runs"));
        }
        if !self.applies {
            return refuse(format!("{place} does not apply to how this is configured"));
        }
        if spec.effect == Effect::Unsupported {
            return refuse(format!("{place} has no effect in this server: {}", spec.doc.trim()));
        }
        if matches!(spec.kind, Kind::Bool { .. }) && !matches!(value, "true" | "false") {
            return refuse(format!("{place} must be true or false"));
        }
        let words = [value];
        let words = if value.is_empty() { &[][..] } else { &words };
        let Some(scratch) = default_table(self.context.kind) else {
            return Err(SetConfigError::InvalidContext);
        };
        let Some((_, cell)) = find(&*scratch, spec.name) else { return Err(SetConfigError::InvalidContext) };
        if let Err(error) = spec.kind.assign(cell, words) {
            return refuse(value_message(self.context.kind, spec, &place, &error));
        }
        let number = match cell {
            Field::U16(number) => u64::from(number.get()),
            Field::U32(number) => u64::from(number.get()),
            Field::U64(number) => number.get(),
            Field::Flag(flag) => u64::from(flag.get()),
            _ => 0,
        };
        match rule(config, namespace, self.context.kind, spec.name, number) {
            Some(reason) => refuse(format!("{place} {reason}")),
            None => Ok(number),
        }
    }

    fn apply(
        &self,
        config: &Config,
        namespace: Option<&NamespaceConfig>,
        set: Option<&str>,
        value: &str,
    ) -> Result<ParameterChange, SetConfigError> {
        self.read(config, namespace, value)?;
        let from = self.spec.kind.text(self.field);
        // This cannot fail: the value has just been read without error into a cell of the same kind.
        let _ = self.spec.kind.assign(self.field, &[value]);
        Ok(ParameterChange {
            context: self.context.path,
            namespace: namespace.map(|namespace| namespace.name.clone()),
            set: set.map(str::to_owned),
            name: self.spec.name,
            from,
            to: self.spec.kind.text(self.field),
            effect: self.spec.effect.max(self.context.effect),
        })
    }
}

/// The reason why `name` may not become `value` given the rest of the configuration; continues "'name' in
/// context …".
fn rule(
    config: &Config,
    namespace: Option<&NamespaceConfig>,
    kind: ContextKind,
    name: &str,
    value: u64,
) -> Option<String> {
    match kind {
        ContextKind::Service => service_rule(config, name, value),
        ContextKind::Heartbeat => heartbeat_rule(config, name, value),
        ContextKind::Fabric => {
            let pools = u64::from(config.network.fabric.channel_rw_recv_pools.get());
            (name == "channel-rw-recv-threads" && value.checked_rem(pools) != Some(0))
                .then(|| format!("must be a multiple of channel-rw-recv-pools ({pools})"))
        }
        ContextKind::Namespace | ContextKind::Set => namespace_rule(namespace?, name, value),
        ContextKind::IndexType if name == "mounts-budget" => {
            let flash = namespace?.index_type.medium.variant() == variant::FLASH;
            (flash && value < 4 << 30).then(|| "must be at least 4G for flash".to_owned())
        }
        _ => None,
    }
}

fn service_rule(config: &Config, name: &str, value: u64) -> Option<String> {
    match name {
        "proto-fd-max" => beyond_the_system(value),
        "transaction-retry-ms" if value == 0 => Some("cannot be 0".to_owned()),
        "microsecond-histograms" if any_benchmark(config) => {
            Some("can only be changed while every enable-benchmarks-… is false".to_owned())
        }
        _ => None,
    }
}

/// The reason why so many clients are impossible, even with the descriptor limit of the process raised as far
/// as possible.
fn beyond_the_system(clients: u64) -> Option<String> {
    let limit = raise_open_files(clients + OWN_DESCRIPTORS).ok()?;
    (limit < clients).then(|| {
        format!(
            "cannot be that high: the system allows this process {limit} file descriptors; see LimitNOFILE of systemd \
             or `ulimit -n`"
        )
    })
}

/// Whether a histogram is being filled: another unit would mix up its values.
fn any_benchmark(config: &Config) -> bool {
    config.service.enable_benchmarks_fabric.get()
        || config.namespaces.iter().map(|namespace| &namespace.params).any(|params| {
            params.enable_benchmarks_read.get()
                || params.enable_benchmarks_write.get()
                || params.enable_benchmarks_udf.get()
                || params.enable_benchmarks_batch_sub.get()
                || params.enable_benchmarks_udf_sub.get()
                || params.enable_benchmarks_ops_sub.get()
        })
}

fn heartbeat_rule(config: &Config, name: &str, value: u64) -> Option<String> {
    let params = &config.network.heartbeat;
    let now = |cell: &super::setting::Number<u32>, its_name: &str| {
        if its_name == name { value } else { u64::from(cell.get()) }
    };
    let interval = now(&params.interval, "interval");
    let timeout = now(&params.timeout, "timeout");
    let longest = interval.saturating_mul(timeout) / 3;
    (now(&params.connect_timeout_ms, "connect-timeout-ms") > longest)
        .then(|| format!("would break the rule connect-timeout-ms <= interval * timeout / 3 = {longest}"))
}

fn namespace_rule(namespace: &NamespaceConfig, name: &str, value: u64) -> Option<String> {
    let params = &namespace.params;
    let strong = params.strong_consistency.get();
    match name {
        "default-ttl" if !matches!(value, 0) && value != u64::from(TTL_NEVER) => {
            let expires = params.nsup_period.get() != 0 || params.allow_ttl_without_nsup.get();
            (!expires).then(|| "needs nsup-period above 0 or allow-ttl-without-nsup true".to_owned())
        }
        "conflict-resolution-policy"
        | "disable-write-dup-res"
        | "disallow-expunge"
        | "read-consistency-level-override"
        | "write-commit-level-override"
        | "replication-factor"
            if strong =>
        {
            Some("cannot be changed with strong-consistency".to_owned())
        }
        "disable-mrt-writes" | "mrt-duration" | "strong-consistency-allow-expunge" if !strong => {
            Some("needs strong-consistency".to_owned())
        }
        _ => None,
    }
}

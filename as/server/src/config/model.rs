//! The configuration as the server sees it: typed, complete, with every default filled in.
//!
//! Built once by the parser and then shared. Cells of parameters may change through
//! [`set`](super::set::set); the structure itself does not, except that sets are added.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::params::misc::{LogSinkParams, ModLuaParams};
use super::params::namespace::{GeoParams, IndexTypeParams, NamespaceParams, SetParams};
use super::params::network::{
    AdminParams, FabricParams, HeartbeatMode, HeartbeatParams, MetricsParams, NetworkInfoParams,
    NetworkServiceParams, TlsParams,
};
use super::params::security::{LdapParams, SecurityLogParams, SecurityParams};
use super::params::service::ServiceParams;
use super::params::storage::StorageParams;
use super::params::xdr::{XdrDcParams, XdrNamespaceParams, XdrParams};
use super::setting::{List, Number};
use super::spec::variant;
use super::value::Backing;

/// Greatest number of namespaces.
pub const NAMESPACES_MAX: usize = 32;
/// Greatest length of a namespace name in bytes.
pub const NAMESPACE_NAME_SIZE_MAX: usize = 31;
/// Greatest length of a set name in bytes.
pub const SET_NAME_SIZE_MAX: usize = 63;
/// Greatest number of sets in a namespace.
pub const SETS_MAX: usize = 4_095;
/// Greatest number of log sinks.
pub const LOG_SINKS_MAX: usize = cf::log::SINKS_MAX;
/// Greatest number of TLS contexts.
pub const TLS_MAX: usize = 10;
/// Greatest number of data centres.
pub const XDR_DCS_MAX: usize = 64;

/// Everything a configuration file says.
#[derive(Debug, Default)]
pub struct Config {
    /// Name of the file it came from.
    pub source: String,
    /// The text of that file, for the log.
    pub text: String,
    /// The lines of its parameters.
    pub lines: Lines,
    /// The process as a whole.
    pub service: ServiceParams,
    /// Where the server listens and how nodes find each other.
    pub network: NetworkConfig,
    /// Where log lines go, in the order of the file.
    pub logging: Vec<LogSinkConfig>,
    /// The namespaces, in the order of the file.
    pub namespaces: Vec<NamespaceConfig>,
    /// User-defined functions.
    pub mod_lua: ModLuaParams,
    /// Access control, if there is such a context.
    pub security: Option<SecurityConfig>,
    /// Replication to other data centres, if there is such a context.
    pub xdr: Option<XdrConfig>,
    /// Held by [`set`](super::set::set), so that changes happen one after the other.
    pub(super) changes: Mutex<()>,
}

impl Config {
    /// The namespace called `name`.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&NamespaceConfig> {
        self.namespaces.iter().find(|namespace| namespace.name == name)
    }

    /// The TLS context that `name` stands for: `<hostname>` is this machine's name, `<cluster-name>` the
    /// cluster's.
    #[must_use]
    pub fn tls_name(&self, name: &str) -> String {
        match name {
            "<hostname>" => nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
            "<cluster-name>" => self.service.cluster_name.get_or_empty().to_string(),
            name => name.to_owned(),
        }
    }

    /// Replaces the remaining values that stand for "depends on the machine". Call at start, before threads
    /// are made. `cpu_count` is the number of processors the process may use.
    pub fn resolve(&self, cpu_count: u32) {
        let cpu_count = cpu_count.max(1);
        if self.service.service_threads.get() == 0 {
            let on_device = self.namespaces.iter().any(|namespace| !namespace.storage.is_inline());
            let threads = cpu_count.saturating_mul(if on_device { 5 } else { 1 });
            self.service.service_threads.set(threads.min(4_096));
        }
        if self.service.batch_index_threads.get() == 0 {
            self.service.batch_index_threads.set(cpu_count.min(256));
        }
    }
}

/// The lines of a file on which parameters were given, by context and name.
#[derive(Debug, Default)]
pub struct Lines(HashMap<(String, &'static str), Vec<usize>>);

impl Lines {
    /// Adds a line to those of a parameter; returns the one before.
    pub(super) fn add(&mut self, context: &str, name: &'static str, line: usize) -> Option<usize> {
        let lines = self.0.entry((context.to_owned(), name)).or_default();
        let before = lines.last().copied();
        lines.push(line);
        before
    }

    /// The last line of a parameter.
    #[must_use]
    pub fn last(&self, context: &str, name: &'static str) -> Option<usize> {
        self.0.get(&(context.to_owned(), name))?.last().copied()
    }

    /// The line of the item at `index` of a list, where each line adds one item.
    #[must_use]
    pub fn of_item(&self, context: &str, name: &'static str, index: usize) -> Option<usize> {
        self.0.get(&(context.to_owned(), name))?.get(index).copied()
    }
}

/// The `network` context.
#[derive(Debug, Default)]
pub struct NetworkConfig {
    /// Client connections.
    pub service: NetworkServiceParams,
    /// How nodes find each other.
    pub heartbeat: HeartbeatParams,
    /// Messages between nodes.
    pub fabric: FabricParams,
    /// The additional client port for operators.
    pub admin: AdminParams,
    /// Info requests in plain text.
    pub info: NetworkInfoParams,
    /// Figures over HTTP.
    pub metrics: MetricsParams,
    /// Certificates.
    pub tls: Vec<TlsConfig>,
    /// Packet size of the heartbeat's interface in bytes, shown by get-config while `mtu` is 0; the code that opens the
    /// heartbeat sockets stores it.
    pub heartbeat_interface_mtu: Number<u32>,
    /// Connection limits of the ports other than the client port.
    pub connection_limits: ConnectionLimits,
    /// Which ports clients have.
    pub client_ports: ClientPorts,
}

/// Which ports of `network.service` are configured. Port 0, which lets the system choose, counts as
/// configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPorts {
    /// The port without TLS.
    pub clear: bool,
    /// The port with TLS.
    pub tls: bool,
}

impl Default for ClientPorts {
    fn default() -> Self {
        Self { clear: true, tls: false }
    }
}

/// Maximum number of connections of each port other than the client port, which has `proto-fd-max`. They are
/// lowered at start if few file descriptors are allowed.
#[derive(Debug)]
pub struct ConnectionLimits {
    /// Maximum number of connections of the admin port.
    pub admin: Number<u32>,
    /// Maximum number of connections of the info port.
    pub info: Number<u32>,
    /// Maximum number of connections of the metrics port.
    pub metrics: Number<u32>,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { admin: Number::new(100), info: Number::new(256), metrics: Number::new(64) }
    }
}

impl NetworkConfig {
    /// Whether the node has ports for other nodes, and forms a cluster with the nodes that it hears.
    #[must_use]
    pub fn is_clustered(&self) -> bool {
        self.looks_for_others() || self.has_heartbeat_port() && self.has_fabric_port()
    }

    /// Whether the node is told where other nodes may be. If not, they may still connect to it, and `tip` may name them.
    #[must_use]
    pub fn looks_for_others(&self) -> bool {
        let heartbeat = &self.heartbeat;
        match heartbeat.mode.get() {
            HeartbeatMode::Mesh => {
                !heartbeat.mesh_seed_address_port.is_empty()
                    || !heartbeat.tls_mesh_seed_address_port.is_empty()
            }
            HeartbeatMode::Multicast => !heartbeat.multicast_group.is_empty(),
        }
    }

    /// Whether a port for the heartbeats of a mesh is configured.
    #[must_use]
    pub fn has_heartbeat_port(&self) -> bool {
        let heartbeat = &self.heartbeat;
        heartbeat.mode.get() == HeartbeatMode::Mesh
            && (heartbeat.port.get() != 0 || heartbeat.tls_port.get() != 0)
    }

    /// Whether a port for messages between nodes is configured.
    #[must_use]
    pub fn has_fabric_port(&self) -> bool {
        self.fabric.port.get() != 0 || self.fabric.tls_port.get() != 0
    }

    /// Whether heartbeats are sent with TLS.
    #[must_use]
    pub fn has_heartbeat_tls(&self) -> bool {
        let is_asked_for =
            self.heartbeat.tls_port.get() != 0 || !self.heartbeat.tls_mesh_seed_address_port.is_empty();
        is_asked_for && self.is_clustered() && self.heartbeat.mode.get() == HeartbeatMode::Mesh
    }

    /// Whether other nodes connect to the heartbeat without TLS.
    #[must_use]
    pub fn has_heartbeat_clear(&self) -> bool {
        self.heartbeat.port.get() != 0 || self.heartbeat.tls_port.get() == 0
    }

    /// Whether messages between nodes go over TLS.
    #[must_use]
    pub fn has_fabric_tls(&self) -> bool {
        self.fabric.tls_port.get() != 0 && self.is_clustered()
    }

    /// Whether other nodes connect to the fabric without TLS.
    #[must_use]
    pub fn has_fabric_clear(&self) -> bool {
        self.fabric.port.get() != 0 || self.fabric.tls_port.get() == 0
    }

    /// The bit of the heartbeat mode in effect.
    #[must_use]
    pub fn heartbeat_variant(&self) -> u8 {
        match self.heartbeat.mode.get() {
            HeartbeatMode::Mesh => variant::MESH,
            HeartbeatMode::Multicast => variant::MULTICAST,
        }
    }
}

/// A `network.tls` context.
#[derive(Debug, Default)]
pub struct TlsConfig {
    pub name: String,
    /// The line on which it begins.
    pub line: usize,
    /// Its parameters.
    pub params: TlsParams,
}

/// Where a log sink writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSinkKind {
    /// Standard error.
    Console,
    /// A file.
    File(String),
    /// Syslog, as the sink's parameters say.
    Syslog,
}

/// A sink of log lines.
#[derive(Debug)]
pub struct LogSinkConfig {
    /// Where it writes.
    pub kind: LogSinkKind,
    /// Its levels, and the details of syslog.
    pub params: LogSinkParams,
    /// Its line in the file.
    pub line: usize,
}

impl LogSinkConfig {
    /// A sink without any level.
    #[must_use]
    pub fn new(kind: LogSinkKind, line: usize) -> Self {
        Self { kind, params: LogSinkParams::default(), line }
    }
}

#[derive(Debug, Default)]
pub struct NamespaceConfig {
    pub name: String,
    /// Its parameters.
    pub params: NamespaceParams,
    /// How regions are covered by cells.
    pub geo2dsphere_within: GeoParams,
    /// Where the primary index lives.
    pub index_type: IndexConfig,
    /// Where secondary indexes live.
    pub sindex_type: IndexConfig,
    /// Parameters of its sets.
    pub sets: SetDirectory,
    /// Where its records live.
    pub storage: StorageConfig,
}

/// Where an index lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexMedium {
    /// In memory of the process.
    #[default]
    Mem,
    /// In shared memory.
    Shmem,
    /// In persistent memory.
    Pmem,
    /// On flash.
    Flash,
}

impl IndexMedium {
    /// The name that get-config shows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mem => "mem",
            Self::Shmem => "shmem",
            Self::Pmem => "pmem",
            Self::Flash => "flash",
        }
    }

    /// The bit of the medium in the table of parameters.
    #[must_use]
    pub fn variant(self) -> u8 {
        match self {
            Self::Mem | Self::Shmem => 0,
            Self::Pmem => variant::PMEM,
            Self::Flash => variant::FLASH,
        }
    }
}

/// The `index-type` or `sindex-type` context.
#[derive(Debug, Default)]
pub struct IndexConfig {
    pub medium: IndexMedium,
    /// Its parameters.
    pub params: IndexTypeParams,
}

/// Which storage engine a namespace has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Records in memory, perhaps backed by files or devices.
    #[default]
    Memory,
    /// Records in persistent memory.
    Pmem,
    /// Records on devices or files.
    Device,
}

impl Engine {
    /// The name in the configuration file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pmem => "pmem",
            Self::Device => "device",
        }
    }

    /// The bit of the engine in the table of parameters.
    #[must_use]
    pub fn variant(self) -> u8 {
        match self {
            Self::Memory => variant::MEMORY,
            Self::Pmem => variant::PMEM,
            Self::Device => variant::DEVICE,
        }
    }
}

/// The `storage-engine` context.
#[derive(Debug)]
pub struct StorageConfig {
    /// Which engine.
    pub engine: Engine,
    /// Its parameters. The storage engine reads the same cells.
    pub params: Arc<StorageParams>,
    /// Names of the memory stripes as get-config shows them; the storage engine stores them when it has
    /// made the stripes.
    pub stripes: List<String>,
    /// The lines of `encryption-key-file` and of `encryption-old-key-file`; 0 without them.
    pub key_lines: [Number<u32>; 2],
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            params: Arc::default(),
            stripes: List::new([]),
            key_lines: Default::default(),
        }
    }
}

impl StorageConfig {
    /// The files or devices, in the order of the file; the parser has made sure that they are not mixed.
    #[must_use]
    pub fn backings(&self) -> Vec<Backing> {
        if self.params.device.is_empty() { self.params.file.get() } else { self.params.device.get() }
    }

    /// Whether there are files or devices.
    #[must_use]
    pub fn is_backed(&self) -> bool {
        !self.params.device.is_empty() || !self.params.file.is_empty()
    }

    /// Whether the backings are raw devices rather than files.
    #[must_use]
    pub fn is_raw_device(&self) -> bool {
        !self.params.device.is_empty()
    }

    /// Whether no transaction waits for a device, so that few service threads suffice.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        match self.engine {
            Engine::Memory => !(self.params.commit_to_device.get() && self.is_backed()),
            Engine::Pmem => true,
            Engine::Device => false,
        }
    }

    /// The bits that say which parameters are known and shown.
    #[must_use]
    pub fn variant(&self) -> u8 {
        let bit = |condition: bool, bit: u8| if condition { bit } else { 0 };
        self.engine.variant()
            | bit(self.is_backed(), variant::BACKED)
            | bit(self.params.encryption_key_file.is_set(), variant::ENCRYPTED)
    }
}

/// The reason why a set cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetNameError {
    /// The name is empty or too long.
    #[error("the name of a set has 1 to {SET_NAME_SIZE_MAX} bytes")]
    Size,
    /// No client can name the set.
    #[error("the name of a set has no zero byte")]
    ZeroByte,
    /// The namespace has its greatest number of sets.
    #[error("a namespace can have {SETS_MAX} sets")]
    Full,
}

/// Parameters of the sets of a namespace, both configured and created since.
///
/// The live set and this directory share each [`SetParams`]; the lock is taken only when a set is made
/// or looked up by name.
#[derive(Debug, Default)]
pub struct SetDirectory(RwLock<Vec<(Arc<str>, Arc<SetParams>)>>);

impl SetDirectory {
    /// The parameters of set `name`, if it has been configured or made.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<SetParams>> {
        self.0.read().iter().find(|(other, _)| &**other == name).map(|(_, params)| Arc::clone(params))
    }

    /// The parameters of set `name`, created with defaults if there are none.
    ///
    /// # Errors
    /// The name is empty or too long or has a zero byte, or there are too many sets.
    pub fn get_or_create(&self, name: &str) -> Result<Arc<SetParams>, SetNameError> {
        if name.is_empty() || name.len() > SET_NAME_SIZE_MAX {
            return Err(SetNameError::Size);
        }
        if name.contains('\0') {
            return Err(SetNameError::ZeroByte);
        }
        let mut sets = self.0.write();
        if let Some((_, params)) = sets.iter().find(|(other, _)| &**other == name) {
            return Ok(Arc::clone(params));
        }
        if sets.len() >= SETS_MAX {
            return Err(SetNameError::Full);
        }
        let params = Arc::new(SetParams::default());
        sets.push((Arc::from(name), Arc::clone(&params)));
        Ok(params)
    }

    /// All sets, in the order in which they were configured or made.
    #[must_use]
    pub fn list(&self) -> Vec<(Arc<str>, Arc<SetParams>)> {
        self.0.read().clone()
    }
}

/// The `security` context.
#[derive(Debug, Default)]
pub struct SecurityConfig {
    /// Its parameters.
    pub params: SecurityParams,
    /// Its `ldap` context.
    pub ldap: LdapParams,
    /// Its `log` context.
    pub log: SecurityLogParams,
}

/// The `xdr` context.
#[derive(Debug, Default)]
pub struct XdrConfig {
    /// Its parameters.
    pub params: XdrParams,
    /// The other data centres.
    pub dcs: Vec<XdrDcConfig>,
}

/// An `xdr.dc` context.
#[derive(Debug, Default)]
pub struct XdrDcConfig {
    pub name: String,
    /// Its parameters.
    pub params: XdrDcParams,
    /// The namespaces that are shipped there.
    pub namespaces: Vec<XdrNamespaceConfig>,
}

/// An `xdr.dc.namespace` context.
#[derive(Debug, Default)]
pub struct XdrNamespaceConfig {
    /// Name of the namespace.
    pub name: String,
    /// Its parameters.
    pub params: XdrNamespaceParams,
}

//! TLS: the `network.tls` contexts and the ports that use them. The protocol is rustls, the ciphers are those of ring.
//!
//! A [`TlsPort`] holds the certificate and the rules of a port. These are replaced as a whole when files have changed:
//! open connections keep theirs, new ones get the new. If the new files cannot be used, the old state stays in force.
//!
//! # Threads
//! The accept thread creates a session from a port; the connection's service thread does everything else with it. The
//! thread `tls-refresh` checks the files. A request to read them at once ([`TlsPorts::reload`]) comes from the thread
//! that waits for signals.

mod client_rule;
mod credentials;
mod error;
mod peer;
mod pem;
mod session;
mod suites;

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{ClientConfig, ServerConfig};

use crate::config::setting::{List, Text};
use crate::config::{Config, TlsConfig};
use client_rule::ClientRule;
pub(crate) use error::TlsError;
pub(crate) use peer::{PeerSession, PeerStream, is_no_tls};
pub(crate) use session::{Received, TlsSession};

/// Period of the check whether it is time to read files or to stop.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// A file's state when it was read.
type FileState = (String, Option<(SystemTime, u64)>);

/// The settings of new connections.
struct Materials {
    accepting: Arc<ServerConfig>,
    /// The settings for connections to other nodes; only ports for nodes have them.
    connecting: Option<Arc<ClientConfig>>,
}

impl Materials {
    /// Reads the files of a context.
    fn read(tls: &TlsConfig, user: &PortUser) -> Result<Self, TlsError> {
        Ok(Materials {
            accepting: Arc::new(credentials::server_config(tls, &user.rule, user.is_for_nodes)?),
            connecting: match user.is_for_nodes {
                true => Some(Arc::new(credentials::client_config(tls, &user.rule)?)),
                false => None,
            },
        })
    }
}

/// A port with TLS as configured.
struct PortUser {
    /// Index of the `network.tls` context that it uses.
    context: usize,
    /// The rule that decides which certificates are accepted.
    rule: ClientRule,
    /// Whether it is a port for nodes: other nodes connect to it, and this node connects to other nodes' ports with the
    /// same settings.
    is_for_nodes: bool,
}

pub(crate) struct TlsPort {
    config: Arc<Config>,
    user: PortUser,
    current: ArcSwap<Materials>,
    /// The files of `current`. The lock is held while they are read.
    files: Mutex<Vec<FileState>>,
}

impl TlsPort {
    /// A port with a certificate.
    fn open(config: &Arc<Config>, user: PortUser) -> Result<Arc<Self>, TlsError> {
        let tls = &config.network.tls[user.context];
        let files = states(tls);
        let built = Materials::read(tls, &user)?;
        cf::info!(Tls, "tls '{}': certificate for {}", tls.name, credentials::names(tls));
        if let Some(fault) = credentials::certificate_fault(tls, SystemTime::now()) {
            cf::warning!(Tls, "{fault}");
        }
        Ok(Arc::new(TlsPort {
            config: Arc::clone(config),
            user,
            current: ArcSwap::from_pointee(built),
            files: Mutex::new(files),
        }))
    }

    fn tls_config(&self) -> &TlsConfig {
        &self.config.network.tls[self.user.context]
    }

    /// The name of its context, by which clients know the nodes of a cluster.
    pub(crate) fn name(&self) -> String {
        self.config.tls_name(&self.tls_config().name)
    }

    /// A session for a connection that has just been accepted.
    pub(crate) fn session(&self) -> Option<Box<TlsSession>> {
        let appends_unit = self.tls_config().params.pki_user_append_ou.get();
        match TlsSession::new(Arc::clone(&self.current.load().accepting), appends_unit) {
            Ok(session) => Some(Box::new(session)),
            Err(error) => {
                cf::warning_limited!(Tls, "cannot begin a session: {error}");
                None
            }
        }
    }

    /// A session for a connection that another node made or, if not `is_accepted`, that this node makes.
    pub(crate) fn peer_session(&self, is_accepted: bool) -> Option<Box<PeerSession>> {
        let current = self.current.load();
        let session = match &current.connecting {
            Some(config) if !is_accepted => PeerSession::connecting(Arc::clone(config)),
            _ => PeerSession::accepted(Arc::clone(&current.accepting)),
        };
        match session {
            Ok(session) => Some(Box::new(session)),
            Err(error) => {
                cf::warning_limited!(Tls, "cannot begin a session with another node: {error}");
                None
            }
        }
    }

    /// Reads the files again if they have changed, or in any case if `is_asked_for`.
    fn refresh(&self, is_asked_for: bool) {
        let tls = self.tls_config();
        let mut files = self.files.lock();
        let now = states(tls);
        if *files == now && !is_asked_for {
            return;
        }
        *files = now;
        match Materials::read(tls, &self.user) {
            Ok(built) => {
                self.current.store(Arc::new(built));
                cf::info!(Tls, "tls '{}': certificates were read again; new connections use them", tls.name);
                if let Some(fault) = credentials::certificate_fault(tls, SystemTime::now()) {
                    cf::warning!(Tls, "{fault}");
                }
            }
            Err(error) => cf::warning!(Tls, "{error}; the previous certificates stay in use"),
        }
    }
}

fn states(tls: &TlsConfig) -> Vec<FileState> {
    let state = |path: &String| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    credentials::files(tls)
        .into_iter()
        .map(|path| {
            let state = state(&path);
            (path, state)
        })
        .collect()
}

/// A listener to which other nodes connect.
pub(crate) struct PeerDoor {
    pub(crate) listener: TcpListener,
    /// The port's TLS; `None` without TLS.
    pub(crate) tls: Option<Arc<TlsPort>>,
}

#[derive(Clone, Default)]
pub(crate) struct TlsPorts {
    /// The port of clients.
    pub(crate) service: Option<Arc<TlsPort>>,
    /// The port of operators.
    pub(crate) admin: Option<Arc<TlsPort>>,
    /// The ports of other nodes.
    pub(crate) heartbeat: Option<Arc<TlsPort>>,
    pub(crate) fabric: Option<Arc<TlsPort>>,
}

impl TlsPorts {
    /// The configured ports with their files read.
    ///
    /// # Errors
    /// When a file is missing, has the wrong content, or does not fit the others.
    pub(crate) fn open(config: &Arc<Config>) -> Result<Self, TlsError> {
        let [service, admin, heartbeat, fabric] =
            users(config).map(|user| user.map(|user| TlsPort::open(config, user)).transpose());
        Ok(TlsPorts { service: service?, admin: admin?, heartbeat: heartbeat?, fabric: fabric? })
    }

    fn all(&self) -> impl Iterator<Item = &Arc<TlsPort>> {
        self.service.iter().chain(&self.admin).chain(&self.heartbeat).chain(&self.fabric)
    }

    /// Reads all files again.
    pub(crate) fn reload(&self) {
        self.all().for_each(|port| port.refresh(true));
    }

    /// Body of the thread that checks the files every `tls-refresh-period`, until `stopping` is set and it is unparked.
    pub(crate) fn run_refresh(&self, config: &Config, stopping: &AtomicBool) {
        let mut last = Instant::now();
        while !stopping.load(Acquire) {
            cf::fault_point!("tls-refresh");
            std::thread::park_timeout(LOOK_PERIOD);
            let period = config.service.tls_refresh_period.get();
            if period != 0 && last.elapsed() >= Duration::from_secs(period.into()) {
                self.all().for_each(|port| port.refresh(false));
                last = Instant::now();
            }
        }
    }

    /// Whether there are no such ports.
    pub(crate) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }
}

/// Everything that makes a port with TLS unusable.
pub(crate) fn obstacles(config: &Config) -> Vec<TlsError> {
    let mut found = Vec::new();
    for user in users(config).into_iter().flatten() {
        let tls = &config.network.tls[user.context];
        found.extend(Materials::read(tls, &user).err());
        found.extend(credentials::certificate_fault(tls, SystemTime::now()));
    }
    found
}

/// The ports with TLS: those of clients, of operators, of the heartbeat and of the fabric.
fn users(config: &Config) -> [Option<PortUser>; 4] {
    let network = &config.network;
    let context_of = |name: &Text| {
        let name = config.tls_name(&name.get()?);
        let context = network.tls.iter().position(|tls| config.tls_name(&tls.name) == name)?;
        Some((context, name))
    };
    let of_clients = |name: &Text, rule: &List<String>| {
        let (context, _) = context_of(name)?;
        Some(PortUser { context, rule: ClientRule::new(&rule.get()), is_for_nodes: false })
    };
    // All nodes of a cluster have the same name.
    let of_nodes = |name: &Text| {
        let (context, name) = context_of(name)?;
        Some(PortUser { context, rule: ClientRule::Names(vec![name]), is_for_nodes: true })
    };
    let (service, admin) = (&network.service, &network.admin);
    let has_admin = admin.tls_port.get() != 0;
    [
        network
            .client_ports
            .tls
            .then(|| of_clients(&service.tls_name, &service.tls_authenticate_client))
            .flatten(),
        has_admin.then(|| of_clients(&admin.tls_name, &admin.tls_authenticate_client)).flatten(),
        network.has_heartbeat_tls().then(|| of_nodes(&network.heartbeat.tls_name)).flatten(),
        network.has_fabric_tls().then(|| of_nodes(&network.fabric.tls_name)).flatten(),
    ]
}

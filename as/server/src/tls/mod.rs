//! TLS: the `network.tls` contexts and the ports that use them. The protocol itself is rustls, the ciphers are those of ring.
//!
//! A [`TlsPort`] holds what a port shows its clients and asks of them. It is replaced as a whole when files have changed:
//! connections keep what they began with, new ones get the new. Files that cannot be used leave the old in force.
//!
//! # Threads
//! The accept thread takes a session from a port; its service thread does everything else with that. The thread `tls-refresh`
//! looks at the files. A request to read them at once ([`TlsPorts::reload`]) comes from the thread that waits for signals.

mod blacklist;
mod certificate;
mod credentials;
mod error;
mod pem;
mod session;
mod suites;
mod verifier;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;

use crate::config::setting::{List, Text};
use crate::config::{Config, TlsConfig};
pub(crate) use error::TlsError;
pub(crate) use session::{Received, TlsSession};
use verifier::ClientRule;

/// How often the refresh thread looks whether it is time, or to stop.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// A file as it was when it was read.
type FileState = (String, Option<(SystemTime, u64)>);

/// A port that speaks TLS.
pub(crate) struct TlsPort {
    config: Arc<Config>,
    /// Which of the contexts it uses.
    context: usize,
    rule: ClientRule,
    current: ArcSwap<ServerConfig>,
    /// The files of `current`. Held while they are read.
    files: Mutex<Vec<FileState>>,
}

impl TlsPort {
    /// A port with a certificate, for clients as `rule` says.
    fn open(config: &Arc<Config>, context: usize, rule: ClientRule) -> Result<Arc<Self>, TlsError> {
        let tls = &config.network.tls[context];
        let files = states(tls);
        let built = credentials::server_config(tls, &rule)?;
        cf::info!(Tls, "tls '{}': certificate for {}", tls.name, credentials::names(tls));
        if let Some(fault) = credentials::certificate_fault(tls, SystemTime::now()) {
            cf::warning!(Tls, "{fault}");
        }
        Ok(Arc::new(TlsPort {
            config: Arc::clone(config),
            context,
            rule,
            current: ArcSwap::from_pointee(built),
            files: Mutex::new(files),
        }))
    }

    fn tls_config(&self) -> &TlsConfig {
        &self.config.network.tls[self.context]
    }

    /// The name of its context, by which clients know the nodes of a cluster.
    pub(crate) fn name(&self) -> String {
        self.config.tls_name(&self.tls_config().name)
    }

    /// A session for a connection that has just been accepted.
    pub(crate) fn session(&self) -> Option<Box<TlsSession>> {
        match TlsSession::new(self.current.load_full()) {
            Ok(session) => Some(Box::new(session)),
            Err(error) => {
                cf::warning_limited!(Tls, "cannot begin a session: {error}");
                None
            }
        }
    }

    /// Reads the files anew if they have changed, or in any case if that `is_asked_for`.
    fn refresh(&self, is_asked_for: bool) {
        let tls = self.tls_config();
        let mut files = self.files.lock();
        let now = states(tls);
        if *files == now && !is_asked_for {
            return;
        }
        *files = now;
        match credentials::server_config(tls, &self.rule) {
            Ok(built) => {
                self.current.store(Arc::new(built));
                cf::info!(Tls, "tls '{}': certificates are read anew, for new connections", tls.name);
                if let Some(fault) = credentials::certificate_fault(tls, SystemTime::now()) {
                    cf::warning!(Tls, "{fault}");
                }
            }
            Err(error) => cf::warning!(Tls, "{error}; the certificates of before stay in force"),
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

/// All ports with TLS.
#[derive(Clone, Default)]
pub(crate) struct TlsPorts {
    /// That of clients.
    pub(crate) service: Option<Arc<TlsPort>>,
    /// That of operators.
    pub(crate) admin: Option<Arc<TlsPort>>,
}

impl TlsPorts {
    /// Those that are configured, with their files read.
    ///
    /// # Errors
    /// When a file is missing, is not what it should be, or does not fit the others.
    pub(crate) fn open(config: &Arc<Config>) -> Result<Self, TlsError> {
        let [service, admin] = users(config)
            .map(|user| user.map(|(context, rule)| TlsPort::open(config, context, rule)).transpose());
        Ok(TlsPorts { service: service?, admin: admin? })
    }

    fn all(&self) -> impl Iterator<Item = &Arc<TlsPort>> {
        self.service.iter().chain(&self.admin)
    }

    /// Reads all files anew.
    pub(crate) fn reload(&self) {
        self.all().for_each(|port| port.refresh(true));
    }

    /// Body of the thread that looks at the files every `tls-refresh-period`, until `stopping` is set and it is unparked.
    pub(crate) fn run_refresh(&self, config: &Config, stopping: &AtomicBool) {
        let mut last = Instant::now();
        while !stopping.load(Acquire) {
            std::thread::park_timeout(LOOK_PERIOD);
            let period = config.service.tls_refresh_period.get();
            if period != 0 && last.elapsed() >= Duration::from_secs(period.into()) {
                self.all().for_each(|port| port.refresh(false));
                last = Instant::now();
            }
        }
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }
}

/// Everything that keeps the ports with TLS from being of use.
pub(crate) fn obstacles(config: &Config) -> Vec<TlsError> {
    let mut found = Vec::new();
    for (context, rule) in users(config).into_iter().flatten() {
        let tls = &config.network.tls[context];
        found.extend(credentials::server_config(tls, &rule).err());
        found.extend(credentials::certificate_fault(tls, SystemTime::now()));
    }
    found
}

/// The contexts that the ports of clients and operators use, each with the rule for certificates of clients.
fn users(config: &Config) -> [Option<(usize, ClientRule)>; 2] {
    let network = &config.network;
    let user = |name: &Text, rule: &List<String>| {
        let name = config.tls_name(&name.get()?);
        let context = network.tls.iter().position(|tls| config.tls_name(&tls.name) == name)?;
        Some((context, ClientRule::new(&rule.get())))
    };
    let (service, admin) = (&network.service, &network.admin);
    let has_admin = admin.tls_port.get() != 0;
    [
        network.client_ports.tls.then(|| user(&service.tls_name, &service.tls_authenticate_client)).flatten(),
        has_admin.then(|| user(&admin.tls_name, &admin.tls_authenticate_client)).flatten(),
    ]
}

//! The checks before a start changes anything, and the report of all obstacles to a start: `--check-config`.

use std::io;

use crate::best_practices;
use crate::config::params::network::HeartbeatMode;
use crate::config::{Config, DEVELOPER_SOURCE, InUse, Obstacle};
use crate::heartbeat::HeartbeatSockets;
use crate::namespace::NamespaceError;
use crate::node_id;
use crate::ports::Ports;
use crate::security::{self, SecurityError};
use crate::service::ListenError;
use crate::smd::Smd;
use crate::storage::{OpenError, check_backings, shared_backings};
use crate::tls::{self, TlsError};

/// The reason why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("access control: {0}")]
    Security(#[from] SecurityError),
    #[error(transparent)]
    NodeId(#[from] node_id::UnknownInterface),
    #[error("{0}")]
    Namespace(String),
    #[error("{0}")]
    Listen(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}")]
    SystemMetadata(io::Error),
    #[error("enforce-best-practices is set, and these are not followed: {0}")]
    BestPractices(String),
    #[error("the system refuses a thread or file descriptor: {0}")]
    System(#[from] io::Error),
}

impl From<NamespaceError> for StartError {
    fn from(error: NamespaceError) -> Self {
        StartError::Namespace(error.to_string())
    }
}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> Self {
        StartError::Listen(error.to_string())
    }
}

/// All obstacles to a start with `config` on this machine that can be found without a change. Ports are bound
/// and released, files and devices opened and closed.
pub(crate) fn obstacles(config: &Config) -> Vec<Obstacle> {
    let mut found: Vec<Obstacle> = Vec::new();
    let line = |context, name| config.lines.last(context, name);
    found.extend(
        own_node_id(config).err().map(|error| Obstacle::new(line("service", "node-id-interface"), error)),
    );
    found.extend(
        enforce_best_practices(config)
            .err()
            .map(|error| Obstacle::new(line("service", "enforce-best-practices"), error)),
    );
    found.extend(Ports::obstacles(config));
    let network = &config.network;
    if network.is_clustered() && network.heartbeat.mode.get() == HeartbeatMode::Multicast {
        let joined = HeartbeatSockets::multicast(&network.heartbeat);
        found.extend(joined.err().map(|error| multicast_obstacle(config, &error)));
    }
    found.extend(tls::obstacles(config).iter().map(|error| Obstacle::new(None, error)));
    for namespace in &config.namespaces {
        for (backing, error) in check_backings(&namespace.name, &namespace.storage) {
            let in_use = match &error {
                OpenError::Block(error) if error.is_in_use() => Some(InUse::File(error.path.clone())),
                _ => None,
            };
            let line = backing.and_then(|backing| config.line_of_backing(namespace, backing));
            let obstacle = Obstacle::new(line, format!("{{{}}} {error}", namespace.name));
            found.push(Obstacle { in_use, ..obstacle });
        }
    }
    let namespaces = config.namespaces.iter().map(|namespace| (namespace.name.as_str(), &namespace.storage));
    found.extend(shared_backings(namespaces).iter().map(|(namespace, path)| {
        Obstacle::new(None, format!("{{{namespace}}} {} is configured twice", path.display()))
    }));
    if let Some(path) = config.work_folder() {
        let error = Smd::check(&path).err();
        found.extend(error.map(|error| Obstacle::new(line("service", "work-directory"), error)));
    }
    // What cannot be read at all is found already.
    match security::check_users(config) {
        Ok(()) | Err(SecurityError::Metadata(_)) => {}
        Err(error) => {
            found.push(Obstacle::new(line("service", "work-directory"), StartError::from(error)));
        }
    }
    let error = security::check_password_file(config).err().map(StartError::from);
    found.extend(error.map(|error| Obstacle::new(line("security", "default-password-file"), error)));
    found
}

/// The obstacle for groups of multicast heartbeats that cannot be joined.
pub(crate) fn multicast_obstacle(config: &Config, error: &io::Error) -> Obstacle {
    let line = |name| config.lines.last("network.heartbeat", name);
    Obstacle::new(line("address").or_else(|| line("multicast-group")), error)
}

/// Names of the best practices that are not followed; each is logged.
///
/// # Errors
/// When a practice is not followed and practices are enforced.
pub(crate) fn check_best_practices(config: &Config) -> Result<Vec<&'static str>, StartError> {
    enforce_best_practices(config)?;
    let failures = best_practices::failures(config);
    // A trial on a desktop needs no tuning.
    for failure in failures.iter().filter(|_| config.source != DEVELOPER_SOURCE) {
        cf::warning!(Config, "failed best-practices check {}: {}", failure.name, failure.advice);
    }
    Ok(failures.iter().map(|failure| failure.name).collect())
}

fn enforce_best_practices(config: &Config) -> Result<(), StartError> {
    let failures = best_practices::failures(config);
    if !config.service.enforce_best_practices.get() || failures.is_empty() {
        return Ok(());
    }
    let advice: Vec<String> = failures.into_iter().map(|failure| failure.advice).collect();
    Err(StartError::BestPractices(advice.join("; ")))
}

/// The configured node id, or the one derived from the fabric port and the machine's network interface.
pub(crate) fn own_node_id(config: &Config) -> Result<u64, StartError> {
    match config.service.node_id.get() {
        0 => {
            let interface = config.service.node_id_interface.get();
            let fabric = &config.network.fabric;
            let port = if fabric.port.get() == 0 { fabric.tls_port.get() } else { fabric.port.get() };
            Ok(node_id::of_this_machine(port, interface.as_deref())?)
        }
        configured => Ok(configured),
    }
}

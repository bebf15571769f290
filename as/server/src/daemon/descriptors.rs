//! Raises the limit of file descriptors to the number that the clients need.

use cf::sys::limits::raise_open_files;

use crate::config::set::OWN_DESCRIPTORS;
use crate::config::{Config, NetworkConfig};

/// Descriptors that every server has open: terminal, ports, log, epolls, and a few short-lived ones.
const FEW: u64 = 16;
/// Descriptors of each service thread and of each disk with its shadow.
const EACH: u64 = 2;

/// Raises the limit of the process to the number that `proto-fd-max` needs. If the system allows fewer,
/// `proto-fd-max` is lowered accordingly; the server starts in any case.
pub(super) fn provide(config: &Config) {
    let proto_fd_max = &config.service.proto_fd_max;
    let (configured, own) = (proto_fd_max.get(), own_descriptors(config));
    let ports = provide_ports(&config.network, u64::MAX);
    match raise_open_files(u64::from(configured) + (own + ports).max(OWN_DESCRIPTORS)) {
        Ok(limit) => {
            let own = own + provide_ports(&config.network, limit);
            let possible = clients_within(limit, own);
            if configured > possible {
                cf::warning!(
                    Config,
                    "the system allows this process {limit} file descriptors, of which it needs {own} itself, so \
                     proto-fd-max is {possible} instead of {configured}; see LimitNOFILE of systemd or `ulimit -n`"
                );
                proto_fd_max.set(possible);
            }
            cf::info!(Config, "file descriptor limit: {limit}, proto-fd-max: {}", proto_fd_max.get());
        }
        Err(error) => cf::warning!(Config, "the limit on file descriptors cannot be read: {error}"),
    }
}

/// If the limit is small, each port other than the client port gets one descriptor in this many, and at least
/// [`SHARE_MIN`].
const SMALL_SHARE: u64 = 20;
const SHARE_MIN: u64 = 4;

/// Lowers the limits of the ports other than the client port to their shares of `limit`; returns their sum.
fn provide_ports(network: &NetworkConfig, limit: u64) -> u64 {
    let limits = &network.connection_limits;
    let ports = [
        (&network.admin.port, &limits.admin),
        (&network.info.port, &limits.info),
        (&network.metrics.port, &limits.metrics),
    ];
    let share = u32::try_from((limit / SMALL_SHARE).max(SHARE_MIN)).unwrap_or(u32::MAX);
    let mut sum = 0;
    for (port, connections_max) in ports {
        connections_max.set(connections_max.get().min(share));
        if port.get() != 0 {
            sum += u64::from(connections_max.get());
        }
    }
    sum
}

/// Maximum number of descriptors that the server itself opens, without those of its ports.
fn own_descriptors(config: &Config) -> u64 {
    let disks: usize = config.namespaces.iter().map(|namespace| namespace.storage.backings().len()).sum();
    let each = u64::from(config.service.service_threads.get()) + disks as u64;
    FEW + config.logging.len() as u64 + EACH * each
}

/// The number of client connections for which `limit` leaves room: half of a small limit, or what the server
/// leaves of it if that is less. The other half is for ports and for files that are not counted.
fn clients_within(limit: u64, own: u64) -> u32 {
    let clients = limit.saturating_sub(own.max(OWN_DESCRIPTORS));
    let clients = clients.max((limit / 2).min(limit.saturating_sub(own)));
    u32::try_from(clients).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_descriptors_that_the_server_leaves() {
        assert_eq!(clients_within(15_512, 40), 15_000);
        assert_eq!(clients_within(1_024, 40), 512);
        assert_eq!(clients_within(256, 40), 128);
        // Many service threads have descriptors of their own, so a small limit leaves room for few clients or none.
        assert_eq!(clients_within(15_512, 1_000), 14_512);
        assert_eq!(clients_within(1_024, 700), 324);
        assert_eq!(clients_within(50, 30), 20);
        assert_eq!(clients_within(10, 30), 0);
        assert_eq!(clients_within(u64::MAX, 40), u32::MAX);
    }

    #[test]
    fn the_limit_of_clients_follows_the_limit_of_the_system() {
        let config = Config::developer();
        config.service.proto_fd_max.set(64);
        provide(&config);
        assert_eq!(config.service.proto_fd_max.get(), 64);
        config.service.proto_fd_max.set(u32::MAX);
        provide(&config);
        let possible = config.service.proto_fd_max.get();
        assert!(possible > 0 && possible < u32::MAX, "{possible}");
    }
}

//! File descriptors enough for the clients that may connect.

use cf::sys::limits::raise_open_files;

use crate::config::set::OWN_DESCRIPTORS;
use crate::config::setting::Number;

/// Raises the limit of the process to what `proto_fd_max` needs. Where the system does not let us,
/// `proto_fd_max` becomes what it does let; never a reason not to start.
pub(super) fn provide(proto_fd_max: &Number<u32>) {
    let configured = proto_fd_max.get();
    match raise_open_files(u64::from(configured) + OWN_DESCRIPTORS) {
        Ok(limit) => {
            let possible = clients_within(limit);
            if configured > possible {
                cf::warning!(
                    Config,
                    "the system allows this process {limit} file descriptors, so proto-fd-max is {possible} \
                     instead of {configured}; see LimitNOFILE of systemd or `ulimit -n`"
                );
                proto_fd_max.set(possible);
            }
            cf::info!(Config, "file descriptor limit: {limit}, proto-fd-max: {}", proto_fd_max.get());
        }
        Err(error) => cf::warning!(Config, "the limit on file descriptors cannot be read: {error}"),
    }
}

/// Client connections a limit leaves room for; of a small one at least the half.
fn clients_within(limit: u64) -> u32 {
    let clients = limit.saturating_sub(OWN_DESCRIPTORS).max(limit / 2);
    u32::try_from(clients).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_server_leaves() {
        assert_eq!(clients_within(15_512), 15_000);
        assert_eq!(clients_within(1_024), 512);
        assert_eq!(clients_within(256), 128);
        assert_eq!(clients_within(u64::MAX), u32::MAX);
    }

    #[test]
    fn what_the_system_does_not_give_is_not_promised() {
        let modest = Number::new(64);
        provide(&modest);
        assert_eq!(modest.get(), 64);
        let immodest = Number::new(u32::MAX);
        provide(&immodest);
        assert!(immodest.get() < u32::MAX);
        assert!(immodest.get() > 0);
    }
}

//! Names of former versions and what became of them.
//!
//! Where the present name means the same, the old one is accepted with a warning; where it does not, the
//! old one is refused with a sentence that says what to write instead.

use super::context::ContextKind;

/// What happens to an obsolete name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Its values are taken as those of this parameter of the same context.
    Renamed(&'static str),
    /// Its values are taken as those of this parameter of every namespace that does not set it.
    ToNamespaces(&'static str),
    /// Its values are taken as those of this parameter of the namespace's storage engine.
    ToStorage(&'static str),
    /// It is refused; the sentence says what to do.
    Refused(&'static str),
}

/// One row of [`OBSOLETE`].
#[derive(Debug)]
pub struct Obsolete {
    /// The context the name stood in.
    pub context: ContextKind,
    /// The name.
    pub name: &'static str,
    /// What happens to it.
    pub fate: Handling,
}

const fn row(context: ContextKind, name: &'static str, fate: Handling) -> Obsolete {
    Obsolete { context, name, fate }
}

/// Every obsolete name.
pub static OBSOLETE: &[Obsolete] = {
    use ContextKind as K;
    use Handling::{Refused, Renamed, ToNamespaces, ToStorage};
    &[
        row(
            K::Service,
            "allow-inline-transactions",
            Refused("transactions always run on the service threads; use 'service-threads' to say how many"),
        ),
        row(K::Service, "nsup-period", ToNamespaces("nsup-period")),
        row(K::Service, "object-size-hist-period", ToNamespaces("nsup-hist-period")),
        row(
            K::Service,
            "respond-client-on-master-completion",
            Refused(
                "use 'write-commit-level-override master' in the namespaces, or the clients' write policy",
            ),
        ),
        row(K::Service, "scan-max-done", Renamed("query-max-done")),
        row(K::Service, "scan-threads-limit", Renamed("query-threads-limit")),
        row(K::Service, "transaction-pending-limit", ToNamespaces("transaction-pending-limit")),
        row(
            K::Service,
            "transaction-queues",
            Refused("there are no such queues any more; use 'service-threads' to say how many threads"),
        ),
        row(
            K::Service,
            "transaction-repeatable-read",
            Refused(
                "use 'read-consistency-level-override all' in the namespaces, or the clients' read policy",
            ),
        ),
        row(
            K::Service,
            "transaction-threads-per-queue",
            Refused("there are no such queues any more; use 'service-threads' to say how many threads"),
        ),
        row(K::NetworkService, "alternate-address", Renamed("alternate-access-address")),
        row(K::NetworkService, "external-address", Renamed("access-address")),
        row(
            K::NetworkService,
            "network-interface-name",
            Refused(
                "use 'address' to say where to listen and 'node-id-interface' in service for the node id",
            ),
        ),
        row(K::Heartbeat, "interface-address", Renamed("address")),
        row(K::Heartbeat, "mcast-ttl", Renamed("multicast-ttl")),
        row(K::Namespace, "background-scan-max-rps", Renamed("background-query-max-rps")),
        row(
            K::Namespace,
            "data-in-index",
            Refused("records have bins and live in the storage engine; leave the line out"),
        ),
        row(K::Namespace, "disable-nsup", Refused("use 'nsup-period 0' to turn nsup off")),
        row(
            K::Namespace,
            "evict-sys-memory-pct",
            Refused(
                "use 'indexes-memory-budget' with 'evict-indexes-memory-pct', and 'evict-used-pct' in storage-engine",
            ),
        ),
        row(K::Namespace, "high-water-disk-pct", ToStorage("evict-used-pct")),
        row(
            K::Namespace,
            "high-water-memory-pct",
            Refused(
                "use 'indexes-memory-budget' with 'evict-indexes-memory-pct', and 'evict-used-pct' in storage-engine",
            ),
        ),
        row(
            K::Namespace,
            "memory-size",
            Refused(
                "records in memory take what 'data-size' in storage-engine memory says, indexes what they need; \
                 limits are 'indexes-memory-budget' and 'stop-writes-sys-memory-pct'",
            ),
        ),
        row(K::Namespace, "single-bin", Refused("every record has any number of bins; leave the line out")),
        row(K::Namespace, "single-scan-threads", Renamed("single-query-threads")),
        row(
            K::Namespace,
            "stop-writes-pct",
            Refused("use 'stop-writes-sys-memory-pct', a share of the system's memory"),
        ),
        row(K::IndexType, "mounts-high-water-pct", Renamed("evict-mounts-pct")),
        row(K::IndexType, "mounts-size-limit", Renamed("mounts-budget")),
        row(K::SindexType, "mounts-high-water-pct", Renamed("evict-mounts-pct")),
        row(K::SindexType, "mounts-size-limit", Renamed("mounts-budget")),
        row(K::Storage, "max-used-pct", Renamed("stop-writes-used-pct")),
        row(K::Storage, "min-avail-pct", Renamed("stop-writes-avail-pct")),
        row(
            K::Storage,
            "data-in-memory",
            Refused(
                "use 'storage-engine memory' with the same 'file' or 'device' lines to keep data in memory",
            ),
        ),
        row(
            K::Storage,
            "disable-odirect",
            Refused("use 'read-page-cache true' to let the system cache what is read"),
        ),
        row(K::Storage, "fsync-max-sec", Refused("use 'flush-max-ms' to bound how long writes wait")),
        row(
            K::Storage,
            "post-write-queue",
            Refused("use 'post-write-cache', a size in bytes: the number of blocks times the block size"),
        ),
        row(
            K::Storage,
            "write-block-size",
            Refused("use 'flush-size' for the size of writes and 'max-record-size' in the namespace"),
        ),
        row(K::Security, "enable-ldap", Refused("an 'ldap' context in security asks for LDAP")),
        row(
            K::Security,
            "enable-security",
            Refused("the presence of the 'security' context asks for security"),
        ),
        row(K::Security, "syslog", Refused("use a 'syslog' sink in logging")),
    ]
};

/// The row of `name` in `context`.
#[must_use]
pub fn find(context: ContextKind, name: &str) -> Option<&'static Obsolete> {
    OBSOLETE.iter().find(|row| row.context == context && row.name == name)
}

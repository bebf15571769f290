//! Names of older and newer versions, and how each is handled.
//!
//! An old name is accepted with a warning if the present name means the same. Otherwise it is refused with a
//! sentence that says what to write instead. A name without effect here, old or new, is skipped with a
//! warning.

use super::context::ContextKind;

/// How a name of another version is handled.
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
    /// It is skipped because it would have no effect; the sentence says why.
    Ignored(&'static str),
    /// It came with this version of the C server, and is skipped.
    NewIn(&'static str),
}

/// One row of [`OBSOLETE`]: names of a context that are handled alike.
#[derive(Debug)]
pub struct Obsolete {
    /// The context the names stood in.
    pub context: ContextKind,
    pub names: &'static [&'static str],
    /// How they are handled.
    pub handling: Handling,
}

const fn row(context: ContextKind, names: &'static [&'static str], handling: Handling) -> Obsolete {
    Obsolete { context, names, handling }
}

/// Advice for a parameter whose feature no longer exists, or needs no setting any more.
const LEAVE_OUT: &str = "it has no successor; leave the line out";
/// Advice for a parameter of the former XDR.
const XDR: &str =
    "destinations are 'dc' contexts in xdr, and shipped namespaces are 'namespace' contexts in them";

/// Advice for a level of one log context in the oldest files.
const LOG_LEVEL: &str = "write 'context CONTEXT LEVEL', for example 'context any info'";

/// All names of parameters and contexts of other versions, also those that could only be read or set while the server
/// ran, because users copied them into files.
pub static OBSOLETE: &[Obsolete] = {
    use ContextKind as K;
    use Handling::{Ignored, NewIn, Refused, Renamed, ToNamespaces, ToStorage};
    &[
        row(
            K::Service,
            &["allow-inline-transactions"],
            Refused("transactions always run on the service threads; use 'service-threads' for their number"),
        ),
        row(K::Service, &["nsup-period"], ToNamespaces("nsup-period")),
        row(K::Service, &["object-size-hist-period"], ToNamespaces("nsup-hist-period")),
        row(
            K::Service,
            &["respond-client-on-master-completion"],
            Refused(
                "use 'write-commit-level-override master' in the namespaces, or the clients' write policy",
            ),
        ),
        row(K::Service, &["scan-max-done"], Renamed("query-max-done")),
        row(K::Service, &["scan-threads-limit"], Renamed("query-threads-limit")),
        row(K::Service, &["transaction-pending-limit"], ToNamespaces("transaction-pending-limit")),
        row(
            K::Service,
            &["transaction-queues"],
            Refused("there are no such queues any more; use 'service-threads' for the number of threads"),
        ),
        row(
            K::Service,
            &["transaction-repeatable-read"],
            Refused(
                "use 'read-consistency-level-override all' in the namespaces, or the clients' read policy",
            ),
        ),
        row(
            K::Service,
            &["transaction-threads-per-queue"],
            Refused("there are no such queues any more; use 'service-threads' for the number of threads"),
        ),
        row(K::NetworkService, &["alternate-address"], Renamed("alternate-access-address")),
        row(K::NetworkService, &["alternate-port"], Renamed("alternate-access-port")),
        row(
            K::NetworkService,
            &["alternate-tls-access-address", "alternate-tls-address"],
            Renamed("tls-alternate-access-address"),
        ),
        row(K::NetworkService, &["alternate-tls-port"], Renamed("tls-alternate-access-port")),
        row(
            K::NetworkService,
            &[
                "tls-cafile",
                "tls-capath",
                "tls-cert-blacklist",
                "tls-certfile",
                "tls-cipher-suite",
                "tls-keyfile",
                "tls-protocols",
            ],
            Refused(
                "a certificate is described once, in 'network { tls NAME { cert-file … key-file … ca-file … } }'; \
                 write 'tls-name NAME' here",
            ),
        ),
        row(
            K::NetworkService,
            &["tls-mode"],
            Refused(
                "write 'tls-authenticate-client any' for authenticate-both, 'tls-authenticate-client false' otherwise",
            ),
        ),
        row(K::NetworkService, &["external-address"], Renamed("access-address")),
        row(
            K::NetworkService,
            &["network-interface-name"],
            Refused(
                "use 'address' to say where to listen and 'node-id-interface' in service for the node id",
            ),
        ),
        row(K::Heartbeat, &["interface-address"], Renamed("address")),
        row(K::Heartbeat, &["mcast-ttl"], Renamed("multicast-ttl")),
        row(K::Namespace, &["background-scan-max-rps"], Renamed("background-query-max-rps")),
        row(
            K::Namespace,
            &["data-in-index"],
            Refused("records are always in the storage engine; leave the line out"),
        ),
        row(K::Namespace, &["disable-nsup"], Refused("use 'nsup-period 0' to turn nsup off")),
        row(
            K::Namespace,
            &["evict-sys-memory-pct"],
            Refused(
                "use 'indexes-memory-budget' with 'evict-indexes-memory-pct', and 'evict-used-pct' in storage-engine",
            ),
        ),
        row(K::Namespace, &["enable-benchmarks-storage"], ToStorage("enable-benchmarks-storage")),
        row(K::Namespace, &["repl-factor"], Renamed("replication-factor")),
        row(K::Namespace, &["high-water-disk-pct"], ToStorage("evict-used-pct")),
        row(
            K::Namespace,
            &["high-water-memory-pct"],
            Refused(
                "use 'indexes-memory-budget' with 'evict-indexes-memory-pct', and 'evict-used-pct' in storage-engine",
            ),
        ),
        row(
            K::Namespace,
            &["memory-size"],
            Refused(
                "'data-size' in storage-engine memory is the memory for records, indexes take what they need; \
                 limits are 'indexes-memory-budget' and 'stop-writes-sys-memory-pct'",
            ),
        ),
        row(
            K::Namespace,
            &["single-bin"],
            Refused("every record has any number of bins; leave the line out"),
        ),
        row(K::Namespace, &["single-scan-threads"], Renamed("single-query-threads")),
        row(
            K::Namespace,
            &["stop-writes-pct"],
            Refused("use 'stop-writes-sys-memory-pct', a share of the system's memory"),
        ),
        row(K::IndexType, &["mounts-high-water-pct"], Renamed("evict-mounts-pct")),
        row(K::IndexType, &["mounts-size-limit"], Renamed("mounts-budget")),
        row(K::SindexType, &["mounts-high-water-pct"], Renamed("evict-mounts-pct")),
        row(K::SindexType, &["mounts-size-limit"], Renamed("mounts-budget")),
        row(K::Storage, &["max-used-pct"], Renamed("stop-writes-used-pct")),
        row(K::Storage, &["min-avail-pct"], Renamed("stop-writes-avail-pct")),
        row(
            K::Storage,
            &["data-in-memory"],
            Refused(
                "use 'storage-engine memory' with the same 'file' or 'device' lines to keep data in memory",
            ),
        ),
        row(
            K::Storage,
            &["disable-odirect"],
            Refused("use 'read-page-cache true' to let the system cache what is read"),
        ),
        row(K::Storage, &["fsync-max-sec"], Refused("use 'flush-max-ms' to bound how long writes wait")),
        row(
            K::Storage,
            &["post-write-queue"],
            Refused("use 'post-write-cache', a size in bytes: the number of blocks times the block size"),
        ),
        row(
            K::Storage,
            &["write-block-size"],
            Refused("use 'flush-size' for the size of writes and 'max-record-size' in the namespace"),
        ),
        row(
            K::Security,
            &["enable-ldap"],
            Refused("users of a directory (LDAP) cannot log in yet; leave the line out"),
        ),
        row(
            K::Security,
            &["enable-security"],
            Refused(
                "the 'security' context alone enables access control; if the value is 'false', remove the whole context, \
                 otherwise this line",
            ),
        ),
        row(K::Security, &["syslog"], Refused("use a 'syslog' sink in logging")),
        row(
            K::Service,
            &["paxos-single-replica-limit"],
            Ignored("the number of replicas does not depend on the size of the cluster; leave the line out"),
        ),
        row(
            K::Service,
            &["batch-threads", "batch-priority", "batch-retransmit", "batch-without-digests"],
            Refused(
                "use 'batch-index-threads' for the number of threads that carry out batches, or leave the line out",
            ),
        ),
        row(
            K::Service,
            &[
                "query-threads",
                "query-worker-threads",
                "query-in-transaction-thread",
                "query-req-in-query-thread",
                "query-req-max-inflight",
            ],
            Refused("use 'query-threads-limit', the number of threads that all queries together may use"),
        ),
        row(
            K::Service,
            &["scan-threads", "scan-max-active", "scan-max-udf-transactions"],
            Refused(
                "scans are queries; use 'query-threads-limit' here and 'single-query-threads' in the namespaces",
            ),
        ),
        row(
            K::Service,
            &[
                "pre-reserve-qnodes",
                "query-batch-size",
                "query-buf-size",
                "query-bufpool-size",
                "query-job-tracking",
                "query-long-q-max-size",
                "query-microbenchmark",
                "query-pre-reserve-partitions",
                "query-pre-reserve-qnodes",
                "query-priority",
                "query-priority-sleep-us",
                "query-rec-count-bound",
                "query-short-q-max-size",
                "query-sleep",
                "query-threshold",
                "query-untracked-time",
                "query-untracked-time-ms",
                "scan-memory",
                "scan-priority",
                "scan-retransmit",
                "scan-sleep",
                "sindex-populator-scan-priority",
            ],
            Refused("queries need no such setting any more; leave the line out"),
        ),
        row(
            K::Service,
            &["sindex-gc-enable-histogram", "sindex-gc-max-rate"],
            Refused(
                "entries of indexes are removed with their records; 'sindex-gc-period' sets the pace of the sweep for others",
            ),
        ),
        row(
            K::Service,
            &["udf-runtime-gmax-memory", "udf-runtime-max-gmemory", "udf-runtime-max-memory"],
            Refused("the resources of a function are limited without a setting; leave the line out"),
        ),
        row(
            K::Service,
            &["sindex-data-max-memory"],
            Refused("use 'indexes-memory-budget' in the namespaces, which counts all of their indexes"),
        ),
        row(
            K::Service,
            &["proto-slow-netio-sleep-ms"],
            Refused("no thread waits for a client that reads slowly; leave the line out"),
        ),
        row(K::Service, &["cluster-id"], Refused("use 'cluster-name'")),
        row(
            K::Service,
            &[
                "defrag-queue-escape",
                "defrag-queue-hwm",
                "defrag-queue-lwm",
                "defrag-queue-priority",
                "use-queue-per-device",
            ],
            Refused("use 'defrag-lwm-pct' and 'defrag-sleep' in storage-engine, or leave the line out"),
        ),
        row(
            K::Service,
            &[
                "nsup-auto-hwm",
                "nsup-auto-hwm-pct",
                "nsup-delete-sleep",
                "nsup-max-deletes",
                "nsup-queue-escape",
                "nsup-queue-hwm",
                "nsup-queue-lwm",
                "nsup-reduce-priority",
                "nsup-reduce-sleep",
                "nsup-startup-evict",
            ],
            Refused("use 'nsup-period' and 'evict-tenths-pct' in the namespaces, or leave the line out"),
        ),
        row(K::Service, &["nsup-threads"], ToNamespaces("nsup-threads")),
        row(
            K::Service,
            &[
                "migrate-priority",
                "migrate-read-priority",
                "migrate-read-sleep",
                "migrate-rx-lifetime-ms",
                "migrate-xmit-hwm",
                "migrate-xmit-lwm",
                "migrate-xmit-priority",
                "migrate-xmit-sleep",
            ],
            Refused("use 'migrate-threads', and 'migrate-sleep' in the namespaces, or leave the line out"),
        ),
        row(
            K::Service,
            &["hist-track-back", "hist-track-slice", "hist-track-thresholds"],
            Refused("the info command 'latencies' needs no setting; leave the line out"),
        ),
        row(K::Service, &["salt-allocations"], Refused("use 'poison-allocations', or leave the line out")),
        row(K::Service, &["client-fd-max"], Renamed("proto-fd-max")),
        row(
            K::Service,
            &["write-duplicate-resolution-disable"],
            Refused("use 'disable-write-dup-res true' in the namespaces"),
        ),
        row(
            K::Service,
            &["replication-fire-and-forget"],
            Refused("use 'write-commit-level-override master' in the namespaces"),
        ),
        row(
            K::Service,
            &[
                "asmalloc-enabled",
                "auto-dun",
                "auto-undun",
                "clib-library",
                "clock-skew-max-ms",
                "downgrading",
                "dump-message-above-size",
                "enable-benchmarks-svc",
                "fabric-dump-msgs",
                "fabric-workers",
                "fb-health-bad-pct",
                "fb-health-good-pct",
                "fb-health-msg-per-burst",
                "fb-health-msg-timeout",
                "generation-disable",
                "ldt-benchmarks",
                "max-msgs-per-type",
                "memory-accounting",
                "microbenchmarks",
                "non-master-sets-delete",
                "paxos-max-cluster-size",
                "paxos-protocol",
                "paxos-recovery-policy",
                "paxos-retransmit-period",
                "prole-extra-ttl",
                "scheduler-priority",
                "scheduler-type",
                "snub-nodes",
                "storage-benchmarks",
                "transaction-duplicate-threads",
                "trial-account-key",
            ],
            Refused(LEAVE_OUT),
        ),
        row(
            K::NetworkService,
            &["reuse-address"],
            Refused("addresses are always reused; leave the line out"),
        ),
        row(
            K::Heartbeat,
            &["mesh-address", "mesh-port"],
            Refused(
                "write both on one line, 'mesh-seed-address-port ADDRESS PORT', one such line for each seed",
            ),
        ),
        row(K::Heartbeat, &["fabric-grace-factor", "mesh-rw-retry-timeout"], Refused(LEAVE_OUT)),
        row(K::NetworkInfo, &["enable-fastpath"], Refused(LEAVE_OUT)),
        row(
            K::Top,
            &["cluster"],
            Refused("use 'rack-id' in the namespaces, and 'cluster-name' and 'node-id' in service"),
        ),
        row(K::Top, &["mod-go"], Refused("functions are written in Lua ('mod-lua'); leave the block out")),
        row(K::Console, &["specific"], Refused(LOG_LEVEL)),
        row(K::LogFile, &["specific"], Refused(LOG_LEVEL)),
        row(
            K::ModLua,
            &["system-path"],
            Refused("the modules of the system are built in; leave the line out"),
        ),
        row(
            K::Namespace,
            &["enable-xdr", "xdr-remote-datacenter", "sets-enable-xdr", "ns-forward-xdr-writes"],
            Refused(
                "'xdr { dc NAME { namespace NAME { … } } }' configures what is shipped; leave the line out",
            ),
        ),
        row(
            K::Namespace,
            &["allow-nonxdr-writes"],
            Refused("use 'reject-non-xdr-writes', which says the opposite"),
        ),
        row(K::Namespace, &["allow-xdr-writes"], Refused("use 'reject-xdr-writes', which says the opposite")),
        row(
            K::Namespace,
            &["high-water-pct", "low-water-pct", "limit-size"],
            Refused(
                "use 'evict-used-pct' and 'stop-writes-used-pct' in storage-engine, or leave the line out",
            ),
        ),
        row(
            K::Namespace,
            &["max-ttl", "max-ttl-set-on-overflow"],
            Refused("times to live have no limit any more; leave the line out"),
        ),
        row(K::Namespace, &["obj-size-hist-max"], Refused("histograms need no limit; leave the line out")),
        row(
            K::Namespace,
            &[
                "si",
                "si-data-max-memory",
                "si-gc-max-units",
                "si-gc-period",
                "si-histogram",
                "si-ignore-not-sync",
                "si-tracing",
                "sindex",
                "sindex-startup-device-scan",
            ],
            Refused("secondary indexes need no setting here; leave it out (limits: 'indexes-memory-budget')"),
        ),
        row(
            K::Namespace,
            &["check-single-bin", "convert-single-bin"],
            Refused("every record has any number of bins; leave the line out"),
        ),
        row(
            K::Namespace,
            &[
                "allow-versions",
                "cold-start-evict-ttl",
                "demo-read-multiplier",
                "demo-write-multiplier",
                "ldt-enabled",
                "ldt-gc-rate",
                "ldt-page-size",
                "partition-tree-locks",
            ],
            Refused(LEAVE_OUT),
        ),
        row(K::Set, &["set-disable-eviction"], Renamed("disable-eviction")),
        row(K::Set, &["set-stop-writes-count", "set-stop-write-count"], Renamed("stop-writes-count")),
        row(
            K::Set,
            &["set-enable-xdr"],
            Refused("sets to ship are 'ship-set' lines in xdr; leave the line out"),
        ),
        row(
            K::Set,
            &["set-evict-hwm-count", "set-evict-hwm-pct", "set-stop-write-pct"],
            Refused("use 'stop-writes-count', or leave the line out"),
        ),
        row(
            K::Storage,
            &["scheduler-mode"],
            Refused(
                "the scheduler of a device is set in the system (/sys/block/DEVICE/queue/scheduler); leave the line out",
            ),
        ),
        row(
            K::Storage,
            &["enable-osync"],
            Refused(
                "each write to a device waits until it is stored, unless 'disable-odsync' is set; leave the line out",
            ),
        ),
        row(
            K::Storage,
            &["commit-min-size"],
            Refused("the size of a commit needs no setting; leave the line out"),
        ),
        row(
            K::Storage,
            &["defrag-max-blocks", "defrag-period", "write-smoothing-period", "write-threads"],
            Refused("use 'defrag-sleep' and 'max-write-cache', or leave the line out"),
        ),
        row(
            K::Storage,
            &["load-at-startup", "memory-all", "persist", "readonly", "signature"],
            Refused(LEAVE_OUT),
        ),
        row(K::Security, &["ldap-login-threads"], Refused("use 'login-threads' in the 'ldap' context")),
        row(K::Ldap, &["session-ttl"], Refused("use 'session-ttl' in security")),
        row(
            K::Xdr,
            &["datacenter"],
            Refused("write 'dc NAME { node-address-port ADDRESS PORT namespace NAME { } }' instead"),
        ),
        row(
            K::Xdr,
            &[
                "enable-change-notification",
                "enable-xdr",
                "enable-xdr-logging",
                "forward-xdr-writes",
                "xdr-client-threads",
                "xdr-compression-threshold",
                "xdr-delete-shipping-enabled",
                "xdr-digest-logging",
                "xdr-digestlog-iowait-ms",
                "xdr-digestlog-path",
                "xdr-errorlog-level",
                "xdr-errorlog-path",
                "xdr-forward-with-gencheck",
                "xdr-hotkey-maxskip",
                "xdr-hotkey-time-ms",
                "xdr-info-port",
                "xdr-info-timeout",
                "xdr-local-port",
                "xdr-max-recs-inflight",
                "xdr-max-ship-bandwidth",
                "xdr-max-ship-throughput",
                "xdr-min-digestlog-free-pct",
                "xdr-namedpipe-path",
                "xdr-nsup-deletes-enabled",
                "xdr-pidfile",
                "xdr-read-batch-size",
                "xdr-read-threads",
                "xdr-ship-bins",
                "xdr-ship-delay",
                "xdr-shipping-enabled",
                "xdr-threads",
                "xdr-timeout",
                "xdr-write-timeout",
                "stop-writes-noxdr",
            ],
            Refused(XDR),
        ),
        row(K::XdrDc, &["max-used-service-threads"], Refused("leave the line out")),
        row(
            K::XdrNamespace,
            &["ship-only-specified-bins"],
            Refused("use 'bin-policy changed-and-specified'"),
        ),
        row(K::Namespace, &["tomb-raider-unmark-threads"], NewIn("8.1")),
        row(K::XdrDc, &["recovery-threads"], NewIn("8.1")),
    ]
};

/// How `name` in `context` is handled, if it is of another version.
#[must_use]
pub fn find(context: ContextKind, name: &str) -> Option<Handling> {
    let row = OBSOLETE.iter().find(|row| row.context == context && row.names.contains(&name));
    row.map(|row| row.handling)
}

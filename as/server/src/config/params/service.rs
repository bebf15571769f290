//! Parameters of the `service` context: the process as a whole.

use crate::config::setting::{Choice, Flag, List, Number, Text, choices};
use crate::config::spec::{
    any_seconds, any_u32, any_u64, bare_boolean, boolean, choice, hex, joined, number, params, paths,
    short_text, text,
};

/// The work directory unless configured.
pub const WORK_DIRECTORY_DEFAULT: &str = "/opt/aerospike";
/// Name of the cluster unless configured.
pub const CLUSTER_NAME_DEFAULT: &str = "ferrospike";
/// Greatest length of a cluster name in bytes.
pub const CLUSTER_NAME_SIZE_MAX: usize = 63;

choices! {
    /// How threads are tied to processors.
    pub enum AutoPin {
        /// Not at all.
        None = "none",
        /// Each service thread to one processor.
        Cpu = "cpu",
        /// The process to one NUMA node.
        Numa = "numa",
        /// Service threads to the queues of the network card.
        Adq = "adq",
    }
}

params! {
    /// The `service` context.
    pub struct ServiceParams {
        /// Also listens on IPv6 addresses of interfaces and of any, and tells clients and peers about them; read at start.
        advertise_ipv6: Flag = false, boolean("advertise-ipv6").dynamic();
        /// Ties threads to processors: none, per processor (cpu), per NUMA node (numa) or per network queue (adq).
        auto_pin: Choice<AutoPin> = AutoPin::None, choice::<AutoPin>("auto-pin").later();
        /// Threads that answer large batch requests.
        batch_index_threads: Number<u32> = 0, number("batch-index-threads", 1, 256).dynamic()
            .note("one per processor");
        /// Reply buffers a batch thread may have in its queue; a batch that needs more is refused.
        batch_max_buffers_per_queue: Number<u32> = 255, any_u32("batch-max-buffers-per-queue").dynamic().later();
        /// Sub-requests a batch request may have; 0 means no limit.
        batch_max_requests: Number<u32> = 0, any_u32("batch-max-requests").dynamic();
        /// Unused reply buffers kept for reuse.
        batch_max_unused_buffers: Number<u32> = 256, any_u32("batch-max-unused-buffers").dynamic().later();
        /// Takes a memory limit of the control group for the size of the memory, which this server always does.
        cgroup_mem_tracking: Flag = false, boolean("cgroup-mem-tracking").hidden();
        /// Name of the cluster; nodes of another name are not joined.
        cluster_name: Text = Some(CLUSTER_NAME_DEFAULT),
            short_text("cluster-name", CLUSTER_NAME_SIZE_MAX).dynamic();
        /// Records where memory was allocated, for debugging of the C server.
        debug_allocations: Flag = false, boolean("debug-allocations").unsupported();
        /// Refuses every request that would run a UDF.
        disable_udf_execution: Flag = false, boolean("disable-udf-execution");
        /// Measures how long messages between nodes take.
        enable_benchmarks_fabric: Flag = false, boolean("enable-benchmarks-fabric").dynamic().later();
        /// Finds devices that read more slowly than the others.
        enable_health_check: Flag = false, boolean("enable-health-check").dynamic();
        /// Measures how long info requests take.
        enable_hist_info: Flag = false, boolean("enable-hist-info").dynamic();
        /// Refuses to start if a best practice is not followed.
        enforce_best_practices: Flag = false, boolean("enforce-best-practices");
        /// File with the feature key of the Enterprise Edition; no feature of this server needs one.
        feature_key_file: List<String> = [], paths("feature-key-file", 32).enterprise().unsupported();
        /// Operating system group the process runs as.
        group: Text = None, text("group").hidden();
        /// Shifts allocated memory, for debugging of the C server.
        indent_allocations: Flag = false, boolean("indent-allocations").unsupported();
        /// Milliseconds an info request may wait before it is dropped.
        info_max_ms: Number<u64> = 10_000, number("info-max-ms", 500, 10_000).dynamic();
        /// Threads that answer info requests.
        info_threads: Number<u32> = 16, number("info-threads", 1, 256).dynamic();
        /// Keeps the privilege to read the health of SSDs.
        keep_caps_ssd_health: Flag = false, boolean("keep-caps-ssd-health").later();
        /// Writes local time instead of UTC into the log.
        log_local_time: Flag = false, boolean("log-local-time");
        /// Writes milliseconds into the log.
        log_millis: Flag = false, boolean("log-millis");
        /// Measures latencies in microseconds instead of milliseconds.
        microsecond_histograms: Flag = false, boolean("microsecond-histograms").dynamic();
        /// Seconds to wait before filling partitions that a missing node left behind.
        migrate_fill_delay: Number<u32> = 0, any_seconds("migrate-fill-delay").dynamic().enterprise();
        /// Partitions that may be received at the same time.
        migrate_max_num_incoming: Number<u32> = 4, number("migrate-max-num-incoming", 0, 256).dynamic();
        /// Threads that send partitions to other nodes; 0 stops sending.
        migrate_threads: Number<u32> = 1, number("migrate-threads", 0, 100).dynamic();
        /// A cluster of fewer nodes is not formed.
        min_cluster_size: Number<u32> = 1, number("min-cluster-size", 0, 8).dynamic();
        /// Id of this node in the cluster, hexadecimal.
        node_id: Number<u64> = 0, hex("node-id").note("made from the fabric port and a hardware address");
        /// Network interface whose hardware address goes into the node id.
        node_id_interface: Text = None, text("node-id-interface");
        /// Makes new files writable for the group.
        os_group_perms: Flag = false, boolean("os-group-perms");
        /// File that holds the process id while the server runs.
        pidfile: Text = None, text("pidfile");
        /// Overwrites freed memory, for debugging of the C server.
        poison_allocations: Flag = false, boolean("poison-allocations").unsupported();
        /// Milliseconds after which an idle client connection is closed; 0 means never.
        proto_fd_idle_ms: Number<u32> = 0, any_u32("proto-fd-idle-ms").dynamic();
        /// Client connections that may be open at the same time.
        proto_fd_max: Number<u32> = 15_000, number("proto-fd-max", 1_024, 2_147_483_647).dynamic();
        /// Freed memory blocks kept for a while, for debugging of the C server.
        quarantine_allocations: Number<u32> = 0, number("quarantine-allocations", 0, 100_000_000).unsupported();
        /// Finished queries that query-show still lists.
        query_max_done: Number<u32> = 100, number("query-max-done", 0, 10_000).dynamic();
        /// Threads that all queries together may use.
        query_threads_limit: Number<u32> = 128, number("query-threads-limit", 1, 1_024).dynamic();
        /// Detaches from the terminal at start.
        run_as_daemon: Flag = true, bare_boolean("run-as-daemon");
        /// Address, port and perhaps TLS name of the secret agent.
        secrets_address_port: Text = None, joined("secrets-address-port", 2, 3).enterprise().unsupported();
        /// TLS context for the secret agent.
        secrets_tls_context: Text = None, text("secrets-tls-context").enterprise().unsupported();
        /// Unix socket of the secret agent.
        secrets_uds_path: Text = None, text("secrets-uds-path").enterprise().unsupported();
        /// Threads that may serve client connections; only as many as the load needs do.
        service_threads: Number<u32> = 0, number("service-threads", 1, 4_096).dynamic()
            .note("one per processor, five per processor if a namespace is stored on devices");
        /// Threads that fill new secondary indexes.
        sindex_builder_threads: Number<u32> = 4, number("sindex-builder-threads", 1, 32).dynamic();
        /// Pace of the sweep that removes entries of secondary indexes whose records were damaged: it passes through all
        /// indexes once in about 370 times so many seconds; 0 means never.
        sindex_gc_period: Number<u32> = 10, any_u32("sindex-gc-period").dynamic();
        /// Joins the cluster quiesced.
        stay_quiesced: Flag = false, boolean("stay-quiesced").enterprise();
        /// Seconds between the statistics lines in the log; 0 means none.
        ticker_interval: Number<u32> = 10, any_u32("ticker-interval").dynamic();
        /// Seconds between checks whether TLS certificates have changed; 0 means never.
        tls_refresh_period: Number<u32> = 60, any_seconds("tls-refresh-period").dynamic().enterprise();
        /// Milliseconds that a request without a timeout of its own may wait before it is carried out; it is answered with a
        /// timeout then. Single requests do not wait; rows of batches do, for those before them.
        transaction_max_ms: Number<u64> = 1_000, any_u64("transaction-max-ms").dynamic();
        /// Milliseconds before a message to another node is repeated.
        transaction_retry_ms: Number<u32> = 1_002, any_u32("transaction-retry-ms").dynamic().later();
        /// Operating system user the process runs as.
        user: Text = None, text("user").hidden();
        /// Certificate of the Vault server.
        vault_ca: Text = None, text("vault-ca").enterprise().unsupported();
        /// Namespace in the Vault server.
        vault_namespace: Text = None, text("vault-namespace").enterprise().unsupported();
        /// Path of the secrets in the Vault server.
        vault_path: Text = None, text("vault-path").enterprise().unsupported();
        /// File with the token for the Vault server.
        vault_token_file: Text = None, text("vault-token-file").dynamic().enterprise().unsupported();
        /// Address of the Vault server.
        vault_url: Text = None, text("vault-url").enterprise().unsupported();
        /// Directory for what the server keeps besides records and its log: definitions of indexes, users, modules of Lua.
        work_directory: Text = Some(WORK_DIRECTORY_DEFAULT), text("work-directory");
    }
}

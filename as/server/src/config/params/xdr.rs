//! Parameters of the `xdr` context: replication to other data centres. Nothing reads them yet.

use crate::config::setting::{Choice, Flag, List, Number, Text, choices};
use crate::config::spec::{
    any_u32, boolean, choice, multiple_of, number, params, power_of_2, seconds, short_text, text, texts,
    tls_endpoints,
};
use crate::config::value::Endpoint;

choices! {
    /// How this cluster authenticates itself to another.
    pub enum AuthMode {
        /// Not at all.
        None = "none",
        /// With a password of that cluster.
        Internal = "internal",
        /// With a password of a directory, over TLS.
        External = "external",
        /// With a password of a directory.
        ExternalInsecure = "external-insecure",
        /// With a certificate.
        Pki = "pki",
    }

    /// Which bins of a changed record are shipped.
    pub enum BinPolicy {
        /// All.
        All = "all",
        /// None.
        NoBins = "no-bins",
        /// Those that changed.
        OnlyChanged = "only-changed",
        /// Those that changed and are listed.
        ChangedAndSpecified = "changed-and-specified",
        /// Those that changed or are listed.
        ChangedOrSpecified = "changed-or-specified",
    }

    /// Which versions of a record are shipped.
    pub enum ShipVersionsPolicy {
        /// The latest.
        Latest = "latest",
        /// All.
        All = "all",
        /// At least one per interval.
        Interval = "interval",
    }

    /// How shipped records are written.
    pub enum WritePolicy {
        /// As the bin policy suggests.
        Auto = "auto",
        /// Over the existing record.
        Update = "update",
        /// In place of the existing record.
        Replace = "replace",
    }
}

params! {
    /// The `xdr` context.
    pub struct XdrParams {
        /// Number of this cluster among those that ship to each other.
        src_id: Number<u32> = 0, number("src-id", 1, 255).dynamic().enterprise().note("none");
    }
}

params! {
    /// An `xdr.dc` context: another data centre.
    pub struct XdrDcParams {
        /// How this cluster authenticates itself there.
        auth_mode: Choice<AuthMode> = AuthMode::None, choice::<AuthMode>("auth-mode").dynamic().enterprise();
        /// File with the password.
        auth_password_file: Text = None, text("auth-password-file").dynamic().enterprise();
        /// User to authenticate as.
        auth_user: Text = None, short_text("auth-user", 63).dynamic().enterprise();
        /// The other side is a connector, not a cluster.
        connector: Flag = false, boolean("connector").dynamic().enterprise();
        /// Partitions recovered at the same time; 0 means all.
        max_recoveries_interleaved: Number<u32> = 0, any_u32("max-recoveries-interleaved").dynamic().enterprise();
        /// Address and port of a node there; may be repeated.
        node_address_port: List<Endpoint> = [], tls_endpoints("node-address-port", 1_024).dynamic().enterprise();
        /// Milliseconds between searches for changed records.
        period_ms: Number<u32> = 100, number("period-ms", 5, 1_000).dynamic().enterprise();
        /// TLS context for connections.
        tls_name: Text = None, text("tls-name").dynamic().enterprise();
        /// Asks the other side for its alternate addresses.
        use_alternate_access_address: Flag = false, boolean("use-alternate-access-address").dynamic().enterprise();
    }
}

params! {
    /// An `xdr.dc.namespace` context: what is shipped of a namespace.
    pub struct XdrNamespaceParams {
        /// Which bins of a changed record are shipped.
        bin_policy: Choice<BinPolicy> = BinPolicy::All, choice::<BinPolicy>("bin-policy").dynamic().enterprise();
        /// Effort of compression.
        compression_level: Number<u32> = 1, number("compression-level", 1, 9).dynamic().enterprise();
        /// Smallest size in bytes of records that are compressed.
        compression_threshold: Number<u32> = 128,
            number("compression-threshold", 128, u32::MAX as u64).dynamic().enterprise();
        /// Milliseconds to wait before a changed record is shipped.
        delay_ms: Number<u32> = 0, number("delay-ms", 0, 5_000).dynamic().enterprise();
        /// Compresses shipped records.
        enable_compression: Flag = false, boolean("enable-compression").dynamic().enterprise();
        /// Also ships records that came from another cluster.
        forward: Flag = false, boolean("forward").dynamic().enterprise();
        /// Milliseconds before a record that changes all the time is shipped again.
        hot_key_ms: Number<u32> = 100, number("hot-key-ms", 0, 5_000).dynamic().enterprise();
        /// A bin that is not shipped; may be repeated.
        ignore_bin: List<String> = [], texts("ignore-bin", 4_096, 15).dynamic().enterprise();
        /// Does not ship deletes that leave no tombstone.
        ignore_expunges: Flag = false, boolean("ignore-expunges").dynamic().enterprise();
        /// A set that is not shipped; may be repeated.
        ignore_set: List<String> = [], texts("ignore-set", 4_095, 63).dynamic().enterprise();
        /// Records per second that may be shipped; 0 means no limit.
        max_throughput: Number<u32> = 100_000, multiple_of("max-throughput", 100).dynamic().enterprise();
        /// Name of the namespace on the other side.
        remote_namespace: Text = None, short_text("remote-namespace", 31).dynamic().enterprise();
        /// Milliseconds to wait for replicas with strong consistency.
        sc_replication_wait_ms: Number<u32> = 100, number("sc-replication-wait-ms", 5, 1_000).dynamic().enterprise();
        /// A bin that is shipped; may be repeated.
        ship_bin: List<String> = [], texts("ship-bin", 4_096, 15).dynamic().enterprise();
        /// Ships the times at which bins changed.
        ship_bin_luts: Flag = false, boolean("ship-bin-luts").dynamic().enterprise();
        /// Ships what expires or is evicted.
        ship_nsup_deletes: Flag = false, boolean("ship-nsup-deletes").dynamic().enterprise();
        /// Ships only the sets listed with ship-set.
        ship_only_specified_sets: Flag = false, boolean("ship-only-specified-sets").dynamic().enterprise();
        /// A set that is shipped; may be repeated.
        ship_set: List<String> = [], texts("ship-set", 4_095, 63).dynamic().enterprise();
        /// Seconds within which one version is shipped with ship-versions-policy interval.
        ship_versions_interval: Number<u32> = 60, seconds("ship-versions-interval", 1, 3_600).dynamic().enterprise();
        /// Which versions of a record are shipped.
        ship_versions_policy: Choice<ShipVersionsPolicy> = ShipVersionsPolicy::Latest,
            choice::<ShipVersionsPolicy>("ship-versions-policy").dynamic().enterprise();
        /// Changes that may wait to be shipped.
        transaction_queue_limit: Number<u32> = 16_384,
            power_of_2("transaction-queue-limit", 1_024, 1_048_576).dynamic().enterprise();
        /// How shipped records are written.
        write_policy: Choice<WritePolicy> = WritePolicy::Auto, choice::<WritePolicy>("write-policy").dynamic().enterprise();
    }
}

//! Parameters of the `network` context: where the server listens and how nodes find each other.

use crate::config::setting::{Choice, Flag, List, Number, Text, choices};
use crate::config::spec::variant::{MESH, MULTICAST};
use crate::config::spec::{
    addresses, any_u32, boolean, choice, endpoints, number, params, port, text, texts, told_port,
};
use crate::config::value::Endpoint;

/// Maximum number of lines with seeds; seeds of some nodes are enough in a larger cluster.
pub const MESH_SEEDS_MAX: usize = 128;

params! {
    /// The `network.service` context: client connections.
    pub struct NetworkServiceParams {
        /// Port that clients are told to use.
        access_port: Number<u16> = 0, told_port("access-port").note("port");
        /// Address that clients are told to use; may be repeated.
        access_address: List<String> = [], addresses("access-address").note("the addresses bound to");
        /// Address, host name or interface to listen on (any: all); may be repeated.
        address: List<String> = [], addresses("address").note("any");
        /// Port told to clients that ask for the alternate address.
        alternate_access_port: Number<u16> = 0, told_port("alternate-access-port").note("access-port");
        /// Address told to clients that ask for the alternate one; may be repeated.
        alternate_access_address: List<String> = [], addresses("alternate-access-address");
        /// Port to listen on for clients.
        port: Number<u16> = 0, port("port").note("must be given, or tls-port");
        /// Port to listen on for clients with TLS.
        tls_port: Number<u16> = 0, port("tls-port").enterprise();
        /// Address to listen on for clients with TLS; may be repeated.
        tls_address: List<String> = [], addresses("tls-address").enterprise();
        /// Port that clients with TLS are told to use.
        tls_access_port: Number<u16> = 0, told_port("tls-access-port").enterprise();
        /// Address that clients with TLS are told to use; may be repeated.
        tls_access_address: List<String> = [], addresses("tls-access-address").enterprise();
        /// Port told to clients with TLS that ask for the alternate address.
        tls_alternate_access_port: Number<u16> = 0, told_port("tls-alternate-access-port").enterprise();
        /// Address told to clients with TLS that ask for the alternate one; may be repeated.
        tls_alternate_access_address: List<String> = [],
            addresses("tls-alternate-access-address").enterprise();
        /// TLS context whose certificate clients see.
        tls_name: Text = None, text("tls-name").enterprise();
        /// Whose certificates are accepted from clients: any, false (none asked for) or a name; may be repeated.
        tls_authenticate_client: List<String> = [],
            texts("tls-authenticate-client", 250, usize::MAX).enterprise().note("any");
        /// Does not listen on the loopback interface beside the configured addresses.
        disable_localhost: Flag = false, boolean("disable-localhost");
    }
}

choices! {
    /// How nodes find each other.
    pub enum HeartbeatMode {
        /// Each connects to each, starting from seeds.
        Mesh = "mesh",
        /// By packets to a multicast group.
        Multicast = "multicast",
    }

    /// Version of the heartbeat messages.
    pub enum HeartbeatProtocol {
        /// None are sent.
        None = "none",
        /// The current one.
        V3 = "v3",
    }
}

params! {
    /// The `network.heartbeat` context.
    pub struct HeartbeatParams {
        /// How nodes find each other: mesh (from seeds) or multicast.
        mode: Choice<HeartbeatMode> = HeartbeatMode::Mesh, choice::<HeartbeatMode>("mode");
        /// Address, host name or interface for heartbeats; may be repeated.
        address: List<String> = [], addresses("address").note("any");
        /// Multicast address of the cluster; may be repeated.
        multicast_group: List<String> = [], addresses("multicast-group").shown_by(MULTICAST);
        /// Port for heartbeats.
        port: Number<u16> = 0, port("port").note("must be given to form a cluster");
        /// Routers a multicast heartbeat may pass; 0 means as the system does.
        multicast_ttl: Number<u16> = 0, number("multicast-ttl", 0, 255).shown_by(MULTICAST);
        /// Address for heartbeats with TLS; may be repeated.
        tls_address: List<String> = [], addresses("tls-address").enterprise().shown_by(MESH);
        /// Port for heartbeats with TLS.
        tls_port: Number<u16> = 0, port("tls-port").enterprise().shown_by(MESH);
        /// TLS context for heartbeats.
        tls_name: Text = None, text("tls-name").enterprise().shown_by(MESH);
        /// Address and port of another node of the cluster; may be repeated.
        mesh_seed_address_port: List<Endpoint> = [],
            endpoints("mesh-seed-address-port", MESH_SEEDS_MAX).shown_by(MESH);
        /// Address and port of another node of the cluster, with TLS; may be repeated.
        tls_mesh_seed_address_port: List<Endpoint> = [],
            endpoints("tls-mesh-seed-address-port", MESH_SEEDS_MAX).shown_by(MESH);
        /// Milliseconds between heartbeats.
        interval: Number<u32> = 150, number("interval", 50, 600_000).dynamic();
        /// Missed heartbeats after which a node counts as gone.
        timeout: Number<u32> = 10, number("timeout", 3, u32::MAX as u64).dynamic();
        /// Milliseconds a connection to another node may take; at most interval × timeout / 3.
        connect_timeout_ms: Number<u32> = 500, number("connect-timeout-ms", 50, u32::MAX as u64).dynamic();
        /// Greatest size of a multicast heartbeat in bytes.
        mtu: Number<u32> = 0, any_u32("mtu").dynamic().note("that of the interface");
        /// Version of the heartbeat messages.
        protocol: Choice<HeartbeatProtocol> = HeartbeatProtocol::V3,
            choice::<HeartbeatProtocol>("protocol").dynamic();
    }
}

params! {
    /// The `network.fabric` context: messages between nodes.
    pub struct FabricParams {
        /// Address, host name or interface for other nodes; may be repeated.
        address: List<String> = [], addresses("address").note("any");
        /// Address for other nodes with TLS; may be repeated.
        tls_address: List<String> = [], addresses("tls-address").enterprise();
        /// Port for other nodes with TLS.
        tls_port: Number<u16> = 0, port("tls-port").enterprise();
        /// TLS context for other nodes.
        tls_name: Text = None, text("tls-name").enterprise();
        /// Connections per node for migrations.
        channel_bulk_fds: Number<u32> = 2, number("channel-bulk-fds", 1, 128);
        /// Threads that receive migrations.
        channel_bulk_recv_threads: Number<u32> = 4, number("channel-bulk-recv-threads", 1, 128).dynamic();
        /// Connections per node for clustering.
        channel_ctrl_fds: Number<u32> = 1, number("channel-ctrl-fds", 1, 128);
        /// Threads that receive clustering messages.
        channel_ctrl_recv_threads: Number<u32> = 4, number("channel-ctrl-recv-threads", 1, 128).dynamic();
        /// Connections per node for system metadata.
        channel_meta_fds: Number<u32> = 1, number("channel-meta-fds", 1, 128);
        /// Threads that receive system metadata.
        channel_meta_recv_threads: Number<u32> = 4, number("channel-meta-recv-threads", 1, 128).dynamic();
        /// Connections per node for transactions.
        channel_rw_fds: Number<u32> = 8, number("channel-rw-fds", 1, 128);
        /// Groups into which the connections for transactions are divided.
        channel_rw_recv_pools: Number<u32> = 1, number("channel-rw-recv-pools", 1, 16).later();
        /// Threads that receive transactions; a multiple of channel-rw-recv-pools.
        channel_rw_recv_threads: Number<u32> = 16, number("channel-rw-recv-threads", 1, 128).dynamic();
        /// Probes idle connections.
        keepalive_enabled: Flag = true, boolean("keepalive-enabled");
        /// Seconds between probes.
        keepalive_intvl: Number<u32> = 1, any_u32("keepalive-intvl");
        /// Unanswered probes after which a connection counts as broken.
        keepalive_probes: Number<u32> = 10, any_u32("keepalive-probes");
        /// Seconds of idleness before the first probe.
        keepalive_time: Number<u32> = 1, any_u32("keepalive-time");
        /// Milliseconds a message may be under way at most, for the clocks of strong consistency.
        latency_max_ms: Number<u32> = 5, number("latency-max-ms", 0, 1_000);
        /// Port for other nodes.
        port: Number<u16> = 0, port("port").note("must be given to form a cluster");
        /// Bytes received in one go before a connection goes back to the end of the queue.
        recv_rearm_threshold: Number<u32> = 1_024, number("recv-rearm-threshold", 0, 1_048_576).dynamic().later();
        /// Threads that send messages to other nodes.
        send_threads: Number<u32> = 8, number("send-threads", 1, 128).later();
    }
}

params! {
    /// The `network.admin` context: one more port for clients, that of operators. The C server has it from 8.1 on.
    pub struct AdminParams {
        /// Address, host name or interface to listen on; may be repeated.
        address: List<String> = [], addresses("address").note("any").hidden();
        /// Does not listen on the loopback interface beside the configured addresses.
        disable_localhost: Flag = false, boolean("disable-localhost").hidden();
        /// Port for clients that connect even when proto-fd-max of them have.
        port: Number<u16> = 0, port("port").note("none").hidden();
        /// Address to listen on with TLS; may be repeated.
        tls_address: List<String> = [], addresses("tls-address").enterprise().hidden();
        /// Whose certificates are accepted: any, false (none asked for) or a name; may be repeated.
        tls_authenticate_client: List<String> = [],
            texts("tls-authenticate-client", 250, usize::MAX).enterprise().hidden();
        /// TLS context whose certificate is shown.
        tls_name: Text = None, text("tls-name").enterprise().hidden();
        /// Port with TLS.
        tls_port: Number<u16> = 0, port("tls-port").enterprise().hidden();
    }
}

params! {
    /// The `network.info` context: a port for info requests in plain text.
    pub struct NetworkInfoParams {
        /// Address, host name or interface to listen on; may be repeated.
        address: List<String> = [], addresses("address").note("any");
        /// Port for info requests in plain text.
        port: Number<u16> = 0, port("port").note("none");
    }
}

params! {
    /// The `network.metrics` context: figures for Prometheus over HTTP. Not known to the C server.
    pub struct MetricsParams {
        /// Address, host name or interface to listen on; may be repeated.
        address: List<String> = [], addresses("address").note("any").hidden();
        /// Port for HTTP requests of /metrics, /healthz and /readyz.
        port: Number<u16> = 0, port("port").note("none").hidden();
    }
}

params! {
    /// A `network.tls` context: a certificate with its key.
    pub struct TlsParams {
        /// File with the certificates that sign those of others.
        ca_file: Text = None, text("ca-file").enterprise();
        /// Directory with the certificates that sign those of others.
        ca_path: Text = None, text("ca-path").enterprise();
        /// File that lists certificates not accepted any more.
        cert_blacklist: Text = None, text("cert-blacklist").enterprise();
        /// File with the server's certificate.
        cert_file: Text = None, text("cert-file").enterprise();
        /// Ciphers that may be used.
        cipher_suite: Text = None, text("cipher-suite").enterprise();
        /// File with the server's key.
        key_file: Text = None, text("key-file").enterprise();
        /// Where to find the password of the key.
        key_file_password: Text = None, text("key-file-password").enterprise();
        /// Takes the organizational unit in a client's certificate for a part of the user's name: `NAME.UNIT`.
        pki_user_append_ou: Flag = false, boolean("pki-user-append-ou").enterprise().hidden();
        /// Versions of the protocol that may be used.
        protocols: Text = Some("TLSv1.2"), text("protocols").enterprise();
    }
}

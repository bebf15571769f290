//! Several servers on this machine that form a cluster.

use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::ports::free_port;
use crate::server::{BASICS, Server};
use crate::tls::{Authority, Wish};

/// Longest time for a cluster to form or to become complete again.
const STABLE_MAX: Duration = Duration::from_secs(60);

/// A namespace in memory with two copies of each record.
pub const IN_MEMORY: &str = "
namespace test {
    replication-factor 2
    storage-engine memory {
        data-size 1G
    }
}
";

/// This is so small that pulses of a node with neighbours are compressed.
const MULTICAST_MTU: u32 = 300;

/// The name in the certificates of nodes.
pub const CLUSTER_NAME: &str = "as_cluster_west";

/// The nodes that a configuration names as seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seeds {
    All,
    /// Only the node itself.
    Own,
    /// None for the first node, and the first node for the others.
    First,
    None,
}

/// The nodes of a cluster, their heartbeat ports and their configurations.
#[derive(Debug)]
pub struct Nodes {
    /// The servers. Their node ids begin at A0.
    pub servers: Vec<Server>,
    namespaces: String,
    heartbeats: Vec<u16>,
    fabrics: Vec<u16>,
    seeds: Seeds,
    /// Whether the nodes find each other by multicast, on the port of the first node.
    use_multicast: bool,
    /// Folder with the shared certificate, if the nodes use TLS.
    tls: Option<TempDir>,
}

impl Nodes {
    /// Starts `count` nodes with these namespaces. All nodes are seeds of each node. The cluster may not have
    /// formed when this returns.
    pub fn start(count: usize, namespaces: &str) -> Nodes {
        Nodes::start_some(count, count, namespaces)
    }

    /// Same as [`start`](Self::start), with seeds for `count` nodes, but only `started` nodes are started.
    pub fn start_some(count: usize, started: usize, namespaces: &str) -> Nodes {
        let mut nodes = Nodes::prepare(count, namespaces, None);
        (0..started).for_each(|_| nodes.start_next());
        nodes
    }

    /// Starts `count` nodes that do not know each other.
    pub fn start_apart(count: usize, namespaces: &str) -> Nodes {
        let mut nodes = Nodes::prepare(count, namespaces, None);
        nodes.seeds = Seeds::Own;
        (0..count).for_each(|_| nodes.start_next());
        nodes
    }

    /// Starts `count` nodes without seeds, each a cluster of its own.
    pub fn start_seedless(count: usize, namespaces: &str) -> Nodes {
        let mut nodes = Nodes::prepare(count, namespaces, None);
        nodes.seeds = Seeds::None;
        (0..count).for_each(|_| nodes.start_next());
        nodes
    }

    /// Starts a node without seeds, and `count` - 1 nodes whose seed it is.
    pub fn start_around_first(count: usize, namespaces: &str) -> Nodes {
        let mut nodes = Nodes::prepare(count, namespaces, None);
        nodes.seeds = Seeds::First;
        (0..count).for_each(|_| nodes.start_next());
        nodes
    }

    /// Same as [`start_some`](Self::start_some), with nodes that find each other by multicast and compress their pulses.
    pub fn start_by_multicast(count: usize, started: usize, namespaces: &str) -> Nodes {
        let mut nodes = Nodes::prepare(count, namespaces, None);
        nodes.use_multicast = true;
        (0..started).for_each(|_| nodes.start_next());
        nodes
    }

    /// The group and port on which nodes find each other by multicast. No other test uses this group.
    pub fn multicast_group(&self) -> (Ipv4Addr, u16) {
        let port = self.heartbeats[0];
        let [high, low] = port.to_be_bytes();
        (Ipv4Addr::new(239, 77, high, low), port)
    }

    fn prepare(count: usize, namespaces: &str, tls: Option<TempDir>) -> Nodes {
        let ports = || (0..count).map(|_| free_port()).collect();
        Nodes {
            servers: Vec::new(),
            namespaces: namespaces.to_owned(),
            heartbeats: ports(),
            fabrics: ports(),
            seeds: Seeds::All,
            use_multicast: false,
            tls,
        }
    }

    /// Starts the next node.
    pub fn start_next(&mut self) {
        self.add(Server::start(&self.config(self.servers.len())));
    }

    /// As [`start_next`](Self::start_next), for a node in which faults may be injected.
    pub fn start_next_with_faults(&mut self) {
        self.add(Server::start_with_faults(&self.config(self.servers.len())));
    }

    fn add(&mut self, mut server: Server) {
        // The log has lines about clients that send requests too early.
        server.allow("unstable cluster");
        server.allow("cluster not specified size");
        server.allow("did not run for");
        server.allow("seeds that cannot be reached");
        self.servers.push(server);
    }

    /// Tells the first node the addresses of all other nodes.
    pub fn bring_together(&self) {
        for port in &self.heartbeats[1..] {
            assert_eq!(self.info(0, &format!("tip:host=127.0.0.1;port={port}")), "ok");
        }
    }

    /// Tells one node the address of another node.
    pub fn bring_together_from(&self, number: usize, other: usize) {
        let port = self.heartbeats[other];
        assert_eq!(self.info(number, &format!("tip:host=127.0.0.1;port={port}")), "ok");
    }

    /// Same as [`start`](Self::start), but the nodes speak only TLS with each other, with certificates of
    /// `authority`. One more node can be added.
    pub fn start_with_tls(count: usize, namespaces: &str, authority: &Authority) -> Nodes {
        let folder = tempfile::tempdir().expect("a folder");
        authority.write_files(folder.path(), &authority.issue(Wish::named(CLUSTER_NAME)));
        let mut nodes = Nodes::prepare(count + 1, namespaces, Some(folder));
        (0..count).for_each(|_| nodes.start_next());
        nodes
    }

    /// The heartbeat and fabric ports of a node.
    pub fn ports(&self, number: usize) -> [u16; 2] {
        [self.heartbeats[number], self.fabrics[number]]
    }

    /// The folder with the files of TLS.
    pub fn tls_folder(&self) -> &Path {
        self.tls.as_ref().expect("nodes with TLS").path()
    }

    /// The configuration of a node.
    pub fn config(&self, number: usize) -> String {
        self.config_with(number, self.tls.as_ref().map(TempDir::path))
    }

    /// The configuration of a node that uses TLS with the files of this folder; `None` means no TLS.
    pub fn config_with(&self, number: usize, tls: Option<&Path>) -> String {
        let (heartbeat, fabric) = (self.heartbeats[number], self.fabrics[number]);
        let kind = if tls.is_some() { "tls-" } else { "" };
        let name = tls.map_or_else(String::new, |_| format!("tls-name {CLUSTER_NAME}"));
        let context = tls.map_or_else(String::new, |folder| {
            let file = |name: &str| folder.join(name).display().to_string();
            format!(
                "\n    tls {CLUSTER_NAME} {{\n        ca-file {}\n        cert-file {}\n        key-file {}\n    }}",
                file("ca.pem"),
                file("cert.pem"),
                file("key.pem")
            )
        });
        let seed = |port: &u16| format!("{kind}mesh-seed-address-port 127.0.0.1 {port}");
        let seeds: &[u16] = match self.seeds {
            Seeds::All => &self.heartbeats,
            Seeds::Own => &[heartbeat],
            Seeds::First if number > 0 => &self.heartbeats[..1],
            Seeds::First | Seeds::None => &[],
        };
        let seeds = seeds.iter().map(seed).collect::<Vec<_>>().join("\n        ");
        let (group, group_port) = self.multicast_group();
        let way = if self.use_multicast {
            format!(
                "mode multicast\n        address 127.0.0.1\n        port {group_port}\n        multicast-group {group}\n        \
                 mtu {MULTICAST_MTU}"
            )
        } else {
            format!(
                "mode mesh\n        {kind}address 127.0.0.1\n        {kind}port {heartbeat}\n        {name}\n        {seeds}"
            )
        };
        let network = format!(
            "network {{{context}\n    heartbeat {{\n        {way}\n    }}\n    fabric {{\n        \
             {kind}address 127.0.0.1\n        {kind}port {fabric}\n        {name}\n    }}"
        );
        let config = BASICS.replacen("network {", &network, 1).replacen(
            "service {",
            &format!("service {{\n    node-id a{number}"),
            1,
        );
        [&config, self.namespaces.as_str()].concat()
    }

    /// Waits until the nodes with these numbers are one cluster without migrations. Returns the cluster key.
    pub fn await_cluster(&self, numbers: &[usize]) -> String {
        self.await_key(numbers, "")
    }

    /// Same as [`await_cluster`](Self::await_cluster), but does not wait for the end of migrations.
    pub fn await_members(&self, numbers: &[usize]) -> String {
        self.await_key(numbers, ";ignore-migrations=true")
    }

    fn await_key(&self, numbers: &[usize], more: &str) -> String {
        let began = Instant::now();
        let question = format!("cluster-stable:size={}{more}", numbers.len());
        loop {
            let answer = |number: &usize| self.servers[*number].connect().info_value(&question);
            let answers: Vec<_> = numbers.iter().map(answer).collect();
            if let Some(Ok(first)) = answers.first()
                && !first.starts_with("ERROR")
                && answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer == first))
            {
                return first.clone();
            }
            assert!(began.elapsed() < STABLE_MAX, "no cluster of {numbers:?}: {answers:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a node's answer to an info request contains `part`.
    pub fn await_info(&self, number: usize, name: &str, part: &str) {
        let began = Instant::now();
        loop {
            let answer = self.info(number, name);
            if answer.contains(part) {
                return;
            }
            assert!(began.elapsed() < STABLE_MAX, "{part} never in {name}: {answer}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The answer of a node to an info request.
    pub fn info(&self, number: usize, name: &str) -> String {
        self.servers[number].connect().info_value(name).expect("an answer")
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // All nodes stop at the same time, so that none hands its partitions over to a node that stops next.
        if !thread::panicking() {
            let running = self.servers.iter().filter(|server| server.process_id().is_some());
            running.for_each(|server| server.signal(Signal::SIGTERM));
        }
    }
}

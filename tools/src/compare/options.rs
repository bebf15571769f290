//! Command line of `asd-bench`. Environment variables can name each server too, as `make bench` does.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::phase::{Phase, Settings};
use super::target::Target;
use crate::host::{DEFAULT_PORT, Host};
use crate::link::Access;
use crate::load::Pause;
use crate::login::Login;
use crate::tls::TlsOptions;

/// Number of connections of the load that only writes the records.
const LOADING_CONNECTIONS: usize = 16;
const LOADING_DEPTH: usize = 16;
/// Longest wait of an ordinary client for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Measure a server, alone or together with others.
#[derive(Parser, Clone, Debug)]
#[command(name = "asd-bench", version, args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) compare: CompareOptions,
}

#[derive(Subcommand, Clone, Debug)]
pub(super) enum Command {
    /// Start a server and measure the time to its first acknowledged write
    Startup(StartupOptions),
    /// Measure latency by number of clients, with and without pauses between their requests
    Latency(LatencyOptions),
    /// Measure the effect of a hostile client on the latency of ordinary clients
    Neighbour(NeighbourOptions),
    /// Measure queries, secondary indexes and functions
    Query(QueryOptions),
    /// Start servers with and without access control, TLS and encryption, and measure the cost of each
    Protection(ProtectionOptions),
}

/// The servers to measure, and the namespace and set of their records.
#[derive(Args, Clone, Debug)]
pub(super) struct ServerOptions {
    /// Host of the server to measure
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port of the server
    #[arg(long, env = "PORT", default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Process id of the server; default: the process that listens on the port, if it can be found
    #[arg(long, env = "PID")]
    pid: Option<u32>,
    /// User name at the server, if it has access control
    #[arg(long)]
    user: Option<String>,
    /// Password of the user
    #[arg(long)]
    password: Option<String>,
    /// TLS with this server only; connections to the other servers do not use TLS
    #[command(flatten)]
    tls: TlsOptions,
    /// Name of the server in the table
    #[arg(long, env = "LABEL", default_value = "ferrospike")]
    label: String,

    /// Host of a server to compare with
    #[arg(long, env = "OTHER_HOST", default_value = "127.0.0.1")]
    other_host: String,
    /// Port of the server to compare with; without it there is none
    #[arg(long, env = "OTHER_PORT")]
    other_port: Option<u16>,
    /// Process id of the server to compare with
    #[arg(long, env = "OTHER_PID")]
    other_pid: Option<u32>,
    /// Name of the server to compare with in the table
    #[arg(long, env = "OTHER_LABEL", default_value = "C server")]
    other_label: String,

    /// Host of a Redis server to compare with
    #[arg(long, env = "REDIS_HOST", default_value = "127.0.0.1")]
    redis_host: String,
    /// Port of the Redis server; without it there is none
    #[arg(long, env = "REDIS_PORT")]
    redis_port: Option<u16>,
    /// Process id of the Redis server
    #[arg(long, env = "REDIS_PID")]
    redis_pid: Option<u32>,

    /// Namespace
    #[arg(long, default_value = "test")]
    namespace: String,
    /// Set
    #[arg(long, default_value = "bench")]
    set: String,
}

#[derive(Args, Clone, Debug)]
pub(super) struct CompareOptions {
    #[command(flatten)]
    servers: ServerOptions,
    /// Measure Redis with redis-benchmark too
    #[arg(long, requires = "redis_port")]
    pub(super) redis_benchmark: bool,

    /// Number of records
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=8 << 20))]
    value_size: u32,
    /// Connections
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests in flight on each connection in the pipelined phases
    #[arg(long, default_value_t = 16)]
    pipeline: usize,
    /// Threads of the client
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    pub(super) rounds: usize,
    /// Measure only phases whose names begin with one of these words, as in `read,write,batch`
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds of a phase in a round
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Count system calls per request too, with strace
    #[arg(long)]
    pub(super) syscalls: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct LatencyOptions {
    #[command(flatten)]
    pub(super) servers: ServerOptions,
    /// Number of records
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=8 << 20))]
    value_size: u32,
    /// Numbers of clients, each with a connection of its own and one request at a time
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,16,128")]
    pub(super) clients: Vec<usize>,
    /// Mean pause between an answer and the next request, in microseconds
    #[arg(long, default_value_t = 1000)]
    pause_us: u64,
    /// Threads of the client
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Write instead of read
    #[arg(long)]
    pub(super) writes: bool,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    pub(super) rounds: usize,
    /// Seconds for each number of clients in a round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

#[derive(Args, Clone, Debug)]
pub(super) struct NeighbourOptions {
    #[command(flatten)]
    pub(super) servers: ServerOptions,
    /// Number of records of the ordinary clients
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of their values
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=8 << 20))]
    value_size: u32,
    /// Number of ordinary clients
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Mean pause of each client between an answer and its next request, in microseconds
    #[arg(long, default_value_t = 1000)]
    pause_us: u64,
    /// Measure only hostile clients whose names begin with one of these words, as in `list,scan`
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Factor for the work of the hostile clients, for a trial run
    #[arg(long, default_value_t = 1.0)]
    pub(super) scale: f64,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    pub(super) rounds: usize,
    /// Seconds for each hostile client in a round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

#[derive(Args, Clone, Debug)]
pub(super) struct QueryOptions {
    #[command(flatten)]
    pub(super) servers: ServerOptions,
    /// Number of records
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) keys: u64,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    pub(super) rounds: usize,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ProtectionOptions {
    /// The server's program
    #[arg(long, env = "SERVER")]
    pub(super) server: PathBuf,
    /// Folder for the servers' files, created at the start and removed at the end; default: the folder for temporary
    /// files
    #[arg(long)]
    pub(super) dir: Option<PathBuf>,
    /// Number of records
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=8 << 20))]
    value_size: u32,
    /// Connections
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Measure only protections whose names begin with one of these words, as in `access,tls`
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds
    #[arg(long, default_value_t = 7)]
    pub(super) rounds: usize,
    /// Seconds of a load in a round
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
}

impl ProtectionOptions {
    /// Settings that all loads share.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            keys: self.keys,
            value_size: self.value_size,
            connections: self.connections.max(1),
            pipeline: LOADING_DEPTH,
            threads: 1,
            pause: None,
            timeout: None,
            duration: seconds(self.seconds, 2),
            rounds: self.rounds,
        }
    }

    /// Whether `name` is to be measured.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| name.starts_with(wanted.as_str()))
    }
}

#[derive(Args, Clone, Debug)]
pub(super) struct StartupOptions {
    /// Host that the server listens on
    #[arg(long, default_value = "127.0.0.1")]
    pub(super) host: String,
    /// Port that the server listens on
    #[arg(long, default_value_t = DEFAULT_PORT)]
    pub(super) port: u16,
    /// Namespace to write to
    #[arg(long, default_value = "test")]
    pub(super) namespace: String,
    /// Number of starts
    #[arg(long, default_value_t = 5)]
    pub(super) rounds: usize,
    /// Longest wait for a start or an end, in seconds
    #[arg(long, default_value_t = 60)]
    pub(super) timeout: u64,
    /// Program and arguments; it must stay in the foreground
    #[arg(last = true, required = true)]
    pub(super) server: Vec<OsString>,
}

impl CompareOptions {
    pub(super) fn settings(&self) -> Settings {
        Settings {
            keys: self.keys,
            value_size: self.value_size,
            connections: self.connections.max(1),
            pipeline: self.pipeline.max(1),
            threads: self.threads.clamp(1, self.connections.max(1)),
            pause: None,
            timeout: None,
            duration: seconds(self.seconds, 5),
            rounds: self.rounds,
        }
    }

    /// The phases to measure.
    pub(super) fn phases(&self) -> Vec<Phase> {
        let is_wanted = |phase: &Phase| {
            self.only.is_empty() || self.only.iter().any(|wanted| phase.name().starts_with(wanted))
        };
        Phase::TIMED.into_iter().filter(is_wanted).collect()
    }

    pub(super) fn targets(&self) -> Result<Vec<Target>, String> {
        self.servers.targets()
    }
}

impl LatencyOptions {
    /// Settings that all numbers of clients share.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            keys: self.keys,
            value_size: self.value_size,
            connections: LOADING_CONNECTIONS,
            pipeline: LOADING_DEPTH,
            threads: self.threads.max(1),
            pause: None,
            timeout: None,
            duration: seconds(self.seconds, 2),
            rounds: self.rounds,
        }
    }

    pub(super) fn pause(&self) -> Pause {
        Pause { mean: Duration::from_micros(self.pause_us) }
    }
}

impl NeighbourOptions {
    /// Settings of the ordinary clients.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            keys: self.keys,
            value_size: self.value_size,
            connections: self.clients.max(1),
            pipeline: LOADING_DEPTH,
            threads: 1,
            pause: Some(Pause { mean: Duration::from_micros(self.pause_us) }),
            timeout: Some(ANSWER_TIMEOUT),
            duration: seconds(self.seconds, 3),
            rounds: self.rounds,
        }
    }

    /// Whether `name` is to be measured.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| name.starts_with(wanted.as_str()))
    }
}

/// `seconds` as a duration; `default` seconds if it is invalid.
fn seconds(seconds: f64, default: u64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(default))
}

impl ServerOptions {
    /// The servers to measure. The first is the server that is judged.
    pub(super) fn targets(&self) -> Result<Vec<Target>, String> {
        let host = |name: &str, port| Host::parse(name, port);
        let (namespace, set) = (&self.namespace, &self.set);
        let own = host(&self.host, self.port)?;
        let access = Access {
            login: Login::given(self.user.as_deref(), self.password.as_deref())?,
            tls: self.tls.client(own.certificate_name())?,
        };
        let mut targets = vec![Target::aerospike(&self.label, &own, access, self.pid, namespace, set)?];
        if let Some(port) = self.other_port {
            let host = host(&self.other_host, port)?;
            let access = Access::default();
            targets.push(Target::aerospike(
                &self.other_label,
                &host,
                access,
                self.other_pid,
                namespace,
                set,
            )?);
        }
        if let Some(port) = self.redis_port {
            targets.push(Target::redis(&host(&self.redis_host, port)?, self.redis_pid)?);
        }
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn options_are_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_startup_command_follows_two_dashes() {
        let options =
            Options::try_parse_from(["asd-bench", "startup", "--port", "1", "--", "asd", "--dev"]).unwrap();
        let Some(Command::Startup(startup)) = options.command else { panic!("no startup") };
        assert_eq!((startup.port, startup.server), (1, vec!["asd".into(), "--dev".into()]));
    }

    #[test]
    fn phases_are_chosen_by_name() {
        let options = |line: &str| Options::try_parse_from(line.split(' ')).unwrap().compare.phases();
        assert_eq!(options("asd-bench").len(), Phase::TIMED.len());
        assert_eq!(options("asd-bench --only batch").len(), 2);
        assert_eq!(options("asd-bench --only read,write,pipelined"), &Phase::TIMED[..4]);
    }

    #[test]
    fn tables_of_their_own_are_subcommands() {
        let options =
            Options::try_parse_from("asd-bench latency --clients 1,8 --pause-us 50".split(' ')).unwrap();
        let Some(Command::Latency(latency)) = options.command else { panic!("no latency") };
        assert_eq!((latency.clients.as_slice(), latency.pause().mean.as_micros()), (&[1, 8][..], 50));
        let options = Options::try_parse_from("asd-bench neighbour --only list,sc".split(' ')).unwrap();
        let Some(Command::Neighbour(neighbour)) = options.command else { panic!("no neighbour") };
        let wanted = ["list operations", "scan", "churn"].map(|name| neighbour.wants(name));
        assert_eq!(wanted, [true, true, false]);
        assert_eq!(neighbour.settings().connections, 16);
    }

    #[test]
    fn only_tls_is_under_the_heading_of_tls() {
        let main = Options::command();
        for argument in
            std::iter::once(&main).chain(main.get_subcommands()).flat_map(clap::Command::get_arguments)
        {
            let id = argument.get_id().as_str();
            assert_eq!(argument.get_help_heading().is_some(), id.starts_with("tls_"), "{id}");
        }
    }

    #[test]
    fn nonsense_is_bounded() {
        let line = "asd-bench --connections 0 --pipeline 0 --threads 9 --seconds=-1";
        let settings = Options::try_parse_from(line.split(' ')).unwrap().compare.settings();
        assert_eq!((settings.connections, settings.pipeline, settings.threads), (1, 1, 1));
        assert_eq!(settings.duration, Duration::from_secs(5));
    }
}

//! Command line of `asbench`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, ValueEnum};

use crate::astools;
use crate::host::{DEFAULT_PORT, Host};
use crate::link::Access;
use crate::load::{KIND_COUNT, Kind, Plan};
use crate::login::Login;
use crate::record::load::RecordOptions;
use crate::record::object_spec::ObjectSpec;
use crate::record::workload::Workload;
use crate::tls::TlsOptions;

/// Default length of a random workload, in seconds.
const DURATION_DEFAULT_S: u64 = 10;

/// Default concurrency, as in the official tool.
const CONNECTIONS_DEFAULT: usize = 16;
/// Connections in asynchronous mode, as in the official tool.
const ASYNC_CONNECTIONS_DEFAULT: usize = 50;

/// Options of the official tool that have no effect with one node and a fixed set of connections: name, short
/// name, and whether a value follows.
const WITHOUT_EFFECT: &[(&str, Option<char>, bool)] = &[
    ("services-alternate", None, false),
    ("max-error-rate", None, true),
    ("error-rate-window", None, true),
    ("tender-interval", None, true),
    ("max-socket-idle", None, true),
    ("shared", Some('S'), false),
    ("replica", Some('C'), true),
    ("rack-id", None, true),
    ("read-mode-sc", Some('B'), true),
    ("min-conns-per-node", None, true),
    ("max-conns-per-node", None, true),
    ("conn-pools-per-node", Some('Y'), true),
    ("async-min-conns-per-node", None, true),
    ("async-max-conns-per-node", None, true),
    ("max-retries", None, true),
    ("sleep-between-retries", None, true),
];

/// Send record requests to an Aerospike server and measure it.
#[derive(Parser, Clone, Debug)]
#[command(name = "asbench", version, disable_help_flag = true, disable_version_flag = true)]
pub struct Options {
    /// Node to send the load to, as HOST[:TLS-NAME][:PORT]; the first of a comma-separated list is used
    #[arg(short = 'h', long, alias = "host", value_name = "HOST", default_value = "localhost")]
    hosts: String,

    /// Port for a host without one
    #[arg(short, long, default_value_t = DEFAULT_PORT)]
    port: u16,

    /// User name at a server with access control; other servers accept every client
    #[arg(short = 'U', long)]
    user: Option<String>,

    /// Password of the user
    #[arg(short = 'P', long, num_args = 0..=1, default_missing_value = "")]
    password: Option<String>,

    /// Namespace
    #[arg(short, long, default_value = "test")]
    namespace: String,

    /// Set
    #[arg(short, long, default_value = "testset")]
    set: String,

    /// Name of the first bin; the second is called <BIN>_2, and so on
    #[arg(short, long, default_value = "testbin")]
    bin: String,

    /// First key
    #[arg(short = 'K', long, alias = "startKey", default_value_t = 0, allow_negative_numbers = true)]
    start_key: i64,

    /// Number of keys
    #[arg(short, long, default_value_t = 1_000_000)]
    keys: u64,

    /// Bins of a record, separated by commas: b (bool), I1 to I8 (integer of 1 to 8 bytes), S<length>, B<length>, D
    /// (double), constants, [lists], {maps}, each with an optional count before it, like 3*I2
    #[arg(short, long, alias = "objectSpec", default_value = "I4")]
    object_spec: String,

    /// Bins to read, as numbers from 1, separated by commas; default: all
    #[arg(long, alias = "readBins", value_delimiter = ',', value_name = "BINS")]
    read_bins: Vec<usize>,

    /// Bins to write, as numbers from 1, separated by commas; default: all
    #[arg(long, alias = "writeBins", value_delimiter = ',', value_name = "BINS")]
    write_bins: Vec<usize>,

    /// Generate new values for every write instead of writing the same values
    #[arg(short = 'R', long)]
    random: bool,

    /// Time to live of written records in seconds; 0: the namespace's default, -1: none, -2: unchanged
    #[arg(short, long, default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-2..))]
    expiration_time: i32,

    /// Seconds of a random workload (default: 10); other workloads end when all keys are done
    #[arg(short = 't', long)]
    duration: Option<u64>,

    /// I (insert every key), RU,<read %> (read/update), RR,<read %> (read/replace), RUD,<read %>,<write %> (and
    /// deletes), RUF,<read %>,<write %> (and UDF calls), DB (delete the bins of every key), Q,<count> (short queries
    /// for the records of this number of partitions), QI,<%> (short queries for a range with this percentage of the
    /// numbers in the first bin, which needs a numeric index)
    #[arg(short, long, default_value = "RU,50", value_name = "WORKLOAD")]
    workload: String,

    /// Load-generating threads; without --connections also the number of connections. Default: one thread for all
    /// connections
    #[arg(short = 'z', long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Connections of all threads together [default: 16, or one for each thread]
    #[arg(long, value_name = "COUNT")]
    connections: Option<usize>,

    /// Requests in flight on each connection
    #[arg(long, value_name = "DEPTH", default_value_t = 1)]
    pipeline: usize,

    /// Accepted as in the official tool: its event loops become threads, its concurrent commands become connections
    #[arg(short = 'a', long = "async")]
    is_async: bool,

    /// Concurrent commands with --async
    #[arg(short = 'c', long, alias = "asyncMaxCommands", default_value_t = ASYNC_CONNECTIONS_DEFAULT)]
    async_max_commands: usize,

    /// Threads with --async
    #[arg(short = 'W', long, alias = "eventLoops", default_value_t = 1)]
    event_loops: u16,

    /// Maximum number of requests per second; 0: no limit
    #[arg(short = 'g', long, default_value_t = 0, value_name = "TPS")]
    throughput: u64,

    /// End after this many requests
    #[arg(long, value_name = "COUNT")]
    requests: Option<u64>,

    /// Longest wait for a connection, in milliseconds
    #[arg(long, alias = "connection-timeout", default_value_t = 1000, value_name = "MS")]
    connect_timeout: u64,

    /// Time without an answer after which the run ends, in milliseconds
    #[arg(long, alias = "socketTimeout", default_value_t = 30_000, value_name = "MS")]
    socket_timeout: u64,

    /// Longest wait for one request, in milliseconds; 0: no limit
    #[arg(short = 'T', long, default_value_t = 0, value_name = "MS")]
    timeout: u32,

    /// Longest wait for a read, in milliseconds
    #[arg(long, alias = "readTimeout", value_name = "MS")]
    read_timeout: Option<u32>,

    /// Longest wait for any other request, in milliseconds
    #[arg(long, alias = "writeTimeout", value_name = "MS")]
    write_timeout: Option<u32>,

    /// Send keys with their digests, so that the server stores them
    #[arg(long)]
    send_key: bool,

    /// The replicas that must have a write before the server answers
    #[arg(short = 'M', long, alias = "commitLevel", value_enum, default_value_t = CommitLevel::All)]
    commit_level: CommitLevel,

    /// The replicas that the server asks for a read
    #[arg(short = 'N', long, alias = "readModeAP", value_enum, default_value_t = ReadMode::One)]
    read_mode_ap: ReadMode,

    /// Durable deletes, which leave tombstones
    #[arg(short = 'D', long, alias = "durableDelete")]
    durable_delete: bool,

    /// Module of the function that RUF calls
    #[arg(long, alias = "upn", alias = "udfPackageName")]
    udf_package_name: Option<String>,

    /// Function that RUF calls
    #[arg(long, alias = "ufn", alias = "udfFunctionName")]
    udf_function_name: Option<String>,

    /// Arguments of the function that RUF calls, as an object spec
    #[arg(long, alias = "ufv", alias = "udfFunctionValues")]
    udf_function_values: Option<String>,

    /// Do not compare the results of reads with the object spec
    #[arg(long)]
    no_check: bool,

    /// Print latencies along with progress
    #[arg(short = 'L', long)]
    pub(super) latency: bool,

    /// Percentiles that --latency prints
    #[arg(long, value_delimiter = ',', default_value = "50,90,99,99.9,99.99")]
    pub(super) percentiles: Vec<f64>,

    /// Seconds between the lines of --latency
    #[arg(long = "output-period", aliases = ["outputPeriod", "output-period-s"], default_value_t = 1)]
    pub(super) output_period_s: u64,

    /// Process id of a server on this machine, to measure its processor time and memory
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,

    /// Print the summary as JSON, and progress on standard error
    #[arg(long)]
    pub(super) json: bool,

    /// Print no progress
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// Seed of random keys and values
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,

    /// Print the settings of the run
    #[arg(short, long)]
    pub(super) debug: bool,

    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,

    #[command(flatten)]
    tls: TlsOptions,

    #[command(flatten)]
    files: astools::FileOptions,

    /// Options of the official tool that were given and have no effect here.
    #[arg(skip)]
    pub(super) without_effect: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum CommitLevel {
    /// All replicas have written.
    All,
    /// The master has written.
    Master,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ReadMode {
    /// One replica.
    One,
    /// All replicas.
    All,
}

/// Reads the command line and configuration files.
///
/// # Errors
/// The error of clap, which prints itself; also for `--help` and `--version`.
pub fn parse_arguments(arguments: impl Iterator<Item = OsString>) -> Result<Options, clap::Error> {
    let arguments = astools::with_files(&command(), arguments.map(long_with_two_dashes).collect())?;
    let matches = command().try_get_matches_from(arguments)?;
    let mut options = Options::from_arg_matches(&matches)?;
    options.without_effect = given_without_effect(&matches);
    Ok(options)
}

/// The definition of all options, including those without effect.
pub fn command() -> clap::Command {
    let inert = WITHOUT_EFFECT.iter().map(|(name, short, takes_value)| {
        let action = if *takes_value { ArgAction::Set } else { ArgAction::SetTrue };
        Arg::new(*name).long(*name).short(*short).action(action).hide(true)
    });
    Options::command().args(inert)
}

fn given_without_effect(matches: &ArgMatches) -> Vec<String> {
    let is_given = |name: &str| matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine);
    WITHOUT_EFFECT.iter().map(|(name, ..)| *name).filter(|name| is_given(name)).map(str::to_owned).collect()
}

/// The official tool documents these long options with one dash.
fn long_with_two_dashes(argument: OsString) -> OsString {
    match argument.to_str() {
        Some("-upn") => "--upn".into(),
        Some("-ufn") => "--ufn".into(),
        Some("-ufv") => "--ufv".into(),
        _ => argument,
    }
}

impl Options {
    /// Number of load-generating threads.
    pub(super) fn thread_count(&self) -> usize {
        let threads = if self.is_async { Some(self.event_loops) } else { self.threads };
        usize::from(threads.unwrap_or(1)).clamp(1, self.connection_count())
    }

    fn connection_count(&self) -> usize {
        let implied = match self.threads {
            _ if self.is_async => self.async_max_commands,
            Some(threads) => usize::from(threads),
            None => CONNECTIONS_DEFAULT,
        };
        self.connections.unwrap_or(implied).max(1)
    }

    /// The plan of the run.
    pub(super) fn plan(&self) -> Result<Plan, String> {
        let host = Host::parse(&self.hosts, self.port)?;
        let workload = Workload::parse(&self.workload)?;
        let address = host.resolve().map_err(|error| format!("{host}: {error}"))?;
        let duration_s = self.duration.unwrap_or(DURATION_DEFAULT_S);
        let limit = |ms: u32| (ms > 0).then(|| Duration::from_millis(u64::from(ms)));
        let mut timeouts = [limit(self.write_timeout_ms()); KIND_COUNT];
        for kind in [Kind::Read, Kind::Query] {
            timeouts[kind as usize] = limit(self.read_timeout_ms());
        }
        Ok(Plan {
            address,
            access: Access {
                login: Login::given(self.user.as_deref(), self.password.as_deref())?,
                tls: self.tls.client(host.certificate_name())?,
            },
            connections: self.connection_count(),
            pipeline: self.pipeline.max(1),
            duration: (!workload.is_finite()).then(|| Duration::from_secs(duration_s)),
            requests_max: self.requests,
            rate: (self.throughput > 0).then_some(self.throughput),
            pause: None,
            connect_timeout: Duration::from_millis(self.connect_timeout.max(1)),
            silence_max: Duration::from_millis(self.socket_timeout.max(1)),
            timeouts,
            server_pid: self.server_pid,
        })
    }

    /// The requests of the run.
    pub(super) fn records(&self) -> Result<RecordOptions, String> {
        let udf_arguments = self.udf_function_values.as_deref().map(ObjectSpec::parse).transpose()?;
        let udf = self.udf_package_name.clone().zip(self.udf_function_name.clone());
        Ok(RecordOptions {
            namespace: self.namespace.clone(),
            set: self.set.clone(),
            bin: self.bin.clone(),
            first_key: self.start_key,
            key_count: self.keys,
            spec: ObjectSpec::parse(&self.object_spec)?,
            random_values: self.random,
            workload: Workload::parse(&self.workload)?,
            read_bins: from_zero(&self.read_bins)?,
            write_bins: from_zero(&self.write_bins)?,
            record_ttl: self.expiration_time,
            read_timeout_ms: self.read_timeout_ms(),
            write_timeout_ms: self.write_timeout_ms(),
            send_key: self.send_key,
            commit_master: self.commit_level == CommitLevel::Master,
            read_all_replicas: self.read_mode_ap == ReadMode::All,
            durable_delete: self.durable_delete,
            udf: udf.map(|(module, function)| (module, function, udf_arguments)),
            check_replies: !self.no_check,
        })
    }

    fn read_timeout_ms(&self) -> u32 {
        self.read_timeout.unwrap_or(self.timeout)
    }

    fn write_timeout_ms(&self) -> u32 {
        self.write_timeout.unwrap_or(self.timeout)
    }
}

/// Converts bin numbers from 1 to positions from 0.
fn from_zero(numbers: &[usize]) -> Result<Vec<usize>, String> {
    let position =
        |number: &usize| number.checked_sub(1).ok_or_else(|| "bins are numbered from 1".to_owned());
    numbers.iter().map(position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Options {
        let arguments = ["asbench", "--no-config-file"].into_iter().chain(text.split_ascii_whitespace());
        parse_arguments(arguments.map(OsString::from)).unwrap()
    }

    #[test]
    fn options_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_familiar_command_line_is_understood() {
        let options = parse(
            "-h 127.0.0.1:4000 -n ns -s s -k 500 -K -5 -b x -o I2,S10 -w RU,80 -t 3 -T 50 -g 2500 -z 8 -e -1",
        );
        let plan = options.plan().unwrap();
        assert_eq!(plan.address.to_string(), "127.0.0.1:4000");
        assert_eq!((plan.connections, options.thread_count(), plan.rate), (8, 8, Some(2500)));
        assert_eq!(plan.duration, Some(Duration::from_secs(3)));
        assert_eq!(plan.timeouts, [Some(Duration::from_millis(50)); KIND_COUNT]);
        let records = options.records().unwrap();
        assert_eq!((records.first_key, records.key_count, records.record_ttl), (-5, 500, -1));
        assert_eq!((records.spec.bins.len(), records.read_timeout_ms), (2, 50));
    }

    #[test]
    fn concurrency_is_threads_connections_or_commands() {
        let of = |text| (parse(text).thread_count(), parse(text).plan().unwrap().connections);
        assert_eq!(of("-h 127.0.0.1"), (1, 16));
        assert_eq!(of("-h 127.0.0.1 -z 4"), (4, 4));
        assert_eq!(of("-h 127.0.0.1 -z 4 --connections 100"), (4, 100));
        assert_eq!(of("-h 127.0.0.1 -z 4 --connections 2"), (2, 2));
        assert_eq!(of("-h 127.0.0.1 --async"), (1, 50));
        assert_eq!(of("-h 127.0.0.1 --async -c 200 -W 2"), (2, 200));
    }

    #[test]
    fn finite_workloads_have_no_time_limit() {
        assert_eq!(parse("-h 127.0.0.1 -w I -t 5").plan().unwrap().duration, None);
        assert_eq!(parse("-h 127.0.0.1").plan().unwrap().duration, Some(Duration::from_secs(10)));
    }

    #[test]
    fn official_options_without_effect_are_reported() {
        let options = parse("-h 127.0.0.1 -C master --max-retries 2 -S -w RUF -upn m -ufn f -ufv 1,2");
        assert_eq!(options.without_effect, ["shared", "replica", "max-retries"]);
        assert_eq!(options.records().unwrap().udf.unwrap().1, "f");
    }

    #[test]
    fn separate_timeouts_override_the_common_one() {
        let options = parse("-T 100 --read-timeout 20 --read-bins 1");
        assert_eq!((options.read_timeout_ms(), options.write_timeout_ms()), (20, 100));
        assert_eq!(options.records().unwrap().read_bins, [0]);
        assert!(parse("--read-bins 0").records().is_err());
    }
}

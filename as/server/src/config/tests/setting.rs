//! set-config: what it accepts and refuses, and what it answers.

use super::*;
use crate::config::command::{get_config, set_config};
use crate::config::context::{CONTEXTS, ContextKind};
use crate::config::kind::Kind;
use crate::config::spec::{Effect, variant};

const INVALID: &str = "ERROR:4:invalid set-config parameter";

/// The recorded configuration: namespace `mem` in memory with files, `dev` on files.
fn rich() -> Config {
    parsed(include_str!("rich.conf")).0
}

#[test]
fn answers_are_those_of_the_c_server() {
    let config = rich();
    for (params, expected) in [
        ("", "ERROR:4:missing 'context'"),
        ("context=service", INVALID),
        ("context=nope", "ERROR:4:invalid context"),
        ("context=namespace", "ERROR:20:missing 'namespace'"),
        ("context=namespace;id=mem", INVALID),
        ("context=namespace;id=zz;default-ttl=1", "ERROR:20:namespace not found on node"),
        ("context=security;a=b", "ERROR:25:enterprise only"),
        ("context=xdr;a=b", "ERROR:25:enterprise only"),
        ("context=service;proto-fd-max=10", INVALID),
        ("context=service;proto-fd-max=2K", "ok"),
        ("context=service;enable-hist-info=TRUE", INVALID),
        ("context=service;enable-hist-info=yes", INVALID),
        ("context=service;enable-hist-info=", INVALID),
        ("context=network;heartbeat.interval=60", INVALID),
        ("context=network;heartbeat.interval=400", "ok"),
        ("context=network;heartbeat.mtu=1500", "ok"),
        ("context=namespace;id=mem;set=s9;disable-eviction=true", "ok"),
        ("context=namespace;id=mem;set=;disable-eviction=true", INVALID),
        ("context=namespace;namespace=dev;set=s9;default-ttl=10", INVALID),
        ("context=namespace;namespace=dev;set=s9;default-ttl=-1", "ok"),
        ("context=namespace;id=dev;default-ttl=10", INVALID),
        ("context=namespace;id=mem;default-ttl=11y", INVALID),
        ("context=namespace;id=mem;geo2dsphere-within-max-cells=7", "ok"),
        ("context=namespace;id=mem;geo2dsphere-within-strict=true", INVALID),
        ("context=namespace;id=mem;evict-used-pct=101", INVALID),
        ("context=namespace;id=mem;flush-size=64K", "ok"),
        ("context=namespace;id=mem;flush-size=65K", INVALID),
        ("context=namespace;id=mem;post-write-cache=64M", INVALID),
        ("context=namespace;id=dev;post-write-cache=64M", "ok"),
        ("context=namespace;id=mem;commit-to-device=true", INVALID),
        ("context=service;cluster-name=", INVALID),
        ("context=service;cluster-name=abc", "ok"),
        ("context=service;ticker-interval=1m", "ok"),
        ("context=service;ticker-interval=abc", INVALID),
        ("context=service;work-directory=/tmp", INVALID),
        ("context=namespace;id=mem;mrt-duration=5", INVALID),
        ("context=service;a=b;ticker-interval=11", "ok"),
        ("context=namespace;id=mem;read-consistency-level-override=ONE", INVALID),
        ("context=namespace;id=mem;read-consistency-level-override=one", "ok"),
        ("context=service;transaction-retry-ms=0", INVALID),
        ("context=namespace;id=mem;set=s1;foo=1", INVALID),
        ("context=namespace;id=mem;set=s8;foo=1", INVALID),
        // These belong to the Enterprise Edition of the C server.
        ("context=namespace;id=mem;tomb-raider-period=5", "ok"),
    ] {
        assert_eq!(set_config(&config, params, &|_| ()).answer, expected, "{params}");
    }
    assert_eq!(config.service.proto_fd_max.get(), 2 << 10);
    assert_eq!(config.service.ticker_interval.get(), 11);
    assert_eq!(&*config.service.cluster_name.get_or_empty(), "abc");
    let namespace = config.namespace("mem").expect("namespace");
    assert!(namespace.sets.get("s9").expect("made").disable_eviction.get());
    assert!(namespace.sets.get("s8").is_none(), "a refused setting makes no set");
    assert!(get_config(&config, "context=network").contains("heartbeat.interval=400;"));
}

#[test]
fn changes_describe_the_old_and_new_value() {
    let config = rich();
    let change = |params: &str| {
        let outcome = set_config(&config, params, &|_| ());
        assert_eq!(outcome.answer, "ok", "{outcome:?}");
        outcome.changes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        change("context=service;proto-fd-max=2048"),
        ["service.proto-fd-max changed from 15000 to 2048"]
    );
    assert_eq!(
        change("context=namespace;id=mem;default-ttl=1h"),
        ["{mem} namespace.default-ttl changed from 432000 to 3600"]
    );
    assert_eq!(
        change("context=namespace;id=mem;set=s1;stop-writes-count=5"),
        ["{mem|s1} namespace.set.stop-writes-count changed from 10240 to 5"]
    );
    assert_eq!(
        change("context=network;heartbeat.timeout=20"),
        ["network.heartbeat.timeout changed from 12 to 20"]
    );
    assert_eq!(
        change("context=namespace;id=mem;defrag-sleep=5;nsup-period=9"),
        [
            "{mem} namespace.storage-engine.defrag-sleep changed from 1000 to 5",
            "{mem} namespace.nsup-period changed from 120 to 9",
        ]
    );
}

#[test]
fn refusals_give_a_reason() {
    let config = rich();
    let why = |params: &str| set_config(&config, params, &|_| ()).refusal.expect("refused").to_string();
    for (params, expected) in [
        (
            "context=service;work-directory=/x",
            "'work-directory' in service cannot be changed while the server runs",
        ),
        (
            "context=service;proto-fd-max=1",
            "'proto-fd-max' in service cannot be '1': it must be a number from 1024 to 2147483647 (default: 15000)",
        ),
        ("context=service;nope=1", "there is no parameter 'nope' here"),
        (
            "context=network;heartbeat.interval=50",
            "'interval' in network.heartbeat would break the rule connect-timeout-ms <= interval * timeout / 3 = 200",
        ),
        (
            "context=namespace;id=dev;default-ttl=5",
            "'default-ttl' in namespace needs nsup-period above 0 or allow-ttl-without-nsup true",
        ),
        (
            "context=namespace;id=mem;read-page-cache=true",
            "'read-page-cache' in namespace.storage-engine does not apply to how this is configured",
        ),
        (
            "context=network;fabric.channel-rw-recv-threads=129",
            "'channel-rw-recv-threads' in network.fabric cannot be '129': it must be a number from 1 to 128 (default: 16)",
        ),
    ] {
        assert_eq!(why(params), expected);
    }
}

#[test]
fn conditions_between_parameters() {
    let config = rich();
    let answer = |params: &str| set_config(&config, params, &|_| ()).answer;
    assert_eq!(answer("context=namespace;id=mem;enable-benchmarks-read=true"), "ok");
    assert_eq!(answer("context=service;microsecond-histograms=true"), INVALID);
    assert_eq!(answer("context=namespace;id=mem;enable-benchmarks-read=false"), "ok");
    assert_eq!(answer("context=service;microsecond-histograms=true"), "ok");

    assert_eq!(answer("context=namespace;id=dev;allow-ttl-without-nsup=true"), "ok");
    assert_eq!(answer("context=namespace;id=dev;default-ttl=5"), "ok");

    let namespace = config.namespace("dev").expect("namespace");
    namespace.params.strong_consistency.set(true);
    for name in
        ["replication-factor=1", "conflict-resolution-policy=generation", "disable-write-dup-res=true"]
    {
        assert_eq!(answer(&format!("context=namespace;id=dev;{name}")), INVALID, "{name}");
    }
    assert_eq!(answer("context=namespace;id=dev;mrt-duration=5"), "ok");
    config.network.fabric.channel_rw_recv_pools.set(4);
    assert_eq!(answer("context=network;fabric.channel-rw-recv-threads=10"), INVALID);
    assert_eq!(answer("context=network;fabric.channel-rw-recv-threads=12"), "ok");
}

/// set-config refuses more clients than the system allows descriptors, after raising the limit as far as it
/// goes.
#[test]
fn as_many_clients_as_the_system_allows() {
    let config = rich();
    let limit = cf::sys::limits::raise_open_files(1).expect("the limit");
    let outcome = set_config(&config, "context=service;proto-fd-max=2097152", &|_| ());
    let now = cf::sys::limits::raise_open_files(1).expect("the limit");
    assert!(now >= limit);
    if now >= 2 << 20 {
        return assert_eq!(outcome.answer, "ok");
    }
    assert_eq!(outcome.answer, INVALID);
    let refusal = outcome.refusal.expect("refused").to_string();
    assert!(refusal.contains(&format!("the system allows this process {now} file descriptors")), "{refusal}");
    assert_eq!(config.service.proto_fd_max.get(), 15_000);
}

/// Every dynamic parameter can be set to its own value; no other parameter can be set.
#[test]
fn exactly_the_dynamic_parameters_can_be_set() {
    let config = rich();
    config.namespace("dev").expect("namespace").params.strong_consistency.set(true);
    config.service.service_threads.set(4);
    for context in CONTEXTS {
        let (place, bits) = match context.kind {
            ContextKind::Service => ("context=service", variant::ALL),
            ContextKind::NetworkService
            | ContextKind::Heartbeat
            | ContextKind::Fabric
            | ContextKind::NetworkInfo
            | ContextKind::Metrics => ("context=network", variant::MESH),
            ContextKind::Namespace | ContextKind::Geo => ("context=namespace;id=dev", variant::ALL),
            ContextKind::Storage => ("context=namespace;id=dev", variant::DEVICE),
            ContextKind::Set => ("context=namespace;id=dev;set=s", variant::ALL),
            _ => continue,
        };
        for spec in context.specs {
            let value = match spec.kind {
                Kind::Bool { .. } => "true".to_owned(),
                Kind::Number { min, .. } => min.max(100).to_string(),
                Kind::Seconds { .. } | Kind::PctOrOff => "0".to_owned(),
                Kind::Choice(names) => names[0].to_owned(),
                Kind::Port { .. } => "3000".to_owned(),
                _ => "x".to_owned(),
            };
            let value = match spec.name {
                "mrt-duration" => "5",
                "interval" | "timeout" => "300",
                "min-cluster-size" | "replication-factor" | "migrate-order" | "compression-level" => "1",
                "sindex-builder-threads" | "max-level" | "min-level" | "multicast-ttl" => "20",
                "flush-size" => "4K",
                "info-max-ms" => "600",
                _ => &value,
            };
            let params = format!("{place};{}{}={value}", context.set_prefix, spec.name);
            let not_with_strong_consistency = matches!(
                spec.name,
                "conflict-resolution-policy"
                    | "disable-write-dup-res"
                    | "disallow-expunge"
                    | "read-consistency-level-override"
                    | "write-commit-level-override"
                    | "replication-factor"
                    // A benchmark was turned on by an earlier parameter.
                    | "microsecond-histograms"
            );
            let can = spec.dynamic
                && (spec.shown_by == 0 || spec.shown_by & bits != 0)
                && spec.effect != Effect::Unsupported
                && !not_with_strong_consistency;
            let outcome = set_config(&config, &params, &|_| ());
            assert_eq!(outcome.answer == "ok", can, "{params}: {outcome:?}");
        }
    }
}

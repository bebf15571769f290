//! Messages about invalid files: the exact sentences for common mistakes.

use cf::log::{Context, Level, Target};

use super::*;

#[test]
fn unknown_names() {
    assert_eq!(
        in_namespace("replicaton-factor 2"),
        "t.conf:15: unknown parameter 'replicaton-factor' in namespace 'test', did you mean 'replication-factor'?"
    );
    assert_eq!(
        in_service("replication-factor 2"),
        "t.conf:3: unknown parameter 'replication-factor' in service; it belongs in namespace"
    );
    assert_eq!(
        in_service("adress any"),
        "t.conf:3: unknown parameter 'adress' in service, did you mean 'address' in network.service, \
         network.heartbeat, network.fabric or network.info?"
    );
    assert_eq!(in_service("frobnicate 1"), "t.conf:3: unknown parameter 'frobnicate' in service");
    assert_eq!(
        in_namespace("sett demo {\nx y\n}"),
        "t.conf:15: unknown context 'sett' in namespace 'test', did you mean 'set'?"
    );
    assert_eq!(
        only(&format!("heartbeat {{\nport 3002\n}}\n{}", file("", "", ""))),
        "t.conf:1: unknown context 'heartbeat' at the top of the file; it belongs in network"
    );
    assert_eq!(
        in_namespace("force-long-queries true"),
        "t.conf:15: 'force-long-queries' can only be set with set-config, not in namespace 'test'"
    );
    let tab = "\u{7}\u{1b}[31m".repeat(60);
    let said = in_service(&tab);
    assert!(said.contains("\\u{7}\\u{1b}[31m") && said.contains('…') && said.len() < 800, "{said}");
}

#[test]
fn values_that_are_not_allowed() {
    assert_eq!(
        in_service("proto-fd-max 12"),
        "t.conf:3: 'proto-fd-max' in service cannot be '12': it must be a number from 1024 to 2147483647 (default: 15000)"
    );
    assert_eq!(
        in_service("service-threads"),
        "t.conf:3: 'service-threads' in service needs a value: a number from 1 to 4096 \
         (default: one per processor, five per processor if a namespace is stored on devices)"
    );
    assert_eq!(
        in_service("log-millis ja"),
        "t.conf:3: 'log-millis' in service cannot be 'ja': it must be true or false (default: false)"
    );
    assert_eq!(
        in_service("node-id xyz"),
        "t.conf:3: 'node-id' in service cannot be 'xyz': it must be a hexadecimal number of up to 16 digits, \
         not 0 (default: made from the fabric port and a hardware address)"
    );
    assert_eq!(
        in_namespace("default-ttl 11y"),
        "t.conf:15: 'default-ttl' in namespace 'test' cannot be '11y': it must be 0 to 315360000 seconds \
         (or with suffix s, m, h or d) (default: 0)"
    );
    assert_eq!(
        in_namespace("partition-tree-sprigs 300"),
        "t.conf:15: 'partition-tree-sprigs' in namespace 'test' cannot be '300': it must be a number \
         from 256 to 268435456, a power of 2 (default: 256)"
    );
    assert_eq!(
        in_namespace("max-record-size 16M"),
        "t.conf:15: 'max-record-size' in namespace 'test' cannot be '16M': it must be a size from 64 to 8M \
         (default: 1M)"
    );
    assert_eq!(
        in_namespace("write-commit-level-override masster"),
        "t.conf:15: 'write-commit-level-override' in namespace 'test' cannot be 'masster': it must be all, \
         master or off (default: off), did you mean 'master'?"
    );
    assert_eq!(
        only(&file("", "info {\nport 80\n}", "")),
        "t.conf:10: 'port' in network.info cannot be '80': it must be a port from 1024 to 65535, or 0 for any \
         free one (default: none)"
    );
    assert_eq!(
        only(&format!("logging {{\nconsole {{\ncontext any inof\n}}\n}}\n{}", file("", "", ""))),
        "t.conf:3: 'context' in logging.console cannot be 'inof': it must be a log context (or any) and one \
         of critical, warning, info, debug, detail (default: any critical), did you mean 'info'?"
    );
    assert_eq!(
        only(&format!(
            "namespace {} {{\nstorage-engine memory {{\ndata-size 1G\n}}\n}}\n{}",
            "n".repeat(32),
            file("", "", "")
        )),
        format!(
            "t.conf:1: the name of namespace '{}' is too long: at most 31 bytes are allowed",
            "n".repeat(32)
        )
    );
    // The content of the namespace is checked even if its name is invalid.
    let text = "namespace a:b {\nnsup-periot 1\nstorage-engine memory {\ndata-sise 1G\n}\n}\n";
    let all = said(&[text, &file("", "", "")].concat());
    assert!(all[0].contains("has one of : ; = in it") && all[1].contains("'nsup-periot'"), "{all:#?}");
    assert!(all.iter().any(|one| one.contains("did you mean 'data-size'?")), "{all:#?}");
}

#[test]
fn values_with_a_usual_slip() {
    let fix = |line: &str| {
        let said = in_service(line);
        said.rsplit_once("did you mean ").map(|(_, fix)| fix.to_owned()).unwrap_or(said)
    };
    assert_eq!(fix("proto-fd-max 20000;"), "'20000'?");
    assert_eq!(fix("proto-fd-max 20_000"), "'20000'?");
    assert_eq!(fix("log-millis on"), "'true'?");
    assert_eq!(fix("auto-pin CPU"), "'cpu'?");
    assert_eq!(fix("proto-fd-max=20000"), "'proto-fd-max 20000'?");
    assert_eq!(fix("proto-fd-max: 20000"), "'proto-fd-max …'?");
    assert_eq!(
        in_service("proto-fd-max = 20000"),
        "t.conf:3: 'proto-fd-max' in service has a '=' before its value; leave that out"
    );
    assert!(in_namespace("max-record-size 2MB").ends_with("did you mean '2M'?"));
    assert_eq!(fix("tls-refresh-period 2hours"), "'2h'?");
    assert!(in_namespace("nsup-period 1day").ends_with("did you mean '1d'?"));
    assert!(in_namespace("stop-writes-sys-memory-pct 80%").ends_with("did you mean '80'?"));
    assert_eq!(fix("proto-fd-idle-ms 500ms"), "'500'?");
    assert!(!in_service("tls-refresh-period 500ms").contains("did you mean"), "not 500 s or minutes");
    assert_eq!(
        in_service("pidfile '/opt/x'"),
        "t.conf:3: the quotes around '/opt/x' become part of 'pidfile'; leave them out"
    );
    assert_eq!(
        only(&format!(
            "namespace a;b {{\nstorage-engine memory {{\ndata-size 1G\n}}\n}}\n{}",
            file("", "", "")
        )),
        "t.conf:1: the name of namespace 'a;b' has one of : ; = in it, which separate names elsewhere"
    );
}

/// Consequences of an error are not reported as errors of their own.
#[test]
fn an_error_is_reported_without_its_consequences() {
    let usual = file("", "", "");
    for (text, expected) in [
        (file("", "", "default-ttl 1d\nnsup-period 1x"), "'nsup-period' in namespace 'test' cannot be '1x'"),
        (file("", "", "default-ttl 1d\nnsup-perod 60"), "did you mean 'nsup-period'?"),
        (
            file("", "heartbeat {\nmode multicas\nmulticast-group 239.1.1.1\n}\nfabric {\nport 3001\n}", ""),
            "did you mean 'multicast'?",
        ),
        (file("", "heartbeat {\ninterval x\nconnect-timeout-ms 600\ntimeout 30\n}", ""), "cannot be 'x'"),
        (usual.replace("namespace test", "namespce test"), "did you mean 'namespace'?"),
        (usual.replace("network {", "netwrk {"), "did you mean 'network'?"),
        (usual.replace("{\nservice {", "{\nservce {"), "unknown context 'servce' in network"),
        (usual.replacen("cluster-name", "cluster-nam", 1), "did you mean 'cluster-name'?"),
    ] {
        let said = only(&text);
        assert!(said.contains(expected), "{said}");
    }
    assert!(
        in_second_namespace("storage-engine device {\nfil /a\nfilesize 1G\n}")
            .ends_with("did you mean 'file'?")
    );
    assert_eq!(
        in_second_namespace("storage-engine devcie {\nfile /a\nfilesize 1G\n}"),
        "t.conf:18: 'storage-engine' cannot be 'devcie': it must be memory, pmem or device, did you mean 'device'?"
    );
    // Errors of rules come after the errors that may have caused them.
    let text = file("", "fabric {\nport 3000\n}\ninfo {\nprt 1\n}", "");
    let order: Vec<String> = said(&text).iter().map(|one| one[..9].to_owned()).collect();
    assert_eq!(order, ["t.conf:13", "t.conf:10"]);
}

#[test]
fn a_parameter_with_an_invalid_value_is_not_reported_as_missing_too() {
    assert_eq!(
        only(&file("", "", "").replacen("port 3000", "port 80", 1)),
        "t.conf:7: 'port' in network.service cannot be '80': it must be a port from 1024 to 65535, or 0 for any free one"
    );
    for name in ["access-port", "alternate-access-port"] {
        let said = only(&file("", "", "").replacen("port 3000", &format!("port 3000\n{name} 0"), 1));
        let expected = format!(
            "t.conf:8: '{name}' in network.service cannot be '0': it must be a port from 1024 to 65535 ("
        );
        assert!(said.starts_with(&expected), "{said}");
    }
    assert!(in_second_namespace("storage-engine memory {\ndata-size 1Q\n}").contains("cannot be '1Q'"));
    assert_eq!(
        in_second_namespace("storage-engine ssd {\nfile /a\n}"),
        "t.conf:18: 'storage-engine' cannot be 'ssd' any more: write 'storage-engine device'"
    );
    let files = "storage-engine device {\nfile /a\nfilesize 900T\n}";
    assert!(in_second_namespace(files).contains("cannot be '900T'"));
}

#[test]
fn braces() {
    let text = file("", "", "").replacen("cluster-name c\n\n}", "cluster-name c", 1);
    assert_eq!(only(&text), "t.conf:1: service is not closed: a '}' is missing before line 3");
    let text = file("", "", "");
    let cut = text.trim_end().strip_suffix('}').expect("a brace");
    assert_eq!(only(cut), "t.conf:11: namespace 'test' is not closed: no '}' up to the end of the file");
    assert_eq!(only(&format!("}}\n{text}")), "t.conf:1: '}' without an open context");
    assert_eq!(only(&format!("{{\n}}\n{text}")), "t.conf:1: '{' does not follow the name of a context");
    assert_eq!(
        only(&text.replacen("service {", "service", 1)),
        "t.conf:1: service has no '{' after its name"
    );
    assert_eq!(
        only(&format!("namespace {{\n}}\n{text}")),
        "t.conf:1: 'namespace' needs a name before its '{'"
    );
    let heartbeat = "heartbeat {\ninterval 250\nfabric {\nport 3001\n}";
    let said = said(&file("", heartbeat, ""));
    assert_eq!(
        said.first().map(String::as_str),
        Some("t.conf:9: network.heartbeat is not closed: a '}' is missing before line 11")
    );
    assert_eq!(said.len(), 1, "{said:#?}");
}

#[test]
fn braces_may_stand_as_people_put_them() {
    let text = "service\n{\n\tcluster-name c }\nnetwork { service{ port 3000 } }\n\
                namespace test\n\n{ storage-engine memory\n{ data-size 1G }\n}\n";
    let (config, found) = parsed(text);
    assert_eq!(lines(&found), [""; 0]);
    assert_eq!(config.namespaces[0].storage.params.data_size.get(), 1 << 30);
}

#[test]
fn storage_engine_without_block() {
    assert_eq!(
        in_second_namespace("storage-engine memory\nreplication-factor 1"),
        "t.conf:18: storage-engine memory of namespace 'n' needs 'data-size' (for example 'data-size 1G'), \
         or 'file' or 'device' lines"
    );
    let text = format!("{}namespace n {{\nstorage-engine memory\ndata-size 1G\n}}\n}}\n", file("", "", ""));
    assert_eq!(only(&text), "t.conf:18: storage-engine memory of namespace 'n' has no '{' after its name");
    let (config, _) = parsed(&file("", "", "index-type shmem\nsindex-type shmem {\n}"));
    assert_eq!(config.namespaces[0].index_type.medium.name(), "shmem");
}

/// The only message about a file with a second namespace `n` (line 17) with these lines.
fn in_second_namespace(lines: &str) -> String {
    only(&format!("{}namespace n {{\n{lines}\n}}\n", file("", "", "")))
}

#[test]
fn rules_of_storage() {
    let memory = |lines: &str| in_second_namespace(&format!("storage-engine memory {{\n{lines}\n}}"));
    let device = |lines: &str| in_second_namespace(&format!("storage-engine device {{\n{lines}\n}}"));
    for (said, expected) in [
        (
            memory("file /a\nfilesize 1G\ndata-size 1G"),
            "t.conf:21: 'data-size' in storage-engine memory of namespace 'n' must be left out, because the files \
             or devices determine the size",
        ),
        (
            memory("data-size 1G\nflush-size 128K"),
            "t.conf:20: 'flush-size' in storage-engine memory of namespace 'n' needs 'file' or 'device' lines",
        ),
        (
            memory("data-size 1G\ncommit-to-device true"),
            "t.conf:20: 'commit-to-device' in storage-engine memory of namespace 'n' needs 'file' or 'device' lines",
        ),
        (
            memory("data-size 1G\npost-write-cache 1G"),
            "t.conf:20: 'post-write-cache' does not apply to storage-engine memory of namespace 'n'",
        ),
        (device(""), "t.conf:18: storage-engine device of namespace 'n' needs 'device' or 'file' lines"),
        (
            device("file /a"),
            "t.conf:19: storage-engine device of namespace 'n' needs 'filesize', as it has files",
        ),
        (
            device("device /a\nfile /b\nfilesize 1G"),
            "t.conf:20: storage-engine device of namespace 'n' has both 'device' and 'file' lines; it can have only \
             one kind",
        ),
        (
            device("device /a /as\ndevice /b"),
            "t.conf:20: storage-engine device of namespace 'n': '/b' has no shadow, but others have; all or none must",
        ),
        (
            device("device /a\ndevice /a"),
            "t.conf:20: 'device' in storage-engine device of namespace 'n' names '/a' twice",
        ),
        (
            device("device /a /a"),
            "t.conf:19: '/a' in storage-engine device of namespace 'n' is already used by storage-engine device of \
             namespace 'n'",
        ),
        (
            device("device /a\ncommit-to-device true\ndisable-odsync true"),
            "t.conf:21: 'commit-to-device' and 'disable-odsync' in storage-engine device of namespace 'n' exclude each \
             other",
        ),
        (
            device("device /a\ncompression-level 3"),
            "t.conf:20: 'compression-level' in storage-engine device of namespace 'n' needs 'compression zstd'",
        ),
    ] {
        assert_eq!(said, expected);
    }
}

#[test]
fn rules_between_parameters() {
    for (said, expected) in [
        (
            in_second_namespace("storage-engine pmem {\nfile /a\nfilesize 1G\n}"),
            "t.conf:18: storage-engine pmem of namespace 'n': persistent memory is not supported; use \
             'storage-engine memory' with 'file' lines, or 'storage-engine device'",
        ),
        (
            in_second_namespace(""),
            "t.conf:17: namespace 'n' has no storage-engine; the simplest is 'storage-engine memory { data-size 1G }'",
        ),
        (
            in_namespace("default-ttl 30d"),
            "t.conf:15: 'default-ttl' in namespace 'test' needs 'nsup-period' above 0 or 'allow-ttl-without-nsup true'",
        ),
        (
            in_namespace("set s {\ndefault-ttl 30d\n}"),
            "t.conf:16: 'default-ttl' in set 's' of namespace 'test' needs 'nsup-period' above 0 or \
             'allow-ttl-without-nsup true' in the namespace",
        ),
        (
            in_namespace("storage-engine memory {\ndata-size 1G\n}"),
            "t.conf:15: namespace 'test' already has its storage-engine on line 12; it can have only one",
        ),
        (
            in_namespace("index-type flash {\nmount /m\nmounts-budget 4G\n}"),
            "t.conf:15: index-type flash of namespace 'test' needs 'storage-engine device'",
        ),
        (
            in_service("node-id 1\nnode-id-interface eth0"),
            "t.conf:4: 'node-id' and 'node-id-interface' in service exclude each other",
        ),
        (
            only(&file("", "heartbeat {\nconnect-timeout-ms 501\n}", "")),
            "t.conf:10: 'connect-timeout-ms' in network.heartbeat is 501, but may be at most interval × timeout / 3 = 500",
        ),
        (
            only(&file("", "heartbeat {\nmulticast-group 239.1.1.1\n}\nfabric {\nport 3001\n}", "")),
            "t.conf:10: 'multicast-group' in network.heartbeat needs 'mode multicast'",
        ),
        (
            only(&file("", "heartbeat {\nmode mesh\nmesh-seed-address-port a 3002\nport 3002\n}", "")),
            "t.conf:9: 'port' in network.fabric is missing: other nodes could not connect (usual: 3001)",
        ),
        (
            only(&file("", "fabric {\nchannel-rw-recv-pools 3\n}", "")),
            "t.conf:9: 'channel-rw-recv-threads' in network.fabric is 16, but must be a multiple of \
             channel-rw-recv-pools (3)",
        ),
        (
            only(&file("", "info {\nport 3000\n}", "")),
            "t.conf:10: 'port' in network.info is 3000, but that is already the port of network.service",
        ),
    ] {
        assert_eq!(said, expected);
    }
}

#[test]
fn missing_contexts_and_parameters_are_reported() {
    assert_eq!(
        said(""),
        [
            "t.conf: 'cluster-name' in service is not given; 'ferrospike' is used",
            "t.conf: 'port' in network.service is missing: clients could not connect (usual: 3000)",
            "t.conf: no namespace is configured; at least one 'namespace NAME { … }' is needed",
        ]
    );
    let (config, found) = parsed(&file("", "", "").replacen("cluster-name c\n", "", 1));
    assert_eq!(lines(&found), ["t.conf:1: 'cluster-name' in service is not given; 'ferrospike' is used"]);
    assert_eq!(&*config.service.cluster_name.get_or_empty(), "ferrospike");
}

#[test]
fn things_given_twice() {
    assert_eq!(
        in_service("ticker-interval 5\nticker-interval 6"),
        "t.conf:4: 'ticker-interval' in service is already given on line 3; the last one counts"
    );
    let (config, found) = parsed(&file("ticker-interval 5\n}\nservice {\nticker-interval 6", "", ""));
    assert_eq!(config.service.ticker_interval.get(), 6);
    assert_eq!(found.len(), 1);
    assert_eq!(
        in_second_namespace(
            "storage-engine memory {\ndata-size 1G\n}\n}\nnamespace test {\nstorage-engine memory {\ndata-size 1G\n}"
        ),
        "t.conf:22: namespace 'test' is already configured on line 11"
    );
    assert_eq!(
        in_namespace("set s {\nstop-writes-count 1\n}\nset s {\nstop-writes-size 2\n}"),
        "t.conf:18: set 's' of namespace 'test' is already configured on line 15; this adds to it"
    );
    assert_eq!(in_service("ticker-interval 5 6"), "t.conf:3: '6' after 'ticker-interval' is ignored");
}

#[test]
fn log_sinks() {
    let text = format!(
        "logging {{\nconsole {{\ncontext any warning\ncontext nsup debug\n}}\nfile /var/log/x.log {{\ncontext any info\n}}\n\
         syslog {{\nfacility local3\ntag a\n}}\nsyslog {{\nfacility mail\npath /run/log\n}}\n}}\n{}",
        file("log-millis true", "", "")
    );
    let (config, found) = parsed(&text);
    assert_eq!(lines(&found), [""; 0]);
    let settings = config.log_settings();
    assert!(settings.time_style.millis && !settings.time_style.local);
    let [console, file, syslog, mail] = &settings.sinks[..] else { panic!("{settings:?}") };
    assert_eq!(console.target, Target::Console);
    assert_eq!(console.levels.get(Context::Nsup), Level::Debug);
    assert_eq!(console.levels.get(Context::Service), Level::Warning);
    assert_eq!(file.target, Target::File("/var/log/x.log".into()));
    assert_eq!(file.levels.get(Context::Service), Level::Info);
    assert_eq!(syslog.target, Target::Syslog { path: "/dev/log".into(), tag: "a".into(), facility: 19 });
    assert_eq!(syslog.levels.get(Context::Service), Level::Critical);
    assert_eq!(mail.target, Target::Syslog { path: "/run/log".into(), tag: "asd".into(), facility: 2 });
}

#[test]
fn many_namespaces_but_not_too_many() {
    let more = |count: usize| -> String {
        (0..count)
            .map(|index| format!("namespace n{index} {{\nstorage-engine memory {{\ndata-size 1G\n}}\n}}\n"))
            .collect()
    };
    let (config, _) = parsed(&format!("{}{}", file("", "", ""), more(31)));
    assert_eq!(config.namespaces.len(), 32);
    assert_eq!(
        only(&format!("{}{}", file("", "", ""), more(32))),
        "t.conf:172: there can be at most 32 namespace contexts"
    );
}

#[test]
fn a_repeated_address_or_seed_is_reported_and_used_once() {
    let heartbeat = "heartbeat {\nmesh-seed-address-port 10.0.0.1 3002\nmesh-seed-address-port 10.0.0.1 3002\n}\n\
                     fabric {\nport 3001\naddress 10.0.0.1\naddress 10.0.0.1\n}";
    let (config, found) = parsed(&file("", heartbeat, ""));
    assert_eq!(config.network.heartbeat.mesh_seed_address_port.len(), 1);
    assert_eq!(config.network.fabric.address.get(), ["10.0.0.1"]);
    assert_eq!(
        lines(&found).iter().filter(|line| line.contains("twice; once is enough")).count(),
        2,
        "{found:#?}"
    );
}

/// Ports for other nodes are opened when both are configured, or when the node has seeds or multicast groups.
#[test]
fn ports_for_other_nodes_follow_the_configuration() {
    let fabric = "fabric {\nport 3001\n}";
    let multicast = "heartbeat {\nmode multicast\nmulticast-group 239.1.1.1\nport 9918\n}";
    for (heartbeat, fabric, is_clustered, looks_for_others) in [
        ("", "", false, false),
        ("heartbeat {\nmode mesh\nport 3002\n}", fabric, true, false),
        ("heartbeat {\nport 3002\n}", fabric, true, false),
        ("heartbeat {\nport 3002\n}", "", false, false),
        ("heartbeat {\nport 0\n}", fabric, false, false),
        ("", fabric, false, false),
        ("heartbeat {\nmesh-seed-address-port a 3002\n}", fabric, true, true),
        (multicast, fabric, true, true),
    ] {
        let (config, _) = parsed(&file("", &format!("{heartbeat}\n{fabric}"), ""));
        let network = &config.network;
        assert_eq!(
            (network.is_clustered(), network.looks_for_others()),
            (is_clustered, looks_for_others),
            "{heartbeat} {fabric}"
        );
    }
}

#[test]
fn parameters_not_in_effect_are_reported_once() {
    let network = "heartbeat {\ninterval 250\ntimeout 12\n}\nfabric {\nsend-threads 3\n}";
    let (_, found) = parsed(&file("batch-max-unused-buffers 3", network, "truncate-threads 3"));
    assert_eq!(
        lines(&found),
        ["t.conf: not yet in effect: network.fabric.send-threads, service.batch-max-unused-buffers"]
    );
    assert_eq!(found[0].topic, Topic::NotInEffect);
    // The values equal the defaults.
    let (_, found) = parsed(&file("work-directory /opt/aerospike", "heartbeat {\ninterval 150\n}", ""));
    assert_eq!(lines(&found), [""; 0]);
    let (_, found) = parsed(&file("feature-key-file /x", "", ""));
    assert_eq!(
        lines(&found),
        [
            "t.conf:3: 'feature-key-file' has no effect in this server: File with the feature key of the Enterprise \
          Edition; no feature of this server needs one."
        ]
    );
    assert_eq!(found[0].topic, Topic::Unsupported);
    assert_eq!(
        in_namespace("sindex-stage-size 512M"),
        "t.conf:15: 'sindex-stage-size' has no effect in this server: Memory by which secondary indexes of the C server grow \
         at a time; here each grows by a few entries."
    );
}

#[test]
fn missing_features_that_users_rely_on_are_reported_clearly() {
    // The server does not start if the file asks for protection that does not exist.
    let (_, found) = parsed(&file("", "", "strong-consistency true"));
    let asked = found.iter().find(|one| one.topic == Topic::Protection).map(ToString::to_string);
    assert_eq!(
        asked.as_deref(),
        Some(
            "t.conf:15: 'strong-consistency' in namespace 'test' is not supported yet; take it out if availability may \
             come before consistency"
        )
    );
    assert_eq!(lines(&parsed(&file("", "", "strong-consistency false")).1), [""; 0]);
    let (config, found) = parsed(&format!("security {{\nldap {{\n}}\n}}\n{}", file("", "", "")));
    assert!(config.security.is_some());
    let asked: Vec<&Diagnostic> = found.iter().filter(|one| one.topic == Topic::Protection).collect();
    let [ldap] = asked[..] else { panic!("{found:#?}") };
    assert!(
        ldap.to_string().starts_with("t.conf:2: 'ldap' in security: users of a directory cannot log in"),
        "{ldap}"
    );
    // Parameters that nodes need to speak TLS.
    let without_name = said(&file("", "fabric {\ntls-port 3011\n}", ""));
    assert!(
        without_name.iter().any(|line| line.ends_with("'tls-port' in network.fabric needs a 'tls-name'"))
    );
    let without_name = said(&file("", "heartbeat {\nport 3002\ntls-mesh-seed-address-port a 3012\n}", ""));
    assert!(
        without_name
            .iter()
            .any(|line| line.contains("'tls-mesh-seed-address-port' in network.heartbeat needs")),
        "{without_name:#?}"
    );
}

#[test]
fn every_context_of_the_enterprise_edition_is_read() {
    let text = format!(
        "security {{\nsession-ttl 1h\nldap {{\nserver ldap://x\nrole-query-pattern (&(o=x)(m=${{dn}}))\n\
         polling-period 10\n}}\nlog {{\nreport-data-op test demo\nreport-violation true\n}}\n}}\n\
         xdr {{\nsrc-id 3\ndc east {{\nnode-address-port 10.0.0.1 3000 tls1\nnamespace test {{\nship-set a\n\
         ship-set b\nmax-throughput 500\n}}\n}}\n}}\n{}",
        file("", "tls t1 {\ncert-file /c\n}", "")
    );
    let (config, _) = parsed(&text);
    let security = config.security.expect("security");
    assert_eq!(security.params.session_ttl.get(), 3600);
    assert_eq!(security.ldap.role_query_pattern.get(), ["(&(o=x)(m=${dn}))"]);
    assert_eq!(security.log.report_data_op.get(), ["test demo"]);
    let xdr = config.xdr.expect("xdr");
    assert_eq!(xdr.params.src_id.get(), 3);
    let node = Endpoint { host: "10.0.0.1".into(), port: 3000, tls_name: Some("tls1".into()) };
    assert_eq!(xdr.dcs[0].params.node_address_port.get(), [node]);
    assert_eq!(xdr.dcs[0].namespaces[0].params.ship_set.get(), ["a", "b"]);
    assert_eq!(config.network.tls[0].name, "t1");
}

#[test]
fn all_errors_at_once_but_not_without_end() {
    let said = said(&file(&"nonsense 1\n".repeat(500), "", ""));
    assert!(said.iter().any(|line| line.contains("too many errors")), "{said:#?}");
    assert!(said.len() < 110, "{}", said.len());
}

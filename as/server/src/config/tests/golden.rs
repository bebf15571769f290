//! get-config answers like the C server: recorded answers to recorded configurations, key by key.

use super::*;
use crate::config::command::get_config;

/// The configuration whose answers are in `plain_answers.txt`.
const PLAIN: &str = "
service {
	cluster-name ref
	proto-fd-max 15000
	work-directory /opt/aerospike/state
	pidfile /opt/aerospike/asd.pid
	run-as-daemon false
}
network {
	service {
		address 127.0.0.1
		port 4200
	}
	fabric {
		address 127.0.0.1
		port 4201
	}
	heartbeat {
		mode mesh
		address 127.0.0.1
		port 4202
		interval 150
		timeout 10
	}
	info {
		address 127.0.0.1
		port 4203
	}
}
namespace test {
	replication-factor 1
	nsup-period 1
	allow-ttl-without-nsup true
	storage-engine memory {
		data-size 1G
	}
}
namespace bar {
	replication-factor 1
	storage-engine device {
		file /opt/aerospike/data/bar.dat
		filesize 1G
	}
}
";

fn check(config: &Config, answers: &str) {
    for answer in answers.lines() {
        let (request, expected) = answer.split_once('\t').expect("request, tab, answer");
        let params = request.strip_prefix("get-config:").expect("a get-config");
        // The answers were recorded from the Community Edition, which has nothing to refresh.
        let found = get_config(config, params).replace("tls-refresh-period=60", "tls-refresh-period=0");
        let (found, expected): (Vec<_>, Vec<_>) = (found.split(';').collect(), expected.split(';').collect());
        assert_eq!(found, expected, "{request}");
    }
}

fn stripes(config: &Config, namespace: &str, count: usize) {
    let names: Vec<String> = (0..count).map(|index| format!("stripe-{index}")).collect();
    config.namespace(namespace).expect("namespace").storage.stripes.set(names);
}

#[test]
fn plain_configuration() {
    let (config, _) = parsed(PLAIN);
    config.resolve(2);
    config.service.node_id.set(0x1069_0100_0000_FC02);
    config.network.heartbeat_interface_mtu.set(65_536);
    stripes(&config, "test", 8);
    check(&config, include_str!("plain_answers.txt"));
}

#[test]
fn rich_configuration() {
    let (config, _) = parsed(include_str!("rich.conf"));
    config.resolve(2);
    stripes(&config, "mem", 2);
    check(&config, include_str!("rich_answers.txt"));
    let sets = config.namespace("mem").expect("namespace").sets.list();
    let params = &sets.first().expect("set").1;
    assert_eq!(
        render::set(params),
        "default-read-touch-ttl-pct=4294967295:default-ttl=4294967295:disable-eviction=false:enable-index=false:\
         stop-writes-count=10240:stop-writes-size=0"
    );
}

#[test]
fn multicast_shows_its_own_keys() {
    let network = "heartbeat {\nmode multicast\naddress 127.0.0.1\nmulticast-group 239.1.99.222\nport 4102\n\
                   multicast-ttl 3\n}\nfabric {\nport 3001\n}";
    let (config, _) = parsed(&file("", network, ""));
    let answer = render::network(&config);
    let heartbeat: Vec<&str> = answer.split(';').filter(|pair| pair.starts_with("heartbeat.")).collect();
    assert_eq!(
        heartbeat,
        [
            "heartbeat.mode=multicast",
            "heartbeat.address=127.0.0.1",
            "heartbeat.multicast-group=239.1.99.222",
            "heartbeat.port=4102",
            "heartbeat.multicast-ttl=3",
            "heartbeat.interval=150",
            "heartbeat.timeout=10",
            "heartbeat.connect-timeout-ms=500",
            "heartbeat.mtu=0",
            "heartbeat.protocol=v3",
        ]
    );
}

#[test]
fn parameters_that_are_missing() {
    let (config, _) = parsed(&file("", "", ""));
    for (params, expected) in [
        ("id=test", "ERROR:4:missing 'context'"),
        ("context=", "ERROR:4:missing 'context' value"),
        ("context=namespace", "ERROR:20:missing 'namespace'"),
        ("context=namespace;id=", "ERROR:20:missing 'namespace' value"),
        ("context=namespace;id=zz", "ERROR:20:namespace not found on node"),
        ("context=zz", "ERROR:4:invalid context"),
        ("context=xdr", ""),
    ] {
        assert_eq!(get_config(&config, params), expected, "{params}");
    }
}

#[test]
fn structure_is_shown() {
    let text = "
service {
	cluster-name c
	secrets-address-port 10.0.0.1 3005 secret
	feature-key-file /a
	feature-key-file /b
}
network {
	service {
		port 3000
	}
	tls one {
		cert-file /c
	}
}
namespace test {
	index-type flash {
		mount /m1
		mount /m2
		mounts-budget 8G
	}
	storage-engine device {
		device /dev/x
		encryption-key-file /k
	}
}
";
    let (config, _) = parsed(text);
    let service = render::service(&config);
    assert!(service.contains(";feature-key-file[0]=/a;feature-key-file[1]=/b;"), "{service}");
    assert!(service.contains(";secrets-address-port=10.0.0.1:3005:secret;"), "{service}");
    let network = render::network(&config);
    let tls = "tls[0].name=one;tls[0].ca-file=null;tls[0].ca-path=null;tls[0].cert-blacklist=null;\
               tls[0].cert-file=/c;tls[0].cipher-suite=null;tls[0].key-file=null;\
               tls[0].key-file-password=null;tls[0].protocols=TLSv1.2";
    assert!(network.ends_with(tls), "{network}");
    let namespace = render::namespace(&config.namespaces[0]);
    let index = "index-type=flash;index-type.mount[0]=/m1;index-type.mount[1]=/m2;\
                 index-type.evict-mounts-pct=0;index-type.mounts-budget=8589934592;sindex-type=mem;\
                 storage-engine=device;storage-engine.device[0]=/dev/x;";
    assert!(namespace.contains(index), "{namespace}");
    assert!(namespace.contains(";storage-engine.encryption=aes-128;"), "{namespace}");
}

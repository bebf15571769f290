//! The sample files in `etc/` are valid without changes.

use super::*;

const SAMPLES: [(&str, &str); 6] = [
    ("aerospike.conf", include_str!("../../../../../etc/aerospike.conf")),
    ("aerospike_dev.conf", DEVELOPER_TEXT),
    ("aerospike_memory.conf", include_str!("../../../../../etc/aerospike_memory.conf")),
    ("aerospike_mesh.conf", include_str!("../../../../../etc/aerospike_mesh.conf")),
    ("aerospike_multicast.conf", include_str!("../../../../../etc/aerospike_multicast.conf")),
    ("aerospike_ssd.conf", include_str!("../../../../../etc/aerospike_ssd.conf")),
];

#[test]
fn samples_are_clean() {
    for (name, text) in SAMPLES {
        let (config, found) =
            parse(text, name).unwrap_or_else(|found| panic!("{}", lines(&found).join("\n")));
        let other: Vec<_> = found.iter().filter(|one| one.topic != Topic::NotInEffect).collect();
        assert!(other.is_empty(), "{other:#?}");
        assert!(config.namespace("test").is_some(), "{name} has no namespace test");
        assert!(!config.logging.is_empty(), "{name} logs nowhere");
        assert!(!text.contains("        "), "{name} is indented with tabs");
    }
}

#[test]
fn developer_configuration_is_clean() {
    let (config, found) = parse(DEVELOPER_TEXT, DEVELOPER_SOURCE).expect("it parses");
    assert_eq!(found, []);
    assert_eq!(config.namespaces.len(), 1);
    let namespace = Config::developer().namespaces.pop().expect("one namespace");
    assert_eq!(namespace.name, "test");
    assert_eq!(namespace.params.nsup_period.get(), 1);
    assert_eq!(namespace.storage.params.data_size.get(), 1 << 30);
    assert_eq!(config.network.service.address.get(), ["127.0.0.1"]);
    assert_eq!(config.network.service.port.get(), 3000);
    assert!(!config.service.run_as_daemon.get());
    let log = config.log_settings();
    assert_eq!(log.sinks.len(), 1);
    // The log leaves out nsup's line for each second in which nothing expired.
    assert_eq!(log.sinks[0].levels.get(cf::log::Context::Nsup), cf::log::Level::Warning);
}

#[test]
fn files_that_cannot_be_read() {
    let said = |path: &Path| lines(&load(path).expect_err("an error"));
    let folder = std::env::temp_dir().join(format!("config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let missing = folder.join("missing.conf");
    assert_eq!(
        said(&missing),
        [format!("{}: cannot be read: No such file or directory (os error 2)", missing.display())]
    );
    let binary = folder.join("binary.conf");
    std::fs::write(&binary, b"service {\n}\n\xff\n").expect("file");
    assert_eq!(said(&binary), [format!("{}:3: there are bytes that are not UTF-8 text", binary.display())]);
    let good = folder.join("good.conf");
    std::fs::write(&good, DEVELOPER_TEXT).expect("file");
    let (config, _) = load(&good).expect("it parses");
    assert_eq!(config.text, DEVELOPER_TEXT);
    assert_eq!(config.source, good.display().to_string());
    std::fs::remove_dir_all(&folder).expect("removed");
}

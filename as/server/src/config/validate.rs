//! Rules about several parameters together; each error names the relevant line.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::context::ContextKind;
use super::diagnostic::{Topic, shown};
use super::kind::{TTL_NEVER, size_text};
use super::model::{Config, Engine, IndexConfig, IndexMedium, NamespaceConfig, NetworkConfig, StorageConfig};
use super::params::network::{HeartbeatMode, MESH_SEEDS_MAX};
use super::params::storage::{Compression, FLUSH_SIZE_DEFAULT};
use super::parser::{Report, TOP, storage_label};
use super::setting::{List, Number};

const SERVICE: &str = "service";
const CLIENTS: &str = "network.service";
const HEARTBEAT: &str = "network.heartbeat";
const FABRIC: &str = "network.fabric";
const KEY_FILES: [&str; 2] = ["encryption-key-file", "encryption-old-key-file"];
const ADMIN: &str = "network.admin";
const INFO: &str = "network.info";
const METRICS: &str = "network.metrics";

/// Applies every rule.
pub(super) fn check(config: &Config, report: &mut Report) {
    check_service(config, report);
    check_clients(&config.network, report);
    check_heartbeat(&config.network, report);
    check_fabric(&config.network, report);
    check_ports(&config.network, report);
    check_tls_names(config, report);
    if config.namespaces.is_empty() && !report.was_refused(TOP, "namespace") {
        rule(report, 0, "no namespace is configured; at least one 'namespace NAME { … }' is needed");
    }
    for namespace in &config.namespaces {
        check_namespace(namespace, report);
    }
    check_shared_backings(config, report);
    if let Some(line) = report.line_of_context("security.ldap") {
        // Users that exist only in the directory could not log in.
        let message = "'ldap' in security: users of a directory cannot log in yet; take it out, and make users with asadm's \
                       `manage acl`";
        report.warn(line, Topic::Protection, message.to_owned());
    }
}

fn rule(report: &mut Report, line: usize, message: impl Into<String>) {
    report.error(line, Topic::Rule, message.into());
}

fn check_service(config: &Config, report: &mut Report) {
    if let (Some(_), Some(line)) =
        (report.line_of(SERVICE, "node-id"), report.line_of(SERVICE, "node-id-interface"))
    {
        rule(report, line, "'node-id' and 'node-id-interface' in service exclude each other");
    }
    if report.is_missing(SERVICE, "cluster-name") && !report.is_unread(SERVICE) {
        let line = report.line_of_context(SERVICE).unwrap_or(0);
        let name = config.service.cluster_name.get_or_empty();
        report.warn(line, Topic::Rule, format!("'cluster-name' in service is not given; '{name}' is used"));
    }
}

fn check_clients(network: &NetworkConfig, report: &mut Report) {
    let has_no_port = ["port", "tls-port"].into_iter().all(|name| report.is_missing(CLIENTS, name));
    if has_no_port && !report.is_unread(CLIENTS) {
        let line = report.line_of_context(CLIENTS).unwrap_or(0);
        rule(report, line, "'port' in network.service is missing: clients could not connect (usual: 3000)");
    }
    let params = &network.service;
    for (name, list) in [
        ("access-address", &params.access_address),
        ("alternate-access-address", &params.alternate_access_address),
        ("tls-access-address", &params.tls_access_address),
        ("tls-alternate-access-address", &params.tls_alternate_access_address),
    ] {
        if let Some(address) = list.get().iter().find(|address| is_any_address(address)) {
            let line = report.line_near(CLIENTS, name);
            rule(
                report,
                line,
                format!(
                    "'{name}' in network.service cannot be '{}': clients need an address they can reach",
                    shown(address)
                ),
            );
        }
    }
    for (label, rule_of) in
        [(CLIENTS, &params.tls_authenticate_client), (ADMIN, &network.admin.tls_authenticate_client)]
    {
        let names = rule_of.get();
        if names.len() > 1 && names.iter().any(|name| name == "any" || name == "false") {
            let line = report.line_near(label, "tls-authenticate-client");
            let message =
                format!("'tls-authenticate-client' in {label}: any and false exclude further values");
            rule(report, line, message);
        }
    }
}

/// Whether an address stands for every interface.
fn is_any_address(address: &str) -> bool {
    matches!(address, "any" | "0.0.0.0" | "::" | "[::]")
}

fn check_heartbeat(network: &NetworkConfig, report: &mut Report) {
    let params = &network.heartbeat;
    let longest = u64::from(params.interval.get()) * u64::from(params.timeout.get()) / 3;
    let is_known = ["interval", "timeout"].into_iter().all(|name| !report.was_refused(HEARTBEAT, name));
    if is_known && u64::from(params.connect_timeout_ms.get()) > longest {
        let line = report.line_near(HEARTBEAT, "connect-timeout-ms");
        rule(
            report,
            line,
            format!(
                "'connect-timeout-ms' in network.heartbeat is {}, but may be at most interval × timeout / 3 = {longest}",
                params.connect_timeout_ms.get()
            ),
        );
    }
    let seeds = params.mesh_seed_address_port.len() + params.tls_mesh_seed_address_port.len();
    if seeds > MESH_SEEDS_MAX {
        let line = report.line_near(HEARTBEAT, "mesh-seed-address-port");
        rule(
            report,
            line,
            format!(
                "'mesh-seed-address-port' in network.heartbeat is given on more than {MESH_SEEDS_MAX} lines"
            ),
        );
    }
    match params.mode.get() {
        _ if report.was_refused(HEARTBEAT, "mode") => {}
        HeartbeatMode::Mesh => {
            if let Some(line) = report.line_of(HEARTBEAT, "multicast-group") {
                rule(report, line, "'multicast-group' in network.heartbeat needs 'mode multicast'");
            }
        }
        HeartbeatMode::Multicast => {
            let line = report.line_near(HEARTBEAT, "mode");
            if params.multicast_group.is_empty() && report.is_missing(HEARTBEAT, "multicast-group") {
                rule(report, line, "'mode multicast' in network.heartbeat needs a 'multicast-group'");
            }
            for text in params.multicast_group.get() {
                if !text.parse().is_ok_and(|address: Ipv4Addr| address.is_multicast()) {
                    let line = report.line_near(HEARTBEAT, "multicast-group");
                    rule(
                        report,
                        line,
                        format!(
                            "'multicast-group' in network.heartbeat is {text}, but must be an address from 224.0.0.0 to 239.255.255.255"
                        ),
                    );
                }
            }
            if report.is_missing(HEARTBEAT, "port") {
                rule(report, line, "'mode multicast' in network.heartbeat needs a 'port'");
            }
            for name in ["mesh-seed-address-port", "tls-mesh-seed-address-port"] {
                if let Some(line) = report.line_of(HEARTBEAT, name) {
                    rule(report, line, format!("'{name}' in network.heartbeat needs 'mode mesh'"));
                }
            }
            if let Some(line) = report.line_of(HEARTBEAT, "tls-port") {
                rule(
                    report,
                    line,
                    "'tls-port' in network.heartbeat needs 'mode mesh': multicast speaks no TLS",
                );
            }
        }
    }
}

fn check_fabric(network: &NetworkConfig, report: &mut Report) {
    let params = &network.fabric;
    let (threads, pools) = (params.channel_rw_recv_threads.get(), params.channel_rw_recv_pools.get());
    let is_known = ["channel-rw-recv-threads", "channel-rw-recv-pools"]
        .into_iter()
        .all(|name| !report.was_refused(FABRIC, name));
    if is_known && threads.checked_rem(pools) != Some(0) {
        let line = report.line_near(FABRIC, "channel-rw-recv-threads");
        rule(
            report,
            line,
            format!(
                "'channel-rw-recv-threads' in network.fabric is {threads}, but must be a multiple of channel-rw-recv-pools ({pools})"
            ),
        );
    }
    let heartbeat = &network.heartbeat;
    let clustered = !heartbeat.mesh_seed_address_port.is_empty()
        || !heartbeat.tls_mesh_seed_address_port.is_empty()
        || !heartbeat.multicast_group.is_empty();
    let has_port = ["port", "tls-port"].iter().any(|name| !report.is_missing(FABRIC, name));
    if clustered && !has_port && !report.is_unread(FABRIC) {
        let line = report.line_of_context(FABRIC).or_else(|| report.line_of_context(HEARTBEAT)).unwrap_or(0);
        rule(
            report,
            line,
            "'port' in network.fabric is missing: other nodes could not connect (usual: 3001)",
        );
    }
}

/// The same port on the same addresses cannot be opened twice.
fn check_ports(network: &NetworkConfig, report: &mut Report) {
    let listeners: [(&str, &'static str, &Number<u16>, &List<String>); 10] = [
        (CLIENTS, "port", &network.service.port, &network.service.address),
        (CLIENTS, "tls-port", &network.service.tls_port, &network.service.tls_address),
        (ADMIN, "port", &network.admin.port, &network.admin.address),
        (ADMIN, "tls-port", &network.admin.tls_port, &network.admin.tls_address),
        (HEARTBEAT, "port", &network.heartbeat.port, &network.heartbeat.address),
        (HEARTBEAT, "tls-port", &network.heartbeat.tls_port, &network.heartbeat.tls_address),
        (FABRIC, "port", &network.fabric.port, &network.fabric.address),
        (FABRIC, "tls-port", &network.fabric.tls_port, &network.fabric.tls_address),
        (INFO, "port", &network.info.port, &network.info.address),
        (METRICS, "port", &network.metrics.port, &network.metrics.address),
    ];
    let multicast = network.heartbeat.mode.get() == HeartbeatMode::Multicast;
    let mut used: HashMap<(u16, Vec<String>), (&str, &str)> = HashMap::new();
    for (label, name, port, addresses) in listeners {
        if port.get() == 0 || (label == HEARTBEAT && multicast) {
            continue;
        }
        let mut addresses = addresses.get();
        addresses.sort();
        if let Some((other, port_name)) = used.insert((port.get(), addresses), (label, name)) {
            let line = report.line_near(label, name);
            rule(
                report,
                line,
                format!(
                    "'{name}' in {label} is {}, but that is already the {port_name} of {other}",
                    port.get()
                ),
            );
        }
    }
}

fn check_tls_names(config: &Config, report: &mut Report) {
    let network = &config.network;
    let users = [
        (CLIENTS, network.service.tls_name.get()),
        (HEARTBEAT, network.heartbeat.tls_name.get()),
        (FABRIC, network.fabric.tls_name.get()),
        (ADMIN, network.admin.tls_name.get()),
    ];
    for (label, name) in users {
        match name {
            Some(name) => {
                let wanted = config.tls_name(&name);
                let is_there = network.tls.iter().any(|tls| config.tls_name(&tls.name) == wanted);
                if !is_there && !report.was_refused("network", "tls") {
                    let line = report.line_near(label, "tls-name");
                    rule(
                        report,
                        line,
                        format!("'tls-name' in {label}: there is no 'tls {}' in network", shown(&name)),
                    );
                }
            }
            None if report.was_refused(label, "tls-name") => {}
            None => {
                for parameter in ["tls-port", "tls-mesh-seed-address-port"] {
                    if let Some(line) = report.line_of(label, parameter) {
                        rule(report, line, format!("'{parameter}' in {label} needs a 'tls-name'"));
                    }
                }
            }
        }
    }
}

fn check_namespace(namespace: &NamespaceConfig, report: &mut Report) {
    let name = shown(&namespace.name);
    let label = format!("namespace '{name}'");
    let params = &namespace.params;
    let start = report.line_of_context(&label).unwrap_or(0);
    let storage = storage_label(namespace.storage.engine, &name);
    if report.line_of_context(&storage).is_some() {
        check_storage(&namespace.storage, &storage, report);
    } else if report.is_missing(&label, "storage-engine") {
        rule(
            report,
            start,
            format!(
                "{label} has no storage-engine; the simplest is 'storage-engine memory {{ data-size 1G }}'"
            ),
        );
    }
    let expires = params.nsup_period.get() != 0
        || params.allow_ttl_without_nsup.get()
        || ["nsup-period", "allow-ttl-without-nsup"].into_iter().any(|name| report.was_refused(&label, name));
    if params.default_ttl.get() != 0 && !expires {
        let line = report.line_near(&label, "default-ttl");
        rule(
            report,
            line,
            format!("'default-ttl' in {label} needs 'nsup-period' above 0 or 'allow-ttl-without-nsup true'"),
        );
    }
    for (set, params) in namespace.sets.list() {
        let set = format!("set '{}' of {label}", shown(&set));
        if !expires && !matches!(params.default_ttl.get(), 0 | TTL_NEVER) {
            let line = report.line_near(&set, "default-ttl");
            rule(
                report,
                line,
                format!(
                    "'default-ttl' in {set} needs 'nsup-period' above 0 or 'allow-ttl-without-nsup true' in the namespace"
                ),
            );
        }
    }
    if params.strong_consistency.get() {
        let line = report.line_near(&label, "strong-consistency");
        // Reads could be stale, and both sides of a network partition could take writes.
        let message = format!(
            "'strong-consistency' in {label} is not supported yet; take it out if availability may come before \
             consistency"
        );
        report.warn(line, Topic::Protection, message);
    }
    check_index(&namespace.index_type, ContextKind::IndexType, &label, report);
    check_index(&namespace.sindex_type, ContextKind::SindexType, &label, report);
    let on_device =
        namespace.storage.engine == Engine::Device || report.was_refused(&label, "storage-engine");
    if namespace.index_type.medium == IndexMedium::Flash && !on_device {
        let line = report.line_of_context(&format!("index-type flash of {label}")).unwrap_or(start);
        rule(report, line, format!("index-type flash of {label} needs 'storage-engine device'"));
    }
}

fn check_index(index: &IndexConfig, kind: ContextKind, namespace: &str, report: &mut Report) {
    let word = kind.spec().map_or("", |spec| spec.word);
    let label = format!("{word} {} of {namespace}", index.medium.name());
    let Some(line) = report.line_of_context(&label) else { return };
    if index.medium.variant() == 0 {
        return;
    }
    if index.params.mount.is_empty() && report.is_missing(&label, "mount") {
        rule(report, line, format!("'mount' in {label} is missing"));
    }
    let budget = index.params.mounts_budget.get();
    let least =
        if kind == ContextKind::IndexType && index.medium == IndexMedium::Flash { 4 << 30 } else { 0 };
    if report.was_refused(&label, "mounts-budget") {
        // An earlier check has reported this.
    } else if budget == 0 {
        rule(report, line, format!("'mounts-budget' in {label} is missing"));
    } else if budget < least {
        let line = report.line_near(&label, "mounts-budget");
        rule(
            report,
            line,
            format!(
                "'mounts-budget' in {label} is {}, but must be at least {}",
                size_text(budget),
                size_text(least)
            ),
        );
    }
}

fn check_storage(storage: &StorageConfig, label: &str, report: &mut Report) {
    for (name, line) in KEY_FILES.into_iter().zip(&storage.key_lines) {
        line.set(report.line_of(label, name).and_then(|line| u32::try_from(line).ok()).unwrap_or(0));
    }
    let params = &storage.params;
    let start = report.line_of_context(label).unwrap_or(0);
    let given = |report: &Report, name| report.line_of(label, name);
    match storage.engine {
        Engine::Memory => check_memory(storage, label, report),
        Engine::Pmem => rule(
            report,
            start,
            format!(
                "{label}: persistent memory is not supported; use 'storage-engine memory' with 'file' lines, or 'storage-engine device'"
            ),
        ),
        Engine::Device if !storage.is_backed() && has_no_backing(label, report) => {
            rule(report, start, format!("{label} needs 'device' or 'file' lines"));
        }
        Engine::Device => {}
    }
    if let (false, Some(line)) = (params.device.is_empty(), given(report, "file")) {
        rule(report, line, format!("{label} has both 'device' and 'file' lines; it can have only one kind"));
    }
    if !params.file.is_empty() && report.is_missing(label, "filesize") {
        let line = report.line_near(label, "file");
        rule(report, line, format!("{label} needs 'filesize', as it has files"));
    }
    let backings = storage.backings();
    let shadowed = backings.iter().filter(|backing| backing.shadow.is_some()).count();
    if shadowed != 0
        && let Some(backing) = backings.iter().find(|backing| backing.shadow.is_none())
    {
        let line = report.line_near(label, if storage.is_raw_device() { "device" } else { "file" });
        rule(
            report,
            line,
            format!("{label}: '{}' has no shadow, but others have; all or none must", shown(&backing.path)),
        );
    }
    if params.commit_to_device.get() && params.disable_odsync.get() {
        let line = report.line_near(label, "disable-odsync");
        rule(report, line, format!("'commit-to-device' and 'disable-odsync' in {label} exclude each other"));
    }
    for name in ["encryption", "encryption-old-key-file"] {
        let has_key = params.encryption_key_file.is_set() || report.was_refused(label, "encryption-key-file");
        if let Some(line) = given(report, name).filter(|_| !has_key) {
            rule(report, line, format!("'{name}' in {label} needs 'encryption-key-file'"));
        }
    }
    let compression = params.compression.get();
    for (name, needed) in
        [("compression-acceleration", Compression::Lz4), ("compression-level", Compression::Zstd)]
    {
        let is_refused = report.was_refused(label, "compression");
        if let Some(line) = given(report, name).filter(|_| compression != needed && !is_refused) {
            rule(report, line, format!("'{name}' in {label} needs 'compression {}'", needed.name()));
        }
    }
}

/// Whether no file or device is given, not even one that was refused.
fn has_no_backing(label: &str, report: &Report) -> bool {
    ["file", "device"].into_iter().all(|name| report.is_missing(label, name))
}

/// Rules of `storage-engine memory`; also fills in the write size of its files or devices.
fn check_memory(storage: &StorageConfig, label: &str, report: &mut Report) {
    let params = &storage.params;
    let start = report.line_of_context(label).unwrap_or(0);
    let given = |report: &Report, name| report.line_of(label, name);
    if storage.is_backed() {
        if let Some(line) = given(report, "data-size") {
            rule(
                report,
                line,
                format!(
                    "'data-size' in {label} must be left out, because the files or devices determine the size"
                ),
            );
        }
        if params.flush_size.get() == 0 {
            params.flush_size.set(FLUSH_SIZE_DEFAULT);
        }
        return;
    }
    if report.is_missing(label, "data-size") && has_no_backing(label, report) {
        rule(
            report,
            start,
            format!("{label} needs 'data-size' (for example 'data-size 1G'), or 'file' or 'device' lines"),
        );
    }
    for name in ["flush-size", "encryption-key-file", "commit-to-device"] {
        let idle = name == "commit-to-device" && !params.commit_to_device.get();
        if let Some(line) = given(report, name).filter(|_| !idle && has_no_backing(label, report)) {
            rule(report, line, format!("'{name}' in {label} needs 'file' or 'device' lines"));
        }
    }
}

/// Two namespaces, or two lines of one, must not write to the same place.
fn check_shared_backings(config: &Config, report: &mut Report) {
    let mut owners: HashMap<String, String> = HashMap::new();
    for namespace in &config.namespaces {
        let name = shown(&namespace.name);
        let label = storage_label(namespace.storage.engine, &name);
        for backing in namespace.storage.backings() {
            for path in std::iter::once(backing.path).chain(backing.shadow) {
                let Some(owner) = owners.insert(path.clone(), label.clone()) else { continue };
                let list = if namespace.storage.is_raw_device() { "device" } else { "file" };
                let line = report.line_near(&label, list);
                rule(report, line, format!("'{}' in {label} is already used by {owner}", shown(&path)));
            }
        }
    }
}

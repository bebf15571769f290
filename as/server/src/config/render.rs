//! get-config: the configuration as `name=value` pairs with `;` between them.
//!
//! Names, order and spelling are part of the info protocol; tools compare them between nodes. The tables
//! give both, except for the few names that stand for the structure rather than for a parameter.

use super::context::ContextKind;
use super::kind::Kind;
use super::model::{Config, Engine, IndexConfig, NamespaceConfig, StorageConfig};
use super::params::namespace::SetParams;
use super::setting::Field;
use super::spec::{ParamTable, Spec, rows, variant};

/// The `service` context.
#[must_use]
pub fn service(config: &Config) -> String {
    let mut out = Pairs::default();
    out.table(ContextKind::Service, &config.service, variant::ALL);
    out.text
}

/// The `network` context.
#[must_use]
pub fn network(config: &Config) -> String {
    let network = &config.network;
    let mut out = Pairs::default();
    out.table(ContextKind::NetworkService, &network.service, variant::ALL);
    let mtu = network.heartbeat.mtu.get();
    out.table_with(ContextKind::Heartbeat, &network.heartbeat, network.heartbeat_variant(), |spec| {
        (spec.name == "mtu" && mtu == 0).then(|| network.heartbeat_interface_mtu.get().to_string())
    });
    out.table(ContextKind::Fabric, &network.fabric, variant::ALL);
    out.table(ContextKind::NetworkInfo, &network.info, variant::ALL);
    for (index, tls) in network.tls.iter().enumerate() {
        let prefix = format!("tls[{index}].");
        out.pair(&prefix, "name", &tls.name);
        for (spec, field) in rows(&tls.params).filter(|(spec, _)| spec.shown_by != 0) {
            out.row(&prefix, spec, field);
        }
    }
    out.text
}

/// The `namespace` context of one namespace, its inner contexts included.
#[must_use]
pub fn namespace(namespace: &NamespaceConfig) -> String {
    let mut out = Pairs::default();
    out.table(ContextKind::Namespace, &namespace.params, variant::ALL);
    out.table(ContextKind::Geo, &namespace.geo2dsphere_within, variant::ALL);
    out.index(ContextKind::IndexType, &namespace.index_type);
    out.index(ContextKind::SindexType, &namespace.sindex_type);
    out.pair("", "storage-engine", namespace.storage.engine.name());
    out.backings(&namespace.storage);
    out.table(ContextKind::Storage, &*namespace.storage.params, namespace.storage.variant());
    out.text
}

/// The parameters of a set as the info command `sets` shows them: pairs with `:` between them.
#[must_use]
pub fn set(params: &SetParams) -> String {
    let pairs: Vec<String> =
        rows(params).map(|(spec, field)| format!("{}={}", spec.name, spec.kind.text(field))).collect();
    pairs.join(":")
}

/// The `security` context; empty if there is none.
#[must_use]
pub fn security(config: &Config) -> String {
    let mut out = Pairs::default();
    if let Some(security) = &config.security {
        out.table(ContextKind::Security, &security.params, variant::ALL);
        out.table(ContextKind::Ldap, &security.ldap, variant::ALL);
        out.table(ContextKind::SecurityLog, &security.log, variant::ALL);
    }
    out.text
}

/// The contexts outside namespaces: the answer of get-config without parameters.
#[must_use]
pub fn all(config: &Config) -> String {
    let parts = [service(config), network(config), security(config)];
    parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(";")
}

/// Pairs under construction.
#[derive(Default)]
struct Pairs {
    text: String,
}

impl Pairs {
    fn pair(&mut self, prefix: &str, name: &str, value: &str) {
        if !self.text.is_empty() {
            self.text.push(';');
        }
        for part in [prefix, name, "=", value] {
            self.text.push_str(part);
        }
    }

    fn table(&mut self, kind: ContextKind, table: &dyn ParamTable, bits: u8) {
        self.table_with(kind, table, bits, |_| None);
    }

    /// Adds all rows that the variant `bits` shows; `instead` may return another text for a value.
    fn table_with(
        &mut self,
        kind: ContextKind,
        table: &dyn ParamTable,
        bits: u8,
        instead: impl Fn(&Spec) -> Option<String>,
    ) {
        let prefix = kind.spec().map_or("", |context| context.get_prefix);
        for (spec, field) in rows(table).filter(|(spec, _)| spec.shown_by & bits != 0) {
            match instead(spec) {
                Some(text) => self.pair(prefix, spec.name, &text),
                None => self.row(prefix, spec, field),
            }
        }
    }

    /// Adds one row; a list adds a pair for each item.
    fn row(&mut self, prefix: &str, spec: &Spec, field: Field<'_>) {
        match field {
            Field::Texts(list) => {
                let indexed = matches!(spec.kind, Kind::Texts { indexed: true, .. });
                for (index, item) in list.get().iter().enumerate() {
                    if indexed {
                        self.pair(prefix, &format!("{}[{index}]", spec.name), item);
                    } else {
                        self.pair(prefix, spec.name, item);
                    }
                }
            }
            Field::Endpoints(list) => {
                for item in list.get() {
                    self.pair(prefix, spec.name, &format!("{}:{}", item.host, item.port));
                }
            }
            _ => self.pair(prefix, spec.name, &spec.kind.text(field)),
        }
    }

    fn index(&mut self, kind: ContextKind, index: &IndexConfig) {
        let word = kind.spec().map_or("", |context| context.word);
        self.pair("", word, index.medium.name());
        self.table(kind, &index.params, index.medium.variant());
    }

    /// Stripes, devices and files with their shadows.
    fn backings(&mut self, storage: &StorageConfig) {
        const PREFIX: &str = "storage-engine.";
        let word = if storage.is_raw_device() { "device" } else { "file" };
        let backings = storage.backings();
        if storage.engine == Engine::Memory {
            let stripes = storage.stripes.get();
            for index in 0..stripes.len().max(backings.len()) {
                if let Some(stripe) = stripes.get(index) {
                    self.pair(PREFIX, &format!("stripe[{index}]"), stripe);
                }
                if let Some(backing) = backings.get(index) {
                    self.pair(PREFIX, &format!("{word}[{index}]"), &backing.path);
                }
            }
            return;
        }
        for (index, backing) in backings.iter().enumerate() {
            self.pair(PREFIX, &format!("{word}[{index}]"), &backing.path);
            if let Some(shadow) = &backing.shadow {
                self.pair(PREFIX, &format!("{word}[{index}].shadow"), shadow);
            }
        }
    }
}

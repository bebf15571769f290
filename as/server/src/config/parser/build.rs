//! Adds contexts of the file to the [`Config`](crate::config::model::Config).

use std::sync::Arc;

use super::report::storage_label;
use super::{Frame, Parser};
use crate::config::context::{ContextKind, ContextSpec};
use crate::config::diagnostic::{Topic, shown};
use crate::config::model::{
    Engine, IndexMedium, LOG_SINKS_MAX, LogSinkConfig, LogSinkKind, NAMESPACES_MAX, NamespaceConfig,
    SecurityConfig, TLS_MAX, TlsConfig, XDR_DCS_MAX, XdrConfig, XdrDcConfig, XdrNamespaceConfig,
};
use crate::config::params::namespace::SetParams;
use crate::config::params::storage::{FLUSH_SIZE_DEFAULT, POST_WRITE_CACHE_DEFAULT};
use crate::config::spec::ParamTable;

impl Parser {
    /// Adds a context to the configuration and returns the frame for its statements. A context that may not
    /// stand here gets a frame whose statements are skipped.
    pub(super) fn enter(
        &mut self,
        line: usize,
        context: &'static ContextSpec,
        argument: &str,
        bits: u8,
    ) -> Frame {
        let label = self.context_label(context, argument);
        let first = self.report.line_of_context(&label);
        let made = match (first, context.kind) {
            (
                Some(first),
                ContextKind::Namespace | ContextKind::Tls | ContextKind::XdrDc | ContextKind::XdrNamespace,
            ) => Err(format!("{label} is already configured on line {first}")),
            (Some(first), ContextKind::Set) => {
                let message = format!("{label} is already configured on line {first}; this adds to it");
                self.report.warn(line, Topic::Rule, message);
                self.make_room(line, context, argument)
            }
            _ => self.make_room(line, context, argument),
        };
        let skipped = made.is_err();
        let set = made.unwrap_or_else(|message| {
            self.report.error(line, Topic::Rule, message);
            None
        });
        if !skipped {
            self.report.note_context(&label, line);
        }
        Frame { kind: context.kind, variant: bits, label, line, set, skipped }
    }

    fn context_label(&self, context: &ContextSpec, argument: &str) -> String {
        let outer = self.label();
        match context.kind {
            ContextKind::Namespace => format!("namespace '{}'", shown(argument)),
            ContextKind::Set | ContextKind::XdrNamespace => {
                format!("{} '{}' of {outer}", context.word, shown(argument))
            }
            ContextKind::Storage | ContextKind::IndexType | ContextKind::SindexType => {
                format!("{} {argument} of {outer}", context.word)
            }
            ContextKind::Geo => format!("{} of {outer}", context.word),
            ContextKind::Console | ContextKind::Syslog if !self.config.logging.is_empty() => {
                format!("{} (sink {})", context.path, self.config.logging.len())
            }
            _ if argument.is_empty() => context.path.to_owned(),
            _ => format!("{} '{}'", context.path, shown(argument)),
        }
    }

    /// Adds the context to the configuration, or returns the reason why it may not stand there.
    fn make_room(
        &mut self,
        line: usize,
        context: &'static ContextSpec,
        argument: &str,
    ) -> Result<Option<Arc<SetParams>>, String> {
        let room = |count: usize, max: usize| {
            if count < max {
                Ok(())
            } else {
                Err(format!("there can be at most {max} {} contexts", context.word))
            }
        };
        let name = argument.to_owned();
        let config = &mut self.config;
        match context.kind {
            ContextKind::Namespace => {
                room(config.namespaces.len(), NAMESPACES_MAX)?;
                config.namespaces.push(NamespaceConfig { name, ..NamespaceConfig::default() });
            }
            ContextKind::Set => {
                let Some(namespace) = config.namespaces.last() else { return Ok(None) };
                return namespace.sets.get_or_create(argument).map(Some).map_err(|error| error.to_string());
            }
            ContextKind::Storage => self.enter_storage(argument)?,
            ContextKind::IndexType | ContextKind::SindexType => self.enter_index(context.kind, argument),
            ContextKind::Console => self.add_sink(LogSinkKind::Console, line)?,
            ContextKind::LogFile => self.add_sink(LogSinkKind::File(name), line)?,
            ContextKind::Syslog => self.add_sink(LogSinkKind::Syslog, line)?,
            ContextKind::Tls => {
                room(config.network.tls.len(), TLS_MAX)?;
                config.network.tls.push(TlsConfig { name, line, ..TlsConfig::default() });
            }
            ContextKind::Security | ContextKind::Ldap | ContextKind::SecurityLog => {
                config.security.get_or_insert_with(SecurityConfig::default);
            }
            ContextKind::Xdr => {
                config.xdr.get_or_insert_with(XdrConfig::default);
            }
            ContextKind::XdrDc => {
                let dcs = &mut config.xdr.get_or_insert_with(XdrConfig::default).dcs;
                room(dcs.len(), XDR_DCS_MAX)?;
                dcs.push(XdrDcConfig { name, ..XdrDcConfig::default() });
            }
            ContextKind::XdrNamespace => {
                let dc = config.xdr.as_mut().and_then(|xdr| xdr.dcs.last_mut());
                if let Some(dc) = dc {
                    dc.namespaces.push(XdrNamespaceConfig { name, ..XdrNamespaceConfig::default() });
                }
            }
            _ => {}
        }
        Ok(None)
    }

    fn enter_storage(&mut self, argument: &str) -> Result<(), String> {
        let report = &self.report;
        let Some(namespace) = self.config.namespaces.last_mut() else { return Ok(()) };
        let name = shown(&namespace.name);
        let before = [Engine::Memory, Engine::Pmem, Engine::Device]
            .iter()
            .find_map(|engine| report.line_of_context(&storage_label(*engine, &name)));
        if let Some(line) = before {
            return Err(format!(
                "namespace '{name}' already has its storage-engine on line {line}; it can have only one"
            ));
        }
        let storage = &mut namespace.storage;
        storage.engine = match argument {
            "device" => Engine::Device,
            "pmem" => Engine::Pmem,
            _ => Engine::Memory,
        };
        if storage.engine == Engine::Device {
            storage.params.flush_size.set(FLUSH_SIZE_DEFAULT);
            storage.params.post_write_cache.set(POST_WRITE_CACHE_DEFAULT);
        }
        Ok(())
    }

    fn enter_index(&mut self, kind: ContextKind, argument: &str) {
        let Some(namespace) = self.config.namespaces.last_mut() else { return };
        let index = match kind {
            ContextKind::IndexType => &mut namespace.index_type,
            _ => &mut namespace.sindex_type,
        };
        index.medium = match argument {
            "pmem" => IndexMedium::Pmem,
            "flash" => IndexMedium::Flash,
            _ => IndexMedium::Shmem,
        };
        self.report.note_later(format!("namespace.{} {argument}", kind.spec().map_or("", |spec| spec.word)));
    }

    fn add_sink(&mut self, kind: LogSinkKind, line: usize) -> Result<(), String> {
        if self.config.logging.len() >= LOG_SINKS_MAX {
            return Err(format!("there can be at most {LOG_SINKS_MAX} log sinks"));
        }
        self.config.logging.push(LogSinkConfig::new(kind, line));
        Ok(())
    }

    /// The table of the innermost context.
    pub(super) fn table(&self) -> Option<&dyn ParamTable> {
        let frame = self.frames.last()?;
        let config = &self.config;
        let namespace = config.namespaces.last();
        let xdr_dc = config.xdr.as_ref().and_then(|xdr| xdr.dcs.last());
        Some(match frame.kind {
            ContextKind::Service => &config.service,
            ContextKind::Console | ContextKind::LogFile | ContextKind::Syslog => {
                &config.logging.last()?.params
            }
            ContextKind::NetworkService => &config.network.service,
            ContextKind::Heartbeat => &config.network.heartbeat,
            ContextKind::Fabric => &config.network.fabric,
            ContextKind::Admin => &config.network.admin,
            ContextKind::NetworkInfo => &config.network.info,
            ContextKind::Metrics => &config.network.metrics,
            ContextKind::Tls => &config.network.tls.last()?.params,
            ContextKind::Namespace => &namespace?.params,
            ContextKind::Set => &**frame.set.as_ref()?,
            ContextKind::IndexType => &namespace?.index_type.params,
            ContextKind::SindexType => &namespace?.sindex_type.params,
            ContextKind::Storage => &*namespace?.storage.params,
            ContextKind::Geo => &namespace?.geo2dsphere_within,
            ContextKind::ModLua => &config.mod_lua,
            ContextKind::Security => &config.security.as_ref()?.params,
            ContextKind::Ldap => &config.security.as_ref()?.ldap,
            ContextKind::SecurityLog => &config.security.as_ref()?.log,
            ContextKind::Xdr => &config.xdr.as_ref()?.params,
            ContextKind::XdrDc => &xdr_dc?.params,
            ContextKind::XdrNamespace => &xdr_dc?.namespaces.last()?.params,
            ContextKind::Top | ContextKind::Logging | ContextKind::Network => return None,
        })
    }
}

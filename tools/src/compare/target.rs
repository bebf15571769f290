//! A measured server.

use std::net::SocketAddr;
use std::time::Duration;

use crate::host::Host;
use crate::link::Access;
use crate::{info, process};

/// Longest wait for answers about the server.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// A server and the facts about it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Its name in tables.
    pub(super) label: String,
    pub(super) host: Host,
    pub(super) address: SocketAddr,
    /// The access data for connections.
    pub(super) access: Access,
    /// Its process, if it is on this machine.
    pub(super) pid: Option<u32>,
    pub(super) kind: TargetKind,
    /// Version and threads, as the server reports them.
    about: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum TargetKind {
    Aerospike { namespace: String, set: String },
    Redis,
}

impl Target {
    pub(super) fn aerospike(
        label: &str,
        host: &Host,
        access: Access,
        pid: Option<u32>,
        namespace: &str,
        set: &str,
    ) -> Result<Self, String> {
        let kind = TargetKind::Aerospike { namespace: namespace.to_owned(), set: set.to_owned() };
        let commands = ["build", "get-config:context=service"].map(str::to_owned);
        let answers = info::ask(host, &access, &commands, ASK_TIMEOUT)
            .map_err(|error| nobody(host, &error.to_string()))?;
        let value =
            |name: &str| answers.iter().find(|(asked, _)| asked == name).map(|(_, value)| value.as_str());
        let build = value("build").unwrap_or("unknown");
        let threads =
            value(&commands[1]).and_then(|config| setting(config, "service-threads")).unwrap_or("unknown");
        Target::new(label, host, access, pid, kind, format!("build {build}, service-threads {threads}"))
    }

    pub(super) fn redis(host: &Host, pid: Option<u32>) -> Result<Self, String> {
        let address = host.resolve().map_err(|error| nobody(host, &error.to_string()))?;
        let version = redis_version(address).map_err(|error| nobody(host, &error.to_string()))?;
        Target::new("Redis", host, Access::default(), pid, TargetKind::Redis, format!("version {version}"))
    }

    fn new(
        label: &str,
        host: &Host,
        access: Access,
        pid: Option<u32>,
        kind: TargetKind,
        about: String,
    ) -> Result<Self, String> {
        let address = host.resolve().map_err(|error| nobody(host, &error.to_string()))?;
        let pid = pid.or_else(|| process::listener(address));
        Ok(Target { label: label.to_owned(), host: host.clone(), address, access, pid, kind, about })
    }

    pub(super) fn is_redis(&self) -> bool {
        self.kind == TargetKind::Redis
    }

    /// A line about the server.
    pub(super) fn describe(&self) -> String {
        let process = match self.pid {
            Some(pid) => format!("process {pid}"),
            None => "process unknown, so neither its CPU nor its memory is measured".to_owned(),
        };
        format!("{}: {}, at {}, {process}", self.label, self.about, self.host)
    }
}

/// The value of `name` in `name=value;…`.
fn setting<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(';').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn nobody(host: &Host, why: &str) -> String {
    format!("no server to measure at {host}: {why}")
}

fn redis_version(address: SocketAddr) -> redis::RedisResult<String> {
    let client = redis::Client::open((address.ip().to_string(), address.port()))?;
    let mut connection = client.get_connection_with_timeout(ASK_TIMEOUT)?;
    connection.set_read_timeout(Some(ASK_TIMEOUT))?;
    let info: redis::InfoDict = redis::cmd("INFO").arg("server").query(&mut connection)?;
    Ok(info.get("redis_version").unwrap_or_else(|| "unknown".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_by_their_whole_name() {
        let text = "info-threads=16;service-threads=10;x=";
        assert_eq!(setting(text, "service-threads"), Some("10"));
        assert_eq!(setting(text, "x"), Some(""));
        assert_eq!(setting(text, "threads"), None);
    }
}

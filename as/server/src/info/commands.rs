//! The table of info commands and the lookup by name.
//!
//! The order of the rows is that of `help` and of the answer to an empty request; both are part of the
//! protocol.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proto::ResultCode;
use proto::info::COMMAND_NAME_SIZE_MAX;

use super::Arguments;
use super::request::{InfoError, InfoResult, Joined, shown};
use super::{
    configuration, dump, health, histograms, identity, logging, namespaces, network, partitions, peers,
    placement, query, record, sindex, smd, statistics, truncate, udf,
};
use crate::node::Node;
use crate::security::permission::Permissions;

/// The way in which a command is carried out.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Text after the name is ignored.
    Name(fn(&Node, &mut String) -> InfoResult),
    /// The handler gets the text after the name, which may be empty.
    Parameters(fn(&Node, Arguments<'_>, &mut String) -> InfoResult),
    /// The command exists in the protocol. The answer is that it belongs to the Enterprise Edition, and
    /// `help` leaves it out.
    EnterpriseOnly,
}

/// One command.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) form: Form,
    /// Part of the answer to an empty request.
    pub(super) in_summary: bool,
    /// Named by `help`, which leaves out commands for clients only.
    pub(super) in_help: bool,
    /// Permissions that the user needs.
    pub(super) needed: Permissions,
}

const fn command(name: &'static str, form: Form) -> Command {
    Command { name, form, in_summary: false, in_help: true, needed: Permissions::NONE }
}

impl Command {
    const fn summary(self) -> Self {
        Command { in_summary: true, ..self }
    }

    const fn hidden(self) -> Self {
        Command { in_help: false, ..self }
    }

    const fn needs(self, needed: Permissions) -> Self {
        Command { needed, ..self }
    }
}

use Form::{EnterpriseOnly, Name, Parameters};

/// All commands.
pub(super) static COMMANDS: &[Command] = &[
    command("features", Name(identity::features)).summary(),
    command("node", Name(identity::node_id)).summary(),
    command("compatibility-id", Name(identity::compatibility_id)).summary(),
    command("edition", Name(identity::edition)).summary(),
    command("build_ee_sha", Name(identity::build_ee_sha)).summary(),
    command("build_sha", Name(identity::build_sha)).summary(),
    command("build_arch", Name(identity::build_arch)).summary(),
    command("build_time", Name(identity::build_time)).summary(),
    command("build_os", Name(identity::build_os)).summary(),
    command("build", Name(identity::build)).summary(),
    command("version", Name(identity::version)).summary(),
    command("statistics", Name(statistics::server)).summary(),
    command("services-alumni", Name(peers::services_alumni)).summary(),
    command("services", Name(peers::services)).summary(),
    command("partition-generation", Name(partitions::partition_generation)).summary(),
    command("alumni-clear-std", Parameters(peers::alumni)).hidden(),
    command("alumni-tls-std", Parameters(peers::alumni_tls)).hidden(),
    command("best-practices", Name(health::best_practices)),
    command("cluster-name", Name(identity::cluster_name)),
    command("cluster-stable", Parameters(identity::cluster_stable)),
    command("config-get", Parameters(configuration::get)),
    command("config-set", Parameters(configuration::set)).needs(Permissions::SET_CONFIG),
    command("debug-record", Parameters(record::debug_record)).needs(Permissions::RECORD_INFO),
    command("debug-record-meta", Parameters(record::debug_record_meta)).needs(Permissions::RECORD_INFO),
    command("digests", Name(identity::digests)),
    command("dump-cluster", Parameters(dump::cluster)).needs(Permissions::LOGGING_CTRL),
    command("dump-fabric", Parameters(dump::fabric)).needs(Permissions::LOGGING_CTRL),
    command("dump-hb", Parameters(dump::heartbeat)).needs(Permissions::LOGGING_CTRL),
    command("dump-hlc", Parameters(dump::clock)).needs(Permissions::LOGGING_CTRL),
    command("dump-migrates", Parameters(dump::migrations)).needs(Permissions::LOGGING_CTRL),
    command("dump-rw", Name(dump::rw_requests)).needs(Permissions::LOGGING_CTRL),
    command("dump-skew", Name(dump::skew)).needs(Permissions::LOGGING_CTRL),
    command("dump-wb-summary", Parameters(dump::write_blocks)).needs(Permissions::LOGGING_CTRL),
    command("endpoints", Name(network::endpoints)).hidden(),
    command("eviction-reset", Parameters(truncate::eviction_reset)).needs(Permissions::EVICT_ADMIN),
    command("feature-key", EnterpriseOnly),
    command("get-config", Parameters(configuration::get)),
    command("get-sl", Name(identity::succession_list)),
    command("get-stats", Parameters(statistics::of_context)),
    command("health-outliers", Name(health::outliers)),
    command("health-stats", Name(health::stats)),
    command("help", Name(help)),
    command("histogram", Parameters(histograms::histogram)),
    command("index-pressure", Name(namespaces::index_pressure)),
    command("jem-stats", Parameters(dump::heap)).needs(Permissions::LOGGING_CTRL),
    command("latencies", Parameters(histograms::latencies)),
    command("log", Parameters(logging::levels)),
    command("log-message", Parameters(logging::message)).needs(Permissions::LOGGING_CTRL),
    command("log-set", Parameters(logging::set)).needs(Permissions::LOGGING_CTRL),
    command("logs", Name(logging::sinks)),
    command("mcast", Name(network::multicast)),
    command("mesh", Name(network::mesh)),
    command("name", Name(identity::node_id)),
    command("namespace", Parameters(namespaces::namespace)),
    command("namespaces", Name(namespaces::namespaces)),
    command("objects", Name(namespaces::objects)).hidden(),
    command("partition-info", Name(partitions::partition_info)).hidden(),
    command("partitions", Name(partitions::partitions)).hidden(),
    command("peers-clear-alt", Parameters(peers::peers_alternate)),
    command("peers-clear-std", Parameters(peers::peers_standard)),
    command("peers-generation", Name(peers::generation)),
    command("peers-tls-alt", Parameters(peers::peers_tls_alternate)).hidden(),
    command("peers-tls-std", Parameters(peers::peers_tls_standard)).hidden(),
    command("physical-devices", Parameters(namespaces::physical_devices)),
    command("query-abort", Parameters(query::abort)).needs(Permissions::QUERY_ADMIN),
    command("query-abort-all", Name(query::abort_all)).needs(Permissions::QUERY_ADMIN),
    command("query-show", Parameters(query::show)),
    command("quiesce", Name(placement::quiesce)).hidden().needs(Permissions::SERVICE_CTRL),
    command("quiesce-undo", Name(placement::quiesce_undo)).hidden().needs(Permissions::SERVICE_CTRL),
    command("rack-ids", Name(placement::rack_ids)).hidden(),
    command("racks", Parameters(placement::racks)).hidden(),
    command("rebalance-generation", Name(partitions::rebalance_generation)).hidden(),
    command("recluster", Name(identity::recluster)).needs(Permissions::SERVICE_CTRL),
    command("replicas", Parameters(partitions::replicas)).hidden(),
    command("replicas-all", Name(partitions::replicas_all)).hidden(),
    command("replicas-master", Name(partitions::replicas_master)).hidden(),
    command("revive", EnterpriseOnly).needs(Permissions::SERVICE_CTRL),
    command("roster", EnterpriseOnly),
    command("roster-set", EnterpriseOnly).needs(Permissions::SERVICE_CTRL),
    command("service", Name(peers::service)),
    command("service-clear-alt", Name(peers::service_clear_alt)),
    command("service-clear-std", Name(peers::service_clear_std)),
    command("service-tls-alt", Name(peers::service_tls_alt)).hidden(),
    command("service-tls-std", Name(peers::service_tls_std)).hidden(),
    command("services-alternate", Name(peers::services_alternate)),
    command("services-alumni-reset", Name(peers::services_alumni_reset)).needs(Permissions::SERVICE_CTRL),
    command("set-config", Parameters(configuration::set)).needs(Permissions::SET_CONFIG),
    command("set-log", Parameters(logging::set)).needs(Permissions::LOGGING_CTRL),
    command("sets", Parameters(namespaces::sets)),
    command("sindex", Parameters(sindex::tree)),
    command("sindex-create", Parameters(sindex::create)).needs(Permissions::SINDEX_ADMIN),
    command("sindex-delete", Parameters(sindex::delete)).needs(Permissions::SINDEX_ADMIN),
    command("sindex-exists", Parameters(sindex::exists)).needs(Permissions::SINDEX_ADMIN),
    command("sindex-list", Parameters(sindex::list)),
    command("sindex-stat", Parameters(sindex::stat)),
    command("smd-info", Name(smd::info)).hidden(),
    command("smd-show", Parameters(smd::show)).hidden(),
    command("status", Name(identity::status)),
    command("thread-traces", Name(dump::threads)),
    command("tip", Parameters(network::tip)).needs(Permissions::SERVICE_CTRL),
    command("tip-clear", Parameters(network::tip_clear)).needs(Permissions::SERVICE_CTRL),
    command("truncate", Parameters(truncate::set)).needs(Permissions::TRUNCATE),
    command("truncate-namespace", Parameters(truncate::namespace)).needs(Permissions::TRUNCATE),
    command("truncate-namespace-undo", Parameters(truncate::undo_namespace)).needs(Permissions::TRUNCATE),
    command("truncate-undo", Parameters(truncate::undo_set)).needs(Permissions::TRUNCATE),
    command("udf-clear-cache", Name(udf::clear_cache)).hidden().needs(Permissions::UDF_ADMIN),
    command("udf-get", Parameters(udf::get)),
    command("udf-list", Name(udf::list)),
    command("udf-put", Parameters(udf::put)).needs(Permissions::UDF_ADMIN),
    command("udf-remove", Parameters(udf::remove)).needs(Permissions::UDF_ADMIN),
    command("xdr-dc-state", EnterpriseOnly),
    command("xdr-get-filter", EnterpriseOnly),
    command("xdr-set-filter", EnterpriseOnly).needs(Permissions::XDR_SET_FILTER),
];

/// Names of the commands that an empty request asks for.
pub(super) fn summary() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().filter(|command| command.in_summary).map(|command| command.name)
}

/// Name and arguments of a line. The arguments begin with `:`, `/` or `;`, all of which mean the same.
fn split(line: &str) -> (&str, Arguments<'_>) {
    let (name, rest) = line.split_at(line.find([':', '/', ';']).unwrap_or(line.len()));
    (name, Arguments(rest.get(1..).unwrap_or("")))
}

/// The permissions that the sender of `line` needs, and the arguments of the command.
pub(super) fn needed_by(line: &str) -> (Permissions, Arguments<'_>) {
    let (name, arguments) = split(line);
    (find(name).map_or(Permissions::NONE, |command| command.needed), arguments)
}

/// The name of the command that `line` asks for, if there is such a command.
pub(super) fn name_of(line: &str) -> Option<&'static str> {
    find(split(line).0).map(|command| command.name)
}

/// Runs the command that `line` names.
pub(super) fn run(node: &Node, line: &str, out: &mut String) -> InfoResult {
    let (name, arguments) = split(line);
    match find(name).map(|command| command.form) {
        Some(Name(handler)) => handler(node, out),
        Some(Parameters(handler)) => handler(node, arguments, out),
        Some(EnterpriseOnly) => Err(InfoError::enterprise_only()),
        None => Err(InfoError::parameter("unrecognized command")),
    }
}

fn find(name: &str) -> Option<&'static Command> {
    if name.len() > COMMAND_NAME_SIZE_MAX {
        return None;
    }
    COMMANDS.iter().find(|command| command.name == name)
}

fn help(_: &Node, out: &mut String) -> InfoResult {
    let mut names = Joined::new(out, ';');
    for command in COMMANDS.iter().filter(|command| command.in_help) {
        if !matches!(command.form, EnterpriseOnly) {
            names.item(command.name);
        }
    }
    Ok(())
}

/// The value of one request, or its error. A panic in a handler is a bug of the server. It must not end the
/// thread, because the client waits.
pub(crate) fn value_of(node: &Node, line: &str) -> String {
    let run = || {
        let mut value = String::new();
        run(node, line, &mut value).map(|()| value)
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => refused(line, &error),
        Err(_) => {
            cf::critical!(Info, "'{}' failed on an internal error", shown(line));
            InfoError::new(ResultCode::Unknown, "internal error").to_string()
        }
    }
}

pub(super) fn refused(line: &str, error: &InfoError) -> String {
    // Tools ask every server for Enterprise commands, so those refusals are not logged.
    if !error.is_enterprise_only() {
        cf::warning_limited!(Info, "'{}' answered with {error}", shown(line));
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_short_enough() {
        let mut names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
        assert!(names.iter().all(|name| name.len() <= COMMAND_NAME_SIZE_MAX));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_summary_comes_first_and_the_rest_is_sorted() {
        let rest: Vec<&str> =
            COMMANDS.iter().skip_while(|command| command.in_summary).map(|command| command.name).collect();
        assert_eq!(rest.len() + summary().count(), COMMANDS.len());
        assert!(rest.is_sorted());
    }

    #[test]
    fn no_command_has_a_name_that_is_none() {
        assert!(find("status").is_some());
        assert!(
            ["", "statu", "Status", " status", "status ", "a-name-that-is-much-longer-than-any-command"]
                .iter()
                .all(|name| find(name).is_none())
        );
    }
}

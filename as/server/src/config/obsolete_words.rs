//! Values of parameters and names of log contexts that belong to earlier or later versions.

use super::context::ContextKind;
use super::obsolete::Handling;

/// One row of [`OBSOLETE_VALUES`]: values that another version accepts for a parameter or a context.
#[derive(Debug)]
pub struct ObsoleteValues {
    /// The context in which the word stands.
    pub context: ContextKind,
    /// The parameter, or the word of the context.
    pub name: &'static str,
    pub values: &'static [&'static str],
    /// The replacement.
    pub advice: &'static str,
}

const fn values(
    context: ContextKind,
    name: &'static str,
    values: &'static [&'static str],
    advice: &'static str,
) -> ObsoleteValues {
    ObsoleteValues { context, name, values, advice }
}

/// Values of other versions, which are refused.
pub static OBSOLETE_VALUES: &[ObsoleteValues] = {
    use ContextKind as K;
    &[
        values(K::Service, "debug-allocations", &["none"], "write 'false'"),
        values(K::Service, "debug-allocations", &["all", "persistent", "transient"], "write 'true'"),
        values(K::Heartbeat, "protocol", &["reset", "v1", "v2"], "nodes speak v3; leave the line out"),
        values(
            K::Namespace,
            "conflict-resolution-policy",
            &["ttl"],
            "write 'last-update-time' or 'generation'",
        ),
        values(K::Namespace, "storage-engine", &["kv", "ssd"], "write 'storage-engine device'"),
        values(K::Namespace, "index-type", &["ssd"], "write 'index-type flash'"),
        values(K::XdrNamespace, "bin-policy", &["only-specified"], "write 'changed-and-specified'"),
    ]
};

/// Names of log contexts of other versions.
pub static LOG_CONTEXTS: &[(&[&str], Handling)] = {
    use Handling::{Ignored, NewIn, Renamed};
    const NO_LINES: &str = "no lines come from it; leave it out";
    &[
        (&["scan", "job"], Renamed("query")),
        (&["ship"], Renamed("xdr")),
        (&["predexp"], Renamed("exp")),
        (&["paxos"], Renamed("clustering")),
        (&["drv_mem"], Renamed("drv-mem")),
        (&["cf:misc"], Renamed("misc")),
        (&["cf:alloc", "cf:jem", "jem"], Renamed("alloc")),
        (&["cf:msg"], Renamed("msg")),
        (&["cf:socket"], Renamed("socket")),
        (&["cf:arenax"], Renamed("arenax")),
        (&["cf:tls"], Renamed("tls")),
        (
            &[
                "cf:arena",
                "cf:arenah",
                "cf:hash",
                "cf:ll",
                "cf:queue",
                "cf:rbuffer",
                "cf:rchash",
                "cf:redblack",
                "cf:shash",
                "cf:timer",
                "compression",
                "demarshal",
                "drv_files",
                "drv_fs",
                "drv_kv",
                "fb_health",
                "ldt",
                "mon",
                "rbuffer",
                "test",
                "trial",
                "write",
                "xdr-http",
            ],
            Ignored(NO_LINES),
        ),
        (&["deprecation", "masking"], NewIn("8.1")),
    ]
};

/// How the log context `name` is handled, if it is of another version.
#[must_use]
pub fn find_log_context(name: &str) -> Option<Handling> {
    LOG_CONTEXTS.iter().find(|(names, _)| names.contains(&name)).map(|(_, handling)| *handling)
}

/// The replacement of `value`, if `name` in `context` once had this value.
#[must_use]
pub fn find_value(context: ContextKind, name: &str, value: &str) -> Option<&'static str> {
    let row = OBSOLETE_VALUES
        .iter()
        .find(|row| row.context == context && row.name == name && row.values.contains(&value));
    row.map(|row| row.advice)
}

//! Counters of transactions, in groups as statistics and the ticker show them.

use super::Operation::{Delete, Lang, LangDelete, LangRead, LangWrite, Proxy, Read, Tsvc, Udf, Write};
use super::Outcome::{Error, FilteredOut, NotFound, Success, Timeout};
use super::{NamespaceMetrics, Operation, Origin, Outcome};

/// Counters that are shown together.
pub(crate) struct Group {
    /// Name in the ticker.
    pub(crate) name: &'static str,
    /// The counters, in the order of both.
    pub(crate) members: &'static [(Operation, Outcome)],
}

/// Requests that ended before their kind was known.
pub(crate) static TSVC: Group = Group { name: "tsvc", members: &[(Tsvc, Error), (Tsvc, Timeout)] };
/// Requests that were proxied to another node.
pub(crate) static PROXY: Group =
    Group { name: "proxy", members: &[(Proxy, Success), (Proxy, Error), (Proxy, Timeout)] };
/// Reads.
pub(crate) static READ: Group = Group {
    name: "read",
    members: &[(Read, Success), (Read, Error), (Read, Timeout), (Read, NotFound), (Read, FilteredOut)],
};
/// Writes.
pub(crate) static WRITE: Group = Group {
    name: "write",
    members: &[(Write, Success), (Write, Error), (Write, Timeout), (Write, FilteredOut)],
};
/// Deletes.
pub(crate) static DELETE: Group = Group {
    name: "delete",
    members: &[
        (Delete, Success),
        (Delete, Error),
        (Delete, Timeout),
        (Delete, NotFound),
        (Delete, FilteredOut),
    ],
};
/// Applied UDFs.
pub(crate) static UDF: Group =
    Group { name: "udf", members: &[(Udf, Success), (Udf, Error), (Udf, Timeout), (Udf, FilteredOut)] };
/// Operations that UDFs carried out.
pub(crate) static LANG: Group = Group {
    name: "lang",
    members: &[(LangRead, Success), (LangWrite, Success), (LangDelete, Success), (Lang, Error)],
};
/// Writes that come from another cluster.
pub(crate) static XDR_WRITE: Group =
    Group { name: "write", members: &[(Write, Success), (Write, Error), (Write, Timeout)] };
/// Deletes that come from another cluster.
pub(crate) static XDR_DELETE: Group = Group {
    name: "delete",
    members: &[(Delete, Success), (Delete, Error), (Delete, Timeout), (Delete, NotFound)],
};

impl Group {
    /// The values of the group for `origin`.
    pub(crate) fn values(&self, metrics: &NamespaceMetrics, origin: Origin) -> impl Iterator<Item = u64> {
        self.members
            .iter()
            .map(move |(operation, outcome)| metrics.transactions(origin, *operation, *outcome))
    }
}

/// The groups of each origin, in the order of the ticker.
pub(crate) static ORIGINS: &[(Origin, &[&Group])] = &[
    (Origin::Client, &[&TSVC, &PROXY, &READ, &WRITE, &DELETE, &UDF, &LANG]),
    (Origin::XdrClient, &[&XDR_WRITE, &XDR_DELETE]),
    (Origin::FromProxy, &[&TSVC, &READ, &WRITE, &DELETE, &UDF, &LANG]),
    (Origin::XdrFromProxy, &[&XDR_WRITE, &XDR_DELETE]),
    (Origin::BatchSub, &[&TSVC, &PROXY, &READ, &WRITE, &DELETE, &UDF, &LANG]),
    (Origin::FromProxyBatchSub, &[&TSVC, &READ, &WRITE, &DELETE, &UDF, &LANG]),
    (Origin::UdfSub, &[&TSVC, &UDF, &LANG]),
    (Origin::OpsSub, &[&TSVC, &WRITE]),
];

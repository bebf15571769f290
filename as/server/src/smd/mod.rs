//! System metadata (SMD): small items that all nodes of a cluster agree on and keep over restarts, in modules: index
//! definitions, user-defined functions, truncation, eviction.
//!
//! # Use
//! An item of a module has a key and a value, both text. [`Smd::set`] and [`Smd::delete`] return when the
//! change is on disk and every listener of the module has seen it:
//!
//! ```text
//! node.smd.set(Module::Udf, "twice.lua", &json)?;      // an error: nothing has changed
//! node.smd.delete(Module::Udf, "twice.lua")?;
//! node.smd.listen(Module::Udf, move |items: &[&SmdItem], occasion| { … });
//! ```
//!
//! [`Smd::listen`] passes the present items to the listener before it returns ([`Occasion::Start`], without
//! deleted items). Later the listener gets each change after it is on disk and before the set returns
//! ([`Occasion::Change`]; a deleted item has no value). `server.rs` registers all listeners before clients
//! are served. Code that needs items earlier, while records are loaded, reads them with [`Smd::live_items`].
//!
//! A set to the present value, and the second deletion of a key, succeed without a change: listeners are not called.
//! Items keep the order in which their keys were first set.
//!
//! # Files
//! `file.rs`: one file for each module in the C server's format, replaced as a whole. Without a work directory nothing
//! is stored. Damaged files are kept under another name, and told.
//!
//! # Cluster
//! `merge.rs` holds the rules of change and merge, pure. A single node is the principal of all modules. In a larger
//! cluster a change goes to the principal and from there to all nodes ([`Smd::propagate_by`], `fabric/metadata.rs`).
//!
//! # Items without meaning
//! Files may be damaged, and other nodes may send anything. Items that cannot mean anything have no effect (`meaning.rs`
//! for times); they are told (`report.rs`) and kept. A function judges each field for the item and for the command that
//! makes such items, so that no item has an effect that a command could not ask for, or undo.
//!
//! # Locks
//! Each module has a lock. It is held while a change is made, written and passed to listeners. So listeners
//! see changes one at a time and in order. They may take any lock, but must not set an item of their own
//! module. A set waits for the disk, so service threads must not call it.

mod eviction;
mod file;
mod meaning;
mod merge;
mod report;
mod set;
mod truncation;

pub(crate) use datamodel::smd::SmdItem;
pub(crate) use datamodel::smd::SmdVersion;
pub(crate) use eviction::{agree_eviction, follow_eviction};
pub(crate) use report::{report_elsewhere, report_unusable};
pub(crate) use set::{Occasion, SetError, Smd};
pub(crate) use truncation::{
    agree_truncation, follow_truncation, is_truncatable, is_truncation_refused_at, removal_thresholds,
    truncated_before,
};

#[cfg(test)]
pub(crate) use file::tests::CrashingFolder;

use meaning::Moment;
use merge::ConflictRule;

/// A module, in the order of its number in messages between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Module {
    /// Namespace → void-time below which records are evicted.
    Evict,
    Roster,
    Security,
    /// Definition (`namespace|set|bin|type|key type`) → name of the index.
    Sindex,
    /// `namespace` or `namespace|set` → last-update-time below which records are truncated.
    Truncate,
    /// File name → JSON with its content.
    Udf,
    Xdr,
}

/// Characters that no value in an info command has: they end the value or the command, or cannot be stored.
pub(crate) const NOT_IN_COMMANDS: [char; 3] = ['\0', ';', '\n'];

/// One row of the table of modules.
struct ModuleRow {
    module: Module,
    name: &'static str,
    rule: ConflictRule,
    /// Whether this server keeps items in it. For other modules only the name is known.
    is_used: bool,
}

const fn row(module: Module, name: &'static str, rule: ConflictRule, is_used: bool) -> ModuleRow {
    ModuleRow { module, name, rule, is_used }
}

static MODULES: [ModuleRow; 7] = [
    row(Module::Evict, "evict", ConflictRule::LatestMoment(Moment::VoidTime), true),
    row(Module::Roster, "roster", ConflictRule::Latest, false),
    row(Module::Security, "security", ConflictRule::Latest, true),
    row(Module::Sindex, "sindex", ConflictRule::Latest, true),
    row(Module::Truncate, "truncate", ConflictRule::LatestMoment(Moment::LastUpdateTime), true),
    row(Module::Udf, "UDF", ConflictRule::Latest, true),
    row(Module::Xdr, "XDR", ConflictRule::Latest, false),
];

impl Module {
    fn row(self) -> &'static ModuleRow {
        &MODULES[self as usize]
    }

    /// Its name, also used for its file.
    pub(crate) fn name(self) -> &'static str {
        self.row().name
    }

    /// Whether this server keeps items in it.
    pub(crate) fn is_used(self) -> bool {
        self.row().is_used
    }

    /// The module of this number in messages between nodes.
    pub(crate) fn from_number(number: u32) -> Option<Module> {
        MODULES.get(number as usize).map(|row| row.module)
    }

    /// The module called `name`, in upper or lower case.
    pub(crate) fn from_name(name: &str) -> Option<Module> {
        MODULES.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| row.module)
    }

    pub(crate) fn all() -> impl Iterator<Item = Module> {
        MODULES.iter().map(|row| row.module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_in_the_order_of_their_numbers() {
        assert!(Module::all().enumerate().all(|(at, module)| module as usize == at));
        assert_eq!(Module::from_name("udf"), Some(Module::Udf));
        assert_eq!(Module::from_name("udfs"), None);
    }
}

//! Reports of items of system metadata that have no effect on this node.
//!
//! An item that cannot mean anything comes from a damaged file or another node. It is reported in the log and
//! stays among the items of its module: it may be corrected, or be meant for a later version. Items of
//! namespaces that this node does not have are kept for the nodes that have them.

use std::collections::BTreeSet;
use std::fmt::Display;

use datamodel::smd::SmdItem;

use super::Module;

/// Logs that the item `key` of `module` has no effect because of `why`, and the `remedy`, if there is one besides a
/// change of the file.
pub(crate) fn report_unusable(module: Module, key: &str, why: impl Display, remedy: Option<&str>) {
    let (name, key) = (module.name(), key.escape_debug());
    let remedy = remedy.map_or_else(String::new, |remedy| format!("{remedy}, or "));
    cf::warning!(
        Smd,
        "item '{key}' of module {name} has no effect, because {why}: it is kept in {name}.smd; {remedy}correct or remove it \
         in that file while the server is stopped"
    );
}

/// Logs the `items` of `module` that belong to namespaces other than `own`.
pub(crate) fn report_elsewhere(module: Module, items: &[SmdItem], own: &[&str]) {
    let names = items.iter().map(|item| item.key.split('|').next().unwrap_or_default());
    let others: Vec<&str> = names.filter(|name| !own.contains(name)).collect();
    if others.is_empty() {
        return;
    }
    let names: BTreeSet<String> = others.iter().map(|name| name.escape_debug().to_string()).collect();
    cf::info!(
        Smd,
        "module {} has {} items of namespaces that this node does not have ({}): they are kept for other nodes",
        module.name(),
        others.len(),
        Vec::from_iter(names).join(", ")
    );
}

//! System metadata: the state of each module and its items.

use std::fmt::Write;

use proto::ResultCode;

use super::request::{InfoResult, Joined};
use super::{Arguments, InfoError};
use crate::node::Node;
use crate::smd::{Module, SetError};

/// Length limit (exclusive) of a module's name.
const MODULE_SIZE_MAX: usize = 9;

impl From<SetError> for InfoError {
    fn from(error: SetError) -> Self {
        let code = match error {
            SetError::ZeroByte => ResultCode::Parameter,
            SetError::Storage(_) => ResultCode::Unknown,
            SetError::Refused(_) => ResultCode::Forbidden,
            SetError::Timeout => ResultCode::Timeout,
        };
        InfoError::new(code, error.to_string())
    }
}

/// Whether this node keeps items in a module. It keeps those of security only with access control.
fn is_in_use(node: &Node, module: Module) -> bool {
    module.is_used() && (module != Module::Security || node.security.is_some())
}

/// State of each module. The principal of the cluster is the principal of all modules.
pub(super) fn info(node: &Node, out: &mut String) -> InfoResult {
    let (id, key, size) = (node.cluster.principal(), node.cluster.key(), node.cluster.size());
    let state = if id == node.cluster.node_id { "pr" } else { "npr" };
    let _ =
        write!(out, "smd:n_pending_sets=0,n_events=0,n_nodes={size},principal={id:X},cluster_key={key:X};");
    for module in Module::all().filter(|module| is_in_use(node, *module)) {
        let (version, item_count) = node.smd.version(module);
        let _ = write!(
            out,
            "{}:committed_key={:X},committed_tid={},n_keys={item_count},state={state};",
            module.name(),
            version.cluster_key,
            version.tid
        );
    }
    Ok(())
}

/// The items of a module.
pub(super) fn show(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    match Module::from_name(arguments.required("module", MODULE_SIZE_MAX)?) {
        Some(module) if is_in_use(node, module) => {
            let items = node.smd.live_items(module);
            if items.is_empty() {
                out.push_str("<empty>");
            }
            let mut pairs = Joined::new(out, ';');
            for item in items {
                // Hashes of passwords and keys of tokens stay secret.
                let is_secret = module == Module::Security;
                let value = if is_secret { "hidden".to_owned() } else { item.value.unwrap_or_default() };
                pairs.pair(item.key, value);
            }
            Ok(())
        }
        Some(_) => Err(InfoError::enterprise_only()),
        None => Err(InfoError::parameter("unknown 'module'")),
    }
}

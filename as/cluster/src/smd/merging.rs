//! Merging: the principal makes the items of all members equal after a change of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use proto::peer::smd::{Full, Item, ModuleVersion, SmdBody};
use proto::peer::{ClusterKey, NodeId};

use super::{HISTORY_MAX, ModuleState, Purpose, SmdAction, SmdPropagation};
use crate::time::Now;

impl SmdPropagation {
    pub(super) fn reported(&mut self, from: NodeId, version: ModuleVersion, now: Now) {
        let others = self.others();
        let Some(module) = self.modules.get_mut(&version.module) else { return };
        let ModuleState::Merging { versions } = &mut module.state else { return };
        versions.insert(from, version);
        let own = module.version;
        let is_empty = version.committed_key.is_none() && version.transaction_id == 0;
        let is_same_history = version.committed_key == own.committed_key && !own.committed_key.is_none();
        let is_ahead = is_same_history && version.transaction_id > own.transaction_id;
        let is_too_long = own.transaction_id > HISTORY_MAX;
        if !is_empty && !is_same_history || is_ahead || is_too_long {
            module.state = ModuleState::Dirty { received: BTreeMap::new() };
            self.resend(version.module, now);
            return;
        }
        if versions.len() < others.len() {
            return;
        }
        if module.is_whole && own.committed_key.is_none() {
            return self.begin_merge(version.module, Vec::new(), false);
        }
        let is_behind =
            |(_, version): &(&NodeId, &ModuleVersion)| version.transaction_id < own.transaction_id;
        let left: BTreeSet<NodeId> = versions.iter().filter(is_behind).map(|(node, _)| *node).collect();
        if left.is_empty() {
            module.state = ModuleState::InSync;
            self.next_set(version.module);
        } else {
            module.state = ModuleState::Sending { left, body: None, originator: None };
            let (module, purpose) = (version.module, Purpose::SendToMembers);
            self.actions.push(SmdAction::Collect { module, purpose });
        }
    }

    pub(super) fn full_to_principal(&mut self, from: NodeId, full: Full) {
        let (id, others) = (full.module, self.others());
        let Some(module) = self.modules.get_mut(&id) else { return };
        let ModuleState::Dirty { received } = &mut module.state else { return };
        received.entry(from).or_insert(full);
        if received.len() < others.len() {
            return;
        }
        let received = std::mem::take(received);
        if module.is_whole {
            match prevailing(module.version, received) {
                Some(items) => self.begin_merge(id, items, true),
                None => self.begin_merge(id, Vec::new(), false),
            }
        } else {
            let items = received.into_values().flat_map(|full| full.items).collect();
            self.begin_merge(id, items, false);
        }
    }

    /// Asks the caller to merge items, which begins a new history.
    pub(super) fn begin_merge(&mut self, id: u32, others: Vec<Item>, replaces: bool) {
        let cluster_key = self.cluster_key;
        let Some(module) = self.modules.get_mut(&id) else { return };
        module.state = ModuleState::AwaitsMerge;
        module.version.committed_key = cluster_key;
        module.version.transaction_id = 1;
        let version = module.version;
        self.actions.push(SmdAction::Merge { module: id, others, version, replaces });
    }

    pub(super) fn merged(&mut self, id: u32, items: Vec<Item>, now: Now) {
        let left = self.others();
        let Some(module) = self.modules.get_mut(&id) else { return };
        if module.state == ModuleState::AwaitsMerge {
            let body = Some(SmdBody::FullFromPrincipal(module.full(items)));
            module.state = ModuleState::Sending { left, body, originator: None };
            self.resend(id, now);
        }
    }

    pub(super) fn collected(&mut self, id: u32, items: Vec<Item>, purpose: Purpose, now: Now) {
        let Some(module) = self.modules.get_mut(&id) else { return };
        let full = module.full(items);
        match (purpose, &mut module.state) {
            (Purpose::SendToMembers, ModuleState::Sending { body: body @ None, .. }) => {
                *body = Some(SmdBody::FullFromPrincipal(full));
                self.resend(id, now);
            }
            (Purpose::SendToPrincipal, ModuleState::Member) => {
                if let Some(principal) = self.succession.first().copied() {
                    self.send(principal, SmdBody::FullToPrincipal(full));
                }
            }
            _ => {}
        }
    }
}

/// The items of the history that wins: that of most nodes, and of several such the one with more changes.
/// `None` if this node, whose version is `own`, has the last state of that history.
fn prevailing(own: ModuleVersion, received: BTreeMap<NodeId, Full>) -> Option<Vec<Item>> {
    let mut histories: BTreeMap<ClusterKey, (usize, u64)> = BTreeMap::new();
    let others = received.values().map(|full| (full.committed_key, full.transaction_id));
    let known = others.chain([(own.committed_key, own.transaction_id)]).filter(|(key, _)| !key.is_none());
    for (key, transaction_id) in known {
        let (nodes, last) = histories.entry(key).or_default();
        *nodes += 1;
        *last = transaction_id.max(*last);
    }
    let (key, (_, last)) = histories.into_iter().max_by_key(|(key, weight)| (*weight, *key))?;
    if (own.committed_key, own.transaction_id) == (key, last) {
        return None;
    }
    let has_last = |full: &Full| (full.committed_key, full.transaction_id) == (key, last);
    received.into_values().find(has_last).map(|full| full.items)
}

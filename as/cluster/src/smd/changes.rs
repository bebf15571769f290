//! Changes of metadata by clients. The node that a client asked repeats the change to the principal until
//! that has answered. The principal makes the changes of a module one after the other.

use std::collections::BTreeSet;

use proto::peer::smd::{Item, SmdBody};

use super::{ModuleState, Originator, SetResult, SmdAction, SmdPropagation};
use crate::time::Now;

/// Time after which an originator asks the principal again.
const ORIGINATOR_RESEND_MS: u64 = 100;
/// Largest number of waiting changes at the principal.
const QUEUE_MAX: usize = 1024;

impl SmdPropagation {
    /// Sends to the principal the changes that clients of this node wait for.
    pub(super) fn ask_for_sets(&mut self, now: Now) {
        let Some(principal) = self.succession.first().copied() else { return };
        let due = self.sets.iter().filter(|(_, set)| set.resend_at_ms <= now.monotonic_ms);
        for transaction_id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            let Some(set) = self.sets.get_mut(&transaction_id) else { continue };
            set.resend_at_ms = now.monotonic_ms + ORIGINATOR_RESEND_MS;
            let (module, key, value) = (set.module, set.key.clone(), set.value.clone());
            if principal == self.self_node {
                self.queue_set(Originator { node: principal, transaction_id }, module, key, value);
            } else {
                self.send(principal, SmdBody::SetToPrincipal { transaction_id, module, key, value });
            }
        }
    }

    /// Queues a change at the principal, unless it is queued or under way already.
    pub(super) fn queue_set(
        &mut self,
        originator: Originator,
        id: u32,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    ) {
        let Some(module) = self.modules.get_mut(&id) else { return };
        let is_under_way = match &module.state {
            ModuleState::AwaitsChange { originator: other } => *other == originator,
            ModuleState::Sending { originator: Some(other), .. } => *other == originator,
            _ => false,
        };
        let is_queued = module.waiting.iter().any(|(other, ..)| *other == originator);
        if !is_under_way && !is_queued && module.waiting.len() < QUEUE_MAX {
            module.waiting.push_back((originator, key, value));
            self.next_set(id);
        }
    }

    pub(super) fn next_set(&mut self, id: u32) {
        let cluster_key = self.cluster_key;
        let Some(module) = self.modules.get_mut(&id) else { return };
        if module.state != ModuleState::InSync {
            return;
        }
        if let Some((originator, key, value)) = module.waiting.pop_front() {
            module.state = ModuleState::AwaitsChange { originator };
            let version = module.next_version(cluster_key);
            self.actions.push(SmdAction::Change { module: id, key, value, version });
        }
    }

    pub(super) fn changed(&mut self, id: u32, item: Option<Item>, now: Now) {
        let (cluster_key, others) = (self.cluster_key, self.others());
        let Some(module) = self.modules.get_mut(&id) else { return };
        let ModuleState::AwaitsChange { originator } = module.state else { return };
        let mut left = BTreeSet::new();
        let mut body = None;
        if let Some(item) = item {
            module.version = module.next_version(cluster_key);
            let transaction_id = module.version.transaction_id;
            body = Some(SmdBody::SetFromPrincipal { transaction_id, module: id, item });
            left = others;
        }
        module.state = ModuleState::Sending { left, body, originator: Some(originator) };
        self.resend(id, now);
        self.finish_sending(id);
    }

    /// Drops a change that this node, the principal, could not store. Another originator hears nothing and asks
    /// again until its time is over.
    pub(super) fn not_stored(&mut self, id: u32) {
        let Some(module) = self.modules.get_mut(&id) else { return };
        let ModuleState::AwaitsChange { originator } = module.state else { return };
        module.state = ModuleState::InSync;
        if originator.node == self.self_node {
            self.finish_set(originator.transaction_id, SetResult::NotStored);
        }
        self.next_set(id);
    }

    pub(super) fn finish_set(&mut self, transaction_id: u64, result: SetResult) {
        if let Some(set) = self.sets.remove(&transaction_id) {
            self.actions.push(SmdAction::Finished { set: set.set, result });
        }
    }
}

//! Cluster-wide metadata: spreads a change from one node to all, and lets nodes that meet agree on the same
//! items. The caller decides which of two items wins; this module decides which messages are sent when.
//!
//! The principal of the cluster is the principal of every module. A module's *version* is the cluster key
//! under which all its items were last the same everywhere, and the number of changes since.
//!
//! States of a module at the principal:
//! - *merging*: after a change of the cluster the principal waits for the versions of all members. If all
//!   equal its own, the module is *in sync*. Members behind in the same history get all items (*sending*). If
//!   one has another history, or is ahead, or the number of changes cannot be right, all members are asked for all of their items (*dirty*), the caller
//!   merges them ([`SmdAction::Merge`]), and all get the result (*sending*).
//! - *sending*: the principal waits until the members have taken the items sent to them; then the module is
//!   *in sync*.
//! - *in sync*: the principal takes the next change. The caller makes it ([`SmdAction::Change`]), all members
//!   get it (*sending*), and once all have taken it, the originator is told and the next change follows.
//!
//! Messages are repeated until answered. A member reports its versions 50 ms after a change, and again when
//! the principal asks. A message that arrives before this node has learnt of its cluster is kept until then;
//! the C server drops it and needs 3 s. A change that does not end before its deadline is reported as timed
//! out: it may have been made.

mod changes;
mod merging;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::peer::smd::{Full, Item, ModuleVersion, Smd, SmdBody};
use proto::peer::{ClusterKey, NodeId};

use crate::balance::MEMBERS_MAX;
use crate::time::Now;

/// Time after which the principal asks again.
const PRINCIPAL_RESEND_MS: u64 = 3000;
/// Time that a member gives its principal to learn of the change.
const REPORT_DELAY_MS: u64 = 50;
/// Number of changes that no history reaches, so a larger one is from a damaged file or a bad peer. The principal
/// begins a new history then: members take no version that is not after their own, so the number must not overflow.
const HISTORY_MAX: u64 = u64::MAX / 2;
/// Largest number of early reports of one peer.
const EARLY_MAX: usize = 8;

/// An input of metadata.
#[derive(Clone, Debug)]
pub enum SmdEvent {
    Tick,
    /// The partitions were balanced for another cluster.
    ClusterChanged {
        cluster_key: ClusterKey,
        succession: Vec<NodeId>,
    },
    Message {
        from: NodeId,
        message: Smd,
    },
    /// A client of this node requests a change; [`SmdAction::Finished`] answers it.
    Set {
        set: u64,
        module: u32,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
        deadline_ms: u64,
    },
    /// The caller has merged items. These are all items of the module now.
    Merged {
        module: u32,
        items: Vec<Item>,
    },
    /// The caller has made a change, or `None` if there was nothing to change.
    Changed {
        module: u32,
        item: Option<Item>,
    },
    /// The caller could not store a change, and has not made it.
    NotStored {
        module: u32,
    },
    /// The caller's items of a module, for [`SmdAction::Collect`].
    Collected {
        module: u32,
        items: Vec<Item>,
        purpose: Purpose,
    },
}

/// The purpose of a request for a module's items.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The principal sends them to members that are behind.
    SendToMembers,
    /// A member sends them to the principal.
    SendToPrincipal,
}

/// An output of metadata. Changes of items must be on disk before the next event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SmdAction {
    Send {
        to: NodeId,
        message: Smd,
    },
    /// Return all items of a module.
    Collect {
        module: u32,
        purpose: Purpose,
    },
    /// Merge the items of others into those of a module, or replace its items by them, and return the result.
    Merge {
        module: u32,
        others: Vec<Item>,
        version: ModuleVersion,
        replaces: bool,
    },
    /// Make a change as the principal (generation, timestamp), and return the resulting item.
    Change {
        module: u32,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
        version: ModuleVersion,
    },
    /// Store an item from the principal.
    Apply {
        item: Item,
        version: ModuleVersion,
    },
    /// Store all items from the principal.
    Replace {
        items: Vec<Item>,
        version: ModuleVersion,
    },
    Finished {
        set: u64,
        result: SetResult,
    },
}

/// The result of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetResult {
    /// All members have it.
    Done,
    /// The change may have been made.
    TimedOut,
    /// The principal, this node, could not store it, so no node has it.
    NotStored,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum ModuleState {
    /// This node is not principal.
    Member,
    Merging {
        versions: BTreeMap<NodeId, ModuleVersion>,
    },
    Dirty {
        received: BTreeMap<NodeId, Full>,
    },
    /// The caller is merging.
    AwaitsMerge,
    /// The caller is making the change of an originator.
    AwaitsChange {
        originator: Originator,
    },
    /// Waits until these members have taken the sent items. The originator of a change is told then.
    Sending {
        left: BTreeSet<NodeId>,
        body: Option<SmdBody>,
        originator: Option<Originator>,
    },
    /// All members have the same items; the principal takes the next change.
    InSync,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Originator {
    node: NodeId,
    transaction_id: u64,
}

#[derive(Clone, Debug)]
struct ModuleOfCluster {
    version: ModuleVersion,
    /// Whether one history wins as a whole when several meet.
    is_whole: bool,
    state: ModuleState,
    waiting: VecDeque<(Originator, Vec<u8>, Option<Vec<u8>>)>,
    resend_at_ms: u64,
}

/// A change that a client of this node waits for.
#[derive(Clone, Debug)]
struct PendingSet {
    set: u64,
    module: u32,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    deadline_ms: u64,
    resend_at_ms: u64,
}

/// The metadata propagation of one node, without the items.
#[derive(Clone, Debug)]
pub struct SmdPropagation {
    self_node: NodeId,
    cluster_key: ClusterKey,
    succession: Vec<NodeId>,
    modules: BTreeMap<u32, ModuleOfCluster>,
    sets: BTreeMap<u64, PendingSet>,
    next_transaction_id: u64,
    report_at_ms: Option<u64>,
    early: BTreeMap<NodeId, VecDeque<Smd>>,
    actions: Vec<SmdAction>,
}

impl SmdPropagation {
    /// Starts with the versions of all modules on disk.
    #[must_use]
    pub fn new(self_node: NodeId, versions: &[ModuleVersion]) -> Self {
        let module = |version: &ModuleVersion| {
            let waiting = VecDeque::new();
            let state = ModuleState::Member;
            let module =
                ModuleOfCluster { version: *version, is_whole: false, state, waiting, resend_at_ms: 0 };
            (version.module, module)
        };
        SmdPropagation {
            self_node,
            cluster_key: ClusterKey::NONE,
            succession: Vec::new(),
            modules: versions.iter().map(module).collect(),
            sets: BTreeMap::new(),
            next_transaction_id: 1,
            report_at_ms: None,
            early: BTreeMap::new(),
            actions: Vec::new(),
        }
    }

    /// Sets modules whose items are not merged when histories meet: the history of most nodes wins, and the
    /// others' items are dropped. Nodes without a history do not count; if no node has one, the principal's
    /// items start it.
    #[must_use]
    pub fn with_whole_histories(mut self, modules: &[u32]) -> Self {
        let known = self.modules.iter_mut().filter(|(id, _)| modules.contains(id));
        known.for_each(|(_, module)| module.is_whole = true);
        self
    }

    /// Number of unfinished changes by clients of this node.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.sets.len()
    }

    /// The version of a module.
    #[must_use]
    pub fn version(&self, module: u32) -> Option<ModuleVersion> {
        self.modules.get(&module).map(|module| module.version)
    }

    /// Whether no module waits for anything.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        let rests = |state: &ModuleState| matches!(state, ModuleState::Member | ModuleState::InSync);
        self.report_at_ms.is_none() && self.modules.values().all(|module| rests(&module.state))
    }

    fn is_principal(&self) -> bool {
        self.succession.first() == Some(&self.self_node)
    }

    fn others(&self) -> BTreeSet<NodeId> {
        self.succession.iter().copied().filter(|node| *node != self.self_node).collect()
    }

    fn send(&mut self, to: NodeId, body: SmdBody) {
        let message = Smd { cluster_key: self.cluster_key, body };
        self.actions.push(SmdAction::Send { to, message });
    }

    /// Processes one event; returns the actions.
    pub fn step(&mut self, event: SmdEvent, now: Now) -> Vec<SmdAction> {
        match event {
            SmdEvent::Tick => self.tick(now),
            SmdEvent::ClusterChanged { cluster_key, succession } => {
                self.cluster_changed(cluster_key, succession, now);
            }
            SmdEvent::Message { from, message } => self.message(from, message, now),
            SmdEvent::Set { set, module, key, value, deadline_ms } => {
                let transaction_id = self.next_transaction_id;
                self.next_transaction_id += 1;
                let pending = PendingSet { set, module, key, value, deadline_ms, resend_at_ms: 0 };
                self.sets.insert(transaction_id, pending);
                self.ask_for_sets(now);
            }
            SmdEvent::Merged { module, items } => self.merged(module, items, now),
            SmdEvent::Changed { module, item } => self.changed(module, item, now),
            SmdEvent::NotStored { module } => self.not_stored(module),
            SmdEvent::Collected { module, items, purpose } => self.collected(module, items, purpose, now),
        }
        std::mem::take(&mut self.actions)
    }

    fn cluster_changed(&mut self, cluster_key: ClusterKey, succession: Vec<NodeId>, now: Now) {
        self.cluster_key = cluster_key;
        self.succession = succession;
        let is_principal = self.is_principal();
        let others = self.others();
        for module in self.modules.values_mut() {
            // Originators of the old cluster ask again.
            module.waiting.clear();
            module.resend_at_ms = now.monotonic_ms + PRINCIPAL_RESEND_MS;
            module.state = match (is_principal, others.is_empty()) {
                (false, _) => ModuleState::Member,
                (true, true) => ModuleState::InSync,
                (true, false) => ModuleState::Merging { versions: BTreeMap::new() },
            };
        }
        self.report_at_ms = (!is_principal).then_some(now.monotonic_ms + REPORT_DELAY_MS);
        self.sets.values_mut().for_each(|set| set.resend_at_ms = 0);
        for (from, messages) in std::mem::take(&mut self.early) {
            for message in messages.into_iter().filter(|message| message.cluster_key == cluster_key) {
                self.message(from, message, now);
            }
        }
    }

    fn tick(&mut self, now: Now) {
        if self.report_at_ms.is_some_and(|at_ms| at_ms <= now.monotonic_ms) {
            self.report_at_ms = None;
            let versions = self.modules.values().map(|module| module.version).collect();
            if let Some(principal) = self.succession.first().copied() {
                self.send(principal, SmdBody::ReportAllVersions { versions });
            }
        }
        let due = self.modules.iter().filter(|(_, module)| module.resend_at_ms <= now.monotonic_ms);
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.resend(id, now);
        }
        let expired = self.sets.iter().filter(|(_, set)| set.deadline_ms <= now.monotonic_ms);
        for id in expired.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(set) = self.sets.remove(&id) {
                self.actions.push(SmdAction::Finished { set: set.set, result: SetResult::TimedOut });
            }
        }
        self.ask_for_sets(now);
    }

    /// Repeats the messages whose answers a module waits for.
    fn resend(&mut self, id: u32, now: Now) {
        let others = self.others();
        let Some(module) = self.modules.get_mut(&id) else { return };
        module.resend_at_ms = now.monotonic_ms + PRINCIPAL_RESEND_MS;
        let ModuleVersion { committed_key, transaction_id, .. } = module.version;
        let (to, body): (Vec<NodeId>, _) = match &module.state {
            ModuleState::Merging { versions } => {
                let left = others.iter().filter(|node| !versions.contains_key(node));
                (left.copied().collect(), SmdBody::RequestVersion { module: id })
            }
            ModuleState::Dirty { received, .. } => {
                let left = others.iter().filter(|node| !received.contains_key(node));
                let body = SmdBody::RequestFull { transaction_id, module: id, committed_key };
                (left.copied().collect(), body)
            }
            ModuleState::Sending { left, body: Some(body), .. } => {
                (left.iter().copied().collect(), body.clone())
            }
            _ => return,
        };
        to.into_iter().for_each(|node| self.send(node, body.clone()));
    }

    /// Sets the module in sync and tells the originator, if all members have taken the sent items.
    fn finish_sending(&mut self, id: u32) {
        let Some(module) = self.modules.get_mut(&id) else { return };
        let ModuleState::Sending { left, originator, .. } = &module.state else { return };
        if !left.is_empty() {
            return;
        }
        let originator = *originator;
        module.state = ModuleState::InSync;
        if let Some(Originator { node, transaction_id }) = originator {
            if node == self.self_node {
                self.finish_set(transaction_id, SetResult::Done);
            } else {
                self.send(node, SmdBody::SetAck { transaction_id, module: id });
            }
        }
        self.next_set(id);
    }

    fn message(&mut self, from: NodeId, message: Smd, now: Now) {
        if message.cluster_key != self.cluster_key {
            self.keep_early(from, message);
            return;
        }
        if !self.succession.contains(&from) || from == self.self_node {
            return;
        }
        let is_from_principal = self.succession.first() == Some(&from);
        match message.body {
            SmdBody::SetToPrincipal { transaction_id, module, key, value } if self.is_principal() => {
                self.queue_set(Originator { node: from, transaction_id }, module, key, value);
            }
            SmdBody::ReportAllVersions { versions } => {
                versions.into_iter().for_each(|version| self.reported(from, version, now));
            }
            SmdBody::ReportVersion { transaction_id, module, committed_key } => {
                self.reported(from, ModuleVersion { module, committed_key, transaction_id }, now);
            }
            SmdBody::FullToPrincipal(full) => self.full_to_principal(from, full),
            SmdBody::AckToPrincipal { transaction_id, module } => {
                self.acknowledged(from, module, transaction_id);
            }
            SmdBody::SetFromPrincipal { transaction_id, module, item } if is_from_principal => {
                let version = ModuleVersion { module, committed_key: self.cluster_key, transaction_id };
                self.take(from, version, |version| SmdAction::Apply { item, version });
            }
            SmdBody::FullFromPrincipal(full) if is_from_principal => {
                let Full { transaction_id, module, committed_key, items } = full;
                let version = ModuleVersion { module, committed_key, transaction_id };
                self.take(from, version, |version| SmdAction::Replace { items, version });
            }
            SmdBody::RequestVersion { module } if is_from_principal => {
                if let Some(version) = self.version(module) {
                    let ModuleVersion { committed_key, transaction_id, .. } = version;
                    self.send(from, SmdBody::ReportVersion { transaction_id, module, committed_key });
                }
            }
            SmdBody::RequestFull { module, .. } if is_from_principal => {
                self.actions.push(SmdAction::Collect { module, purpose: Purpose::SendToPrincipal });
            }
            SmdBody::SetAck { transaction_id, .. } if is_from_principal => {
                self.finish_set(transaction_id, SetResult::Done);
            }
            // The originator asks again anyway.
            _ => {}
        }
    }

    /// Keeps a report that may belong to the next cluster. All other messages are repeated soon, so they are
    /// dropped.
    fn keep_early(&mut self, from: NodeId, message: Smd) {
        let is_report =
            matches!(message.body, SmdBody::ReportAllVersions { .. } | SmdBody::ReportVersion { .. });
        let has_room = self.early.len() < MEMBERS_MAX || self.early.contains_key(&from);
        if is_report && has_room {
            let early = self.early.entry(from).or_default();
            early.push_back(message);
            if early.len() > EARLY_MAX {
                early.pop_front();
            }
        }
    }

    /// Takes the items that the principal sends, as a member, and acknowledges them. A repetition is only
    /// acknowledged.
    fn take(
        &mut self,
        from: NodeId,
        version: ModuleVersion,
        action: impl FnOnce(ModuleVersion) -> SmdAction,
    ) {
        let ModuleVersion { module: id, transaction_id, .. } = version;
        let Some(module) = self.modules.get_mut(&id) else { return };
        let is_same_history = module.version.committed_key == version.committed_key;
        if !is_same_history || module.version.transaction_id < transaction_id {
            module.version = version;
            self.actions.push(action(version));
        }
        self.send(from, SmdBody::AckToPrincipal { transaction_id, module: id });
    }

    fn acknowledged(&mut self, from: NodeId, id: u32, transaction_id: u64) {
        let Some(module) = self.modules.get_mut(&id) else { return };
        if module.version.transaction_id != transaction_id {
            return;
        }
        if let ModuleState::Sending { left, .. } = &mut module.state {
            left.remove(&from);
            self.finish_sending(id);
        }
    }
}

impl ModuleOfCluster {
    /// The version after one more change in the cluster of this key. The last number is reached by a node alone only,
    /// which compares versions with no other node; see [`HISTORY_MAX`].
    fn next_version(&self, cluster_key: ClusterKey) -> ModuleVersion {
        let transaction_id = self.version.transaction_id.wrapping_add(1);
        ModuleVersion { committed_key: cluster_key, transaction_id, ..self.version }
    }

    fn full(&self, items: Vec<Item>) -> Full {
        let ModuleVersion { module, committed_key, transaction_id } = self.version;
        Full { transaction_id, module, committed_key, items }
    }
}

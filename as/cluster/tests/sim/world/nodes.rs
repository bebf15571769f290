//! Nodes in a run: their steps, and the actions that follow from them.

use std::collections::{BTreeSet, VecDeque};

use cluster::node::{Action, Event};

use super::{APPLY_MAX_MS, Item, RESEND_MS, World};
use crate::network::{Choice, Message};
use crate::store::{self, Answer, Key, RecordMessage, Sending, Stage, Transaction};

impl World {
    pub(super) fn step(&mut self, host: usize, event: Event<'_>) {
        self.figures.steps += 1;
        let mut has_changed = false;
        let mut todo: VecDeque<Action> = self.node_step(host, event).into();
        while let Some(action) = todo.pop_front() {
            has_changed |= matches!(action, Action::PartitionChanged(_) | Action::Frozen);
            todo.extend(self.carry_out(host, action));
        }
        self.invariants.after_step(&mut self.hosts, host, &self.shape, has_changed);
    }

    pub(super) fn node_step(&mut self, host: usize, event: Event<'_>) -> Vec<Action> {
        let now = self.hosts[host].now(self.time_ms);
        let Some(process) = &mut self.hosts[host].process else { return Vec::new() };
        process.node.step(event, now).unwrap()
    }

    /// Carries out an action of a node; returns the actions that follow.
    pub(super) fn carry_out(&mut self, host: usize, action: Action) -> Vec<Action> {
        match action {
            Action::Pulse(bytes) => {
                for to in (0..self.hosts.len()).filter(|to| *to != host) {
                    self.send(host, to, Message::Heartbeat(bytes.clone()));
                }
            }
            Action::Send { to, message, .. } => {
                if let Some(to) = self.place_of(to) {
                    self.send(host, to, Message::Fabric(message));
                }
            }
            Action::Tree { partition, tree } => self.store(host).tree_action(partition.partition, tree),
            Action::Rebalanced { cluster_key, succession } => {
                self.figures.rebalances += 1;
                self.print(|| format!("{} rebalanced {cluster_key} {succession:?}", self.hosts[host].id));
                self.print_partitions(host);
                self.after_rebalance(host);
            }
            Action::Frozen => {
                self.print(|| format!("{} frozen", self.hosts[host].id));
                for (id, transaction) in std::mem::take(&mut self.store(host).transactions) {
                    let is_applied = matches!(transaction.stage, Stage::Replicating { .. });
                    self.answer(
                        host,
                        id,
                        &transaction,
                        if is_applied { Answer::InDoubt } else { Answer::Unavailable },
                    );
                }
            }
            Action::SendRecords { to, emigration_id, partition } => {
                let tree = self.store(host).trees.get(&partition.partition);
                let left: BTreeSet<Key> = tree.map(|tree| tree.keys().copied().collect()).unwrap_or_default();
                let sending = Sending { to, partition, left, resend_at_ms: 0 };
                self.store(host).sending.insert(emigration_id, sending);
                return self.send_records(host, emigration_id);
            }
            Action::StopRecords { emigration_id } => {
                self.store(host).sending.remove(&emigration_id);
                self.store(host).draining.remove(&emigration_id);
            }
            Action::AwaitWrites { cluster_key } => {
                self.store(host).awaiting = Some(cluster_key);
                return self.end_awaited_writes(host);
            }
            Action::HandOver { emigration_id, partition } => {
                self.store(host).draining.insert(emigration_id, partition.partition);
                return self.drain(host);
            }
            Action::Warn(warning) => self.print(|| format!("{} {warning:?}", self.hosts[host].id)),
            Action::Arrived { .. }
            | Action::Departed { .. }
            | Action::PartitionChanged(_)
            | Action::MapChanged
            | Action::Receive { .. }
            | Action::Received { .. }
            | Action::StopReceiving => {}
        }
        Vec::new()
    }

    pub(super) fn store(&mut self, host: usize) -> &mut store::Store {
        &mut self.hosts[host].process.as_mut().unwrap().store
    }

    /// Tells the node that no write is left to be applied, if it waits for that.
    pub(super) fn end_awaited_writes(&mut self, host: usize) -> Vec<Action> {
        let store = self.store(host);
        let is_applying = |transaction: &Transaction| matches!(transaction.stage, Stage::Applying);
        if store.transactions.values().any(is_applying) {
            return Vec::new();
        }
        match store.awaiting.take() {
            Some(cluster_key) => self.node_step(host, Event::WritesEnded { cluster_key }),
            None => Vec::new(),
        }
    }

    /// Begins the application of a write after its last check.
    pub(super) fn begin_to_apply(&mut self, host: usize, transaction: u32) {
        self.set_stage(host, transaction, Stage::Applying);
        let (life, delay) = (self.hosts[host].life, self.random.range(0, APPLY_MAX_MS));
        self.schedule(delay, Item::Apply { host, life, transaction });
    }

    /// Hands over partitions in which all writes have ended.
    pub(super) fn drain(&mut self, host: usize) -> Vec<Action> {
        let shape = self.shape.clone();
        let store = self.store(host);
        let drained = store
            .draining
            .iter()
            .filter(|(_, partition)| !store.is_writing(**partition, |key| shape.partition_of(key)));
        let drained: Vec<u32> = drained.map(|(id, _)| *id).collect();
        let mut actions = Vec::new();
        for emigration_id in drained {
            self.store(host).draining.remove(&emigration_id);
            actions.extend(self.node_step(host, Event::HandedOver { emigration_id }));
        }
        actions
    }

    pub(super) fn carry_out_all(&mut self, host: usize, actions: Vec<Action>) {
        let mut todo: VecDeque<Action> = actions.into();
        while let Some(action) = todo.pop_front() {
            todo.extend(self.carry_out(host, action));
        }
        self.invariants.after_step(&mut self.hosts, host, &self.shape, true);
    }

    pub(super) fn send_records(&mut self, host: usize, emigration_id: u32) -> Vec<Action> {
        let time_ms = self.time_ms;
        let Some(sending) = self.store(host).sending.get_mut(&emigration_id) else { return Vec::new() };
        sending.resend_at_ms = time_ms + RESEND_MS;
        let Sending { to, partition, .. } = *sending;
        let left: Vec<Key> = sending.left.iter().copied().collect();
        if left.is_empty() {
            self.store(host).sending.remove(&emigration_id);
            return self.node_step(host, Event::RecordsSent { emigration_id });
        }
        for key in left {
            let Some(record) = self.store(host).record(partition.partition, key).cloned() else { continue };
            self.send_record(host, to, RecordMessage::Insert { emigration_id, key, record });
        }
        self.poll_soon(host);
        Vec::new()
    }
}

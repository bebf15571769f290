//! Writes in a run, from the request to the reply: duplicates, the write at the master, its replicas.

use std::collections::BTreeSet;

use cluster::conflict::{ConflictPolicy, CopyAge};
use proto::peer::NodeId;

use super::{REFUSED_MS, REQUEST_MS, RESEND_MS, World};
use crate::network::Message;
use crate::store::{self, Answer, Key, Record, RecordMessage, Stage, Token, Transaction};

impl World {
    pub(super) fn record_message(&mut self, from: usize, host: usize, message: RecordMessage) {
        let now = self.hosts[host].now(self.time_ms);
        let sender = self.hosts.get(from).map(|host| host.id);
        let partition_of = |key| self.shape.partition_of(key);
        match message {
            RecordMessage::Request { client, token, key } => self.request(host, client, token, key),
            RecordMessage::ReplicaWrite { transaction, key, record, cluster_key } => {
                let partition = partition_of(key);
                let id = self.shape.id_of(partition);
                let process = self.hosts[host].process.as_mut().unwrap();
                let is_refused = !process.node.may_replicate(id, cluster_key, now);
                if !is_refused {
                    process.store.merge(ConflictPolicy::LastUpdateTime, partition, key, &record);
                }
                self.send(host, from, Message::Record(RecordMessage::WriteAck { transaction, is_refused }));
            }
            RecordMessage::WriteAck { transaction, is_refused } => {
                self.write_ack(host, sender.unwrap(), transaction, is_refused);
            }
            RecordMessage::DuplicateRequest { transaction, key, own } => {
                let partition = partition_of(key);
                let record = self.store(host).duplicate_ack(partition, key, own);
                self.send(host, from, Message::Record(RecordMessage::DuplicateAck { transaction, record }));
            }
            RecordMessage::DuplicateAck { transaction, record } => {
                self.duplicate_ack(host, sender.unwrap(), transaction, record);
            }
            RecordMessage::Insert { emigration_id, key, record } => {
                let process = self.hosts[host].process.as_mut().unwrap();
                if let Some(id) = process.node.immigration(sender.unwrap(), emigration_id) {
                    process.store.merge(ConflictPolicy::Generation, id.partition, key, &record);
                    self.send(host, from, Message::Record(RecordMessage::InsertAck { emigration_id, key }));
                }
            }
            RecordMessage::InsertAck { emigration_id, key } => {
                let Some(sending) = self.store(host).sending.get_mut(&emigration_id) else { return };
                sending.left.remove(&key);
                if sending.left.is_empty() {
                    let actions = self.send_records(host, emigration_id);
                    self.carry_out_all(host, actions);
                }
            }
            RecordMessage::Reply { .. } => {}
        }
    }

    pub(super) fn request(&mut self, host: usize, client: usize, token: Token, key: Key) {
        let deadline_ms = self.time_ms + REQUEST_MS;
        let client_place = self.client_place(client);
        let store = self.store(host);
        // A duplicated request is the same transaction.
        if store.transactions.values().any(|other| other.client == client && other.token == token) {
            return;
        }
        let transaction = store.next_transaction;
        store.next_transaction += 1;
        let stage = Stage::Waiting;
        store.transactions.insert(
            transaction,
            Transaction { client, client_place, token, key, stage, deadline_ms, resend_at_ms: 0 },
        );
        self.advance(host, transaction);
    }

    pub(super) fn answer(&mut self, host: usize, id: u32, transaction: &Transaction, answer: Answer) {
        let Transaction { client, client_place, token, .. } = *transaction;
        if let Some(process) = &mut self.hosts[host].process {
            process.store.transactions.remove(&id);
        }
        self.send(host, client_place, Message::Record(RecordMessage::Reply { client, token, answer }));
    }

    pub(super) fn end(&mut self, host: usize, id: u32, answer: Answer) {
        let Some(transaction) = self.store(host).transactions.remove(&id) else { return };
        self.answer(host, id, &transaction, answer);
        let actions = self.drain(host);
        if !actions.is_empty() {
            self.carry_out_all(host, actions);
        }
    }

    /// Begins a waiting write, if nothing blocks it.
    pub(super) fn advance(&mut self, host: usize, id: u32) {
        let now = self.hosts[host].now(self.time_ms);
        let time_ms = self.time_ms;
        let process = self.hosts[host].process.as_mut().unwrap();
        let Some(transaction) = process.store.transactions.get(&id).cloned() else { return };
        let key = transaction.key;
        let partition = self.shape.partition_of(key);
        let state = process.node.partition(self.shape.id_of(partition));
        if !process.node.may_serve(now) || transaction.deadline_ms < time_ms {
            return self.end(host, id, Answer::Unavailable);
        }
        if let Err(answer) = store::route(state, process.node.id()) {
            return self.end(host, id, answer);
        }
        if !process.node.may_write(self.shape.id_of(partition), now) || process.store.is_busy(key, id) {
            return self.poll_soon(host);
        }
        let asked = store::duplicates_to_ask(state, process.store.record(partition, key));
        if asked.is_empty() {
            return self.begin_to_apply(host, id);
        }
        let own = process.store.record(partition, key).map(|record| record.age);
        let cluster_key = process.node.balanced_key();
        let stage = Stage::Resolving { cluster_key, asked: asked.clone(), best: None };
        self.set_stage(host, id, stage);
        for node in asked {
            self.send_record(host, node, RecordMessage::DuplicateRequest { transaction: id, key, own });
        }
    }

    pub(super) fn set_stage(&mut self, host: usize, id: u32, stage: Stage) {
        let resend_at_ms = self.time_ms + RESEND_MS;
        if let Some(transaction) = self.store(host).transactions.get_mut(&id) {
            transaction.stage = stage;
            transaction.resend_at_ms = resend_at_ms;
        }
        self.poll_soon(host);
    }

    pub(super) fn duplicate_ack(&mut self, host: usize, from: NodeId, id: u32, record: Option<Record>) {
        let Some(transaction) = self.store(host).transactions.get_mut(&id) else { return };
        let Stage::Resolving { asked, best, .. } = &mut transaction.stage else { return };
        if !asked.remove(&from) {
            return;
        }
        if let Some(record) = record {
            let age = best.as_ref().map(|best| best.age);
            if ConflictPolicy::Generation.replaces(record.age, age) {
                *best = Some(record);
            }
        }
        if asked.is_empty() {
            self.resolved(host, id);
        }
    }

    pub(super) fn resolved(&mut self, host: usize, id: u32) {
        let now = self.hosts[host].now(self.time_ms);
        let process = self.hosts[host].process.as_mut().unwrap();
        let Some(transaction) = process.store.transactions.get(&id).cloned() else { return };
        let Stage::Resolving { cluster_key, best, .. } = transaction.stage else { return };
        let partition = self.shape.partition_of(transaction.key);
        let state = process.node.partition(self.shape.id_of(partition));
        let is_same = process.node.balanced_key() == cluster_key;
        let may_write = process.node.may_write(self.shape.id_of(partition), now);
        if !is_same || !may_write || store::route(state, process.node.id()).is_err() {
            self.set_stage(host, id, Stage::Waiting);
            return self.advance(host, id);
        }
        if let Some(best) = best {
            process.store.merge(ConflictPolicy::Generation, partition, transaction.key, &best);
        }
        self.begin_to_apply(host, id);
    }

    /// The write itself, at the master.
    pub(super) fn apply(&mut self, host: usize, id: u32) {
        let now = self.hosts[host].now(self.time_ms);
        let process = self.hosts[host].process.as_mut().unwrap();
        let Some(transaction) = process.store.transactions.get(&id).cloned() else { return };
        let key = transaction.key;
        let partition = self.shape.partition_of(key);
        let time = process.node.update_time_ms(now);
        // This node may no longer be the master.
        let Some(tree) = process.store.trees.get_mut(&partition) else {
            return self.end(host, id, Answer::Unavailable);
        };
        let fresh = Record { age: CopyAge { generation: 0, last_update_time: 0 }, tokens: Vec::new() };
        let record = tree.entry(key).or_insert(fresh);
        // A late request, whose client has moved on, is not applied, and neither is one that was applied
        // before.
        if record.tokens.last().is_some_and(|last| *last > transaction.token) {
            return self.end(host, id, Answer::Unavailable);
        }
        if !record.tokens.contains(&transaction.token) {
            record.tokens.push(transaction.token);
            record.age = CopyAge {
                generation: record.age.generation + 1,
                last_update_time: record.age.last_update_time.max(time),
            };
        }
        let age = record.age;
        self.print(|| format!("key {key}: {} appends {} {age:?}", self.hosts[host].id, transaction.token));
        self.replicate(host, id);
    }

    /// Sends the record to all replicas, under the node's current cluster.
    pub(super) fn replicate(&mut self, host: usize, id: u32) {
        let process = self.hosts[host].process.as_mut().unwrap();
        let Some(transaction) = process.store.transactions.get(&id).cloned() else { return };
        let partition = self.shape.partition_of(transaction.key);
        let state = process.node.partition(self.shape.id_of(partition));
        let self_node = process.node.id();
        let asked: BTreeSet<NodeId> =
            state.replicas.iter().copied().filter(|node| *node != self_node).collect();
        let cluster_key = process.node.balanced_key();
        if asked.is_empty() {
            return self.end(host, id, Answer::Done);
        }
        self.set_stage(host, id, Stage::Replicating { cluster_key, asked });
        self.send_replicas(host, id);
    }

    pub(super) fn send_replicas(&mut self, host: usize, id: u32) {
        let process = self.hosts[host].process.as_mut().unwrap();
        let Some(transaction) = process.store.transactions.get(&id).cloned() else { return };
        let Stage::Replicating { cluster_key, asked } = transaction.stage else { return };
        let partition = self.shape.partition_of(transaction.key);
        let Some(record) = process.store.record(partition, transaction.key).cloned() else { return };
        for node in asked {
            let (key, record, cluster_key) = (transaction.key, record.clone(), Some(cluster_key));
            let message = RecordMessage::ReplicaWrite { transaction: id, key, record, cluster_key };
            self.send_record(host, node, message);
        }
        self.poll_soon(host);
    }

    pub(super) fn write_ack(&mut self, host: usize, from: NodeId, id: u32, is_refused: bool) {
        let time_ms = self.time_ms;
        let Some(transaction) = self.store(host).transactions.get_mut(&id) else { return };
        let Stage::Replicating { asked, .. } = &mut transaction.stage else { return };
        if is_refused {
            transaction.resend_at_ms = transaction.resend_at_ms.min(time_ms + REFUSED_MS);
            return self.poll_soon(host);
        }
        asked.remove(&from);
        if asked.is_empty() {
            self.end(host, id, Answer::Done);
        }
    }

    /// Continues or ends the writes under way under the new partition table.
    pub(super) fn after_rebalance(&mut self, host: usize) {
        let ids: Vec<u32> = self.store(host).transactions.keys().copied().collect();
        for id in ids {
            let process = self.hosts[host].process.as_mut().unwrap();
            let Some(transaction) = process.store.transactions.get(&id).cloned() else { continue };
            let partition = self.shape.partition_of(transaction.key);
            let state = process.node.partition(self.shape.id_of(partition));
            let is_master = state.working_master == process.node.id();
            match transaction.stage {
                Stage::Replicating { .. } if is_master => self.replicate(host, id),
                Stage::Replicating { .. } => self.end(host, id, Answer::InDoubt),
                Stage::Resolving { .. } => self.set_stage(host, id, Stage::Waiting),
                Stage::Waiting | Stage::Applying => {}
            }
        }
        self.poll_soon(host);
    }

    /// Handles everything that waits for time: held writes, repetitions, deadlines.
    pub(super) fn poll(&mut self, host: usize) {
        if self.hosts[host].process.is_none() {
            return;
        }
        let time_ms = self.time_ms;
        let ids: Vec<u32> = self.store(host).transactions.keys().copied().collect();
        for id in ids {
            let Some(transaction) = self.store(host).transactions.get(&id).cloned() else { continue };
            let is_due = transaction.resend_at_ms <= time_ms;
            match transaction.stage {
                Stage::Waiting => self.advance(host, id),
                Stage::Resolving { .. } if transaction.deadline_ms < time_ms => {
                    self.end(host, id, Answer::Unavailable);
                }
                Stage::Replicating { .. } if transaction.deadline_ms < time_ms => {
                    self.end(host, id, Answer::InDoubt);
                }
                Stage::Resolving { .. } if is_due => {
                    self.set_stage(host, id, Stage::Waiting);
                    self.advance(host, id);
                }
                Stage::Replicating { cluster_key, asked } if is_due => {
                    self.set_stage(host, id, Stage::Replicating { cluster_key, asked });
                    self.send_replicas(host, id);
                }
                _ => {}
            }
        }
        let store = self.store(host);
        let due = store.sending.iter().filter(|(_, sending)| sending.resend_at_ms <= time_ms);
        let due: Vec<u32> = due.map(|(id, _)| *id).collect();
        for emigration_id in due {
            let actions = self.send_records(host, emigration_id);
            self.carry_out_all(host, actions);
        }
        let store = self.store(host);
        if !store.transactions.is_empty() || !store.sending.is_empty() {
            self.poll_soon(host);
        }
    }
}

//! The run of one seed: time, hosts, network, clients and the order of faults.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use cluster::conflict::{ConflictPolicy, CopyAge};
use cluster::node::{Action, Event, HandOver};
use cluster::time::{Random, Timing};
use proto::peer::NodeId;

use crate::check::{self, Invariants};
use crate::client::Client;
use crate::faults::{Fault, Planned};
use crate::host::{Host, Shape};
use crate::network::{Choice, Message, Network};
use crate::store::{self, Answer, Key, Record, RecordMessage, Sending, Stage, Token, Transaction};

const REQUEST_MS: u64 = 800;
const RESEND_MS: u64 = 100;
const REFUSED_MS: u64 = 5;
const POLL_MS: u64 = 10;
/// Longest time from the last check of a write to its application.
const APPLY_MAX_MS: u64 = 20;
/// Time after the end of a cut within which all nodes hear each other.
const HEARD_MS: u64 = 500;
/// A node that stops waits so long for others to take its partitions over.
const HAND_OVER_MAX_MS: u64 = 5000;
/// Time after the end of a fault within which the cluster must be whole.
const HEALED_MAX_MS: u64 = 90_000;

/// Counts of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    steps: u64,
    messages: u64,
    faults: u64,
    rebalances: u64,
    handed_over: u64,
    acknowledged: u64,
    in_doubt: u64,
    simulated_s: u64,
    longest_healing_ms: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Figures) {
        self.steps += other.steps;
        self.messages += other.messages;
        self.faults += other.faults;
        self.rebalances += other.rebalances;
        self.handed_over += other.handed_over;
        self.acknowledged += other.acknowledged;
        self.in_doubt += other.in_doubt;
        self.simulated_s += other.simulated_s;
        self.longest_healing_ms = self.longest_healing_ms.max(other.longest_healing_ms);
    }
}

#[derive(Debug)]
enum Item {
    Deliver { from: usize, to: usize, message: Message },
    Tick { host: usize, life: u32 },
    Poll { host: usize, life: u32 },
    Apply { host: usize, life: u32, transaction: u32 },
    Client { client: usize },
}

pub(crate) struct World {
    time_ms: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    items: BTreeMap<usize, Item>,
    next_item: usize,
    random: Random,
    network: Network,
    hosts: Vec<Host>,
    clients: Vec<Client>,
    /// Hosts that clients cannot reach.
    hidden: BTreeSet<usize>,
    clients_rest: bool,
    polled: BTreeSet<usize>,
    shape: Shape,
    is_durable: bool,
    invariants: Invariants,
    figures: Figures,
    prints: bool,
}

impl World {
    pub(crate) fn new(seed: u64, prints: bool) -> Self {
        let mut random = Random::new(seed);
        let hosts = [3, 3, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 12, 16][random.below(14) as usize];
        // Faults overlap in one of five runs.
        let is_durable = !random.chance(20);
        let shape = Shape {
            seed,
            partitions: [4, 8, 16][random.below(3) as usize],
            replication_factor: [2, 2, 2, 3][random.below(4) as usize],
            is_uniform: random.chance(30),
            racks: [1, 1, 1, 2, 3][random.below(5) as usize],
        };
        let mut ids = BTreeSet::new();
        while ids.len() < hosts {
            ids.insert(random.range(1, 0xFFFF));
        }
        let offset = |random: &mut Random| random.range(0, 600).cast_signed() - 300;
        let mut ids: Vec<u64> = ids.into_iter().collect();
        for at in (1..ids.len()).rev() {
            ids.swap(at, random.below(at as u64 + 1) as usize);
        }
        let hosts = ids.iter().map(|id| Host::new(NodeId(*id), shape.partitions, offset(&mut random)));
        let hosts: Vec<Host> = hosts.collect();
        let network = Network::new(&mut random);
        World {
            time_ms: 1000,
            order: 0,
            queue: BinaryHeap::new(),
            items: BTreeMap::new(),
            next_item: 0,
            network,
            clients: (0..6).map(Client::new).collect(),
            hosts,
            hidden: BTreeSet::new(),
            clients_rest: false,
            polled: BTreeSet::new(),
            shape,
            is_durable,
            invariants: Invariants::default(),
            figures: Figures::default(),
            random,
            prints,
        }
    }

    fn print(&self, text: impl FnOnce() -> String) {
        if self.prints {
            println!("{:>7} {}", self.time_ms, text());
        }
    }

    fn print_partitions(&self, host: usize) {
        let Some(process) = self.hosts[host].process.as_ref().filter(|_| self.prints) else { return };
        for partition in 0..self.shape.partitions as u16 {
            let state = process.node.partition(self.shape.id_of(partition));
            println!(
                "        partition {partition}: {} -> {} replicas {:?} master {} duplicates {:?}",
                process.versions[usize::from(partition)],
                state.version,
                state.replicas,
                state.working_master,
                state.duplicates,
            );
        }
    }

    // --- the run

    pub(crate) fn run(mut self) -> Figures {
        self.print(|| format!("{:?}, {:?}, durable {}", self.shape, self.network, self.is_durable));
        for host in 0..self.hosts.len() {
            self.start(host);
        }
        for client in 0..self.clients.len() {
            let delay = self.random.range(0, 500);
            self.schedule(delay, Item::Client { client });
        }
        self.run_for(2500);
        self.wait_for_rest();
        self.judge();
        if self.is_durable {
            for _ in 0..self.random.range(2, 4) {
                let planned = Planned::choose(self.hosts.len(), &mut self.random);
                self.begin(planned);
                self.run_for(planned.lasts_ms);
                self.heal();
                // A client that reaches a formerly cut-off node before that node has heard of the others is on both
                // sides of the cut.
                self.run_for(HEARD_MS);
                self.hidden.clear();
                self.run_for(3000);
                self.wait_for_rest();
                self.judge();
            }
        } else {
            for _ in 0..self.random.range(4, 9) {
                let planned = Planned::choose(self.hosts.len(), &mut self.random);
                self.begin(planned);
                if self.random.chance(40) {
                    self.split();
                }
                self.run_for(planned.lasts_ms);
                if self.random.chance(40) {
                    self.heal();
                }
            }
            self.heal();
            self.hidden.clear();
            self.run_for(3000);
            self.wait_for_rest();
            check::replicas_are_complete(&self.hosts, &self.shape);
        }
        self.figures.simulated_s = self.time_ms / 1000;
        self.figures.acknowledged = self.clients.iter().map(|client| client.acknowledged.len() as u64).sum();
        self.figures
    }

    fn begin(&mut self, planned: Planned) {
        self.print(|| format!("FAULT {planned:?} at {}", self.hosts[planned.host].id));
        self.figures.faults += 1;
        let place = planned.host;
        let others: Vec<usize> = (0..self.hosts.len()).filter(|other| *other != place).collect();
        match planned.fault {
            Fault::Cut => {
                others.iter().for_each(|other| self.network.cut.extend([(place, *other), (*other, place)]));
                self.hidden.insert(place);
            }
            Fault::OneWayCut { is_deaf } => {
                let direction = |other: &usize| if is_deaf { (*other, place) } else { (place, *other) };
                self.network.cut.extend(others.iter().map(direction));
                self.hidden.insert(place);
            }
            Fault::PairCut { other } => {
                self.network.cut.extend([(place, other), (other, place)]);
                // The smaller of the two is left out of the cluster.
                let smaller = if self.hosts[place].id < self.hosts[other].id { place } else { other };
                self.hidden.insert(smaller);
            }
            Fault::Crash { keeps_disk } => self.hosts[place].crash(keeps_disk),
            Fault::Stop { keeps_disk } => {
                if self.hosts[place].process.is_some() && !self.hosts[place].is_paused {
                    self.hosts[place].stops = Some((self.time_ms + HAND_OVER_MAX_MS, keeps_disk));
                    self.step(place, Event::Leave);
                }
            }
            Fault::Pause => self.hosts[place].is_paused = self.hosts[place].process.is_some(),
            Fault::ClockStep { ms } => self.hosts[place].clock_offset_ms += ms,
        }
    }

    /// Ends a process that is to stop, if it need not wait any longer, or if it must not.
    fn stop(&mut self, host: usize, must_stop: bool) {
        let Some((until_ms, keeps_disk)) = self.hosts[host].stops else { return };
        let Some(process) = &self.hosts[host].process else { return };
        let hand_over = process.node.hand_over();
        if hand_over == HandOver::UnderWay && self.time_ms < until_ms && !must_stop {
            return;
        }
        self.print(|| format!("{} stops, hand-over {hand_over:?}", self.hosts[host].id));
        self.figures.handed_over += u64::from(hand_over == HandOver::Done);
        self.step(host, Event::Depart);
        self.hosts[host].crash(keeps_disk);
    }

    /// Cuts the hosts into two groups.
    fn split(&mut self) {
        self.print(|| "FAULT split".to_owned());
        let side: Vec<bool> = self.hosts.iter().map(|_| self.random.chance(50)).collect();
        for left in 0..side.len() {
            for right in (0..side.len()).filter(|right| side[left] != side[*right]) {
                self.network.cut.insert((left, right));
            }
        }
    }

    fn heal(&mut self) {
        self.print(|| "HEALED".to_owned());
        self.network.cut.clear();
        for host in 0..self.hosts.len() {
            self.stop(host, true);
            if self.hosts[host].process.is_none() {
                self.start(host);
            }
            if self.hosts[host].is_paused {
                self.hosts[host].is_paused = false;
                for (from, message) in std::mem::take(&mut self.hosts[host].inbox) {
                    let delay = self.random.range(0, 3);
                    self.schedule(delay, Item::Deliver { from, to: host, message });
                }
                let life = self.hosts[host].life;
                let delay = self.random.range(0, 3);
                self.schedule(delay, Item::Tick { host, life });
                self.poll_soon(host);
            }
        }
    }

    fn start(&mut self, host: usize) {
        self.hosts[host].start(&self.shape, self.time_ms);
        let life = self.hosts[host].life;
        let delay = self.random.range(0, 300);
        self.schedule(delay, Item::Tick { host, life });
    }

    fn wait_for_rest(&mut self) {
        let began_ms = self.time_ms;
        while let Some(unrest) = check::unrest(&self.hosts, &self.shape) {
            let waited_ms = self.time_ms - began_ms;
            assert!(waited_ms < HEALED_MAX_MS, "no rest {waited_ms} ms after the fault healed: {unrest}");
            self.run_for(200);
        }
        let waited_ms = self.time_ms - began_ms;
        self.figures.longest_healing_ms = self.figures.longest_healing_ms.max(waited_ms);
        self.print(|| format!("at rest after {waited_ms} ms"));
    }

    /// Lets requests under way end, then compares copies and histories.
    fn judge(&mut self) {
        self.clients_rest = true;
        self.run_for(2 * REQUEST_MS);
        check::replicas_are_complete(&self.hosts, &self.shape);
        for client in &self.clients {
            let partition = self.shape.partition_of(client.key);
            let mut copies = Vec::new();
            for process in self.hosts.iter().filter_map(|host| host.process.as_ref()) {
                if process.node.partition(self.shape.id_of(partition)).version.has_data() {
                    let record = process.store.record(partition, client.key);
                    let tokens = record.map(|record| record.tokens.clone()).unwrap_or_default();
                    if let Err(error) = client.judge(&tokens) {
                        panic!("{error} at {}", process.node.id());
                    }
                    copies.push(record.cloned());
                }
            }
            let agree = copies.windows(2).all(|pair| pair[0] == pair[1]);
            assert!(agree || !client.is_certain, "copies of key {} differ: {copies:?}", client.key);
        }
        self.clients_rest = false;
    }

    // --- time

    fn schedule(&mut self, delay_ms: u64, item: Item) {
        let number = self.next_item;
        self.next_item += 1;
        self.order = self.random.next_u64() >> 1;
        self.items.insert(number, item);
        self.queue.push(Reverse((self.time_ms + delay_ms, self.order, number)));
    }

    fn run_for(&mut self, duration_ms: u64) {
        let end_ms = self.time_ms + duration_ms;
        while let Some(Reverse((at_ms, _, _))) = self.queue.peek() {
            if *at_ms > end_ms {
                break;
            }
            let Some(Reverse((at_ms, _, number))) = self.queue.pop() else { break };
            self.time_ms = at_ms;
            if let Some(item) = self.items.remove(&number) {
                self.happen(item);
            }
        }
        self.time_ms = end_ms;
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Deliver { from, to, message } => self.deliver(from, to, message),
            Item::Tick { host, life } => {
                if self.hosts[host].life != life || self.hosts[host].process.is_none() {
                    return;
                }
                if !self.hosts[host].is_paused {
                    self.step(host, Event::Tick);
                    self.stop(host, false);
                    let delay = self.random.range(Timing::TICK_MS - 25, Timing::TICK_MS);
                    self.schedule(delay, Item::Tick { host, life });
                }
            }
            Item::Poll { host, life } => {
                self.polled.remove(&host);
                if self.hosts[host].life == life && !self.hosts[host].is_paused {
                    self.poll(host);
                }
            }
            Item::Apply { host, life, transaction } => {
                if self.hosts[host].life != life || self.hosts[host].process.is_none() {
                    return;
                }
                if self.hosts[host].is_paused {
                    // It continues when the process does.
                    return self.schedule(POLL_MS, Item::Apply { host, life, transaction });
                }
                self.apply(host, transaction);
                let actions = self.end_awaited_writes(host);
                self.carry_out_all(host, actions);
            }
            Item::Client { client } => self.client_turn(client),
        }
    }

    fn poll_soon(&mut self, host: usize) {
        if self.polled.insert(host) {
            let life = self.hosts[host].life;
            self.schedule(POLL_MS, Item::Poll { host, life });
        }
    }

    // --- messages

    /// Places in the network: first the hosts, then the clients.
    fn client_place(&self, client: usize) -> usize {
        self.hosts.len() + client
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        self.figures.messages += 1;
        for delay in self.network.arrivals(from, to, &mut self.random) {
            self.schedule(delay, Item::Deliver { from, to, message: message.clone() });
        }
    }

    fn place_of(&self, node: NodeId) -> Option<usize> {
        self.hosts.iter().position(|host| host.id == node)
    }

    fn send_record(&mut self, from: usize, to: NodeId, message: RecordMessage) {
        if let Some(to) = self.place_of(to) {
            self.send(from, to, Message::Record(message));
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        let hosts = self.hosts.len();
        if to >= hosts {
            if !self.hidden.contains(&from)
                && let Message::Record(RecordMessage::Reply { client, token, answer }) = message
            {
                self.reply(client, token, answer);
            }
            return;
        }
        if self.hosts[to].process.is_none() || from >= hosts && self.hidden.contains(&to) {
            return;
        }
        if self.hosts[to].is_paused {
            self.hosts[to].inbox.push((from, message));
            return;
        }
        match message {
            Message::Heartbeat(bytes) => self.step(to, Event::Heartbeat(&bytes)),
            Message::Fabric(bytes) => {
                let from = self.hosts[from].id;
                self.step(to, Event::Fabric { from, message: &bytes });
            }
            Message::Record(message) => self.record_message(from, to, message),
        }
    }

    // --- nodes

    fn step(&mut self, host: usize, event: Event<'_>) {
        self.figures.steps += 1;
        let mut has_changed = false;
        let mut todo: VecDeque<Action> = self.node_step(host, event).into();
        while let Some(action) = todo.pop_front() {
            has_changed |= matches!(action, Action::PartitionChanged(_) | Action::Frozen);
            todo.extend(self.carry_out(host, action));
        }
        self.invariants.after_step(&mut self.hosts, host, &self.shape, has_changed);
    }

    fn node_step(&mut self, host: usize, event: Event<'_>) -> Vec<Action> {
        let now = self.hosts[host].now(self.time_ms);
        let Some(process) = &mut self.hosts[host].process else { return Vec::new() };
        process.node.step(event, now).unwrap()
    }

    /// Does an action of a node; returns the actions that follow.
    fn carry_out(&mut self, host: usize, action: Action) -> Vec<Action> {
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

    fn store(&mut self, host: usize) -> &mut store::Store {
        &mut self.hosts[host].process.as_mut().unwrap().store
    }

    /// Tells the node that no write is still to be applied, if it waits for that.
    fn end_awaited_writes(&mut self, host: usize) -> Vec<Action> {
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
    fn begin_to_apply(&mut self, host: usize, transaction: u32) {
        self.set_stage(host, transaction, Stage::Applying);
        let (life, delay) = (self.hosts[host].life, self.random.range(0, APPLY_MAX_MS));
        self.schedule(delay, Item::Apply { host, life, transaction });
    }

    /// Hands over partitions in which no write is under way any more.
    fn drain(&mut self, host: usize) -> Vec<Action> {
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

    fn carry_out_all(&mut self, host: usize, actions: Vec<Action>) {
        let mut todo: VecDeque<Action> = actions.into();
        while let Some(action) = todo.pop_front() {
            todo.extend(self.carry_out(host, action));
        }
        self.invariants.after_step(&mut self.hosts, host, &self.shape, true);
    }

    fn send_records(&mut self, host: usize, emigration_id: u32) -> Vec<Action> {
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

    // --- records

    fn record_message(&mut self, from: usize, host: usize, message: RecordMessage) {
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

    fn request(&mut self, host: usize, client: usize, token: Token, key: Key) {
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

    fn answer(&mut self, host: usize, id: u32, transaction: &Transaction, answer: Answer) {
        let Transaction { client, client_place, token, .. } = *transaction;
        if let Some(process) = &mut self.hosts[host].process {
            process.store.transactions.remove(&id);
        }
        self.send(host, client_place, Message::Record(RecordMessage::Reply { client, token, answer }));
    }

    fn end(&mut self, host: usize, id: u32, answer: Answer) {
        let Some(transaction) = self.store(host).transactions.remove(&id) else { return };
        self.answer(host, id, &transaction, answer);
        let actions = self.drain(host);
        if !actions.is_empty() {
            self.carry_out_all(host, actions);
        }
    }

    /// Begins a waiting write, if nothing blocks it.
    fn advance(&mut self, host: usize, id: u32) {
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

    fn set_stage(&mut self, host: usize, id: u32, stage: Stage) {
        let resend_at_ms = self.time_ms + RESEND_MS;
        if let Some(transaction) = self.store(host).transactions.get_mut(&id) {
            transaction.stage = stage;
            transaction.resend_at_ms = resend_at_ms;
        }
        self.poll_soon(host);
    }

    fn duplicate_ack(&mut self, host: usize, from: NodeId, id: u32, record: Option<Record>) {
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

    fn resolved(&mut self, host: usize, id: u32) {
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
    fn apply(&mut self, host: usize, id: u32) {
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
        // A late request, whose client has moved on, is not applied; nor is one that was applied before.
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
    fn replicate(&mut self, host: usize, id: u32) {
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

    fn send_replicas(&mut self, host: usize, id: u32) {
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

    fn write_ack(&mut self, host: usize, from: NodeId, id: u32, is_refused: bool) {
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

    /// Writes under way continue under the new table, or end.
    fn after_rebalance(&mut self, host: usize) {
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

    /// Handles what waits for time: held writes, repetitions, deadlines.
    fn poll(&mut self, host: usize) {
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

    // --- clients

    fn client_turn(&mut self, client: usize) {
        let time_ms = self.time_ms;
        let state = &mut self.clients[client];
        if let Some(token) = state.token {
            if state.deadline_ms <= time_ms {
                state.token = None;
                state.is_certain = false;
                state.favourite = self.random.below(self.hosts.len() as u64) as usize;
                self.figures.in_doubt += 1;
                self.schedule(1, Item::Client { client });
                return;
            }
            let (key, to) = (state.key, state.favourite);
            let from = self.client_place(client);
            self.send(from, to, Message::Record(RecordMessage::Request { client, token, key }));
            self.schedule(REQUEST_MS / 4, Item::Client { client });
            return;
        }
        if self.clients_rest {
            self.schedule(100, Item::Client { client });
            return;
        }
        state.token = Some(state.next_token);
        state.next_token += 1;
        state.deadline_ms = time_ms + REQUEST_MS;
        state.hops = 0;
        self.client_turn(client);
    }

    fn reply(&mut self, client: usize, token: Token, answer: Answer) {
        if self.clients[client].token != Some(token) {
            return;
        }
        match answer {
            Answer::Done => {
                self.print(|| format!("key {client}: client has {token}"));
                let state = &mut self.clients[client];
                state.token = None;
                state.acknowledged.push(token);
                state.is_certain = true;
            }
            Answer::Elsewhere(node) => {
                let place = self.place_of(node).unwrap();
                let state = &mut self.clients[client];
                state.hops += 1;
                state.favourite = place;
                if state.hops < 20 {
                    let (key, from) = (state.key, self.client_place(client));
                    self.send(from, place, Message::Record(RecordMessage::Request { client, token, key }));
                }
            }
            Answer::Unavailable => {
                self.clients[client].favourite = self.random.below(self.hosts.len() as u64) as usize;
            }
            // The next repetition may find out.
            Answer::InDoubt => {}
        }
    }
}

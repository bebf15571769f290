//! The run of one seed: time, hosts, network, clients and the order of faults.

mod clients;
mod nodes;
mod writes;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use cluster::node::{Event, HandOver};
use cluster::time::{Random, Timing};
use proto::peer::NodeId;

use crate::check::{self, Invariants};
use crate::client::Client;
use crate::faults::{Fault, Planned};
use crate::host::{Host, Shape};
use crate::network::{Choice, Message, Network};
use crate::store::RecordMessage;

const REQUEST_MS: u64 = 800;
const RESEND_MS: u64 = 100;
const REFUSED_MS: u64 = 5;
const POLL_MS: u64 = 10;
/// Longest time from the last check of a write to its application.
const APPLY_MAX_MS: u64 = 20;
/// Time after the end of a cut within which all nodes hear each other.
const HEARD_MS: u64 = 500;
/// How long a node that stops waits for others to take its partitions over.
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
                // A client that reaches a formerly cut-off node before that node has heard of the others is
                // on both sides of the cut.
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

    /// Ends a process that is to stop, if it need not wait any longer or `must_stop` is set.
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
}

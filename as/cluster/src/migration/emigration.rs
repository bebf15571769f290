//! The sending side of migration: a queue of tasks, and the active ones.
//!
//! Signals begin at once. The order of other tasks: by `migrate-order`; then destinations other than the last
//! one, so that all get their turn; then lead before contingent emigrations, acting masters before others, and
//! small partitions before large ones.

use std::collections::{BTreeMap, BTreeSet};

use proto::peer::NodeId;

use super::{
    MigrationAction, MigrationLoad, MigrationSettings, RESEND_MS, SMALL_EMIGRATIONS_MAX, Saying, Task,
    TaskKind,
};
use crate::time::Now;

/// Time after which a busy receiver is asked again.
const BUSY_MS: u64 = 50;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EmigrationState {
    /// Asking the receiver.
    Starting,
    /// The caller is sending records.
    Sending,
    /// The caller is waiting for writes under way.
    HandingOver,
    /// Reporting the end.
    Finishing,
    /// Signalling a witness.
    Signalling,
}

#[derive(Clone, Debug)]
struct Active {
    task: Task,
    state: EmigrationState,
    resend_at_ms: u64,
}

impl Active {
    /// Whether the task takes the place of another one. The next emigration need not wait until the receiver
    /// has acknowledged the end of this one. The receiver reads the end before the next start, so there are
    /// never more under way for it.
    fn takes_place(&self) -> bool {
        !matches!(self.state, EmigrationState::Finishing | EmigrationState::Signalling)
    }
}

/// The emigrations of a node.
#[derive(Clone, Debug)]
pub struct Emigrations {
    settings: MigrationSettings,
    /// The waiting transfers, each with the time before which it may not start.
    queue: Vec<(Task, u64)>,
    active: BTreeMap<u32, Active>,
    /// Nodes with a limit of their own for small partitions.
    take_small: BTreeSet<NodeId>,
    /// Busy receivers, with the time until which they are not asked again, for small partitions beside others and for
    /// others.
    busy: BTreeMap<(NodeId, bool), u64>,
    next_id: u32,
    last_destination: NodeId,
    actions: Vec<MigrationAction>,
}

impl Emigrations {
    /// Makes the state without tasks.
    #[must_use]
    pub fn new(settings: MigrationSettings) -> Self {
        Emigrations {
            settings,
            queue: Vec::new(),
            active: BTreeMap::new(),
            take_small: BTreeSet::new(),
            busy: BTreeMap::new(),
            next_id: 0,
            last_destination: NodeId::NONE,
            actions: Vec::new(),
        }
    }

    /// Changes the settings.
    pub fn set(&mut self, settings: MigrationSettings) {
        self.settings = settings;
    }

    /// Sets the nodes with a limit of their own for small partitions, when there are no tasks.
    pub(crate) fn set_take_small(&mut self, nodes: BTreeSet<NodeId>) {
        self.take_small = nodes;
    }

    /// Whether a task counts as an emigration of a small partition, beside others.
    fn is_beside_others(&self, task: &Task) -> bool {
        task.is_small && self.take_small.contains(&task.destination())
    }

    /// The key of [`busy`](Self::busy) for a task.
    fn room_key(&self, task: &Task) -> (NodeId, bool) {
        (task.destination(), self.is_beside_others(task))
    }

    /// Number of emigrations under way: of small partitions beside others, and of others.
    fn under_way(&self) -> (usize, usize) {
        let places = self.active.values().filter(|active| active.takes_place());
        let (small, others): (Vec<_>, Vec<_>) =
            places.partition(|active| self.is_beside_others(&active.task));
        (small.len(), others.len())
    }

    /// Number of unfinished tasks.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.queue.len() + self.active.len()
    }

    /// Adds the emigrations of a namespace.
    pub(crate) fn add_to(&self, load: &mut MigrationLoad, namespace: usize) {
        let queued = self.queue.iter().map(|(task, _)| (task, false));
        let active = self.active.values().map(|active| (&active.task, true));
        let own = queued.chain(active).filter(|(task, _)| task.partition.namespace == namespace);
        for (task, is_active) in own {
            load.emigrations_known += 1;
            match task.kind {
                TaskKind::Transfer(_) => load.emigrations += usize::from(is_active),
                TaskKind::Signal { .. } => {
                    load.signals += usize::from(is_active);
                    load.signals_remaining += 1;
                }
            }
        }
    }

    /// Drops all tasks when the cluster changes.
    pub fn cancel(&mut self) -> Vec<MigrationAction> {
        self.queue.clear();
        self.busy.clear();
        let active = std::mem::take(&mut self.active);
        let is_sending =
            |active: &Active| matches!(active.state, EmigrationState::Sending | EmigrationState::HandingOver);
        let sending = active.iter().filter(|(_, active)| is_sending(active));
        sending.map(|(id, _)| MigrationAction::StopRecords { emigration_id: *id }).collect()
    }

    /// Adds tasks. Signals begin at once.
    pub fn push(&mut self, tasks: impl IntoIterator<Item = Task>, now: Now) -> Vec<MigrationAction> {
        for task in tasks {
            match task.kind {
                TaskKind::Signal { .. } => self.start(task, EmigrationState::Signalling, now),
                TaskKind::Transfer(emigration) => {
                    let delay_ms = if emigration.is_fill { self.settings.fill_delay_ms } else { 0 };
                    self.queue.push((task, now.monotonic_ms + delay_ms));
                }
            }
        }
        self.start_some(now);
        std::mem::take(&mut self.actions)
    }

    /// Starts the waiting tasks that may run.
    fn start_some(&mut self, now: Now) {
        loop {
            let (small, others) = self.under_way();
            let threads = self.settings.threads;
            let has_place = others < threads;
            let has_place_for_small = threads != 0 && small < SMALL_EMIGRATIONS_MAX;
            if !has_place && !has_place_for_small {
                return;
            }
            let last = self.last_destination;
            let may_run = |(task, not_before_ms): &(Task, u64)| {
                let has_place = if self.is_beside_others(task) { has_place_for_small } else { has_place };
                let busy_until_ms = self.busy.get(&self.room_key(task));
                let is_busy = busy_until_ms.is_some_and(|until_ms| *until_ms > now.monotonic_ms);
                has_place && !is_busy && *not_before_ms <= now.monotonic_ms
            };
            let runnable = self.queue.iter().enumerate().filter(|(_, entry)| may_run(entry));
            let first = runnable.min_by_key(|(_, (task, _))| priority(task, last));
            let Some((place, _)) = first else { return };
            let (task, _) = self.queue.swap_remove(place);
            self.last_destination = task.destination();
            self.start(task, EmigrationState::Starting, now);
        }
    }

    fn start(&mut self, task: Task, state: EmigrationState, now: Now) {
        let emigration_id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.active.insert(emigration_id, Active { task, state, resend_at_ms: 0 });
        self.say(emigration_id, now);
    }

    /// Sends the message of a task's state.
    fn say(&mut self, emigration_id: u32, now: Now) {
        let Some(active) = self.active.get_mut(&emigration_id) else { return };
        let saying = match active.state {
            EmigrationState::Starting => Saying::Start,
            EmigrationState::Finishing => Saying::Done,
            EmigrationState::Signalling => Saying::AllDone,
            EmigrationState::Sending | EmigrationState::HandingOver => return,
        };
        active.resend_at_ms = now.monotonic_ms + RESEND_MS;
        let task = active.task;
        let Task { partition, record_count, .. } = task;
        let (to, is_small) = self.room_key(&task);
        let say = MigrationAction::Say { to, emigration_id, saying, partition, record_count, is_small };
        self.actions.push(say);
    }

    /// Whether an answer comes from the asked node, in a state that waits for it.
    fn expects(&self, from: NodeId, emigration_id: u32, state: EmigrationState) -> Option<Task> {
        let active = self.active.get(&emigration_id)?;
        (active.state == state && active.task.destination() == from).then_some(active.task)
    }

    fn enter(&mut self, emigration_id: u32, state: EmigrationState, now: Now) {
        if let Some(active) = self.active.get_mut(&emigration_id) {
            active.state = state;
        }
        self.say(emigration_id, now);
    }

    /// Reports the end of an emigration, and starts the next one.
    fn enter_last(&mut self, emigration_id: u32, now: Now) {
        self.enter(emigration_id, EmigrationState::Finishing, now);
        self.start_some(now);
    }

    fn finish(&mut self, emigration_id: u32, now: Now) {
        self.active.remove(&emigration_id);
        self.start_some(now);
    }

    /// Notes that the receiver accepts records.
    pub fn start_ok(&mut self, from: NodeId, emigration_id: u32, now: Now) -> Vec<MigrationAction> {
        if let Some(task) = self.expects(from, emigration_id, EmigrationState::Starting) {
            self.enter(emigration_id, EmigrationState::Sending, now);
            self.actions.push(MigrationAction::SendRecords {
                to: from,
                emigration_id,
                partition: task.partition,
            });
        }
        std::mem::take(&mut self.actions)
    }

    /// Puts an emigration back into the queue, because the receiver wants to be asked later.
    pub fn start_again_later(&mut self, from: NodeId, emigration_id: u32, now: Now) -> Vec<MigrationAction> {
        if let Some(task) = self.expects(from, emigration_id, EmigrationState::Starting) {
            // No other task of this kind for the receiver starts either, until one ends or some time has passed.
            self.busy.insert(self.room_key(&task), now.monotonic_ms + BUSY_MS);
            self.queue.push((task, now.monotonic_ms));
            self.finish(emigration_id, now);
        }
        std::mem::take(&mut self.actions)
    }

    /// Ends an emigration whose receiver expects nothing.
    pub fn start_fail(&mut self, from: NodeId, emigration_id: u32, now: Now) -> Vec<MigrationAction> {
        if let Some(task) = self.expects(from, emigration_id, EmigrationState::Starting) {
            self.actions.push(MigrationAction::Refused { partition: task.partition, destination: from });
            self.finish(emigration_id, now);
        }
        std::mem::take(&mut self.actions)
    }

    /// Notes that the caller has sent all records and the receiver has acknowledged them.
    pub fn records_sent(&mut self, emigration_id: u32, now: Now) -> Vec<MigrationAction> {
        if let Some(active) = self.active.get(&emigration_id) {
            let is_acting_master =
                matches!(active.task.kind, TaskKind::Transfer(emigration) if emigration.is_acting_master);
            let partition = active.task.partition;
            match active.state {
                EmigrationState::Sending if is_acting_master => {
                    self.enter(emigration_id, EmigrationState::HandingOver, now);
                    self.actions.push(MigrationAction::HandOver { emigration_id, partition });
                }
                EmigrationState::Sending => self.enter_last(emigration_id, now),
                _ => {}
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// Notes that all writes of the partition have ended.
    pub fn handed_over(&mut self, emigration_id: u32, now: Now) -> Vec<MigrationAction> {
        if self.active.get(&emigration_id).is_some_and(|active| active.state == EmigrationState::HandingOver)
        {
            self.enter_last(emigration_id, now);
        }
        std::mem::take(&mut self.actions)
    }

    /// Notes that the receiver has acknowledged the end.
    pub fn done_ack(&mut self, from: NodeId, emigration_id: u32, now: Now) -> Vec<MigrationAction> {
        if let Some(task) = self.expects(from, emigration_id, EmigrationState::Finishing) {
            if let TaskKind::Transfer(emigration) = task.kind {
                self.actions.push(MigrationAction::Transferred { partition: task.partition, emigration });
            }
            self.busy.remove(&self.room_key(&task));
            self.finish(emigration_id, now);
        }
        std::mem::take(&mut self.actions)
    }

    /// Notes that a witness has acknowledged the signal.
    pub fn all_done_ack(&mut self, from: NodeId, emigration_id: u32, now: Now) -> Vec<MigrationAction> {
        if let Some(task) = self.expects(from, emigration_id, EmigrationState::Signalling) {
            self.actions.push(MigrationAction::Signalled { partition: task.partition });
            self.finish(emigration_id, now);
        }
        std::mem::take(&mut self.actions)
    }

    /// Repeats messages that are due, and starts tasks that may run now.
    pub fn tick(&mut self, now: Now) -> Vec<MigrationAction> {
        let due = self.active.iter().filter(|(_, active)| active.resend_at_ms <= now.monotonic_ms);
        let due: Vec<u32> = due.map(|(id, _)| *id).collect();
        due.into_iter().for_each(|id| self.say(id, now));
        self.start_some(now);
        std::mem::take(&mut self.actions)
    }
}

fn priority(task: &Task, last_destination: NodeId) -> impl Ord + use<> {
    let is_repeated_destination = task.destination() == last_destination;
    let importance = match task.kind {
        TaskKind::Transfer(emigration) if emigration.is_lead && !emigration.is_fill => {
            if emigration.is_acting_master { 0 } else { 1 }
        }
        _ => 2,
    };
    (task.order, is_repeated_destination, importance, task.record_count, task.partition)
}

#[cfg(test)]
mod tests {
    use super::super::PartitionId;
    use super::*;
    use crate::balance::Emigration;

    fn at(monotonic_ms: u64) -> Now {
        Now { monotonic_ms, wall_ms: 0 }
    }

    fn task(partition: u16, is_acting_master: bool, is_fill: bool) -> Task {
        let destination = NodeId(7);
        let kind = TaskKind::Transfer(Emigration { destination, is_acting_master, is_lead: true, is_fill });
        let partition = PartitionId { namespace: 0, partition };
        Task { partition, kind, order: 5, record_count: 1000, is_small: false }
    }

    #[test]
    fn a_transfer_goes_through_its_states_and_repeats_itself() {
        let mut emigrations = Emigrations::new(MigrationSettings::default());
        let said = emigrations.push([task(3, true, false)], at(0));
        assert!(matches!(said[..], [MigrationAction::Say { saying: Saying::Start, emigration_id: 0, .. }]));
        assert_eq!(emigrations.start_ok(NodeId(8), 0, at(1)), [], "another node cannot answer");
        assert_eq!(emigrations.tick(at(999)), []);
        assert!(matches!(
            emigrations.tick(at(1000))[..],
            [MigrationAction::Say { saying: Saying::Start, .. }]
        ));
        let sends = emigrations.start_ok(NodeId(7), 0, at(1001));
        assert!(matches!(sends[..], [MigrationAction::SendRecords { .. }]));
        assert!(matches!(emigrations.records_sent(0, at(1002))[..], [MigrationAction::HandOver { .. }]));
        assert!(matches!(
            emigrations.handed_over(0, at(1003))[..],
            [MigrationAction::Say { saying: Saying::Done, .. }]
        ));
        assert!(matches!(
            emigrations.done_ack(NodeId(7), 0, at(1004))[..],
            [MigrationAction::Transferred { .. }]
        ));
        assert_eq!(emigrations.remaining(), 0);
    }

    #[test]
    fn the_next_transfer_starts_with_the_end_of_the_last_one() {
        let mut emigrations = Emigrations::new(MigrationSettings::default());
        emigrations.push([task(3, false, false)], at(0));
        assert_eq!(emigrations.push([task(4, false, false)], at(0)), [], "one at a time");
        emigrations.start_ok(NodeId(7), 0, at(1));
        let said = emigrations.records_sent(0, at(2));
        assert!(matches!(
            said[..],
            [
                MigrationAction::Say { saying: Saying::Done, emigration_id: 0, .. },
                MigrationAction::Say { saying: Saying::Start, emigration_id: 1, .. }
            ]
        ));
        assert_eq!(emigrations.remaining(), 2);
        // A receiver that is busy is asked again when it has acknowledged an end.
        assert_eq!(emigrations.start_again_later(NodeId(7), 1, at(3)), []);
        let said = emigrations.done_ack(NodeId(7), 0, at(4));
        assert!(matches!(
            said[..],
            [MigrationAction::Transferred { .. }, MigrationAction::Say { saying: Saying::Start, .. }]
        ));
    }

    #[test]
    fn of_tasks_that_are_added_together_the_most_important_one_begins() {
        let mut emigrations = Emigrations::new(MigrationSettings::default());
        let tasks = [task(1, false, true), task(2, false, false), task(3, true, false)];
        let said = emigrations.push(tasks, at(0));
        let [MigrationAction::Say { partition, .. }] = said[..] else { panic!("{said:?}") };
        assert_eq!(partition.partition, 3);
    }

    #[test]
    fn small_partitions_are_sent_beside_others_to_nodes_that_take_them() {
        let small = |partition| Task { is_small: true, ..task(partition, false, false) };
        let mut emigrations = Emigrations::new(MigrationSettings::default());
        assert_eq!(emigrations.push([small(0)], at(0)).len(), 1);
        assert_eq!(emigrations.push([small(1)], at(0)), [], "any other node receives one at a time");

        let mut emigrations = Emigrations::new(MigrationSettings::default());
        emigrations.set_take_small([NodeId(7)].into());
        assert_eq!(emigrations.push((0..40).map(small), at(0)).len(), SMALL_EMIGRATIONS_MAX);
        assert_eq!(
            emigrations.push([task(50, false, false)], at(0)).len(),
            1,
            "it does not wait for small ones"
        );
        assert_eq!(emigrations.push([task(51, false, false)], at(0)), [], "there is one thread");

        let none = MigrationSettings { threads: 0, ..MigrationSettings::default() };
        let mut emigrations = Emigrations::new(none);
        emigrations.set_take_small([NodeId(7)].into());
        assert_eq!(emigrations.push([small(1)], at(0)), []);
    }

    #[test]
    fn a_receiver_that_is_busy_with_small_partitions_still_gets_large_ones() {
        let small = |partition| Task { is_small: true, ..task(partition, false, false) };
        let mut emigrations = Emigrations::new(MigrationSettings::default());
        emigrations.set_take_small([NodeId(7)].into());
        let said = emigrations.push([small(0)], at(0));
        let [MigrationAction::Say { is_small: true, .. }] = said[..] else { panic!("{said:?}") };
        assert_eq!(emigrations.start_again_later(NodeId(7), 0, at(1)), []);
        let said = emigrations.push([small(1), task(2, false, false)], at(2));
        let [MigrationAction::Say { is_small: false, partition, .. }] = said[..] else { panic!("{said:?}") };
        assert_eq!(partition.partition, 2);
        // The end of the large one makes no room for small ones.
        emigrations.start_ok(NodeId(7), 1, at(3));
        emigrations.records_sent(1, at(4));
        let done = emigrations.done_ack(NodeId(7), 1, at(5));
        assert!(matches!(done[..], [MigrationAction::Transferred { .. }]));
        assert_eq!(emigrations.tick(at(1 + BUSY_MS)).len(), 2);

        // And the other way round.
        let mut emigrations = Emigrations::new(MigrationSettings::default());
        emigrations.set_take_small([NodeId(7)].into());
        emigrations.push([task(2, false, false)], at(0));
        emigrations.start_again_later(NodeId(7), 0, at(1));
        assert_eq!(emigrations.push((3..40).map(small), at(2)).len(), SMALL_EMIGRATIONS_MAX);
    }

    #[test]
    fn refused_starts_wait_and_fills_come_last() {
        let settings = MigrationSettings { fill_delay_ms: 5000, ..MigrationSettings::default() };
        let mut emigrations = Emigrations::new(settings);
        assert_eq!(emigrations.push([task(1, false, true)], at(0)), [], "copies for new nodes wait");
        assert_eq!(emigrations.push([task(2, false, false)], at(0)).len(), 1);
        assert_eq!(emigrations.start_again_later(NodeId(7), 0, at(1)), []);
        assert_eq!(emigrations.tick(at(BUSY_MS)), []);
        let said = emigrations.tick(at(1 + BUSY_MS));
        assert!(matches!(said[..], [MigrationAction::Say { emigration_id: 1, .. }]));
        assert!(matches!(
            emigrations.start_fail(NodeId(7), 1, at(1002))[..],
            [MigrationAction::Refused { .. }]
        ));
        assert_eq!(emigrations.tick(at(5000)).len(), 1);
        assert_eq!(emigrations.cancel(), [], "no records were being sent");
        assert_eq!(emigrations.remaining(), 0);
    }
}

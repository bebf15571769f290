//! Migration: sends and receives the records of partitions.
//!
//! `cluster::migration` in the cluster thread decides which partition goes where and when. This module
//! carries out its orders: a thread of the pool sends the records of a partition ([`emigration`]), fabric
//! threads store the received ones ([`immigration`]), and when a mastership ends a thread waits for the
//! writes under way ([`handing_over`]).
//!
//! # Threads
//! `migrate-threads` threads, at least one, with lower priority than service threads send large partitions.
//! A few threads with the priority of service threads send small partitions, and a few hand over. On a busy
//! machine a thread of low priority waits for a long time before it runs. For a small partition that wait
//! would be most of the time. During a hand-over clients' writes wait, so it does not wait for anything that
//! is sent. Messages arrive on fabric threads. An emigration that panics begins again; otherwise the cluster
//! thread would wait for its end for ever.
//!
//! # Locks
//! One mutex for the list of emigrations and one for the unacknowledged records of each. One lock for the
//! list of immigrations, held shared while a record is stored, so that the cluster thread knows that no
//! record of an ended immigration is stored later.

mod emigration;
mod handing_over;
mod immigration;

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use proto::peer::migrate::{Migrate, MigrateBody};
use proto::peer::{NodeId, PeerError};

use crate::fabric::{
    Fabric, Handler, MoveOrder, MoveReport, MoveReports, RecordMover, partition_size, small_count_max,
};
use crate::index::PartitionId;
use crate::namespace::Namespace;
use crate::transaction::TransactionContext;
use crate::workers::Workers;
use emigration::Emigration;
use immigration::{Immigrations, Incoming};

/// The nice value that the threads add to that of service threads; it gives them about a tenth of the share.
const NICENESS: i32 = 10;
/// Number of threads that send small partitions, and of those that hand over. They mostly wait, for
/// acknowledgements or for writes under way.
const SHORT_JOB_THREADS: usize = 4;
/// Pause before a report to the cluster thread is repeated because its inbox was full.
const TELL_PAUSE: Duration = Duration::from_millis(5);
/// Longest pause before an emigration that has panicked begins again. Its thread waits meanwhile.
const AGAIN_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A job for a thread of a pool.
enum Job {
    Send(Arc<Emigration>),
    HandOver(Arc<Emigration>),
}

/// The migrations of a node.
pub(crate) struct Migrations {
    context: Arc<TransactionContext>,
    fabric: Arc<Fabric>,
    reports: OnceLock<MoveReports>,
    outgoing: Mutex<HashMap<u32, Arc<Emigration>>>,
    incoming: Immigrations,
    large_senders: Workers<Job>,
    small_senders: Workers<Job>,
    hand_overs: Workers<Job>,
}

impl Migrations {
    /// Starts the threads without migrations. `fabric` sends the records.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(context: &Arc<TransactionContext>, fabric: &Arc<Fabric>) -> io::Result<Arc<Self>> {
        let migrations = Arc::new(Migrations {
            context: Arc::clone(context),
            fabric: Arc::clone(fabric),
            reports: OnceLock::new(),
            outgoing: Mutex::default(),
            incoming: Immigrations::default(),
            large_senders: Workers::with_niceness("migrate", NICENESS),
            small_senders: Workers::new("migrate-small"),
            hand_overs: Workers::new("hand-over"),
        });
        for (workers, count) in migrations.pools() {
            let weak: Weak<Migrations> = Arc::downgrade(&migrations);
            workers.start(count, move || {
                let weak = Weak::clone(&weak);
                Some(Box::new(move |job| {
                    if let Some(migrations) = weak.upgrade() {
                        migrations.carry_out_surely(job);
                    }
                }))
            })?;
        }
        Ok(migrations)
    }

    /// The pools, with the configured number of their threads. If `migrate-threads` is 0, one is left for
    /// migrations under way.
    fn pools(&self) -> [(&Workers<Job>, usize); 3] {
        let count = self.context.config.service.migrate_threads.get().max(1) as usize;
        [
            (&self.large_senders, count),
            (&self.small_senders, SHORT_JOB_THREADS),
            (&self.hand_overs, SHORT_JOB_THREADS),
        ]
    }

    fn submit(&self, job: Job) {
        let pool = match &job {
            Job::Send(emigration) => {
                let namespace = &emigration.namespace;
                let size = partition_size(namespace, emigration.partition);
                let is_small = size.is_small(small_count_max(namespace));
                if is_small { &self.small_senders } else { &self.large_senders }
            }
            Job::HandOver(_) => &self.hand_overs,
        };
        pool.submit(job);
    }

    fn carry_out_surely(&self, job: Job) {
        if catch_unwind(AssertUnwindSafe(|| self.carry_out(&job))).is_ok() {
            return;
        }
        let (Job::Send(emigration) | Job::HandOver(emigration)) = &job;
        cf::critical!(
            Migrate,
            "{{{}}} the migration of partition {} failed on an internal error, and begins again",
            emigration.namespace.name(),
            emigration.partition.index()
        );
        std::thread::sleep(emigration.pause_after_panic().min(AGAIN_PAUSE_MAX));
        if !emigration.is_stopped() {
            self.outgoing.lock().entry(emigration.id).or_insert_with(|| Arc::clone(emigration));
            self.submit(job);
        }
    }

    fn carry_out(&self, job: &Job) {
        match job {
            Job::Send(emigration) => {
                if emigration.run(&self.fabric) && self.forget(emigration) {
                    self.tell(|| MoveReport::Sent { emigration_id: emigration.id });
                }
            }
            Job::HandOver(emigration) => {
                if handing_over::await_writes(emigration, &self.context.replicas) && self.forget(emigration) {
                    self.tell(|| MoveReport::HandedOver { emigration_id: emigration.id });
                }
            }
        }
    }

    /// Reports to the cluster thread. Waits until its inbox has room for the report, or the server stops.
    fn tell(&self, report: impl Fn() -> MoveReport) {
        let Some(tell) = self.reports.get() else { return };
        while !tell(report()) && !self.context.is_stopping() {
            std::thread::sleep(TELL_PAUSE);
        }
    }

    fn add(&self, emigration: Emigration, job: fn(Arc<Emigration>) -> Job) {
        let emigration = Arc::new(emigration);
        self.outgoing.lock().insert(emigration.id, Arc::clone(&emigration));
        self.submit(job(emigration));
    }

    /// Removes an emigration from the list. Returns whether it was not stopped.
    fn forget(&self, emigration: &Emigration) -> bool {
        self.outgoing.lock().remove(&emigration.id);
        !emigration.is_stopped()
    }

    /// Handles a record from a node, with the node's numbers of the emigration and of the record, and
    /// acknowledges it.
    fn take_in(
        &self,
        (from, emigration_id, insert_id): (NodeId, u32, u64),
        incoming: &Incoming<'_>,
    ) -> Result<(), PeerError> {
        let fabric = Arc::clone(&self.fabric);
        self.incoming.store((from, emigration_id), incoming, move || {
            let ack = Migrate { emigration_id, body: MigrateBody::InsertAck { insert_id } };
            emigration::send_bulk(&fabric, from, &ack);
        })
    }

    fn taken(&self, from: NodeId, message: &[u8]) -> Result<(), PeerError> {
        let Migrate { emigration_id, body } = Migrate::decode(message)?;
        match body {
            MigrateBody::Insert { insert_id, record, removed_at } => {
                self.take_in((from, emigration_id, insert_id), &Incoming::Record { record, removed_at })?;
            }
            MigrateBody::Removal { insert_id, digest, removed_at } => {
                self.take_in((from, emigration_id, insert_id), &Incoming::Removal { digest, removed_at })?;
            }
            MigrateBody::InsertAck { insert_id } => {
                let emigration = self.outgoing.lock().get(&emigration_id).cloned();
                if let Some(emigration) = emigration {
                    emigration.acked(from, insert_id);
                }
            }
            // Other messages are about partitions, not records.
            _ => {
                if let Some(tell) = self.reports.get() {
                    tell(MoveReport::Message { from, bytes: message.to_vec() });
                }
            }
        }
        Ok(())
    }
}

impl Handler for Migrations {
    fn take(&self, from: NodeId, message: &[u8]) {
        if let Err(error) = self.taken(from, message) {
            cf::warning_limited!(Migrate, "message of node {from} dropped: {error}");
        }
    }
}

impl RecordMover for Migrations {
    fn report_to(&self, reports: MoveReports) {
        // There is one cluster thread, so the cell is empty.
        let _ = self.reports.set(reports);
    }

    fn take_order(&self, order: MoveOrder) {
        match order {
            MoveOrder::Send { to, emigration_id, namespace, partition, tells_removals } => {
                let mut emigration = Emigration::new(emigration_id, to, namespace, partition);
                emigration.tells_removals = tells_removals;
                self.add(emigration, Job::Send);
            }
            MoveOrder::HandOver { emigration_id, namespace, partition } => {
                // This emigration sends nothing.
                let emigration = Emigration::new(emigration_id, NodeId::NONE, namespace, partition);
                self.add(emigration, Job::HandOver);
            }
            MoveOrder::Stop { emigration_id } => {
                if let Some(emigration) = self.outgoing.lock().remove(&emigration_id) {
                    emigration.stop();
                }
            }
            MoveOrder::Receive { from, emigration_id, namespace, partition } => {
                self.incoming.add((from, emigration_id), namespace, partition);
            }
            MoveOrder::Received { from, emigration_id } => self.incoming.remove(&(from, emigration_id)),
            MoveOrder::StopReceiving => self.incoming.clear(),
        }
    }

    fn resize(&self) {
        self.pools().iter().for_each(|(workers, count)| workers.resize(*count));
    }

    fn stop(&self) {
        self.outgoing.lock().drain().for_each(|(_, emigration)| emigration.stop());
        self.incoming.clear();
        self.pools().iter().for_each(|(workers, _)| workers.stop());
    }
}

//! The inbox of the cluster thread: bounded, so that a burst of messages costs messages and no memory.

use crossbeam::channel::{Receiver, Sender, bounded};
use proto::peer::NodeId;

use crate::fabric::dump::Dump;
use crate::fabric::peers::Handler;

/// Most events that wait for the thread.
const INBOX_SIZE: usize = 16 << 10;

/// An event for the thread.
pub(crate) enum DriverEvent {
    /// A heartbeat message of another node.
    Heartbeat(Vec<u8>),
    /// A message on the fabric about the cluster.
    Message { from: NodeId, bytes: Vec<u8> },
    /// All records of an emigration are sent and acknowledged.
    RecordsSent { emigration_id: u32 },
    /// No write is under way in a partition that is handed over.
    HandedOver { emigration_id: u32 },
    /// `recluster`.
    Recluster,
    /// `quiesce`, or its end.
    Quiesce(bool),
    /// Others are to take the partitions over: the node is about to stop.
    Leave,
    /// `dump-*`.
    Dump(Dump),
    /// End the thread.
    Stop,
}

/// The sending end of the thread's inbox.
#[derive(Clone)]
pub(crate) struct DriverInbox(Sender<DriverEvent>);

impl DriverInbox {
    /// An empty inbox: its sending and its receiving end.
    pub(super) fn new() -> (Self, Receiver<DriverEvent>) {
        let (sender, receiver) = bounded(INBOX_SIZE);
        (DriverInbox(sender), receiver)
    }

    /// Posts an event to the cluster thread; returns false if its inbox is full.
    pub(crate) fn tell(&self, event: DriverEvent) -> bool {
        self.0.try_send(event).is_ok()
    }

    /// Has the cluster thread end, once there is room in its inbox.
    pub(crate) fn stop(&self) {
        // A thread that has ended needs no word.
        let _ = self.0.send(DriverEvent::Stop);
    }
}

impl Handler for DriverInbox {
    fn take(&self, from: NodeId, message: &[u8]) {
        self.tell(DriverEvent::Message { from, bytes: message.to_vec() });
    }
}

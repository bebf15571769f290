//! The inbox of the cluster thread. It is bounded, so that a burst of messages loses messages but uses no
//! more memory.

use crossbeam::channel::{Receiver, Sender, bounded};
use proto::peer::NodeId;

use crate::fabric::dump::Dump;
use crate::fabric::peers::Handler;

/// Largest number of events that wait for the thread.
const INBOX_SIZE: usize = 16 << 10;

/// An event for the thread.
pub(crate) enum DriverEvent {
    /// A heartbeat message from another node.
    Heartbeat(Vec<u8>),
    /// A fabric message about the cluster.
    Message { from: NodeId, bytes: Vec<u8> },
    /// All records of an emigration are sent and acknowledged.
    RecordsSent { emigration_id: u32 },
    /// All writes have ended in a partition that is handed over.
    HandedOver { emigration_id: u32 },
    /// `recluster`.
    Recluster,
    /// `quiesce`, or `quiesce-undo`.
    Quiesce(bool),
    /// The node is about to stop, and others are to take its partitions over.
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
    /// Makes an empty inbox; returns its sending and its receiving end.
    pub(super) fn new() -> (Self, Receiver<DriverEvent>) {
        let (sender, receiver) = bounded(INBOX_SIZE);
        (DriverInbox(sender), receiver)
    }

    /// Posts an event to the cluster thread; returns false if its inbox is full.
    pub(crate) fn tell(&self, event: DriverEvent) -> bool {
        self.0.try_send(event).is_ok()
    }

    /// Tells the cluster thread to end, once there is room in its inbox.
    pub(crate) fn stop(&self) {
        // A thread that has ended need not be told.
        let _ = self.0.send(DriverEvent::Stop);
    }
}

impl Handler for DriverInbox {
    fn take(&self, from: NodeId, message: &[u8]) {
        self.tell(DriverEvent::Message { from, bytes: message.to_vec() });
    }
}

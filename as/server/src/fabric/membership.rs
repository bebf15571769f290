//! Membership: the parts of a node that is in a cluster with others. They are started and stopped together.

use std::io;
use std::sync::Arc;

use cf::threads::Handle;
use parking_lot::Mutex;
use proto::peer::MessageType;

use super::driver::{Driver, DriverEvent, DriverInbox, Surroundings};
use super::metadata::{MetadataInbox, MetadataThread};
use super::network::Fabric;
use super::peers::Handlers;
use super::records::RecordMover;
use crate::heartbeat::{Heartbeat, HeartbeatSockets};
use crate::tls::PeerDoor;

/// The parts of a node that looks for others.
pub(crate) struct Membership {
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) heartbeat: Arc<Heartbeat>,
    inbox: DriverInbox,
    mover: Arc<dyn RecordMover>,
    metadata: MetadataInbox,
    threads: Mutex<Vec<Handle>>,
}

impl Membership {
    /// Starts all threads, so that other nodes hear of this one. `handlers` take the messages about records.
    ///
    /// # Errors
    /// When the system refuses a thread or file descriptor.
    pub(crate) fn start(
        around: Surroundings,
        fabric_doors: Vec<PeerDoor>,
        sockets: HeartbeatSockets,
        mut handlers: Handlers,
    ) -> io::Result<Self> {
        let (fabric, heartbeat) = (Arc::clone(&around.fabric), Arc::clone(&around.heartbeat));
        let mover = Arc::clone(&around.mover);
        let metadata_thread = MetadataThread::new(&around.smd, &fabric, &around.modules);
        let metadata = metadata_thread.inbox();
        handlers.add(MessageType::Smd, Arc::new(metadata.clone()));
        let driver = Driver::new(around, metadata.clone());
        let inbox = driver.inbox();
        driver.handle(&mut handlers);
        fabric.start(fabric_doors, handlers)?;
        let threads = vec![metadata_thread.start()?, driver.start()?];
        let to_driver = inbox.clone();
        let deliver = Box::new(move |message| _ = to_driver.tell(DriverEvent::Heartbeat(message)));
        heartbeat.start(sockets, deliver)?;
        Ok(Membership { fabric, heartbeat, inbox, mover, metadata, threads: Mutex::new(threads) })
    }

    /// Posts an event to the cluster thread; returns false if its inbox is full.
    pub(crate) fn tell(&self, event: DriverEvent) -> bool {
        self.inbox.tell(event)
    }

    /// Applies a change of `migrate-threads`.
    pub(crate) fn resize_migration(&self) {
        self.mover.resize();
    }

    /// Tells other nodes that this one is gone, and stops all threads.
    pub(crate) fn stop(&self) {
        self.inbox.stop();
        self.metadata.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let _ = thread.join();
        }
        // The heartbeat thread handles this after the last pulse, which the cluster thread has posted before.
        self.heartbeat.stop();
        self.mover.stop();
        self.fabric.stop();
    }
}

//! The service threads together, and over how many of them the connections are spread.
//!
//! # Invariants
//! - Each connection has a number and so a home: the thread at that number modulo the width. A thread that hears from a
//!   connection that belongs elsewhere sends it there, unless something of it is under way. So a change of the width costs
//!   nothing for connections that are idle.
//! - Members only get more. Beyond the width they have nothing to do and sleep.
//!
//! # Threads
//! One thread of its own looks ten times a second what the members do and changes the width. It also starts further members
//! when `service-threads` is raised; a lower one only limits the width.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed};
use std::time::{Duration, Instant};

use cf::sys::facts::IdleMeter;
use cf::threads;
use parking_lot::{Mutex, RwLock};

use super::activity::{Activity, Deeds, Meter};
use super::mailbox::{Mail, Mailbox};
use super::width::{Chooser, Look};

/// How often the crew's thread looks.
const PERIOD: Duration = Duration::from_millis(100);

/// What the crew knows of a service thread.
struct Member {
    mailbox: Arc<Mailbox>,
    activity: Arc<Activity>,
}

/// All service threads.
pub(crate) struct Crew {
    members: RwLock<Vec<Member>>,
    handles: Mutex<Vec<threads::Handle>>,
    /// Connections belong to the first so many members.
    width: AtomicUsize,
}

impl Crew {
    /// A crew without members yet.
    pub(crate) fn new() -> Self {
        Crew { members: RwLock::default(), handles: Mutex::default(), width: AtomicUsize::new(1) }
    }

    /// Adds a service thread.
    pub(super) fn add(&self, mailbox: Arc<Mailbox>, activity: Arc<Activity>, handle: threads::Handle) {
        self.members.write().push(Member { mailbox, activity });
        self.handles.lock().push(handle);
    }

    /// Number of service threads, with or without connections.
    pub(crate) fn size(&self) -> usize {
        self.members.read().len()
    }

    /// The position of the thread that connection `number` belongs to.
    pub(super) fn home_of(&self, number: u64) -> usize {
        (number % self.width.load(Relaxed) as u64) as usize
    }

    /// Gives a connection, or what is for it, to the thread at a position.
    pub(super) fn post(&self, position: usize, mail: Mail) {
        if let Some(member) = self.members.read().get(position) {
            member.mailbox.post(mail);
        }
    }

    /// Spreads connections over the first `width` members from now on.
    pub(crate) fn spread(&self, width: usize) {
        self.width.store(width.clamp(1, self.size().max(1)), Relaxed);
    }

    #[cfg(test)]
    pub(super) fn width(&self) -> usize {
        self.width.load(Relaxed)
    }

    /// How many requests each member has carried out.
    #[cfg(test)]
    pub(super) fn request_counts(&self) -> Vec<u64> {
        self.members.read().iter().map(|member| member.activity.request_count()).collect()
    }

    /// Ends all service threads; those who add members and change the width have ended before.
    pub(crate) fn stop(&self) {
        self.members.read().iter().for_each(|member| member.mailbox.post(Mail::Stop));
        for handle in self.handles.lock().drain(..) {
            // One that panicked has logged it.
            let _ = handle.join();
        }
    }

    /// Body of the crew's thread; ends once `stopping` is set and the thread is unparked. `start_member` adds a member;
    /// `wanted` is the configured number of them.
    pub(crate) fn run(
        &self,
        stopping: &AtomicBool,
        wanted: impl Fn() -> usize,
        start_member: impl Fn(usize) -> io::Result<()>,
    ) {
        let mut watch = Watch::new();
        loop {
            std::thread::park_timeout(PERIOD);
            if stopping.load(Acquire) {
                return;
            }
            while self.size() < wanted() {
                if let Err(error) = start_member(self.size()) {
                    cf::warning_limited!(Service, "cannot start another service thread: {error}");
                    break;
                }
            }
            let limit = wanted().min(self.size());
            let width = self.width.load(Relaxed);
            let next = watch.next_width(&self.members.read(), width, limit);
            if next != width {
                cf::detail!(Service, "connections spread over {next} of {limit} service threads");
                self.spread(next);
            }
        }
    }
}

/// Looks at all members from time to time.
struct Watch {
    meters: Vec<Meter>,
    idle: IdleMeter,
    chooser: Chooser,
    last: Instant,
}

impl Watch {
    fn new() -> Self {
        Watch {
            meters: Vec::new(),
            idle: IdleMeter::default(),
            chooser: Chooser::new(),
            last: Instant::now(),
        }
    }

    /// The width that follows from what `members` did since the last look.
    fn next_width(&mut self, members: &[Member], width: usize, limit: usize) -> usize {
        let now = Instant::now();
        let period = now - std::mem::replace(&mut self.last, now);
        self.meters.resize_with(members.len(), Meter::default);
        let deeds: Vec<Deeds> = self
            .meters
            .iter_mut()
            .zip(members)
            .map(|(meter, member)| meter.look(&member.activity, now))
            .collect();
        let look = Look::new(&deeds, period);
        self.chooser.choose(width, limit, &look, || self.idle.look())
    }
}

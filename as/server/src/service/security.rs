//! The security threads, which answer requests of the security protocol.
//!
//! Logins that need a slow hash wait for separate threads, in a queue in which all origins take turns.
//! Therefore guessing passwords over many connections delays neither logins with a remembered credential or a
//! token, nor first logins from elsewhere. One thread makes changes of users and roles, which wait for the
//! disk and for other nodes, because they are made one at a time.
//!
//! A panic costs the request that was being answered, and closes its connection.
//!
//! # Locks
//! `waiting` is taken alone and briefly.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::requests::SecurityRequest;
use crate::security::{AccessControl, Peer, SecurityWork, origin};
use crate::workers::Workers;

/// Number of threads that answer at once, and also of those that verify passwords.
const THREADS: usize = 2;
/// Nice value that verifying threads add to that of service threads.
const NICENESS: i32 = 5;

/// Waiting requests, by origin.
struct Line<K, R> {
    waiting: HashMap<K, VecDeque<R>>,
    /// The order of turns. Each origin is in it once.
    turns: VecDeque<K>,
}

impl<K: Copy + Eq + Hash, R> Line<K, R> {
    fn new() -> Self {
        Line { waiting: HashMap::new(), turns: VecDeque::new() }
    }

    fn push(&mut self, from: K, request: R) {
        let waiting = self.waiting.entry(from).or_default();
        if waiting.is_empty() {
            self.turns.push_back(from);
        }
        waiting.push_back(request);
    }

    fn pop(&mut self) -> Option<R> {
        let from = self.turns.pop_front()?;
        let waiting = self.waiting.get_mut(&from)?;
        let request = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&from);
        } else {
            self.turns.push_back(from);
        }
        request
    }
}

/// Signals that a request in the queue is to be answered.
struct Turn;

/// The threads and the requests that wait for them.
pub(crate) struct SecurityWorkers {
    quick: Workers<SecurityRequest>,
    changing: Arc<Workers<SecurityRequest>>,
    verifying: Arc<Workers<Turn>>,
    waiting: Arc<Mutex<Line<IpAddr, SecurityRequest>>>,
}

fn answer(access: &AccessControl, request: SecurityRequest) {
    if request.reply.is_client_gone() {
        return;
    }
    let SecurityRequest { body, session, certificate_name, client, reply } = request;
    let peer = Peer { address: client, certificate_name: certificate_name.as_deref() };
    reply.send(access.answer(&body, &session, &peer));
}

impl SecurityWorkers {
    /// Makes a pool without threads. Requests may already be submitted.
    pub(crate) fn new() -> Self {
        SecurityWorkers {
            quick: Workers::new("security"),
            changing: Arc::new(Workers::new("user-change")),
            verifying: Arc::new(Workers::with_niceness("password", NICENESS)),
            waiting: Arc::new(Mutex::new(Line::new())),
        }
    }

    /// Passes a request to a thread.
    pub(super) fn submit(&self, request: SecurityRequest) {
        self.quick.submit(request);
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses one.
    pub(crate) fn start(&self, access: &Arc<AccessControl>) -> io::Result<()> {
        let own = Arc::clone(access);
        self.changing.start(1, move || {
            let access = Arc::clone(&own);
            Some(Box::new(move |request| {
                cf::fault_point!("user-change");
                answer(&access, request);
            }))
        })?;
        let (own, waiting) = (Arc::clone(access), Arc::clone(&self.waiting));
        self.verifying.start(THREADS, move || {
            let (access, waiting) = (Arc::clone(&own), Arc::clone(&waiting));
            Some(Box::new(move |Turn| {
                let next = waiting.lock().pop();
                cf::fault_point!("password");
                next.into_iter().for_each(|request| answer(&access, request));
            }))
        })?;
        let (own, waiting) = (Arc::clone(access), Arc::clone(&self.waiting));
        let (changing, verifying) = (Arc::clone(&self.changing), Arc::clone(&self.verifying));
        self.quick.start(THREADS, move || {
            let (access, waiting) = (Arc::clone(&own), Arc::clone(&waiting));
            let (changing, verifying) = (Arc::clone(&changing), Arc::clone(&verifying));
            Some(Box::new(move |request: SecurityRequest| {
                cf::fault_point!("security");
                match access.work_of(&request.body, request.client) {
                    SecurityWork::Look => answer(&access, request),
                    SecurityWork::Change => changing.submit(request),
                    SecurityWork::Verification => {
                        waiting.lock().push(origin(request.client.ip()), request);
                        verifying.submit(Turn);
                    }
                }
            }))
        })
    }

    /// Ends the threads after they have answered the submitted requests.
    pub(crate) fn stop(&self) {
        self.quick.stop();
        self.changing.stop();
        self.verifying.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_its_turn() {
        let mut line = Line::new();
        (0..5).for_each(|number| line.push('a', ('a', number)));
        line.push('b', ('b', 0));
        (0..2).for_each(|number| line.push('c', ('c', number)));
        let order: Vec<_> = std::iter::from_fn(|| line.pop()).collect();
        let expected = [('a', 0), ('b', 0), ('c', 0), ('a', 1), ('c', 1), ('a', 2), ('a', 3), ('a', 4)];
        assert_eq!(order, expected);
        assert!(line.waiting.is_empty() && line.turns.is_empty(), "nothing is kept");
        line.push('a', ('a', 9));
        assert_eq!((line.pop(), line.pop()), (Some(('a', 9)), None));
    }
}

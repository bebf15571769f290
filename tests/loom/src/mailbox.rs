//! The doorbell of a service thread's mailbox: no mail stays in the box while the thread sleeps.

use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::doorbell::{Doorbell, Wake};
use crate::explore;

/// An eventfd, and a thread that waits for its signals.
#[derive(Default)]
struct Eventfd {
    is_signaled: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Eventfd {
    fn signal(&self) {
        *self.is_signaled.lock().expect("no thread panics") = true;
        self.changed.notify_all();
    }
}

impl Eventfd {
    fn wait(&self) {
        let mut is_signaled = self.is_signaled.lock().expect("no thread panics");
        while !*is_signaled {
            is_signaled = self.changed.wait(is_signaled).expect("no thread panics");
        }
        *is_signaled = false;
    }
}

/// A mailbox with a slot for each mail. Access to the slots imposes no order, so that only the doorbell does.
struct Mailbox {
    slots: Vec<AtomicBool>,
    bell: Doorbell<Eventfd>,
}

/// Checks that every mail is seen. `mails` has the number of mails of each sender, which posts them one after
/// another.
fn every_mail_is_seen(mails: &'static [usize], preemptions: usize) {
    explore(preemptions, move || {
        let count = mails.iter().sum();
        let slots = (0..count).map(|_| AtomicBool::new(false)).collect();
        let mailbox = Arc::new(Mailbox { slots, bell: Doorbell::new(Eventfd::default()) });
        let mut first = 0;
        for sent in mails {
            let (mailbox, slots) = (Arc::clone(&mailbox), first..first + sent);
            first += sent;
            thread::spawn(move || {
                for slot in slots {
                    mailbox.slots[slot].store(true, Relaxed);
                    mailbox.bell.ring();
                }
            });
        }
        let mut seen = vec![false; count];
        while seen.contains(&false) {
            mailbox.bell.wake().wait();
            mailbox.bell.silence();
            for (slot, seen) in mailbox.slots.iter().zip(&mut seen) {
                *seen |= slot.load(Relaxed);
            }
        }
    });
}

#[test]
fn mail_that_is_posted_while_the_thread_looks_is_seen() {
    every_mail_is_seen(&[3], 4);
}

#[test]
fn mail_of_senders_that_overlap_is_seen() {
    every_mail_is_seen(&[1, 1], 4);
    every_mail_is_seen(&[1, 2], 3);
}

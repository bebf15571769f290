//! Sending replies: at once, or, if they must wait, when they are released.
//!
//! With `commit-to-device` a reply waits until its records are on disk. Its thread does not wait: it *holds*
//! the replies of that connection, which leave the outbox, and continues with other connections. The thread
//! that flushes the records then posts the replies back to this thread. Until then no further request of the
//! connection is carried out, and replies from other threads wait behind. Thus each connection gets its
//! replies in the order of its requests.
//!
//! The replies of a single connection are sent by the thread that releases them: the flush thread of a disk,
//! or the fabric thread that receives the last acknowledgement of a replica. The mail about that usually
//! [wakes no thread](super::release_watch).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::KEEP_SIZE_MAX;
use super::connection::Connection;
use super::delivery::ConnectionToken;
use super::event_loop::{ServiceThread, Verdict};
use super::held_parts::HeldParts;
use super::mailbox::Mail;
use super::outbox::Outbox;
use crate::transaction::Unsettled;

impl ServiceThread {
    /// Sends each connection its replies, except those that must be held.
    pub(super) fn send_replies(&mut self) {
        self.checkpoint = None;
        let mut outbox = std::mem::take(&mut self.outbox);
        if self.executor.has_unsettled() {
            self.hold_some(&mut outbox);
        }
        // A large reply to one connection is not copied if the socket does not take it.
        let is_one = outbox.part_count() == 1 && outbox.replies.len() > KEEP_SIZE_MAX;
        for part in 0..outbox.part_count() {
            let (token, range) = outbox.part(part);
            let sent = catch_unwind(AssertUnwindSafe(|| {
                if is_one && range.len() == outbox.replies.len() {
                    let replies = std::mem::take(&mut outbox.replies);
                    return self.send(token, |connection| connection.send_owned(replies));
                }
                self.send(token, |connection| connection.send(&outbox.replies[range.clone()]))
            }));
            let verdict = sent.unwrap_or_else(|_| {
                cf::critical!(Tsvc, "sending replies failed on an internal error; the connection is closed");
                Verdict::Close
            });
            if verdict == Verdict::Close
                && let Some(slot) = self.connections.slot_of(token)
            {
                self.close(slot);
            }
        }
        outbox.clear();
        self.outbox = outbox;
        self.large_reply = None;
    }

    fn send(
        &mut self,
        token: ConnectionToken,
        send: impl FnOnce(&mut Connection) -> io::Result<()>,
    ) -> Verdict {
        cf::fault_point!("send");
        match self.find(token).map(send) {
            Some(Err(_)) => Verdict::Close,
            Some(Ok(())) | None => Verdict::Keep,
        }
    }

    /// Removes the replies that must not be sent yet from `outbox`. If that fails, no reply is sent, because
    /// it is unknown which of them may be.
    fn hold_some(&mut self, outbox: &mut Outbox) {
        let tokens: Vec<ConnectionToken> = outbox.tokens().collect();
        let held = catch_unwind(AssertUnwindSafe(|| self.hold_unsettled(outbox)));
        if held.is_err() {
            cf::critical!(Tsvc, "holding replies failed on an internal error; their connections are closed");
            self.executor.forget_unsettled(0);
            for token in tokens {
                if let Some(slot) = self.connections.slot_of(token) {
                    self.close(slot);
                }
            }
            outbox.clear();
        }
    }

    /// Removes the unsettled replies from `outbox`. They are posted back when they are settled.
    fn hold_unsettled(&mut self, outbox: &mut Outbox) {
        let unsettled = self.executor.take_unsettled();
        let (mut held, mut rest) = (Vec::with_capacity(unsettled.len()), &unsettled[..]);
        let connections = &mut self.connections;
        let parts = outbox.split_off(|token, range, to| {
            cf::fault_point!("hold");
            // Both lists are in the order in which the replies were made.
            let (own, behind) = rest.split_at(rest.partition_point(|entry| entry.result_at < range.end));
            rest = behind;
            let connection = connections.slot_of(token).and_then(|slot| connections.get(slot));
            // Replies for a connection that is gone are dropped.
            let Some(connection) = connection else { return false };
            if own.is_empty() && !connection.is_held {
                return false;
            }
            connection.is_held = true;
            held.extend(own.iter().map(|entry| entry.moved(range.start, to)));
            true
        });
        let transactions = self.executor.take_held();
        let room = self.large_reply.take();
        let connection = match parts.part_count() {
            1 => self
                .find(parts.part(0).0)
                .filter(|connection| connection.is_clear() && !connection.is_blocked()),
            _ => None,
        };
        let socket = connection.as_ref().map(|connection| Arc::clone(&connection.stream));
        let watch = connection.filter(|connection| room.is_none() && connection.has_nothing_to_do());
        let watch = watch.map(|connection| Arc::clone(connection.release_watch.insert(Arc::default())));
        let held_parts = HeldParts { outbox: parts, transactions, room, socket, sent: 0, watch };
        self.post_when_settled(held_parts, &held);
    }

    fn post_when_settled(&self, mut held: HeldParts, unsettled: &[Unsettled]) {
        let (mailbox, context) = (Arc::clone(&self.mailbox), Arc::clone(self.executor.context()));
        let replies = std::mem::take(&mut held.outbox.replies);
        self.executor.hold(replies, unsettled, move |replies| {
            held.outbox.replies = replies;
            let watch = held.send_directly(&context);
            let mail = Mail::Released(Box::new(held));
            let Some(watch) = watch else { return mailbox.post(mail) };
            mailbox.post_quietly(mail);
            if watch.release() {
                mailbox.bell.ring();
            }
        });
    }

    /// Sends held replies, and resumes their connections.
    pub(super) fn release(&mut self, held: HeldParts) {
        let HeldParts { outbox, mut transactions, room, mut sent, .. } = held;
        for part in 0..outbox.part_count() {
            let (token, range) = outbox.part(part);
            self.guard(token, |thread, slot| {
                cf::fault_point!("release");
                let Some(connection) = thread.connections.get(slot) else { return Verdict::Keep };
                connection.last_active = thread.woken;
                let rest = &outbox.replies[range.start + std::mem::take(&mut sent)..range.end];
                if !rest.is_empty() && connection.send(rest).is_err() {
                    Verdict::Close
                } else {
                    Verdict::Keep
                }
            });
        }
        drop(room);
        outbox.tokens().for_each(|token| self.go_on_after_held(token));
        transactions.end(self.executor.context(), Instant::now());
    }

    /// Resumes a connection whose held replies are sent, unless it is already resumed.
    fn go_on_after_held(&mut self, token: ConnectionToken) {
        let Some(connection) = self.find(token).filter(|connection| connection.is_held) else { return };
        connection.is_held = false;
        connection.release_watch = None;
        let behind = std::mem::take(&mut connection.behind_held);
        self.guard(token, |thread, slot| {
            thread.ready.push(slot);
            let is_last = thread.connections.get(slot).is_some_and(|connection| connection.is_last_held);
            if is_last { Verdict::Close } else { Verdict::Keep }
        });
        behind.into_iter().for_each(|delivery| self.take_up(token, delivery));
    }

    /// Closes a connection after its held replies are sent.
    pub(super) fn close_behind_held(&mut self, slot: u32) {
        match self.connections.get(slot) {
            Some(connection) if connection.is_held => {
                connection.is_last_held = true;
                self.want_release(slot);
            }
            _ => self.close(slot),
        }
    }

    /// Notes that something of a connection waits until its held replies are sent.
    pub(super) fn want_release(&mut self, slot: u32) {
        let watch = self.connections.get(slot).and_then(|connection| connection.release_watch.as_ref());
        if watch.is_some_and(|watch| watch.want()) {
            // The mail about the release is there, but its signal was omitted.
            self.mailbox.bell.ring();
        }
    }
}

//! Parked connections: other threads make their next reply, or many replies, and send them through the
//! mailbox.
//!
//! A parked connection is not read. The thread that has taken over its request holds a [`ReplyHandle`] or a
//! [`ReplyStream`]. If that is dropped without a last reply, for example by a panic, the connection is
//! closed, so that no client waits for ever.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use datamodel::Budget;
use proto::ResultCode;
use proto::frame;
use proto::message::Request;

use super::delivery::{ConnectionToken, Delivery};
use super::event_loop::{ServiceThread, Verdict};
use super::reply_budget::Charge;
use super::reply_handle::ReplyHandle;
use super::requests::{InfoRequest, SecurityRequest};
use super::stream::ReplyStream;
use crate::namespace::Namespace;
use crate::query::Requester;
use crate::security::Permit;
use crate::transaction::INLINE_STEPS;

/// How long the client of a query may leave replies unread, if the query is too large to be checked at once.
const CHECK_TIME_MAX: Duration = Duration::from_secs(10);

impl ServiceThread {
    /// Parks a connection for a reply that another thread makes.
    pub(super) fn park(&mut self, slot: u32, token: ConnectionToken) -> ReplyHandle {
        let mut presence = Weak::new();
        if let Some(connection) = self.connections.get(slot) {
            connection.is_parked = true;
            presence = Arc::downgrade(connection.presence.get_or_insert_default());
            if connection.peer_is_done {
                connection.note_peer_is_done();
            }
        }
        ReplyHandle::new(&self.mailbox, token, presence)
    }

    /// Parks a connection for replies that other threads make one after the other. `timeout` limits how long
    /// the client may leave them unread.
    pub(super) fn park_for_stream(
        &mut self,
        slot: u32,
        token: ConnectionToken,
        timeout: Option<Duration>,
    ) -> Option<Arc<ReplyStream>> {
        let connection = self.connections.get(slot)?;
        let (stream, progress) = {
            let (mailbox, stalled) = (Arc::clone(&self.mailbox), Arc::clone(&self.context.queries.stalled));
            ReplyStream::new(mailbox, token, timeout, &self.context.replies, stalled)
        };
        if connection.peer_is_done {
            progress.peer_is_done();
        }
        connection.stream_of_replies = Some(progress);
        connection.is_parked = true;
        Some(Arc::new(stream))
    }

    /// Passes an info request to the info threads.
    pub(super) fn start_info(&mut self, slot: u32, token: ConnectionToken, body: &[u8]) {
        let Some(connection) = self.connections.get(slot) else { return };
        let (access, client) = (connection.access(), connection.peer);
        let reply = self.park(slot, token);
        cf::fault_point!("start-info");
        self.context.info.submit(InfoRequest {
            body: body.into(),
            received: Instant::now(),
            access,
            client,
            reply,
            answered: 0,
            answers: Vec::new(),
            charge: Charge::new(&self.context.replies),
        });
    }

    /// Passes a request of the security protocol to the security threads. Without access control, answers
    /// with an error.
    pub(super) fn start_security(&mut self, slot: u32, token: ConnectionToken, body: &[u8]) {
        let Some(connection) = self.connections.get(slot) else { return };
        let Some(session) = connection.access() else {
            return frame::write_security_not_enabled(&mut self.outbox.replies);
        };
        let (client, certificate_name) = (connection.peer, connection.certificate_name.clone());
        let reply = self.park(slot, token);
        if let Some(workers) = &self.context.security {
            workers.submit(SecurityRequest { body: body.into(), session, certificate_name, client, reply });
        }
    }

    /// Answers a query at once, or starts it and parks its connection until the query has ended. Returns
    /// whether the connection is parked.
    pub(super) fn start_query(
        &mut self,
        slot: u32,
        token: ConnectionToken,
        (request, body): (&Request<'_>, &[u8]),
        namespace: &Arc<Namespace>,
        permit: Option<Permit>,
    ) -> Result<bool, ResultCode> {
        let Some(address) = self.connections.get(slot).map(|connection| connection.peer) else {
            return Ok(false);
        };
        let mut requester = Requester { address, permit };
        let budget = Budget::new(INLINE_STEPS);
        let parsed = self.context.queries.parse(request, body, namespace, &mut requester, &budget);
        let mut query = if budget.is_exhausted() { None } else { Some(Box::new(parsed?)) };
        let compressor = self.compressor_of(request);
        if compressor.is_none()
            && let Some(own) = query.take()
        {
            match self.context.queries.answer_inline(own, address) {
                Ok(answer) => {
                    self.outbox.replies.extend_from_slice(&answer);
                    return Ok(false);
                }
                Err(own) => query = Some(own),
            }
        }
        let timeout = query.as_ref().map_or(Some(CHECK_TIME_MAX), |query| query.socket_timeout);
        let Some(stream) = self.park_for_stream(slot, token, timeout) else { return Ok(false) };
        compressor.into_iter().for_each(|compressor| stream.compress_by(compressor));
        stream.end_with_peer();
        cf::fault_point!("start-query");
        let sink = Arc::<ReplyStream>::clone(&stream);
        let queries = &self.context.queries;
        let started = match query {
            Some(query) => queries.start(*query, requester, sink),
            None => queries.parse_and_start(body.into(), Arc::clone(namespace), requester, sink),
        };
        let refused = started.inspect_err(|_| {
            stream.cancel();
            if let Some(connection) = self.connections.get(slot) {
                connection.stream_of_replies = None;
                connection.is_parked = false;
            }
        });
        refused.map(|()| true)
    }

    /// Sends a parked connection some of its replies.
    pub(super) fn deliver_part(&mut self, token: ConnectionToken, replies: Vec<u8>) {
        self.guard(token, |thread, slot| {
            let Some(connection) = thread.connections.get(slot) else { return Verdict::Keep };
            if connection.is_held {
                connection.behind_held.push(Delivery::Part(replies));
                return Verdict::Keep;
            }
            cf::fault_point!("deliver-part");
            connection.last_active = thread.woken;
            if connection.send_owned(replies).is_err() { Verdict::Close } else { Verdict::Keep }
        });
    }

    /// Sends a parked connection its last reply and resumes it.
    pub(super) fn deliver(&mut self, token: ConnectionToken, reply: Vec<u8>) {
        self.guard(token, |thread, slot| {
            let Some(connection) = thread.connections.get(slot) else { return Verdict::Keep };
            if connection.is_held {
                connection.behind_held.push(Delivery::Reply(reply));
                return Verdict::Keep;
            }
            cf::fault_point!("deliver");
            connection.is_parked = false;
            connection.inflated_room = None;
            if let Some(stream) = connection.stream_of_replies.take() {
                stream.end();
                connection.count_kept();
            }
            connection.last_active = thread.woken;
            if connection.send_owned(reply).is_err() {
                return Verdict::Close;
            }
            thread.ready.push(slot);
            Verdict::Keep
        });
    }

    /// Closes a parked connection that will get no reply.
    pub(super) fn close_abandoned(&mut self, token: ConnectionToken) {
        self.guard(token, |thread, slot| match thread.connections.get(slot) {
            Some(connection) if connection.is_held => {
                connection.behind_held.push(Delivery::Abandoned);
                Verdict::Keep
            }
            _ => Verdict::Close,
        });
    }
}

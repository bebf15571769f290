//! Parks requests that have to wait: each is put into the table of what it waits for, and runs again in the pool when
//! the wait ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ResultCode;
use proto::message::Request;

use super::context::TransactionContext;
use super::duplicates::Asker;
use super::replicas::NotInLine;
use super::resent::SentFor;
use super::wait::{OwnedRequest, ROOM_WAIT_MAX, RecordKey, Wait};
use crate::metrics::NamespaceCounter;
use crate::storage::RoomWait;

impl TransactionContext {
    /// Runs a request again from its start after the wait.
    pub(crate) fn restart(self: &Arc<Self>, wait: Wait, mut request: OwnedRequest) {
        // The next request in line gets the lock turn meanwhile.
        request.end_lock_turn();
        request.has_lost |= matches!(wait, Wait::Reservation(_));
        let resumed = match wait {
            Wait::Pool | Wait::Fetched => Err(request),
            Wait::Lock(key) => return self.pool.lock_lines.join(key, request),
            Wait::Record(key) | Wait::Reservation(key) => self.waits.park(&key, request).or_else(|request| {
                if request.has_turn() { Err(request) } else { self.join_line(&key, request) }
            }),
            Wait::Room(_) | Wait::Disk { .. } => return self.put_off(wait, request),
            Wait::Duplicates(key) => {
                let parsed = Request::parse(&request.body).ok();
                let Some(sent_for) = parsed.map(|parsed| SentFor::of(&parsed, request.origin)) else {
                    return;
                };
                return self.duplicates.ask(self, key, sent_for, Asker::Request(request));
            }
            Wait::ReplyRoom(size) => return self.wait_for_reply_room(size, request),
            Wait::OtherNode(node) => {
                if !request.sink.send_back(node) {
                    self.passed_on.pass_on(self, node, request);
                }
                return;
            }
            Wait::Hold => return self.passed_on.put_off(self, request),
        };
        if let Err(request) = resumed {
            self.submit_to_pool(request);
        }
    }

    /// Queues a request for its turn to write a record while another write of it is on its way, unless too many wait.
    /// Returns the request if there is no such write any more.
    fn join_line(&self, key: &RecordKey, request: OwnedRequest) -> Result<(), OwnedRequest> {
        let namespace = &self.namespaces[key.namespace];
        let limit = namespace.config().params.transaction_pending_limit.get();
        match self.replicas.park(key, request, limit) {
            Ok(()) => Ok(()),
            Err(NotInLine::Free(request)) => Err(request),
            Err(NotInLine::Full(request)) => {
                namespace.metrics.add(NamespaceCounter::FailKeyBusy, 1);
                let mut reply = Vec::new();
                self.answer_late(&request, ResultCode::KeyBusy, &mut reply);
                request.sink.finish(reply);
                Ok(())
            }
        }
    }

    /// Resumes `waiting` after `wait`, which is for a device. If too many requests wait for the device, `waiting`
    /// resumes at once and may not wait again.
    pub(super) fn wait_for_device(&self, wait: Wait, waiting: RoomWait) {
        let refused = match wait {
            Wait::Room(key) => self.namespaces[key.namespace].storage.when_room(&key.digest, waiting).err(),
            Wait::Disk { namespace, device } => {
                self.namespaces[namespace].storage.when_readable(device, waiting).err()
            }
            _ => unreachable!("no wait for a device: {wait:?}"),
        };
        if let Some(refused) = refused {
            (refused.resume)(false);
        }
    }

    /// Runs a request again after `wait`, which is for its device. At its deadline it runs anyway, and may not wait
    /// again.
    fn put_off(self: &Arc<Self>, wait: Wait, mut request: OwnedRequest) {
        let since = Instant::now();
        let own_ms = Request::parse(&request.body).map_or(0, |parsed| parsed.transaction_ttl_ms);
        let deadline = match own_ms {
            0 => since + ROOM_WAIT_MAX.saturating_sub(request.waited),
            ms => request.received + Duration::from_millis(ms.into()),
        };
        let (size, has_waited) = (request.body.len(), !request.waited.is_zero());
        let context = Arc::clone(self);
        let resume = move |may_wait| {
            request.waited += since.elapsed();
            request.may_wait = may_wait;
            context.submit_to_pool(request);
        };
        self.wait_for_device(wait, RoomWait { size, deadline, has_waited, resume: Box::new(resume) });
    }

    /// Runs a request again when there is room for its reply of at most `size` bytes. If there is none until its
    /// deadline, the answer is a timeout.
    fn wait_for_reply_room(self: &Arc<Self>, size: usize, mut request: OwnedRequest) {
        let since = Instant::now();
        let deadline = match Request::parse(&request.body) {
            Ok(parsed) if parsed.transaction_ttl_ms != 0 => self.deadline_of(&parsed, &request),
            _ => since + ROOM_WAIT_MAX.saturating_sub(request.waited),
        };
        let (context, sink) = (Arc::clone(self), Arc::clone(&request.sink));
        let go_on = move |has_room| {
            request.waited += since.elapsed();
            if has_room {
                return context.submit_to_pool(request);
            }
            let mut reply = Vec::new();
            context.answer_late(&request, ResultCode::Timeout, &mut reply);
            request.sink.finish(reply);
        };
        sink.when_room(size, deadline, Box::new(go_on));
    }
}

//! Commands of the server itself for single records, as background queries issue them. They run like those of
//! clients, on the thread that issues them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;
use proto::ResultCode;
use proto::frame::HEADER_SIZE;
use proto::message::Request;

use super::base::limit_of;
use super::call::{Call, Place};
use super::filter::CompiledFilter;
use super::wait::{Patience, ROOM_WAIT_MAX};
use super::workspace::Workspace;
use super::{INLINE_STEPS, RecordCheck, TransactionContext, Wait};
use crate::index::LockWait;
use crate::metrics::Origin;
use crate::namespace::{Namespace, RecordAccess};
use crate::storage::DiskCaller;

/// Offset of the result in a record message.
const RESULT_OFFSET: usize = 5;
/// Steps, of about a nanosecond each, between two checks of the clock.
const PORTION_STEPS: u64 = 1_000_000;
/// Time between checks whether there is room.
const ROOM_PERIOD: Duration = Duration::from_millis(10);

/// Time between checks whether a record that others change is free.
const RECORD_PERIOD: Duration = Duration::from_millis(1);

/// A command for one record.
pub(crate) struct SubCommand<'a> {
    pub(crate) namespace: &'a Namespace,
    /// The request to carry out. Its own digest, filter and set are ignored.
    pub(crate) request: &'a Request<'a>,
    pub(crate) digest: Digest,
    pub(crate) origin: Origin,
    pub(crate) filter: Option<&'a CompiledFilter<'a>>,
    pub(crate) check: Option<&'a dyn RecordCheck>,
}

/// Carries out the commands of one thread.
pub(crate) struct SubCommands {
    context: Arc<TransactionContext>,
    workspace: Workspace,
    /// The reply, of which only the result is used.
    reply: Vec<u8>,
}

impl SubCommands {
    pub(crate) fn new(context: Arc<TransactionContext>) -> Self {
        let workspace = Workspace::new(&context.namespaces, DiskCaller::Queries);
        SubCommands { context, workspace, reply: Vec::new() }
    }

    /// Carries out a command; returns its result.
    pub(crate) fn run(&mut self, command: &SubCommand<'_>, now: StoredMillis) -> ResultCode {
        let start = Instant::now();
        self.workspace.stopwatch.woken = start;
        let mut has_lost = false;
        loop {
            let may_wait = start.elapsed() < ROOM_WAIT_MAX && !self.context.is_stopping();
            let ran = self.attempt(command, now, (may_wait, has_lost));
            has_lost |= matches!(ran, Ok(Some(Wait::Reservation(_))));
            self.workspace.leave_sections();
            // No reply depends on this change, so nothing waits for the disk.
            self.workspace.buffers.unsettled.clear();
            match ran {
                Ok(None) => {
                    self.workspace.measure_unsent(&self.context);
                    break;
                }
                Ok(Some(Wait::Room(_) | Wait::Disk { .. })) => std::thread::sleep(ROOM_PERIOD),
                Ok(Some(Wait::Record(_) | Wait::Reservation(_))) if may_wait => {
                    std::thread::sleep(RECORD_PERIOD);
                }
                Ok(Some(Wait::Record(_) | Wait::Reservation(_))) => return ResultCode::Timeout,
                Ok(Some(Wait::Hold)) if may_wait => std::thread::sleep(ROOM_PERIOD),
                // The node that serves the partition runs the query too.
                Ok(Some(Wait::Hold | Wait::OtherNode(_))) => return ResultCode::Unavailable,
                Ok(Some(wait)) => {
                    unreachable!("what runs as in the pool waits for nothing but its device: {wait:?}")
                }
                Err(result) => return result,
            }
        }
        let code = self.reply.get(HEADER_SIZE + RESULT_OFFSET).copied();
        code.and_then(ResultCode::from_code).unwrap_or(ResultCode::Unknown)
    }

    /// Runs a command once; returns what it has to wait for.
    fn attempt(
        &mut self,
        command: &SubCommand<'_>,
        now: StoredMillis,
        (may_wait, has_lost): (bool, bool),
    ) -> Result<Option<Wait>, ResultCode> {
        let time_max = Duration::from_millis(self.context.config.service.transaction_max_ms.get());
        let limit = limit_of(command.request, time_max, Instant::now() + time_max);
        let place = Place::Pool { limit };
        // A command that needs more steps than this runs again on a copy of the record, without a lock. A command
        // whose record is reserved runs again too, because the record may be free by then.
        let short = Budget::new(INLINE_STEPS);
        let may_go_on = || !limit.is_over();
        let long = Budget::with_refill(PORTION_STEPS, &may_go_on);
        match self.run_at(command, now, (Place::Service, may_wait, has_lost), &short)? {
            Some(Wait::Pool | Wait::Record(_)) => {
                self.run_at(command, now, (place, may_wait, has_lost), &long)
            }
            done_or_device => Ok(done_or_device),
        }
    }

    /// Runs a command; returns what it has to wait for before it changes anything.
    ///
    /// # Errors
    /// When this node does not serve the partition.
    fn run_at(
        &mut self,
        command: &SubCommand<'_>,
        now: StoredMillis,
        (place, may_wait, has_lost): (Place, bool, bool),
        budget: &Budget<'_>,
    ) -> Result<Option<Wait>, ResultCode> {
        let reserved = self.workspace.reserve_partition(
            command.namespace,
            &command.digest,
            (RecordAccess::Write, place),
        );
        // The node that serves the partition runs the query too.
        let (tree_id, _reservation) = reserved.map_err(|_| ResultCode::Unavailable)?;
        let call = Call {
            context: &self.context,
            place,
            namespace: command.namespace,
            request: command.request,
            digest: command.digest,
            tree_id,
            now,
            origin: command.origin,
            filter: command.filter,
            check: command.check,
            row: None,
            budget,
            patience: Patience::new(LockWait::Sleep, may_wait, None),
            has_turn: false,
            has_lost,
        };
        self.reply.clear();
        Ok(self.workspace.run(&call, &mut self.reply))
    }
}

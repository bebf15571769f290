//! Background queries: operations that change each record found. The client hears that the query has begun, and no more.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::exp::Operation as ExpressionOperation;
use datamodel::flat::FlatRecord;
use proto::ResultCode;
use proto::message::{Request, info1, info2, info3, op_code};

use super::job::Job;
use super::request::Query;
use crate::metrics::{Operation, Origin};
use crate::transaction::filter::{self, CompiledFilter};
use crate::transaction::{RecordCheck, SubCommand, SubCommands, TransactionContext};

/// Operations that a background query may not have.
const READS: [u8; 5] =
    [op_code::READ, op_code::CDT_READ, op_code::BITS_READ, op_code::HLL_READ, op_code::EXP_READ];

/// The operations of a query.
pub(super) struct Operations {
    /// The message that they came in.
    body: Box<[u8]>,
}

impl Operations {
    /// Those of a request that was parsed from `body`.
    ///
    /// # Errors
    /// `Parameter` when there are none, or some that read, or a bad expression.
    pub(super) fn from_request(
        request: &Request<'_>,
        body: &[u8],
        budget: &Budget<'_>,
    ) -> Result<Self, ResultCode> {
        let is_write_only = request.info1 & info1::READ == 0
            && request.op_count() > 0
            && request.ops().all(|op| !READS.contains(&op.code));
        let are_valid = || {
            let mut expressions = request.ops().filter(|op| op.code == op_code::EXP_MODIFY);
            expressions.all(|op| ExpressionOperation::for_modify(op.value, budget).is_ok())
        };
        if is_write_only && are_valid() {
            Ok(Operations { body: body.into() })
        } else {
            Err(ResultCode::Parameter)
        }
    }

    /// What carries them out in a thread of `query`.
    pub(super) fn changer<'q>(
        &'q self,
        query: &'q Query,
        context: &Arc<TransactionContext>,
    ) -> Option<Changer<'q>> {
        let mut request = Request::parse(&self.body).ok()?;
        let filter = filter::compile(&request, &Budget::unlimited());
        (request.info1, request.info4, request.set) = (0, 0, None);
        request.info2 = info2::WRITE | request.info2 & info2::DURABLE_DELETE;
        request.info3 = info3::UPDATE_ONLY | request.info3 & info3::REPLACE_ONLY;
        Some(Changer { query, request, filter, commands: SubCommands::new(Arc::clone(context)) })
    }
}

/// Carries out the operations of a query, in one of its threads.
pub(super) struct Changer<'q> {
    query: &'q Query,
    request: Request<'q>,
    filter: Option<CompiledFilter<'q>>,
    commands: SubCommands,
}

impl Changer<'_> {
    /// Changes the record of `digest`, if it is still one that the query is for.
    pub(super) fn change(&mut self, digest: &Digest, job: &Job, now: StoredMillis) {
        let check = ConditionCheck(self.query);
        let command = SubCommand {
            namespace: &self.query.namespace,
            request: &self.request,
            digest: *digest,
            origin: Origin::OpsSub,
            filter: self.filter.as_ref(),
            check: self.query.condition.is_some().then_some(&check as &dyn RecordCheck),
        };
        let counter = match self.commands.run(&command, now) {
            ResultCode::Ok => &job.records_sent,
            // It went after it was found.
            ResultCode::NotFound => return,
            ResultCode::FilteredOut => &job.records_filtered_by_bins,
            _ => &job.records_failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a record that the filter kept back before it was read.
    pub(super) fn count_filtered(&self) {
        let metrics = &self.query.namespace.metrics;
        metrics.count(Origin::OpsSub, Operation::Write, ResultCode::FilteredOut);
    }
}

/// Whether a record still has what the query's index was asked for.
struct ConditionCheck<'q>(&'q Query);

impl RecordCheck for ConditionCheck<'_> {
    fn passes(&self, record: &FlatRecord<'_>, budget: &Budget<'_>) -> Result<bool, ResultCode> {
        let Some(condition) = &self.0.condition else { return Ok(true) };
        condition.matches(&self.0.namespace, record, budget)
    }
}

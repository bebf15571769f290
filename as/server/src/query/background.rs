//! Background queries: operations that change each record found. The client is only told that the query has begun.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::flat::FlatRecord;
use proto::ResultCode;
use proto::message::{Request, info2, info3};

use super::job::Job;
use super::operations::Operations;
use super::request::Query;
use crate::metrics::{Operation, Origin};
use crate::transaction::filter::{self, CompiledFilter};
use crate::transaction::{RecordCheck, SubCommand, SubCommands, TransactionContext};

/// Carries out the operations of a query, in one of its threads.
pub(super) struct Changer<'q> {
    query: &'q Query,
    origin: Origin,
    request: Request<'q>,
    filter: Option<CompiledFilter<'q>>,
    commands: SubCommands,
}

impl<'q> Changer<'q> {
    /// Prepares the operations of `query` to be carried out in a thread of it.
    pub(super) fn new(
        operations: &'q Operations,
        query: &'q Query,
        context: &Arc<TransactionContext>,
    ) -> Option<Self> {
        let mut request = Request::parse(&operations.body).ok()?;
        let filter = filter::compile(&request, &Budget::unlimited());
        (request.info1, request.info4, request.set) = (0, 0, None);
        request.info2 = info2::WRITE | request.info2 & info2::DURABLE_DELETE;
        request.info3 = info3::UPDATE_ONLY | request.info3 & info3::REPLACE_ONLY;
        let mut origin = Origin::OpsSub;
        if operations.function.is_some() {
            (request.info3, origin) = (0, Origin::UdfSub);
        }
        Some(Changer { query, origin, request, filter, commands: SubCommands::new(Arc::clone(context)) })
    }
}

impl Changer<'_> {
    /// Changes the record of `digest`, if it still matches the query.
    pub(super) fn change(&mut self, digest: &Digest, job: &Job, now: StoredMillis) {
        let check = ConditionCheck(self.query);
        let command = SubCommand {
            namespace: &self.query.namespace,
            request: &self.request,
            digest: *digest,
            origin: self.origin,
            filter: self.filter.as_ref(),
            check: self.query.condition.is_some().then_some(&check as &dyn RecordCheck),
        };
        let counter = match self.commands.run(&command, now) {
            ResultCode::Ok => &job.records_sent,
            // The record was removed after it was found.
            ResultCode::NotFound => return,
            ResultCode::FilteredOut => &job.records_filtered_by_bins,
            _ => &job.records_failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a record that the filter rejected before it was read.
    pub(super) fn count_filtered(&self) {
        let metrics = &self.query.namespace.metrics;
        let operation = if self.origin == Origin::UdfSub { Operation::Udf } else { Operation::Write };
        metrics.count(self.origin, operation, ResultCode::FilteredOut);
    }
}

/// Checks whether a record still matches the query's condition.
struct ConditionCheck<'q>(&'q Query);

impl RecordCheck for ConditionCheck<'_> {
    fn passes(&self, record: &FlatRecord<'_>, budget: &Budget<'_>) -> Result<bool, ResultCode> {
        let Some(condition) = &self.0.condition else { return Ok(true) };
        condition.matches(&self.0.namespace, record, budget)
    }
}

//! Background queries: operations that change each record found. The client is only told that the query has begun.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::exp::Operation as ExpressionOperation;
use datamodel::flat::FlatRecord;
use proto::ResultCode;
use proto::message::{Request, field, info1, info2, info3, op_code};

use super::job::Job;
use super::request::Query;
use crate::metrics::{Operation, Origin};
use crate::transaction::filter::{self, CompiledFilter};
use crate::transaction::{RecordCheck, SubCommand, SubCommands, TransactionContext};

/// Operations that a background query must not have.
const READS: [u8; 5] =
    [op_code::READ, op_code::CDT_READ, op_code::BITS_READ, op_code::HLL_READ, op_code::EXP_READ];

/// Bound of the names of modules and functions.
const FUNCTION_NAME_SIZE_MAX: usize = 128;

/// The operations of a query.
pub(super) struct Operations {
    /// The message with the operations.
    body: Box<[u8]>,
    /// Module and name of the function to apply instead of operations.
    pub(super) function: Option<(String, String)>,
}

impl Operations {
    /// The operations of a request that was parsed from `body`.
    ///
    /// # Errors
    /// `Parameter` if there are none, if some read, or if an expression is invalid.
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
            Ok(Operations { body: body.into(), function: None })
        } else {
            Err(ResultCode::Parameter)
        }
    }

    /// The function named by a request that was parsed from `body`.
    ///
    /// # Errors
    /// `Parameter` if there is none, or its name is too long.
    pub(super) fn function_from_request(request: &Request<'_>, body: &[u8]) -> Result<Self, ResultCode> {
        Ok(Operations { body: body.into(), function: Some(function_names(request)?) })
    }

    /// Prepares them to be carried out in a thread of `query`.
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
        let mut origin = Origin::OpsSub;
        if self.function.is_some() {
            (request.info3, origin) = (0, Origin::UdfSub);
        }
        Some(Changer { query, origin, request, filter, commands: SubCommands::new(Arc::clone(context)) })
    }
}

/// Module and name of the function named by a request that also has arguments for it.
///
/// # Errors
/// `Parameter` if one of the three is missing, or a name is too long.
pub(super) fn function_names(request: &Request<'_>) -> Result<(String, String), ResultCode> {
    let name = |number| {
        let name = request.field(number).filter(|name| name.len() < FUNCTION_NAME_SIZE_MAX);
        name.map(|name| String::from_utf8_lossy(name).into_owned()).ok_or(ResultCode::Parameter)
    };
    let names = (name(field::UDF_FILE)?, name(field::UDF_FUNCTION)?);
    request.field(field::UDF_ARGUMENTS).map(|_| names).ok_or(ResultCode::Parameter)
}

/// Carries out the operations of a query, in one of its threads.
pub(super) struct Changer<'q> {
    query: &'q Query,
    origin: Origin,
    request: Request<'q>,
    filter: Option<CompiledFilter<'q>>,
    commands: SubCommands,
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

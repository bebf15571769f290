//! The parts of a query request, and their checks. Clients distinguish errors by the order of the checks.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use cf::Digest;
use cf::digest::DIGEST_SIZE;
use datamodel::Budget;
use datamodel::bins::check_name;
use datamodel::exp::Filter;
use datamodel::flat::SET_NAME_SIZE_MAX;
use proto::ResultCode;
use proto::message::{Request, field, info1, info2, info3};

use super::condition::{Condition, Resume};
use super::operations::{Aggregation, Operations};
use crate::index::{PARTITION_COUNT, PartitionId, RecordMeta, SetId};
use crate::namespace::{Namespace, QueryAccess};
use crate::sindex::SecondaryIndexes;
use crate::transaction::filter;

/// Socket timeout of a request without one.
pub(super) const SOCKET_TIMEOUT_DEFAULT_MS: u32 = 10_000;
/// Longest time of a short query if the request gives none.
const SHORT_QUERY_TIME: Duration = Duration::from_secs(1);

/// The records of a namespace that a query selects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SetFilter {
    All,
    One(SetId),
    /// The set does not exist: no record.
    None,
}

impl SetFilter {
    pub(super) fn admits(self, set_id: SetId) -> bool {
        match self {
            SetFilter::All => true,
            SetFilter::One(id) => set_id == id,
            SetFilter::None => false,
        }
    }

    /// The set of all selected records, if there is one.
    pub(super) fn set_id(self) -> SetId {
        match self {
            SetFilter::One(set_id) => set_id,
            SetFilter::All | SetFilter::None => SetId::NONE,
        }
    }
}

/// A part of the query: a partition, or the rest of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) partition: PartitionId,
    pub(super) after: Option<Resume>,
}

/// The use of the selected records.
pub(super) enum QueryKind {
    /// The records are sent.
    Basic(Projection),
    /// Operations change them; the client is only told that the query has begun.
    Operations(Operations),
    /// A function computes values from them, which are sent.
    Aggregation(Aggregation),
}

/// The part of a record that is sent.
#[derive(Default)]
pub(super) struct Projection {
    pub(super) without_bins: bool,
    /// Bins to send; `None` = all. A record without any of them is not sent.
    pub(super) bins: Option<Vec<Box<[u8]>>>,
}

/// A query.
pub(crate) struct Query {
    /// The client's number of the query, or one of ours.
    pub(super) id: u64,
    pub(super) namespace: Arc<Namespace>,
    /// The set name from the client; empty = all.
    pub(super) set_name: Box<[u8]>,
    pub(super) set: SetFilter,
    pub(super) kind: QueryKind,
    /// By ascending partition, without duplicates.
    pub(super) parts: Vec<Part>,
    /// Whether the client named the partitions.
    pub(super) has_parts: bool,
    /// Which of the partitions this node reads.
    pub(super) access: QueryAccess,
    /// The index condition; `None` selects all records.
    pub(super) condition: Option<Condition>,
    /// The filter that records must pass.
    pub(super) filter: Option<Filter<'static>>,
    /// Records per second; 0 = no limit.
    pub(super) records_per_second: u32,
    /// Ends after this many records; 0 = never.
    pub(super) sample_max: u64,
    /// Longest the query may take.
    pub(super) time_max: Option<Duration>,
    /// Longest time for which the client may leave replies unread; `None` = for ever.
    pub(crate) socket_timeout: Option<Duration>,
}

impl Query {
    /// Checks a query request. `body` is the message that it was parsed from, `next_id` makes numbers for requests
    /// without one. Filters and regions draw on `budget`.
    ///
    /// # Errors
    /// The client's result instead, unless the budget is exhausted.
    pub(crate) fn from_request(
        request: &Request<'_>,
        body: &[u8],
        namespace: &Arc<Namespace>,
        indexes: &SecondaryIndexes,
        next_id: impl FnOnce() -> u64,
        budget: &Budget<'_>,
    ) -> Result<Self, ResultCode> {
        let reading = Reading { request, namespace, indexes, budget };
        let query = if request.has_field(field::UDF_FILE) {
            match request.field(field::UDF_OP) {
                Some([2]) => reading.operations(body, next_id),
                Some([1]) => reading.aggregation(next_id),
                _ => Err(ResultCode::Parameter),
            }
        } else if request.info2 & info2::WRITE != 0 {
            reading.operations(body, next_id)
        } else {
            reading.basic(next_id)
        }?;
        // Half a number is none that could be found again. Other errors come first.
        match request.field(field::JOB_ID) {
            Some(id) if id.len() < size_of::<u64>() => Err(ResultCode::Parameter),
            _ => Ok(query),
        }
    }

    /// Whether it must end within its time or fail.
    pub(super) fn is_short(&self) -> bool {
        self.time_max.is_some()
    }

    /// The parts to send, if the index alone can answer the query for a record.
    pub(super) fn asks_only_index(&self, meta: &RecordMeta) -> Option<&Projection> {
        match &self.kind {
            QueryKind::Basic(projection)
                if projection.without_bins && self.filter.is_none() && !meta.location.key_stored() =>
            {
                Some(projection)
            }
            _ => None,
        }
    }

    /// Whether its client waits for records, and not only for the start.
    pub(super) fn has_client(&self) -> bool {
        !matches!(self.kind, QueryKind::Operations(_))
    }
}

/// A request that is being checked.
struct Reading<'a> {
    request: &'a Request<'a>,
    namespace: &'a Arc<Namespace>,
    indexes: &'a SecondaryIndexes,
    budget: &'a Budget<'a>,
}

/// The selection of a query's records, and its rate.
struct QuerySubject {
    id: u64,
    set: SetFilter,
    predicate: Option<Condition>,
    records_per_second: u32,
}

impl Reading<'_> {
    fn basic(&self, next_id: impl FnOnce() -> u64) -> Result<Query, ResultCode> {
        let request = self.request;
        if request.info3 & info3::PARTITION_DONE == 0 {
            return Err(ResultCode::UnsupportedFeature);
        }
        let id = self.id(next_id);
        let set = self.set()?;
        let parts = parts(request)?;
        let predicate = self.predicate()?;
        let records_per_second = self.records_per_second()?;
        let Some(parts) = parts else { return Err(ResultCode::UnsupportedFeature) };
        let condition = predicate.map(|predicate| predicate.with_index(self, set)).transpose()?;
        let socket_timeout = self.socket_timeout()?;
        let sample_max = number(request, field::SAMPLE_MAX).map_or(Ok(0), |n| n.map(u64::from_be_bytes))?;
        let projection =
            Projection { without_bins: request.info1 & info1::GET_NO_BINS != 0, bins: bin_names(request)? };
        let filter = self.filter()?;
        Ok(Query {
            sample_max,
            time_max: short_time(request, self.namespace),
            socket_timeout,
            parts,
            has_parts: true,
            access: access_of(request),
            condition,
            filter,
            records_per_second,
            ..self.query(id, set, QueryKind::Basic(projection))
        })
    }

    fn aggregation(&self, next_id: impl FnOnce() -> u64) -> Result<Query, ResultCode> {
        let request = self.request;
        if request.info1 & info1::SHORT_QUERY != 0 {
            return Err(ResultCode::Parameter);
        }
        if request.has_field(field::FILTER_EXPRESSION) {
            return Err(ResultCode::UnsupportedFeature);
        }
        let QuerySubject { id, set, predicate, records_per_second } = self.subject(next_id)?;
        let condition = predicate.map(|predicate| predicate.with_index(self, set)).transpose()?;
        let socket_timeout = self.socket_timeout()?;
        let kind = QueryKind::Aggregation(Aggregation::from_request(request)?);
        Ok(Query { condition, records_per_second, socket_timeout, ..self.query(id, set, kind) })
    }

    fn operations(&self, body: &[u8], next_id: impl FnOnce() -> u64) -> Result<Query, ResultCode> {
        let request = self.request;
        if request.info1 & info1::SHORT_QUERY != 0 {
            return Err(ResultCode::Parameter);
        }
        let QuerySubject { id, set, predicate, records_per_second } = self.subject(next_id)?;
        let rate_max = self.namespace.config().params.background_query_max_rps.get();
        if records_per_second > rate_max {
            return Err(ResultCode::Parameter);
        }
        let condition = predicate.map(|predicate| predicate.with_index(self, set)).transpose()?;
        let filter = self.filter()?;
        let operations = if request.has_field(field::UDF_FILE) {
            Operations::function_from_request(request, body)?
        } else {
            Operations::from_request(request, body, self.budget)?
        };
        let rate = if records_per_second == 0 { rate_max } else { records_per_second };
        Ok(Query {
            condition,
            filter,
            records_per_second: rate,
            ..self.query(id, set, QueryKind::Operations(operations))
        })
    }

    /// The selection of a query that is not basic. Its set must exist.
    fn subject(&self, next_id: impl FnOnce() -> u64) -> Result<QuerySubject, ResultCode> {
        let subject = QuerySubject {
            id: self.id(next_id),
            set: self.set()?,
            predicate: self.predicate()?,
            records_per_second: self.records_per_second()?,
        };
        if subject.set == SetFilter::None { Err(ResultCode::NotFound) } else { Ok(subject) }
    }

    /// A query of all partitions without limits.
    fn query(&self, id: u64, set: SetFilter, kind: QueryKind) -> Query {
        Query {
            id,
            namespace: Arc::clone(self.namespace),
            set_name: self.request.set_name_of_record().into(),
            set,
            kind,
            parts: PartitionId::all().map(|partition| Part { partition, after: None }).collect(),
            has_parts: false,
            access: QueryAccess::Master,
            condition: None,
            filter: None,
            records_per_second: 0,
            sample_max: 0,
            time_max: None,
            socket_timeout: None,
        }
    }

    fn id(&self, next_id: impl FnOnce() -> u64) -> u64 {
        // The bytes after the number are ignored.
        let id = self.request.field(field::JOB_ID).and_then(|value| value.first_chunk());
        match id.map_or(0, |id| u64::from_be_bytes(*id)) {
            0 => next_id(),
            id => id,
        }
    }

    fn set(&self) -> Result<SetFilter, ResultCode> {
        match self.request.set_name() {
            [] => Ok(SetFilter::All),
            name if name.len() > SET_NAME_SIZE_MAX => Err(ResultCode::Parameter),
            _ => Ok(match self.request.set_name_of_record() {
                [] => SetFilter::All,
                name => self.namespace.sets.find(name).map_or(SetFilter::None, |set| SetFilter::One(set.id)),
            }),
        }
    }

    fn records_per_second(&self) -> Result<u32, ResultCode> {
        match number(self.request, field::RECORDS_PER_SECOND) {
            Some(_) if self.request.info1 & info1::SHORT_QUERY != 0 => Err(ResultCode::Parameter),
            Some(number) => number.map(u32::from_be_bytes),
            None => Ok(0),
        }
    }

    fn socket_timeout(&self) -> Result<Option<Duration>, ResultCode> {
        let ms = number(self.request, field::SOCKET_TIMEOUT)
            .map_or(Ok(SOCKET_TIMEOUT_DEFAULT_MS), |n| n.map(u32::from_be_bytes))?;
        Ok((ms != 0).then(|| Duration::from_millis(u64::from(ms))))
    }

    fn filter(&self) -> Result<Option<Filter<'static>>, ResultCode> {
        let filter = filter::compile(self.request, self.budget).transpose().inspect_err(|_| {
            // A filter that takes too long to compile is not known to be invalid.
            if !self.budget.is_exhausted() {
                cf::warning_limited!(Query, "{{{}}} bad filter expression", self.namespace.name());
            }
        })?;
        Ok(filter.map(Filter::into_owned))
    }

    fn predicate(&self) -> Result<Option<Condition>, ResultCode> {
        Condition::from_request(self.request, self.namespace, self.budget)
    }
}

impl Condition {
    /// The same with the index of its condition.
    fn with_index(self, reading: &Reading<'_>, set: SetFilter) -> Result<Self, ResultCode> {
        self.find_index(reading.indexes.of(reading.namespace), set.set_id())
    }
}

/// The partitions, among those that the client named, that a query reads here. A short query reads whatever exists.
fn access_of(request: &Request<'_>) -> QueryAccess {
    let is_relaxed = request.info2 & info2::RELAX_AP_LONG_QUERY != 0;
    if is_relaxed || request.info1 & info1::SHORT_QUERY != 0 {
        QueryAccess::Relaxed
    } else {
        QueryAccess::Full
    }
}

/// The time limit of a query, if it is a short one.
pub(super) fn short_time(request: &Request<'_>, namespace: &Namespace) -> Option<Duration> {
    let is_short =
        request.info1 & info1::SHORT_QUERY != 0 && !namespace.config().params.force_long_queries.get();
    is_short.then_some(match request.transaction_ttl_ms {
        0 => SHORT_QUERY_TIME,
        ms => Duration::from_millis(u64::from(ms)),
    })
}

/// The value of a field that holds one number.
fn number<const N: usize>(request: &Request<'_>, field_type: u8) -> Option<Result<[u8; N], ResultCode>> {
    request.field(field_type).map(|value| value.try_into().map_err(|_| ResultCode::Parameter))
}

/// The partitions and digests in the request; `None` if there are neither.
fn parts(request: &Request<'_>) -> Result<Option<Vec<Part>>, ResultCode> {
    let partitions = request.field(field::PARTITION_ID_ARRAY);
    let digests = request.field(field::DIGEST_ARRAY);
    if partitions.is_none() && digests.is_none() {
        return Ok(None);
    }
    let mut wanted: Vec<Option<Part>> = vec![None; PARTITION_COUNT];
    let mut want = |partition: PartitionId, after: Option<Resume>| {
        let slot = &mut wanted[partition.index()];
        if slot.is_some() {
            return Err(ResultCode::Parameter);
        }
        *slot = Some(Part { partition, after });
        Ok(())
    };
    if let Some(array) = partitions {
        let (numbers, _) = array.as_chunks::<2>();
        if numbers.is_empty() || numbers.len() > PARTITION_COUNT {
            return Err(ResultCode::Parameter);
        }
        for number in numbers {
            let number = usize::from(u16::from_le_bytes(*number));
            want(PartitionId::new(number).ok_or(ResultCode::Parameter)?, None)?;
        }
    }
    if let Some(array) = digests {
        let (digests, _) = array.as_chunks::<DIGEST_SIZE>();
        if digests.is_empty() || digests.len() > PARTITION_COUNT {
            return Err(ResultCode::Parameter);
        }
        let bvals = bvals(request, digests.len())?;
        for (at, digest) in digests.iter().enumerate() {
            let bval = bvals.get(at).map_or(0, |bval| i64::from_le_bytes(*bval));
            let resume = Resume { digest: Digest(*digest), bval };
            want(PartitionId::of(&resume.digest), Some(resume))?;
        }
    } else if request.has_field(field::BVAL_ARRAY) {
        return Err(ResultCode::Parameter);
    }
    Ok(Some(wanted.into_iter().flatten().collect()))
}

/// The keys after which an index query resumes, one for each digest.
fn bvals<'a>(request: &Request<'a>, digest_count: usize) -> Result<&'a [[u8; 8]], ResultCode> {
    if !request.has_field(field::INDEX_RANGE) {
        return Ok(&[]);
    }
    let (bvals, _) = request.field(field::BVAL_ARRAY).ok_or(ResultCode::Parameter)?.as_chunks();
    if bvals.len() == digest_count { Ok(bvals) } else { Err(ResultCode::Parameter) }
}

/// The bins named by ops or by the list that older clients send; `None` if there are no names. Invalid names are
/// ignored.
fn bin_names(request: &Request<'_>) -> Result<Option<Vec<Box<[u8]>>>, ResultCode> {
    let list = request.field(field::QUERY_BIN_LIST);
    if list.is_none() && request.op_count() == 0 {
        return Ok(None);
    }
    let mut names: Vec<&[u8]> = Vec::new();
    if let Some(list) = list {
        if request.op_count() > 0 {
            return Err(ResultCode::Parameter);
        }
        let (&count, mut rest) = list.split_first().unwrap_or((&0, &[]));
        for _ in 0..count {
            // A list that ends early names the bins before its end.
            let Some((&size, after)) = rest.split_first() else { break };
            let Some((name, after)) = after.split_at_checked(usize::from(size)) else { break };
            names.push(name);
            rest = after;
        }
    }
    names.extend(request.ops().map(|op| op.name));
    // A bin is answered once, however often it is named.
    let mut known = HashSet::new();
    names.retain(|name| {
        let is_name = check_name(name).is_ok();
        if !is_name {
            cf::warning_limited!(Query, "ignoring bad bin name {} ({})", name.escape_ascii(), name.len());
        }
        is_name && known.insert(*name)
    });
    Ok(Some(names.into_iter().map(Box::from).collect()))
}

//! What a query request asks for.

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

use crate::index::{PARTITION_COUNT, PartitionId, SetId};
use crate::namespace::Namespace;

/// Socket timeout of a request that does not say one.
const SOCKET_TIMEOUT_DEFAULT_MS: u32 = 10_000;
/// Steps, of about a nanosecond each, in which a service thread compiles the filter.
const FILTER_STEPS: u64 = 200_000;
/// Time a short query may take if the request does not say.
const SHORT_QUERY_TIME: Duration = Duration::from_secs(1);

/// Which records of a namespace a query looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SetFilter {
    All,
    One(SetId),
    /// The set does not exist: no record.
    None,
}

/// A part of the query: a partition, behind a digest if one is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) partition: PartitionId,
    pub(super) after: Option<Digest>,
}

/// Which of the records that it looks at a query is for.
pub(super) enum QueryFilter {
    All,
    /// Those that it lets pass.
    Compiled(Filter<'static>),
    /// One that the query's own thread has yet to compile, as that takes long.
    Source(Box<[u8]>),
}

impl QueryFilter {
    fn from_request(request: &Request<'_>) -> Result<Self, ResultCode> {
        let Some(bytes) = request.field(field::FILTER_EXPRESSION) else { return Ok(QueryFilter::All) };
        let budget = Budget::new(FILTER_STEPS);
        let compiled = Filter::compile(bytes, &budget);
        if budget.is_exhausted() {
            return Ok(QueryFilter::Source(bytes.into()));
        }
        Ok(QueryFilter::Compiled(compiled?.into_owned()))
    }

    /// The filter, compiled now if need be.
    ///
    /// # Errors
    /// As [`Filter::compile`].
    pub(super) fn get<'f>(
        &'f self,
        compiled: &'f mut Option<Filter<'f>>,
        budget: &Budget<'_>,
    ) -> Result<Option<&'f Filter<'f>>, ResultCode> {
        match self {
            QueryFilter::All => Ok(None),
            QueryFilter::Compiled(filter) => Ok(Some(filter)),
            QueryFilter::Source(bytes) => Ok(Some(compiled.insert(Filter::compile(bytes, budget)?))),
        }
    }
}

/// A basic query.
pub(crate) struct Query {
    /// The client's number of it; 0 when it gave none.
    pub(super) id: u64,
    pub(super) namespace: Arc<Namespace>,
    /// As the client named it; empty = all.
    pub(super) set_name: Box<[u8]>,
    pub(super) set: SetFilter,
    /// By ascending partition, none twice.
    pub(super) parts: Vec<Part>,
    /// Bins to send; `None` = all.
    pub(super) bins: Option<Vec<Box<[u8]>>>,
    pub(super) filter: QueryFilter,
    pub(super) without_bins: bool,
    /// Records a second; 0 = as many as go.
    pub(super) records_per_second: u32,
    /// End after so many records; 0 = never.
    pub(super) sample_max: u64,
    /// Longest the query may take.
    pub(super) time_max: Option<Duration>,
    /// Longest the client may leave its replies unread; `None` = for ever.
    pub(crate) socket_timeout: Option<Duration>,
}

impl Query {
    /// Checks a query request.
    ///
    /// # Errors
    /// What the client is answered instead.
    pub(crate) fn from_request(
        request: &Request<'_>,
        namespace: &Arc<Namespace>,
    ) -> Result<Self, ResultCode> {
        if request.has_field(field::UDF_FILE) || request.info2 & info2::WRITE != 0 {
            // Aggregations and background jobs.
            return Err(ResultCode::UnsupportedFeature);
        }
        if request.info3 & info3::PARTITION_DONE == 0 {
            return Err(ResultCode::UnsupportedFeature);
        }
        // Its length is not looked at.
        let id = request.field(field::JOB_ID).and_then(|value| value.first_chunk());
        let id = id.map_or(0, |id| u64::from_be_bytes(*id));
        let set = set_filter(request, namespace)?;
        let parts = parts(request)?;
        let records_per_second =
            number(request, field::RECORDS_PER_SECOND).map_or(Ok(0), |n| n.map(u32::from_be_bytes))?;
        let is_short = request.info1 & info1::SHORT_QUERY != 0;
        if is_short && request.has_field(field::RECORDS_PER_SECOND) {
            return Err(ResultCode::Parameter);
        }
        let Some(parts) = parts else { return Err(ResultCode::UnsupportedFeature) };
        if request.has_field(field::INDEX_RANGE) {
            // No secondary index exists, so none fits.
            return Err(ResultCode::IndexNotFound);
        }
        let socket_timeout_ms = number(request, field::SOCKET_TIMEOUT)
            .map_or(Ok(SOCKET_TIMEOUT_DEFAULT_MS), |n| n.map(u32::from_be_bytes))?;
        let sample_max = number(request, field::SAMPLE_MAX).map_or(Ok(0), |n| n.map(u64::from_be_bytes))?;
        let bins = bin_names(request)?;
        let filter = QueryFilter::from_request(request).inspect_err(|_| warn_of_filter(namespace))?;
        let time_max = match request.transaction_ttl_ms {
            0 => SHORT_QUERY_TIME,
            ms => Duration::from_millis(u64::from(ms)),
        };
        Ok(Query {
            id,
            namespace: Arc::clone(namespace),
            set_name: request.set_name().into(),
            set,
            parts,
            bins,
            filter,
            without_bins: request.info1 & info1::GET_NO_BINS != 0,
            records_per_second,
            sample_max,
            time_max: is_short.then_some(time_max),
            socket_timeout: (socket_timeout_ms != 0)
                .then(|| Duration::from_millis(u64::from(socket_timeout_ms))),
        })
    }
}

impl Query {
    /// Whether it is one that ends within its time or fails.
    pub(super) fn is_short(&self) -> bool {
        self.time_max.is_some()
    }
}

/// Logs that a filter is none.
pub(super) fn warn_of_filter(namespace: &Namespace) {
    cf::warning_limited!(Query, "{{{}}} bad filter expression", namespace.name());
}

fn set_filter(request: &Request<'_>, namespace: &Namespace) -> Result<SetFilter, ResultCode> {
    match request.set_name() {
        [] => Ok(SetFilter::All),
        name if name.len() > SET_NAME_SIZE_MAX => Err(ResultCode::Parameter),
        name => Ok(namespace.sets.find(name).map_or(SetFilter::None, |set| SetFilter::One(set.id))),
    }
}

/// The value of a field that is one number.
fn number<const N: usize>(request: &Request<'_>, field_type: u8) -> Option<Result<[u8; N], ResultCode>> {
    request.field(field_type).map(|value| value.try_into().map_err(|_| ResultCode::Parameter))
}

/// The partitions and digests asked for; `None` when neither was sent.
fn parts(request: &Request<'_>) -> Result<Option<Vec<Part>>, ResultCode> {
    let partitions = request.field(field::PARTITION_ID_ARRAY);
    let digests = request.field(field::DIGEST_ARRAY);
    if partitions.is_none() && digests.is_none() {
        return Ok(None);
    }
    let mut wanted: Vec<Option<Part>> = vec![None; PARTITION_COUNT];
    let mut want = |partition: PartitionId, after: Option<Digest>| {
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
        for digest in digests {
            let digest = Digest(*digest);
            want(PartitionId::of(&digest), Some(digest))?;
        }
    } else if request.has_field(field::BVAL_ARRAY) {
        return Err(ResultCode::Parameter);
    }
    Ok(Some(wanted.into_iter().flatten().collect()))
}

/// The bins asked for, by ops or by the list that older clients send. What cannot be the name of a bin is passed over.
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
        let (&count, mut rest) = list.split_first().ok_or(ResultCode::Parameter)?;
        for _ in 0..count {
            let (&size, after) = rest.split_first().ok_or(ResultCode::Parameter)?;
            let (name, after) = after.split_at_checked(usize::from(size)).ok_or(ResultCode::Parameter)?;
            names.push(name);
            rest = after;
        }
    }
    names.extend(request.ops().map(|op| op.name));
    // A name is answered once, however often it is asked for.
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

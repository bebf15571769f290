//! The condition of a query: the values it selects, and the index that finds their records.

use std::sync::Arc;

use cf::Digest;
use datamodel::Budget;
use datamodel::flat::FlatRecord;
use datamodel::geojson::{Covering, GeoSettings};
use datamodel::sindex::{IndexType, IndexedValue, Key, KeyType, Predicate, check_context};
use proto::ResultCode;
use proto::message::{Request, field};

use crate::index::{PartitionId, RangeStart, SetId};
use crate::metrics::NamespaceCounter;
use crate::namespace::Namespace;
use crate::sindex::{NamespaceIndexes, SecondaryIndex};

/// The position at which a query resumes: after a record, and in an index after this key of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Resume {
    pub(super) digest: Digest,
    pub(super) bval: i64,
}

/// The condition of a query by an index.
pub(super) struct Condition {
    /// The indexed value that the query needs; `None` for a type that no index has.
    value: Option<IndexedValue>,
    predicate: Predicate,
    /// Ranges of keys that contain everything that matches, ascending.
    ranges: Vec<(Key, Key)>,
    index: Option<Arc<SecondaryIndex>>,
}

impl Condition {
    /// The condition of a request, if it has one.
    ///
    /// # Errors
    /// `Parameter` for an invalid condition.
    pub(super) fn from_request(
        request: &Request<'_>,
        namespace: &Namespace,
        budget: &Budget<'_>,
    ) -> Result<Option<Self>, ResultCode> {
        let Some(range) = request.field(field::INDEX_RANGE) else { return Ok(None) };
        let geo = geo_settings(namespace);
        let (bin, predicate) = Predicate::parse(range, &geo, budget)?;
        if let Some(count) = predicate.region_cell_count() {
            namespace.metrics.add(NamespaceCounter::GeoRegionQueryReqs, 1);
            namespace.metrics.add(NamespaceCounter::GeoRegionQueryCells, count as u64);
        }
        let index_type = match request.field(field::INDEX_TYPE) {
            None => Some(IndexType::Default),
            Some([]) => return Err(ResultCode::Parameter),
            Some([number, ..]) => IndexType::from_number(*number),
        };
        let context = request.field(field::INDEX_CONTEXT);
        if context.is_some_and(|context| check_context(context).is_err()) {
            return Err(ResultCode::Parameter);
        }
        let value = index_type.map(|index_type| IndexedValue {
            bin: bin.into(),
            context: context.map(Into::into),
            index_type,
            key_type: predicate.key_type(),
        });
        let ranges = predicate.ranges();
        Ok(Some(Condition { value, predicate, ranges, index: None }))
    }

    /// The same with its index from `indexes`: that of set `set_id`, or else of the whole namespace.
    ///
    /// # Errors
    /// `IndexNotFound`; `IndexNotReadable` if it is still being filled.
    pub(super) fn find_index(self, indexes: &NamespaceIndexes, set_id: SetId) -> Result<Self, ResultCode> {
        let found = self.value.as_ref().and_then(|value| indexes.find(set_id, value));
        let index = found.ok_or(ResultCode::IndexNotFound)?;
        if !index.is_readable() {
            return Err(ResultCode::IndexNotReadable);
        }
        Ok(Condition { index: Some(index), ..self })
    }

    pub(super) fn index(&self) -> Option<&SecondaryIndex> {
        self.index.as_deref()
    }

    pub(super) fn key_type(&self) -> KeyType {
        self.predicate.key_type()
    }

    /// The ranges of keys that contain everything that matches, ascending.
    pub(super) fn ranges(&self) -> &[(Key, Key)] {
        &self.ranges
    }

    /// Whether a record can have several keys in the ranges.
    pub(super) fn may_repeat(&self) -> bool {
        !self.predicate.is_equality()
            && self.value.as_ref().is_some_and(|value| value.index_type != IndexType::Default)
    }

    /// The ranges from `after` on, in order, each with its start.
    pub(super) fn ranges_after(
        &self,
        after: Option<Resume>,
    ) -> impl Iterator<Item = (RangeStart<Key>, Key)> + '_ {
        let after = after.map(|after| (Key::from_bval(after.bval, self.key_type()), after.digest));
        self.ranges.iter().filter_map(move |(low, high)| match after {
            Some((key, _)) if key > *high => None,
            Some((key, digest)) if key >= *low => Some((RangeStart::Behind(key, digest), *high)),
            _ => Some((RangeStart::From(*low), *high)),
        })
    }

    /// Whether a record has a value that matches.
    ///
    /// # Errors
    /// `Timeout` if the budget is exhausted, others if the record cannot be read.
    pub(super) fn matches(
        &self,
        namespace: &Namespace,
        record: &FlatRecord<'_>,
        budget: &Budget<'_>,
    ) -> Result<bool, ResultCode> {
        let Some(value) = &self.value else { return Ok(false) };
        let Some(bin) = record.bin(&value.bin).map_err(|_| ResultCode::Unknown)? else { return Ok(false) };
        let matches = self.predicate.matches(value, &bin, budget)?;
        if self.key_type() == KeyType::Geo2DSphere && value.index_type == IndexType::Default {
            let counter = if matches {
                NamespaceCounter::GeoRegionQueryPoints
            } else {
                NamespaceCounter::GeoRegionQueryFalsepos
            };
            namespace.metrics.add(counter, 1);
        }
        Ok(matches)
    }

    /// Number of removals of entries from the index in `partition` so far; read before entries are collected.
    pub(super) fn removals(&self, partition: PartitionId) -> u64 {
        self.index.as_ref().map_or(0, |index| index.removals(partition))
    }

    /// Whether the record itself must be checked, because its entry does not decide the condition, or may be stale:
    /// entries of its partition were removed since the count was `removals`. The caller holds the lock of the
    /// record's sprig.
    #[inline]
    pub(super) fn must_check(&self, partition: PartitionId, removals: u64) -> bool {
        !self.predicate.is_exact() || self.removals(partition) != removals
    }

    /// Whether the index was dropped.
    pub(super) fn is_dropped(&self) -> bool {
        self.index.as_ref().is_some_and(|index| index.is_dropped())
    }
}

/// The settings of a namespace for regions.
fn geo_settings(namespace: &Namespace) -> GeoSettings {
    let geo = &namespace.config().geo2dsphere_within;
    GeoSettings {
        strict: geo.strict.get(),
        covering: Covering {
            level_min: geo.min_level.get().into(),
            level_max: geo.max_level.get().into(),
            level_step: geo.level_mod.get().into(),
            cells_max: usize::from(geo.max_cells.get()),
        },
        earth_radius_m: geo.earth_radius_meters.get(),
    }
}

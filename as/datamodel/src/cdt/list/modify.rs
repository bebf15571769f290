//! Operations that modify a list.

use std::borrow::Cow;
use std::cmp::Ordering;

use cf::msgpack::compare_metered;
use proto::ResultCode;

use super::ordered;
use super::select::{elements, select};
use crate::budget::Budget;
use crate::cdt::call::{Arguments, Call, CdtOperation, selection};
use crate::cdt::container::{Container, Header, Offsets, Shape, flags};
use crate::cdt::index::Edit;
use crate::cdt::items::position_of;
use crate::cdt::layout::{CONTAINER_SIZE_MAX, Layout};
use crate::cdt::normal::normal;
use crate::cdt::number::Number;
use crate::cdt::order::{Among, Search, merge_sort};
use crate::cdt::pick::{self, Mask, splice};
use crate::cdt::result::{ResultValue, integer};
use crate::cdt::{ContainerChange, Presence, Scope};

/// Sort flags.
const DESCENDING: u64 = 1;
const DROP_DUPLICATES: u64 = 2;
/// If the search for duplicates needs more comparisons than this, it sorts first, unless the values are so
/// few that sorting takes longer.
const COMPARISONS_MAX: u64 = 1 << 12;
const UNSORTED_VALUES_MAX: u32 = 16;

/// The changed list and the answer.
pub(super) type Change = (ContainerChange, ResultValue);

/// The conditions under which values may be added to a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddFlags(u64);

impl AddFlags {
    /// No value may be in the list twice.
    pub(super) const fn is_unique(self) -> bool {
        self.0 & 1 != 0
    }

    /// No element may be put beyond the end.
    const fn is_bounded(self) -> bool {
        self.0 & 2 != 0
    }

    /// An element that may not be added is skipped without an error.
    pub(super) const fn is_no_fail(self) -> bool {
        self.0 & 4 != 0
    }

    /// If some elements may not be added, the others are added nevertheless.
    pub(super) const fn is_partial(self) -> bool {
        self.0 & 12 == 12
    }

    /// The outcome for a value that is already in the list.
    pub(super) const fn exists(self) -> Result<ContainerChange, ResultCode> {
        if self.is_no_fail() { Ok(ContainerChange::Kept) } else { Err(ResultCode::ElementExists) }
    }
}

/// Applies a modify call. `list` is `None` if there is no list yet.
///
/// # Errors
/// `Parameter` for a bad call or a damaged list; otherwise the operation's error.
pub(crate) fn modify(
    list: Option<&Container<'_>>,
    call: &Call<'_>,
    scope: Scope,
) -> Result<Change, ResultCode> {
    let (operation, arguments) = call.operation(true)?;
    if operation == CdtOperation::ListSort {
        return sort(list, arguments, scope).map(|outcome| (outcome, None));
    }
    let Some(list) = list else {
        return create(operation, arguments, scope, call.budget);
    };
    match operation {
        CdtOperation::ListClear => {
            let empty = Layout::empty(Shape::List, list.flags & flags::ORDERED, scope.is_top);
            Ok((ContainerChange::Replaced(empty), None))
        }
        CdtOperation::Remove(_)
        | CdtOperation::Pop(_)
        | CdtOperation::RemoveCount(_)
        | CdtOperation::Trim(_) => {
            let (selector, want) = selection(operation, arguments)?;
            let selection = select(list, selector, want)?;
            let emptied = if selection.keeps_flags { list.flags } else { list.flags & flags::ORDERED };
            let outcome = pick::remove(list, &selection.picked, emptied, scope.is_top)?;
            Ok((outcome, selection.answer))
        }
        _ => change(list, Addition::parse(operation, arguments)?, scope),
    }
}

/// Applies a call when there is no list. Only operations that add elements create one.
fn create(
    operation: CdtOperation,
    arguments: Arguments<'_>,
    scope: Scope,
    budget: &Budget<'_>,
) -> Result<Change, ResultCode> {
    if matches!(
        operation,
        CdtOperation::ListClear
            | CdtOperation::Remove(_)
            | CdtOperation::Pop(_)
            | CdtOperation::RemoveCount(_)
            | CdtOperation::Trim(_)
    ) {
        return Ok((ContainerChange::Kept, None));
    }
    let addition = Addition::parse(operation, arguments)?;
    let flags = scope.creation_flags(Shape::List, addition.creation_flags());
    let (outcome, answer) = change(&Container::empty(Shape::List, flags, budget), addition, scope)?;
    Ok((outcome.created(Shape::List, flags, flags, scope), answer))
}

/// An operation that creates the list if there is none.
enum Addition<'a> {
    SetType(u64),
    Append { values: &'a [u8], are_items: bool, order: u64, add: AddFlags },
    Insert { index: i64, values: &'a [u8], are_items: bool, add: AddFlags },
    Set { index: i64, value: &'a [u8], add: AddFlags },
    Increment { index: i64, delta: Option<&'a [u8]>, order: u64, add: AddFlags },
}

impl<'a> Addition<'a> {
    fn parse(operation: CdtOperation, arguments: Arguments<'a>) -> Result<Self, ResultCode> {
        let mut arguments = arguments.checked()?;
        Ok(match operation {
            CdtOperation::ListSetType => Self::SetType(arguments.integer()?),
            CdtOperation::ListAppend | CdtOperation::ListAppendItems => Self::Append {
                values: arguments.storable()?,
                are_items: operation == CdtOperation::ListAppendItems,
                order: arguments.integer_or(0)?,
                add: AddFlags(arguments.integer_or(0)?),
            },
            CdtOperation::ListInsert | CdtOperation::ListInsertItems => Self::Insert {
                index: arguments.index()?,
                values: arguments.storable()?,
                are_items: operation == CdtOperation::ListInsertItems,
                add: AddFlags(arguments.integer_or(0)?),
            },
            CdtOperation::ListSet => Self::Set {
                index: arguments.index()?,
                value: arguments.storable()?,
                add: AddFlags(arguments.integer_or(0)?),
            },
            CdtOperation::ListIncrement => Self::Increment {
                index: arguments.index()?,
                delta: arguments.value_or_none()?,
                order: arguments.integer_or(0)?,
                add: AddFlags(arguments.integer_or(0)?),
            },
            _ => return Err(ResultCode::Parameter),
        })
    }

    const fn creation_flags(&self) -> u64 {
        match self {
            Self::Append { order, .. } | Self::Increment { order, .. } => *order,
            _ => 0,
        }
    }
}

fn change(list: &Container<'_>, addition: Addition<'_>, scope: Scope) -> Result<Change, ResultCode> {
    match addition {
        Addition::SetType(flags) => set_type(list, flags, scope).map(|outcome| (outcome, None)),
        Addition::Append { values, are_items, add, .. } => {
            let values = Values::parse(values, are_items, list.budget)?;
            let outcome = if list.is_ordered() {
                ordered::add(list, &values, add, scope)?
            } else {
                insert(list, i64::from(list.count), &values, add, scope)?
            };
            Ok((outcome.0, integer(outcome.1)))
        }
        Addition::Insert { index, values, are_items, add } => {
            let values = Values::parse(values, are_items, list.budget)?;
            if list.is_ordered() {
                return Err(ResultCode::OpNotApplicable);
            }
            let (outcome, count) = insert(list, index, &values, add, scope)?;
            Ok((outcome, integer(count)))
        }
        Addition::Set { index, value, add } => {
            set(list, index, value, add, scope).map(|outcome| (outcome, None))
        }
        Addition::Increment { index, delta, add, .. } => increment(list, index, delta, add, scope),
    }
}

/// Values to be added, in normal form.
pub(super) struct Values<'a> {
    bytes: Cow<'a, [u8]>,
    /// The offset of the first value.
    start: usize,
    pub(super) count: u32,
    /// Whether the request gave a list of items instead of one value.
    are_items: bool,
    budget: &'a Budget<'a>,
}

impl<'a> Values<'a> {
    fn parse(argument: &'a [u8], are_items: bool, budget: &'a Budget<'a>) -> Result<Self, ResultCode> {
        let bytes = normal(argument, budget).ok_or(ResultCode::Parameter)?;
        let (start, count) = if are_items {
            let items = Header::parse(Shape::List, &bytes).ok_or(ResultCode::Parameter)?;
            (bytes.len() - items.contents.len(), items.count)
        } else {
            (0, 1)
        };
        Ok(Self { bytes, start, count, are_items, budget })
    }

    /// Whether the request gave one value.
    pub(super) const fn is_one(&self) -> bool {
        !self.are_items
    }

    pub(super) fn contents(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    pub(super) fn offsets(&self) -> Result<Offsets, ResultCode> {
        Offsets::scan(self.contents(), self.count, Shape::List, self.budget).ok_or(ResultCode::Parameter)
    }
}

/// Inserts values into an unordered list. Returns the outcome and the new number of elements.
fn insert(
    list: &Container<'_>,
    index: i64,
    values: &Values<'_>,
    add: AddFlags,
    scope: Scope,
) -> Result<(ContainerChange, u32), ResultCode> {
    let total = list.count;
    if values.count == 0 {
        return Ok((ContainerChange::Touched, total));
    }
    let index = if index < 0 { i64::from(total).wrapping_add(index) } else { index };
    let index = u32::try_from(index)
        .ok()
        .filter(|&index| index <= i32::MAX.cast_unsigned())
        .ok_or(ResultCode::OpNotApplicable)?;
    if add.is_bounded() && index > total {
        return if add.is_no_fail() {
            Ok((ContainerChange::Kept, total))
        } else {
            Err(ResultCode::OpNotApplicable)
        };
    }
    let mut contents = Cow::Borrowed(values.contents());
    let mut added = values.count;
    if add.is_unique() {
        match new_values(list, values, add)? {
            None => return Ok((add.exists()?, total)),
            Some(kept) => {
                added = kept.count();
                if added != values.count {
                    list.budget.draw_for_copy(contents.len() + 8 * added as usize)?;
                    let offsets = values.offsets()?;
                    let parts = kept.iter().filter_map(|position| contents.get(offsets.range(position, 1)));
                    contents = Cow::Owned(parts.collect::<Vec<_>>().concat());
                }
            }
        }
    }
    let count = index.max(total).checked_add(added).filter(|&count| count < i32::MAX.cast_unsigned());
    let count = count.ok_or(ResultCode::Parameter)?;
    if index <= total {
        let start = list.start_of(index)?;
        let edit = Edit { position: index, removed: 0, range: start..start, inserted: added };
        return Ok((splice(list, &edit, &[&contents], scope.is_top)?, count));
    }
    let padding = (index - total) as usize;
    if padding > CONTAINER_SIZE_MAX {
        return Err(ResultCode::RecordTooBig);
    }
    let end = list.contents.len();
    let nils = vec![0xc0; padding];
    let edit = Edit { position: total, removed: 0, range: end..end, inserted: count - total };
    Ok((splice(list, &edit, &[&nils, &contents], scope.is_top)?, count))
}

/// The positions of the values that are not in the list yet. `None` if nothing is to be added, because no
/// value is new or because a duplicate ends the operation.
fn new_values(list: &Container<'_>, values: &Values<'_>, add: AddFlags) -> Result<Option<Mask>, ResultCode> {
    let offsets = values.offsets()?;
    let value = |position| values.contents().get(offsets.range(position, 1)).ok_or(ResultCode::Parameter);
    let comparisons = u64::from(values.count) * u64::from(list.count.max(values.count));
    let is_worth_sorting = values.count > UNSORTED_VALUES_MAX && comparisons > COMPARISONS_MAX;
    let lookup = if is_worth_sorting { Some(Lookup::new(list, values, &offsets)?) } else { None };
    let mut kept = Mask::new(values.count);
    for position in 0..values.count {
        let value_here = value(position)?;
        let is_in_list = match &lookup {
            Some(lookup) => lookup.is_in_list(list, value_here)?,
            None => position_of(elements(list)?, value_here, list.budget)?.is_some(),
        };
        if is_in_list {
            if !add.is_partial() {
                return Ok(None);
            }
            continue;
        }
        let is_repeated = match &lookup {
            Some(lookup) => lookup.repeated.is_set(position),
            None => {
                list.budget.draw_for(4 * position as usize)?;
                position_of((0..position).map(value), value_here, list.budget)?.is_some()
            }
        };
        if is_repeated {
            if !add.is_no_fail() {
                return Err(ResultCode::OpNotApplicable);
            }
            if !add.is_partial() {
                return Ok(None);
            }
            continue;
        }
        kept.set(position);
    }
    Ok(Some(kept).filter(|kept| kept.count() != 0))
}

/// Finds values without a walk over the list for each.
struct Lookup {
    /// Positions of the list's elements in order.
    order: Vec<u32>,
    /// Positions of the values that equal an earlier value.
    repeated: Mask,
}

impl Lookup {
    fn new(list: &Container<'_>, values: &Values<'_>, offsets: &Offsets) -> Result<Self, ResultCode> {
        let budget = list.budget;
        let order = sorted(list.contents, list.offsets()?, list.count, budget)?;
        let values_order = sorted(values.contents(), offsets, values.count, budget)?;
        let value = |position| values.contents().get(offsets.start(position)..);
        let mut repeated = Mask::new(values.count);
        for pair in values_order.windows(2) {
            let order = value(pair[0]).zip(value(pair[1])).and_then(|(a, b)| compare_metered(a, b, budget));
            if order.ok_or(ResultCode::Parameter)? == Ordering::Equal {
                repeated.set(pair[1]);
            }
        }
        Ok(Self { order, repeated })
    }

    fn is_in_list(&self, list: &Container<'_>, value: &[u8]) -> Result<bool, ResultCode> {
        let offsets = list.offsets()?;
        let found = Search::all(list.count, Among::Any).run(
            list.budget,
            |rank| self.order.get(rank as usize).copied().unwrap_or_default(),
            |position| compare_metered(value, list.contents.get(offsets.start(position)..)?, list.budget),
        )?;
        Ok(found.is_equal)
    }
}

/// Positions of elements in order.
pub(super) fn sorted(
    contents: &[u8],
    offsets: &Offsets,
    count: u32,
    budget: &Budget<'_>,
) -> Result<Vec<u32>, ResultCode> {
    let at = |position| contents.get(offsets.start(position)..);
    let mut order: Vec<u32> = (0..count).collect();
    merge_sort(&mut order, budget, |a, b| compare_metered(at(a)?, at(b)?, budget))?;
    Ok(order)
}

fn set(
    list: &Container<'_>,
    index: i64,
    value: &[u8],
    add: AddFlags,
    scope: Scope,
) -> Result<ContainerChange, ResultCode> {
    let value = Values::parse(value, false, list.budget)?;
    if list.is_ordered() {
        return Err(ResultCode::OpNotApplicable);
    }
    let total = i64::from(list.count);
    if index >= total {
        return insert(list, index, &value, add, scope).map(|(outcome, _)| outcome);
    }
    let index = if index < 0 { total.wrapping_add(index) } else { index };
    let index = u32::try_from(index).map_err(|_| ResultCode::OpNotApplicable)?;
    if add.is_unique() {
        // A value is unique if it equals only the element that it replaces.
        for (element, position) in elements(list)?.zip(0..) {
            let order =
                compare_metered(element?, value.contents(), list.budget).ok_or(ResultCode::Parameter)?;
            if order == Ordering::Equal && position != index {
                return add.exists();
            }
        }
    }
    let range = list.range(index, 1)?;
    splice(list, &Edit { position: index, removed: 1, range, inserted: 1 }, &[value.contents()], scope.is_top)
}

fn increment(
    list: &Container<'_>,
    index: i64,
    delta: Option<&[u8]>,
    add: AddFlags,
    scope: Scope,
) -> Result<Change, ResultCode> {
    let total = i64::from(list.count);
    let index = if index < 0 { total.wrapping_add(index) } else { index };
    let index = u32::try_from(index)
        .ok()
        .filter(|&index| index <= i32::MAX.cast_unsigned())
        .ok_or(ResultCode::OpNotApplicable)?;
    let delta = Number::delta(delta, false)?;
    let element = if index < list.count { Some(list.element(index)?) } else { None };
    let sum = delta.added_to(element)?;
    let value = sum.element();
    let outcome = if list.is_ordered() {
        ordered::replace(list, index, &value, add, scope)?
    } else {
        set(list, i64::from(index), &value, add, scope)?
    };
    Ok((outcome, sum.answer()))
}

fn set_type(list: &Container<'_>, argument: u64, scope: Scope) -> Result<ContainerChange, ResultCode> {
    let flags = scope.set_flags(Shape::List, argument)?;
    if flags == list.flags {
        return Ok(ContainerChange::Touched);
    }
    let layout = Layout {
        shape: Shape::List,
        flags,
        count: list.count,
        contents_len: list.contents.len(),
        is_top: scope.is_top,
    };
    let mut out = layout.begin(list.budget)?;
    if flags & flags::ORDERED != 0 && !list.is_ordered() && list.count > 1 {
        let offsets = list.offsets()?;
        for position in sorted(list.contents, offsets, list.count, list.budget)? {
            out.extend_from_slice(list.slice(offsets.range(position, 1))?);
        }
    } else {
        out.extend_from_slice(list.contents);
    }
    layout.seal(out, list.budget).map(ContainerChange::Replaced)
}

fn sort(
    list: Option<&Container<'_>>,
    arguments: Arguments<'_>,
    scope: Scope,
) -> Result<ContainerChange, ResultCode> {
    if scope.presence != Presence::Present && scope.is_bin_missing() {
        return Err(ResultCode::IncompatibleType);
    }
    let sort_flags = arguments.checked()?.integer_or(0)?;
    let Some(list) = list.filter(|list| list.count > 1) else {
        return Ok(ContainerChange::Kept);
    };
    let offsets = list.offsets()?;
    let at = |position| list.contents.get(offsets.start(position)..);
    let mut order: Vec<u32> = (0..list.count).collect();
    if !list.is_ordered() {
        merge_sort(&mut order, list.budget, |a, b| {
            let order = compare_metered(at(a)?, at(b)?, list.budget)?;
            Some(if sort_flags & DESCENDING != 0 { order.reverse() } else { order })
        })?;
    }
    if sort_flags & DROP_DUPLICATES != 0 {
        let mut last = None;
        list.budget.draw_for(4 * order.len())?;
        let mut kept = Vec::with_capacity(order.len());
        for &position in &order {
            let order = match last.replace(position) {
                Some(before) => {
                    let pair = at(before).zip(at(position));
                    pair.and_then(|(a, b)| compare_metered(a, b, list.budget))
                }
                None => Some(Ordering::Less),
            };
            match order {
                Some(Ordering::Less) => kept.push(position),
                Some(Ordering::Equal) => {}
                // A descending sort does not check for duplicates.
                _ => return Err(ResultCode::Parameter),
            }
        }
        order = kept;
    }
    let layout = Layout {
        shape: Shape::List,
        flags: list.flags,
        count: order.len() as u32,
        contents_len: order.iter().map(|&position| offsets.range(position, 1).len()).sum(),
        is_top: scope.is_top,
    };
    let mut out = layout.begin(list.budget)?;
    for &position in &order {
        out.extend_from_slice(list.slice(offsets.range(position, 1))?);
    }
    layout.seal(out, list.budget).map(ContainerChange::Replaced)
}

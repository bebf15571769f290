//! Operations that modify a map.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Range;

use cf::msgpack::{Reader, compare_metered};
use proto::ResultCode;

use super::find::{bytes_at, find_by_offsets, find_place};
use super::select::select;
use crate::budget::Budget;
use crate::cdt::call::{Arguments, Call, CdtOperation, selection};
use crate::cdt::container::{Container, Shape, flags};
use crate::cdt::index::Edit;
use crate::cdt::layout::Layout;
use crate::cdt::normal::normal;
use crate::cdt::number::Number;
use crate::cdt::order::merge_sort;
use crate::cdt::pair::{is_key, value_of};
use crate::cdt::pick::{self, splice};
use crate::cdt::result::{ResultValue, integer};
use crate::cdt::{ContainerChange, Scope};

/// The changed map and the answer.
type Change = (ContainerChange, ResultValue);

/// The conditions under which pairs may be put into a map.
#[derive(Clone, Copy, Debug)]
struct PutFlags {
    /// The value of an existing key may be replaced.
    overwrites: bool,
    /// A missing key may be added.
    creates: bool,
    /// A pair that may not be put is skipped without an error.
    no_fail: bool,
    /// If some pairs may not be put, the others are put nevertheless.
    is_partial: bool,
}

impl PutFlags {
    const ADD: Self = Self { overwrites: false, creates: true, no_fail: false, is_partial: false };
    const REPLACE: Self = Self { overwrites: true, creates: false, no_fail: false, is_partial: false };
    const PUT: Self = Self { overwrites: true, creates: true, no_fail: false, is_partial: false };

    const fn from_argument(argument: u64) -> Self {
        Self {
            overwrites: argument & 1 == 0,
            creates: argument & 2 == 0,
            no_fail: argument & 4 != 0,
            is_partial: argument & 8 != 0,
        }
    }

    /// Whether a pair may be put, depending on whether its key exists. The error, if a refusal is an error.
    const fn allows(self, is_there: bool) -> Result<bool, ResultCode> {
        match (is_there, self) {
            (true, Self { overwrites: true, .. }) | (false, Self { creates: true, .. }) => Ok(true),
            (_, Self { no_fail: true, .. }) => Ok(false),
            (true, _) => Err(ResultCode::ElementExists),
            (false, _) => Err(ResultCode::ElementNotFound),
        }
    }
}

/// Applies a modify call. `map` is `None` if there is no map yet.
///
/// # Errors
/// `Parameter` for a bad call or a damaged map; otherwise the operation's error.
pub(crate) fn modify(
    map: Option<&Container<'_>>,
    call: &Call<'_>,
    scope: Scope,
) -> Result<Change, ResultCode> {
    let (operation, arguments) = call.operation(true)?;
    let Some(map) = map else {
        return create(operation, arguments, scope, call.budget);
    };
    match operation {
        CdtOperation::MapClear => {
            Ok((ContainerChange::Replaced(Layout::empty(Shape::Map, map.flags, scope.is_top)), None))
        }
        CdtOperation::Remove(_) => {
            let (selector, want) = selection(operation, arguments)?;
            let selection = select(map, selector, want)?;
            let outcome = pick::remove(map, &selection.picked, map.flags, scope.is_top)?;
            Ok((outcome, selection.answer))
        }
        _ => change(map, Addition::parse(operation, arguments)?, scope),
    }
}

/// Applies a call when there is no map. Only operations that add pairs create one.
fn create(
    operation: CdtOperation,
    arguments: Arguments<'_>,
    scope: Scope,
    budget: &Budget<'_>,
) -> Result<Change, ResultCode> {
    match operation {
        CdtOperation::MapClear | CdtOperation::Remove(_) => return Ok((ContainerChange::Kept, None)),
        CdtOperation::MapReplaceItems => return Err(ResultCode::ElementNotFound),
        _ => {}
    }
    let addition = Addition::parse(operation, arguments)?;
    let touched_flags = scope.creation_flags(Shape::Map, addition.creation_flags());
    // Only the operation that sets the type can make an index without an order.
    let mut flags = if touched_flags == flags::PERSIST_INDEX { 0 } else { touched_flags };
    if !scope.is_top {
        flags &= !flags::PERSIST_INDEX;
    }
    let (outcome, answer) = change(&Container::empty(Shape::Map, flags, budget), addition, scope)?;
    Ok((outcome.created(Shape::Map, flags, touched_flags, scope), answer))
}

/// An operation that creates the map if there is none.
enum Addition<'a> {
    SetType(u64),
    Put { key: &'a [u8], value: &'a [u8], order: u64, put: PutFlags },
    PutItems { items: &'a [u8], order: u64, put: PutFlags },
    Increment { key: &'a [u8], delta: Option<&'a [u8]>, order: u64, is_decrement: bool },
}

impl<'a> Addition<'a> {
    fn parse(operation: CdtOperation, arguments: Arguments<'a>) -> Result<Self, ResultCode> {
        let mut arguments = arguments.checked()?;
        Ok(match operation {
            CdtOperation::MapSetType => Self::SetType(arguments.integer()?),
            CdtOperation::MapAdd | CdtOperation::MapPut | CdtOperation::MapReplace => Self::Put {
                key: arguments.storable()?,
                value: arguments.storable()?,
                order: arguments.integer_or(0)?,
                put: match operation {
                    CdtOperation::MapAdd => PutFlags::ADD,
                    CdtOperation::MapReplace => PutFlags::REPLACE,
                    _ => PutFlags::from_argument(arguments.integer_or(0)?),
                },
            },
            CdtOperation::MapAddItems | CdtOperation::MapPutItems | CdtOperation::MapReplaceItems => {
                Self::PutItems {
                    items: arguments.storable()?,
                    order: arguments.integer_or(0)?,
                    put: match operation {
                        CdtOperation::MapAddItems => PutFlags::ADD,
                        CdtOperation::MapReplaceItems => PutFlags::REPLACE,
                        _ => PutFlags::from_argument(arguments.integer_or(0)?),
                    },
                }
            }
            CdtOperation::MapIncrement | CdtOperation::MapDecrement => Self::Increment {
                key: arguments.value()?,
                delta: arguments.value_or_none()?,
                order: arguments.integer_or(0)?,
                is_decrement: operation == CdtOperation::MapDecrement,
            },
            _ => return Err(ResultCode::Parameter),
        })
    }

    const fn creation_flags(&self) -> u64 {
        match self {
            Self::SetType(_) => 0,
            Self::Put { order, .. } | Self::PutItems { order, .. } | Self::Increment { order, .. } => *order,
        }
    }
}

fn change(map: &Container<'_>, addition: Addition<'_>, scope: Scope) -> Result<Change, ResultCode> {
    match addition {
        Addition::SetType(flags) => set_type(map, flags, scope).map(|outcome| (outcome, None)),
        Addition::Put { key, value, put, .. } => {
            let key = normal_key(key, map.budget)?;
            let value = normal(value, map.budget).ok_or(ResultCode::Parameter)?;
            let (outcome, count) = put_pair(map, &key, &value, put, scope)?;
            Ok((outcome, integer(count)))
        }
        Addition::PutItems { items, put, .. } => {
            let (outcome, count) = put_items(map, items, put, scope)?;
            Ok((outcome, integer(count)))
        }
        Addition::Increment { key, delta, is_decrement, .. } => {
            let key = normal_key(key, map.budget)?;
            let place = find_place(map, &key)?;
            let delta = Number::delta(delta, is_decrement)?;
            let value =
                if place.is_found { Some(value_of(map.slice(place.pair)?, map.budget)?) } else { None };
            let sum = delta.added_to(value)?;
            let (outcome, _) = put_pair(map, &key, &sum.element(), PutFlags::PUT, scope)?;
            Ok((outcome, sum.answer()))
        }
    }
}

/// A key in normal form.
fn normal_key<'k>(key: &'k [u8], budget: &Budget<'_>) -> Result<Cow<'k, [u8]>, ResultCode> {
    let normal = normal(key, budget).ok_or(ResultCode::Parameter)?;
    let is_key = Reader::new(&normal).head().is_some_and(|head| is_key(&head));
    if is_key { Ok(normal) } else { Err(ResultCode::Parameter) }
}

/// Puts a pair. Returns the outcome and the new number of pairs.
fn put_pair(
    map: &Container<'_>,
    key: &[u8],
    value: &[u8],
    put: PutFlags,
    scope: Scope,
) -> Result<(ContainerChange, u32), ResultCode> {
    let place = find_place(map, key)?;
    if !put.allows(place.is_found)? {
        return Ok((ContainerChange::Kept, map.count));
    }
    let count = map.count + u32::from(!place.is_found);
    let removed = u32::from(place.is_found);
    let edit = Edit { position: place.position, removed, range: place.pair, inserted: 1 };
    Ok((splice(map, &edit, &[key, value], scope.is_top)?, count))
}

/// Puts the pairs of a map. Returns the outcome and the new number of pairs.
fn put_items(
    map: &Container<'_>,
    items: &[u8],
    put: PutFlags,
    scope: Scope,
) -> Result<(ContainerChange, u32), ResultCode> {
    let items = normal(items, map.budget).ok_or(ResultCode::Parameter)?;
    let items = Container::parse(Shape::Map, &items, map.budget).ok_or(ResultCode::Parameter)?;
    if items.count == 0 {
        return Ok((ContainerChange::Touched, map.count));
    }
    let mut sorted_contents = Vec::new();
    let sorted = in_key_order(map, &mut sorted_contents)?;
    let map = sorted.as_ref().unwrap_or(map);
    let offsets = items.offsets()?;
    let mut placed = Vec::with_capacity(items.count as usize);
    let mut count = map.count;
    for position in 0..items.count {
        let pair = items.slice(offsets.range(position, 1))?;
        let place = find_by_offsets(map, pair)?;
        let is_allowed = match put.allows(place.is_found) {
            // If partial success is allowed, an empty map takes even pairs that may not be created.
            Ok(false) if map.count == 0 && put.is_partial => true,
            is_allowed => is_allowed?,
        };
        if is_allowed {
            count += u32::from(!place.is_found);
            placed.push((place.pair, pair));
        } else if !put.is_partial {
            return Ok((ContainerChange::Kept, map.count));
        }
    }
    merge(map, &placed, count, scope)
}

/// The map with pairs instead of ascending ranges of its contents.
fn merge(
    map: &Container<'_>,
    placed: &[(Range<usize>, &[u8])],
    count: u32,
    scope: Scope,
) -> Result<(ContainerChange, u32), ResultCode> {
    let removed: usize = placed.iter().map(|(range, _)| range.len()).sum();
    let added: usize = placed.iter().map(|(_, pair)| pair.len()).sum();
    let layout = Layout {
        shape: Shape::Map,
        flags: map.flags,
        count,
        contents_len: (map.contents.len() + added).saturating_sub(removed),
        is_top: scope.is_top,
    };
    let mut out = layout.begin(map.budget)?;
    let mut copied = 0;
    for (range, pair) in placed {
        out.extend_from_slice(map.slice(copied..range.start)?);
        out.extend_from_slice(pair);
        copied = range.end;
    }
    out.extend_from_slice(map.slice(copied..map.contents.len())?);
    Ok((ContainerChange::Replaced(layout.seal(out, map.budget)?), count))
}

/// The contents of an unordered map, with its pairs sorted by key; `None` if they are already sorted.
fn in_key_order<'c>(
    map: &Container<'c>,
    contents: &'c mut Vec<u8>,
) -> Result<Option<Container<'c>>, ResultCode> {
    if map.is_ordered() || map.count < 2 {
        return Ok(None);
    }
    let offsets = map.offsets()?;
    map.budget.draw_for(8 * map.count as usize)?;
    let order = |a, b| compare_metered(bytes_at(map, offsets, a)?, bytes_at(map, offsets, b)?, map.budget);
    let is_in_order = (1..map.count).all(|position| order(position - 1, position) == Some(Ordering::Less));
    if is_in_order {
        return Ok(None);
    }
    let mut positions: Vec<u32> = (0..map.count).collect();
    merge_sort(&mut positions, map.budget, order)?;
    map.budget.draw_for_copy(map.contents.len())?;
    contents.reserve(map.contents.len());
    for position in positions {
        contents.extend_from_slice(map.slice(offsets.range(position, 1))?);
    }
    Ok(Some(Container::of_contents(Shape::Map, map.flags, map.count, contents, map.budget)))
}

fn set_type(map: &Container<'_>, argument: u64, scope: Scope) -> Result<ContainerChange, ResultCode> {
    let flags = scope.set_flags(Shape::Map, argument)?;
    let mut sorted_contents = Vec::new();
    let sorted = in_key_order(map, &mut sorted_contents)?;
    let contents = sorted.as_ref().map_or(map.contents, |sorted| sorted.contents);
    let layout = Layout {
        shape: Shape::Map,
        flags,
        count: map.count,
        contents_len: contents.len(),
        is_top: scope.is_top,
    };
    let mut out = layout.begin(map.budget)?;
    out.extend_from_slice(contents);
    layout.seal(out, map.budget).map(ContainerChange::Replaced)
}

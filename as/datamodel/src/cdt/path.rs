//! The path from a bin's value to a container inside it, and the value that is rebuilt after a change.
//!
//! ```text
//! context   msgpack list: step, argument, step, argument ...
//! step      bits 0-3 what the argument is: 0 index, 1 rank, 2 key, 3 value
//!           bit 4 of a list, bit 5 of a map (none: of either)
//!           bits 6-7 create what is missing: 1 an unordered list or map
//!                    2 an unordered list, with nils up to the index; a map ordered by key
//!                    3 an ordered list; a map ordered by key and value
//!           bit 8 what is created at the top of the bin has an index
//! ```

use std::borrow::Cow;
use std::ops::Range;

use cf::msgpack::{Head, Reader, end_of_metered, holds_search_value, put_list_header, put_map_header};
use proto::ResultCode;
use smallvec::SmallVec;

use super::container::{Container, Header, Shape, flags};
use super::items::position_of;
use super::layout::{CONTAINER_SIZE_MAX, Layout};
use super::list::{elements, find, pick_ranks};
use super::normal::normal;
use super::order::Among;
use super::window::Window;
use super::{map, pair};
use crate::budget::Budget;

const BASE_MASK: u64 = 0x0f;
const OF_LIST: u64 = 0x10;
const OF_MAP: u64 = 0x20;
const CREATE_UNORDERED: u64 = 0x40;
const CREATE_UNBOUNDED: u64 = 0x80;
const CREATE_KEY_ORDERED: u64 = 0x80;
const CREATE_ORDERED: u64 = 0xc0;
const CREATE_MASK: u64 = 0xc0;
const CREATE_INDEX: u64 = 0x100;
/// Price of a step without the search for its element.
const STEP_STEPS: u64 = 20;

/// A step of a context, without its argument.
#[derive(Clone, Copy, Debug)]
struct Step(u64);

impl Step {
    const fn creates(self) -> bool {
        self.0 & CREATE_MASK != 0
    }

    /// Whether the step is valid. Steps without a shape cannot create.
    const fn is_valid(self) -> bool {
        let shaped = self.0 & (OF_LIST | OF_MAP) != 0;
        self.0 & BASE_MASK <= 3 && (shaped || self.0 & (CREATE_MASK | CREATE_INDEX) == 0)
    }
}

/// A description of the way in which a step of this number finds its element.
pub(super) const fn step_name(number: u64) -> &'static str {
    match number & (BASE_MASK | OF_LIST | OF_MAP) {
        0x00 => "by index",
        0x01 => "by rank",
        0x02 => "by key",
        0x03 => "by value",
        0x10 => "by index in a list",
        0x11 => "by rank in a list",
        0x13 => "by value in a list",
        0x20 => "by index in a map",
        0x21 => "by rank in a map",
        0x22 => "by key in a map",
        0x23 => "by value in a map",
        _ => "of a type that does not exist",
    }
}

/// A container on the path.
#[derive(Debug)]
struct Level<'a> {
    /// Its offset in the stored bytes.
    start: usize,
    container: Container<'a>,
    len: usize,
    /// The element that the next step enters, or before which a new element is made.
    position: u32,
}

impl Level<'_> {
    fn contents_start(&self) -> usize {
        self.start + self.len - self.container.contents.len()
    }
}

/// A container to be made.
#[derive(Debug)]
struct NewContainer<'a> {
    shape: Shape,
    flags: u8,
    inside: NewElement<'a>,
}

/// The place of a new container or element.
#[derive(Debug)]
enum NewElement<'a> {
    /// The place is after this many nils.
    Padding(u32),
    Key(Cow<'a, [u8]>),
    /// The place is before the first element. Only an operation that makes nothing succeeds.
    Nowhere,
}

impl NewElement<'_> {
    /// Number of added elements, including the new one.
    const fn count(&self) -> u32 {
        match self {
            Self::Padding(nils) => nils.saturating_add(1),
            Self::Key(_) | Self::Nowhere => 1,
        }
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), ResultCode> {
        match self {
            Self::Padding(nils) if *nils as usize > CONTAINER_SIZE_MAX => {
                return Err(ResultCode::RecordTooBig);
            }
            Self::Padding(nils) => out.resize(out.len() + *nils as usize, 0xc0),
            Self::Key(key) => out.extend_from_slice(key),
            Self::Nowhere => return Err(ResultCode::OpNotApplicable),
        }
        Ok(())
    }
}

/// The containers and elements that must be made along the path.
#[derive(Debug, Default)]
struct Creation<'a> {
    /// The new element of the last existing container, if there is one.
    element: Option<NewElement<'a>>,
    containers: Vec<NewContainer<'a>>,
}

/// The result of following the steps.
#[derive(Debug)]
pub(crate) struct Path<'a> {
    stored: &'a [u8],
    levels: SmallVec<[Level<'a>; 2]>,
    /// The bytes of the value at the end of the path, or its future place if it must be made.
    target: Range<usize>,
    creation: Option<Creation<'a>>,
    budget: &'a Budget<'a>,
}

impl<'a> Path<'a> {
    /// Follows the steps in `reader` through the stored list or map (`None`: through what they create), and
    /// leaves `reader` after them. Also returns whether an argument of the steps cannot be stored.
    ///
    /// # Errors
    /// `Parameter` for an argument that is not a list of steps; `OpNotApplicable` for a step that leads
    /// nowhere.
    pub(crate) fn walk(
        stored: Option<&'a [u8]>,
        reader: &mut Reader<'a>,
        modifies: bool,
        budget: &'a Budget<'a>,
    ) -> Result<(Self, bool), ResultCode> {
        let count = reader.list_header().filter(|count| *count != 0 && count % 2 == 0);
        let count = count.ok_or(ResultCode::Parameter)? / 2;
        let bytes = stored.unwrap_or_default();
        let mut path =
            Self { stored: bytes, levels: SmallVec::new(), target: 0..bytes.len(), creation: None, budget };
        let mut holds_search = false;
        for left in (0..count).rev() {
            budget.draw(STEP_STEPS)?;
            let step = Step(reader.integer().ok_or(ResultCode::Parameter)?);
            if !step.is_valid() {
                return Err(ResultCode::OpNotApplicable);
            }
            if stored.is_none() {
                if !step.creates() {
                    return Err(ResultCode::OpNotApplicable);
                }
                let mut creation = Creation::default();
                creation.containers.push(NewContainer::parse(step, reader, true, budget)?);
                creation.add(left, reader, budget)?;
                path.creation = Some(creation);
                break;
            }
            if let Some(element) = path.go(step, reader, &mut holds_search)? {
                let mut creation = Creation { element: Some(element), containers: Vec::new() };
                if !modifies {
                    return Err(ResultCode::OpNotApplicable);
                }
                creation.add(left, reader, budget)?;
                path.creation = Some(creation);
                break;
            }
        }
        Ok((path, holds_search))
    }

    /// The value at the end of the path; `None` if it must be made.
    pub(crate) fn target(&self) -> Option<&'a [u8]> {
        if self.creation.is_some() { None } else { self.stored.get(self.target.clone()) }
    }

    /// Follows one step. Returns the element to make if the step finds none.
    fn go(
        &mut self,
        step: Step,
        reader: &mut Reader<'a>,
        holds_search: &mut bool,
    ) -> Result<Option<NewElement<'a>>, ResultCode> {
        let bytes = self.stored.get(self.target.clone()).ok_or(ResultCode::OpNotApplicable)?;
        let shape = match Reader::new(bytes).head() {
            Some(Head::List(_)) if step.0 & OF_MAP == 0 => Shape::List,
            Some(Head::Map(_)) if step.0 & OF_LIST == 0 => Shape::Map,
            _ => return Err(ResultCode::OpNotApplicable),
        };
        let container = Container::parse(shape, bytes, self.budget).ok_or(ResultCode::OpNotApplicable)?;
        let found = match shape {
            Shape::List => list_position(&container, step, reader, holds_search),
            Shape::Map => map_position(&container, step, reader, holds_search),
        };
        // An invalid step leads nowhere, and so does damage.
        let (position, element) = found.map_err(|_| ResultCode::OpNotApplicable)?;
        let contents_start = self.target.start + bytes.len() - container.contents.len();
        let range = if element.is_some() {
            let start = container.start_of(position).map_err(|_| ResultCode::OpNotApplicable)?;
            start..start
        } else {
            let range = container.range(position, 1).map_err(|_| ResultCode::OpNotApplicable)?;
            let key_len = match shape {
                Shape::List => 0,
                Shape::Map => {
                    let pair = container.slice(range.clone()).and_then(|pair| pair::split(pair, self.budget));
                    pair.map_err(|_| ResultCode::OpNotApplicable)?.0.len()
                }
            };
            range.start + key_len..range.end
        };
        self.levels.push(Level { start: self.target.start, container, len: bytes.len(), position });
        self.target = contents_start + range.start..contents_start + range.end;
        Ok(element)
    }

    /// The value of the bin with `inner` at the end of the path.
    ///
    /// # Errors
    /// `RecordTooBig` for a value that gets too large; `Parameter` for a damaged value.
    pub(crate) fn rebuild(&self, inner: &[u8]) -> Result<(Shape, Vec<u8>), ResultCode> {
        let mut inserted = Vec::with_capacity(inner.len() + 32);
        let mut new_containers: &[NewContainer<'_>] = &[];
        if let Some(creation) = &self.creation {
            new_containers = &creation.containers;
            if let Some(element) = &creation.element {
                element.put(&mut inserted)?;
            }
        }
        let Some((top, _)) = self.levels.split_first() else {
            let (top, rest) = new_containers.split_first().ok_or(ResultCode::Parameter)?;
            top.inside.put(&mut inserted)?;
            put_new(rest, &mut inserted, inner)?;
            return top.build(&inserted, self.budget);
        };
        put_new(new_containers, &mut inserted, inner)?;

        let contents = top.contents_start();
        let before = self.slice(contents..self.target.start)?;
        let after = self.slice(self.target.end..self.stored.len())?;
        let (head, skipped) = self.grown_header()?;
        let grown_at = self.levels.last().map_or(0, |parent| parent.start).saturating_sub(contents);
        let layout = Layout {
            shape: top.container.shape,
            flags: top.container.flags,
            count: top.container.count + if self.levels.len() == 1 { self.added_count() } else { 0 },
            contents_len: before.len() + head.len() - skipped + inserted.len() + after.len(),
            is_top: true,
        };
        let mut out = layout.begin(self.budget)?;
        let out_contents = out.len();
        let (outer, parent) = before.split_at_checked(grown_at).ok_or(ResultCode::Parameter)?;
        out.extend_from_slice(outer);
        out.extend_from_slice(&head);
        out.extend_from_slice(parent.get(skipped..).ok_or(ResultCode::Parameter)?);
        out.extend_from_slice(&inserted);
        out.extend_from_slice(after);
        for (depth, level) in self.levels.iter().enumerate().rev() {
            if level.container.shape == Shape::List && level.container.is_ordered() {
                let start = if depth == 0 { out_contents } else { out_contents + level.start - contents };
                level.restore_order(&mut out, start, depth == 0)?;
            }
        }
        Ok((layout.shape, layout.seal(out, self.budget)?))
    }

    fn slice(&self, range: Range<usize>) -> Result<&'a [u8], ResultCode> {
        self.stored.get(range).ok_or(ResultCode::Parameter)
    }

    /// Number of elements that are added to the last existing container.
    fn added_count(&self) -> u32 {
        let element = self.creation.as_ref().and_then(|creation| creation.element.as_ref());
        element.map_or(0, NewElement::count)
    }

    /// The new header of a container below the top to which elements are added, and the length of the old
    /// header.
    fn grown_header(&self) -> Result<(Vec<u8>, usize), ResultCode> {
        let added = self.added_count();
        let Some(parent) = self.levels.last().filter(|_| added != 0 && self.levels.len() > 1) else {
            return Ok((Vec::new(), 0));
        };
        let mut reader = Reader::new(self.slice(parent.start..self.stored.len())?);
        let mut header = Vec::with_capacity(5);
        let grown = |count: u32| count.checked_add(added).ok_or(ResultCode::RecordTooBig);
        match reader.head() {
            Some(Head::List(count)) => put_list_header(&mut header, grown(count)?),
            Some(Head::Map(count)) => put_map_header(&mut header, grown(count)?),
            _ => return Err(ResultCode::Parameter),
        }
        Ok((header, reader.position()))
    }
}

impl Level<'_> {
    /// Moves the changed element of an ordered list to its place. The list in `out` (at the top: its
    /// contents) begins at `start`.
    fn restore_order(&self, out: &mut [u8], start: usize, is_contents: bool) -> Result<(), ResultCode> {
        let contents = if is_contents {
            start
        } else {
            let bytes = out.get(start..).ok_or(ResultCode::Parameter)?;
            let list = Header::parse(Shape::List, bytes).ok_or(ResultCode::Parameter)?;
            out.len() - list.contents.len()
        };
        let old = &self.container;
        let element = contents + old.start_of(self.position)?;
        let end = end_of_metered(out, element, 1, old.budget).ok_or(ResultCode::Parameter)?;
        let old_len = if self.position == old.count { 0 } else { old.range(self.position, 1)?.len() };
        let value = out.get(element..end).ok_or(ResultCode::Parameter)?;
        let rank = find(old, value, 0, Among::First)?.rank;
        let place = contents + old.start_of(rank)?;
        let moved = end - element;
        old.budget.draw_for_copy(place.abs_diff(end))?;
        if rank < self.position {
            out.get_mut(place..end).ok_or(ResultCode::Parameter)?.rotate_right(moved);
        } else if rank > self.position + 1 {
            let place = place + moved - old_len;
            out.get_mut(element..place).ok_or(ResultCode::Parameter)?.rotate_left(moved);
        }
        Ok(())
    }
}

impl<'a> Creation<'a> {
    /// Reads the steps after the one that found nothing. All of them create.
    fn add(&mut self, count: u32, reader: &mut Reader<'a>, budget: &Budget<'_>) -> Result<(), ResultCode> {
        for _ in 0..count {
            budget.draw(STEP_STEPS)?;
            let step = Step(reader.integer().ok_or(ResultCode::OpNotApplicable)?);
            if !step.is_valid() || step.0 & CREATE_INDEX != 0 {
                return Err(ResultCode::OpNotApplicable);
            }
            self.containers.push(NewContainer::parse(step, reader, false, budget)?);
        }
        Ok(())
    }
}

impl<'a> NewContainer<'a> {
    fn parse(
        step: Step,
        reader: &mut Reader<'a>,
        is_top: bool,
        budget: &Budget<'_>,
    ) -> Result<Self, ResultCode> {
        let index_flag = if is_top && step.0 & CREATE_INDEX != 0 { flags::PERSIST_INDEX } else { 0 };
        match step.0 & (BASE_MASK | OF_LIST | OF_MAP) {
            0x22 => {
                let key =
                    reader.value().and_then(|key| normal(key, budget)).ok_or(ResultCode::OpNotApplicable)?;
                let order_flags = match step.0 & CREATE_MASK {
                    CREATE_KEY_ORDERED => flags::KEY_ORDERED,
                    CREATE_ORDERED => flags::KEY_ORDERED | flags::VALUE_ORDERED,
                    _ => 0,
                };
                Ok(Self { shape: Shape::Map, flags: order_flags | index_flag, inside: NewElement::Key(key) })
            }
            OF_LIST => {
                let index = reader.integer().map(u64::cast_signed).filter(|&index| index >= -1);
                let index = index.ok_or(ResultCode::OpNotApplicable)?;
                let (order_flags, nils) = match step.0 & CREATE_MASK {
                    CREATE_UNBOUNDED => (0, padding(index)),
                    CREATE_ORDERED => (flags::ORDERED, 0),
                    CREATE_UNORDERED if step.0 & CREATE_INDEX != 0 => (0, 0),
                    _ if index > 0 => return Err(ResultCode::OpNotApplicable),
                    _ => (0, 0),
                };
                let inside = NewElement::Padding(nils);
                Ok(Self { shape: Shape::List, flags: order_flags | index_flag, inside })
            }
            _ => Err(ResultCode::OpNotApplicable),
        }
    }

    fn layout(&self, contents_len: usize, is_top: bool) -> Layout {
        Layout { shape: self.shape, flags: self.flags, count: self.inside.count(), contents_len, is_top }
    }

    /// The bin's value: this container around `contents`.
    fn build(&self, contents: &[u8], budget: &Budget<'_>) -> Result<(Shape, Vec<u8>), ResultCode> {
        let layout = self.layout(contents.len(), true);
        let mut out = layout.begin(budget)?;
        out.extend_from_slice(contents);
        Ok((self.shape, layout.seal(out, budget)?))
    }
}

/// Appends new containers, each inside the previous one, and `inner` inside the last.
fn put_new(containers: &[NewContainer<'_>], out: &mut Vec<u8>, inner: &[u8]) -> Result<(), ResultCode> {
    for container in containers {
        // The head of a container below the top does not depend on the size of what it contains.
        container.layout(0, false).put_head(out);
        container.inside.put(out)?;
    }
    out.extend_from_slice(inner);
    Ok(())
}

/// Number of nils before a new element.
fn padding(nils: i64) -> u32 {
    u32::try_from(nils.max(0)).unwrap_or(u32::MAX)
}

/// The position of the list element that a step leads to, or the place where one is to be made.
fn list_position<'a>(
    list: &Container<'_>,
    step: Step,
    reader: &mut Reader<'a>,
    holds_search: &mut bool,
) -> Result<(u32, Option<NewElement<'a>>), ResultCode> {
    let nowhere = ResultCode::OpNotApplicable;
    match step.0 & BASE_MASK {
        1 if !list.is_ordered() => {
            let rank = reader.integer().ok_or(nowhere)?.cast_signed();
            let window = Window::new(rank, 1, list.count, false).ok_or(nowhere)?;
            let position = pick_ranks(list, window)?.positions.first().copied().ok_or(nowhere)?;
            Ok((position, None))
        }
        0 | 1 => {
            let index = reader.integer().ok_or(nowhere)?.cast_signed();
            if let Some(window) = Window::new(index, 1, list.count, false) {
                return Ok((window.start, None));
            }
            let total = i64::from(list.count);
            let unbounded = step.0 & (CREATE_MASK | CREATE_INDEX) == CREATE_UNBOUNDED;
            let element = if !step.creates() {
                return Err(nowhere);
            } else if index == total || (index == -1 && total == 0) {
                NewElement::Padding(0)
            } else if list.is_ordered() && (index > 0 || step.0 & BASE_MASK == 1) {
                // Its value determines its place.
                NewElement::Padding(0)
            } else if index < 0 && (list.is_ordered() || unbounded) {
                NewElement::Nowhere
            } else if unbounded {
                NewElement::Padding(padding(index - total))
            } else {
                return Err(nowhere);
            };
            Ok((list.count, Some(element)))
        }
        3 => {
            let value = reader.value().ok_or(nowhere)?;
            *holds_search |= holds_search_value(value);
            let position = if list.is_ordered() {
                let found = find(list, value, 0, Among::First)?;
                found.is_equal.then_some(found.rank)
            } else {
                position_of(elements(list)?, value, list.budget)?
            };
            Ok((position.ok_or(nowhere)?, None))
        }
        _ => Err(nowhere),
    }
}

/// The position of the map pair that a step leads to, or the place where one is to be made.
fn map_position<'a>(
    map: &Container<'_>,
    step: Step,
    reader: &mut Reader<'a>,
    holds_search: &mut bool,
) -> Result<(u32, Option<NewElement<'a>>), ResultCode> {
    let nowhere = ResultCode::OpNotApplicable;
    let window = |reader: &mut Reader<'a>| {
        let index = reader.integer()?.cast_signed();
        Window::new(index, 1, map.count, false)
    };
    let position = match step.0 & BASE_MASK {
        0 => map::position_by_index(map, window(reader).ok_or(nowhere)?.start)?,
        1 => map::position_by_rank(map, window(reader).ok_or(nowhere)?.start)?,
        2 => {
            let key = reader.value().ok_or(nowhere)?;
            *holds_search = holds_search_value(key);
            let key = normal(key, map.budget).ok_or(nowhere)?;
            let place = map::find_place(map, &key)?;
            if !place.is_found {
                let element = NewElement::Key(key);
                return if step.creates() { Ok((place.position, Some(element))) } else { Err(nowhere) };
            }
            place.position
        }
        _ => {
            let value = reader.value().ok_or(nowhere)?;
            *holds_search |= holds_search_value(value);
            map::position_by_value(map, value)?.ok_or(nowhere)?
        }
    };
    Ok((position, None))
}

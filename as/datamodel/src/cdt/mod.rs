//! Lists and maps: collection data types, operations on them, and their forms.
//!
//! A bin's list or map is one run of bytes (see `container`), and operations work on ranges of it: they find elements
//! by walking, by offsets that a walk left behind, or by the index that some containers carry, and copy what they keep
//! into the new value once. No trees are built. Results are those of the established server to the byte, errors
//! included; where the order of values leaves a choice (equal values, NaN), the algorithms of `order` make it.
//!
//! What clients send may be hostile, and what is stored may be damaged: both end in result codes. No function recurses
//! with the depth of a value, and memory is bounded by the sizes of the bin and the call.
//!
//! ```text
//! call, context   what an operation is, and which container inside the bin it is for
//! list, map       operations: select elements to return or remove, or add and change some
//! normal          values of clients in the form that is stored
//! container       the stored form, read; layout, index: written; pick: written without or with some elements
//! order, items    sorting, searching, ranks, lists of values; window: indexes and counts
//! result          answers
//! ```

mod call;
mod container;
mod context;
mod index;
mod items;
mod layout;
mod list;
mod map;
mod normal;
mod number;
mod order;
mod pair;
mod path;
mod pick;
mod result;
#[cfg(test)]
mod tests;
mod window;
mod wire;

use std::borrow::Cow;

use proto::ResultCode;

use self::call::{CONTEXT_EVAL, Call};
use self::container::{Container, Shape, flags};
use self::layout::Layout;
use self::result::ResultValue;
use crate::budget::Budget;
use crate::change::{Change, Modified};
use crate::particle::{BytesType, Particle};

/// Price of an operation, whatever it does.
const CALL_STEPS: u64 = 50;

pub use self::wire::{WireForm, list_from_wire, list_to_wire, map_from_wire, map_to_wire};

/// Carries out the read operation (operation 3) that is `payload` on a bin, or on any other value. Without a value there
/// is no answer, whatever the payload. Neither is there one for nil.
///
/// # Errors
/// `Parameter` for a bad payload or context; `IncompatibleType` when the value (or what the context leads to) is not the
/// list or map that the operation is for; `OpNotApplicable` for what is not there; `Unknown` for an element that no bin
/// can hold.
pub fn read(
    bin: Option<&Particle<'_>>,
    payload: &[u8],
    budget: &Budget<'_>,
) -> Result<Option<Particle<'static>>, ResultCode> {
    let Some(bin) = bin else { return Ok(None) };
    budget.draw(CALL_STEPS + payload.len() as u64 / 8)?;
    budget.check(read_bin(bin, payload, budget))
}

fn read_bin(bin: &Particle<'_>, payload: &[u8], budget: &Budget<'_>) -> Result<ResultValue, ResultCode> {
    let call = Call::parse(payload, budget)?;
    let (call, target) = if call.code == CONTEXT_EVAL {
        context::find(bin, &call)?
    } else {
        (call, top_container(bin).ok_or(ResultCode::IncompatibleType)?)
    };
    let (shape, bytes) = target;
    if call.is_for_list() != (shape == Shape::List) {
        return Err(ResultCode::IncompatibleType);
    }
    match shape {
        Shape::List => {
            let list = Container::parse(shape, bytes, budget).ok_or(ResultCode::IncompatibleType)?;
            list::read(&list, &call)
        }
        Shape::Map => {
            let map = Container::parse(shape, bytes, budget).ok_or(ResultCode::Parameter)?;
            map::read(&map, &call)
        }
    }
}

/// Carries out the modify operation (operation 4) that is `payload` on a bin, on any other value, or where there is
/// none.
///
/// # Errors
/// As [`read`]; `ElementExists` and `ElementNotFound` as flags say; `RecordTooBig` for a value larger than any record.
pub fn modify(
    bin: Option<&Particle<'_>>,
    payload: &[u8],
    budget: &Budget<'_>,
) -> Result<Modified, ResultCode> {
    budget.draw(CALL_STEPS + payload.len() as u64 / 8)?;
    budget.check(modify_bin(bin, payload, budget))
}

fn modify_bin(
    bin: Option<&Particle<'_>>,
    payload: &[u8],
    budget: &Budget<'_>,
) -> Result<Modified, ResultCode> {
    let call = Call::parse(payload, budget)?;
    if call.code == CONTEXT_EVAL {
        return context::modify(bin, &call);
    }
    let shape = if call.is_for_list() { Shape::List } else { Shape::Map };
    let container = match bin.map(top_container) {
        None => None,
        Some(Some((found, bytes))) if found == shape => {
            Some(Container::parse(shape, bytes, budget).ok_or(ResultCode::Parameter)?)
        }
        Some(_) => return Err(ResultCode::IncompatibleType),
    };
    let presence = if container.is_some() { Presence::Present } else { Presence::Absent };
    let scope = Scope { presence, is_top: true, allows_index: true };
    let (outcome, result) = change(shape, container.as_ref(), &call, scope)?;
    let bin = match outcome {
        ContainerChange::Kept | ContainerChange::Touched => Change::Unchanged,
        ContainerChange::Replaced(bytes) => Change::Set(particle(shape, bytes)),
    };
    Ok(Modified { bin, result })
}

/// The value that a context (a msgpack list of steps) leads to in a bin's list or map; none if it leads nowhere or to
/// nil. Steps that would create something are not for this. Means nothing if the budget is exhausted then.
#[must_use]
pub fn value_at(bin: &Particle<'_>, context: &[u8], budget: &Budget<'_>) -> Option<Particle<'static>> {
    context::value_at(bin, context, budget)
}

/// Carries out a call on a container.
fn change(
    shape: Shape,
    container: Option<&Container<'_>>,
    call: &Call<'_>,
    scope: Scope,
) -> Result<(ContainerChange, ResultValue), ResultCode> {
    match shape {
        Shape::List => list::modify(container, call, scope),
        Shape::Map => map::modify(container, call, scope),
    }
}

/// The list or map that a bin is.
fn top_container<'p>(bin: &'p Particle<'_>) -> Option<(Shape, &'p [u8])> {
    match bin {
        Particle::Bytes(BytesType::List, bytes) => Some((Shape::List, bytes)),
        Particle::Bytes(BytesType::Map, bytes) => Some((Shape::Map, bytes)),
        _ => None,
    }
}

fn particle(shape: Shape, bytes: Vec<u8>) -> Particle<'static> {
    let bytes_type = match shape {
        Shape::List => BytesType::List,
        Shape::Map => BytesType::Map,
    };
    Particle::Bytes(bytes_type, Cow::Owned(bytes))
}

/// What an operation makes of a container.
#[derive(Clone, PartialEq, Debug)]
enum ContainerChange {
    /// Nothing.
    Kept,
    /// Nothing, but the container is there afterwards.
    Touched,
    /// Other bytes.
    Replaced(Vec<u8>),
}

impl ContainerChange {
    /// The outcome when there was no container before. At the top of a bin, any operation that could have made one
    /// did; `flags` are those it has then, `touched_flags` those of one that a context makes.
    fn created(self, shape: Shape, flags: u8, touched_flags: u8, scope: Scope) -> Self {
        match (self, scope.presence) {
            (Self::Kept | Self::Touched, Presence::Absent) => {
                Self::Replaced(Layout::empty(shape, flags, true))
            }
            (Self::Touched, Presence::Created) => Self::Replaced(Layout::empty(shape, touched_flags, false)),
            (outcome, _) => outcome,
        }
    }
}

/// Whether the container of an operation is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presence {
    Present,
    /// There is no bin.
    Absent,
    /// The steps of the context make it.
    Created,
}

/// Where the container of an operation is.
#[derive(Clone, Copy, Debug)]
struct Scope {
    presence: Presence,
    /// At the top of its bin.
    is_top: bool,
    /// It may be flagged to have an index. Also when the context makes all of the bin: the flag then stays without effect
    /// on a container that is not at the top.
    allows_index: bool,
}

impl Scope {
    const fn is_bin_missing(self) -> bool {
        match self.presence {
            Presence::Present => false,
            Presence::Absent => true,
            Presence::Created => self.allows_index,
        }
    }

    /// The flags to set that an argument says.
    ///
    /// # Errors
    /// `OpNotApplicable` for flags that do not exist.
    fn set_flags(self, shape: Shape, argument: u64) -> Result<u8, ResultCode> {
        let flags = argument.to_le_bytes()[0];
        if flags & !shape.storable_flags() != 0 {
            return Err(ResultCode::OpNotApplicable);
        }
        Ok(if self.allows_index { flags } else { flags & !flags::PERSIST_INDEX })
    }

    /// The flags of a container that an operation creates, of an argument that may be anything.
    fn creation_flags(self, shape: Shape, argument: u64) -> u8 {
        let mut flags = argument.to_le_bytes()[0];
        if !self.allows_index {
            flags &= !flags::PERSIST_INDEX;
        }
        if flags & !shape.storable_flags() == 0 { flags } else { 0 }
    }
}

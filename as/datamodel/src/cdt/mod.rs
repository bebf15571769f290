//! Lists and maps (collection data types): their operations and forms.
//!
//! A bin's list or map is one run of bytes (see `container`), and operations work on ranges of it: they find
//! elements by walking, by offsets from an earlier walk, or by the index that some containers have. Ranges
//! that are kept are copied into the new value once. Operations build no trees. Results equal those of the C
//! server to the byte, errors included. If the order of values leaves a choice (equal values, NaN), the
//! algorithms of `order` decide.
//!
//! Hostile bytes from clients and damaged stored bytes lead to result codes. No function recurses with the
//! depth of a value, and the sizes of the bin and the call bound the memory.
//!
//! ```text
//! call, context   what an operation is, and which container inside the bin it is for
//! list, map       operations: select elements to return or remove, or add and change some
//! normal          values of clients in the form that is stored
//! container       the stored form, read; layout, index: written; pick: written without or with some elements
//! order, items    sorting, searching, ranks, lists of values; window: indexes and counts
//! apply, scope    dispatch to lists and maps; where a container is
//! result          answers
//! refusal         why an operation was refused
//! ```

mod apply;
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
mod refusal;
mod result;
mod scope;
#[cfg(test)]
mod tests;
mod window;
mod wire;

use proto::ResultCode;

use self::apply::{change, particle, top_container};
use self::call::{CONTEXT_EVAL, Call};
use self::container::{Container, Shape};
use self::result::ResultValue;
use self::scope::{ContainerChange, Presence, Scope};
use crate::budget::Budget;
use crate::change::{Change, Modified};
use crate::particle::Particle;

/// Base price of any operation.
const CALL_STEPS: u64 = 50;

pub(crate) use self::container::{Header, Shape as ContainerShape};
pub(crate) use self::normal::is_shortest;
pub(crate) use self::refusal::explain;
pub use self::wire::{WireForm, list_from_wire, list_to_wire, map_from_wire, map_to_wire};

/// Answers the read operation (operation 3) `payload` on a bin or any other value. There is no answer for a
/// missing value or nil, whatever the payload is.
///
/// # Errors
/// `Parameter` for an invalid payload or context; `IncompatibleType` when the value (or the target of the
/// context) is not the list or map that the operation is for; `OpNotApplicable` for a missing element;
/// `Unknown` for an element that no bin can hold.
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

/// Applies the modify operation (operation 4) `payload` to a bin, to any other value, or to none.
///
/// # Errors
/// The errors of [`read`]; `ElementExists` and `ElementNotFound` as the flags say; `RecordTooBig` for a value larger
/// than any record.
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

/// The value that a context (a msgpack list of steps) leads to in a bin's list or map; `None` if it leads
/// nowhere or to nil. The steps must not be ones that create elements. The result is meaningless if the
/// budget is exhausted.
#[must_use]
pub fn value_at(bin: &Particle<'_>, context: &[u8], budget: &Budget<'_>) -> Option<Particle<'static>> {
    context::value_at(bin, context, budget)
}

//! Calls on a container inside the list or map of a bin.

use cf::msgpack::{Head, Reader};
use proto::ResultCode;

use super::call::Call;
use super::container::{Container, Shape};
use super::path::Path;
use super::result::element;
use super::{ContainerChange, Presence, Scope, change, particle, top_container};
use crate::budget::Budget;
use crate::change::{Change, Modified};
use crate::particle::Particle;

/// The call inside a call with context, and the container that the context leads to.
///
/// # Errors
/// Those of [`read`](super::read).
pub(super) fn find<'b>(
    bin: &'b Particle<'_>,
    call: &Call<'b>,
) -> Result<(Call<'b>, (Shape, &'b [u8])), ResultCode> {
    let mut reader = call.context()?;
    let (_, stored) = top_container(bin).ok_or(ResultCode::Parameter)?;
    let (path, holds_search) = Path::walk(Some(stored), &mut reader, false, call.budget)?;
    let inner = Call::from_reader(reader, holds_search, call.budget).ok_or(ResultCode::Parameter)?;
    let target = path.target().and_then(shaped).ok_or(ResultCode::IncompatibleType)?;
    Ok((inner, target))
}

/// Applies a modify call with a context.
///
/// # Errors
/// Those of [`modify`](super::modify).
pub(super) fn modify(bin: Option<&Particle<'_>>, call: &Call<'_>) -> Result<Modified, ResultCode> {
    let mut reader = call.context()?;
    let stored = match bin {
        None => None,
        Some(bin) => Some(top_container(bin).ok_or(ResultCode::Parameter)?.1),
    };
    let (path, holds_search) = Path::walk(stored, &mut reader, true, call.budget)?;
    let inner = Call::from_reader(reader, holds_search, call.budget).ok_or(ResultCode::Parameter)?;
    let shape = if inner.is_for_list() { Shape::List } else { Shape::Map };
    let container = match path.target() {
        None => None,
        Some(target) => match shaped(target) {
            Some((found, bytes)) if found == shape => {
                Some(Container::parse(shape, bytes, call.budget).ok_or(ResultCode::Parameter)?)
            }
            _ => return Err(ResultCode::IncompatibleType),
        },
    };
    let presence = if container.is_some() { Presence::Present } else { Presence::Created };
    let scope = Scope { presence, is_top: false, allows_index: stored.is_none() };
    let (outcome, result) = change(shape, container.as_ref(), &inner, scope)?;
    let bin = match outcome {
        ContainerChange::Kept | ContainerChange::Touched => Change::Unchanged,
        ContainerChange::Replaced(bytes) => {
            let (shape, bytes) = path.rebuild(&bytes)?;
            Change::Set(particle(shape, bytes))
        }
    };
    Ok(Modified { bin, result })
}

/// The value that a context leads to.
pub(super) fn value_at(bin: &Particle<'_>, context: &[u8], budget: &Budget<'_>) -> Option<Particle<'static>> {
    let (_, stored) = top_container(bin)?;
    let mut steps = Reader::new(context);
    let count = steps.list_header()?;
    for _ in 0..count / 2 {
        let step = steps.integer()?.to_le_bytes()[0];
        if step > 0x23 || step & 0x0f > 3 || step == 0x12 {
            return None;
        }
        steps.skip_metered(1, budget)?;
    }
    let (path, _) = Path::walk(Some(stored), &mut Reader::new(context), false, budget).ok()?;
    element(path.target()?, budget).ok()?
}

/// The list or map in `bytes`.
fn shaped(bytes: &[u8]) -> Option<(Shape, &[u8])> {
    match Reader::new(bytes).head()? {
        Head::List(_) => Some((Shape::List, bytes)),
        Head::Map(_) => Some((Shape::Map, bytes)),
        _ => None,
    }
}

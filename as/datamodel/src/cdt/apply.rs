//! Applies calls to lists and maps, and converts between bins and containers.

use std::borrow::Cow;

use proto::ResultCode;

use super::call::Call;
use super::container::{Container, Shape};
use super::result::ResultValue;
use super::scope::{ContainerChange, Scope};
use super::{list, map};
use crate::particle::{BytesType, Particle};

/// Applies a call to a container.
pub(super) fn change(
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

/// The list or map in a bin.
pub(super) fn top_container<'p>(bin: &'p Particle<'_>) -> Option<(Shape, &'p [u8])> {
    match bin {
        Particle::Bytes(BytesType::List, bytes) => Some((Shape::List, bytes)),
        Particle::Bytes(BytesType::Map, bytes) => Some((Shape::Map, bytes)),
        _ => None,
    }
}

pub(super) fn particle(shape: Shape, bytes: Vec<u8>) -> Particle<'static> {
    let bytes_type = match shape {
        Shape::List => BytesType::List,
        Shape::Map => BytesType::Map,
    };
    Particle::Bytes(bytes_type, Cow::Owned(bytes))
}

//! HyperLogLog values: sketches of sets. From a sketch follows how many elements were added, and, with
//! minhash bits, how similar two sets are.
//!
//! [`sketch`] has the form of a sketch, [`hash`] the hash that places an element, [`estimate`] the numbers
//! computed from a sketch. A request is a msgpack list of a code and its arguments ([`arguments`] has the
//! tables). An operation on several sketches first reduces all of them to the smallest of their sizes.

mod arguments;
mod estimate;
mod explain;
pub mod flags;
mod hash;
mod sketch;
#[cfg(test)]
mod tests;

use arguments::{Arguments, ModifyOperator, ReadOperator, Sketches};
use cf::msgpack::{put_list_header, put_unsigned};
pub(crate) use explain::{explain_modify, explain_read};
use proto::ResultCode;
use sketch::{Filling, Registers, Sketch, SketchShape};

use crate::budget::Budget;
use crate::change::{Change, Modified};
use crate::particle::{BytesType, Particle};

/// Base price of any operation.
const OPERATION_STEPS: u64 = 20;
/// Price of an element besides its bytes.
const ELEMENT_STEPS: u64 = 20;

/// Checks a value that a client writes into a bin.
///
/// # Errors
/// `Parameter` unless it is a sketch for which one hash is long enough.
pub fn check_wire(bytes: &[u8]) -> Result<(), ResultCode> {
    match Sketch::parse(bytes) {
        Some(sketch) if sketch.shape.fits_hash() => Ok(()),
        _ => Err(ResultCode::Parameter),
    }
}

/// Answers the read operation `payload` on `bin`. There is no answer for a bin that does not exist.
///
/// # Errors
/// `Parameter` for a malformed request, `IncompatibleType` unless the bin is a sketch, `Unknown` if the
/// sketch is damaged, and the errors of [`Read::apply`].
pub fn read(
    bin: Option<&Particle<'_>>,
    payload: &[u8],
    budget: &Budget<'_>,
) -> Result<Option<Particle<'static>>, ResultCode> {
    let Some(particle) = bin else { return Ok(None) };
    budget.draw(OPERATION_STEPS + payload.len() as u64)?;
    let unread = arguments::parse_read(payload)?;
    let sketch = sketch_of(particle)?;
    let (operator, arguments) = unread.finish()?;
    Read { operator, arguments }.apply_to(sketch, budget).map(Some)
}

/// Applies the modify operation `payload` to `bin`.
///
/// # Errors
/// Those of [`read`] and [`Modify::apply`].
pub fn modify(
    bin: Option<&Particle<'_>>,
    payload: &[u8],
    budget: &Budget<'_>,
) -> Result<Modified, ResultCode> {
    budget.draw(OPERATION_STEPS + payload.len() as u64)?;
    let unread = arguments::parse_modify(payload)?;
    let sketch = bin.map(sketch_of).transpose()?;
    let (operator, arguments) = unread.finish()?;
    Modify { operator, arguments }.apply_to(sketch, budget)
}

/// A parsed read operation. It can be applied any number of times.
#[derive(Clone, Debug, PartialEq)]
pub struct Read<'a> {
    operator: ReadOperator,
    arguments: Arguments<'a>,
}

impl<'a> Read<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// `Parameter` for an unknown code or arguments out of bounds.
    pub fn parse(payload: &'a [u8]) -> Result<Self, ResultCode> {
        let (operator, arguments) = arguments::parse_read(payload)?.finish()?;
        Ok(Read { operator, arguments })
    }

    /// The result of the operation on `particle`: a sketch, a list of index and minhash bits, a similarity as a
    /// float, or an integer.
    ///
    /// # Errors
    /// `IncompatibleType` unless it is a sketch, `Unknown` if the sketch is damaged; `OpNotApplicable` for an
    /// intersection of more than three without minhash bits.
    pub fn apply(
        &self,
        particle: &Particle<'_>,
        budget: &Budget<'_>,
    ) -> Result<Particle<'static>, ResultCode> {
        self.apply_to(sketch_of(particle)?, budget)
    }

    /// Price of the operation.
    fn steps(&self, sketch: &Sketch<'_>) -> u64 {
        let Arguments { sketches, elements, .. } = &self.arguments;
        let all = sketches.iter().chain([sketch]).map(walk_steps).sum::<u64>();
        match self.operator {
            ReadOperator::Count if sketch.cached_count().is_some() => 0,
            ReadOperator::Count | ReadOperator::Union | ReadOperator::UnionCount => 2 * all,
            // Three sketches without minhash bits need the counts of all their unions.
            ReadOperator::IntersectCount | ReadOperator::Similarity => 8 * all,
            ReadOperator::MayContain => elements.len() * ELEMENT_STEPS,
            ReadOperator::Describe => 0,
        }
    }

    fn apply_to(&self, sketch: Sketch<'_>, budget: &Budget<'_>) -> Result<Particle<'static>, ResultCode> {
        let integer = |count: u64| Particle::Integer(count.cast_signed());
        let given = &self.arguments.sketches;
        let intersects = matches!(self.operator, ReadOperator::IntersectCount | ReadOperator::Similarity);
        if intersects && given.len() > 2 {
            // The parser has checked that the sketches of the request agree.
            let minhash_bits = given.first().map_or(0, |first| first.shape.minhash_bits);
            if sketch.shape.minhash_bits != minhash_bits {
                return Err(ResultCode::OpNotApplicable);
            }
        }
        budget.draw(self.steps(&sketch))?;
        // The order matters when registers are merged.
        let all = || given.iter().copied().chain([sketch]).collect::<Sketches<'_>>();
        Ok(match self.operator {
            ReadOperator::Count => integer(estimate::count(&sketch)),
            ReadOperator::Union => {
                let sketches = all();
                let union = Registers::union(SketchShape::common(&sketches), &sketches);
                Particle::owned(BytesType::Hll, union.pack())
            }
            ReadOperator::UnionCount => integer(estimate::union_count(&all())),
            ReadOperator::IntersectCount => integer(estimate::intersect_count(&all())),
            ReadOperator::Similarity => Particle::Float(estimate::similarity(&all())),
            ReadOperator::Describe => {
                let mut list = Vec::with_capacity(3);
                put_list_header(&mut list, 2);
                put_unsigned(&mut list, sketch.shape.index_bits.into());
                put_unsigned(&mut list, sketch.shape.minhash_bits.into());
                Particle::owned(BytesType::List, list)
            }
            ReadOperator::MayContain => {
                let contains = |hash| {
                    let (index, trace) = sketch.shape.trace(hash);
                    trace <= sketch.register(index)
                };
                integer(self.arguments.elements.hashes().all(contains).into())
            }
        })
    }
}

/// A parsed modify operation. It can be applied any number of times.
#[derive(Clone, Debug, PartialEq)]
pub struct Modify<'a> {
    operator: ModifyOperator,
    arguments: Arguments<'a>,
}

impl<'a> Modify<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// `Parameter` for an unknown code, arguments out of bounds or flags that the code does not allow.
    pub fn parse(payload: &'a [u8]) -> Result<Self, ResultCode> {
        let (operator, arguments) = arguments::parse_modify(payload)?.finish()?;
        Ok(Modify { operator, arguments })
    }

    /// The sketch that results from the operation on `bin`. Adding returns how many elements were new, and
    /// refreshing the count returns the count. Other operations return nothing.
    ///
    /// # Errors
    /// `BinExists` or `BinNotFound` by the flags; `IncompatibleType` unless the bin is a sketch, `Unknown` if
    /// the sketch is damaged; `OpNotApplicable` for a sketch of unknown size, and for a union or fold that
    /// would lose data without permission.
    pub fn apply(&self, bin: Option<&Particle<'_>>, budget: &Budget<'_>) -> Result<Modified, ResultCode> {
        self.apply_to(bin.map(sketch_of).transpose()?, budget)
    }

    fn apply_to(&self, old: Option<Sketch<'_>>, budget: &Budget<'_>) -> Result<Modified, ResultCode> {
        let flags = self.arguments.flags;
        let forbidden = match old {
            Some(_) if flags & flags::CREATE_ONLY != 0 => Some(ResultCode::BinExists),
            None if flags & flags::UPDATE_ONLY != 0 => Some(ResultCode::BinNotFound),
            _ => None,
        };
        if let Some(code) = forbidden {
            return if flags & flags::NO_FAIL != 0 { Ok(Modified::NOTHING) } else { Err(code) };
        }
        budget.draw(self.steps(old))?;
        match self.operator {
            ModifyOperator::Init => self.shape(old).map(|shape| set(sketch::empty(shape))),
            ModifyOperator::Add => self.add(old),
            ModifyOperator::Union => self.union(old),
            ModifyOperator::RefreshCount => refresh_count(old.ok_or(ResultCode::BinNotFound)?),
            ModifyOperator::Fold => self.fold(old.ok_or(ResultCode::BinNotFound)?),
        }
    }

    /// Price of the operation.
    fn steps(&self, old: Option<Sketch<'_>>) -> u64 {
        let Arguments { index_bits, sketches, elements, .. } = &self.arguments;
        let old_steps = old.as_ref().map_or(0, walk_steps);
        match self.operator {
            ModifyOperator::Init => 1 << index_bits.unwrap_or(0),
            // The sketch is copied.
            ModifyOperator::Add => old_steps / 4 + elements.len() * ELEMENT_STEPS,
            ModifyOperator::Union => 2 * old_steps + 2 * sketches.iter().map(walk_steps).sum::<u64>(),
            ModifyOperator::RefreshCount | ModifyOperator::Fold => 2 * old_steps,
        }
    }

    /// The shape that the request gives. The existing sketch supplies what the request leaves open.
    fn shape(&self, old: Option<Sketch<'_>>) -> Result<SketchShape, ResultCode> {
        let Arguments { index_bits, minhash_bits, .. } = self.arguments;
        let old = old.map(|sketch| sketch.shape);
        let index_bits = index_bits.or(old.map(|old| old.index_bits));
        let shape = SketchShape {
            index_bits: index_bits.ok_or(ResultCode::OpNotApplicable)?,
            minhash_bits: minhash_bits.or(old.map(|old| old.minhash_bits)).unwrap_or(0),
        };
        if shape.fits_hash() { Ok(shape) } else { Err(ResultCode::OpNotApplicable) }
    }

    fn add(&self, old: Option<Sketch<'_>>) -> Result<Modified, ResultCode> {
        let mut filling = match old {
            Some(sketch) => Filling::of(sketch),
            None => Filling::empty(self.shape(None)?),
        };
        for hash in self.arguments.elements.hashes() {
            filling.add(hash);
        }
        let result = Some(Particle::Integer(filling.added.cast_signed()));
        let bin = filling.changed().map_or(Change::Unchanged, |bytes| set(bytes).bin);
        Ok(Modified { bin, result })
    }

    fn union(&self, old: Option<Sketch<'_>>) -> Result<Modified, ResultCode> {
        let sketches: Sketches<'_> = self.arguments.sketches.iter().copied().chain(old).collect();
        let shape = SketchShape::common(&sketches);
        let may_fold = self.arguments.flags & flags::ALLOW_FOLD != 0;
        if !may_fold && old.is_some_and(|old| old.shape != shape) {
            return Err(ResultCode::OpNotApplicable);
        }
        Ok(set(Registers::union(shape, &sketches).pack()))
    }

    fn fold(&self, old: Sketch<'_>) -> Result<Modified, ResultCode> {
        match self.arguments.index_bits {
            Some(index_bits) if old.shape.minhash_bits == 0 && index_bits <= old.shape.index_bits => {
                if index_bits == old.shape.index_bits {
                    return Ok(Modified::NOTHING);
                }
                let shape = SketchShape { index_bits, minhash_bits: 0 };
                Ok(set(Registers::union(shape, &[old]).pack()))
            }
            _ => Err(ResultCode::OpNotApplicable),
        }
    }
}

fn refresh_count(old: Sketch<'_>) -> Result<Modified, ResultCode> {
    let count = estimate::count(&old);
    let mut bytes = old.bytes().to_vec();
    sketch::set_cached_count(&mut bytes, count);
    Ok(Modified { bin: set(bytes).bin, result: Some(Particle::Integer(count.cast_signed())) })
}

fn set(sketch: Vec<u8>) -> Modified {
    Modified::set(Particle::owned(BytesType::Hll, sketch))
}

/// Price of a walk over the registers.
fn walk_steps(sketch: &Sketch<'_>) -> u64 {
    2 * sketch.shape.register_count() as u64
}

fn sketch_of<'p>(particle: &'p Particle<'_>) -> Result<Sketch<'p>, ResultCode> {
    match particle {
        Particle::Bytes(BytesType::Hll, bytes) => match Sketch::parse(bytes) {
            Some(sketch) if sketch.shape.fits_hash() => Ok(sketch),
            _ => Err(ResultCode::Unknown),
        },
        _ => Err(ResultCode::IncompatibleType),
    }
}

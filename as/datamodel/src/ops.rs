//! Applies a request's ops to the bins of one record, and writes their answers.
//!
//! [`WritePolicy`] has the rules for combinations of ops; [`apply`], [`read`] and [`read_expression`] apply
//! one op each. An op that fails ends the request, and the caller then drops the bins.

use proto::ResultCode;
use proto::message::{Op, Request, info1, info2, info3, op_code};
use proto::reply::ReplyWriter;

use crate::bins::{BIN_COUNT_MAX, Bins, check_name};
use crate::budget::Budget;
use crate::change::{Change, Modified};
use crate::exp::{Metadata, Record};
use crate::particle::{Particle, type_number};
use crate::{bits, cdt, exp, hll};

/// Largest number of ops of a request.
pub const OP_COUNT_MAX: u16 = 32_768;
/// Maximum size that the bins made by the ops of one request may have together at any time, in bytes: a few
/// times the size of a record. Small bins are not counted.
const MADE_SIZE_MAX: usize = 32 << 20;
/// Base price of any op.
const OP_STEPS: u64 = 20;
const SMALL_BIN_SIZE: usize = 4 << 10;

/// The combined meaning of a write request's flags and ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritePolicy {
    /// The record must exist.
    pub must_exist: bool,
    /// A live record must not exist.
    pub create_only: bool,
    /// The record's existing bins are dropped first.
    pub replace: bool,
    /// Every op is answered, in order.
    pub respond_all: bool,
    /// An op without a name returns all bins.
    pub read_all: bool,
}

impl WritePolicy {
    /// Checks the flags and ops of a write request against each other.
    ///
    /// # Errors
    /// `Parameter` for combinations without a meaning, `BinName` for an invalid name.
    pub fn of(request: &Request<'_>) -> Result<Self, ResultCode> {
        if request.op_count() == 0 || request.op_count() > OP_COUNT_MAX {
            return Err(ResultCode::Parameter);
        }
        let replace_only = request.info3 & info3::REPLACE_ONLY != 0;
        let mut policy = WritePolicy {
            must_exist: request.info3 & info3::UPDATE_ONLY != 0 || replace_only,
            create_only: request.info2 & info2::CREATE_ONLY != 0,
            replace: request.info3 & info3::CREATE_OR_REPLACE != 0 || replace_only,
            respond_all: request.info2 & info2::RESPOND_ALL_OPS != 0,
            read_all: request.info1 & info1::GET_ALL != 0,
        };
        let (mut reads, mut read_all_ops, mut answers) = (false, 0, false);
        for op in request.ops() {
            if op.code == op_code::TOUCH {
                if policy.replace {
                    return Err(ResultCode::Parameter);
                }
                policy.must_exist = true;
                continue;
            }
            check_name(op.name)?;
            if policy.replace && changes_existing(&op) {
                return Err(ResultCode::Parameter);
            }
            match op.code {
                op_code::READ if policy.read_all && op.name.is_empty() => {
                    read_all_ops += 1;
                    reads = true;
                    if policy.respond_all || read_all_ops > 1 {
                        return Err(ResultCode::Parameter);
                    }
                }
                op_code::READ
                | op_code::CDT_READ
                | op_code::BITS_READ
                | op_code::HLL_READ
                | op_code::EXP_READ => {
                    reads = true;
                    answers = true;
                }
                op_code::CDT_MODIFY | op_code::HLL_MODIFY => answers = true,
                _ => {}
            }
        }
        let unreadable = reads && request.info1 & info1::READ == 0;
        let mixed = read_all_ops > 0 && answers;
        let missing = policy.read_all && read_all_ops == 0;
        if unreadable || mixed || missing { Err(ResultCode::Parameter) } else { Ok(policy) }
    }
}

/// Whether an op needs the record's existing bins, so that it cannot be combined with replacing the record.
fn changes_existing(op: &Op<'_>) -> bool {
    match op.code {
        op_code::WRITE => op.particle_type == type_number::NULL,
        op_code::INCR
        | op_code::APPEND
        | op_code::PREPEND
        | op_code::DELETE_ALL
        | op_code::BITS_MODIFY
        | op_code::HLL_MODIFY
        | op_code::CDT_MODIFY => true,
        _ => false,
    }
}

/// The input of a write's ops besides the bins.
#[derive(Clone, Copy)]
pub struct WriteContext<'r> {
    pub policy: WritePolicy,
    /// The metadata of the record after the write, except for its size and whether its key is stored. Only expressions
    /// use it.
    pub metadata: &'r dyn Fn() -> Metadata<'r>,
    /// The key that was stored before, unless the record is replaced.
    pub key: Option<&'r [u8]>,
    /// The budget that all ops of the request draw on.
    pub budget: &'r Budget<'r>,
}

/// Applies one op of a write request.
///
/// # Errors
/// The op's result code.
pub fn apply<'a>(
    op: &Op<'a>,
    bins: &mut Bins<'a>,
    context: &WriteContext<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Result<(), ResultCode> {
    let (policy, budget) = (&context.policy, context.budget);
    budget.draw(OP_STEPS)?;
    match op.code {
        op_code::TOUCH => return Ok(()),
        op_code::WRITE if op.particle_type == type_number::NULL => bins.remove(op.name),
        op_code::WRITE => bins.set(op.name, Particle::from_wire(op.particle_type, op.value, budget)?),
        op_code::INCR | op_code::APPEND | op_code::PREPEND => change_scalar(op, bins, budget)?,
        op_code::DELETE_ALL => {
            budget.draw(bins.len() as u64)?;
            bins.clear();
        }
        op_code::READ if policy.read_all && op.name.is_empty() => {
            return answer_all(bins, budget, reply);
        }
        op_code::READ => {
            let bin = bins.get(op.name);
            budget.draw_for_copy(bin.map_or(0, Particle::flat_size))?;
            answer(op, bin, policy.respond_all, reply);
            return Ok(());
        }
        op_code::CDT_MODIFY | op_code::BITS_MODIFY | op_code::HLL_MODIFY => {
            return modify(op, bins, context, reply);
        }
        op_code::EXP_MODIFY => modify_by_expression(op, bins, context)?,
        op_code::EXP_READ => {
            // The op is answered even if there is no value.
            let metadata = (context.metadata)();
            let record = Record { metadata: &metadata, key: context.key, bins: &*bins };
            return read_expression(op, &record, true, op.code, budget, reply);
        }
        _ => {
            // Within a write, a read of an existing bin is answered even if there is no value.
            let bin = bins.get(op.name);
            return read(op, bin, policy.respond_all || bin.is_some(), op.code, budget, reply);
        }
    }
    if policy.respond_all {
        answer(op, None, true, reply);
    }
    Ok(())
}

/// Applies one op of a read request to the bin that it names. The answer's op code is `reply_code`.
///
/// # Errors
/// The op's result code.
pub fn read(
    op: &Op<'_>,
    bin: Option<&Particle<'_>>,
    respond_all: bool,
    reply_code: u8,
    budget: &Budget<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Result<(), ResultCode> {
    budget.draw(OP_STEPS)?;
    let answered = Op { code: reply_code, ..*op };
    let result = match op.code {
        op_code::READ => {
            budget.draw_for_copy(bin.map_or(0, Particle::flat_size))?;
            answer(&answered, bin, respond_all, reply);
            return Ok(());
        }
        op_code::CDT_READ => bin.map(|bin| cdt::read(Some(bin), op.value, budget)),
        op_code::BITS_READ => bin.map(|bin| bits::read(Some(bin), bits_payload(op)?, budget)),
        op_code::HLL_READ => bin.map(|bin| hll::read(Some(bin), op.value, budget)),
        _ => return Err(ResultCode::Parameter),
    };
    answer(&answered, result.transpose()?.flatten().as_ref(), respond_all, reply);
    Ok(())
}

/// Applies an op that reads the value of an expression. The answer's op code is `reply_code`.
///
/// # Errors
/// The op's result code.
pub fn read_expression(
    op: &Op<'_>,
    record: &Record<'_>,
    respond_all: bool,
    reply_code: u8,
    budget: &Budget<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Result<(), ResultCode> {
    let value = exp::read(record, op.value, budget)?;
    answer(&Op { code: reply_code, ..*op }, value.as_ref(), respond_all, reply);
    Ok(())
}

/// Sets a bin to the value of an expression.
fn modify_by_expression<'a>(
    op: &Op<'a>,
    bins: &mut Bins<'a>,
    context: &WriteContext<'_>,
) -> Result<(), ResultCode> {
    let metadata = (context.metadata)();
    let record = Record { metadata: &metadata, key: context.key, bins: &*bins };
    match exp::modify(&record, bins.get(op.name).is_some(), op.value, context.budget)? {
        Change::Set(particle) => set_made(bins, op.name, particle, context.budget)?,
        Change::Removed => bins.remove(op.name),
        Change::Unchanged => {}
    }
    Ok(())
}

/// Applies an operation that changes a part of a bin's value.
fn modify<'a>(
    op: &Op<'a>,
    bins: &mut Bins<'a>,
    context: &WriteContext<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Result<(), ResultCode> {
    let budget = context.budget;
    let bin = bins.get(op.name);
    let Modified { bin: change, result } = match op.code {
        op_code::CDT_MODIFY => cdt::modify(bin, op.value, budget)?,
        op_code::BITS_MODIFY => bits::modify(bin, bits_payload(op)?, budget)?,
        _ => hll::modify(bin, op.value, budget)?,
    };
    if let Change::Set(particle) = change {
        set_made(bins, op.name, particle, budget)?;
    }
    answer(op, result.as_ref(), context.policy.respond_all, reply);
    Ok(())
}

/// Sets a bin to a value that an operation made.
fn set_made<'a>(
    bins: &mut Bins<'a>,
    name: &'a [u8],
    particle: Particle<'a>,
    budget: &Budget<'_>,
) -> Result<(), ResultCode> {
    let size = particle.flat_size();
    bins.set(name, particle);
    check_made_size(bins, size, budget)
}

/// Checks the total size of the bins after one has grown to `size` bytes.
fn check_made_size(bins: &Bins<'_>, size: usize, budget: &Budget<'_>) -> Result<(), ResultCode> {
    if size <= SMALL_BIN_SIZE {
        return Ok(());
    }
    budget.draw(bins.len() as u64)?;
    let is_too_much = bins.made_size() > MADE_SIZE_MAX;
    if is_too_much { Err(ResultCode::RecordTooBig) } else { Ok(()) }
}

/// The payload of a bit operation, which must be a blob. Other operations ignore the type.
fn bits_payload<'a>(op: &Op<'a>) -> Result<&'a [u8], ResultCode> {
    if op.particle_type == type_number::BLOB { Ok(op.value) } else { Err(ResultCode::IncompatibleType) }
}

/// Adds to, appends to or prepends to a bin. If the bin is missing, it gets the operand as its value.
fn change_scalar<'a>(op: &Op<'a>, bins: &mut Bins<'a>, budget: &Budget<'_>) -> Result<(), ResultCode> {
    if !type_number::is_known(op.particle_type) {
        return Err(ResultCode::Parameter);
    }
    let Some(particle) = bins.get_mut(op.name) else {
        bins.set(op.name, Particle::from_wire(op.particle_type, op.value, budget)?);
        return Ok(());
    };
    match op.code {
        op_code::INCR => particle.increment(op.particle_type, op.value),
        code => {
            // The old bytes are often copied as well.
            budget.draw_for_copy(particle.flat_size() + op.value.len())?;
            particle.concatenate(op.particle_type, op.value, code == op_code::PREPEND)?;
            let size = particle.flat_size();
            check_made_size(bins, size, budget)
        }
    }
}

/// Answers `op` with `value`. Without a value, the op is answered only if every op is.
#[inline]
pub fn answer(op: &Op<'_>, value: Option<&Particle<'_>>, respond_all: bool, reply: &mut ReplyWriter<'_>) {
    match value {
        Some(particle) => reply.op(op.code, op.name, particle.type_number(), |out| particle.write_wire(out)),
        None if respond_all => reply.op(op.code, op.name, type_number::NULL, |_| {}),
        None => {}
    }
}

/// Answers every bin.
fn answer_all(bins: &Bins<'_>, budget: &Budget<'_>, reply: &mut ReplyWriter<'_>) -> Result<(), ResultCode> {
    for bin in bins {
        budget.draw_for_copy(bin.particle.flat_size())?;
        reply.op(op_code::READ, bin.name, bin.particle.type_number(), |out| bin.particle.write_wire(out));
    }
    Ok(())
}

/// Checks the bins after the ops.
///
/// # Errors
/// `Parameter` when there are more bins than a record may have.
pub fn check_bin_count(bins: &Bins<'_>) -> Result<(), ResultCode> {
    if bins.len() <= BIN_COUNT_MAX { Ok(()) } else { Err(ResultCode::Parameter) }
}

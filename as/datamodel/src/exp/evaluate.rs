//! Runs a program on a record.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::compare::is_within;
use super::operators::Connective;
use super::program::{Address, Call, Constant, HandlerId, Instruction, Program, Slot, System};
use super::record::{BinSource, Metadata, Record, key_value};
use super::value::{Bytes, Value};
use crate::bins::Bins;
use crate::budget::Budget;
use crate::change::Change;
use crate::particle::{BytesType, Particle};
use crate::{bits, cdt, geojson, hll};

/// Maximum number of bytes that the calls of one evaluation may copy in and out. Above it values are unknown,
/// because the expression builds something larger than any record.
const BYTES_MAX: usize = 256 << 20;
/// Price of an instruction, besides its work on bytes.
const INSTRUCTION_STEPS: u64 = 10;
/// Bin lookups with at most this price are repeated each time.
const SLOW_LOOKUP_STEPS: u64 = 256;
/// Number of the slow lookup that loads all bins into a table.
const LOOKUPS_FOR_TABLE: u64 = 4;
/// Number of values and variables that are kept without an allocation.
const INLINE_VALUES: usize = 8;

/// The part of a record that the program may see.
#[derive(Clone, Copy, Debug)]
pub(super) enum View<'v> {
    /// Bins and key are unknown.
    Metadata(&'v Metadata<'v>),
    Record(&'v Record<'v>),
}

/// The value of `program`, compiled from `source`.
pub(super) fn evaluate<'v>(
    program: &'v Program,
    source: &'v [u8],
    view: View<'v>,
    budget: &'v Budget<'v>,
) -> Value<'v> {
    let mut variables = SmallVec::new();
    variables.resize(program.slot_count as usize, Value::Unknown);
    let (metadata, record) = match view {
        View::Metadata(metadata) => (metadata, None),
        View::Record(record) => (record.metadata, Some(record)),
    };
    let mut machine = Machine {
        program,
        source,
        metadata,
        record,
        at: 0,
        stack: SmallVec::new(),
        variables,
        bytes_left: BYTES_MAX,
        budget,
        slow_lookups: 0,
        table: None,
    };
    machine.run();
    machine.pop()
}

struct Machine<'v> {
    program: &'v Program,
    source: &'v [u8],
    metadata: &'v Metadata<'v>,
    record: Option<&'v Record<'v>>,
    at: usize,
    stack: SmallVec<[Value<'v>; INLINE_VALUES]>,
    variables: SmallVec<[Value<'v>; INLINE_VALUES]>,
    bytes_left: usize,
    budget: &'v Budget<'v>,
    /// Number of slow bin lookups so far, and the table of bins that is made after a few of them.
    slow_lookups: u64,
    table: Option<Box<Bins<'v>>>,
}

impl<'v> Machine<'v> {
    fn run(&mut self) {
        let program = self.program;
        while let Some(instruction) = program.instructions.get(self.at) {
            if self.budget.draw(INSTRUCTION_STEPS).is_err() {
                return;
            }
            self.at += 1;
            match *instruction {
                Instruction::Push(constant) => self.push(self.constant(constant)),
                Instruction::Unknown(handler) => self.throw(handler),
                Instruction::Key(wanted, handler) => {
                    let key = self.record.and_then(|record| key_value(record.key, wanted));
                    self.push_or_throw(key, handler);
                }
                Instruction::Bin(name, handler) => {
                    let bin = self.bin(name.of(self.source)).map(Value::from);
                    self.push_or_throw(bin.filter(|bin| bin.is(name.wanted)), handler);
                }
                Instruction::BinType(name, handler) => {
                    let bin_type = self.record.map(|_| {
                        let bin = self.bin(name.of(self.source));
                        Value::Integer(bin.map_or(0, |bin| i64::from(bin.type_number())))
                    });
                    self.push_or_throw(bin_type, handler);
                }
                Instruction::Load(slot, handler) => self.load(slot, handler),
                Instruction::Compare(comparison, handler) => {
                    let (right, left) = (self.pop(), self.pop());
                    self.push_or_throw(
                        comparison.holds(&left, &right, self.budget).map(Value::Bool),
                        handler,
                    );
                }
                Instruction::CompareGeo(handler) => {
                    let (right, left) = (self.pop(), self.pop());
                    self.push_or_throw(is_within(&left, &right, self.budget).map(Value::Bool), handler);
                }
                Instruction::Match(id, handler) => {
                    let text = self.pop();
                    let is_match = match (&text, program.regexes.get(id as usize)) {
                        (Value::Bytes(BytesType::String, text), Some(regex)) => {
                            regex.is_match(text, self.budget)
                        }
                        _ => None,
                    };
                    self.push_or_throw(is_match.map(Value::Bool), handler);
                }
                Instruction::Not(handler) => {
                    let not = match self.pop() {
                        Value::Bool(value) => Some(Value::Bool(!value)),
                        _ => None,
                    };
                    self.push_or_throw(not, handler);
                }
                Instruction::Binary(binary, handler) => {
                    let (right, left) = (self.pop(), self.pop());
                    self.push_or_throw(binary.apply(&left, &right), handler);
                }
                Instruction::Unary(unary, handler) => {
                    let operand = self.pop();
                    self.push_or_throw(unary.apply(&operand), handler);
                }
                Instruction::Call(id, handler) => {
                    let result = program.calls.get(id as usize).and_then(|call| self.call(call));
                    self.push_or_throw(result, handler);
                }
                Instruction::Connect(connective, exit) => self.connect(connective, exit),
                Instruction::ThrowIfUnknown(handler) => {
                    if matches!(self.stack.last(), Some(Value::Unknown)) {
                        self.throw(handler);
                    }
                }
                Instruction::JumpUnless(target, handler) => match self.pop() {
                    Value::Bool(true) => {}
                    Value::Bool(false) => self.at = target as usize,
                    _ => self.throw(handler),
                },
                Instruction::Jump(target) => self.at = target as usize,
                Instruction::Store(slot) => {
                    let value = self.pop().shared();
                    if let Some(variable) = self.variables.get_mut(slot as usize) {
                        *variable = value;
                    }
                }
            }
        }
    }

    #[inline]
    fn constant(&self, constant: Constant) -> Value<'v> {
        match constant {
            Constant::Nil => Value::Nil,
            Constant::Bool(value) => Value::Bool(value),
            Constant::Integer(value) => Value::Integer(value),
            Constant::Float(value) => Value::Float(value),
            Constant::Bytes(bytes_type, span) => {
                Value::Bytes(bytes_type, Bytes::Borrowed(span.of(self.source)))
            }
            Constant::Geometry(id, span) => match self.program.geometries.get(id as usize) {
                Some(geometry) => Value::Geometry(geometry, span.of(self.source)),
                None => Value::Unknown,
            },
            Constant::Extension(span) => Value::Extension(span.of(self.source)),
            Constant::Metadata(item) => self.metadata.value(item),
            Constant::DigestModulo(divisor) => Value::Integer(self.metadata.digest_modulo(divisor)),
        }
    }

    #[inline]
    fn push(&mut self, value: Value<'v>) {
        self.stack.push(value);
    }

    /// Removes the top value. The stack is never empty here, because the compiler counts its values.
    #[inline]
    fn pop(&mut self) -> Value<'v> {
        self.stack.pop().unwrap_or(Value::Unknown)
    }

    #[inline]
    fn push_or_throw(&mut self, value: Option<Value<'v>>, handler: HandlerId) {
        match value {
            Some(value) => self.push(value),
            None => self.throw(handler),
        }
    }

    #[inline]
    fn throw(&mut self, handler: HandlerId) {
        let Some(handler) = self.program.handlers.get(handler as usize) else { return };
        self.stack.truncate(handler.height as usize);
        self.stack.push(Value::Unknown);
        self.at = handler.target as usize;
    }

    #[inline]
    fn bin(&mut self, name: &[u8]) -> Option<Particle<'v>> {
        let bins = self.record?.bins;
        let steps = bins.lookup_steps();
        if steps <= SLOW_LOOKUP_STEPS {
            self.budget.draw(steps).ok()?;
            return bins.bin(name);
        }
        self.bin_of_many(bins, name)
    }

    /// Looks up a bin if lookups are slow. After a few lookups, a table is used.
    #[cold]
    fn bin_of_many(&mut self, bins: &'v dyn BinSource, name: &[u8]) -> Option<Particle<'v>> {
        self.slow_lookups += 1;
        if self.slow_lookups == LOOKUPS_FOR_TABLE {
            self.budget.draw(LOOKUPS_FOR_TABLE * bins.lookup_steps()).ok()?;
            self.table = bins.load().map(Box::new);
        }
        if let Some(table) = &self.table {
            self.budget.draw(table.lookup_steps()).ok()?;
            return table.get(name).cloned();
        }
        self.budget.draw(bins.lookup_steps()).ok()?;
        bins.bin(name)
    }

    fn load(&mut self, slot: Slot, handler: HandlerId) {
        let value = match self.variables.get(slot as usize) {
            None | Some(Value::Unknown) => None,
            Some(value) => Some(value.clone()),
        };
        self.push_or_throw(value, handler);
    }

    /// Combines the top operand with the result below it.
    fn connect(&mut self, connective: Connective, exit: Address) {
        let operand = self.pop();
        let Some(result) = self.stack.last_mut() else { return };
        match (connective, operand) {
            (Connective::And, Value::Bool(true)) | (Connective::Or, Value::Bool(false)) => {}
            (Connective::And, Value::Bool(false)) | (Connective::Or, Value::Bool(true)) => {
                *result = Value::Bool(connective == Connective::Or);
                self.at = exit as usize;
            }
            (Connective::Exclusive, Value::Bool(true)) => {
                let is_second = matches!(result, Value::Bool(true));
                *result = Value::Bool(!is_second);
                if is_second {
                    self.at = exit as usize;
                }
            }
            (Connective::Exclusive, Value::Bool(false)) => {}
            _ => *result = Value::Unknown,
        }
    }

    // ---- calls

    /// Applies a call to the top value, with the operands below it. `None` if the result is unknown.
    fn call(&mut self, call: &Call) -> Option<Value<'v>> {
        let value = self.pop();
        let payload = self.payload(call)?;
        let result = match &value {
            Value::Nil | Value::Bytes(..) => self.carry_out(call, value, &payload)?,
            _ => return None,
        };
        if let Value::Bytes(_, Bytes::Owned(bytes)) = &result {
            self.bytes_left = self.bytes_left.checked_sub(bytes.len())?;
        }
        result.is(call.result).then_some(result)
    }

    fn carry_out(&self, call: &Call, value: Value<'v>, payload: &[u8]) -> Option<Value<'v>> {
        let particle = value.as_particle();
        if call.modifies {
            let modified = match call.system {
                System::ListsAndMaps => cdt::modify(particle.as_ref(), payload, self.budget),
                System::Bits => bits::modify(particle.as_ref(), payload, self.budget),
                System::Hll => hll::modify(particle.as_ref(), payload, self.budget),
            };
            return match modified.ok()?.bin {
                Change::Set(particle) => Some(particle.into()),
                Change::Unchanged => Some(value),
                Change::Removed => Some(Value::Nil),
            };
        }
        // A read of nil has no answer.
        let particle = Some(particle?);
        let answer = match call.system {
            System::ListsAndMaps => cdt::read(particle.as_ref(), payload, self.budget),
            System::Bits => bits::read(particle.as_ref(), payload, self.budget),
            System::Hll => hll::read(particle.as_ref(), payload, self.budget),
        };
        match answer.ok()? {
            None => Some(Value::Nil),
            // A GeoJSON element of a list or map has no cells.
            Some(Particle::Bytes(BytesType::GeoJson, stored)) => {
                let stored = geojson::from_json(geojson::json(&stored), self.budget).ok()?;
                Some(Value::Bytes(BytesType::GeoJson, Bytes::Owned(stored)))
            }
            Some(particle) => Some(particle.into()),
        }
    }

    /// Builds the operation of a call from operands on the stack.
    fn payload(&mut self, call: &Call) -> Option<Cow<'v, [u8]>> {
        let head = call.head.of(self.source);
        if call.operand_count == 0 {
            return Some(Cow::Borrowed(head));
        }
        let operand_count = call.operand_count as usize;
        let first = self.stack.len().checked_sub(operand_count)?;
        let start = call.first_tail as usize;
        let tails = self.program.tails.get(start..start + operand_count)?;
        self.budget.draw_for_copy(head.len() + 64 * operand_count).ok()?;
        let mut payload = Vec::with_capacity(head.len() + 16 * operand_count);
        payload.extend_from_slice(head);
        for (operand, tail) in self.stack.drain(first..).zip(tails) {
            if let Value::Bytes(_, bytes) = &operand {
                self.bytes_left = self.bytes_left.checked_sub(bytes.len())?;
                self.budget.draw_for_copy(bytes.len()).ok()?;
            }
            operand.write_msgpack(&mut payload);
            let tail = tail.of(self.source);
            self.budget.draw_for_copy(tail.len()).ok()?;
            payload.extend_from_slice(tail);
        }
        Some(Cow::Owned(payload))
    }
}

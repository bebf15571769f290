//! Operators whose operands are being compiled.

use super::{Chain, Compiler, StaticType};
use crate::exp::arithmetic::{Binary, Unary};
use crate::exp::operators::{Connective, Operator, size};
use crate::exp::program::{HandlerId, Instruction, RegexId, Slot};
use crate::exp::value::Type;

use super::call::CallFrame;

/// An operator, and how far it has been compiled.
#[derive(Debug)]
pub(super) enum Frame {
    /// An operator with plain operands.
    Operands {
        operator: Operator,
        count: u32,
        done: u32,
        first: Option<Type>,
        /// Whether an earlier operand is open.
        is_open: bool,
    },
    /// A regular expression that waits for the text to match.
    Regex(RegexId),
    Connective {
        connective: Connective,
        count: u32,
        /// Remaining operands, including the current one.
        left: u32,
        /// The handler around the connective.
        outer: HandlerId,
        exits: Chain,
        /// Whether the operands so far leave the connective open.
        is_open: bool,
    },
    Cond(CondFrame),
    Let {
        /// Number of defined variables, including the current one.
        defined: u32,
        count: u32,
        /// The variable whose value is being read; `None` if all are defined.
        current: Option<Slot>,
        outer: HandlerId,
    },
    Call(CallFrame),
}

/// A condition.
#[derive(Debug)]
pub(super) struct CondFrame {
    /// Remaining elements, including the current one.
    left: u32,
    /// The type of the values so far.
    result: Option<Type>,
    /// The jump to the next case from the condition of the current value.
    skip: Chain,
    exits: Chain,
    /// Whether no condition has been read yet.
    is_first: bool,
    /// Whether the first condition is open, so that no case can be chosen.
    is_open: bool,
}

/// The step after an operand.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Another operand.
    Operand,
    /// There is none: the operator is complete, and has this type.
    Done(StaticType),
}

impl Frame {
    pub(super) const fn operands(operator: Operator, count: u32) -> Self {
        Frame::Operands { operator, count, done: 0, first: None, is_open: false }
    }
}

impl Compiler<'_> {
    /// Gives the operand just read to the innermost operator.
    pub(super) fn operand_done(&mut self, frame: &mut Frame, shape: StaticType) -> Option<Step> {
        match frame {
            Frame::Operands { operator, count, done, first, is_open } => {
                *done += 1;
                *is_open |= shape.is_open;
                let result = self.operand(*operator, *done, *count, first, shape)?;
                let whole = StaticType { is_open: *is_open, ..StaticType::of(result) };
                Some(if done == count { Step::Done(whole) } else { Step::Operand })
            }
            Frame::Regex(id) => {
                shape.must_be(Type::Text)?;
                self.combine(1, Instruction::Match(*id, self.handler));
                Some(Step::Done(StaticType { is_open: shape.is_open, ..StaticType::of(Type::Bool) }))
            }
            Frame::Connective { connective, count, left, outer, exits, is_open } => {
                shape.must_be(Type::Bool)?;
                // A known operand may decide the result. An exclusive connective needs two.
                if *connective != Connective::Exclusive || left == count {
                    *is_open &= shape.is_open;
                }
                self.connected(*connective, left, *outer, exits, *is_open)
            }
            Frame::Cond(cond) => self.cond_element(cond, shape),
            Frame::Let { defined, count, current, outer } => {
                let Some(slot) = current.take() else {
                    self.variables.forget(*count);
                    return Some(Step::Done(shape));
                };
                self.land(self.handler);
                self.take(Instruction::Store(slot));
                self.variables.define(slot, shape);
                *current = self.next_variable(defined, *count, *outer)?;
                Some(Step::Operand)
            }
            Frame::Call(call) => self.call_element(call, shape),
        }
    }

    /// Takes operand number `done` of `count`. Returns the type of the operator's value, which may not be
    /// final before the last operand.
    fn operand(
        &mut self,
        operator: Operator,
        done: u32,
        count: u32,
        first: &mut Option<Type>,
        shape: StaticType,
    ) -> Option<Type> {
        let handler = self.handler;
        match operator {
            Operator::Compare(comparison) => {
                if done == 1 {
                    *first = shape.result;
                } else if *first != shape.result || matches!(shape.result, Some(Type::GeoJson | Type::Hll)) {
                    return None;
                } else {
                    self.combine(2, Instruction::Compare(comparison, handler));
                }
                Some(Type::Bool)
            }
            Operator::CompareGeo => {
                shape.must_be(Type::GeoJson)?;
                if done == count {
                    self.combine(2, Instruction::CompareGeo(handler));
                }
                Some(Type::Bool)
            }
            Operator::Not => {
                shape.must_be(Type::Bool)?;
                self.combine(1, Instruction::Not(handler));
                Some(Type::Bool)
            }
            Operator::Numbers(binary) => {
                let number = shape.number()?;
                if first.is_some_and(|first| first != number) {
                    return None;
                }
                *first = Some(number);
                self.fold(binary, done, count);
                Some(number)
            }
            Operator::Integers(binary) => {
                shape.must_be(Type::Integer)?;
                self.fold(binary, done, count);
                Some(Type::Integer)
            }
            Operator::Pair(binary, operands, result) => {
                shape.must_be(operands[usize::from(done != 1)])?;
                if done == count {
                    self.combine(2, Instruction::Binary(binary, handler));
                }
                Some(result)
            }
            Operator::Number(unary) => {
                let number = shape.number()?;
                self.combine(1, Instruction::Unary(unary, handler));
                Some(number)
            }
            Operator::Single(unary, operand, result) => {
                shape.must_be(operand)?;
                self.combine(1, Instruction::Unary(unary, handler));
                Some(result)
            }
            _ => None,
        }
    }

    /// Combines operand number `done` of `count` with the earlier ones.
    fn fold(&mut self, binary: Binary, done: u32, count: u32) {
        let handler = self.handler;
        match binary {
            // The first operand is divided by the product of the others.
            Binary::Divide => {
                if done > 2 {
                    self.combine(2, Instruction::Binary(Binary::Multiply, handler));
                }
                if done > 1 && done == count {
                    self.combine(2, Instruction::Binary(Binary::Divide, handler));
                }
            }
            _ if done > 1 => self.combine(2, Instruction::Binary(binary, handler)),
            _ => {}
        }
        if count == 1 {
            match binary {
                Binary::Divide => self.combine(1, Instruction::Unary(Unary::Reciprocal, handler)),
                Binary::Subtract => self.combine(1, Instruction::Unary(Unary::Negate, handler)),
                _ => {}
            }
        }
    }

    fn connected(
        &mut self,
        connective: Connective,
        left: &mut u32,
        outer: HandlerId,
        exits: &mut Chain,
        is_open: bool,
    ) -> Option<Step> {
        if connective != Connective::Exclusive {
            self.land(self.handler);
        }
        self.link(exits, |target| Instruction::Connect(connective, target));
        self.height = self.height.saturating_sub(1);
        *left -= 1;
        if *left != 0 {
            if connective != Connective::Exclusive {
                self.handler = self.new_handler();
            }
            return Some(Step::Operand);
        }
        self.close(exits);
        self.handler = outer;
        if connective != Connective::Exclusive {
            self.emit(Instruction::ThrowIfUnknown(outer));
        }
        Some(Step::Done(StaticType { is_open, ..StaticType::of(Type::Bool) }))
    }

    // ---- conditions

    pub(super) fn begin_cond(&mut self, count: u32) -> Option<Frame> {
        self.grow((count / 2).saturating_mul(size::CASE))?;
        Some(Frame::Cond(CondFrame {
            left: count,
            result: None,
            skip: Chain::default(),
            exits: Chain::default(),
            is_first: true,
            is_open: false,
        }))
    }

    fn cond_element(&mut self, cond: &mut CondFrame, shape: StaticType) -> Option<Step> {
        cond.left -= 1;
        let is_condition = cond.left.is_multiple_of(2) && cond.left != 0;
        if is_condition {
            shape.must_be(Type::Bool)?;
            cond.is_open |= shape.is_open && cond.is_first;
            cond.is_first = false;
            let handler = self.handler;
            self.link(&mut cond.skip, |target| Instruction::JumpUnless(target, handler));
            self.height = self.height.saturating_sub(1);
            return Some(Step::Operand);
        }
        let is_default = cond.left == 0;
        if !shape.is_unknown || is_default && cond.result.is_none() {
            // An extension, which has no type, may precede the first value that has a type. It then counts as
            // unknown.
            cond.result = cond.result.or(shape.result);
            if cond.result != shape.result {
                return None;
            }
        }
        if is_default {
            self.close(&cond.exits);
            return Some(Step::Done(StaticType { is_open: cond.is_open, ..StaticType::of(cond.result?) }));
        }
        self.link(&mut cond.exits, Instruction::Jump);
        self.close(&cond.skip);
        cond.skip = Chain::default();
        // The next case begins without this case's value on the stack.
        self.height = self.height.saturating_sub(1);
        Some(Step::Operand)
    }

    // ---- variables

    pub(super) fn begin_let(&mut self, count: u32) -> Option<Frame> {
        let (count, mut defined, outer) = (count / 2, 0, self.handler);
        let current = self.next_variable(&mut defined, count, outer)?;
        Some(Frame::Let { defined, count, current, outer })
    }

    /// Begins the definition of the next variable, if there is another.
    fn next_variable(&mut self, defined: &mut u32, count: u32, outer: HandlerId) -> Option<Option<Slot>> {
        if *defined == count {
            self.handler = outer;
            return Some(None);
        }
        *defined += 1;
        let name = self.raw()?;
        let slot = self.variables.declare(name)?;
        self.handler = self.new_handler();
        Some(Some(slot))
    }
}

//! Calls of list, map, bit and HyperLogLog operations.
//!
//! The operation is a msgpack list as clients send it outside expressions, except that arguments which are
//! lists are expressions. Its other bytes are copied unchanged.

use cf::msgpack::Kind;

use super::frame::{Frame, Step};
use super::{Compiler, StaticType};
use crate::exp::program::{Call, Instruction, Span, System};
use crate::exp::value::Type;

/// Operation code of an operation inside a context.
const CONTEXT_EVAL: u64 = 0xff;
/// The bit of the system number that marks an operation as modifying.
const MODIFIES: u32 = 0x40;
/// Largest number of pieces of an operation: evaluated arguments, and the bytes between them.
const PIECE_COUNT_MAX: u32 = 18;

/// A call whose arguments are being read.
#[derive(Debug)]
pub(super) struct CallFrame {
    call: Call,
    system: u32,
    /// Remaining arguments of the operation, including the current one.
    left: u32,
    /// The bytes after each argument evaluated so far.
    tails: Vec<Span>,
    pieces: Pieces,
    /// Whether the value that the operation applies to is being read.
    is_at_value: bool,
    /// Whether one of the arguments is open.
    is_open: bool,
}

/// The number of pieces of an operation. The C server limits this number and counts in the same way.
#[derive(Clone, Copy, Debug)]
struct Pieces {
    count: u32,
    is_last_empty: bool,
}

impl Pieces {
    fn add_bytes(&mut self) -> Option<()> {
        self.is_last_empty = false;
        self.check()
    }

    fn add_operand(&mut self) -> Option<()> {
        self.count += if self.is_last_empty { 1 } else { 2 };
        self.is_last_empty = true;
        self.check()
    }

    fn check(self) -> Option<()> {
        (self.count < PIECE_COUNT_MAX).then_some(())
    }
}

impl Compiler<'_> {
    pub(super) fn begin_call(&mut self) -> Option<Frame> {
        let result = Type::from_number(self.reader.integer()?)?;
        // Only its low 32 bits count.
        let system = self.reader.integer()? as u32;
        let start = self.position();
        let mut count = self.reader.list_header()?.checked_sub(1)?;
        if self.reader.integer()? == CONTEXT_EVAL {
            if count != 2 {
                return None;
            }
            self.reader.skip(1)?;
            count = self.reader.list_header()?.checked_sub(1)?;
            self.reader.integer()?;
        }
        let call = Call {
            system: System::ListsAndMaps,
            modifies: system & MODIFIES != 0,
            result,
            head: Span { start, len: self.position() - start },
            operand_count: 0,
            first_tail: 0,
        };
        let pieces = Pieces { count: 0, is_last_empty: false };
        let mut frame = CallFrame {
            call,
            system,
            left: count,
            tails: Vec::new(),
            pieces,
            is_at_value: false,
            is_open: false,
        };
        self.skip_arguments(&mut frame)?;
        Some(Frame::Call(frame))
    }

    /// Skips arguments up to the next one that must be evaluated, if there is one.
    fn skip_arguments(&mut self, frame: &mut CallFrame) -> Option<()> {
        while frame.left != 0 {
            if self.reader.kind()? == Kind::List {
                frame.pieces.add_operand()?;
                frame.call.operand_count += 1;
                return Some(());
            }
            if frame.call.operand_count == 0 {
                self.skip_literal()?;
                frame.call.head.len = self.position() - frame.call.head.start;
            } else {
                // From the first expression on, each argument must be a valid literal.
                self.read_literal()?;
                let end = self.position();
                let tail = frame.tails.last_mut()?;
                tail.len = end - tail.start;
            }
            frame.pieces.add_bytes()?;
            frame.left -= 1;
        }
        frame.is_at_value = true;
        Some(())
    }

    /// Takes an argument or the value of a call.
    pub(super) fn call_element(&mut self, frame: &mut CallFrame, shape: StaticType) -> Option<Step> {
        frame.is_open |= shape.is_open;
        if frame.is_at_value {
            return self.end_call(frame, shape).map(Step::Done);
        }
        frame.left -= 1;
        frame.tails.push(Span { start: self.position(), len: 0 });
        self.skip_arguments(frame)?;
        Some(Step::Operand)
    }

    fn end_call(&mut self, frame: &CallFrame, value: StaticType) -> Option<StaticType> {
        let mut call = frame.call;
        let value = value.result?;
        let fits;
        (call.system, fits) = match frame.system & !MODIFIES {
            0 => (System::ListsAndMaps, matches!(value, Type::List | Type::Map)),
            1 => (System::Bits, value == Type::Blob),
            2 => (System::Hll, value == Type::Hll),
            _ => return None,
        };
        if value != Type::Nil && !fits {
            return None;
        }
        call.first_tail = self.program.tails.len() as u32;
        self.program.tails.extend_from_slice(&frame.tails);
        let id = self.program.calls.len() as u32;
        self.program.calls.push(call);
        self.combine(call.operand_count + 1, Instruction::Call(id, self.handler));
        // A call on nil has the type of nil, even if it declares another result.
        let result = if value == Type::Nil { Type::Nil } else { call.result };
        Some(StaticType { is_open: frame.is_open, ..StaticType::of(result) })
    }
}

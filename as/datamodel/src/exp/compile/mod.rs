//! Compiles the bytes of an expression to a program, in one pass.
//!
//! An expression is a msgpack value: a list of an operator's code and its elements, or any other value as a
//! literal. The compiler checks types, so that the operands in a program have the right types or are unknown.
//!
//! The compiler does not recurse: the operators around the current position are a stack of frames with
//! limited depth.

mod call;
mod frame;
mod literal;
mod variables;

use cf::msgpack::{Head, Kind, Reader};

use self::frame::{Frame, Step};
use self::variables::Variables;
use super::operators::{Connective, Metadata, Operator, row, size};
use super::program::{Address, Constant, Handler, HandlerId, Instruction, Name, OUTERMOST, Program, Span};
use super::regex::Regex;
use super::value::Type;
use crate::bins::check_name;
use crate::budget::Budget;
use crate::particle::BytesType;

/// Deepest nesting of operators.
pub(super) const DEPTH_MAX: usize = 4_096;
/// Maximum number of regular expressions, and maximum size of all of them together when compiled, in bytes.
const REGEX_COUNT_MAX: usize = 256;
const REGEX_SIZE_MAX: usize = 16 << 20;

/// Facts about an expression that are known before its evaluation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StaticType {
    /// `None` for extension values, which have no type.
    pub(super) result: Option<Type>,
    /// Whether it is the unknown value, which stands in for any type among the values of a condition.
    is_unknown: bool,
    /// Whether it is unknown for every record that has not been read.
    is_open: bool,
}

impl StaticType {
    const fn of(result: Type) -> Self {
        StaticType { result: Some(result), is_unknown: false, is_open: false }
    }

    /// The type of a value that can be computed only from a record that has been read.
    const fn open(result: Type) -> Self {
        StaticType { is_open: true, ..StaticType::of(result) }
    }

    /// The type, if it is numeric.
    const fn number(self) -> Option<Type> {
        match self.result {
            Some(number @ (Type::Integer | Type::Float)) => Some(number),
            _ => None,
        }
    }

    fn must_be(self, wanted: Type) -> Option<()> {
        (self.result == Some(wanted)).then_some(())
    }
}

/// The result of compiling an expression.
pub(super) struct Compiled {
    pub(super) program: Program,
    /// The type of its value.
    pub(super) result: Type,
    /// Whether its value is unknown for every record that has not been read. It may be unknown even if this is false.
    pub(super) is_open: bool,
}

/// Compiles the expression in `bytes`. `None` if it is invalid, or if the budget is exhausted.
pub(super) fn compile<'e>(bytes: &'e [u8], budget: &'e Budget<'e>) -> Option<Compiled> {
    u32::try_from(bytes.len()).ok()?;
    budget.draw_for(bytes.len()).ok()?;
    let mut compiler = Compiler {
        bytes,
        reader: Reader::new(bytes),
        program: Program::default(),
        frames: Vec::new(),
        variables: Variables::default(),
        handler: OUTERMOST,
        height: 0,
        size: 0,
        regex_size: 0,
        budget,
    };
    compiler.program.handlers.push(Handler { target: 0, height: 0 });
    let shape = compiler.run()?;
    let end = compiler.here();
    compiler.program.handlers[OUTERMOST as usize].target = end;
    compiler.program.slot_count = compiler.variables.count_max();
    (compiler.reader.is_at_end()).then_some(())?;
    Some(Compiled { program: compiler.program, result: shape.result?, is_open: shape.is_open })
}

struct Compiler<'e> {
    bytes: &'e [u8],
    reader: Reader<'e>,
    program: Program,
    frames: Vec<Frame>,
    variables: Variables<'e>,
    /// The handler of the expression being read.
    handler: HandlerId,
    /// Number of values on the stack at this point of the program.
    height: u32,
    /// The total size of all operators so far.
    size: u32,
    regex_size: usize,
    budget: &'e Budget<'e>,
}

impl<'e> Compiler<'e> {
    /// Reads expressions until the outermost is complete.
    fn run(&mut self) -> Option<StaticType> {
        loop {
            let Some(mut shape) = self.begin()? else { continue };
            loop {
                let Some(mut frame) = self.frames.pop() else { return Some(shape) };
                match self.operand_done(&mut frame, shape)? {
                    Step::Operand => {
                        self.frames.push(frame);
                        break;
                    }
                    Step::Done(result) => shape = result,
                }
            }
        }
    }

    /// Reads an expression up to its first operand. Returns its type if it has none.
    fn begin(&mut self) -> Option<Option<StaticType>> {
        if self.reader.kind()? != Kind::List {
            return self.literal().map(Some);
        }
        let count = self.reader.list_header()?.checked_sub(1)?;
        let &(_, operator, elements, size) = row(self.reader.integer()?)?;
        if !elements.allow(count) {
            return None;
        }
        self.grow(size)?;
        match operator {
            Operator::Unknown => {
                self.push(Instruction::Unknown(self.handler));
                Some(Some(StaticType { is_unknown: true, ..StaticType::open(Type::Bool) }))
            }
            Operator::DigestModulo => self.digest_modulo().map(Some),
            Operator::Metadata(metadata) => Some(Some(self.metadata(metadata))),
            Operator::Key => self.key().map(Some),
            Operator::Bin => self.bin().map(Some),
            Operator::BinType => self.bin_type().map(Some),
            Operator::Var => self.var().map(Some),
            Operator::Quote => self.quote().map(Some),
            _ => {
                if self.frames.len() >= DEPTH_MAX {
                    return None;
                }
                let frame = match operator {
                    Operator::CompareRegex => self.begin_regex()?,
                    Operator::Connect(connective) => self.begin_connective(connective, count),
                    Operator::Cond => self.begin_cond(count)?,
                    Operator::Let => self.begin_let(count)?,
                    Operator::Call => self.begin_call()?,
                    _ => Frame::operands(operator, count),
                };
                self.frames.push(frame);
                Some(None)
            }
        }
    }

    fn digest_modulo(&mut self) -> Option<StaticType> {
        // Only the low 32 bits count.
        let divisor = self.reader.integer()? as i32;
        if divisor == 0 {
            return None;
        }
        self.push(Instruction::Push(Constant::DigestModulo(divisor)));
        Some(StaticType::of(Type::Integer))
    }

    fn metadata(&mut self, metadata: Metadata) -> StaticType {
        self.push(Instruction::Push(Constant::Metadata(metadata)));
        StaticType::of(metadata.result())
    }

    fn key(&mut self) -> Option<StaticType> {
        let result = Type::from_number(self.reader.integer()?)?;
        if !matches!(result, Type::Integer | Type::Text | Type::Blob) {
            return None;
        }
        self.push(Instruction::Key(result, self.handler));
        Some(StaticType::open(result))
    }

    fn bin(&mut self) -> Option<StaticType> {
        let result = Type::from_number(self.reader.integer()?)?;
        let name = self.bin_name(result)?;
        self.push(Instruction::Bin(name, self.handler));
        Some(StaticType::open(result))
    }

    fn bin_type(&mut self) -> Option<StaticType> {
        // BinType reports the type of the bin, so no type is expected.
        let name = self.bin_name(Type::Nil)?;
        self.push(Instruction::BinType(name, self.handler));
        Some(StaticType::open(Type::Integer))
    }

    fn bin_name(&mut self, wanted: Type) -> Option<Name> {
        let name = self.raw()?;
        check_name(name).ok()?;
        let len = u8::try_from(name.len()).ok()?;
        Some(Name { start: self.position() - u32::from(len), len, wanted })
    }

    fn var(&mut self) -> Option<StaticType> {
        let name = self.raw()?;
        let (slot, shape) = self.variables.find(name)?;
        self.push(Instruction::Load(slot, self.handler));
        Some(shape)
    }

    fn quote(&mut self) -> Option<StaticType> {
        if self.reader.kind()? != Kind::List {
            return None;
        }
        let span = self.value()?;
        self.push(Instruction::Push(Constant::Bytes(BytesType::List, span)));
        Some(StaticType::of(Type::List))
    }

    fn begin_regex(&mut self) -> Option<Frame> {
        let flags = self.reader.integer()?;
        let pattern = self.raw()?;
        if self.program.regexes.len() >= REGEX_COUNT_MAX {
            return None;
        }
        let regex = Regex::new(pattern, flags, self.budget)?;
        self.regex_size += regex.memory_size();
        if self.regex_size > REGEX_SIZE_MAX {
            return None;
        }
        let id = self.program.regexes.len() as u32;
        self.program.regexes.push(regex);
        Some(Frame::Regex(id))
    }

    fn begin_connective(&mut self, connective: Connective, count: u32) -> Frame {
        // Exactly one operand must be true; so far none is. And and Or likewise start from their value
        // without operands.
        self.push(Instruction::Push(Constant::Bool(connective == Connective::And)));
        let outer = self.handler;
        if connective != Connective::Exclusive {
            self.handler = self.new_handler();
        }
        Frame::Connective { connective, count, left: count, outer, exits: Chain::default(), is_open: true }
    }

    // ---- the program

    /// The address of the next instruction.
    fn here(&self) -> Address {
        self.program.instructions.len() as Address
    }

    fn emit(&mut self, instruction: Instruction) {
        self.program.instructions.push(instruction);
    }

    /// Emits an instruction that pushes a value.
    fn push(&mut self, instruction: Instruction) {
        self.emit(instruction);
        self.height += 1;
    }

    /// Emits an instruction that takes `taken` values and pushes one.
    fn combine(&mut self, taken: u32, instruction: Instruction) {
        self.emit(instruction);
        self.height = self.height.saturating_sub(taken) + 1;
    }

    /// Emits an instruction that takes a value.
    fn take(&mut self, instruction: Instruction) {
        self.emit(instruction);
        self.height = self.height.saturating_sub(1);
    }

    /// A handler for the following code. Its target is still open.
    fn new_handler(&mut self) -> HandlerId {
        let id = self.program.handlers.len() as HandlerId;
        self.program.handlers.push(Handler { target: 0, height: self.height });
        id
    }

    /// Makes the next instruction the target of the handler.
    fn land(&mut self, handler: HandlerId) {
        let here = self.here();
        if let Some(handler) = self.program.handlers.get_mut(handler as usize) {
            handler.target = here;
        }
    }

    /// Emits an instruction that jumps to the end of the chain.
    fn link(&mut self, chain: &mut Chain, instruction: impl Fn(Address) -> Instruction) {
        let here = self.here();
        self.emit(instruction(chain.last));
        chain.last = here;
    }

    /// Makes the next instruction the target of all instructions in the chain.
    fn close(&mut self, chain: &Chain) {
        let here = self.here();
        let mut at = chain.last;
        while let Some(instruction) = self.program.instructions.get_mut(at as usize) {
            let target = match instruction {
                Instruction::Connect(_, target)
                | Instruction::JumpUnless(target, _)
                | Instruction::Jump(target) => target,
                _ => return,
            };
            at = std::mem::replace(target, here);
        }
    }

    // ---- the bytes

    /// Adds to the size of the expression.
    fn grow(&mut self, size: u32) -> Option<()> {
        self.size = self.size.saturating_add(size);
        (self.size < size::MAX).then_some(())
    }

    fn position(&self) -> u32 {
        self.reader.position() as u32
    }

    /// Reads text or bytes, with or without a type byte.
    fn raw(&mut self) -> Option<&'e [u8]> {
        match self.reader.head()? {
            Head::Raw(raw) => Some(raw),
            _ => None,
        }
    }

    /// Reads the whole of the next value.
    fn value(&mut self) -> Option<Span> {
        let start = self.position();
        let value = self.reader.value()?;
        Some(Span { start, len: value.len() as u32 })
    }
}

/// Instructions that all jump to the same place, which is not known yet. Each has the address of the previous
/// one.
#[derive(Clone, Copy, Debug)]
struct Chain {
    last: Address,
}

impl Default for Chain {
    fn default() -> Self {
        Chain { last: Address::MAX }
    }
}

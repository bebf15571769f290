//! Matches patterns with back-references by backtracking.
//!
//! The trail is a stack of places to continue from, and of registers to restore before that. The number of
//! steps is limited, because it can be exponential in the length of the text.

use super::set::{ByteSet, is_word};
use super::{Assertion, Flags, Node};
use crate::budget::Budget;

/// Largest number of instructions of a program.
const INSTRUCTIONS_MAX: usize = 10_000;
/// Largest number of steps of a match.
const STEPS_MAX: u32 = 1 << 20;
/// Number of steps between two draws on the budget, the price of each step, and the price of each start
/// position.
const STEPS_AT_ONCE: u32 = 64;
const STEP_STEPS: u64 = 8;
const START_STEPS: u64 = 50;
/// Largest number of entries of the trail.
const TRAIL_MAX: usize = 1 << 16;
/// The value of an unset register.
const UNSET: usize = usize::MAX;

#[derive(Clone, Copy, Debug)]
enum Instruction {
    Set(ByteSet),
    Assertion(Assertion),
    /// Continue at the first address, and, if that fails, at the second.
    Split(usize, usize),
    Jump(usize),
    /// Store the position in a register.
    Save(usize),
    /// Jump if the position differs from that in the register.
    Progress(usize, usize),
    /// Match the bytes between the positions in a register and the next one.
    Same(usize),
}

/// A pattern with back-references.
#[derive(Clone, Debug)]
pub(super) struct Backtracker {
    instructions: Vec<Instruction>,
    register_count: usize,
    ignore_case: bool,
}

enum Trail {
    GoOn { instruction: usize, place: usize },
    Restore { register: usize, value: usize },
}

impl Backtracker {
    /// `None` if the program becomes too large.
    pub(super) fn new(node: &Node, flags: Flags) -> Option<Self> {
        let mut program = Backtracker {
            instructions: Vec::new(),
            register_count: 2 * group_count(node),
            ignore_case: flags.ignore_case,
        };
        program.add(node)?;
        Some(program)
    }

    pub(super) fn memory_size(&self) -> usize {
        self.instructions.capacity() * size_of::<Instruction>()
    }

    /// Whether a part of `text` matches; `None` if that takes too many steps, or if the budget is exhausted.
    pub(super) fn is_match(&self, text: &[u8], budget: &Budget<'_>) -> Option<bool> {
        let mut steps_left = STEPS_MAX;
        for start in 0..=text.len() {
            budget.draw(START_STEPS + self.register_count as u64).ok()?;
            if self.is_match_at(text, start, &mut steps_left, budget)? {
                return Some(true);
            }
        }
        Some(false)
    }

    fn is_match_at(
        &self,
        text: &[u8],
        start: usize,
        steps_left: &mut u32,
        budget: &Budget<'_>,
    ) -> Option<bool> {
        let mut registers = vec![UNSET; self.register_count];
        let mut trail = vec![Trail::GoOn { instruction: 0, place: start }];
        while let Some(entry) = trail.pop() {
            let (mut at, mut place) = match entry {
                Trail::GoOn { instruction, place } => (instruction, place),
                Trail::Restore { register, value } => {
                    if let Some(register) = registers.get_mut(register) {
                        *register = value;
                    }
                    continue;
                }
            };
            loop {
                *steps_left = steps_left.checked_sub(1)?;
                if steps_left.is_multiple_of(STEPS_AT_ONCE) {
                    budget.draw(u64::from(STEPS_AT_ONCE) * STEP_STEPS).ok()?;
                }
                if trail.len() >= TRAIL_MAX {
                    return None;
                }
                let Some(instruction) = self.instructions.get(at) else { return Some(true) };
                at += 1;
                match *instruction {
                    Instruction::Set(set) if text.get(place).is_some_and(|byte| set.contains(*byte)) => {
                        place += 1;
                    }
                    Instruction::Assertion(assertion) if is_at(assertion, text, place) => {}
                    Instruction::Progress(register, target) => {
                        if registers.get(register) != Some(&place) {
                            at = target;
                        }
                    }
                    Instruction::Jump(target) => at = target,
                    Instruction::Split(first, second) => {
                        trail.push(Trail::GoOn { instruction: second, place });
                        at = first;
                    }
                    Instruction::Save(register) => {
                        let slot = registers.get_mut(register)?;
                        trail.push(Trail::Restore { register, value: std::mem::replace(slot, place) });
                    }
                    Instruction::Same(register) => {
                        match self.same(text, place, registers.get(register..)?, budget)? {
                            Some(end) => place = end,
                            None => break,
                        }
                    }
                    _ => break,
                }
            }
        }
        Some(false)
    }

    /// The end of a repetition, at `place`, of the text between the first two registers, if there is one. `None` if
    /// the budget is exhausted.
    fn same(
        &self,
        text: &[u8],
        place: usize,
        registers: &[usize],
        budget: &Budget<'_>,
    ) -> Option<Option<usize>> {
        // Both registers are unset before the group has matched.
        let group = match *registers {
            [start, end, ..] => text.get(start..end),
            _ => None,
        };
        let Some(group) = group else { return Some(None) };
        let end = place + group.len();
        let Some(found) = text.get(place..end) else { return Some(None) };
        if self.ignore_case {
            budget.draw_for(group.len()).ok()?;
        } else {
            budget.draw_for_copy(group.len()).ok()?;
        }
        let is_same = if self.ignore_case { found.eq_ignore_ascii_case(group) } else { found == group };
        Some(is_same.then_some(end))
    }

    // ---- the program

    /// The recursion depth is the nesting limit of patterns.
    fn add(&mut self, node: &Node) -> Option<()> {
        match node {
            Node::Empty => {}
            Node::Set(set) => self.emit(Instruction::Set(*set))?,
            Node::Assertion(assertion) => self.emit(Instruction::Assertion(*assertion))?,
            Node::BackReference(group) => self.emit(Instruction::Same(2 * *group as usize))?,
            Node::Concat(nodes) => nodes.iter().try_for_each(|node| self.add(node))?,
            Node::Group(group, node) => {
                let register = 2 * *group as usize;
                self.emit(Instruction::Save(register))?;
                self.add(node)?;
                self.emit(Instruction::Save(register + 1))?;
            }
            Node::Alternate(nodes) => self.add_alternatives(nodes)?,
            Node::Repeat { node, min, max } => {
                for _ in 0..*min {
                    self.add(node)?;
                }
                match max {
                    None => self.add_loop(node)?,
                    Some(max) => self.add_optional(node, max.saturating_sub(*min))?,
                }
            }
        }
        Some(())
    }

    fn emit(&mut self, instruction: Instruction) -> Option<()> {
        self.instructions.push(instruction);
        (self.instructions.len() <= INSTRUCTIONS_MAX).then_some(())
    }

    /// Emits an instruction whose target is set later.
    fn emit_open(&mut self) -> Option<usize> {
        self.emit(Instruction::Jump(0))?;
        Some(self.instructions.len() - 1)
    }

    fn set(&mut self, at: usize, instruction: Instruction) {
        if let Some(open) = self.instructions.get_mut(at) {
            *open = instruction;
        }
    }

    fn add_alternatives(&mut self, nodes: &[Node]) -> Option<()> {
        let mut exits = Vec::with_capacity(nodes.len());
        for (n, node) in nodes.iter().enumerate() {
            if n + 1 == nodes.len() {
                self.add(node)?;
                break;
            }
            let split = self.emit_open()?;
            self.add(node)?;
            exits.push(self.emit_open()?);
            self.set(split, Instruction::Split(split + 1, self.instructions.len()));
        }
        let end = self.instructions.len();
        exits.into_iter().for_each(|exit| self.set(exit, Instruction::Jump(end)));
        Some(())
    }

    /// Adds any number of repetitions. A repetition that takes no byte is the last.
    fn add_loop(&mut self, node: &Node) -> Option<()> {
        let register = self.register_count;
        self.register_count += 1;
        let split = self.emit_open()?;
        self.emit(Instruction::Save(register))?;
        self.add(node)?;
        self.emit(Instruction::Progress(register, split))?;
        self.set(split, Instruction::Split(split + 1, self.instructions.len()));
        Some(())
    }

    /// Adds up to `count` repetitions.
    fn add_optional(&mut self, node: &Node, count: u32) -> Option<()> {
        let mut splits = Vec::new();
        for _ in 0..count {
            splits.push(self.emit_open()?);
            self.add(node)?;
        }
        let end = self.instructions.len();
        splits.into_iter().for_each(|split| self.set(split, Instruction::Split(split + 1, end)));
        Some(())
    }
}

/// The largest group number plus one.
fn group_count(node: &Node) -> usize {
    let largest = |nodes: &[Node]| nodes.iter().map(group_count).max().unwrap_or(0);
    match node {
        Node::Group(group, node) => group_count(node).max(*group as usize + 1),
        Node::Repeat { node, .. } => group_count(node),
        Node::Concat(nodes) | Node::Alternate(nodes) => largest(nodes),
        // The group may be missing from the program, because it repeats zero times.
        Node::BackReference(group) => *group as usize + 1,
        Node::Empty | Node::Set(_) | Node::Assertion(_) => 0,
    }
}

fn is_at(assertion: Assertion, text: &[u8], place: usize) -> bool {
    let before = place.checked_sub(1).and_then(|before| text.get(before)).copied();
    let after = text.get(place).copied();
    let (word_before, word_after) = (before.is_some_and(is_word), after.is_some_and(is_word));
    match assertion {
        Assertion::TextStart => before.is_none(),
        Assertion::TextEnd => after.is_none(),
        Assertion::LineStart => matches!(before, None | Some(b'\n')),
        Assertion::LineEnd => matches!(after, None | Some(b'\n')),
        Assertion::WordStart => !word_before && word_after,
        Assertion::WordEnd => word_before && !word_after,
        Assertion::WordBoundary => word_before != word_after,
        Assertion::NoWordBoundary => word_before == word_after,
    }
}

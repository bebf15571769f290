//! Variables in scope.

use std::collections::HashMap;

use super::StaticType;
use crate::exp::program::Slot;

/// Variables in scope, by name. Names are unique.
#[derive(Debug, Default)]
pub(super) struct Variables<'e> {
    /// In order of definition, which is the order of their slots.
    names: Vec<&'e [u8]>,
    by_name: HashMap<&'e [u8], Variable>,
    count_max: u32,
}

#[derive(Clone, Copy, Debug)]
struct Variable {
    slot: Slot,
    /// `None` while the variable is being defined, or if its value has no type. The variable can then not be
    /// used.
    shape: Option<StaticType>,
}

impl<'e> Variables<'e> {
    /// Begins the definition of a variable. `None` if the name is invalid or in use.
    pub(super) fn declare(&mut self, name: &'e [u8]) -> Option<Slot> {
        let (first, rest) = name.split_first()?;
        let is_letter = |byte: &u8| *byte == b'_' || byte.is_ascii_alphabetic();
        if !is_letter(first) || !rest.iter().all(|byte| is_letter(byte) || byte.is_ascii_digit()) {
            return None;
        }
        let slot = self.names.len() as Slot;
        if self.by_name.insert(name, Variable { slot, shape: None }).is_some() {
            return None;
        }
        self.names.push(name);
        self.count_max = self.count_max.max(slot + 1);
        Some(slot)
    }

    /// Ends the definition of the last declared variable.
    pub(super) fn define(&mut self, slot: Slot, value: StaticType) {
        if let Some(variable) = self.names.get(slot as usize).and_then(|name| self.by_name.get_mut(name)) {
            // A variable with an unknown value has a fixed type: it does not stand for other types.
            variable.shape = value.result.map(|_| StaticType { is_unknown: false, ..value });
        }
    }

    /// The variable's slot and the type of its value.
    pub(super) fn find(&self, name: &[u8]) -> Option<(Slot, StaticType)> {
        let variable = self.by_name.get(name)?;
        Some((variable.slot, variable.shape?))
    }

    /// Removes the last `count` variables.
    pub(super) fn forget(&mut self, count: u32) {
        for _ in 0..count {
            if let Some(name) = self.names.pop() {
                self.by_name.remove(name);
            }
        }
    }

    /// The largest number of variables in scope at once.
    pub(super) const fn count_max(&self) -> u32 {
        self.count_max
    }
}

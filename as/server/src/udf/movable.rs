//! An interpreter as a whole: it moves from the thread that returns it to the thread that leases it next.

use super::interpreter::Interpreter;

/// An interpreter with every handle into it, which may move to another thread.
pub(super) struct MovableInterpreter(Box<Interpreter>);

// SAFETY: an interpreter and its handles share counters that are not atomic. All of them are in one
// `Interpreter`, which moves as a whole and is used by one thread at a time: no handle outlives a borrow of
// it. The results of a call (`Output`, `RecordState`, `Failure`) hold only values of Rust.
unsafe impl Send for MovableInterpreter {}

impl MovableInterpreter {
    pub(super) fn new(interpreter: Interpreter) -> Self {
        MovableInterpreter(Box::new(interpreter))
    }

    pub(super) fn get(&self) -> &Interpreter {
        &self.0
    }
}

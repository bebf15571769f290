//! Models of the lock-free parts of the server: loom runs each through all orders of its steps that the memory model
//! allows.
//!
//! The code under test is the server's, included file by file, with loom's atomics in place of the processor's. Those
//! files use nothing else of the server, so this crate needs neither its dependencies nor its build: `make suite-loom`,
//! or `RUSTFLAGS="--cfg loom" cargo test --release --manifest-path tests/loom/Cargo.toml`.
//!
//! The data that a lock or a state protects is a loom cell, which reports unsynchronised accesses. A thread that sleeps
//! for ever is reported as a deadlock.
#![cfg(loom)]
#![allow(dead_code, reason = "the models use a part of what they include")]

#[path = "../../../as/server/src/storage/block_state.rs"]
mod block_state;
#[path = "../../../cf/src/doorbell.rs"]
mod doorbell;
#[path = "../../../as/server/src/namespace/section_word.rs"]
mod section_word;
#[path = "../../../cf/src/sync.rs"]
mod sync;
mod sys;
#[path = "../../../as/server/src/namespace/partition/word.rs"]
mod word;

#[cfg(test)]
mod mailbox;
#[cfg(test)]
mod partition;
#[cfg(test)]
mod rw_word;
#[cfg(test)]
mod section;
#[cfg(test)]
mod write_block;

/// Runs `model` through the orders of its steps with at most `preemptions` switches between threads that need not wait.
#[cfg(test)]
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

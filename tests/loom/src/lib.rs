//! Models of the lock-free parts of the server. Loom runs each model through all orders of its steps that the
//! memory model allows.
//!
//! The code under test is the server's. It is included file by file, with loom's atomics instead of the
//! processor's. These files use no other part of the server, so this crate needs neither its dependencies nor
//! its build: `make suite-loom`, or
//! `RUSTFLAGS="--cfg loom" cargo test --release --manifest-path tests/loom/Cargo.toml`.
//!
//! The data that a lock or a state protects is a loom cell, which reports unsynchronised accesses. Loom
//! reports a thread that sleeps for ever as a deadlock.
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

/// Runs `model` through the orders of its steps with at most `preemptions` switches away from threads that
/// could continue.
#[cfg(test)]
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

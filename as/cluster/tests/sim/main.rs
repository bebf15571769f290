//! Simulates the cluster under faults: 3 to 16 nodes with replicated records and clients in one process. All
//! choices are derived from one seed, so that a run can be repeated exactly.
//!
//! A run forms a cluster and then injects faults one after the other: cuts, one-way cuts, crashes with and
//! without disk, clean stops, pauses, clock jumps. Messages are delayed, lost, duplicated and reordered all
//! the time. Clients write and note the acknowledged writes. The invariants of `check` must hold after
//! every step of a node. After a fault has healed the cluster must become one again, migrations must end, and
//! no acknowledged write may be lost. In other runs faults overlap; these runs leave out the checks that no
//! cluster with two copies can pass then.
//!
//! `SIM_SEED=n cargo test -p cluster --test sim` repeats one run and prints what happens; `SIM_SEEDS=n` runs
//! more of them (`make simulate`), from `SIM_FIRST` on.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod check;
mod client;
mod faults;
mod host;
mod network;
mod store;
mod world;

use std::panic::{self, AssertUnwindSafe};

use world::World;

/// Number of runs in an ordinary test.
const SEEDS: u64 = 320;
/// Seeds that have failed:
/// - 15171: two of four nodes form a cluster while the other two are orphans, and write partitions of which
///   only the orphans have copies.
const FAILED_ONCE: [u64; 1] = [15171];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn the_cluster_survives_faults() {
    if let Some(seed) = number("SIM_SEED") {
        let figures = World::new(seed, true).run();
        println!("seed {seed}: {figures:?}");
        return;
    }
    let first = number("SIM_FIRST").unwrap_or(1);
    let count = number("SIM_SEEDS").unwrap_or(SEEDS);
    let mut sum = world::Figures::default();
    let mut failed = Vec::new();
    for seed in FAILED_ONCE.into_iter().chain(first..first + count) {
        match panic::catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run())) {
            Ok(figures) => sum.add(&figures),
            Err(_) => {
                eprintln!(
                    "seed {seed} fails; again: SIM_SEED={seed} cargo test --profile checked -p cluster --test sim -- --nocapture"
                );
                failed.push(seed);
                if failed.len() == 10 {
                    break;
                }
            }
        }
    }
    println!("{count} seeds from {first} on: {sum:?}");
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
}

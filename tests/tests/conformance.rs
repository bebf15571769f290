//! Replays recorded traffic of official clients and random operations, and compares the answers with those of
//! the C server. `corpora/agreed.toml` lists where every answer must agree. Elsewhere every request must
//! still be answered, and the agreement is printed.

use std::time::Duration;

use ferrospike_tests::corpus::{self, Agreed, Step};
use ferrospike_tests::replay::{Options, Report, replay};
use ferrospike_tests::server::Server;

/// Number of lost steps after which a replay ends.
const LOST_MAX: usize = 10;
/// Longest time until truncations, background jobs and changes of indexes or modules take effect.
const EFFECT_DELAY: Duration = Duration::from_millis(20);

/// Replays a whole corpus. If an agreed file differs, it is replayed again alone: in the whole corpus it
/// meets records of other files, not all of which agree yet.
fn check(corpus: &str) {
    let agreed = corpus::agreed().expect("agreed.toml");
    let agreed = agreed.iter().find(|entry| entry.corpus == corpus).expect("a line in agreed.toml");
    let all = run(agreed, |_| true);
    ferrospike_tests::report(&format!("{all}, {corpus}"));
    assert_eq!(all.lost, 0, "requests of {corpus} that were not answered");
    for name in &agreed.files {
        let tally = all.of(|file| Agreed::names(name, file));
        assert!(tally.total() > 0, "{corpus} has no requests of {name}");
        if tally.differ > 0 {
            let alone = run(agreed, |step| Agreed::names(name, step.file()));
            assert_eq!(alone.tally().differ, 0, "{name} of {corpus} differs:\n{}", alone.in_words());
        }
    }
}

/// Replays some steps against a separate server, because the records of one corpus may affect another.
fn run(agreed: &Agreed, is_sent: impl Fn(&Step) -> bool) -> Report {
    let mut server = Server::usual();
    // The requests include every mistake that a client can make, which the server may log.
    server.allow("");
    let options = Options { lost_max: LOST_MAX, effect_delay: EFFECT_DELAY, ..Options::default() };
    let steps = corpus::open(&agreed.path()).expect("the corpus");
    let steps = steps.filter(|step| step.as_ref().map_or(true, &is_sent));
    replay(steps, server.address(), &options).expect("a readable corpus")
}

#[test]
fn random_kv() {
    check("random-kv");
}

#[test]
fn python_client() {
    check("python-client");
}

#[test]
fn random_list() {
    check("random-list");
}

#[test]
fn random_map() {
    check("random-map");
}

#[test]
fn random_bits() {
    check("random-bits");
}

#[test]
fn random_hll() {
    check("random-hll");
}

#[test]
fn random_exp() {
    check("random-exp");
}

#[test]
fn random_query() {
    check("random-query");
}

#[test]
fn random_sindex_info() {
    check("random-sindex-info");
}

#[test]
fn random_udf() {
    check("random-udf");
}

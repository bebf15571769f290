//! Builds an automaton from a parsed pattern, and matches with it.
//!
//! Short texts are passed as a whole to the engines of the regex-automata crate, which are fast and cannot be
//! interrupted. If the number of the automaton's states and the length of the text allow a long match, a lazy
//! DFA reads the text byte by byte instead. It draws on the budget for each byte and for each new state.

use std::sync::OnceLock;

use regex_automata::Input;
use regex_automata::hybrid::dfa::{self, Cache, DFA};
use regex_automata::meta;
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::pool::Pool;
use regex_automata::util::syntax;
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir, Look, Repetition};

use super::{Assertion, Node};
use crate::budget::Budget;

/// Maximum size of an automaton, in bytes.
const SIZE_MAX: usize = 4 << 20;
/// Maximum size of an automaton's cached states, in bytes.
const CACHE_SIZE_MAX: usize = 256 << 10;
/// Largest product of states and text bytes for a match without interruption.
const WHOLE_WORK_MAX: u64 = 1 << 14;
/// Number of state-byte products that cost one step in such a match. It is large because few states are
/// active at once.
const WHOLE_WORK_PER_STEP: u64 = 16;
/// Price of making an automaton, and of each of its states. The size of the automaton limits their number.
const COMPILE_STEPS: u64 = 10_000;
const STATE_COMPILE_STEPS: u64 = 100;
const STATES_MAX: u64 = SIZE_MAX as u64 / 16;
/// Base price of a match.
const MATCH_STEPS: u64 = 50;
/// Number of bytes that the lazy DFA reads between two draws on the budget.
const CHUNK_SIZE: usize = 256;
/// Price of a byte in the lazy DFA, and, for a byte that makes a state, the price of each state of the
/// pattern.
const BYTE_STEPS: usize = 2;
const STATE_STEPS: u64 = 6;

type CachePool = Pool<Cache, Box<dyn Fn() -> Cache + Send + Sync>>;

/// An automaton that finds out whether a part of a text matches.
#[derive(Debug)]
pub(super) struct Automaton {
    whole: meta::Regex,
    hir: Hir,
    /// Approximate number of states of the pattern.
    states: u64,
    /// Made for the first long text.
    stepwise: OnceLock<Option<Stepwise>>,
}

/// A lazy DFA and its caches, one for each thread that matches.
struct Stepwise {
    dfa: DFA,
    caches: CachePool,
}

impl std::fmt::Debug for Stepwise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepwise").finish_non_exhaustive()
    }
}

impl Clone for Automaton {
    fn clone(&self) -> Self {
        Automaton {
            whole: self.whole.clone(),
            hir: self.hir.clone(),
            states: self.states,
            stepwise: OnceLock::new(),
        }
    }
}

impl Automaton {
    /// `None` if it becomes too large, or if the budget is exhausted.
    pub(super) fn new(node: &Node, budget: &Budget<'_>) -> Option<Self> {
        let config = meta::Config::new()
            .utf8_empty(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(SIZE_MAX))
            .hybrid_cache_capacity(CACHE_SIZE_MAX);
        let builder =
            meta::Builder::new().configure(config).syntax(syntax::Config::new().utf8(false)).clone();
        let states = state_count(node);
        budget.draw(COMPILE_STEPS + states.min(STATES_MAX) * STATE_COMPILE_STEPS).ok()?;
        let hir = hir(node);
        let whole = builder.build_from_hir(&hir).ok()?;
        Some(Automaton { whole, hir, states, stepwise: OnceLock::new() })
    }

    /// Approximate size in bytes, without the caches of matches.
    pub(super) fn memory_size(&self) -> usize {
        self.whole.memory_usage()
    }

    /// Whether a part of `text` matches; `None` if the budget is exhausted.
    pub(super) fn is_match(&self, text: &[u8], budget: &Budget<'_>) -> Option<bool> {
        let work = self.states.saturating_mul(text.len() as u64);
        if work <= WHOLE_WORK_MAX {
            budget.draw(MATCH_STEPS + work / WHOLE_WORK_PER_STEP).ok()?;
            return Some(self.whole.is_match(text));
        }
        self.is_match_stepwise(text, budget)
    }

    pub(super) fn is_match_stepwise(&self, text: &[u8], budget: &Budget<'_>) -> Option<bool> {
        // The price is the same whether the state exists already or not, because results must not depend on
        // earlier matches.
        budget.draw(self.states.saturating_mul(STATE_STEPS)).ok()?;
        let stepwise = self.stepwise.get_or_init(|| Stepwise::new(&self.hir)).as_ref()?;
        stepwise.is_match(text, self.states, budget)
    }
}

impl Stepwise {
    fn new(hir: &Hir) -> Option<Self> {
        let config = thompson::Config::new()
            .utf8(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(SIZE_MAX));
        let nfa = thompson::Compiler::new().configure(config).build_from_hir(hir).ok()?;
        // The DFA never gives up. It continues within the budget, however often it drops its states.
        let config = dfa::Config::new()
            .cache_capacity(CACHE_SIZE_MAX)
            .skip_cache_capacity_check(true)
            .minimum_cache_clear_count(None);
        let dfa = dfa::Builder::new().configure(config).build_from_nfa(nfa).ok()?;
        let for_caches = dfa.clone();
        let caches: CachePool = Pool::new(Box::new(move || for_caches.create_cache()));
        Some(Stepwise { dfa, caches })
    }

    fn is_match(&self, text: &[u8], states: u64, budget: &Budget<'_>) -> Option<bool> {
        // Price of a new state.
        let unmet_steps = states.saturating_mul(STATE_STEPS).max(MATCH_STEPS);
        let mut cache = self.caches.get();
        budget.draw(unmet_steps).ok()?;
        let mut state = self.dfa.start_state_forward(&mut cache, &Input::new(text)).ok()?;
        for chunk in text.chunks(CHUNK_SIZE) {
            budget.draw_for(chunk.len() * BYTE_STEPS).ok()?;
            for &byte in chunk {
                // The state has no tag, because tagged states are returned below.
                let mut next = self.dfa.next_state_untagged(&cache, state, byte);
                if next.is_unknown() {
                    budget.draw(unmet_steps).ok()?;
                    next = self.dfa.next_state(&mut cache, state, byte).ok()?;
                }
                state = next;
                if state.is_tagged() {
                    return Some(state.is_match());
                }
            }
        }
        budget.draw(unmet_steps).ok()?;
        Some(self.dfa.next_eoi_state(&mut cache, state).ok()?.is_match())
    }
}

/// Approximate number of states of a pattern's automaton. The recursion depth is the nesting limit of patterns.
fn state_count(node: &Node) -> u64 {
    match node {
        Node::Empty | Node::BackReference(_) | Node::Set(_) | Node::Assertion(_) => 1,
        Node::Concat(nodes) | Node::Alternate(nodes) => {
            nodes.iter().map(state_count).fold(1, u64::saturating_add)
        }
        Node::Group(_, node) => state_count(node),
        Node::Repeat { node, min, max } => {
            let copies = max.unwrap_or(*min).max(1);
            // Each copy has its own states, and one to skip it.
            state_count(node).saturating_add(1).saturating_mul(copies.into())
        }
    }
}

/// The recursion depth is the nesting limit of patterns.
fn hir(node: &Node) -> Hir {
    match node {
        Node::Empty | Node::BackReference(_) => Hir::empty(),
        Node::Set(set) => {
            let ranges = set.ranges().into_iter().map(|(first, last)| ClassBytesRange::new(first, last));
            Hir::class(Class::Bytes(ClassBytes::new(ranges)))
        }
        Node::Assertion(assertion) => Hir::look(match assertion {
            Assertion::TextStart => Look::Start,
            Assertion::TextEnd => Look::End,
            Assertion::LineStart => Look::StartLF,
            Assertion::LineEnd => Look::EndLF,
            Assertion::WordStart => Look::WordStartAscii,
            Assertion::WordEnd => Look::WordEndAscii,
            Assertion::WordBoundary => Look::WordAscii,
            Assertion::NoWordBoundary => Look::WordAsciiNegate,
        }),
        Node::Concat(nodes) => Hir::concat(nodes.iter().map(hir).collect()),
        Node::Alternate(nodes) => Hir::alternation(nodes.iter().map(hir).collect()),
        // The text that a group matches is not needed.
        Node::Group(_, node) => hir(node),
        Node::Repeat { node, min, max } => {
            Hir::repetition(Repetition { min: *min, max: *max, greedy: true, sub: Box::new(hir(node)) })
        }
    }
}

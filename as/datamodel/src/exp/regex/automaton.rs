//! From a parsed pattern to an automaton.

use regex_automata::meta;
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::util::syntax;
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir, Look as HirLook, Repetition};

use super::{Look, Node};

/// Most bytes of an automaton.
const SIZE_MAX: usize = 4 << 20;
/// Most bytes of the states that an automaton has met and remembers.
const CACHE_SIZE_MAX: usize = 256 << 10;

/// The automaton that finds out whether part of a text matches. `None` if it gets too large.
pub(super) fn build(node: &Node) -> Option<meta::Regex> {
    let config = meta::Config::new()
        .utf8_empty(false)
        .which_captures(WhichCaptures::None)
        .nfa_size_limit(Some(SIZE_MAX))
        .hybrid_cache_capacity(CACHE_SIZE_MAX);
    let builder = meta::Builder::new().configure(config).syntax(syntax::Config::new().utf8(false)).clone();
    builder.build_from_hir(&hir(node)).ok()
}

/// Recurses as deep as a pattern may be nested.
fn hir(node: &Node) -> Hir {
    match node {
        Node::Empty | Node::BackReference(_) => Hir::empty(),
        Node::Set(set) => {
            let ranges = set.ranges().into_iter().map(|(first, last)| ClassBytesRange::new(first, last));
            Hir::class(Class::Bytes(ClassBytes::new(ranges)))
        }
        Node::Look(look) => Hir::look(match look {
            Look::TextStart => HirLook::Start,
            Look::TextEnd => HirLook::End,
            Look::LineStart => HirLook::StartLF,
            Look::LineEnd => HirLook::EndLF,
            Look::WordStart => HirLook::WordStartAscii,
            Look::WordEnd => HirLook::WordEndAscii,
            Look::WordBoundary => HirLook::WordAscii,
            Look::NoWordBoundary => HirLook::WordAsciiNegate,
        }),
        Node::Concat(nodes) => Hir::concat(nodes.iter().map(hir).collect()),
        Node::Alternate(nodes) => Hir::alternation(nodes.iter().map(hir).collect()),
        // What a group matches is not asked for.
        Node::Group(_, node) => hir(node),
        Node::Repeat { node, min, max } => {
            Hir::repetition(Repetition { min: *min, max: *max, greedy: true, sub: Box::new(hir(node)) })
        }
    }
}

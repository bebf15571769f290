//! Properties of reading, measuring and comparing, tested with random trees and random bytes.

use std::cmp::Ordering;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A value as a tree, in the order of its kind.
#[derive(Clone, Debug)]
enum Tree {
    Nil,
    Bool(bool),
    Integer(i64),
    Text(Vec<u8>),
    List(Vec<Tree>),
    Map(Vec<(Tree, Tree)>),
    Blob(Vec<u8>),
    Double(f64),
}

fn tree() -> impl Strategy<Value = Tree> {
    let scalar = prop_oneof![
        Just(Tree::Nil),
        any::<bool>().prop_map(Tree::Bool),
        (-3i64..4).prop_map(Tree::Integer),
        any::<i64>().prop_map(Tree::Integer),
        vec(b'a'..b'c', 0..40).prop_map(Tree::Text),
        vec(0u8..2, 0..3).prop_map(Tree::Blob),
        (-2i8..3).prop_map(|value| Tree::Double(f64::from(value))),
    ];
    scalar.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..20).prop_map(Tree::List),
            vec((inner.clone(), inner), 0..4).prop_map(Tree::Map),
        ]
    })
}

fn put(out: &mut Vec<u8>, tree: &Tree) {
    let raw = |out: &mut Vec<u8>, kind, bytes: &[u8]| {
        put_raw_header(out, u32::try_from(bytes.len() + 1).unwrap());
        out.push(kind);
        out.extend_from_slice(bytes);
    };
    match tree {
        Tree::Nil => put_nil(out),
        Tree::Bool(value) => out.push(0xc2 + u8::from(*value)),
        Tree::Integer(value) => put_integer(out, *value),
        Tree::Text(bytes) => raw(out, TEXT, bytes),
        Tree::Blob(bytes) => raw(out, BLOB, bytes),
        Tree::Double(value) => put_double(out, *value),
        Tree::List(items) => {
            put_list_header(out, u32::try_from(items.len()).unwrap());
            items.iter().for_each(|item| put(out, item));
        }
        Tree::Map(pairs) => {
            put_map_header(out, u32::try_from(pairs.len()).unwrap());
            for (key, value) in pairs {
                put(out, key);
                put(out, value);
            }
        }
    }
}

fn encoded(tree: &Tree) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, tree);
    out
}

fn rank(tree: &Tree) -> u8 {
    match tree {
        Tree::Nil => 0,
        Tree::Bool(_) => 1,
        Tree::Integer(_) => 2,
        Tree::Text(_) => 3,
        Tree::List(_) => 4,
        Tree::Map(_) => 5,
        Tree::Blob(_) => 6,
        Tree::Double(_) => 7,
    }
}

fn model_order(a: &Tree, b: &Tree) -> Ordering {
    let in_turn = |mut pairs: Box<dyn Iterator<Item = (&Tree, &Tree)> + '_>| {
        pairs.find_map(|(a, b)| Some(model_order(a, b)).filter(|order| order.is_ne()))
    };
    match (a, b) {
        (Tree::Bool(a), Tree::Bool(b)) => a.cmp(b),
        (Tree::Integer(a), Tree::Integer(b)) => a.cmp(b),
        (Tree::Text(a), Tree::Text(b)) | (Tree::Blob(a), Tree::Blob(b)) => a.cmp(b),
        (Tree::Double(a), Tree::Double(b)) => a.total_cmp(b),
        (Tree::List(a), Tree::List(b)) => {
            in_turn(Box::new(a.iter().zip(b))).unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Tree::Map(a), Tree::Map(b)) => a.len().cmp(&b.len()).then_with(|| {
            let pairs = a.iter().zip(b).flat_map(|((ak, av), (bk, bv))| [(ak, bk), (av, bv)]);
            in_turn(Box::new(pairs)).unwrap_or(Ordering::Equal)
        }),
        _ => rank(a).cmp(&rank(b)),
    }
}

proptest! {
    #[test]
    fn written_values_are_measured_and_ordered_like_the_tree(a in tree(), b in tree()) {
        let (a_bytes, b_bytes) = (encoded(&a), encoded(&b));
        prop_assert_eq!(end_of(&a_bytes, 0, 1), Some(a_bytes.len()));
        prop_assert_eq!(end_of(&a_bytes[..a_bytes.len() - 1], 0, 1), None);
        prop_assert_eq!(compare(&a_bytes, &b_bytes), Some(model_order(&a, &b)));
        prop_assert_eq!(compare(&b_bytes, &a_bytes), Some(model_order(&a, &b).reverse()));
        prop_assert_eq!(compare(&a_bytes, &a_bytes), Some(Ordering::Equal));
    }

    #[test]
    fn bytes_that_are_anything_are_read_without_harm(a in vec(any::<u8>(), 0..40), b in vec(any::<u8>(), 0..40)) {
        let end = end_of(&a, 0, 1);
        prop_assert!(end.is_none_or(|end| end <= a.len()));
        let _ = compare(&a, &b);
        let _ = holds_search_value(&a);
        let mut reader = Reader::new(&a);
        while let Some(head) = reader.head() {
            let _ = head.kind();
            prop_assert!(reader.position() <= a.len());
        }
        // Two ways to walk the same value end at the same place.
        let mut measured = Reader::new(&a);
        prop_assert_eq!(measured.value().map(<[u8]>::len), end);
    }
}

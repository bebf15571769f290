//! MessagePack from clients: the walk, the reader and the comparison must agree on which bytes are a value.

use std::cmp::Ordering;

use cf::msgpack::{Reader, compare, end_of};

/// Runs one input as described at the top of this file.
pub fn run(bytes: &[u8]) {
    let Some(end) = end_of(bytes, 0, 1) else {
        assert_eq!(Reader::new(bytes).value(), None, "measured as no value, read as one");
        return;
    };
    let (first, rest) = bytes.split_at(end);
    assert_eq!(Reader::new(bytes).value(), Some(first));
    assert_eq!(compare(first, first), Some(Ordering::Equal));
    if let Some(end) = end_of(rest, 0, 1) {
        let second = &rest[..end];
        let order = compare(first, second);
        assert_eq!(order.map(Ordering::reverse), compare(second, first));
    }
}

//! Batches, processed by a whole server.
//!
//! Input: bits for the parts other than the batch; length of a filter, the filter; how often the rows are
//! repeated; the value of the batch field.

use std::cell::RefCell;

use crate::server::Client;

const READ_BATCH: u8 = 0x09;
const BATCH: u8 = 41;
const FILTER: u8 = 43;
/// Count of rows and flags.
const HEAD_SIZE: usize = 5;

thread_local! {
    static CLIENT: RefCell<Client> = RefCell::default();
}

/// Runs one input as described at the top of this file.
pub fn run(bytes: &[u8]) {
    let Some((&[bits, filter_size, repeats], rest)) = bytes.split_first_chunk() else { return };
    let (filter, batch) = rest.split_at(usize::from(filter_size).min(rest.len()));
    let mut value = batch.to_vec();
    // Some batches are large enough for the batch threads.
    for _ in 0..repeats / 16 {
        value.extend_from_slice(batch.get(HEAD_SIZE..).unwrap_or_default());
    }
    let has_filter = bits & 1 != 0;
    let mut body = vec![22, READ_BATCH & !(bits >> 1 & 1), 0, 0, 0, 0];
    body.extend([0; 8]);
    body.extend(u32::from(bits & 4).to_be_bytes());
    body.extend([0, 1 + u8::from(has_filter), 0, 0]);
    for (number, field) in
        [(BATCH, &value[..]), (FILTER, filter)].into_iter().take(1 + usize::from(has_filter))
    {
        body.extend((field.len() as u32 + 1).to_be_bytes());
        body.push(number);
        body.extend(field);
    }
    CLIENT.with_borrow_mut(|client| client.message(&body));
}

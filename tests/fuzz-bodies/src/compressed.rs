//! Compressed messages: the input is used as a compressed message, and as the content of one. A whole server
//! processes both.

use std::cell::RefCell;

use proto::compressed::{Deflater, Inflater, announced_size};
use proto::frame::{FrameType, HEADER_SIZE, header_bytes};

use crate::server::Client;

thread_local! {
    static CLIENT: RefCell<Client> = RefCell::default();
}

/// Runs one input as described at the top of this file.
pub fn run(bytes: &[u8]) {
    let mut frame = Vec::new();
    if let Ok(true) = Inflater::default().inflate(bytes, &mut frame, || true) {
        assert_eq!(announced_size(bytes), Ok(frame.len()), "no more and no less than announced");
    }
    // Zeros after the input make it compressible.
    let clear = [&header_bytes(FrameType::Message, bytes.len() + 200)[..], bytes, &[0; 200]].concat();
    let mut small = Vec::new();
    let is_smaller = Deflater::default().deflate(&clear, &mut small);
    CLIENT.with_borrow_mut(|client| client.compressed_message(bytes));
    if is_smaller {
        assert_eq!(Inflater::default().inflate(&small[HEADER_SIZE..], &mut frame, || true), Ok(true));
        assert_eq!(frame, clear);
        CLIENT.with_borrow_mut(|client| client.compressed_message(&small[HEADER_SIZE..]));
    }
}

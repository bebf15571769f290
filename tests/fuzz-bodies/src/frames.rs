//! The parsers of bytes from a client: frames, record messages, batches.

use proto::batch::{Batch, RowPosition, Rows};
use proto::frame::{FrameHeader, HEADER_SIZE};
use proto::message::Request;

/// Largest number of rows that are read from a batch that announces more.
const ROWS_MAX: u32 = 10_000;

/// Runs one input as described at the top of this file.
pub fn run(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(header)) = FrameHeader::parse(rest) {
        let Some(body) = rest[HEADER_SIZE..].get(..header.body_size) else { break };
        read_message(body);
        rest = &rest[HEADER_SIZE + header.body_size..];
    }
    // The fuzzer rarely gets a length right, so the whole input is also used as a body.
    read_message(bytes);
}

fn read_message(body: &[u8]) {
    let Ok(request) = Request::parse(body) else { return };
    assert_eq!(request.ops().count(), usize::from(request.op_count()));
    for field_type in 0..=u8::MAX {
        assert_eq!(request.has_field(field_type), request.field(field_type).is_some());
    }
    assert_eq!(request.record_digest().is_some(), request.digest.is_some_and(|digest| digest.len() == 20));
    if let Some(batch) = request.batch() {
        read_batch(batch, &request);
    }
}

fn read_batch(value: &[u8], parent: &Request<'_>) {
    let Ok(batch) = Batch::parse(value) else { return };
    let mut rows = Rows::new(batch.rows, parent);
    let mut positions: Vec<(RowPosition, u32)> = Vec::new();
    for _ in 0..batch.row_count.min(ROWS_MAX) {
        let position = rows.position();
        let Ok(row) = rows.read() else { break };
        assert_eq!(row.request.ops().count(), usize::from(row.request.op_count()));
        positions.push((position, row.index));
    }
    // Another reader finds the same rows from the first reader's positions.
    for (position, index) in positions.into_iter().step_by(7) {
        let mut again = Rows::new(batch.rows, parent);
        again.go_to(position).expect("a place of the same rows");
        assert_eq!(again.read().map(|row| row.index), Ok(index));
    }
}

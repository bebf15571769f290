//! Device headers, as found on a damaged or foreign device.
//!
//! The input is written over a valid header, so that the fuzzer need not find magic and version. It consists
//! of groups: a byte for the place (see [`PLACES`]), a byte for the number of bytes, and these bytes.

use datamodel::device_header::{
    DeviceHeader, FLAGS_OFFSET, Found, HEADER_SIZE, PARTITIONS_OFFSET, PRISTINE_OFFSET, UNIQUE_OFFSET,
    WRITTEN_SIZE,
};

/// Offsets of fields: magic, version, namespace, number of devices, signature, flags, write block size, first and last
/// partition entry, device id, pristine offset, scratch.
const PLACES: [usize; 12] = [
    0,
    8,
    12,
    44,
    48,
    FLAGS_OFFSET,
    60,
    PARTITIONS_OFFSET,
    UNIQUE_OFFSET - 16,
    UNIQUE_OFFSET,
    PRISTINE_OFFSET,
    HEADER_SIZE - 256,
];

/// Runs one input as described at the top of this file.
pub fn run(input: &[u8]) {
    let mut bytes = vec![0; HEADER_SIZE];
    DeviceHeader::fresh(b"test", 2, 77, 1).encode(&mut bytes);
    let mut rest = input;
    while let [place, size, after @ ..] = rest {
        let (patch, after) = after.split_at(usize::from(*size).min(after.len()));
        let at = PLACES[usize::from(*place) % PLACES.len()];
        bytes[at..at + patch.len()].copy_from_slice(patch);
        rest = after;
    }
    let short = input.len() * 331 % HEADER_SIZE;
    assert!(DeviceHeader::parse(&bytes[..short]).is_err());
    let header = match DeviceHeader::parse(&bytes) {
        Ok(Found::Used(header)) => header,
        Ok(Found::Fresh) => return assert!(bytes.iter().all(|byte| *byte == 0)),
        Err(error) => return assert!(!error.to_string().is_empty() && error.offset() < HEADER_SIZE as u64),
    };
    for size in [0, HEADER_SIZE as u64, 128 << 20, u64::MAX] {
        if let Err(error) = header.check(b"test", size) {
            assert!(!error.to_string().is_empty() && error.offset() < HEADER_SIZE as u64);
        }
    }
    let _ = header.flags.names().count();
    if header.check(b"test", u64::MAX).is_err() {
        return;
    }
    // A header that passes is used by the server, and must be the same when it is written and read again.
    let mut again = vec![0; HEADER_SIZE];
    header.encode(&mut again);
    assert_eq!(DeviceHeader::parse(&again), Ok(Found::Used(header)));
    assert!(again[WRITTEN_SIZE..].iter().all(|byte| *byte == 0));
}

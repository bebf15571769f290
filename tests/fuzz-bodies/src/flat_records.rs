//! Flat records, as found on a damaged device.
//!
//! Magic and end mark are corrected, because the fuzzer would not find them.

use datamodel::flat::{FlatRecord, MAGIC, NewRecord};
use datamodel::packing::Unpacker;

/// Runs one input as described at the top of this file.
pub fn run(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if let Some(magic) = bytes.first_chunk_mut() {
        *magic = MAGIC.to_le_bytes();
    }
    let Ok(record) = FlatRecord::parse(&bytes) else { return };
    assert!(record.size <= bytes.len() && record.size % 16 == 0);
    let _ = record.verify();
    if record.packing.is_some()
        && let Ok(plain) = Unpacker::default().unpack(&record)
    {
        let plain = FlatRecord::parse(plain).expect("its head was read before");
        assert!(
            plain.packing.is_none() && plain.digest == record.digest && plain.bin_count == record.bin_count
        );
    }
    let _ = record.bin(b"a");
    let Ok(bins) = record.load_bins() else { return };
    assert_eq!(bins.len(), record.bin_count as usize);
    let mut wire = Vec::new();
    for bin in bins.iter() {
        bin.particle.write_wire(&mut wire);
    }

    // When it is written again, it is a valid record with the same content.
    let new = NewRecord {
        digest: record.digest,
        last_update_time: record.last_update_time,
        generation: record.generation,
        void_time: record.void_time,
        tree_id: record.tree_id,
        set_name: record.set_name,
        key: record.key,
        leaves_tombstone: record.leaves_tombstone,
    };
    let size = new.size(&bins);
    let mut out = Vec::new();
    new.encode(&bins, size, &mut out);
    let again = FlatRecord::parse(&out).expect("a record that was just written");
    again.verify().expect("a sound record");
    assert_eq!(
        (again.digest, again.generation, again.void_time, again.leaves_tombstone),
        (record.digest, record.generation, record.void_time, record.leaves_tombstone)
    );
    assert_eq!((again.set_name, again.key, again.bin_count), (record.set_name, record.key, record.bin_count));
}

//! Tests of the device header: stored form, checks, damage.

use proptest::prelude::*;

use super::*;

/// The header that the C server wrote for a namespace `bar` with one file after a clean stop. All other bytes
/// are zeros, except the partition entries, which are all the same.
const GOLDEN_PREFIX: [u8; 76] = *b"\x22\x03\x73\x75\x72\x74\x49\x43\x04\0\0\0bar\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\
    \x4F\xB4\x80\xCB\x01\xBA\x92\x2C\x01\0\0\0\0\0\x80\0\0\0\0\0\0\0\0\0\0\0\0\0";
const GOLDEN_ENTRY: [u8; 16] = *b"\xE5\x96\xD2\x40\x85\x41\0\x20\x01\0\0\0\0\0\0\0";
const GOLDEN_PRISTINE_OFFSET: [u8; 8] = *b"\0\0\x80\x01\0\0\0\0";

fn golden() -> Vec<u8> {
    let mut bytes = vec![0; HEADER_SIZE];
    bytes[..76].copy_from_slice(&GOLDEN_PREFIX);
    for id in 0..PARTITION_COUNT {
        bytes[4096 + 16 * id..][..16].copy_from_slice(&GOLDEN_ENTRY);
    }
    bytes[69_720..][..8].copy_from_slice(&GOLDEN_PRISTINE_OFFSET);
    bytes
}

fn used(bytes: &[u8]) -> DeviceHeader {
    match DeviceHeader::parse(bytes) {
        Ok(Found::Used(header)) => *header,
        other => panic!("{other:?}"),
    }
}

#[test]
fn header_of_the_c_server_is_read_and_written_with_equal_bytes() {
    let bytes = golden();
    let header = used(&bytes);
    assert_eq!((header.namespace.as_slice(), header.device_count), (&b"bar"[..], 1));
    assert_eq!((header.signature, header.wblock_size), (0x2C92_BA01_CB80_B44F, 8 << 20));
    assert_eq!((header.device_id, header.pristine_offset), (0, 3 * (8 << 20)));
    assert_eq!(header.flags.names().collect::<Vec<_>>(), ["trusted"]);
    assert_eq!(header.partitions.len(), PARTITION_COUNT);
    assert_eq!(header.partitions[4095].version.to_string(), "418540d296e5.0.mp-");
    assert_eq!(header.partitions[4095].tree_id, 1);
    assert_eq!(header.check(b"bar", 128 << 20), Ok(()));
    let mut written = vec![0xFF; WRITTEN_SIZE];
    header.encode(&mut written);
    assert!(written == bytes[..WRITTEN_SIZE]);
}

#[test]
fn parts_that_are_written_alone_fill_the_header_and_whole_transfers() {
    let groups = (0..PARTITION_COUNT).step_by(PARTITION_GROUP_LEN).map(PartitionEntry::group_bytes);
    let mut end = 0;
    for part in std::iter::once(PREFIX_BYTES).chain(groups).chain([UNIQUE_BYTES]) {
        assert_eq!((part.start, part.len()), (end, 4096));
        end = part.end;
    }
    assert_eq!(end, WRITTEN_SIZE);
    assert_eq!(PartitionEntry::group_bytes(255), PartitionEntry::group_bytes(0));
    assert_eq!(PartitionEntry::group_bytes(256), 8192..12_288);
    assert!(PREFIX_BYTES.contains(&FLAGS_OFFSET) && UNIQUE_BYTES.contains(&PRISTINE_OFFSET));
}

#[test]
fn bytes_that_are_not_a_header_are_distinguished() {
    let mut bytes = vec![0; HEADER_SIZE];
    assert_eq!(DeviceHeader::parse(&bytes), Ok(Found::Fresh));
    bytes[HEADER_SIZE - 1] = 1;
    assert_eq!(DeviceHeader::parse(&bytes), Err(HeaderError::Foreign(HEADER_SIZE - 1)));
    assert_eq!(DeviceHeader::parse(&bytes[1..]), Err(HeaderError::Short(HEADER_SIZE as u64 - 1)));
    let mut bytes = golden();
    for (version, error) in [(3, HeaderError::OldVersion), (5, HeaderError::UnknownVersion(5))] {
        bytes[8] = version;
        assert_eq!(DeviceHeader::parse(&bytes), Err(error));
    }
}

#[test]
fn every_wrong_field_has_its_error_and_place() {
    type Spoil = fn(&mut DeviceHeader);
    let cases: [(Spoil, u64, &str); 8] = [
        (|header| header.namespace = b"foo".to_vec(), 12, "holds namespace \"foo\", not \"bar\""),
        (|header| header.device_count = 129, 44, "129 devices"),
        (|header| header.signature = 0, 48, "signature 0"),
        (|header| header.wblock_size = 3 << 20, 60, "write blocks of 3145728 bytes"),
        (|header| header.device_id = 128, 69_632, "device id 128"),
        (|header| header.flags = Flags::SINGLE_BIN, 56, "single-bin"),
        (|header| header.pristine_offset = 4096, 69_720, "data ends at 4096"),
        (|header| header.pristine_offset = 1 << 30, 69_720, "up to 1073741824, but only 134217728"),
    ];
    for (spoil, offset, message) in cases {
        let mut header = used(&golden());
        spoil(&mut header);
        let error = header.check(b"bar", 128 << 20).unwrap_err();
        assert_eq!(error.offset(), offset, "{error}");
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.to_string().contains(';'), "says what to do: {error}");
    }
    let mut header = used(&golden());
    (header.wblock_size, header.pristine_offset) = (1 << 20, 0);
    assert_eq!(header.check(b"bar", 128 << 20), Ok(()), "smaller blocks, and no pristine offset yet");
}

#[test]
fn runs_are_kept_and_damaged_runs_are_dropped() {
    let mut header = used(&golden());
    assert_eq!((header.runs.len(), header.lineage()), (0, vec![header.signature]));
    header.runs = (1..=200).collect();
    let mut bytes = vec![0; HEADER_SIZE];
    header.encode(&mut bytes);
    let expected: Vec<u64> = (1..=128).collect();
    assert_eq!((used(&bytes).runs, used(&bytes).lineage()), (expected.clone(), expected));
    for at in [RUNS_OFFSET, RUN_COUNT_OFFSET, RUN_COUNT_OFFSET + 3, RUNS_HASH_OFFSET, RUN_LIST_OFFSET + 900] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        assert_eq!(used(&damaged).runs, [0; 0], "byte {at}");
    }
}

#[test]
fn shadows_differ_in_the_pristine_offset_at_most() {
    let device = golden();
    let mut shadow = device.clone();
    shadow[PRISTINE_OFFSET..PRISTINE_OFFSET + 8].fill(0);
    assert!(same_but_for_pristine_offset(&device, &shadow));
    shadow[SIGNATURE_OFFSET] ^= 1;
    assert!(!same_but_for_pristine_offset(&device, &shadow));
    assert!(!same_but_for_pristine_offset(&device, &device[..4096]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_headers_are_answers(
        changes in prop::collection::vec((prop_oneof![0usize..128, 4096usize..70_000, 0..HEADER_SIZE], any::<u8>()), 0..20),
        cut in prop::option::of(0..=HEADER_SIZE), size: u64,
    ) {
        let mut bytes = golden();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(cut.unwrap_or(HEADER_SIZE));
        match DeviceHeader::parse(&bytes) {
            Ok(Found::Used(header)) => {
                if let Err(error) = header.check(b"bar", size) {
                    prop_assert!(!error.to_string().is_empty());
                }
                if header.namespace.len() < NAMESPACE_SIZE {
                    let mut written = vec![0; HEADER_SIZE];
                    header.encode(&mut written);
                    prop_assert_eq!(used(&written), *header);
                }
            }
            Ok(Found::Fresh) => prop_assert!(bytes.iter().all(|byte| *byte == 0)),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

//! The record that an expression sees: its metadata, which is known before it is read, and the whole record.

use cf::Digest;

use super::operators::Metadata as Item;
use super::value::{Bytes, Type, Value};
use crate::bins::Bins;
use crate::flat::FlatRecord;
use crate::particle::{BytesType, Particle, type_number};

/// Seconds from 1970 to 2010, the zero of the server's times.
const EPOCH_SECONDS: u64 = 1_262_304_000;
/// TTL of a record that never expires.
const TTL_NEVER: i64 = -1;

/// Facts about a record from the index.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    pub digest: Digest,
    /// Milliseconds since 2010-01-01.
    pub last_update_time: u64,
    /// Seconds since 2010-01-01; 0 means never.
    pub void_time: u32,
    /// Empty if the record is in no set.
    pub set_name: &'a [u8],
    /// Whether a key is stored with the record.
    pub is_key_stored: bool,
    pub is_tombstone: bool,
    /// Bytes that the record takes in storage.
    pub stored_size: u64,
    pub medium: Medium,
    /// The current time, in milliseconds since 2010-01-01.
    pub now_ms: u64,
}

/// Where the records of a namespace are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Medium {
    /// In memory only.
    Memory,
    /// In memory, loaded from devices.
    BackedMemory,
    Device,
}

/// A record that has been read.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub metadata: &'a Metadata<'a>,
    /// The record's key: particle type byte and bytes.
    pub key: Option<&'a [u8]>,
    pub bins: &'a dyn BinSource,
}

/// Something that has bins.
pub trait BinSource: std::fmt::Debug {
    /// The value of bin `name`.
    fn bin(&self, name: &[u8]) -> Option<Particle<'_>>;

    /// Price of a bin lookup.
    fn lookup_steps(&self) -> u64;

    /// All bins in a table, if that makes lookups faster.
    fn load(&self) -> Option<Bins<'_>>;
}

impl BinSource for Bins<'_> {
    #[inline]
    fn bin(&self, name: &[u8]) -> Option<Particle<'_>> {
        self.get(name).map(Particle::borrowed)
    }

    fn lookup_steps(&self) -> u64 {
        Bins::lookup_steps(self)
    }

    fn load(&self) -> Option<Bins<'_>> {
        None
    }
}

/// Looks up each bin in the stored record. A damaged bin counts as missing.
impl BinSource for FlatRecord<'_> {
    #[inline]
    fn bin(&self, name: &[u8]) -> Option<Particle<'_>> {
        FlatRecord::bin(self, name).ok().flatten()
    }

    fn lookup_steps(&self) -> u64 {
        FlatRecord::lookup_steps(self)
    }

    fn load(&self) -> Option<Bins<'_>> {
        self.load_bins().ok()
    }
}

impl<'a> Metadata<'a> {
    pub(super) fn value(&self, item: Item) -> Value<'a> {
        let size = |bytes: u64| Value::Integer(bytes.cast_signed());
        match item {
            Item::RecordSize => size(self.stored_size),
            Item::DeviceSize if self.medium == Medium::Memory => size(0),
            Item::MemorySize if self.medium == Medium::Device => size(0),
            Item::DeviceSize | Item::MemorySize => size(self.stored_size),
            Item::LastUpdate => {
                Value::Integer(nanoseconds_since_1970(self.last_update_time.wrapping_mul(1_000_000)))
            }
            Item::SinceUpdate => {
                Value::Integer(self.now_ms.saturating_sub(self.last_update_time).cast_signed())
            }
            Item::VoidTime if self.void_time == 0 => Value::Integer(TTL_NEVER),
            Item::VoidTime => {
                Value::Integer(nanoseconds_since_1970(u64::from(self.void_time) * 1_000_000_000))
            }
            Item::Ttl => Value::Integer(self.ttl()),
            Item::SetName => Value::Bytes(BytesType::String, Bytes::Borrowed(self.set_name)),
            Item::KeyExists => Value::Bool(self.is_key_stored),
            Item::IsTombstone => Value::Bool(self.is_tombstone),
        }
    }

    /// Seconds to live; 1 for an expired record.
    fn ttl(&self) -> i64 {
        if self.void_time == 0 {
            return TTL_NEVER;
        }
        let now = self.now_ms / 1_000;
        // TTLs in the protocol have 32 bits.
        let left = u64::from(self.void_time).saturating_sub(now).max(1) as u32;
        i64::from(left.cast_signed())
    }

    /// The last four bytes of the digest modulo `divisor`, which is not 0.
    pub(super) fn digest_modulo(&self, divisor: i32) -> i64 {
        let [.., a, b, c, d] = self.digest.0;
        i64::from(u32::from_le_bytes([a, b, c, d])).checked_rem(i64::from(divisor)).unwrap_or(0)
    }
}

/// The stored key, if it has the wanted type.
pub(super) fn key_value(key: Option<&[u8]>, wanted: Type) -> Option<Value<'_>> {
    let (&number, value) = key?.split_first()?;
    let value = match number {
        type_number::INTEGER => Value::Integer(i64::from_be_bytes(value.try_into().ok()?)),
        type_number::STRING => Value::Bytes(BytesType::String, Bytes::Borrowed(value)),
        type_number::BLOB => Value::Bytes(BytesType::Blob, Bytes::Borrowed(value)),
        _ => return None,
    };
    value.is(wanted).then_some(value)
}

fn nanoseconds_since_1970(since_2010: u64) -> i64 {
    (EPOCH_SECONDS * 1_000_000_000).wrapping_add(since_2010).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata<'static> {
        let mut digest = Digest::default();
        digest.0[16..].copy_from_slice(&[5, 1, 0, 0x80]);
        Metadata {
            digest,
            last_update_time: 7_001,
            void_time: 30,
            set_name: b"s",
            is_key_stored: false,
            is_tombstone: false,
            stored_size: 48,
            medium: Medium::Memory,
            now_ms: 20_500,
        }
    }

    fn integer(metadata: &Metadata<'_>, item: Item) -> i64 {
        match metadata.value(item) {
            Value::Integer(value) => value,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn times_are_nanoseconds_since_1970_and_spans_are_from_now() {
        let mut metadata = metadata();
        assert_eq!(integer(&metadata, Item::LastUpdate), 1_262_304_007_001_000_000);
        assert_eq!(integer(&metadata, Item::SinceUpdate), 13_499);
        assert_eq!(integer(&metadata, Item::VoidTime), 1_262_304_030_000_000_000);
        assert_eq!(integer(&metadata, Item::Ttl), 10);
        metadata.now_ms = 99_000;
        assert_eq!(integer(&metadata, Item::Ttl), 1, "over, and not yet gone");
        metadata.void_time = 0;
        assert_eq!((integer(&metadata, Item::Ttl), integer(&metadata, Item::VoidTime)), (-1, -1));
        metadata.last_update_time = 100_000;
        assert_eq!(integer(&metadata, Item::SinceUpdate), 0, "clocks differ");
    }

    #[test]
    fn sizes_of_other_media_are_zero() {
        for (medium, device, memory) in
            [(Medium::Memory, 0, 48), (Medium::BackedMemory, 48, 48), (Medium::Device, 48, 0)]
        {
            let metadata = Metadata { medium, ..metadata() };
            assert_eq!(integer(&metadata, Item::DeviceSize), device);
            assert_eq!(integer(&metadata, Item::MemorySize), memory);
            assert_eq!(integer(&metadata, Item::RecordSize), 48);
        }
    }

    #[test]
    fn the_digest_counts_as_little_endian() {
        assert_eq!(metadata().digest_modulo(10), i64::from(0x8000_0105u32 % 10));
        assert_eq!(metadata().digest_modulo(-7), i64::from(0x8000_0105u32 % 7));
    }

    #[test]
    fn keys_are_of_their_type_or_unknown() {
        let key = [1, 0, 0, 0, 0, 0, 0, 0, 9];
        assert!(matches!(key_value(Some(&key), Type::Integer), Some(Value::Integer(9))));
        assert!(key_value(Some(&key), Type::Text).is_none());
        assert!(key_value(Some(&key[..8]), Type::Integer).is_none());
        assert!(matches!(key_value(Some(b"\x03ab"), Type::Text), Some(Value::Bytes(BytesType::String, _))));
        assert!(key_value(Some(b"\x02ab"), Type::Text).is_none());
        assert!(key_value(None, Type::Blob).is_none());
    }
}

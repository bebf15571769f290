//! Bytes in Lua: a buffer with a capacity, a size and a type. The total memory of an interpreter's buffers is bounded.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::rc::Rc;

use mlua::{Lua, Table, UserData, UserDataRef, UserDataRefMut, Value};

/// Maximum number of bytes in all buffers of an interpreter.
pub(in crate::udf) const MEMORY_MAX: usize = 32 << 20;
/// The type of plain bytes.
const BLOB: i64 = 4;
/// Maximum number of bytes of a variable-length integer.
const VARYING_SIZE_MAX: usize = 5;

/// Memory used by the buffers of an interpreter.
#[derive(Default)]
pub(crate) struct Memory {
    used: Cell<usize>,
}

impl Memory {
    /// Takes `size` bytes if the limit allows it; returns whether it did.
    fn take(&self, size: usize) -> bool {
        let used = self.used.get().saturating_add(size);
        if used > MEMORY_MAX {
            return false;
        }
        self.used.set(used);
        true
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used.get()
    }
}

/// A value of class `Bytes`.
pub(crate) struct Buffer {
    /// Its length is the capacity; bytes after the size do not count.
    storage: Vec<u8>,
    size: usize,
    kind: i64,
    memory: Rc<Memory>,
}

impl UserData for Buffer {}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.memory.used.set(self.memory.used.get() - self.storage.len());
    }
}

impl Buffer {
    /// An empty buffer of this capacity; `None` if there is no memory for it.
    fn new(capacity: usize, memory: &Rc<Memory>) -> Option<Self> {
        memory.take(capacity).then(|| Buffer {
            storage: vec![0; capacity],
            size: 0,
            kind: BLOB,
            memory: Rc::clone(memory),
        })
    }

    /// A buffer that holds `bytes`; `None` if there is no memory for it.
    pub(crate) fn of(bytes: &[u8], kind: i64, memory: &Rc<Memory>) -> Option<Self> {
        memory.take(bytes.len()).then(|| Buffer {
            storage: bytes.to_vec(),
            size: bytes.len(),
            kind,
            memory: Rc::clone(memory),
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.storage[..self.size]
    }

    pub(crate) fn kind(&self) -> i64 {
        self.kind
    }

    /// Grows the capacity to at least this many bytes; `false` if there is no memory for them.
    fn reserve(&mut self, capacity: usize) -> bool {
        let missing = capacity.saturating_sub(self.storage.len());
        if missing == 0 {
            return true;
        }
        if !self.memory.take(missing) {
            return false;
        }
        self.storage.resize(capacity, 0);
        true
    }

    /// The position to write at: `at`, or after the last byte if `at` is negative.
    fn place(&self, at: i64) -> usize {
        usize::try_from(at).unwrap_or(self.size)
    }

    fn write(&mut self, at: i64, bytes: &[u8]) -> bool {
        let start = self.place(at);
        let end = start.saturating_add(bytes.len());
        if !self.reserve(end) {
            return false;
        }
        self.storage[start..end].copy_from_slice(bytes);
        self.size = self.size.max(end);
        true
    }

    /// The integer of `width` bytes at `at`: a single byte is unsigned, others are signed. `None`: `at` is
    /// beyond the last byte.
    fn integer(&self, at: usize, width: usize, is_little: bool) -> Option<i64> {
        let bytes = self.bytes().get(at..at.checked_add(width)?)?;
        if width == 1 {
            return Some(i64::from(bytes[0]));
        }
        let mut wide = [0; 8];
        wide[8 - width..].copy_from_slice(bytes);
        if is_little {
            wide[8 - width..].reverse();
        }
        let shift = 64 - 8 * width as u32;
        Some((i64::from_be_bytes(wide) << shift) >> shift)
    }

    fn write_integer(&mut self, at: i64, width: usize, is_little: bool, value: i64) -> bool {
        let mut bytes = value.to_be_bytes();
        let bytes = &mut bytes[8 - width..];
        if is_little {
            bytes.reverse();
        }
        self.write(at, bytes)
    }

    /// Writes a number with seven bits a byte, least significant first, without changing the size. Returns the number
    /// of bytes.
    fn write_varying(&mut self, at: i64, mut value: u32) -> Option<usize> {
        let start = self.place(at);
        if !self.reserve(start.saturating_add(VARYING_SIZE_MAX)) {
            return None;
        }
        let mut at = start;
        while value >= 0x80 {
            self.storage[at] = value.to_le_bytes()[0] | 0x80;
            value >>= 7;
            at += 1;
        }
        self.storage[at] = value.to_le_bytes()[0];
        Some(at + 1 - start)
    }

    /// Reads a number with seven bits a byte; returns it with its number of bytes.
    fn varying(&self, at: usize) -> (u32, usize) {
        let (mut value, mut shift) = (0u32, 0u32);
        for (index, byte) in self.storage.get(at..).unwrap_or_default().iter().enumerate() {
            value |= u32::from(byte & 0x7F).checked_shl(shift).unwrap_or(0);
            shift += 7;
            if byte & 0x80 == 0 {
                return (value, index + 1);
            }
        }
        (value, 0)
    }
}

/// A number as a position or size; a negative one is beyond every buffer.
fn index(value: i64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Repeats a failed attempt after garbage collection has freed unused memory.
fn or_collect<T>(lua: &Lua, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    attempt().or_else(|| {
        lua.gc_collect().ok()?;
        attempt()
    })
}

/// Installs the prelude's functions on bytes in `host`, and those through which conversions pass the bytes of
/// a buffer, in `passed_bytes`.
///
/// # Errors
/// When Lua has not enough memory.
pub(crate) fn install(
    lua: &Lua,
    host: &Table,
    memory: &Rc<Memory>,
    passed_bytes: &Rc<RefCell<Vec<u8>>>,
) -> mlua::Result<()> {
    let read = Rc::clone(passed_bytes);
    host.set(
        "read_buffer",
        lua.create_function(move |_, data: UserDataRef<Buffer>| {
            *read.borrow_mut() = data.bytes().to_vec();
            Ok(data.kind)
        })?,
    )?;
    let (made, passed) = (Rc::clone(memory), Rc::clone(passed_bytes));
    host.set(
        "make_buffer",
        lua.create_function(move |lua, kind: i64| {
            let buffer = Buffer::of(&passed.take(), kind, &made);
            buffer.map(|buffer| lua.create_userdata(buffer)).transpose()
        })?,
    )?;
    let new = Rc::clone(memory);
    host.set(
        "bytes_new",
        lua.create_function(move |lua, capacity: i64| {
            let buffer = or_collect(lua, || Buffer::new(index(capacity), &new));
            buffer.map(|buffer| lua.create_userdata(buffer)).transpose()
        })?,
    )?;
    let of = Rc::clone(memory);
    host.set(
        "bytes_of",
        lua.create_function(move |lua, bytes: mlua::String| {
            let buffer = or_collect(lua, || Buffer::of(&bytes.as_bytes(), BLOB, &of));
            buffer.map(|buffer| lua.create_userdata(buffer)).transpose()
        })?,
    )?;
    type Data = UserDataRef<Buffer>;
    type DataMut = UserDataRefMut<Buffer>;
    host.set("bytes_size", lua.create_function(|_, data: Data| Ok(data.size))?)?;
    host.set("bytes_type", lua.create_function(|_, data: Data| Ok(data.kind))?)?;
    host.set(
        "bytes_set_type",
        lua.create_function(|_, (mut data, kind): (DataMut, i64)| {
            data.kind = kind;
            Ok(())
        })?,
    )?;
    host.set(
        "bytes_has_room",
        lua.create_function(|_, (data, capacity): (Data, i64)| Ok(index(capacity) <= data.storage.len()))?,
    )?;
    host.set(
        "blob_text",
        lua.create_function(|lua, data: Data| {
            (data.kind == BLOB).then(|| lua.create_string(data.bytes())).transpose()
        })?,
    )?;
    host.set(
        "bytes_text",
        lua.create_function(|_, data: Data| {
            Ok(if data.size == 0 { "Bytes()".to_owned() } else { hex(data.bytes()) })
        })?,
    )?;
    install_access(lua, host)
}

fn install_access(lua: &Lua, host: &Table) -> mlua::Result<()> {
    type Data = UserDataRef<Buffer>;
    type DataMut = UserDataRefMut<Buffer>;
    /// `true`, or nothing if there was no memory.
    fn done(is_done: bool) -> mlua::Result<Option<bool>> {
        Ok(is_done.then_some(true))
    }
    host.set(
        "bytes_get",
        lua.create_function(|_, (data, at, width, is_little): (Data, i64, usize, bool)| {
            Ok(data.integer(index(at), width, is_little))
        })?,
    )?;
    host.set(
        "bytes_set",
        lua.create_function(
            |_, (mut data, at, width, is_little, value): (DataMut, i64, usize, bool, i64)| {
                done(data.write_integer(at, width, is_little, value))
            },
        )?,
    )?;
    host.set(
        "bytes_write",
        lua.create_function(|_, (mut data, at, bytes): (DataMut, i64, mlua::String)| {
            done(data.write(at, &bytes.as_bytes()))
        })?,
    )?;
    host.set(
        "bytes_part",
        lua.create_function(|lua, (data, at, count): (Data, i64, i64)| {
            let bytes = data.bytes();
            let start = index(at).min(bytes.len());
            let end = start.saturating_add(index(count)).min(bytes.len());
            lua.create_string(&bytes[start..end])
        })?,
    )?;
    host.set(
        "bytes_set_varying",
        lua.create_function(|_, (mut data, at, value): (DataMut, i64, u32)| {
            Ok(data.write_varying(at, value))
        })?,
    )?;
    host.set(
        "bytes_get_varying",
        lua.create_function(|_, (data, at): (Data, i64)| {
            let (value, size) = data.varying(index(at));
            Ok((Value::Integer(i64::from(value)), size))
        })?,
    )
}

/// Bytes in hexadecimal, with spaces between them.
pub(in crate::udf) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 {
            text.push(' ');
        }
        let _ = write!(text, "{byte:02X}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(bytes: &[u8]) -> Buffer {
        Buffer::of(bytes, BLOB, &Rc::default()).expect("there is memory")
    }

    #[test]
    fn integers_of_all_widths_and_orders_come_back() {
        let mut bytes = buffer(&[]);
        for (width, value) in [(2, -2), (4, 0x1234_5678), (8, i64::MIN), (1, 200)] {
            for is_little in [false, true] {
                let at = bytes.size;
                assert!(bytes.write_integer(-1, width, is_little, value));
                assert_eq!(bytes.integer(at, width, is_little), Some(value));
                assert_eq!(bytes.integer(at + 1, width, is_little), None);
            }
        }
        assert_eq!(bytes.integer(usize::MAX, 8, false), None);
    }

    #[test]
    fn gaps_are_zeros_and_reads_end_with_the_bytes() {
        let mut bytes = buffer(&[1]);
        assert!(bytes.write(5, &[9]));
        assert_eq!(bytes.bytes(), [1, 0, 0, 0, 0, 9]);
        assert_eq!(bytes.varying(2), (0, 1));
        assert_eq!(buffer(&[0x80; 40]).varying(0).1, 0);
        assert_eq!(bytes.varying(1 << 40), (0, 0));
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let memory = Rc::<Memory>::default();
        let mut bytes = Buffer::new(10, &memory).expect("there is memory");
        assert!(!bytes.write(1 << 40, &[1]));
        assert!(!bytes.write(i64::MAX, &[1]));
        assert!(Buffer::new(MEMORY_MAX, &memory).is_none());
        assert_eq!(memory.used(), 10);
        drop(bytes);
        assert_eq!(memory.used(), 0);
    }
}

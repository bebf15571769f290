//! Bytes: a buffer with a capacity, a size and a type, and the functions of programs on it.
//!
//! The userdata has a [`Head`] and its first capacity behind it. When that is too small, the buffer moves to a block, a
//! userdata without a metatable, which is the user value.

use std::ffi::{c_char, c_int};
use std::ptr;

use mlua::{AnyUserData, Lua, Value, ffi};

use super::super::raw::RegistryKey;
use super::super::value::ValueError;
use super::frame::{Tag, Tagged, integer_argument, leave, look, look_sometimes, string_at, tagged_at};

/// Maximum number of bytes of a buffer.
pub(in super::super) const CAPACITY_MAX: usize = 32 << 20;
/// The type of plain bytes.
const BLOB: i64 = 4;
/// Maximum number of bytes of a variable-length integer.
const VARYING_SIZE_MAX: usize = 5;
/// Indexes, sizes and types have 32 bits.
const U32_MAX: i64 = 0xffff_ffff;
/// What copies or makes so many bytes looks at the clock before.
const WATCHED_SIZE: usize = 64 << 10;

/// Key of the metatable of bytes.
pub(super) static BYTES_KEY: RegistryKey = RegistryKey::new(7);

/// The beginning of the userdata of bytes.
#[repr(C)]
pub(in super::super) struct Head {
    tag: Tag,
    /// The buffer: `room` bytes, of which those from `size` on do not count.
    buffer: *mut u8,
    room: usize,
    /// The bytes that a program can see; the others of the room are zero.
    capacity: usize,
    size: usize,
    kind: i64,
}

impl Head {
    pub(in super::super) fn kind(&self) -> i64 {
        self.kind
    }

    /// Whether its type is that of plain bytes, which can be keys of maps.
    pub(super) fn is_plain(&self) -> bool {
        self.kind == BLOB
    }

    pub(in super::super) fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer is there as long as the userdata, and its bytes are set.
        unsafe { std::slice::from_raw_parts(self.buffer, self.size) }
    }

    /// All bytes that a program can see.
    fn visible(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.buffer, self.capacity) }
    }

    /// The integer of `WIDTH` bytes at `at`: a single byte is unsigned, others are signed. `None`: it would end beyond the last
    /// byte.
    fn integer<const WIDTH: usize, const IS_LITTLE: bool>(&self, at: usize) -> Option<i64> {
        let bytes = self.bytes().get(at..at.checked_add(WIDTH)?)?;
        if WIDTH == 1 {
            return Some(i64::from(bytes[0]));
        }
        let mut wide = [0; 8];
        if IS_LITTLE {
            wide[..WIDTH].copy_from_slice(bytes);
            let shift = 64 - 8 * WIDTH as u32;
            Some((i64::from_le_bytes(wide) << shift) >> shift)
        } else {
            wide[..WIDTH].copy_from_slice(bytes);
            Some(i64::from_be_bytes(wide) >> (64 - 8 * WIDTH as u32))
        }
    }

    /// Reads a number with seven bits a byte; returns it with its number of bytes.
    fn varying(&mut self, at: usize) -> (u32, usize) {
        let (mut value, mut shift) = (0u32, 0u32);
        for (index, byte) in self.visible().get(at..).unwrap_or_default().iter().enumerate() {
            value |= u32::from(byte & 0x7F).checked_shl(shift).unwrap_or(0);
            shift += 7;
            if byte & 0x80 == 0 {
                return (value, index + 1);
            }
        }
        (value, 0)
    }
}

// SAFETY: `push_empty` alone makes such userdata.
unsafe impl Tagged for Head {
    const TAG: Tag = Tag::Bytes;
}

/// The head of the bytes at `index`; `None` for other values.
///
/// # Safety
/// The bytes stay on the stack as long as the result is used.
pub(in super::super) unsafe fn bytes_at(state: *mut ffi::lua_State, index: c_int) -> Option<*mut Head> {
    // SAFETY: as the caller says.
    unsafe { tagged_at(state, index) }
}

/// Pushes empty bytes with this capacity, which is at most [`CAPACITY_MAX`].
///
/// # Safety
/// There is room for two more values.
unsafe fn push_empty(state: *mut ffi::lua_State, capacity: usize) -> *mut Head {
    // SAFETY: as the caller says. Lua gives the bytes that are asked for, aligned for any value.
    unsafe {
        let head = ffi::lua_newuserdatauv(state, size_of::<Head>() + capacity, 1).cast::<Head>();
        let buffer = head.add(1).cast::<u8>();
        ptr::write_bytes(buffer, 0, capacity);
        head.write(Head { tag: Head::TAG, buffer, room: capacity, capacity, size: 0, kind: BLOB });
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, BYTES_KEY.address());
        ffi::lua_setmetatable(state, -2);
        head
    }
}

/// Pushes bytes of this type; returns whether they are not too many.
///
/// # Safety
/// There is room for two more values. Where `bytes` are does not change when Lua collects garbage.
pub(in super::super) unsafe fn push_bytes(state: *mut ffi::lua_State, bytes: &[u8], kind: i64) -> bool {
    if bytes.len() > CAPACITY_MAX {
        return false;
    }
    // SAFETY: as the caller says. The buffer has room for all.
    unsafe {
        let head = push_empty(state, bytes.len());
        ptr::copy_nonoverlapping(bytes.as_ptr(), (*head).buffer, bytes.len());
        (*head).size = bytes.len();
        (*head).kind = kind;
    }
    true
}

/// Bytes of this type as a value.
///
/// # Errors
/// When they are too many, or Lua has not enough memory.
pub(in super::super) fn make(lua: &Lua, bytes: &[u8], kind: i64) -> Result<Value, ValueError> {
    let mut is_made = false;
    // SAFETY: `exec_raw` gives a state with room for a few values, and catches errors.
    let value = unsafe { lua.exec_raw::<Value>((), |state| is_made = push_bytes(state, bytes, kind))? };
    if is_made { Ok(value) } else { Err(ValueError::Size) }
}

/// The bytes of a proxy, and their type.
///
/// # Errors
/// When it is of another class.
pub(in super::super) fn content(lua: &Lua, proxy: &AnyUserData) -> Result<(Vec<u8>, i64), ValueError> {
    let mut found = None;
    // SAFETY: `exec_raw` has put the argument on the stack.
    unsafe {
        lua.exec_raw::<()>(proxy, |state| {
            found = bytes_at(state, 1).map(|head| ((*head).bytes().to_vec(), (*head).kind));
            ffi::lua_settop(state, 0);
        })?;
    }
    found.ok_or(ValueError::Type)
}

/// Grows the capacity of the bytes that are the first argument to at least `capacity`; `false` if that is too much.
///
/// # Safety
/// In a function of a program, with the head of its first argument.
unsafe fn reserve(state: *mut ffi::lua_State, head: *mut Head, capacity: usize) -> bool {
    // SAFETY: as the caller says. When there is no memory, the bytes stay as they were.
    unsafe {
        let Head { buffer, room, capacity: present, .. } = head.read();
        if capacity <= present {
            return true;
        }
        if capacity > CAPACITY_MAX {
            return false;
        }
        if capacity <= room {
            (*head).capacity = capacity;
            return true;
        }
        if capacity > WATCHED_SIZE {
            look(state);
        }
        let grown = capacity.max(room * 2).clamp(32, CAPACITY_MAX);
        let block = ffi::lua_newuserdatauv(state, grown, 0).cast::<u8>();
        ptr::copy_nonoverlapping(buffer, block, present);
        ptr::write_bytes(block.add(present), 0, grown - present);
        ffi::lua_setiuservalue(state, 1, 1);
        (*head).buffer = block;
        (*head).room = grown;
        (*head).capacity = capacity;
    }
    true
}

/// Writes bytes at `at`; `false` if the bytes would be too many.
///
/// # Safety
/// As for [`reserve`]. The bytes are not in the buffer itself, and stay where they are when Lua collects garbage.
unsafe fn write(state: *mut ffi::lua_State, head: *mut Head, at: usize, bytes: &[u8]) -> bool {
    let end = at.saturating_add(bytes.len());
    // SAFETY: as the caller says.
    unsafe {
        if bytes.len() > WATCHED_SIZE {
            look(state);
        }
        if !reserve(state, head, end) {
            return false;
        }
        ptr::copy_nonoverlapping(bytes.as_ptr(), (*head).buffer.add(at), bytes.len());
        (*head).size = (*head).size.max(end);
    }
    true
}

/// The position in the argument at `index`, counted from 0; `None` if it is none. An error if it is no number.
///
/// # Safety
/// There is a stack.
unsafe fn position(state: *mut ffi::lua_State, index: c_int) -> Option<Option<usize>> {
    // SAFETY: as the caller says.
    let position = unsafe { integer_argument(state, index, 0).ok()? };
    Some((1..=U32_MAX).contains(&position).then(|| position as usize - 1))
}

/// Pushes `false`, or `0` for a function that returns a number of bytes.
///
/// # Safety
/// There is room for a value.
unsafe fn push_false(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: as the caller says.
    unsafe { ffi::lua_pushboolean(state, 0) };
    1
}

/// Answers a function that writes: `true`, or the error of the prelude if there would be too many bytes.
///
/// # Safety
/// As for [`leave`].
unsafe fn written(state: *mut ffi::lua_State, arguments: c_int, is_done: bool) -> c_int {
    // SAFETY: as the caller says.
    unsafe {
        if !is_done {
            return leave(state, arguments);
        }
        ffi::lua_pushboolean(state, 1);
    }
    1
}

/// `bytes(capacity)`
pub(super) unsafe extern "C-unwind" fn new(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if !(1..=2).contains(&arguments) {
            return 0;
        }
        let capacity = match integer_argument(state, 2, 0) {
            Ok(capacity) if (capacity & U32_MAX) as usize <= CAPACITY_MAX => (capacity & U32_MAX) as usize,
            _ => return leave(state, arguments),
        };
        if capacity > WATCHED_SIZE {
            look(state);
        }
        push_empty(state, capacity);
    }
    1
}

/// `bytes.size(bytes)`
pub(super) unsafe extern "C-unwind" fn size(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let size = if ffi::lua_gettop(state) == 1 {
            let Some(head) = bytes_at(state, 1) else { return leave(state, 1) };
            (*head).size
        } else {
            0
        };
        ffi::lua_pushinteger(state, size as i64);
    }
    1
}

/// `bytes.set_size(bytes, capacity)`: whether the capacity is that large already.
pub(super) unsafe extern "C-unwind" fn set_size(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_gettop(state) != 2 {
            return push_false(state);
        }
        let (Some(head), Ok(capacity)) = (bytes_at(state, 1), integer_argument(state, 2, 0)) else {
            return leave(state, 2);
        };
        let has_room = (0..=U32_MAX).contains(&capacity) && capacity as usize <= (*head).capacity;
        ffi::lua_pushboolean(state, c_int::from(has_room));
    }
    1
}

/// `bytes.get_type(bytes)`
pub(super) unsafe extern "C-unwind" fn get_type(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if arguments < 1 {
            return 0;
        }
        let Some(head) = bytes_at(state, 1) else { return leave(state, arguments) };
        ffi::lua_pushinteger(state, (*head).kind);
    }
    1
}

/// `bytes.set_type(bytes, type)`
pub(super) unsafe extern "C-unwind" fn set_type(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_gettop(state) != 2 {
            return push_false(state);
        }
        let (Some(head), Ok(kind)) = (bytes_at(state, 1), integer_argument(state, 2, 0)) else {
            return leave(state, 2);
        };
        let kind = kind & U32_MAX;
        if kind != 0 {
            (*head).kind = kind;
        }
        ffi::lua_pushboolean(state, c_int::from(kind != 0));
    }
    1
}

/// `bytes.get_byte(bytes, index)`, `bytes.get_int16(bytes, index)`, …
pub(super) unsafe extern "C-unwind" fn get<const WIDTH: usize, const IS_LITTLE: bool>(
    state: *mut ffi::lua_State,
) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        look_sometimes(state);
        if ffi::lua_gettop(state) != 2 {
            return 0;
        }
        let (Some(head), Some(at)) = (bytes_at(state, 1), position(state, 2)) else { return leave(state, 2) };
        let Some(value) = at.and_then(|at| (*head).integer::<WIDTH, IS_LITTLE>(at)) else { return 0 };
        ffi::lua_pushinteger(state, value);
    }
    1
}

/// Writes an integer at `at`; without a place behind the last byte.
///
/// # Safety
/// As for [`reserve`].
unsafe fn write_integer<const WIDTH: usize, const IS_LITTLE: bool>(
    state: *mut ffi::lua_State,
    head: *mut Head,
    at: usize,
    value: i64,
) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        if IS_LITTLE {
            write(state, head, at, &value.to_le_bytes()[..WIDTH])
        } else {
            write(state, head, at, &value.to_be_bytes()[8 - WIDTH..])
        }
    }
}

/// Whether a value fits into so many bytes: a single byte is unsigned, others are signed.
fn fits<const WIDTH: usize>(value: i64) -> bool {
    match WIDTH {
        1 => u8::try_from(value).is_ok(),
        2 => i16::try_from(value).is_ok(),
        4 => i32::try_from(value).is_ok(),
        _ => true,
    }
}

/// `bytes.set_byte(bytes, index, value)`, `bytes.set_int16(bytes, index, value)`, …
pub(super) unsafe extern "C-unwind" fn set<const WIDTH: usize, const IS_LITTLE: bool>(
    state: *mut ffi::lua_State,
) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        look_sometimes(state);
        if ffi::lua_gettop(state) != 3 {
            return push_false(state);
        }
        let (Some(head), Some(at), Ok(value)) =
            (bytes_at(state, 1), position(state, 2), integer_argument(state, 3, 0))
        else {
            return leave(state, 3);
        };
        let Some(at) = at.filter(|_| fits::<WIDTH>(value)) else { return push_false(state) };
        let is_done = write_integer::<WIDTH, IS_LITTLE>(state, head, at, value);
        written(state, 3, is_done)
    }
}

/// `bytes.append_byte(bytes, value)`, `bytes.append_int16(bytes, value)`, …
pub(super) unsafe extern "C-unwind" fn append<const WIDTH: usize, const IS_LITTLE: bool>(
    state: *mut ffi::lua_State,
) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_gettop(state) != 2 {
            return push_false(state);
        }
        let (Some(head), Ok(value)) = (bytes_at(state, 1), integer_argument(state, 2, 0)) else {
            return leave(state, 2);
        };
        if !fits::<WIDTH>(value) {
            return push_false(state);
        }
        let is_done = write_integer::<WIDTH, IS_LITTLE>(state, head, (*head).size, value);
        written(state, 2, is_done)
    }
}

/// `bytes.get_var_int(bytes, index)`: the number, and its number of bytes.
pub(super) unsafe extern "C-unwind" fn get_varying(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_gettop(state) != 2 {
            return 0;
        }
        let (Some(head), Some(at)) = (bytes_at(state, 1), position(state, 2)) else { return leave(state, 2) };
        let Some(at) = at else { return 0 };
        let (value, size) = (*head).varying(at);
        ffi::lua_pushinteger(state, i64::from(value));
        ffi::lua_pushinteger(state, size as i64);
    }
    2
}

/// Writes a number with seven bits a byte, least significant first, without changing the size, and pushes its number of bytes.
///
/// # Safety
/// In a function of a program with `arguments` values, with the head of the first one.
unsafe fn write_varying(
    state: *mut ffi::lua_State,
    arguments: c_int,
    head: *mut Head,
    at: usize,
    mut value: u32,
) -> c_int {
    // SAFETY: as the caller says.
    unsafe {
        if !reserve(state, head, at.saturating_add(VARYING_SIZE_MAX)) {
            return leave(state, arguments);
        }
        let room = &mut (*head).visible()[at..];
        let mut size = 0;
        while value >= 0x80 {
            room[size] = value.to_le_bytes()[0] | 0x80;
            value >>= 7;
            size += 1;
        }
        room[size] = value.to_le_bytes()[0];
        ffi::lua_pushinteger(state, size as i64 + 1);
    }
    1
}

/// `bytes.set_var_int(bytes, index, value)`
pub(super) unsafe extern "C-unwind" fn set_varying(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_gettop(state) == 3 {
            let (Some(head), Some(at), Ok(value)) =
                (bytes_at(state, 1), position(state, 2), integer_argument(state, 3, 0))
            else {
                return leave(state, 3);
            };
            if let Some(at) = at.filter(|_| fits::<4>(value)) {
                return write_varying(state, 3, head, at, value as u32);
            }
        }
        ffi::lua_pushinteger(state, 0);
    }
    1
}

/// `bytes.append_var_int(bytes, value)`
pub(super) unsafe extern "C-unwind" fn append_varying(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_gettop(state) == 2 {
            let (Some(head), Ok(value)) = (bytes_at(state, 1), integer_argument(state, 2, 0)) else {
                return leave(state, 2);
            };
            if fits::<4>(value) {
                return write_varying(state, 2, head, (*head).size, value as u32);
            }
        }
        ffi::lua_pushinteger(state, 0);
    }
    1
}

/// The text in the argument at `index`: a string or a number, which becomes a string; `None` for nil. An error for other values.
///
/// # Safety
/// The text is used while the argument is on the stack.
unsafe fn text_argument<'a>(state: *mut ffi::lua_State, index: c_int) -> Option<Option<&'a [u8]>> {
    // SAFETY: as the caller says.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNONE | ffi::LUA_TNIL => Some(None),
            ffi::LUA_TNUMBER => {
                ffi::lua_tolstring(state, index, ptr::null_mut());
                Some(string_at(state, index))
            }
            ffi::LUA_TSTRING => Some(string_at(state, index)),
            _ => None,
        }
    }
}

/// `bytes.append_string(bytes, text)`
pub(super) unsafe extern "C-unwind" fn append_string(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_gettop(state) != 2 {
            return push_false(state);
        }
        let (Some(head), Some(text)) = (bytes_at(state, 1), text_argument(state, 2)) else {
            return leave(state, 2);
        };
        let Some(text) = text.filter(|text| !text.is_empty()) else { return push_false(state) };
        let is_done = write(state, head, (*head).size, text);
        written(state, 2, is_done)
    }
}

/// `bytes.set_string(bytes, index, text)`
pub(super) unsafe extern "C-unwind" fn set_string(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_gettop(state) != 3 {
            return push_false(state);
        }
        let (Some(head), Some(at), Some(text)) =
            (bytes_at(state, 1), position(state, 2), text_argument(state, 3))
        else {
            return leave(state, 3);
        };
        let Some((at, text)) = at.zip(text) else { return push_false(state) };
        let is_done = write(state, head, at, text);
        written(state, 3, is_done)
    }
}

/// Writes the first `count` bytes of the bytes `other` at `at`, or as many as there are; `false` if they would be too many.
///
/// # Safety
/// As for [`reserve`]; `other` is on the stack.
unsafe fn write_bytes(
    state: *mut ffi::lua_State,
    head: *mut Head,
    at: usize,
    other: *mut Head,
    count: i64,
) -> bool {
    // SAFETY: as the caller says. If they are the same bytes, the buffer that is read may be the one that is written, or an earlier
    // one, so it is looked up again when there is room.
    unsafe {
        let count = (count as usize).min((*other).size);
        let end = at.saturating_add(count);
        if count > WATCHED_SIZE {
            look(state);
        }
        if !reserve(state, head, end) {
            return false;
        }
        ptr::copy((*other).buffer, (*head).buffer.add(at), count);
        (*head).size = (*head).size.max(end);
    }
    true
}

/// `bytes.append_bytes(bytes, other, count)`
pub(super) unsafe extern "C-unwind" fn append_bytes(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_gettop(state) != 3 {
            return push_false(state);
        }
        let (Some(head), Some(other), Ok(count)) =
            (bytes_at(state, 1), bytes_at(state, 2), integer_argument(state, 3, 0))
        else {
            return leave(state, 3);
        };
        if !(0..=U32_MAX).contains(&count) {
            return push_false(state);
        }
        let is_done = write_bytes(state, head, (*head).size, other, count);
        written(state, 3, is_done)
    }
}

/// `bytes.set_bytes(bytes, index, other, count)`
pub(super) unsafe extern "C-unwind" fn set_bytes(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_gettop(state) != 4 {
            return push_false(state);
        }
        let (Some(head), Some(at), Some(other), Ok(count)) =
            (bytes_at(state, 1), position(state, 2), bytes_at(state, 3), integer_argument(state, 4, 0))
        else {
            return leave(state, 4);
        };
        let Some(at) = at.filter(|_| (0..=U32_MAX).contains(&count)) else { return push_false(state) };
        let is_done = write_bytes(state, head, at, other, count);
        written(state, 4, is_done)
    }
}

/// The bytes from an index on, which are the arguments, and fewer if they end before; `None` if the arguments have other types,
/// and nothing without an index.
///
/// # Safety
/// In a function of a program with three arguments. The bytes are used while they are on the stack.
unsafe fn part<'a>(state: *mut ffi::lua_State) -> Option<Option<&'a [u8]>> {
    // SAFETY: as the caller says.
    unsafe {
        let (head, at) = (bytes_at(state, 1)?, position(state, 2)?);
        let count = integer_argument(state, 3, 0).ok()?;
        let Some(at) = at.filter(|_| (0..=U32_MAX).contains(&count)) else { return Some(None) };
        let bytes = std::slice::from_raw_parts((*head).buffer, (*head).size);
        let start = at.min(bytes.len());
        let end = start.saturating_add(count as usize).min(bytes.len());
        if end - start > WATCHED_SIZE {
            look(state);
        }
        Some(Some(&bytes[start..end]))
    }
}

/// `bytes.get_string(bytes, index, count)`
pub(super) unsafe extern "C-unwind" fn get_string(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_gettop(state) != 3 {
            return 0;
        }
        let Some(part) = part(state) else { return leave(state, 3) };
        let Some(part) = part else { return 0 };
        ffi::lua_pushlstring(state, part.as_ptr().cast::<c_char>(), part.len());
    }
    1
}

/// `bytes.get_bytes(bytes, index, count)`
pub(super) unsafe extern "C-unwind" fn get_bytes(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. The bytes are on the stack, so their buffer stays.
    unsafe {
        if ffi::lua_gettop(state) != 3 {
            return 0;
        }
        let Some(part) = part(state) else { return leave(state, 3) };
        let Some(part) = part else { return 0 };
        if push_bytes(state, part, BLOB) { 1 } else { leave(state, 3) }
    }
}

/// A byte in hexadecimal, and a space.
pub(in super::super) fn hex(byte: u8) -> [u8; 3] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)], b' ']
}

/// `tostring(bytes)`: the bytes in hexadecimal, with spaces between them.
pub(super) unsafe extern "C-unwind" fn to_text(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. The text is made in a block of Lua, which stays on the stack.
    unsafe {
        if ffi::lua_gettop(state) != 1 {
            ffi::lua_pushinteger(state, 0);
            return 1;
        }
        let Some(head) = bytes_at(state, 1) else { return leave(state, 1) };
        let size = (*head).size;
        if size == 0 {
            ffi::lua_pushstring(state, c"Bytes()".as_ptr());
            return 1;
        }
        if size > WATCHED_SIZE {
            look(state);
        }
        let mut short = [[0; 3]; 32];
        let block = if size <= short.len() {
            short.as_mut_ptr()
        } else {
            ffi::lua_newuserdatauv(state, size * 3, 0).cast::<[u8; 3]>()
        };
        for (index, byte) in (*head).bytes().iter().enumerate() {
            block.add(index).write(hex(*byte));
        }
        ffi::lua_pushlstring(state, block.cast::<c_char>(), size * 3 - 1);
    }
    1
}

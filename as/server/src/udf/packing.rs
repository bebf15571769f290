//! Packs Lua values as they are stored in bins and sent to clients, and sorts the keys of maps. Both go over the contents of
//! lists and maps without handles to values, which would cost several times as much.
//!
//! A list or map from a bin or an argument keeps its flags. When stored again, it is ordered as before, whatever the
//! function did to it.
//!
//! # Frames
//! As Lua may leave a frame here with a jump, what must be dropped is in a [`Packer`], whose owner is outside the call.

use std::cmp::Ordering;
use std::ffi::{CStr, c_int};
use std::ptr;

use cf::msgpack;
use mlua::{Value, ffi};

use super::native::bytes;
use super::native::list::{self, Element};
use super::raw::{self, CLASS_INDEX};
use super::sorting;
use super::value::{Converter, DEPTH_MAX, PACKED_SIZE_MAX, ValueError, WATCHED_ELEMENTS, class, to_zero};
use super::watch::Watch;

/// Flags of a list or map: ordered, a map ordered by value too, and with an index.
mod flags {
    pub(super) const ORDERED: u8 = 0x01;
    pub(super) const VALUE_ORDERED: u8 = 0x02;
    pub(super) const INDEX: u8 = 0x10;
}

/// Values of the stack that one level of nesting takes.
const LEVEL_STACK: c_int = 12;
/// Bytes that are copied at about the cost of an element.
const ELEMENT_BYTES: usize = 1 << 10;
/// Most parts at a time: more than an interpreter has memory for, unless a list or map contains itself. Each level of such a
/// value has the parts of a whole container.
const PARTS_MAX: usize = 1 << 21;
const _: () =
    assert!(PARTS_MAX * size_of::<Part>() <= 96 << 20, "parts take about as much memory as the result");

/// The purpose of packing a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// For storing: lists and maps keep their order and their index.
    Bin,
    /// For the client or another node: lists have no flags there, as in the C server.
    Result,
}

impl Converter<'_> {
    /// The packed form of a value.
    pub(super) fn packed(&self, value: &Value, purpose: Purpose) -> Result<Vec<u8>, ValueError> {
        let mut packer = Packer {
            watch: self.watch,
            purpose,
            out: Vec::new(),
            sorted: Vec::new(),
            parts: Vec::new(),
            elements: 0,
        };
        let mut packed = Err(Unpackable::Depth);
        // SAFETY: `exec_raw` has put the arguments on the stack, and catches errors.
        unsafe {
            self.lua.exec_raw::<()>(value, |state| {
                packed = packer.put(state, 0);
                ffi::lua_settop(state, 0);
            })?;
        }
        packed.map(|()| packer.out).map_err(|error| match error {
            Unpackable::Depth => ValueError::Depth,
            Unpackable::Size => ValueError::Size,
            Unpackable::Timeout => ValueError::Timeout,
        })
    }
}

/// Why a value cannot be packed.
#[derive(Clone, Copy)]
enum Unpackable {
    Depth,
    Size,
    Timeout,
}

/// Sorts of keys, in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Integer,
    Text,
    Bytes,
}

/// A key of a map, which is on Lua's stack or in a table as long as this.
#[derive(Clone, Copy)]
struct Key {
    rank: Rank,
    /// The number so that its order is that of unsigned ones, or the bytes behind the beginning that all texts have.
    prefix: u64,
    /// Of an integer none.
    text: *const u8,
    size: usize,
}

impl Key {
    /// The key at the top of the stack.
    ///
    /// # Safety
    /// An integer or a string is there; it is kept as long as the result.
    unsafe fn at_top(state: *mut ffi::lua_State, rank_of_texts: Rank) -> Self {
        // SAFETY: as the caller says. Asking a string for its bytes changes nothing.
        unsafe {
            if ffi::lua_type(state, -1) == ffi::LUA_TSTRING {
                let mut size = 0;
                let text = ffi::lua_tolstring(state, -1, &raw mut size);
                return Key { rank: rank_of_texts, prefix: 0, text: text.cast::<u8>(), size };
            }
            let integer = ffi::lua_tointegerx(state, -1, ptr::null_mut());
            let prefix = integer.cast_unsigned() ^ (1 << 63);
            Key { rank: Rank::Integer, prefix, text: ptr::NonNull::dangling().as_ptr(), size: 0 }
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: whoever made the key keeps the string.
        unsafe { std::slice::from_raw_parts(self.text, self.size) }
    }

    fn order(&self, other: &Self) -> Ordering {
        let first = (self.rank, self.prefix).cmp(&(other.rank, other.prefix));
        first.then_with(|| self.bytes().cmp(other.bytes()))
    }
}

/// Sets the prefixes of the texts among the keys of `items`, so that few comparisons need the texts.
fn set_prefixes<T>(items: &mut [T], key: impl Fn(&mut T) -> &mut Key) {
    let mut common: Option<&[u8]> = None;
    for item in items.iter_mut() {
        let own = *key(item);
        if own.rank == Rank::Integer {
            continue;
        }
        // SAFETY: as in `bytes`; the keys outlive this call.
        let bytes = unsafe { std::slice::from_raw_parts(own.text, own.size) };
        common = Some(match common {
            Some(common) => {
                let equal = common.iter().zip(bytes).take_while(|(left, right)| left == right).count();
                &common[..equal]
            }
            None => bytes,
        });
    }
    let skipped = common.map_or(0, <[u8]>::len);
    for item in items {
        let own = key(item);
        if own.rank == Rank::Integer {
            continue;
        }
        let rest = &own.bytes()[skipped..];
        let mut prefix = [0; 8];
        let size = rest.len().min(prefix.len());
        prefix[..size].copy_from_slice(&rest[..size]);
        own.prefix = u64::from_be_bytes(prefix);
    }
}

/// A pair of a map, or an element of an ordered list: its place in what is packed.
#[derive(Clone, Copy)]
struct Part {
    key: Key,
    start: usize,
    end: usize,
}

struct Packer<'a> {
    watch: &'a Watch,
    purpose: Purpose,
    out: Vec<u8>,
    /// Sorted pairs or elements.
    sorted: Vec<u8>,
    /// Those of all containers that are being packed; those of the innermost one are the last.
    parts: Vec<Part>,
    elements: u32,
}

impl Packer<'_> {
    /// Counts elements; looks at the watch from time to time.
    fn count(&mut self, elements: usize) -> Result<(), Unpackable> {
        let before = self.elements / WATCHED_ELEMENTS;
        self.elements = self.elements.wrapping_add(u32::try_from(elements).unwrap_or(u32::MAX));
        let is_due = self.elements / WATCHED_ELEMENTS != before;
        if is_due && self.watch.is_over() { Err(Unpackable::Timeout) } else { Ok(()) }
    }

    /// Appends the value at the top of the stack, where it stays.
    ///
    /// # Safety
    /// In a call that catches errors.
    unsafe fn put(&mut self, state: *mut ffi::lua_State, depth: usize) -> Result<(), Unpackable> {
        self.count(1)?;
        if depth > DEPTH_MAX {
            return Err(Unpackable::Depth);
        }
        if self.out.len() > PACKED_SIZE_MAX {
            return Err(Unpackable::Size);
        }
        // SAFETY: as the caller says. `put_proxy` leaves the stack as it was.
        unsafe {
            match ffi::lua_type(state, -1) {
                ffi::LUA_TBOOLEAN => {
                    self.out.push(if ffi::lua_toboolean(state, -1) != 0 { 0xc3 } else { 0xc2 });
                }
                ffi::LUA_TNUMBER if ffi::lua_isinteger(state, -1) != 0 => {
                    msgpack::put_integer(&mut self.out, ffi::lua_tointegerx(state, -1, ptr::null_mut()));
                }
                ffi::LUA_TNUMBER => {
                    msgpack::put_double(&mut self.out, ffi::lua_tonumberx(state, -1, ptr::null_mut()));
                }
                ffi::LUA_TSTRING => self.put_string(state, msgpack::TEXT),
                ffi::LUA_TUSERDATA => return self.put_proxy(state, depth),
                _ => msgpack::put_nil(&mut self.out),
            }
        }
        Ok(())
    }

    /// Appends the string at the top of the stack as raw bytes of this kind; of a text what is before its first zero byte.
    ///
    /// # Safety
    /// A string is there.
    unsafe fn put_string(&mut self, state: *mut ffi::lua_State, kind: u8) {
        // SAFETY: as the caller says. The bytes stay where they are while the string is on the stack.
        unsafe {
            let mut size = 0;
            let bytes = ffi::lua_tolstring(state, -1, &raw mut size);
            let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), size);
            self.put_raw(kind, if kind == msgpack::TEXT { to_zero(bytes) } else { bytes });
        }
    }

    fn put_raw(&mut self, kind: u8, bytes: &[u8]) {
        msgpack::put_raw_header(&mut self.out, bytes.len() as u32 + 1);
        self.out.push(kind);
        self.out.extend_from_slice(bytes);
    }

    /// Appends the userdata at the top of the stack, where it stays.
    ///
    /// # Safety
    /// As for [`put`](Self::put); a userdata is there.
    unsafe fn put_proxy(&mut self, state: *mut ffi::lua_State, depth: usize) -> Result<(), Unpackable> {
        // SAFETY: as the caller says, and `lua_checkstack` makes room.
        unsafe {
            if ffi::lua_checkstack(state, LEVEL_STACK) == 0 {
                return Err(Unpackable::Depth);
            }
            let top = ffi::lua_gettop(state);
            if list::list_at(state, top).is_some() {
                return self.put_list(state, depth);
            }
            if let Some(head) = bytes::bytes_at(state, top) {
                self.put_raw((*head).kind() as u8, (*head).bytes());
                return Ok(());
            }
            let mut class = None;
            if ffi::lua_getmetatable(state, top) != 0
                && ffi::lua_rawgeti(state, -1, CLASS_INDEX) == ffi::LUA_TNUMBER
                && ffi::lua_getiuservalue(state, top, 1) == ffi::LUA_TTABLE
            {
                class = Some(ffi::lua_tointegerx(state, -2, ptr::null_mut()));
            }
            let put = match class {
                Some(class::MAP) => self.put_map(state, depth),
                Some(class::GEOJSON) if field(state, c"json") == ffi::LUA_TSTRING => {
                    self.put_string(state, msgpack::GEOJSON);
                    Ok(())
                }
                _ => {
                    msgpack::put_nil(&mut self.out);
                    Ok(())
                }
            };
            ffi::lua_settop(state, top);
            put
        }
    }

    /// The flags of the map whose content is at the top of the stack.
    ///
    /// # Safety
    /// There is room for a value.
    unsafe fn flags_of(&self, state: *mut ffi::lua_State, depth: usize) -> u8 {
        // SAFETY: as the caller says.
        let flags = unsafe {
            field(state, c"flags");
            let flags = ffi::lua_tointegerx(state, -1, ptr::null_mut());
            ffi::lua_pop(state, 1);
            flags as u8
        };
        self.inner_flags(flags, depth)
    }

    /// The flags that a list or map with these has at this depth; only a whole bin has an index.
    fn inner_flags(&self, flags: u8, depth: usize) -> u8 {
        let is_whole = self.purpose == Purpose::Result || depth == 0;
        flags & if is_whole { !0 } else { !flags::INDEX }
    }

    /// Appends the list at the top of the stack.
    ///
    /// # Safety
    /// As for [`put`](Self::put), with room for some more values.
    unsafe fn put_list(&mut self, state: *mut ffi::lua_State, depth: usize) -> Result<(), Unpackable> {
        // SAFETY: as the caller says. Each element is popped again, and nothing that is called meanwhile changes the list.
        unsafe {
            let proxy = ffi::lua_gettop(state);
            let Some(head) = list::list_at(state, proxy) else { return Err(Unpackable::Depth) };
            let count = (*head).count();
            let flags = match self.purpose {
                Purpose::Bin => self.inner_flags((*head).flags(), depth) & (flags::ORDERED | flags::INDEX),
                Purpose::Result => 0,
            };
            msgpack::put_list_header(&mut self.out, count + u32::from(flags != 0));
            if flags != 0 {
                msgpack::put_extension_header(&mut self.out, 0, flags);
            }
            let first = self.parts.len();
            for index in 0..count {
                let start = self.out.len();
                match (*head).get(index) {
                    Some(Element::Integer(value))
                        if depth < DEPTH_MAX && self.out.len() <= PACKED_SIZE_MAX =>
                    {
                        self.count(1)?;
                        msgpack::put_integer(&mut self.out, value);
                    }
                    element => {
                        list::push_element(state, proxy, element.unwrap_or(Element::Nil));
                        self.put(state, depth + 1)?;
                        ffi::lua_pop(state, 1);
                    }
                }
                if flags & flags::ORDERED != 0 {
                    self.add_part(Key::NONE, start)?;
                }
            }
            if self.parts.len() > first {
                self.sort_elements(first)?;
            }
        }
        Ok(())
    }

    /// Notes what is packed from `start` on as a part of the innermost container.
    fn add_part(&mut self, key: Key, start: usize) -> Result<(), Unpackable> {
        if self.parts.len() >= PARTS_MAX {
            return Err(Unpackable::Size);
        }
        self.parts.push(Part { key, start, end: self.out.len() });
        Ok(())
    }

    /// Sorts the elements of an ordered list, which are those from `first` on.
    fn sort_elements(&mut self, first: usize) -> Result<(), Unpackable> {
        let mut parts = self.parts.split_off(first);
        let start = parts[0].start;
        let out = &self.out;
        let order = |left: &Part, right: &Part| {
            let (left, right) = (&out[left.start..left.end], &out[right.start..right.end]);
            msgpack::compare(left, right).unwrap_or(Ordering::Equal)
        };
        if parts.is_sorted_by(|left, right| order(left, right).is_le()) {
            return Ok(());
        }
        let size = |part: &Part| part.end - part.start;
        if !sorting::sort(&mut parts, size, order, || self.watch.is_over()) {
            return Err(Unpackable::Timeout);
        }
        self.put_sorted(start, &parts)
    }

    /// Puts `parts` in this order in the place of what is packed from `start` on.
    fn put_sorted(&mut self, start: usize, parts: &[Part]) -> Result<(), Unpackable> {
        self.count((self.out.len() - start) / ELEMENT_BYTES)?;
        self.sorted.clear();
        for part in parts {
            self.sorted.extend_from_slice(&self.out[part.start..part.end]);
        }
        self.out.truncate(start);
        self.out.extend_from_slice(&self.sorted);
        Ok(())
    }

    /// Appends the map whose content is at the top of the stack.
    ///
    /// # Safety
    /// As for [`put`](Self::put), with room for some more values.
    unsafe fn put_map(&mut self, state: *mut ffi::lua_State, depth: usize) -> Result<(), Unpackable> {
        let known = flags::ORDERED | flags::VALUE_ORDERED | flags::INDEX;
        let (header, first) = (self.out.len(), self.parts.len());
        // SAFETY: as the caller says. Nothing that is called meanwhile changes the tables, and the keys are in them.
        unsafe {
            let mut flags = self.flags_of(state, depth) & known;
            if flags != 0 {
                flags |= flags::ORDERED;
            }
            let content = ffi::lua_gettop(state);
            field(state, c"n");
            let count = ffi::lua_tointegerx(state, -1, ptr::null_mut());
            ffi::lua_pop(state, 1);
            let count = u32::try_from(count).map_err(|_| Unpackable::Size)?;
            self.put_map_header(count, flags);
            let start = self.out.len();
            if field_of(state, content, c"values") == ffi::LUA_TTABLE {
                self.put_pairs(state, Rank::Text, depth)?;
            }
            ffi::lua_pop(state, 1);
            if field_of(state, content, c"blobs") == ffi::LUA_TTABLE {
                self.put_pairs(state, Rank::Bytes, depth)?;
            }
            ffi::lua_settop(state, content);
            let mut parts = self.parts.split_off(first);
            set_prefixes(&mut parts, |part| &mut part.key);
            if parts.len() == count as usize
                && parts.is_sorted_by(|left, right| left.key.order(&right.key).is_le())
            {
                return Ok(());
            }
            let order = |left: &Part, right: &Part| left.key.order(&right.key);
            if !sorting::sort(&mut parts, |part| part.key.size, order, || self.watch.is_over()) {
                return Err(Unpackable::Timeout);
            }
            self.put_sorted(start, &parts)?;
            if parts.len() != count as usize {
                // A count that is wrong, as memory was not enough for a pair.
                let pairs = self.out.split_off(start);
                self.out.truncate(header);
                self.put_map_header(parts.len() as u32, flags);
                self.out.extend_from_slice(&pairs);
            }
        }
        Ok(())
    }

    fn put_map_header(&mut self, count: u32, flags: u8) {
        msgpack::put_map_header(&mut self.out, count + u32::from(flags != 0));
        if flags != 0 {
            msgpack::put_extension_header(&mut self.out, 0, flags);
            msgpack::put_nil(&mut self.out);
        }
    }

    /// Appends the pairs of the table at the top of the stack, in any order. Texts among its keys are of this rank: those of bytes
    /// are what the bytes were when the pair was set, although a program may have changed them since.
    ///
    /// # Safety
    /// As for [`put`](Self::put), with room for some more values.
    unsafe fn put_pairs(
        &mut self,
        state: *mut ffi::lua_State,
        rank_of_texts: Rank,
        depth: usize,
    ) -> Result<(), Unpackable> {
        // SAFETY: as the caller says. The key stays on the stack until the next one is asked for.
        unsafe {
            let table = ffi::lua_gettop(state);
            ffi::lua_pushnil(state);
            while ffi::lua_next(state, table) != 0 {
                let start = self.out.len();
                ffi::lua_pushvalue(state, -2);
                let key = Key::at_top(state, rank_of_texts);
                if key.rank == Rank::Bytes && depth < DEPTH_MAX && self.out.len() <= PACKED_SIZE_MAX {
                    self.count(1)?;
                    self.put_string(state, msgpack::BLOB);
                } else {
                    self.put(state, depth + 1)?;
                }
                ffi::lua_pop(state, 1);
                self.put(state, depth + 1)?;
                ffi::lua_pop(state, 1);
                self.add_part(key, start)?;
            }
        }
        Ok(())
    }
}

impl Key {
    /// Of an element of a list.
    const NONE: Key = Key {
        rank: Rank::Integer,
        prefix: 0,
        text: ptr::NonNull::<u8>::dangling().as_ptr().cast_const(),
        size: 0,
    };
}

/// Pushes a field of the content at the top of the stack; returns its type.
///
/// # Safety
/// A table without a metatable is there, with room for a value.
unsafe fn field(state: *mut ffi::lua_State, name: &CStr) -> c_int {
    // SAFETY: as the caller says.
    unsafe { field_of(state, -1, name) }
}

/// Pushes a field of the content at `index`; returns its type.
///
/// # Safety
/// As for [`field`].
unsafe fn field_of(state: *mut ffi::lua_State, index: c_int, name: &CStr) -> c_int {
    // SAFETY: as the caller says.
    unsafe { ffi::lua_getfield(state, index, name.as_ptr()) }
}

/// `sorted_keys(table)`: the keys of a table, which are integers and strings, in their order.
pub(super) unsafe extern "C-unwind" fn make_sorted_keys(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. Only `native::map` calls this, with a table. The keys are counted first, so
    // that the two tables have room for all.
    unsafe {
        ffi::lua_settop(state, 1);
        let mut count: c_int = 0;
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, 1) != 0 {
            ffi::lua_pop(state, 1);
            count += 1;
        }
        ffi::lua_createtable(state, count, 0);
        ffi::lua_createtable(state, count, 0);
        let is_over = || raw::watch_of(state).is_some_and(Watch::is_over);
        if fill_sorted(state, count as usize, is_over) { 1 } else { raw::raise_timeout(state) }
    }
}

/// Fills the table at 3 with the sorted keys of that at 1; that at 2 takes them in any order. Returns whether there was time.
///
/// # Safety
/// As in [`make_sorted_keys`]. Nothing here raises an error, because the tables have room.
unsafe fn fill_sorted(state: *mut ffi::lua_State, count: usize, is_over: impl Fn() -> bool) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let mut keys = Vec::with_capacity(count);
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, 1) != 0 {
            ffi::lua_pop(state, 1);
            keys.push((Key::at_top(state, Rank::Text), keys.len() as i64 + 1));
            ffi::lua_pushvalue(state, -1);
            ffi::lua_rawseti(state, 2, keys.len() as i64);
        }
        set_prefixes(&mut keys, |(key, _)| key);
        let order = |left: &(Key, i64), right: &(Key, i64)| left.0.order(&right.0);
        if !sorting::sort(&mut keys, |(key, _)| key.size, order, is_over) {
            return false;
        }
        for (at, (_, from)) in keys.iter().enumerate() {
            ffi::lua_rawgeti(state, 2, *from);
            ffi::lua_rawseti(state, 3, at as i64 + 1);
        }
    }
    true
}

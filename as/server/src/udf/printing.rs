//! The text of Lua values in messages and for `tostring`. As `packing`, it goes over the contents of lists and maps without
//! handles to values.
//!
//! # Frames
//! As Lua may leave a frame here with a jump, what must be dropped is in a [`Printer`], whose owner is outside the call.

use std::ffi::c_int;
use std::ptr;

use mlua::{Value, ffi};

use super::native::bytes;
use super::native::list::{self, Element};
use super::native::map;
use super::raw::{CLASS_INDEX, string_at};
use super::value::{Converter, DEPTH_MAX, PACKED_SIZE_MAX, ValueError, WATCHED_ELEMENTS, class};
use super::watch::Watch;

/// Values of the stack that one level of nesting takes.
const LEVEL_STACK: c_int = 12;
/// Bytes of a text that count as an element.
const ELEMENT_BYTES: usize = 1 << 10;

impl Converter<'_> {
    /// The text of a value in messages.
    pub(super) fn text(&self, value: &Value) -> Result<Vec<u8>, ValueError> {
        let mut printer = Printer { watch: self.watch, out: Vec::new(), elements: 0 };
        let mut printed = Err(ValueError::Depth);
        // SAFETY: `exec_raw` has put the arguments on the stack, and catches errors.
        unsafe {
            self.lua.exec_raw::<()>(value, |state| {
                printed = printer.put(state, 0).map(|_| ());
                ffi::lua_settop(state, 0);
            })?;
        }
        printed.map(|()| printer.out)
    }
}

struct Printer<'a> {
    watch: &'a Watch,
    out: Vec<u8>,
    elements: u32,
}

impl Printer<'_> {
    /// Counts elements; looks at the watch from time to time.
    fn count(&mut self, elements: usize) -> Result<(), ValueError> {
        self.elements = self.elements.saturating_add(u32::try_from(elements).unwrap_or(u32::MAX));
        if self.elements >= WATCHED_ELEMENTS {
            self.elements = 0;
            if self.watch.is_over() {
                return Err(ValueError::Timeout);
            }
        }
        Ok(())
    }

    /// Appends the text of the value at the top of the stack, where it stays. Returns whether it has one.
    ///
    /// # Safety
    /// In a call that catches errors, with room for a few more values.
    unsafe fn put(&mut self, state: *mut ffi::lua_State, depth: usize) -> Result<bool, ValueError> {
        self.count(1)?;
        if depth > DEPTH_MAX {
            return Err(ValueError::Depth);
        }
        if self.out.len() > PACKED_SIZE_MAX {
            return Err(ValueError::Size);
        }
        // SAFETY: as the caller says. `put_proxy` leaves the stack as it was.
        unsafe {
            match ffi::lua_type(state, -1) {
                ffi::LUA_TBOOLEAN => {
                    self.put_text(if ffi::lua_toboolean(state, -1) != 0 { "true" } else { "false" });
                }
                ffi::LUA_TNUMBER if ffi::lua_isinteger(state, -1) != 0 => {
                    self.put_text(&ffi::lua_tointegerx(state, -1, ptr::null_mut()).to_string());
                }
                ffi::LUA_TNUMBER => {
                    self.put_text(&format_double(ffi::lua_tonumberx(state, -1, ptr::null_mut())));
                }
                ffi::LUA_TSTRING => self.put_quoted(state)?,
                ffi::LUA_TUSERDATA => return self.put_proxy(state, depth),
                _ => self.put_text("NIL"),
            }
        }
        Ok(true)
    }

    fn put_text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Appends the string at the top of the stack in quotes.
    ///
    /// # Safety
    /// A string is there.
    unsafe fn put_quoted(&mut self, state: *mut ffi::lua_State) -> Result<(), ValueError> {
        // SAFETY: as the caller says. The bytes stay where they are while the string is on the stack.
        let text = unsafe { string_at(state, -1) }.unwrap_or_default();
        self.count(text.len() / ELEMENT_BYTES)?;
        self.out.push(b'"');
        self.out.extend_from_slice(text);
        self.out.push(b'"');
        Ok(())
    }

    /// Appends the text of the userdata at the top of the stack, where it stays.
    ///
    /// # Safety
    /// As for [`put`](Self::put); a userdata is there.
    unsafe fn put_proxy(&mut self, state: *mut ffi::lua_State, depth: usize) -> Result<bool, ValueError> {
        // SAFETY: as the caller says, and `lua_checkstack` makes room.
        unsafe {
            if ffi::lua_checkstack(state, LEVEL_STACK) == 0 {
                return Err(ValueError::Depth);
            }
            let top = ffi::lua_gettop(state);
            if ffi::lua_getmetatable(state, top) == 0
                || ffi::lua_rawgeti(state, -1, CLASS_INDEX) != ffi::LUA_TNUMBER
            {
                ffi::lua_settop(state, top);
                return Ok(false);
            }
            let class = ffi::lua_tointegerx(state, -1, ptr::null_mut());
            ffi::lua_settop(state, top);
            let put = match class {
                class::LIST => self.put_list(state, depth).map(|()| true),
                class::MAP => self.put_map(state, depth).map(|()| true),
                class::BYTES => self.put_bytes(state),
                class::GEOJSON => {
                    ffi::lua_getiuservalue(state, top, 1);
                    ffi::lua_getfield(state, -1, c"json".as_ptr());
                    self.put_quoted(state).map(|()| true)
                }
                _ => {
                    self.put_text("[ REC ]");
                    Ok(true)
                }
            };
            ffi::lua_settop(state, top);
            put
        }
    }

    /// Appends the bytes at the top of the stack; returns whether there are any.
    ///
    /// # Safety
    /// As for [`put`](Self::put).
    unsafe fn put_bytes(&mut self, state: *mut ffi::lua_State) -> Result<bool, ValueError> {
        // SAFETY: as the caller says.
        let bytes = unsafe {
            let Some(head) = bytes::bytes_at(state, ffi::lua_gettop(state)) else { return Ok(false) };
            (*head).bytes()
        };
        self.count(bytes.len() / ELEMENT_BYTES)?;
        if let Some((last, others)) = bytes.split_last() {
            self.out.reserve(bytes.len() * 3);
            others.iter().for_each(|byte| self.out.extend_from_slice(&bytes::hex(*byte)));
            self.out.extend_from_slice(&bytes::hex(*last)[..2]);
        }
        Ok(!bytes.is_empty())
    }

    /// Appends the list at the top of the stack.
    ///
    /// # Safety
    /// As for [`put`](Self::put), with room for some more values.
    unsafe fn put_list(&mut self, state: *mut ffi::lua_State, depth: usize) -> Result<(), ValueError> {
        self.out.push(b'[');
        // SAFETY: as the caller says. Nothing that is called meanwhile changes the list.
        unsafe {
            let proxy = ffi::lua_gettop(state);
            let Some(head) = list::list_at(state, proxy) else { return Err(ValueError::Type) };
            for index in 0..(*head).count() {
                if index > 0 {
                    self.put_text(", ");
                }
                list::push_element(state, proxy, (*head).get(index).unwrap_or(Element::Nil));
                if !self.put(state, depth + 1)? {
                    self.put_text("<NULL>");
                }
                ffi::lua_pop(state, 1);
            }
        }
        self.out.push(b']');
        Ok(())
    }

    /// Appends the pairs of the map at the top of the stack; a pair without a text ends it.
    ///
    /// # Safety
    /// As for [`put`](Self::put), with room for some more values.
    unsafe fn put_map(&mut self, state: *mut ffi::lua_State, depth: usize) -> Result<(), ValueError> {
        self.out.push(b'{');
        // SAFETY: as the caller says. The keys stay as they are meanwhile.
        unsafe {
            ffi::lua_getiuservalue(state, -1, 1);
            let content = ffi::lua_gettop(state);
            map::push_keys(state, content);
            let keys = content + 1;
            for index in 1..=ffi::lua_rawlen(state, keys) as i64 {
                let start = self.out.len();
                if index > 1 {
                    self.put_text(", ");
                }
                ffi::lua_rawgeti(state, keys, index);
                let mut has_text = self.put(state, depth + 1)?;
                self.out.push(b':');
                map::push_value(state, content, keys + 1);
                has_text = has_text && self.put(state, depth + 1)?;
                ffi::lua_pop(state, 2);
                if !has_text {
                    self.out.truncate(start);
                    break;
                }
            }
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// Formats a number like `%.16g` of C.
fn format_double(value: f64) -> String {
    if value.is_nan() {
        return if value.is_sign_negative() { "-nan" } else { "nan" }.to_owned();
    }
    if value.is_infinite() {
        return if value < 0.0 { "-inf" } else { "inf" }.to_owned();
    }
    let scientific = format!("{value:.15e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |digits: &str| -> String {
        if digits.contains('.') {
            digits.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            digits.to_owned()
        }
    };
    if (-4..16).contains(&exponent) {
        let decimals = usize::try_from(15 - exponent).unwrap_or(0);
        trim(&format!("{value:.decimals$}"))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
    }
}

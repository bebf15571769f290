//! Matching of patterns: `string.find`, `match`, `gmatch` and `gsub`.
//!
//! Lua's own functions match where that takes few steps, however unlucky the match is. Other matches have the matcher of
//! `pattern.rs`, which looks at the clock.
//!
//! # Frames
//! A matcher has nothing that must be dropped, so Lua may leave its frame with a jump.

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;
use std::ptr;

use mlua::ffi;

use super::super::pattern::{self, Capture, Matcher, PatternError};
use super::super::raw;
use super::frame::{be_original, integer_argument, leave, look, string_at};

/// Most steps of a match by Lua's own matcher, at which no hook looks.
const MATCH_STEPS_MAX: u64 = 1 << 14;
/// Most bytes that Lua's own function puts together for a string with replacements. It does so before it asks for the memory of
/// a long string.
const REPLACED_SIZE_MAX: usize = 64 << 10;
/// Maximum number of bytes of a replacement with its references filled in.
const EXPANDED_SIZE_MAX: usize = 16 << 20;
/// Bytes that are put into a result between two looks at the clock.
const WATCHED_SIZE: usize = 64 << 10;
/// The error of a capture without an end, if a program would get it.
const UNFINISHED: &CStr = c"unfinished capture";
/// Bytes that are put into a result in about the time of a call.
const CALLED_SIZE: usize = 4 << 10;
/// Values of the stack that a replacement takes beside the captures.
const CALL_STACK: c_int = 8;

/// Whether a match takes few steps, however unlucky it is: each repetition in the pattern may try each length. A pair of
/// brackets and an earlier capture may be as long as the subject too.
fn is_short_match(subject: &[u8], pattern: &[u8]) -> bool {
    let size = subject.len() as u64 + 1;
    let mut steps = (pattern.len() as u64 + 1).saturating_mul(size);
    let mut previous = 0;
    for byte in pattern {
        let is_long = match byte {
            b'*' | b'+' | b'-' | b'?' => true,
            b'b' | b'f' | b'1'..=b'9' => previous == b'%',
            _ => false,
        };
        if is_long {
            steps = steps.saturating_mul(size);
        }
        if steps > MATCH_STEPS_MAX {
            return false;
        }
        previous = *byte;
    }
    steps <= MATCH_STEPS_MAX
}

/// Whether a string with replacements stays small, however many there are. A match that is put into a replacement is no longer
/// than what it replaces.
fn is_short_replacement(subject: &[u8], replacement: &[u8]) -> bool {
    (subject.len() + 1).saturating_mul(replacement.len() + 1) <= REPLACED_SIZE_MAX
}

/// The text in the argument at `index`: a string, or a number, which becomes one. `None` for other values.
///
/// # Safety
/// The text is used while the argument is on the stack.
unsafe fn text_argument<'a>(state: *mut ffi::lua_State, index: c_int) -> Option<&'a [u8]> {
    // SAFETY: as the caller says.
    unsafe {
        if ffi::lua_type(state, index) == ffi::LUA_TNUMBER {
            ffi::lua_tolstring(state, index, ptr::null_mut());
        }
        string_at(state, index)
    }
}

/// Raises an error with this text at the place of the call.
///
/// # Safety
/// In a function of a program, whose frame has nothing that must be dropped.
unsafe fn raise(state: *mut ffi::lua_State, text: &CStr) -> c_int {
    // SAFETY: as the caller says.
    unsafe { ffi::luaL_error(state, c"%s".as_ptr(), text.as_ptr()) }
}

/// Raises the error of a match.
///
/// # Safety
/// As for [`raise`]; the error is dropped here.
unsafe fn raise_match(state: *mut ffi::lua_State, error: PatternError) -> c_int {
    // SAFETY: as the caller says. The error is dropped before Lua leaves the frame.
    unsafe {
        ffi::luaL_where(state, 1);
        match &error {
            PatternError::Malformed(text) => {
                ffi::lua_pushlstring(state, text.as_ptr().cast::<c_char>(), text.len());
            }
            PatternError::Timeout => {
                ffi::lua_pushstring(state, c"UDF Execution Timeout".as_ptr());
            }
        }
        drop(error);
        ffi::lua_concat(state, 2);
        ffi::lua_error(state)
    }
}

/// A start from an argument that counts from 1, or from the end if it is negative, as the number of bytes before it.
fn start_at(init: i64, size: usize) -> usize {
    match init {
        1.. => usize::try_from(init - 1).unwrap_or(usize::MAX),
        0 => 0,
        _ => usize::try_from(init.unsigned_abs()).map_or(0, |back| size.saturating_sub(back)),
    }
}

/// Pushes a part of a text.
///
/// # Safety
/// There is room for a value.
unsafe fn push_text(state: *mut ffi::lua_State, text: &[u8]) {
    // SAFETY: as the caller says.
    unsafe { ffi::lua_pushlstring(state, text.as_ptr().cast::<c_char>(), text.len()) };
}

/// Pushes a capture of the last match; an error if it is unfinished.
///
/// # Safety
/// In a function of a program, whose frame has nothing that must be dropped, with room for a value.
unsafe fn push_capture(state: *mut ffi::lua_State, matcher: &Matcher<'_>, subject: &[u8], index: usize) {
    // SAFETY: as the caller says.
    unsafe {
        match matcher.capture(index) {
            Some(Capture::Position(at)) => ffi::lua_pushinteger(state, at as i64 + 1),
            Some(Capture::Text(start, end)) => push_text(state, &subject[start..end]),
            Some(Capture::Unfinished) => {
                raise(state, UNFINISHED);
            }
            None => ffi::lua_pushnil(state),
        }
    }
}

/// Pushes the captures of the last match, or the whole match if the pattern has none and `whole` gives it; returns their number.
///
/// # Safety
/// In a C function.
unsafe fn push_captures(
    state: *mut ffi::lua_State,
    matcher: &Matcher<'_>,
    subject: &[u8],
    whole: Option<(usize, usize)>,
) -> c_int {
    let count = matcher.capture_count();
    // SAFETY: as the caller says, and `luaL_checkstack` makes room.
    unsafe {
        ffi::luaL_checkstack(state, count as c_int + 1, c"too many captures".as_ptr());
        if let Some((start, end)) = whole
            && count == 0
        {
            push_text(state, &subject[start..end]);
            return 1;
        }
        for index in 0..count {
            push_capture(state, matcher, subject, index);
        }
    }
    count as c_int
}

/// The parts of a pattern: whether it matches at the beginning only, and the rest.
fn anchored(pattern: &[u8]) -> (bool, &[u8]) {
    match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    }
}

/// `string.find` with `is_find`, otherwise `string.match`.
///
/// # Safety
/// In a function of a program, at its beginning.
unsafe fn find_or_match(state: *mut ffi::lua_State, is_find: bool) -> c_int {
    // SAFETY: a C function has room for 20 values. The texts are on the stack.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let (Some(subject), Some(pattern)) = (text_argument(state, 1), text_argument(state, 2)) else {
            return leave(state, arguments);
        };
        let is_plain = is_find && ffi::lua_toboolean(state, 4) != 0;
        if !is_plain && is_short_match(subject, pattern) {
            return be_original(state, true);
        }
        let Ok(init) = integer_argument(state, 3, 1) else { return leave(state, arguments) };
        let from = start_at(init, subject.len());
        if from > subject.len() {
            ffi::lua_pushnil(state);
            return 1;
        }
        if is_plain || is_find && pattern::is_plain(pattern) {
            if subject.len() > WATCHED_SIZE {
                look(state);
            }
            let found = match pattern {
                [byte] => memchr::memchr(*byte, &subject[from..]),
                _ => memchr::memmem::find(&subject[from..], pattern),
            };
            let Some(at) = found else {
                ffi::lua_pushnil(state);
                return 1;
            };
            ffi::lua_pushinteger(state, (from + at) as i64 + 1);
            ffi::lua_pushinteger(state, (from + at + pattern.len()) as i64);
            return 2;
        }
        let Some(watch) = raw::watch_of(state) else { return 0 };
        let (is_anchored, bare) = anchored(pattern);
        let mut matcher = Matcher::new(subject, bare, watch);
        match matcher.find(from, is_anchored, None) {
            Ok(Some((start, end))) if is_find => {
                ffi::lua_pushinteger(state, start as i64 + 1);
                ffi::lua_pushinteger(state, end as i64);
                2 + push_captures(state, &matcher, subject, None)
            }
            Ok(Some(whole)) => push_captures(state, &matcher, subject, Some(whole)),
            Ok(None) => {
                ffi::lua_pushnil(state);
                1
            }
            Err(error) => raise_match(state, error),
        }
    }
}

/// `string.find(subject, pattern, init, is_plain)`
pub(super) unsafe extern "C-unwind" fn find(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe { find_or_match(state, true) }
}

/// `string.match(subject, pattern, init)`
pub(super) unsafe extern "C-unwind" fn find_match(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe { find_or_match(state, false) }
}

/// `string.gmatch(subject, pattern, init)`
pub(super) unsafe extern "C-unwind" fn gmatch(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. The texts and two numbers become the values of the closure.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let (Some(subject), Some(pattern)) = (text_argument(state, 1), text_argument(state, 2)) else {
            return leave(state, arguments);
        };
        if is_short_match(subject, pattern) {
            return be_original(state, true);
        }
        let Ok(init) = integer_argument(state, 3, 1) else { return leave(state, arguments) };
        let from = start_at(init, subject.len()).min(subject.len() + 1);
        ffi::lua_settop(state, 2);
        ffi::lua_pushinteger(state, from as i64);
        ffi::lua_pushinteger(state, -1);
        ffi::lua_pushcclosure(state, gmatch_step, 4);
        1
    }
}

/// The next match of the subject and the pattern in the closure. Its other values are the number of bytes before the place where
/// the search begins, and the end of the last match, or -1.
unsafe extern "C-unwind" fn gmatch_step(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. `gmatch` made the closure.
    unsafe {
        ffi::lua_settop(state, 0);
        for value in 1..=2 {
            ffi::lua_pushvalue(state, ffi::lua_upvalueindex(value));
        }
        let number = |index| ffi::lua_tointegerx(state, ffi::lua_upvalueindex(index), ptr::null_mut());
        let (from, last) = (number(3), number(4));
        let (Some(subject), Some(pattern), Some(watch)) =
            (string_at(state, 1), string_at(state, 2), raw::watch_of(state))
        else {
            return 0;
        };
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let mut matcher = Matcher::new(subject, pattern, watch);
        let set = |index, value: usize| {
            ffi::lua_pushinteger(state, value as i64);
            ffi::lua_replace(state, ffi::lua_upvalueindex(index));
        };
        let found = if from > subject.len() {
            Ok(None)
        } else {
            matcher.find(from, false, usize::try_from(last).ok())
        };
        match found {
            Ok(Some((start, end))) => {
                set(3, end);
                set(4, end);
                push_captures(state, &matcher, subject, Some((start, end)))
            }
            Ok(None) => {
                set(3, subject.len() + 1);
                ffi::lua_pushnil(state);
                1
            }
            Err(error) => raise_match(state, error),
        }
    }
}

/// What replaces a match.
#[derive(Clone, Copy)]
enum Replacement<'a> {
    /// A text without references.
    Text(&'a [u8]),
    /// A text with references to captures.
    Template(&'a [u8]),
    Table,
    Function,
}

/// The result of a replacement, and the bytes that were put into it since the last look at the clock.
struct Replaced {
    buffer: MaybeUninit<ffi::luaL_Buffer>,
    size: usize,
}

impl Replaced {
    /// Appends bytes.
    ///
    /// # Safety
    /// In a C function, whose stack has only the buffer above the values that it had when the buffer began.
    unsafe fn put(&mut self, state: *mut ffi::lua_State, bytes: &[u8]) {
        // SAFETY: as the caller says; the buffer has begun.
        unsafe {
            self.count(state, bytes.len());
            ffi::luaL_addlstring(self.buffer.as_mut_ptr(), bytes.as_ptr().cast::<c_char>(), bytes.len());
        }
    }

    /// Counts bytes; looks at the clock from time to time.
    ///
    /// # Safety
    /// As for [`put`](Self::put).
    unsafe fn count(&mut self, state: *mut ffi::lua_State, size: usize) {
        self.size += size;
        if self.size > WATCHED_SIZE {
            self.size = 0;
            // SAFETY: as the caller says.
            unsafe { look(state) };
        }
    }
}

/// Appends a text with its references filled in.
///
/// # Safety
/// As for [`Replaced::put`].
unsafe fn put_template(
    state: *mut ffi::lua_State,
    replaced: &mut Replaced,
    template: &[u8],
    matcher: &Matcher<'_>,
    subject: &[u8],
    whole: (usize, usize),
) {
    let (mut rest, mut size) = (template, 0usize);
    // SAFETY: as the caller says.
    unsafe {
        while let Some(at) = memchr::memchr(b'%', rest) {
            replaced.put(state, &rest[..at]);
            size += at;
            match rest.get(at + 1) {
                Some(b'%') => replaced.put(state, b"%"),
                Some(b'0') => {
                    replaced.put(state, &subject[whole.0..whole.1]);
                    size += whole.1 - whole.0;
                }
                Some(digit @ b'1'..=b'9') => {
                    let number = usize::from(digit - b'0');
                    match matcher.capture(number - 1) {
                        Some(Capture::Text(start, end)) => {
                            replaced.put(state, &subject[start..end]);
                            size += end - start;
                        }
                        Some(Capture::Position(at)) => {
                            ffi::lua_pushinteger(state, at as i64 + 1);
                            ffi::luaL_addvalue(replaced.buffer.as_mut_ptr());
                        }
                        Some(Capture::Unfinished) => {
                            raise(state, UNFINISHED);
                        }
                        // Without captures the first capture is the whole match.
                        None if number == 1 && matcher.capture_count() == 0 => {
                            replaced.put(state, &subject[whole.0..whole.1]);
                            size += whole.1 - whole.0;
                        }
                        None => {
                            ffi::luaL_error(state, c"invalid capture index %%%d".as_ptr(), number as c_int);
                        }
                    }
                }
                _ => {
                    raise(state, c"invalid use of '%' in replacement string");
                }
            }
            if size > EXPANDED_SIZE_MAX {
                raise(state, c"resulting string too large");
            }
            rest = &rest[at + 2..];
        }
        replaced.put(state, rest);
    }
}

/// Appends what the table or function that is the third argument has for a match.
///
/// # Safety
/// As for [`Replaced::put`].
unsafe fn put_value(
    state: *mut ffi::lua_State,
    replaced: &mut Replaced,
    is_table: bool,
    matcher: &Matcher<'_>,
    subject: &[u8],
    whole: (usize, usize),
) {
    // SAFETY: as the caller says. The buffer may have a value on the stack, above which all is pushed and popped.
    unsafe {
        ffi::luaL_checkstack(state, CALL_STACK, ptr::null());
        // What is called may be one of Lua's own functions, in which no hook looks.
        replaced.count(state, CALLED_SIZE);
        if is_table {
            if matcher.capture_count() == 0 {
                push_text(state, &subject[whole.0..whole.1]);
            } else {
                push_capture(state, matcher, subject, 0);
            }
            ffi::lua_gettable(state, 3);
        } else {
            ffi::lua_pushvalue(state, 3);
            let count = push_captures(state, matcher, subject, Some(whole));
            ffi::lua_call(state, count, 1);
        }
        if ffi::lua_toboolean(state, -1) == 0 {
            ffi::lua_pop(state, 1);
            replaced.put(state, &subject[whole.0..whole.1]);
        } else if ffi::lua_isstring(state, -1) != 0 {
            replaced.count(state, ffi::lua_rawlen(state, -1));
            ffi::luaL_addvalue(replaced.buffer.as_mut_ptr());
        } else {
            let has_name = ffi::luaL_getmetafield(state, -1, c"__name".as_ptr()) == ffi::LUA_TSTRING;
            let name = if has_name {
                ffi::lua_tolstring(state, -1, ptr::null_mut())
            } else {
                ffi::luaL_typename(state, -1)
            };
            ffi::luaL_error(state, c"invalid replacement value (a %s)".as_ptr(), name);
        }
    }
}

/// The replacement in the third argument; `None` if it has another type.
///
/// # Safety
/// It is used while it is on the stack.
unsafe fn replacement<'a>(state: *mut ffi::lua_State) -> Option<Replacement<'a>> {
    // SAFETY: as the caller says.
    unsafe {
        Some(match ffi::lua_type(state, 3) {
            ffi::LUA_TTABLE => Replacement::Table,
            ffi::LUA_TFUNCTION => Replacement::Function,
            _ => {
                let text = text_argument(state, 3)?;
                match memchr::memchr(b'%', text) {
                    Some(_) => Replacement::Template(text),
                    None => Replacement::Text(text),
                }
            }
        })
    }
}

/// `string.gsub(subject, pattern, replacement, count)`
pub(super) unsafe extern "C-unwind" fn gsub(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. The texts are on the stack, where the program cannot replace them.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let (Some(subject), Some(pattern), Some(replacement), Ok(count_max)) = (
            text_argument(state, 1),
            text_argument(state, 2),
            replacement(state),
            integer_argument(state, 4, i64::MAX),
        ) else {
            return leave(state, arguments);
        };
        let is_short = match replacement {
            Replacement::Text(text) | Replacement::Template(text) => is_short_replacement(subject, text),
            Replacement::Table | Replacement::Function => false,
        };
        if is_short && is_short_match(subject, pattern) {
            return be_original(state, true);
        }
        let Some(watch) = raw::watch_of(state) else { return 0 };
        ffi::lua_settop(state, 3);
        let (is_anchored, bare) = anchored(pattern);
        let mut matcher = Matcher::new(subject, bare, watch);
        let mut replaced = Replaced { buffer: MaybeUninit::uninit(), size: 0 };
        ffi::luaL_buffinit(state, replaced.buffer.as_mut_ptr());
        let (mut count, mut from, mut last, mut copied) = (0, 0, None, 0);
        while count < count_max && from <= subject.len() {
            let whole = match matcher.find(from, is_anchored, last) {
                Ok(Some(whole)) => whole,
                Ok(None) => break,
                Err(error) => return raise_match(state, error),
            };
            replaced.put(state, &subject[copied..whole.0]);
            match replacement {
                Replacement::Text(text) => replaced.put(state, text),
                Replacement::Template(text) => {
                    put_template(state, &mut replaced, text, &matcher, subject, whole);
                }
                Replacement::Table => put_value(state, &mut replaced, true, &matcher, subject, whole),
                Replacement::Function => put_value(state, &mut replaced, false, &matcher, subject, whole),
            }
            (copied, from, last, count) = (whole.1, whole.1, Some(whole.1), count + 1);
            if is_anchored {
                break;
            }
        }
        replaced.put(state, &subject[copied..]);
        ffi::luaL_pushresult(replaced.buffer.as_mut_ptr());
        ffi::lua_pushinteger(state, count);
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matches_of_few_steps_are_short() {
        for (subject, pattern, is_short) in [
            (100, "b", true),
            (50, "b+", true),
            (100, "%a%%%d", true),
            (5_000, "b", true),
            (5_000, "b+", false),
            (3_275, "%b()", false),
            (3_275, "%f[b]", false),
            (3_275, "(b)%1", false),
            (3_275, "(b)%9", false),
            (20, "%b()", true),
            (20, "(b)%1", true),
            (20, "%b()%b()%b()", false),
            (20_000, "", false),
        ] {
            assert_eq!(
                is_short_match(&vec![b'('; subject], pattern.as_bytes()),
                is_short,
                "{subject} {pattern}"
            );
        }
    }

    #[test]
    fn only_small_replacements_are_short() {
        for (subject, replacement, is_short) in [
            (8_190, 15 << 10, false),
            (8_190, 7, true),
            (8_191, 8, false),
            (0, 60_000, true),
            (3, 1 << 20, false),
        ] {
            let is_found_short = is_short_replacement(&vec![b'x'; subject], &vec![b'y'; replacement]);
            assert_eq!(is_found_short, is_short, "{subject} {replacement}");
        }
    }
}

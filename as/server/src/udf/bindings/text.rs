//! Texts of values, patterns, the log and the clock for the prelude.

use std::rc::Rc;

use cf::clock::StoredMillis;
use mlua::{Lua, MultiValue, Table, Value};

use super::super::pattern::{self, Capture, Match, PatternError};
use super::super::watch::Watch;
use super::record::Session;

/// Maximum number of bytes of a replacement with its references filled in.
const EXPANDED_SIZE_MAX: usize = 16 << 20;
/// Maximum number of bytes of a function's log line.
const LOGGED_SIZE_MAX: usize = 1_000;

/// Installs the prelude's functions on texts in `host`. The watch lives as long as the interpreter.
///
/// # Errors
/// When Lua has not enough memory.
pub(crate) fn install(lua: &Lua, host: &Table, watch: &Rc<Watch>, session: &Rc<Session>) -> mlua::Result<()> {
    let of_find = Rc::clone(watch);
    host.set(
        "find_pattern",
        lua.create_function(move |lua, arguments: (mlua::String, mlua::String, usize, bool, bool)| {
            let (subject, pattern, init, is_plain, may_be_plain) = arguments;
            find(
                lua,
                &subject.as_bytes(),
                &pattern.as_bytes(),
                init - 1,
                is_plain || may_be_plain,
                is_plain,
                &of_find,
            )
        })?,
    )?;
    let of_next = Rc::clone(watch);
    host.set(
        "find_next",
        lua.create_function(
            move |lua, arguments: (mlua::String, mlua::String, usize, i64, Option<bool>)| {
                let (subject, pattern, at, last, is_anchored) = arguments;
                let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
                let is_anchored = is_anchored.unwrap_or(false);
                let bare = &pattern[usize::from(is_anchored)..];
                let last = usize::try_from(last).ok();
                let found = pattern::find(&subject, bare, at - 1, (is_anchored, last), &of_next);
                answer(lua, &subject, found)
            },
        )?,
    )?;
    let of_over = Rc::clone(watch);
    host.set("is_over", lua.create_function(move |_, ()| Ok(of_over.is_over()))?)?;
    host.set("expand", lua.create_function(expand)?)?;
    host.set("caller", lua.create_function(|lua, ()| caller(lua))?)?;
    host.set(
        "log",
        lua.create_function(|lua, (level, text): (i64, Option<mlua::String>)| {
            log(lua, level, text);
            Ok(())
        })?,
    )?;
    let session = Rc::clone(session);
    host.set(
        "current_time",
        lua.create_function(move |_, ()| {
            Ok(if session.is_read_only() { 0 } else { StoredMillis::now().0.cast_signed() })
        })?,
    )
}

/// The caller of the running C function: its level in the stack of the function that asks, and the name by which it
/// called the C function, with the kind of the name.
fn caller(lua: &Lua) -> mlua::Result<(usize, Option<String>, Option<&'static str>)> {
    // Levels 0 and 1 are this function and the one that asks.
    let mut level = 1;
    loop {
        let frame = lua.inspect_stack(level, |frame| {
            let is_c = frame.source().what == "C";
            let names = frame.names();
            let is_method = names.name_what == Some("method");
            (is_c, names.name.map(std::borrow::Cow::into_owned), is_method)
        });
        match frame {
            None => return Ok((level, None, None)),
            Some((true, name, is_method)) => return Ok((level + 1, name, is_method.then_some("method"))),
            Some(_) => level += 1,
        }
    }
}

fn find(
    lua: &Lua,
    subject: &[u8],
    pattern: &[u8],
    from: usize,
    may_be_plain: bool,
    is_plain: bool,
    watch: &Watch,
) -> mlua::Result<MultiValue> {
    if is_plain || may_be_plain && pattern::is_plain(pattern) {
        let found = memchr::memmem::find(subject.get(from..).unwrap_or_default(), pattern);
        let found =
            found.map(|at| Match { start: from + at, end: from + at + pattern.len(), captures: Vec::new() });
        return answer(lua, subject, Ok(found));
    }
    let is_anchored = pattern.first() == Some(&b'^');
    let bare = &pattern[usize::from(is_anchored)..];
    answer(lua, subject, pattern::find(subject, bare, from, (is_anchored, None), watch))
}

/// Start, end and captures of a match; nothing without a match; `false` and the reason if matching failed.
fn answer(lua: &Lua, subject: &[u8], found: Result<Option<Match>, PatternError>) -> mlua::Result<MultiValue> {
    let mut values = MultiValue::new();
    match found {
        Ok(None) => values.push_back(Value::Nil),
        Ok(Some(found)) => {
            values.push_back(Value::Integer(found.start as i64 + 1));
            values.push_back(Value::Integer(found.end as i64));
            for capture in found.captures {
                values.push_back(match capture {
                    Capture::Position(at) => Value::Integer(at as i64 + 1),
                    Capture::Text(start, end) => Value::String(lua.create_string(&subject[start..end])?),
                });
            }
        }
        Err(error) => {
            let text = match &error {
                PatternError::Malformed(text) => text,
                PatternError::Timeout => "UDF Execution Timeout",
            };
            values.push_back(Value::Boolean(false));
            values.push_back(Value::String(lua.create_string(text)?));
        }
    }
    Ok(values)
}

/// A replacement with its references to captures filled in; `false` if it is malformed; the number of a
/// capture that does not exist. The second value is `nil`, or the reason why there is no result.
fn expand(lua: &Lua, mut arguments: MultiValue) -> mlua::Result<(Value, Option<&'static str>)> {
    let malformed = Ok((Value::Boolean(false), None));
    let Some(Value::String(template)) = arguments.pop_front() else { return malformed };
    let template = template.as_bytes();
    let captures: Vec<Value> = arguments.into_iter().collect();
    let mut out = Vec::with_capacity(template.len().min(EXPANDED_SIZE_MAX));
    let mut rest = &template[..];
    while let Some(at) = memchr::memchr(b'%', rest) {
        out.extend_from_slice(&rest[..at]);
        match rest.get(at + 1) {
            Some(b'%') => out.push(b'%'),
            Some(digit @ b'0'..=b'9') => {
                let number = usize::from(digit - b'0');
                // Without captures the first capture is the whole match.
                let capture = captures.get(if number == 1 && captures.len() == 1 { 0 } else { number });
                match capture {
                    Some(Value::String(text)) => out.extend_from_slice(&text.as_bytes()),
                    Some(Value::Integer(at)) => out.extend_from_slice(at.to_string().as_bytes()),
                    _ => return Ok((Value::Integer(number as i64), None)),
                }
            }
            _ => return malformed,
        }
        if out.len() > EXPANDED_SIZE_MAX {
            return Ok((Value::Nil, Some("resulting string too large")));
        }
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    Ok((Value::String(lua.create_string(out)?), None))
}

/// Writes a line of a function to the log, with the place in the program that logged it.
fn log(lua: &Lua, level: i64, text: Option<mlua::String>) {
    let place = (1..10).find_map(|level| {
        lua.inspect_stack(level, |frame| {
            let source = frame.source();
            let name = source.source.as_deref()?.strip_prefix('@')?;
            let name = name.rsplit('/').next()?.to_owned();
            Some(format!("{name}:{}", frame.current_line().unwrap_or(0)))
        })
        .flatten()
    });
    let text = text.map_or_else(String::new, |text| {
        let bytes = text.as_bytes();
        let printable = |character: char| if character.is_control() { '?' } else { character };
        String::from_utf8_lossy(&bytes[..bytes.len().min(LOGGED_SIZE_MAX)]).chars().map(printable).collect()
    });
    let place = place.unwrap_or_default();
    match level {
        ..=1 => cf::warning_limited!(Udf, "({place}) {text}"),
        2 => cf::info_limited!(Udf, "({place}) {text}"),
        3 => cf::debug!(Udf, "({place}) {text}"),
        _ => cf::detail!(Udf, "({place}) {text}"),
    }
}

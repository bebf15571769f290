//! The callers of functions and the log for the prelude.

use std::rc::Rc;

use mlua::{Lua, Table};

use super::super::watch::Watch;

/// Maximum number of bytes of a function's log line.
const LOGGED_SIZE_MAX: usize = 1_000;

/// Installs the prelude's functions on texts in `host`. The watch lives as long as the interpreter.
///
/// # Errors
/// When Lua has not enough memory.
pub(crate) fn install(lua: &Lua, host: &Table, watch: &Rc<Watch>) -> mlua::Result<()> {
    let of_over = Rc::clone(watch);
    host.set("is_over", lua.create_function(move |_, ()| Ok(of_over.is_over()))?)?;
    host.set("caller", lua.create_function(|lua, ()| caller(lua))?)?;
    host.set(
        "log",
        lua.create_function(|lua, (level, text): (i64, Option<mlua::String>)| {
            log(lua, level, text);
            Ok(())
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

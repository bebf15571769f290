//! Contexts of indexes: their validation, and their text in lists of indexes.

use std::fmt::Write;

use cf::msgpack::{Head, Kind, Reader};

use crate::cdt::is_shortest;

const STEP_MAX: u8 = 0x23;
const BASE_MASK: u8 = 0x0f;
/// The step by the key of a list, which does not exist.
const LIST_KEY: u8 = 0x12;
const OF_LIST: u64 = 0x10;
const OF_MAP: u64 = 0x20;
/// The ways in which a step finds its element, in the order of their numbers.
const BASES: [&str; 4] = ["index", "rank", "key", "value"];

/// The reason why bytes are not a valid context of an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContextError {
    /// They are not a list of steps.
    Invalid,
    /// They are not in the shortest form, in which contexts are compared.
    NotShortest,
}

/// Checks that `bytes` are a context for an index: a msgpack list of steps and their arguments, each in its shortest
/// form.
///
/// # Errors
/// The reason why they are not a context.
pub fn check_context(bytes: &[u8]) -> Result<(), ContextError> {
    check_steps(bytes).ok_or(ContextError::Invalid)?;
    let mut reader = Reader::new(bytes);
    let mut left = 1u64;
    while left > 0 {
        let marker = reader.marker().ok_or(ContextError::Invalid)?;
        let head = reader.head().ok_or(ContextError::Invalid)?;
        if !is_shortest(marker, &head) {
            return Err(ContextError::NotShortest);
        }
        left = left - 1
            + match head {
                Head::List(count) => u64::from(count),
                Head::Map(count) => 2 * u64::from(count),
                _ => 0,
            };
    }
    Ok(())
}

fn check_steps(bytes: &[u8]) -> Option<()> {
    let mut reader = Reader::new(bytes);
    let count = reader.list_header().filter(|count| *count != 0 && count % 2 == 0)?;
    for _ in 0..count / 2 {
        let step = reader.integer()?.to_le_bytes()[0];
        if step > STEP_MAX || usize::from(step & BASE_MASK) >= BASES.len() || step == LIST_KEY {
            return None;
        }
        reader.skip(1)?;
    }
    Some(())
}

/// The text of a context in lists of indexes: `[map_key(<string#1>), list_rank(0)]`.
#[must_use]
pub fn context_text(bytes: &[u8]) -> String {
    let mut text = String::from("[");
    let mut reader = Reader::new(bytes);
    for at in 0..reader.list_header().unwrap_or(0) / 2 {
        let Some(step) = reader.integer() else { break };
        if at > 0 {
            text.push_str(", ");
        }
        text.push_str(match step {
            step if step & OF_LIST != 0 => "list_",
            step if step & OF_MAP != 0 => "map_",
            _ => "",
        });
        let base = BASES.get(usize::from(step.to_le_bytes()[0] & BASE_MASK)).unwrap_or(&"");
        let _ = write!(text, "{base}(");
        push_value(&mut reader, &mut text);
        text.push(')');
    }
    text.push(']');
    text
}

fn push_value(reader: &mut Reader<'_>, text: &mut String) {
    let mut next = *reader;
    let Some(head) = next.head() else { return };
    let (kind, shown) = (head.kind(), text);
    let _ = match head {
        Head::Nil => write!(shown, "nil"),
        Head::Bool(value) => write!(shown, "{value}"),
        Head::Negative(value) => write!(shown, "{value}"),
        Head::Unsigned(value) => write!(shown, "{}", value.cast_signed()),
        Head::Double(value) => write!(shown, "{value:.6}"),
        Head::Raw([]) => write!(shown, "<blob#_>"),
        Head::Raw([number, rest @ ..]) => match kind {
            Kind::Text => write!(shown, "<string#{}>", rest.len()),
            Kind::GeoJson => write!(shown, "<geojson#{}>", rest.len()),
            _ if *number == super::BLOB => write!(shown, "<blob#{}>", rest.len()),
            _ => write!(shown, "<blob{number}#{}>", rest.len()),
        },
        Head::List(count) => write!(shown, "<list#{count}>"),
        Head::Map(count) => write!(shown, "<map#{count}>"),
        Head::Extension(extension) => match kind {
            Kind::Wildcard => write!(shown, "*"),
            Kind::Infinity => write!(shown, "inf"),
            _ => write!(shown, "<ext#{}>", extension.data.len()),
        },
    };
    let _ = reader.skip(1);
}

//! The sinks of the log, their levels, and writing to them.

use super::request::InfoResult;
use super::request::Joined;
use super::{Arguments, InfoError};
use crate::node::Node;
use cf::log::{Context, logger};
use proto::ResultCode;

/// Length limit (exclusive) of a message for the log.
const MESSAGE_SIZE_MAX: usize = 2048;
/// Length limit (exclusive) of the sender's name.
const WHO_SIZE_MAX: usize = 128;

/// `id:name` of each sink.
pub(super) fn sinks(_: &Node, out: &mut String) -> InfoResult {
    let mut list = Joined::new(out, ';');
    for (id, name) in logger().sinks().iter().enumerate() {
        list.item(format_args!("{id}:{name}"));
    }
    Ok(())
}

/// `context:LEVEL` of each context of a sink, or of one context.
pub(super) fn levels(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let (id, context) = arguments.parts();
    let id = if id.is_empty() { "0" } else { id };
    let id: i64 = Some(id)
        .filter(|id| !id.starts_with('+'))
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| InfoError::parameter("bad sink-id"))?;
    let levels = usize::try_from(id)
        .ok()
        .and_then(|id| logger().levels(id))
        .ok_or_else(|| InfoError::new(ResultCode::Unknown, "bad-id"))?;
    let mut list = Joined::new(out, ';');
    match context {
        Some(name) => {
            let context =
                Context::from_name(name).ok_or_else(|| InfoError::new(ResultCode::Unknown, "bad-context"))?;
            list.item(format_args!("{name}:{}", levels.get(context).name()));
        }
        None => {
            for context in Context::ALL {
                list.item(format_args!("{}:{}", context.name(), levels.get(context).name()));
            }
        }
    }
    Ok(())
}

/// Removes the text before the next `separator` from `text` and returns it. Leading separators are skipped.
fn next_token<'a>(text: &mut &'a str, separator: char) -> Option<&'a str> {
    let rest = text.trim_start_matches(separator);
    let (token, rest) = rest.split_once(separator).unwrap_or((rest, ""));
    *text = rest;
    Some(token).filter(|token| !token.is_empty())
}

/// `id=<sink>;<context>=<level>`; the rest is ignored. Without a level, the text after the semicolon counts
/// as the level.
pub(super) fn set(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let mut rest = arguments.0;
    if next_token(&mut rest, '=') != Some("id") {
        return Err(InfoError::parameter("missing id"));
    }
    let id = next_token(&mut rest, ';').and_then(|id| id.parse::<usize>().ok());
    let id = id.ok_or_else(|| InfoError::parameter("bad id"))?;
    let context = next_token(&mut rest, '=').ok_or_else(|| InfoError::parameter("missing context"))?;
    let level = next_token(&mut rest, ';').ok_or_else(|| InfoError::parameter("bad level"))?;
    logger().set_level(id, context, level).map_err(|_| InfoError::parameter("bad parameter"))?;
    cf::info!(Info, "log-set:id={id}:{context}={level}");
    out.push_str("ok");
    Ok(())
}

/// Writes a line to the log. The answer is empty.
pub(super) fn message(_: &Node, arguments: Arguments<'_>, _: &mut String) -> InfoResult {
    let who = arguments.optional("who", WHO_SIZE_MAX)?.unwrap_or("unknown");
    let message = arguments.required("message", MESSAGE_SIZE_MAX)?;
    cf::info!(Info, "{who}: {message}");
    Ok(())
}

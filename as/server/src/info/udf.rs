//! Commands for modules of user-defined functions: register, list, show, remove.
//!
//! Errors of these commands have a separate format, `error=<reason>`. With details, which clients show, it is
//! `error=<reason>;file=<name>;line=<number>;message=<base64>`.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest, Sha1};

use super::Arguments;
use super::request::InfoResult;
use crate::node::Node;
use crate::smd::{Module, SetError};
use crate::udf::{self, ContentError, FILE_NAME_SIZE_MAX, Functions};

/// Length limit (exclusive) of a number of bytes, in digits.
const CONTENT_SIZE_DIGITS_MAX: usize = 11;
/// Length limit (exclusive) of the type's name.
const TYPE_SIZE_MAX: usize = 16;
fn functions(node: &Node) -> &Functions {
    &node.service.transactions.functions
}

/// The file name that the command is about.
fn file_name(arguments: Arguments<'_>) -> Result<&str, &'static str> {
    let name = arguments.required("filename", FILE_NAME_SIZE_MAX);
    name.map_err(|_| "invalid_filename")
}

/// An error with details.
fn detailed(reason: &str, file: &str, line: u32, message: &[u8]) -> String {
    format!("{reason};file={file};line={line};message={}", BASE64_STANDARD.encode(message))
}

/// The error of a change of the module `name` that was not made.
fn not_changed(name: &str, error: &SetError) -> String {
    match error {
        SetError::Timeout => "timeout".to_owned(),
        SetError::ZeroByte => "invalid_filename".to_owned(),
        SetError::Storage(_) | SetError::Refused(_) => {
            detailed("not_stored", name, 0, error.to_string().as_bytes())
        }
    }
}

/// Answers with a text or an error.
fn answer(result: Result<String, impl std::fmt::Display>, out: &mut String) -> InfoResult {
    match result {
        Ok(text) => out.push_str(&text),
        Err(error) => {
            let _ = write!(out, "error={error}");
        }
    }
    Ok(())
}

pub(super) fn list(node: &Node, out: &mut String) -> InfoResult {
    for item in node.smd.live_items(Module::Udf) {
        let hash = Sha1::digest(item.value.unwrap_or_default());
        let _ = write!(out, "filename={},hash={hash:x},type=LUA;", item.key);
    }
    Ok(())
}

pub(super) fn get(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let content = file_name(arguments).and_then(|name| {
        let content = functions(node).modules().get(name).ok_or("not_found")?;
        if content.is_empty() {
            return Err("empty");
        }
        Ok(format!("type=LUA;content={};", BASE64_STANDARD.encode(content)))
    });
    answer(content, out)
}

pub(super) fn put(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    answer(register(node, arguments).map(|()| "ok".to_owned()), out)
}

fn register(node: &Node, arguments: Arguments<'_>) -> Result<(), String> {
    let name = file_name(arguments)?;
    if !udf::is_file_name(name) {
        return Err("invalid_filename".to_owned());
    }
    let size = arguments.required_or_empty("content-len", CONTENT_SIZE_DIGITS_MAX);
    let size = size.map_err(|_| "invalid_content_len")?;
    let kind = arguments.optional("udf-type", TYPE_SIZE_MAX).map_err(|_| "invalid_udf_type")?;
    if kind.is_some_and(|kind| !udf::is_type(kind)) {
        return Err("invalid_udf_type".to_owned());
    }
    // No digits count as 0.
    let size = if size.is_empty() { Ok(0) } else { size.parse::<u32>() };
    let size = size.ok().filter(|size| size % 4 == 0).ok_or("invalid_content_len")?;
    let size = size as usize;
    let content = arguments.required("content", usize::MAX);
    let content =
        content.map_err(|_| if size == 0 { "invalid_base64_content" } else { "invalid_content" })?;
    if content.len() != size {
        return Err("invalid_content".to_owned());
    }
    let decoded = udf::decode_content(content).map_err(|error| match error {
        ContentError::TooLarge => "invalid_udf_content_len,>1M",
        ContentError::NotBase64 => "invalid_base64_content",
    })?;
    functions(node)
        .check(name, &decoded)
        .map_err(|error| detailed("compile_error", &error.file, error.line, &error.message))?;
    let value = udf::metadata_value(name, content);
    node.smd.set(Module::Udf, name, &value).map_err(|error| not_changed(name, &error))
}

/// Removes a module. A missing module is not an error.
pub(super) fn remove(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    answer(unregister(node, arguments).map(|()| "ok".to_owned()), out)
}

fn unregister(node: &Node, arguments: Arguments<'_>) -> Result<(), String> {
    let name = file_name(arguments)?;
    if !udf::is_key(name) {
        return Err("invalid_filename".to_owned());
    }
    node.smd.delete(Module::Udf, name).map_err(|error| not_changed(name, &error))
}

pub(super) fn clear_cache(node: &Node, out: &mut String) -> InfoResult {
    functions(node).clear_cache();
    out.push_str("ok");
    Ok(())
}

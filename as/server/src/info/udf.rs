//! Modules of user-defined functions: there are none, and none can be registered yet.
//!
//! Errors of these commands have a form of their own, `error=<what>`.

use super::request::InfoResult;
use super::{Arguments, InfoError};
use crate::node::Node;

/// Bound of file names.
const FILE_NAME_SIZE_MAX: usize = 128;

/// The file name that the command is about; its error is answered already.
fn file_name<'a>(arguments: Arguments<'a>, out: &mut String) -> Option<&'a str> {
    let name = arguments.required("filename", FILE_NAME_SIZE_MAX).ok();
    if name.is_none() {
        out.push_str("error=invalid_filename");
    }
    name
}

pub(super) fn list(_: &Node, _: &mut String) -> InfoResult {
    Ok(())
}

pub(super) fn get(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    if file_name(arguments, out).is_some() {
        out.push_str("error=not_found");
    }
    Ok(())
}

pub(super) fn put(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    match file_name(arguments, out) {
        None => Ok(()),
        Some(_) => Err(InfoError::unsupported("user-defined functions are not supported yet")),
    }
}

/// Removing what is not there is no error.
pub(super) fn remove(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    if file_name(arguments, out).is_some() {
        out.push_str("ok");
    }
    Ok(())
}

pub(super) fn clear_cache(_: &Node, out: &mut String) -> InfoResult {
    out.push_str("ok");
    Ok(())
}

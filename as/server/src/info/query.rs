//! Running queries, and long queries that ended recently.

use std::fmt::Write;

use proto::ResultCode;

use super::request::InfoResult;
use super::request::{Joined, parse_c_number};
use super::{Arguments, InfoError};
use crate::node::Node;

/// Length limit (exclusive) of a query's number: decimal, octal or hexadecimal.
const ID_SIZE_MAX: usize = 26;

fn parse_id(text: &str) -> Result<u64, InfoError> {
    parse_c_number(text).filter(|id| *id != 0).ok_or_else(|| InfoError::parameter("bad trid"))
}

/// A row for each query, or for the query with the requested number.
pub(super) fn show(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let queries = &node.service.queries;
    let mut rows = Joined::new(out, ';');
    match arguments.optional("trid", ID_SIZE_MAX)?.map(parse_id).transpose()? {
        None => queries.jobs().iter().for_each(|job| rows.item(job)),
        Some(id) => {
            rows.item(queries.job(id).ok_or_else(|| InfoError::new(ResultCode::NotFound, "job not found"))?);
        }
    }
    Ok(())
}

pub(super) fn abort(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let id = parse_id(arguments.required_either("trid", "id", ID_SIZE_MAX)?)?;
    if !node.service.queries.abort(id) {
        return Err(InfoError::new(ResultCode::NotFound, "trid not active"));
    }
    out.push_str("ok");
    Ok(())
}

pub(super) fn abort_all(node: &Node, out: &mut String) -> InfoResult {
    let _ = write!(out, "number-of-queries-killed:{}", node.service.queries.abort_all());
    Ok(())
}

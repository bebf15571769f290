//! Operations on lists.

mod modify;
mod ordered;
mod select;

pub(crate) use modify::modify;
pub(crate) use select::{elements, find, pick_ranks};

use proto::ResultCode;

use super::call::{Call, CdtOperation, selection};
use super::container::Container;
use super::result::{ResultValue, integer};

/// Applies a read call.
///
/// # Errors
/// `Parameter` for a bad call or a damaged list; otherwise the operation's error.
pub(crate) fn read(list: &Container<'_>, call: &Call<'_>) -> Result<ResultValue, ResultCode> {
    let (operation, arguments) = call.operation(false)?;
    if operation == CdtOperation::ListSize {
        return Ok(integer(list.count));
    }
    let (selector, want) = selection(operation, arguments)?;
    select::select(list, selector, want).map(|selection| selection.answer)
}

//! Operations on maps.

mod answer;
mod find;
mod modify;
mod select;
mod select_list;

pub(crate) use find::{find_place, position_by_index, position_by_rank, position_by_value};
pub(crate) use modify::modify;

use proto::ResultCode;

use super::call::{Call, CdtOperation, selection};
use super::container::Container;
use super::result::{ResultValue, integer};

/// Applies a read call.
///
/// # Errors
/// `Parameter` for a bad call or a damaged map; otherwise the operation's error.
pub(crate) fn read(map: &Container<'_>, call: &Call<'_>) -> Result<ResultValue, ResultCode> {
    let (operation, arguments) = call.operation(false)?;
    if operation == CdtOperation::MapSize {
        return Ok(integer(map.count));
    }
    let (selector, want) = selection(operation, arguments)?;
    select::select(map, selector, want).map(|selection| selection.answer)
}

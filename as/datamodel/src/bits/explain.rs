//! Reasons why bit operations are refused.

use proto::ResultCode;

use super::arguments::{Arguments, ModifyOperator, parse_modify, parse_read};
use super::{BitRange, blob_of};
use crate::explanation::{Explanation, found, snake_case};
use crate::particle::Particle;

/// Explains why the read operation `payload` was refused for `bin`.
pub(crate) fn explain_read(bin: Option<&Particle<'_>>, payload: &[u8]) -> Explanation {
    match parse_read(payload) {
        Ok((operator, arguments)) => explain(&format!("{operator:?}"), &arguments, bin, true),
        Err(_) => unknown(),
    }
}

/// Explains why the modify operation `payload` was refused for `bin`.
pub(crate) fn explain_modify(bin: Option<&Particle<'_>>, payload: &[u8]) -> Explanation {
    match parse_modify(payload) {
        Ok((operator, arguments)) => {
            let is_region = !matches!(operator, ModifyOperator::Resize | ModifyOperator::Insert);
            explain(&format!("{operator:?}"), &arguments, bin, is_region)
        }
        Err(_) => unknown(),
    }
}

fn unknown() -> Explanation {
    let reason = "there is no such operation, or an argument is out of its bounds";
    Explanation::new("bits_operation".to_owned(), Some(reason.to_owned()))
}

/// `is_region` says whether the operation needs existing bits.
fn explain(
    operator: &str,
    arguments: &Arguments<'_>,
    bin: Option<&Particle<'_>>,
    is_region: bool,
) -> Explanation {
    let reason = match bin.map(blob_of) {
        Some(Err(_)) => Some(format!("it is for a blob; {}", found(bin))),
        Some(Ok(blob))
            if is_region && !matches!(BitRange::of(arguments, blob.len()), Ok::<_, ResultCode>(Some(_))) =>
        {
            let Arguments { offset, size, .. } = arguments;
            Some(format!("{size} bits from bit {offset} are out of bounds for {} bytes", blob.len()))
        }
        _ => None,
    };
    Explanation::new(format!("bits_{}", snake_case(operator)), reason)
}

//! Reasons why HyperLogLog operations are refused.

use std::fmt::Debug;

use proto::ResultCode;

use super::arguments::{Arguments, Unread, parse_modify, parse_read};
use super::sketch_of;
use crate::explanation::{Explanation, found, snake_case};
use crate::particle::Particle;

/// Explains why the read operation `payload` was refused for a bin.
pub(crate) fn explain_read(bin: Option<&Particle<'_>>, payload: &[u8]) -> Explanation {
    explain(parse_read(payload), bin)
}

/// Explains why the modify operation `payload` was refused for a bin.
pub(crate) fn explain_modify(bin: Option<&Particle<'_>>, payload: &[u8]) -> Explanation {
    explain(parse_modify(payload), bin)
}

fn explain<T: Copy + Debug>(
    unread: Result<Unread<'_, T>, ResultCode>,
    bin: Option<&Particle<'_>>,
) -> Explanation {
    let Ok(unread) = unread else {
        let reason = "there is no such operation";
        return Explanation::new("hll_operation".to_owned(), Some(reason.to_owned()));
    };
    let name = format!("hll_{}", snake_case(&format!("{:?}", unread.operator())));
    let sketch = match bin.map(sketch_of) {
        Some(Err(ResultCode::IncompatibleType)) => {
            return Explanation::new(name, Some(format!("it is for a HyperLogLog; {}", found(bin))));
        }
        Some(Err(_)) => return Explanation::new(name, Some("the bin is a damaged HyperLogLog".to_owned())),
        Some(Ok(sketch)) => Some(sketch),
        None => None,
    };
    let reason = match unread.finish() {
        Err(_) => Some("the number of arguments, or one of them, is not valid".to_owned()),
        Ok((_, Arguments { sketches, .. })) => sketch.filter(|_| !sketches.is_empty()).map(|sketch| {
            let shape = |sketch: &super::Sketch<'_>| {
                format!("{}/{}", sketch.shape.index_bits, sketch.shape.minhash_bits)
            };
            let given: Vec<String> = sketches.iter().take(8).map(shape).collect();
            format!(
                "index and minhash bits do not go together: {} given, {} in the bin",
                given.join(" "),
                shape(&sketch)
            )
        }),
    };
    Explanation::new(name, reason)
}

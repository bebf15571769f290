//! Explains for the log why an op on a bin was refused.
//!
//! A failed op returns only a result code, so that the usual path stays small. The reason is derived later
//! from the op and its bin, if a log wants the line, within a separate budget.

use std::fmt;

use proto::ResultCode;
use proto::message::{Op, op_code};

use crate::budget::Budget;
use crate::explanation::{Explanation, found};
use crate::particle::Particle;
use crate::{bits, cdt, hll};

/// Maximum number of steps for finding a reason. Above it the line has only the result code.
const STEPS_MAX: u64 = 2_000_000;

/// A refused op, its bin, and its result code.
#[derive(Clone, Copy, Debug)]
pub struct RefusedOp<'a> {
    pub op: &'a Op<'a>,
    pub bin: Option<&'a Particle<'a>>,
    pub result: ResultCode,
}

impl RefusedOp<'_> {
    fn explanation(&self) -> Explanation {
        let (op, bin) = (self.op, self.bin);
        let budget = Budget::new(STEPS_MAX);
        let mut explanation = match op.code {
            op_code::CDT_READ | op_code::CDT_MODIFY => {
                cdt::explain(bin, op.value, op.code == op_code::CDT_MODIFY, &budget)
            }
            op_code::BITS_READ => bits::explain_read(bin, op.value),
            op_code::BITS_MODIFY => bits::explain_modify(bin, op.value),
            op_code::HLL_READ => hll::explain_read(bin, op.value),
            op_code::HLL_MODIFY => hll::explain_modify(bin, op.value),
            op_code::EXP_READ | op_code::EXP_MODIFY => {
                let reason = "the expression is not valid, or a bin cannot have its value";
                Explanation::new(scalar_name(op.code).to_owned(), Some(reason.to_owned()))
            }
            code => Explanation::new(scalar_name(code).to_owned(), None),
        };
        let is_in_question = matches!(
            self.result,
            ResultCode::Parameter | ResultCode::IncompatibleType | ResultCode::OpNotApplicable
        );
        if budget.is_exhausted() || !is_in_question {
            explanation.reason = None;
        }
        explanation
    }
}

impl fmt::Display for RefusedOp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explanation { operation, reason, there } = self.explanation();
        let there = there.unwrap_or_else(|| found(self.bin));
        let reason = reason.unwrap_or_else(|| self.by_result(&there));
        let name = self.op.name.escape_ascii();
        write!(f, "{operation}() on bin {name} refused with {}: {reason}", self.result.code())
    }
}

impl RefusedOp<'_> {
    /// The meaning of the result code, if nothing more is known.
    fn by_result(&self, found: &str) -> String {
        match self.result {
            ResultCode::Parameter => format!("an argument or the flags are not valid; {found}"),
            ResultCode::IncompatibleType => format!("a value is not of the type that it takes; {found}"),
            ResultCode::OpNotApplicable => format!("it does not apply to the present value; {found}"),
            ResultCode::BinExists => "the bin exists".to_owned(),
            ResultCode::BinNotFound => "the bin does not exist".to_owned(),
            ResultCode::ElementExists => "the element exists".to_owned(),
            ResultCode::ElementNotFound => "the element does not exist".to_owned(),
            ResultCode::RecordTooBig => "the value would get too large".to_owned(),
            ResultCode::InvalidGeoJson => "the value is no valid GeoJSON".to_owned(),
            result => format!("{result:?}; {found}"),
        }
    }
}

/// The name of an op that has its own op code.
const fn scalar_name(code: u8) -> &'static str {
    match code {
        op_code::READ => "read",
        op_code::WRITE => "write",
        op_code::INCR => "increment",
        op_code::APPEND => "append",
        op_code::PREPEND => "prepend",
        op_code::EXP_READ => "expression_read",
        op_code::EXP_MODIFY => "expression_modify",
        _ => "operation",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::particle::BytesType;

    /// The end of the log line about an op whose value is `payload`.
    fn line(code: u8, bin: Option<&Particle<'_>>, payload: &[u8], result: ResultCode) -> String {
        let op = Op { code, particle_type: 4, name: b"b", value: payload };
        RefusedOp { op: &op, bin, result }.to_string()
    }

    #[track_caller]
    fn check(code: u8, bin: Option<&Particle<'_>>, payload: &[u8], expected: &str) {
        let budget = Budget::unlimited();
        let result = match code {
            op_code::CDT_READ => cdt::read(bin, payload, &budget).map(drop),
            op_code::CDT_MODIFY => cdt::modify(bin, payload, &budget).map(drop),
            op_code::BITS_READ => bits::read(bin, payload, &budget).map(drop),
            op_code::BITS_MODIFY => bits::modify(bin, payload, &budget).map(drop),
            op_code::HLL_READ => hll::read(bin, payload, &budget).map(drop),
            _ => hll::modify(bin, payload, &budget).map(drop),
        };
        let result = result.expect_err(expected);
        assert_eq!(line(code, bin, payload, result), expected);
    }

    #[test]
    fn refused_list_operations_say_why() {
        let (read, modify) = (op_code::CDT_READ, op_code::CDT_MODIFY);
        let list = Particle::owned(BytesType::List, vec![0x93, 1, 2, 3]);
        let ordered = Particle::owned(BytesType::List, vec![0x93, 0xc7, 0, 1, 1, 2]);
        let list = Some(&list);
        let number = Particle::Integer(5);
        for (code, bin, payload, expected) in [
            (
                read,
                list,
                &[0x92, 17, 9][..],
                "list_get_by_index() on bin b refused with 26: index 9 is out of bounds for 3 elements",
            ),
            (
                read,
                list,
                &[0x93, 21, 7, 0xff - 3],
                "list_get_by_rank() on bin b refused with 26: rank -4 is out of bounds for 3 elements",
            ),
            (
                read,
                list,
                &[0x93, 17, 1, 1],
                "list_get_by_index() on bin b refused with 4: it takes 1 argument and has 2",
            ),
            (
                modify,
                list,
                &[0x91, 3],
                "list_insert() on bin b refused with 4: it takes 2 to 3 arguments and has 0",
            ),
            (
                modify,
                Some(&ordered),
                &[0x93, 3, 0, 7],
                "list_insert() on bin b refused with 26: an ordered list does not take it",
            ),
            (
                modify,
                list,
                &[0x93, 12, 0xf9, 1],
                "list_increment() on bin b refused with 26: index -7 is out of bounds for 3 elements",
            ),
            (
                read,
                Some(&number),
                &[0x91, 16],
                "list_size() on bin b refused with 12: it is for a list; the bin is an integer",
            ),
            (
                read,
                list,
                &[0x91, 96],
                "map_size() on bin b refused with 12: it is for a map; there is a list of 3 elements",
            ),
            (read, list, &[0x91, 1], "list_append() on bin b refused with 4: it is no operation that reads"),
            (
                read,
                list,
                &[0x91, 50],
                "cdt_operation_50() on bin b refused with 4: there is no such operation",
            ),
            (
                modify,
                list,
                &[5],
                "cdt_operation() on bin b refused with 4: the request is no list of a code and arguments",
            ),
        ] {
            check(code, bin, payload, expected);
        }
    }

    #[test]
    fn a_context_that_leads_nowhere_says_where_it_ends() {
        // The value is a list in a map: {1: [7]}.
        let map = Particle::owned(BytesType::Map, vec![0x81, 1, 0x91, 7]);
        check(
            op_code::CDT_READ,
            Some(&map),
            &[0x93, 0xcc, 0xff, 0x94, 0x22, 1, 0x10, 5, 0x91, 16],
            "list_size() on bin b refused with 26: step 2 of its context, by index in a list, leads nowhere: there is a list \
             of 1 element",
        );
        check(
            op_code::CDT_READ,
            Some(&map),
            &[0x93, 0xcc, 0xff, 0x94, 0x22, 1, 0x10, 0, 0x91, 16],
            "list_size() on bin b refused with 12: it is for a list; there is an integer",
        );
        check(
            op_code::CDT_MODIFY,
            Some(&map),
            &[0x93, 0xcc, 0xff, 0x92, 0x10, 0, 0x92, 1, 7],
            "list_append() on bin b refused with 26: step 1 of its context, by index in a list, leads nowhere: there is a map \
             of 1 element",
        );
    }

    #[test]
    fn refused_bit_and_hll_operations_say_why() {
        let blob = Particle::owned(BytesType::Blob, vec![1, 2]);
        let number = Particle::Integer(5);
        let (read, modify) = (op_code::BITS_READ, op_code::BITS_MODIFY);
        for (code, bin, payload, expected) in [
            (
                read,
                &blob,
                &[0x93, 50, 12, 8][..],
                "bits_get() on bin b refused with 26: 8 bits from bit 12 are out of bounds for 2 bytes",
            ),
            (
                modify,
                &number,
                &[0x92, 0, 3],
                "bits_resize() on bin b refused with 12: it is for a blob; the bin is an integer",
            ),
            (
                modify,
                &blob,
                &[0x91, 99],
                "bits_operation() on bin b refused with 4: there is no such operation, or an argument is out of its bounds",
            ),
        ] {
            check(code, Some(bin), payload, expected);
        }
        check(
            op_code::HLL_READ,
            Some(&number),
            &[0x91, 50],
            "hll_count() on bin b refused with 12: it is for a HyperLogLog; the bin is an integer",
        );
        check(
            op_code::HLL_MODIFY,
            Some(&number),
            &[0x91, 77],
            "hll_operation() on bin b refused with 4: there is no such operation",
        );
    }

    #[test]
    fn other_ops_say_what_their_result_code_means() {
        assert_eq!(
            line(op_code::INCR, Some(&Particle::Bool(true)), &[], ResultCode::IncompatibleType),
            "increment() on bin b refused with 12: a value is not of the type that it takes; the bin is a boolean"
        );
    }
}

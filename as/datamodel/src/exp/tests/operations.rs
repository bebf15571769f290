//! Expressions as read and modify operations, and their flags.

use proto::ResultCode;

use super::packed::{NIL, Packed, bin, exp, list, quoted, raw};
use super::{CIRCLE, bins, modify, read, record, text};
use crate::budget::Budget;
use crate::change::Change;
use crate::exp::flags;
use crate::particle::{BytesType, Particle};

fn read_of(expression: Packed, flags: i64) -> Result<Option<Particle<'static>>, ResultCode> {
    let mut result = Ok(None);
    record(&bins(), |record| result = read(record, &list(&[expression, flags.into()]).0));
    result
}

/// The change of a bin that is set to the value of an expression.
fn modify_of(expression: Packed, flags: u64, bin_exists: bool) -> Result<Change, ResultCode> {
    let mut result = Ok(Change::Unchanged);
    let flags = flags.cast_signed();
    record(&bins(), |record| result = modify(record, bin_exists, &list(&[expression, flags.into()]).0));
    result
}

#[test]
fn values_of_every_type_are_read() {
    for (expression, value) in [
        (exp!(20, bin(2, "i"), 1), Particle::Integer(6)),
        (exp!(20, bin(7, "f"), 1.0), Particle::Float(2.5)),
        (exp!(18, bin(1, "t")), Particle::Bool(false)),
        (bin(3, "s"), text("abc")),
        (exp!(70), text("people")),
        (raw(4, &[1, 2]), Particle::owned(BytesType::Blob, vec![1, 2])),
        (quoted(&[1.into()]), Particle::owned(BytesType::List, vec![0x91, 1])),
        (Packed(vec![0x81, 1, 2]), Particle::owned(BytesType::Map, vec![0x81, 1, 2])),
        (bin(4, "l"), Particle::owned(BytesType::List, vec![0x93, 1, 2, 3])),
    ] {
        assert_eq!(read_of(expression, 0), Ok(Some(value)));
    }
    let stored =
        Particle::owned(BytesType::GeoJson, crate::geojson::from_json(CIRCLE, &Budget::unlimited()).unwrap());
    assert_eq!(read_of(raw(23, CIRCLE), 0), Ok(Some(stored.clone())));
    let element = exp!(127, 8, 0, list(&[19.into(), 7.into(), 0.into()]), quoted(&[raw(23, CIRCLE)]));
    assert_eq!(read_of(element, 0), Ok(Some(stored)));
    assert_eq!(read_of(Packed(NIL.to_vec()), 0), Ok(None));
}

#[test]
fn unknown_values_cannot_be_read_unless_that_is_allowed() {
    let no_fail = flags::EVAL_NO_FAIL.cast_signed();
    assert_eq!(read_of(bin(2, "none"), 0), Err(ResultCode::OpNotApplicable));
    assert_eq!(read_of(bin(2, "none"), no_fail), Ok(None));
    assert_eq!(read_of(exp!(23, 1, 0), 0), Err(ResultCode::OpNotApplicable));
    assert_eq!(read_of(exp!(99), no_fail), Err(ResultCode::Parameter));
    assert_eq!(read_of(1.into(), no_fail | 1), Err(ResultCode::Parameter), "only for modify operations");
}

#[test]
fn an_operation_is_an_expression_and_flags() {
    record(&bins(), |record| {
        let seven = || Packed::from(7);
        assert_eq!(read(record, &list(&[seven()]).0), Ok(Some(Particle::Integer(7))));
        assert_eq!(read(record, &list(&[seven(), "no flags".into()]).0), Ok(Some(Particle::Integer(7))));
        for bad in [list(&[]), list(&[seven(), 0.into(), 0.into()]), seven(), Packed(vec![0x92, 0x93])] {
            assert_eq!(read(record, &bad.0), Err(ResultCode::Parameter), "{bad:x?}");
        }
    });
}

#[test]
fn bins_are_set_created_and_deleted_as_flags_allow() {
    use flags::{ALLOW_DELETE, CREATE_ONLY, EVAL_NO_FAIL, POLICY_NO_FAIL, UPDATE_ONLY};
    let seven = || Packed::from(7);
    let nil = || Packed(NIL.to_vec());
    let set = || Ok(Change::Set(Particle::Integer(7)));
    assert_eq!(modify_of(seven(), 0, true), set());
    assert_eq!(modify_of(seven(), 0, false), set());
    assert_eq!(modify_of(seven(), CREATE_ONLY, false), set());
    assert_eq!(modify_of(seven(), CREATE_ONLY, true), Err(ResultCode::BinExists));
    assert_eq!(modify_of(seven(), CREATE_ONLY | POLICY_NO_FAIL, true), Ok(Change::Unchanged));
    assert_eq!(modify_of(seven(), UPDATE_ONLY, true), set());
    assert_eq!(modify_of(seven(), UPDATE_ONLY, false), Err(ResultCode::BinNotFound));
    assert_eq!(modify_of(seven(), UPDATE_ONLY | POLICY_NO_FAIL, false), Ok(Change::Unchanged));
    assert_eq!(modify_of(seven(), 32, false), Err(ResultCode::Parameter));

    assert_eq!(modify_of(nil(), 0, true), Err(ResultCode::OpNotApplicable));
    assert_eq!(modify_of(nil(), ALLOW_DELETE, true), Ok(Change::Removed));
    assert_eq!(modify_of(nil(), POLICY_NO_FAIL, true), Ok(Change::Unchanged));
    assert_eq!(modify_of(nil(), UPDATE_ONLY, true), Ok(Change::Unchanged), "any flag forgives");
    assert_eq!(modify_of(nil(), 0, false), Ok(Change::Unchanged));
    assert_eq!(modify_of(nil(), ALLOW_DELETE, false), Ok(Change::Unchanged));

    assert_eq!(modify_of(exp!(0), 0, true), Err(ResultCode::OpNotApplicable));
    assert_eq!(modify_of(exp!(0), POLICY_NO_FAIL, true), Err(ResultCode::OpNotApplicable));
    assert_eq!(modify_of(exp!(0), EVAL_NO_FAIL, true), Ok(Change::Unchanged));
}

#[test]
fn a_call_on_nil_makes_a_value() {
    let append = exp!(127, 4, 0x40, list(&[1.into(), 7.into()]), Packed(NIL.to_vec()));
    let made = Change::Set(Particle::owned(BytesType::List, vec![0x91, 7]));
    assert_eq!(modify_of(append, 0, false), Ok(made));
}

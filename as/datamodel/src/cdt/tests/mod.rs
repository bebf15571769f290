//! Compares lists and maps with models over vectors, and tests them with invalid bytes.
//!
//! A run starts from a seed. A bin gets one operation after another, with contexts that lead into its value,
//! and so does a naive model. After each operation the answers and the values must agree, and the stored
//! bytes must equal those of a writer that starts from scratch, index included. The order of an answer with
//! several elements is not compared here; the conformance corpora compare it to the byte.

mod damage;
mod hostile;
mod list_model;
mod map_model;
mod value;

use std::borrow::Cow;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proto::ResultCode;

use self::value::{Random, Value};
use super::container::{Container, Shape};
use super::layout::Layout;
use crate::budget::{Budget, unlimited};
use crate::change::{Change, Modified};
use crate::particle::{BytesType, Particle};

/// The operation, with and without a limit of its budget.
fn read(bin: Option<&Particle<'_>>, payload: &[u8]) -> Result<Option<Particle<'static>>, ResultCode> {
    unlimited(|budget| super::read(bin, payload, budget))
}

/// The operation, with and without a limit of its budget.
fn modify(bin: Option<&Particle<'_>>, payload: &[u8]) -> Result<Modified, ResultCode> {
    unlimited(|budget| super::modify(bin, payload, budget))
}

fn list_from_wire(bytes: &[u8]) -> Result<Cow<'_, [u8]>, ResultCode> {
    unlimited(|budget| super::list_from_wire(bytes, budget))
}

fn map_from_wire(bytes: &[u8]) -> Result<Cow<'_, [u8]>, ResultCode> {
    unlimited(|budget| super::map_from_wire(bytes, budget))
}

/// The model's answer to an operation, or its error.
type Expected = Result<Value, ResultCode>;

/// An operation in its wire form, for a container of either shape.
struct CdtOperation {
    call: Vec<Value>,
    modifies: bool,
}

/// A step of a context, with its argument.
#[derive(Debug)]
struct Step {
    number: i64,
    argument: Value,
}

/// A random path into `value`, and the value at its end.
fn way_into<'v>(random: &mut Random, value: &'v mut Value, steps: &mut Vec<Step>) -> &'v mut Value {
    let inner_containers = value.container_positions();
    if inner_containers.is_empty() || random.below(3) == 0 {
        return value;
    }
    let position = *random.pick(&inner_containers);
    let step = value.step_to(random, position);
    steps.push(step);
    way_into(random, value.element_mut(position), steps)
}

fn payload(steps: &[Step], call: &[Value]) -> Vec<u8> {
    if steps.is_empty() {
        return Value::list(call.to_vec()).packed();
    }
    let context = steps.iter().flat_map(|step| [Value::Int(step.number), step.argument.clone()]).collect();
    Value::list(vec![Value::Int(0xff), Value::list(context), Value::list(call.to_vec())]).packed()
}

/// Applies `payload`. Returns the answer, and the bin afterwards.
fn carry_out(
    bin: Option<Particle<'static>>,
    payload: &[u8],
    modifies: bool,
) -> (Result<Value, ResultCode>, Option<Particle<'static>>) {
    let answer_of =
        |answer: Option<Particle<'_>>| answer.map_or(Value::Nil, |answer| Value::of_particle(&answer));
    if !modifies {
        return (read(bin.as_ref(), payload).map(answer_of), bin);
    }
    match modify(bin.as_ref(), payload) {
        Err(code) => (Err(code), bin),
        Ok(modified) => {
            let bin = match modified.bin {
                Change::Unchanged => bin,
                Change::Set(particle) => Some(particle),
                Change::Removed => None,
            };
            (Ok(answer_of(modified.result)), bin)
        }
    }
}

/// Checks that the stored bytes of a list or map equal those that a writer makes for its flags and contents.
fn assert_well_stored(bin: &Particle<'_>) {
    let (shape, bytes) = match bin {
        Particle::Bytes(BytesType::List, bytes) => (Shape::List, bytes),
        Particle::Bytes(BytesType::Map, bytes) => (Shape::Map, bytes),
        other => panic!("{other:?}"),
    };
    let budget = Budget::unlimited();
    let container = Container::parse(shape, bytes, &budget).unwrap();
    let layout = Layout {
        shape,
        flags: container.flags,
        count: container.count,
        contents_len: container.contents.len(),
        is_top: true,
    };
    let mut written = layout.begin(&budget).unwrap();
    written.extend_from_slice(container.contents);
    assert_eq!(layout.seal(written, &budget).unwrap(), **bytes, "the index fits the contents");
}

fn run(seed: u64, operations: usize) {
    let mut random = Random::new(seed);
    let mut model = Value::random_container(&mut random);
    let mut bin = Some(model.stored(&mut random));
    for number in 0..operations {
        let mut steps = Vec::new();
        let mut changed = model.clone();
        let target = way_into(&mut random, &mut changed, &mut steps);
        let (operation, expected) = match target {
            Value::List(list) => list_model::operation(&mut random, list),
            Value::Map(map) => map_model::operation(&mut random, map),
            _ => unreachable!("only containers are gone into"),
        };
        let bytes = payload(&steps, &operation.call);
        let before = model.clone();
        let what =
            || format!("seed {seed} operation {number}: {:?} at {:?} on {before:?}", operation.call, steps);
        let (answer, after) = carry_out(bin.clone(), &bytes, operation.modifies);
        let answer = answer.map(Value::with_order_undone);
        assert_eq!(answer, expected.clone().map(Value::with_order_undone), "{}", what());
        if expected.is_ok() && operation.modifies {
            changed.restore_order();
            model = changed;
        }
        bin = after;
        let particle = bin.as_ref().unwrap();
        let value = Value::of_particle(particle);
        assert_eq!(value.clone().with_ties_undone(), model.with_ties_undone(), "{}", what());
        model = value;
        assert_well_stored(particle);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6_000))]

    /// Runs 240,000 operations, more than 100,000 each on lists and on maps.
    #[test]
    fn operations_agree_with_the_models(seed: u64) {
        run(seed, 40);
    }
}

/// A new operation must be added to one of the models too.
#[test]
fn the_models_have_every_operation() {
    let mut random = Random::new(1);
    let mut codes = BTreeSet::new();
    for _ in 0..20_000 {
        let operation = match Value::random_container(&mut random) {
            Value::List(mut list) => list_model::operation(&mut random, &mut list).0,
            Value::Map(mut map) => map_model::operation(&mut random, &mut map).0,
            _ => unreachable!("these are the containers"),
        };
        let Value::Int(code) = operation.call[0] else { panic!("a call begins with its code") };
        codes.insert(code as u32);
    }
    assert_eq!(codes, super::call::codes().collect());
}

//! Compares random expressions with a naive interpreter.
//!
//! The model evaluates a tree by recursion. It always evaluates every operand, and treats unknown as an
//! ordinary value. The tests compare the value of a read operation, so they cover compilation, jumps,
//! handlers, variables and calls.

use std::cmp::Ordering;

use proptest::prelude::*;
use proto::ResultCode;

use super::packed::{Packed, bin, exp, list, name, quoted};
use super::{bins, metadata, read, record};
use crate::budget::Budget;
use crate::exp::value::Value as Evaluated;
use crate::exp::{Expression, Filter, Truth, View};
use crate::particle::{BytesType, Particle};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Bool,
    Integer,
    Float,
    Text,
    List,
}

const KINDS: [Kind; 5] = [Kind::Bool, Kind::Integer, Kind::Float, Kind::Text, Kind::List];

#[derive(Clone, PartialEq, Debug)]
enum Value {
    Unknown,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(&'static str),
    /// A list of small integers.
    List(Vec<u8>),
}

#[derive(Clone, Debug)]
enum Tree {
    Literal(Value),
    Unknown,
    Bin(Kind, &'static str),
    /// Code and operands.
    Operator(i64, Vec<Tree>),
    Cond(Vec<(Tree, Tree)>, Box<Tree>),
    Let(Vec<Tree>, Box<Tree>, usize),
    /// Variable number `n` of those in scope.
    Var(usize),
    Size(Box<Tree>),
    /// A list and the integer to append to it.
    Append(Box<Tree>, Box<Tree>),
}

/// A source of choices.
struct Choices(u64);

impl Choices {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A tree of this kind. `variables` are the kinds of the variables in scope, `None` for those that cannot be
/// used.
fn tree(choices: &mut Choices, kind: Kind, depth: usize, variables: &mut Vec<Option<Kind>>) -> Tree {
    if depth == 0 || choices.below(6) == 0 {
        return leaf(choices, kind, variables);
    }
    let depth = depth - 1;
    match choices.below(10) {
        0 => {
            let mut case =
                || (tree(choices, Kind::Bool, depth, variables), tree(choices, kind, depth, variables));
            let cases = vec![case(), case()];
            let default = match choices.below(3) {
                0 => Tree::Unknown,
                _ => tree(choices, kind, depth, variables),
            };
            Tree::Cond(cases, Box::new(default))
        }
        1 => {
            let first = variables.len();
            let mut values = Vec::new();
            for _ in 0..=choices.below(2) {
                let kind = choices.of(&KINDS);
                // During the definition of a variable its name is taken, but cannot be used.
                let mut inside = variables.clone();
                inside.push(None);
                values.push(tree(choices, kind, depth, &mut inside));
                variables.push(Some(kind));
            }
            let body = tree(choices, kind, depth, variables);
            variables.truncate(first);
            Tree::Let(values, Box::new(body), first)
        }
        _ => operator(choices, kind, depth, variables),
    }
}

fn leaf(choices: &mut Choices, kind: Kind, variables: &[Option<Kind>]) -> Tree {
    let in_scope: Vec<usize> = (0..variables.len()).filter(|at| variables[*at] == Some(kind)).collect();
    if !in_scope.is_empty() && choices.below(2) == 0 {
        return Tree::Var(choices.of(&in_scope));
    }
    if choices.below(3) == 0 {
        return Tree::Bin(kind, choices.of(&["i", "f", "t", "s", "l", "none"]));
    }
    Tree::Literal(match kind {
        Kind::Bool => Value::Bool(choices.below(2) == 0),
        Kind::Integer => Value::Integer(choices.of(&[0, 1, -1, 2, 7, 63, 64, i64::MAX, i64::MIN])),
        Kind::Float => Value::Float(choices.of(&[0.0, -0.0, 1.5, -2.25, 1e300, f64::INFINITY])),
        Kind::Text => Value::Text(choices.of(&["", "a", "abc", "b"])),
        Kind::List => Value::List((0..choices.below(4)).map(|_| choices.below(4) as u8).collect()),
    })
}

fn operator(choices: &mut Choices, kind: Kind, depth: usize, variables: &mut Vec<Option<Kind>>) -> Tree {
    let (code, kinds) = match kind {
        Kind::Bool => match choices.below(3) {
            0 => {
                let kind = choices.of(&KINDS);
                (choices.of(&[1, 2, 3, 4, 5, 6]), vec![kind; 2])
            }
            1 => (18, vec![Kind::Bool]),
            _ => (choices.of(&[16, 17, 19]), vec![Kind::Bool; 2 + choices.below(3)]),
        },
        Kind::Integer => match choices.below(6) {
            0 => (choices.of(&[26, 36, 37, 38]), vec![Kind::Integer; 2]),
            1 => (choices.of(&[27, 35, 39]), vec![Kind::Integer]),
            2 => (choices.of(&[40, 41]), vec![Kind::Integer, Kind::Bool]),
            3 => (30, vec![Kind::Float]),
            4 => return Tree::Size(Box::new(tree(choices, Kind::List, depth, variables))),
            _ => {
                let code = choices.of(&[20, 21, 22, 23, 32, 33, 34, 50, 51]);
                (code, vec![Kind::Integer; 1 + choices.below(4)])
            }
        },
        Kind::Float => match choices.below(3) {
            0 => (31, vec![Kind::Integer]),
            1 => (choices.of(&[27, 28, 29]), vec![Kind::Float]),
            _ => (choices.of(&[20, 21, 22, 23, 50, 51]), vec![Kind::Float; 1 + choices.below(4)]),
        },
        Kind::Text => return leaf(choices, kind, variables),
        Kind::List => {
            let to = tree(choices, Kind::List, depth, variables);
            // Values are small, so that the list stays a list of small integers.
            let value = Tree::Literal(Value::Integer(choices.below(4) as i64));
            let value = match choices.below(3) {
                0 => value,
                1 => Tree::Operator(20, vec![value]),
                _ => Tree::Cond(
                    vec![(tree(choices, Kind::Bool, depth, variables), value)],
                    Box::new(Tree::Literal(Value::Integer(9))),
                ),
            };
            return Tree::Append(Box::new(to), Box::new(value));
        }
    };
    Tree::Operator(code, kinds.into_iter().map(|kind| tree(choices, kind, depth, variables)).collect())
}

fn variable(at: usize) -> Packed {
    name(&format!("v{at}"))
}

fn packed_list(values: &[u8]) -> Packed {
    quoted(&values.iter().map(|value| i64::from(*value).into()).collect::<Vec<_>>())
}

impl Tree {
    fn pack(&self) -> Packed {
        match self {
            Tree::Literal(value) => match value {
                Value::Unknown => exp!(0),
                Value::Bool(value) => (*value).into(),
                Value::Integer(value) => (*value).into(),
                Value::Float(value) => (*value).into(),
                Value::Text(value) => (*value).into(),
                Value::List(values) => packed_list(values),
            },
            Tree::Unknown => exp!(0),
            Tree::Bin(kind, name) => {
                let number = match kind {
                    Kind::Bool => 1,
                    Kind::Integer => 2,
                    Kind::Text => 3,
                    Kind::List => 4,
                    Kind::Float => 7,
                };
                bin(number, name)
            }
            Tree::Operator(code, operands) => {
                let mut elements = vec![Packed::from(*code)];
                elements.extend(operands.iter().map(Tree::pack));
                list(&elements)
            }
            Tree::Cond(cases, default) => {
                let mut elements = vec![Packed::from(123)];
                elements.extend(cases.iter().flat_map(|(condition, value)| [condition.pack(), value.pack()]));
                elements.push(default.pack());
                list(&elements)
            }
            Tree::Let(values, body, first) => {
                let mut elements = vec![Packed::from(125)];
                for (value, at) in values.iter().zip(*first..) {
                    elements.extend([variable(at), value.pack()]);
                }
                elements.push(body.pack());
                list(&elements)
            }
            Tree::Var(at) => exp!(124, variable(*at)),
            Tree::Size(of) => exp!(127, 2, 0, list(&[16.into()]), of.pack()),
            Tree::Append(to, value) => {
                exp!(127, 4, 0x40, list(&[1.into(), value.pack()]), to.pack())
            }
        }
    }

    fn value(&self, variables: &mut Vec<Value>) -> Value {
        match self {
            Tree::Literal(value) => value.clone(),
            Tree::Unknown => Value::Unknown,
            Tree::Bin(kind, name) => match (kind, *name) {
                (Kind::Integer, "i") => Value::Integer(5),
                (Kind::Float, "f") => Value::Float(1.5),
                (Kind::Bool, "t") => Value::Bool(true),
                (Kind::Text, "s") => Value::Text("abc"),
                (Kind::List, "l") => Value::List(vec![1, 2, 3]),
                _ => Value::Unknown,
            },
            Tree::Operator(code, operands) => {
                let operands: Vec<Value> = operands.iter().map(|operand| operand.value(variables)).collect();
                operate(*code, &operands)
            }
            Tree::Cond(cases, default) => {
                for (condition, value) in cases {
                    match condition.value(variables) {
                        Value::Bool(true) => return value.value(variables),
                        Value::Bool(false) => {}
                        _ => return Value::Unknown,
                    }
                }
                default.value(variables)
            }
            Tree::Let(values, body, first) => {
                assert_eq!(variables.len(), *first);
                for value in values {
                    let mut inside = variables.clone();
                    inside.push(Value::Unknown);
                    let value = value.value(&mut inside);
                    variables.push(value);
                }
                let value = body.value(variables);
                variables.truncate(*first);
                value
            }
            Tree::Var(at) => variables[*at].clone(),
            Tree::Size(of) => match of.value(variables) {
                Value::List(values) => Value::Integer(values.len() as i64),
                _ => Value::Unknown,
            },
            Tree::Append(to, value) => match (to.value(variables), value.value(variables)) {
                (Value::List(mut values), Value::Integer(value)) => {
                    values.push(value as u8);
                    Value::List(values)
                }
                _ => Value::Unknown,
            },
        }
    }
}

fn operate(code: i64, operands: &[Value]) -> Value {
    let has_unknown = operands.contains(&Value::Unknown);
    let truths = |wanted| operands.iter().filter(|operand| **operand == Value::Bool(wanted)).count();
    match code {
        16 if truths(false) != 0 => return Value::Bool(false),
        17 if truths(true) != 0 => return Value::Bool(true),
        19 => {
            // The second true operand decides the result, unless an unknown operand precedes it.
            let mut true_count = 0;
            for operand in operands {
                match operand {
                    Value::Bool(value) => true_count += usize::from(*value),
                    _ => return Value::Unknown,
                }
                if true_count == 2 {
                    return Value::Bool(false);
                }
            }
            return Value::Bool(true_count == 1);
        }
        _ if has_unknown => return Value::Unknown,
        16 => return Value::Bool(true),
        17 => return Value::Bool(false),
        _ => {}
    }
    match operands {
        [left, right] if (1..=6).contains(&code) => compare(code, left, right),
        [Value::Bool(value)] => Value::Bool(!value),
        [Value::Integer(_), ..] => integers(code, operands).map_or(Value::Unknown, Value::Integer),
        [Value::Float(value)] if code == 30 => {
            let is_integer = *value >= -(2f64.powi(63)) && *value < 2f64.powi(63);
            Value::Integer(if is_integer { value.trunc() as i64 } else { i64::MIN })
        }
        [Value::Float(_), ..] => Value::Float(floats(code, operands)),
        _ => panic!("{code} {operands:?}"),
    }
    .or_float(code, operands)
}

impl Value {
    /// The only operator from integers to floats.
    fn or_float(self, code: i64, operands: &[Value]) -> Value {
        match (code, operands) {
            (31, [Value::Integer(value)]) => Value::Float(*value as f64),
            _ => self,
        }
    }
}

fn compare(code: i64, left: &Value, right: &Value) -> Value {
    let order = match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left.partial_cmp(right),
        (Value::Integer(left), Value::Integer(right)) => left.partial_cmp(right),
        (Value::Float(left), Value::Float(right)) => left.partial_cmp(right),
        (Value::Text(left), Value::Text(right)) => left.partial_cmp(right),
        (Value::List(left), Value::List(right)) => left.partial_cmp(right),
        _ => panic!("{left:?} {right:?}"),
    };
    Value::Bool(match code {
        1 => order == Some(Ordering::Equal),
        2 => order != Some(Ordering::Equal),
        3 => order == Some(Ordering::Greater),
        4 => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        5 => order == Some(Ordering::Less),
        _ => matches!(order, Some(Ordering::Less | Ordering::Equal)),
    })
}

fn integers(code: i64, operands: &[Value]) -> Option<i64> {
    let wide: Vec<i128> = operands
        .iter()
        .map(|operand| match operand {
            Value::Integer(value) => i128::from(*value),
            Value::Bool(value) => i128::from(*value),
            other => panic!("{other:?}"),
        })
        .collect();
    let first = wide[0];
    let bits = first as u64;
    let rest = || wide[1..].iter().copied();
    let distance = || (wide[1] & 63) as u32;
    let wrapped_product =
        |of: &[i128]| of.iter().fold(1i128, |product, value| i128::from((product * value) as i64));
    let wide = match code {
        20 => wide.iter().sum(),
        21 if wide.len() == 1 => -first,
        21 => first - rest().sum::<i128>(),
        22 => wrapped_product(&wide),
        23 => {
            let (dividend, divisor) = match wide.len() {
                1 => (1, first),
                _ => (first, wrapped_product(&wide[1..])),
            };
            dividend.checked_div(divisor)?
        }
        26 => first.checked_rem(wide[1])?,
        27 => first.abs(),
        31 => 0,
        32 => rest().fold(first, |all, value| all & value),
        33 => rest().fold(first, |all, value| all | value),
        34 => rest().fold(first, |all, value| all ^ value),
        35 => !first,
        36 => i128::from(bits << distance()),
        37 => i128::from(bits >> distance()),
        38 => first >> distance(),
        39 => i128::from(bits.count_ones()),
        40 | 41 => {
            let wanted = wide[1] == 1;
            let mut found = (0..64).filter(|at| (bits >> (63 - at) & 1 == 1) == wanted);
            let at = if code == 40 { found.next() } else { found.next_back() };
            at.unwrap_or(-1)
        }
        50 => wide.iter().copied().min()?,
        51 => wide.iter().copied().max()?,
        _ => panic!("{code}"),
    };
    Some(wide as i64)
}

fn floats(code: i64, operands: &[Value]) -> f64 {
    let values: Vec<f64> = operands
        .iter()
        .map(|operand| match operand {
            Value::Float(value) => *value,
            other => panic!("{other:?}"),
        })
        .collect();
    let (first, rest) = (values[0], &values[1..]);
    match code {
        20 => rest.iter().fold(first, |sum, value| sum + value),
        21 if rest.is_empty() => 0.0 - first,
        21 => rest.iter().fold(first, |difference, value| difference - value),
        22 => rest.iter().fold(first, |product, value| product * value),
        23 if rest.is_empty() => 1.0 / first,
        23 => first / rest.iter().fold(1.0, |product, value| product * value),
        27 => first.abs(),
        28 => first.floor(),
        29 => first.ceil(),
        50 => rest.iter().fold(first, |least, value| if least > *value { *value } else { least }),
        51 => rest.iter().fold(first, |most, value| if most < *value { *value } else { most }),
        _ => panic!("{code}"),
    }
}

fn particle(value: Value) -> Result<Option<Particle<'static>>, ResultCode> {
    Ok(Some(match value {
        Value::Unknown => return Err(ResultCode::OpNotApplicable),
        Value::Bool(value) => Particle::Bool(value),
        Value::Integer(value) => Particle::Integer(value),
        Value::Float(value) => Particle::Float(value),
        Value::Text(value) => super::text(value),
        Value::List(values) => {
            let values: Vec<Packed> = values.iter().map(|value| i64::from(*value).into()).collect();
            Particle::owned(BytesType::List, list(&values).0)
        }
    }))
}

/// Equality in which a NaN equals a NaN.
fn is_same(
    left: &Result<Option<Particle<'_>>, ResultCode>,
    right: &Result<Option<Particle<'_>>, ResultCode>,
) -> bool {
    match (left, right) {
        (Ok(Some(Particle::Float(left))), Ok(Some(Particle::Float(right)))) => {
            left.to_bits() == right.to_bits() || left.is_nan() && right.is_nan()
        }
        _ => left == right,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn values_are_those_of_the_model(seed: u64, depth in 1usize..6, kind in 0usize..5) {
        let tree = tree(&mut Choices(seed), KINDS[kind], depth, &mut Vec::new());
        let expected = particle(tree.value(&mut Vec::new()));
        let packed = tree.pack();
        let mut result = Ok(None);
        record(&bins(), |record| result = read(record, &list(std::slice::from_ref(&packed)).0));
        prop_assert!(is_same(&result, &expected), "{tree:?}: {result:?} {expected:?}");
    }

    #[test]
    fn a_result_from_metadata_is_the_result_for_the_record(seed: u64, depth in 1usize..6) {
        let tree = tree(&mut Choices(seed), Kind::Bool, depth, &mut Vec::new());
        let packed = tree.pack();
        let filter = Filter::compile(&packed.0, &Budget::unlimited()).unwrap();
        let mut after = false;
        record(&bins(), |record| after = filter.matches(record, &Budget::unlimited()));
        prop_assert_eq!(after, tree.value(&mut Vec::new()) == Value::Bool(true));
        match filter.matches_metadata(&metadata(), &Budget::unlimited()) {
            Truth::Unknown => {}
            known => prop_assert_eq!(known == Truth::True, after),
        }
        let owned = filter.into_owned();
        record(&bins(), |record| assert_eq!(owned.matches(record, &Budget::unlimited()), after));
    }

    #[test]
    fn open_expressions_are_unknown_from_metadata(seed: u64, depth in 1usize..6, kind in 0usize..5) {
        let packed = tree(&mut Choices(seed), KINDS[kind], depth, &mut Vec::new()).pack();
        let expression = Expression::compile(&packed.0, &Budget::unlimited()).unwrap();
        let metadata = metadata();
        let budget = Budget::unlimited();
        let value = expression.evaluate(View::Metadata(&metadata), &budget);
        prop_assert!(!expression.is_open || matches!(value, Evaluated::Unknown), "{packed:?}: {value:?}");
    }
}

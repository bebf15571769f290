//! Explains why a list or map operation was refused. It repeats the steps of the operation up to the one that
//! fails.

use cf::msgpack::{Head, Reader, put_list_header};

use super::call::{Arguments, CONTEXT_EVAL, Call, CdtOperation, Selector, selection};
use super::container::{Header, Shape, flags};
use super::path::{Path, step_name};
use super::top_container;
use super::window::Window;
use crate::budget::Budget;
use crate::explanation::{Explanation, found, snake_case};
use crate::particle::Particle;

/// Explains why operation `payload` was refused for a bin.
pub(crate) fn explain(
    bin: Option<&Particle<'_>>,
    payload: &[u8],
    modifies: bool,
    budget: &Budget<'_>,
) -> Explanation {
    let Ok(outer) = Call::parse(payload, budget) else {
        let reason = "the request is no list of a code and arguments";
        return Explanation::new("cdt_operation".to_owned(), Some(reason.to_owned()));
    };
    if outer.code != CONTEXT_EVAL {
        let stored = bin.and_then(top_container).map(|(_, bytes)| bytes);
        let reason = reason(&outer, stored, bin, modifies);
        return Explanation { operation: name(&outer), reason, there: stored.map(describe) };
    }
    let mut inner = None;
    let reason = context_reason(&outer, bin, modifies, &mut inner, budget);
    Explanation::new(inner.as_ref().map_or_else(|| "cdt_operation".to_owned(), name), reason)
}

/// The reason why a call with a context was refused. `inner` gets the call after the context.
fn context_reason<'a>(
    outer: &Call<'a>,
    bin: Option<&'a Particle<'_>>,
    modifies: bool,
    inner: &mut Option<Call<'a>>,
    budget: &'a Budget<'a>,
) -> Option<String> {
    let Ok(context) = outer.context() else {
        return Some("it takes a context and a call".to_owned());
    };
    let mut after = context;
    let steps = after.value_metered(budget)?;
    *inner = Call::from_reader(after, false, budget);
    let stored = match bin {
        None => None,
        Some(bin) => match top_container(bin) {
            Some((_, bytes)) => Some(bytes),
            None => return Some(format!("a context is for a list or map; {}", found(Some(bin)))),
        },
    };
    if let Some(reason) = failing_step(steps, stored, modifies, budget) {
        return Some(reason);
    }
    let call = inner.as_ref()?;
    let (path, _) = Path::walk(stored, &mut Reader::new(steps), modifies, budget).ok()?;
    reason(call, path.target(), bin, modifies)
}

/// The step of a context that leads nowhere.
fn failing_step(steps: &[u8], stored: Option<&[u8]>, modifies: bool, budget: &Budget<'_>) -> Option<String> {
    if Path::walk(stored, &mut Reader::new(steps), modifies, budget).is_ok() {
        return None;
    }
    let mut reader = Reader::new(steps);
    let count = reader.list_header().filter(|count| *count != 0 && count % 2 == 0);
    let Some(count) = count else { return Some("its context is no list of pairs".to_owned()) };
    let rest = reader.rest();
    let mut there = stored;
    for step in 1..=count / 2 {
        let mut prefix = Vec::with_capacity(steps.len());
        put_list_header(&mut prefix, step * 2);
        prefix.extend_from_slice(rest);
        budget.draw_for(prefix.len()).ok()?;
        let number = reader.integer();
        reader.skip_metered(1, budget);
        let target = Path::walk(stored, &mut Reader::new(&prefix), modifies, budget)
            .map(|(path, _)| path.target().map(|target| (target.as_ptr() as usize, target.len())));
        let Ok(target) = target else {
            let name = number.map_or("which is no number", step_name);
            let there = there.map_or_else(|| "nothing is there".to_owned(), describe);
            return Some(format!("step {step} of its context, {name}, leads nowhere: {there}"));
        };
        // The target outlives the prefix because it is part of the stored value.
        there = target.zip(stored).and_then(|((start, len), stored)| {
            let start = start.checked_sub(stored.as_ptr() as usize)?;
            stored.get(start..start + len)
        });
    }
    None
}

/// The reason why the list or map in `stored` refused a call. `bin` is the whole bin.
fn reason(
    call: &Call<'_>,
    stored: Option<&[u8]>,
    bin: Option<&Particle<'_>>,
    modifies: bool,
) -> Option<String> {
    let Ok((operation, arguments)) = call.operation(modifies) else {
        return Some(match call.operation(!modifies) {
            Ok(_) => format!("it is no operation that {}", if modifies { "modifies" } else { "reads" }),
            Err(_) => "there is no such operation".to_owned(),
        });
    };
    let shape = if call.is_for_list() { Shape::List } else { Shape::Map };
    let container = match stored {
        None if bin.is_some_and(|bin| top_container(bin).is_none()) => {
            return Some(format!("it is for a {}; {}", word(shape), found(bin)));
        }
        None => None,
        Some(bytes) => match Header::parse(shape, bytes) {
            Some(header) => Some(header),
            None => return Some(format!("it is for a {}; {}", word(shape), describe(bytes))),
        },
    };
    if let Err((least, most, count)) = arguments.checked_counts() {
        let takes = if least == most { least.to_string() } else { format!("{least} to {most}") };
        let plural = if most == 1 { "" } else { "s" };
        return Some(format!("it takes {takes} argument{plural} and has {count}"));
    }
    let count = container.map_or(0, |container| container.count);
    out_of_bounds(operation, arguments, count).or_else(|| {
        let is_ordered = container.is_some_and(|list| list.flags & flags::ORDERED != 0);
        let is_placed = matches!(
            operation,
            CdtOperation::ListInsert | CdtOperation::ListInsertItems | CdtOperation::ListSet
        );
        (is_placed && is_ordered).then(|| "an ordered list does not take it".to_owned())
    })
}

/// The sentence for an index or rank that is outside `count` elements.
fn out_of_bounds(operation: CdtOperation, mut arguments: Arguments<'_>, count: u32) -> Option<String> {
    let (what, index) = match operation {
        CdtOperation::ListInsert
        | CdtOperation::ListInsertItems
        | CdtOperation::ListSet
        | CdtOperation::ListIncrement => {
            let index = arguments.index().ok()?;
            // Inserts accept the index one past the end.
            ("index", Some(index).filter(|index| *index != i64::from(count))?)
        }
        _ => match selection(operation, arguments) {
            Ok((Selector::Indexes { index, .. }, want)) if !want.is_multi => ("index", index),
            Ok((Selector::Ranks { rank, .. }, want)) if !want.is_multi => ("rank", rank),
            _ => return None,
        },
    };
    match Window::new(index, 1, count, false) {
        None => {
            let plural = if count == 1 { "" } else { "s" };
            Some(format!("{what} {index} is out of bounds for {count} element{plural}"))
        }
        Some(_) => None,
    }
}

const fn word(shape: Shape) -> &'static str {
    match shape {
        Shape::List => "list",
        Shape::Map => "map",
    }
}

/// Describes the value at the start of `bytes`.
fn describe(bytes: &[u8]) -> String {
    let container = |shape| {
        let header = Header::parse(shape, bytes);
        header.map_or_else(
            || format!("there is a damaged {}", word(shape)),
            |Header { flags, count, .. }| {
                let order = if flags & flags::ORDERED == 0 { "a" } else { "an ordered" };
                let plural = if count == 1 { "" } else { "s" };
                format!("there is {order} {} of {count} element{plural}", word(shape))
            },
        )
    };
    match Reader::new(bytes).head() {
        Some(Head::List(_)) => container(Shape::List),
        Some(Head::Map(_)) => container(Shape::Map),
        _ => match Reader::new(bytes).kind() {
            Some(kind) if kind.is_integer() => "there is an integer".to_owned(),
            Some(kind) => format!("there is a value of type {}", snake_case(&format!("{kind:?}"))),
            None => "there is a damaged value".to_owned(),
        },
    }
}

/// The name of a call's operation, such as `list_get_by_index_range`.
fn name(call: &Call<'_>) -> String {
    let operation = call.operation(false).or_else(|_| call.operation(true));
    let Ok((operation, _)) = operation else { return format!("cdt_operation_{}", call.code) };
    let variant = format!("{operation:?}");
    match variant.trim_end_matches(')').split_once('(') {
        None => snake_case(&variant),
        Some((verb, by)) => {
            let shape = if call.is_for_list() { "list" } else { "map" };
            let verb = verb.trim_end_matches("Value").trim_end_matches("Count");
            format!("{shape}_{}_by_{}", snake_case(verb), snake_case(by))
        }
    }
}

//! Stream functions: what an aggregation runs for the records of a partition. The caller gives the records one by one, and
//! takes the values that the function yields.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use cf::sys::facts::Memory;
use mlua::{MultiValue, Value};
use parking_lot::{Condvar, Mutex};

use super::interpreter::{self, Interpreter};
use super::record::{RecordInput, RecordState};
use super::value::Output;
use super::{Failure, FunctionCall, Functions};

/// How long a function may take between two of its records or values.
const STEP_TIME_MAX: Duration = Duration::from_secs(10);

/// Share of the machine's memory that the interpreters of all stream functions may take together: one in so many parts.
const MEMORY_SHARE: u64 = 8;
/// So many stream functions may run at a time however little memory there is.
const COUNT_MIN: u64 = 4;
const COUNT_MAX: u64 = 256;
/// How often one that waits for its turn looks whether it is still wanted.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Bounds how many stream functions run at a time, and so the memory that they can take. Its lock is taken alone and briefly.
pub(super) struct Places {
    free: Mutex<u64>,
    freed: Condvar,
}

impl Places {
    /// As many as the memory of this machine suffices for.
    pub(super) fn of_machine() -> Self {
        let of_each = interpreter::TOTAL_MEMORY_MAX as u64;
        Places::new((Memory::now().total / MEMORY_SHARE / of_each).clamp(COUNT_MIN, COUNT_MAX))
    }

    pub(super) fn new(count: u64) -> Self {
        Places { free: Mutex::new(count), freed: Condvar::new() }
    }

    /// Waits for a place; `None` if it `is_unwanted` meanwhile.
    fn take(&self, is_unwanted: &dyn Fn() -> bool) -> Option<Place<'_>> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait_for(&mut free, LOOK_PERIOD);
            if *free == 0 && is_unwanted() {
                return None;
            }
        }
        *free -= 1;
        Some(Place(self))
    }
}

/// A place, until it is dropped.
struct Place<'a>(&'a Places);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

/// The stream is of no use any more: nobody wants its values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamClosed;

/// The records that a function reads, and the values that it yields. Both may wait.
pub(crate) trait RecordStream {
    /// A copy of the next record; `None` after the last.
    ///
    /// # Errors
    /// When nobody wants the values any more.
    fn next(&mut self) -> Result<Option<RecordInput>, StreamClosed>;

    /// Takes a value.
    ///
    /// # Errors
    /// When nobody wants it.
    fn write(&mut self, value: Output) -> Result<(), StreamClosed>;
}

/// The text with which a query answers that failed so.
pub(crate) fn failure_text(failure: &Failure) -> Vec<u8> {
    match failure {
        Failure::Module => b"UDF: Execution Error 1".to_vec(),
        Failure::Function(text) => {
            let text = text.as_deref().unwrap_or(b"result value type unexpected");
            [b"UDF: Execution Error 2 : ", text].concat()
        }
    }
}

impl Functions {
    /// Runs the server's part of a stream function for the records of one partition. It is stopped with an error soon after
    /// `is_unwanted` says so. While too many others run it waits.
    ///
    /// # Errors
    /// When there is no such module, or the function raises an error. Values may have come before.
    pub(crate) fn aggregate(
        &self,
        call: &FunctionCall<'_>,
        stream: &mut dyn RecordStream,
        is_unwanted: Box<dyn Fn() -> bool>,
    ) -> Result<(), Failure> {
        let Some(_place) = self.stream_places.take(&*is_unwanted) else {
            return Err(Failure::Function(Some(b"the query has ended".to_vec())));
        };
        let lease = self.lease(call.module, Instant::now() + STEP_TIME_MAX)?;
        lease.interpreter().aggregate(call, stream, is_unwanted)
    }
}

impl Interpreter {
    fn aggregate(
        &self,
        call: &FunctionCall<'_>,
        stream: &mut dyn RecordStream,
        is_unwanted: Box<dyn Fn() -> bool>,
    ) -> Result<(), Failure> {
        self.watch.begin_while_wanted(Instant::now() + STEP_TIME_MAX, is_unwanted);
        let arguments = self.converter().arguments(call.arguments);
        let ran = arguments.map_err(|error| interpreter::failure_of(&error)).and_then(|arguments| {
            let ran = self.run_stream(call.function, arguments, stream);
            ran.map_err(|error| Failure::Function(Some(interpreter::message_of(&error))))
        });
        self.watch.end();
        self.session.close();
        match ran? {
            (true, _) => Ok(()),
            (false, error) => Err(Failure::Function(interpreter::error_text(&error))),
        }
    }

    /// Returns whether the function came to an end, and its error.
    fn run_stream(
        &self,
        function: &[u8],
        arguments: Vec<Value>,
        stream: &mut dyn RecordStream,
    ) -> mlua::Result<(bool, Value)> {
        let stream = RefCell::new(stream);
        // Neither waiting for records nor for the client is the function's time.
        let go_on = || self.watch.extend(Instant::now() + STEP_TIME_MAX);
        let closed = |_: StreamClosed| mlua::Error::runtime("the query has ended");
        self.lua.scope(|scope| {
            let read = scope.create_function(|_, ()| {
                let record = stream.borrow_mut().next().map_err(closed)?;
                go_on();
                let Some(record) = record else { return Ok(Value::Nil) };
                let id = self.session.open(RecordState::new(record));
                self.make_record.call::<Value>(id)
            })?;
            let write = scope.create_function(|_, value: Value| {
                // Tables and functions are dropped.
                if matches!(value, Value::Nil | Value::Table(_) | Value::Function(_)) {
                    return Ok(0);
                }
                let output = self.converter().output(&value).map_err(mlua::Error::runtime)?;
                stream.borrow_mut().write(output).map_err(closed)?;
                go_on();
                Ok(0)
            })?;
            let mut all = MultiValue::with_capacity(arguments.len() + 3);
            all.push_back(Value::String(self.lua.create_string(function)?));
            all.push_back(self.make_stream.call((read, Value::Nil))?);
            all.push_back(self.make_stream.call((Value::Nil, write))?);
            all.extend(arguments);
            self.run_stream.call(all)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{module, record_input, shown};
    use super::*;

    /// Some records, and the values that came.
    #[derive(Default)]
    struct TestStream {
        left: usize,
        values: Vec<String>,
        /// After so many values nobody wants more.
        values_max: Option<usize>,
    }

    impl RecordStream for TestStream {
        fn next(&mut self) -> Result<Option<RecordInput>, StreamClosed> {
            let has_more = self.left > 0;
            self.left = self.left.saturating_sub(1);
            Ok(has_more.then(|| RecordInput { is_read_only: true, ..record_input() }))
        }

        fn write(&mut self, value: Output) -> Result<(), StreamClosed> {
            self.values.push(shown(Ok(value)).expect("a value"));
            if self.values_max.is_some_and(|max| self.values.len() >= max) {
                Err(StreamClosed)
            } else {
                Ok(())
            }
        }
    }

    fn run_with(text: &str, stream: &mut TestStream, is_unwanted: Box<dyn Fn() -> bool>) -> Option<String> {
        let call = FunctionCall { module: "m", function: b"f", arguments: &[0x91, 5] };
        let failed = module(text).aggregate(&call, stream, is_unwanted).err();
        failed.map(|failure| String::from_utf8_lossy(&failure_text(&failure)).into_owned())
    }

    /// The values and the error of `f` in a module of this text, for three records.
    fn run(text: &str) -> (Vec<String>, Option<String>) {
        let mut stream = TestStream { left: 3, ..TestStream::default() };
        let failed = run_with(text, &mut stream, Box::new(|| false));
        (stream.values, failed)
    }

    fn values(texts: &[&str]) -> (Vec<String>, Option<String>) {
        (texts.iter().map(|text| (*text).to_owned()).collect(), None)
    }

    #[test]
    fn streams_are_filtered_mapped_and_reduced() {
        let sum = "function f(s, n) return s : map(function(r) return n end) : reduce(math.sum) end";
        assert_eq!(run(sum), values(&["15"]));
        assert_eq!(
            run("function f(s, n) return s : map(function(r) return n end) end"),
            values(&["5", "5", "5"])
        );
        assert_eq!(run("function f(s) return s : filter(function(r) return false end) end"), values(&[]));
        let large = "function f(s) return s : map(function(r) return 600 end) : aggregate(0, math.sum) end";
        assert_eq!(run(large), values(&["1200", "600"]));
        let group = "function f(s) return s : map(function(r) return 'x' end) : groupby(function(v) return v end) end";
        assert_eq!(run(group).0.len(), 1);
        let after = "function f(s, n) return s : map(function(r) return n end) : reduce(math.max) : map(function(v) return 0 end) end";
        assert_eq!(run(after), values(&["5"]), "what comes after the reduction is the client's");
        assert_eq!(run("function f(s) return s : map(function(r) return {1} end) end"), values(&[]));
        let writes = "function f(s) return s : map(function(r) r.x = 1 return aerospike:update(r) end) end";
        assert_eq!(run(writes), values(&["1", "1", "1"]));
    }

    #[test]
    fn streams_fail_with_the_place() {
        let failed = |text: &str| run(text).1.unwrap_or_default();
        assert_eq!(
            failed("function f(s) end"),
            "UDF: Execution Error 2 : [string \"aerospike.lua\"]:33: attempt to index a nil value (global 'result')"
        );
        assert_eq!(
            failed("function f(s) return s : map(function(r) error('x') end) end"),
            "UDF: Execution Error 2 : /nowhere/m.lua:1: x"
        );
        assert_eq!(failed("g = 1"), "UDF: Execution Error 2 : function not found");
        let functions = module("");
        let call = FunctionCall { module: "none", function: b"f", arguments: &[] };
        let failure = functions.aggregate(&call, &mut TestStream::default(), Box::new(|| false)).unwrap_err();
        assert_eq!(failure_text(&failure), b"UDF: Execution Error 1");
    }

    #[test]
    fn no_more_run_at_a_time_than_there_are_places() {
        let (places, most) = (Places::new(2), Mutex::new((0, 0)));
        cf::sync::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _place = places.take(&|| false).expect("it is wanted");
                        let count = |change: i32| {
                            let mut counts = most.lock();
                            counts.0 += change;
                            counts.1 = counts.0.max(counts.1);
                        };
                        count(1);
                        std::thread::yield_now();
                        count(-1);
                    }
                });
            }
        });
        assert_eq!(*most.lock(), (0, 2));
        let held = [places.take(&|| false), places.take(&|| false)];
        assert!(held.iter().all(Option::is_some) && places.take(&|| true).is_none());
        drop(held);
        assert!(places.take(&|| true).is_some());
    }

    #[test]
    fn a_stream_that_nobody_wants_ends() {
        let all = "function f(s) return s : map(function(r) return 1 end) end";
        let mut stream = TestStream { left: 1_000, values_max: Some(2), ..TestStream::default() };
        assert!(run_with(all, &mut stream, Box::new(|| false)).is_some());
        assert_eq!(stream.values.len(), 2);
        let stubborn = "function f(s) return s : map(function(r) while true do pcall(function() while true do end end) end end) end";
        let started = Instant::now();
        let is_late = move || started.elapsed() > Duration::from_millis(30);
        let mut stream = TestStream { left: 1, ..TestStream::default() };
        let failed = run_with(stubborn, &mut stream, Box::new(is_late));
        assert!(failed.is_some_and(|text| text.contains("UDF Execution Timeout")));
        assert!(started.elapsed() < STEP_TIME_MAX / 2);
    }
}

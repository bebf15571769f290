//! Stream functions: an aggregation runs them over the records of a partition. The caller passes the records
//! one by one, and takes the values that the function yields.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use mlua::{MultiValue, Value};

use super::interpreter::{self, Interpreter};
use super::places::{EndWait, Place, WaitReason};
use super::record::{RecordInput, RecordState};
use super::value::Output;
use super::watch::TimeLimit;
use super::{Failure, FunctionCall, Functions};

/// How much of a processor's time a function may take between two of its records or values.
const STEP_TIME_MAX: Duration = Duration::from_secs(10);

/// The stream is closed: its values are no longer wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamClosed;

/// The records that a function reads, and the values that it yields. Both calls may wait.
pub(crate) trait RecordStream {
    /// A copy of the next record; `None` after the last.
    ///
    /// # Errors
    /// If the values are no longer wanted.
    fn next(&mut self) -> Result<Option<RecordInput>, StreamClosed>;

    /// Takes a value.
    ///
    /// # Errors
    /// If it is no longer wanted.
    fn write(&mut self, value: Output) -> Result<(), StreamClosed>;
}

/// The query that a stream function runs for.
pub(crate) struct StreamOwner {
    /// Returns whether the values are no longer wanted.
    pub(crate) is_unwanted: Box<dyn Fn() -> bool>,
    /// Ends a wait for the client, because other functions need its place.
    pub(crate) end_wait: EndWait,
}

/// The text that answers a query after this failure.
pub(crate) fn failure_text(failure: &Failure) -> Vec<u8> {
    match failure {
        Failure::Module => b"UDF: Execution Error 1".to_vec(),
        Failure::Function(None) => b"UDF: Execution Error 2".to_vec(),
        Failure::Function(Some(text)) => [b"UDF: Execution Error 2 : ", &**text].concat(),
    }
}

impl Functions {
    /// Runs the server's part of a stream function for the records of one partition. The function is stopped with an
    /// error soon after its `owner` no longer wants it. It waits while too many others run.
    ///
    /// # Errors
    /// When there is no such module, or the function raises an error. Some values may have been written before.
    pub(crate) fn aggregate(
        &self,
        call: &FunctionCall<'_>,
        stream: &mut dyn RecordStream,
        owner: StreamOwner,
    ) -> Result<(), Failure> {
        let Some(place) = self.stream_places.enter(owner.end_wait, &*owner.is_unwanted) else {
            return Err(Failure::Function(Some(b"the query has ended".to_vec())));
        };
        let lease = self.lease(call.module, TimeLimit::of_processor(STEP_TIME_MAX))?;
        cf::fault_point!("stream-function");
        lease.interpreter().aggregate(call, stream, &place, owner.is_unwanted.into())
    }
}

impl Interpreter {
    fn aggregate(
        &self,
        call: &FunctionCall<'_>,
        stream: &mut dyn RecordStream,
        place: &Place<'_>,
        is_unwanted: Rc<dyn Fn() -> bool>,
    ) -> Result<(), Failure> {
        let watched = Rc::clone(&is_unwanted);
        let limit = TimeLimit::of_processor(STEP_TIME_MAX);
        self.watch.begin_while_wanted(limit, Box::new(move || watched()));
        let strings = self.watch_long_strings(false);
        let arguments = self.converter().arguments(call.arguments);
        let ran = arguments.map_err(|error| interpreter::failure_of(&error)).and_then(|arguments| {
            let ran = self.run_stream(call.function, arguments, stream, (place, &*is_unwanted));
            ran.map_err(|error| Failure::Function(Some(interpreter::message_of(&error))))
        });
        self.note_long_strings(&strings);
        drop(strings);
        self.watch.end();
        self.session.close();
        match ran? {
            (true, _) => Ok(()),
            (false, error) => Err(Failure::Function(interpreter::error_text(&error))),
        }
    }

    /// Returns whether the function has ended, and its error.
    fn run_stream(
        &self,
        function: &[u8],
        arguments: Vec<Value>,
        stream: &mut dyn RecordStream,
        (place, is_unwanted): (&Place<'_>, &dyn Fn() -> bool),
    ) -> mlua::Result<(bool, Value)> {
        let stream = RefCell::new(stream);
        // Waiting for records or for the client does not count as the function's time.
        let go_on = || self.watch.renew(STEP_TIME_MAX);
        let closed = |_: StreamClosed| mlua::Error::runtime("the query has ended");
        let ended = || closed(StreamClosed);
        self.lua.scope(|scope| {
            let read = scope.create_function(|_, ()| {
                let next = || stream.borrow_mut().next();
                let next = place.lend(WaitReason::Records, self.used_memory(), is_unwanted, next);
                let record = next.ok_or_else(ended)?.map_err(closed)?;
                go_on();
                let Some(record) = record else { return Ok(Value::Nil) };
                let id = self.session.open(RecordState::new(record));
                self.make_record.call::<Value>(id)
            })?;
            let write = scope.create_function(|_, value: Value| {
                // Tables and functions are discarded.
                if matches!(value, Value::Nil | Value::Table(_) | Value::Function(_)) {
                    return Ok(0);
                }
                let output = self.converter().output(&value).map_err(mlua::Error::runtime)?;
                let write = || stream.borrow_mut().write(output);
                let written = place.lend(WaitReason::Client, self.used_memory(), is_unwanted, write);
                written.ok_or_else(ended)?.map_err(closed)?;
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
    use std::time::Instant;

    use super::*;

    /// Some records, and the values that were written.
    #[derive(Default)]
    struct TestStream {
        left: usize,
        values: Vec<String>,
        /// Number of values after which no more are wanted.
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

    fn owner(is_unwanted: Box<dyn Fn() -> bool>) -> StreamOwner {
        StreamOwner { is_unwanted, end_wait: Box::new(|| ()) }
    }

    fn run_with(text: &str, stream: &mut TestStream, is_unwanted: Box<dyn Fn() -> bool>) -> Option<String> {
        let call = FunctionCall { module: "m", function: b"f", arguments: &[0x91, 5] };
        let failed = module(text).aggregate(&call, stream, owner(is_unwanted)).err();
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
        assert_eq!(
            failed("function f(s) return s : groupby(5) end"),
            "UDF: Execution Error 2 : [string \"stream_ops.lua\"]:159: attempt to call a number value (upvalue 'f')"
        );
        assert_eq!(failed("function f(s) error() end"), "UDF: Execution Error 2");
        assert_eq!(
            failed("function f(s) return s : map(function() error() end) end"),
            "UDF: Execution Error 2"
        );
        assert_eq!(failed("g = 1"), "UDF: Execution Error 2 : function not found");
        let functions = module("");
        let call = FunctionCall { module: "none", function: b"f", arguments: &[] };
        let owner = owner(Box::new(|| false));
        let failure = functions.aggregate(&call, &mut TestStream::default(), owner).unwrap_err();
        assert_eq!(failure_text(&failure), b"UDF: Execution Error 1");
    }

    /// Stream functions run in threads of queries, but a function of their module that is called with a
    /// record may find a long string that they left.
    #[test]
    fn long_strings_of_streams_send_calls_of_the_module_to_the_pool() {
        let make = "s : map(function(r) kept = ('x'):rep(20000) return 1 end)";
        for (body, is_long) in [(make, true), ("error('x' .. ('x'):rep(20000))", true), ("s", false)] {
            let functions = module(&format!("function f(s) return {body} end"));
            let call = FunctionCall { module: "m", function: b"f", arguments: &[0x90] };
            let mut stream = TestStream { left: 3, ..TestStream::default() };
            let failed = functions.aggregate(&call, &mut stream, owner(Box::new(|| false))).is_err();
            assert_eq!(failed, body.starts_with("error"), "{body}");
            functions.note_quick("m");
            assert_eq!(functions.lease_for_short("m").is_none(), is_long, "{body}");
        }
    }

    #[test]
    fn an_unwanted_stream_ends() {
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

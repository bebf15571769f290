//! Stream functions: what an aggregation runs for the records of a partition. The caller gives the records one by one, and
//! takes the values that the function yields.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use mlua::{MultiValue, Value};

use super::interpreter::Interpreter;
use super::record::{RecordInput, RecordState};
use super::value::Output;
use super::{Failure, FunctionCall, Functions};

/// How long a function may take for one record.
const RECORD_TIME_MAX: Duration = Duration::from_secs(10);

/// Where the records of a stream come from.
pub(crate) trait RecordSource {
    /// A copy of the next record; `None` after the last.
    fn next(&mut self) -> Option<RecordInput>;
}

/// Where the values of a stream go.
pub(crate) trait ValueSink {
    /// Takes a value. `false` ends the stream: nobody wants further ones.
    fn write(&mut self, value: Output) -> bool;
}

impl<F: FnMut() -> Option<RecordInput>> RecordSource for F {
    fn next(&mut self) -> Option<RecordInput> {
        self()
    }
}

impl<F: FnMut(Output) -> bool> ValueSink for F {
    fn write(&mut self, value: Output) -> bool {
        self(value)
    }
}

/// The text with which a query answers that failed so.
#[cfg_attr(not(test), expect(dead_code, reason = "for aggregations, which queries do not have yet"))]
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
    /// Runs the server's part of a stream function for the records of one partition.
    ///
    /// # Errors
    /// When there is no such module, or the function raises an error. Values may have come before.
    #[cfg_attr(not(test), expect(dead_code, reason = "for aggregations, which queries do not have yet"))]
    pub(crate) fn aggregate(
        &self,
        call: &FunctionCall<'_>,
        source: &mut dyn RecordSource,
        sink: &mut dyn ValueSink,
    ) -> Result<(), Failure> {
        let version = self.modules.version();
        let interpreter = self.take(call.module, version, Instant::now() + RECORD_TIME_MAX)?;
        let done = interpreter.0.aggregate(call, source, sink);
        self.give_back(call.module, version, interpreter);
        done
    }
}

impl Interpreter {
    fn aggregate(
        &self,
        call: &FunctionCall<'_>,
        source: &mut dyn RecordSource,
        sink: &mut dyn ValueSink,
    ) -> Result<(), Failure> {
        self.watch.begin(Instant::now() + RECORD_TIME_MAX);
        let arguments = self.converter().arguments(call.arguments);
        let ran = arguments.map_err(|error| super::interpreter::failure_of(&error)).and_then(|arguments| {
            let ran = self.run_stream(call.function, arguments, source, sink);
            ran.map_err(|error| Failure::Function(Some(super::interpreter::message_of(&error))))
        });
        self.watch.end();
        self.session.close();
        match ran? {
            (true, _) => Ok(()),
            (false, error) => Err(Failure::Function(super::interpreter::error_text(&error))),
        }
    }

    /// Returns whether the function came to an end, and its error.
    fn run_stream(
        &self,
        function: &[u8],
        arguments: Vec<Value>,
        source: &mut dyn RecordSource,
        sink: &mut dyn ValueSink,
    ) -> mlua::Result<(bool, Value)> {
        let (source, sink) = (RefCell::new(source), RefCell::new(sink));
        self.lua.scope(|scope| {
            let read = scope.create_function(|_, ()| {
                self.watch.begin(Instant::now() + RECORD_TIME_MAX);
                let Some(record) = source.borrow_mut().next() else { return Ok(Value::Nil) };
                let id = self.session.open(RecordState::new(record));
                self.make_record.call::<Value>(id)
            })?;
            let write = scope.create_function(|_, value: Value| {
                // Tables and functions are dropped.
                if matches!(value, Value::Nil | Value::Table(_) | Value::Function(_)) {
                    return Ok(0);
                }
                let output = self.converter().output(&value).map_err(mlua::Error::runtime)?;
                Ok(if sink.borrow_mut().write(output) { 0 } else { -1 })
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

    /// The values and the error of `f` in a module of this text, for three records.
    fn run(text: &str) -> (Vec<String>, Option<String>) {
        let functions = module(text);
        let call = FunctionCall { module: "m", function: b"f", arguments: &[0x91, 5] };
        let mut left = 3;
        let mut source = || {
            left -= 1;
            (left >= 0).then(|| RecordInput { is_read_only: true, ..record_input() })
        };
        let mut values = Vec::new();
        let mut sink = |value: Output| {
            values.push(shown(Ok(value)).expect("a value"));
            true
        };
        let failed = functions.aggregate(&call, &mut source, &mut sink).err();
        (values, failed.map(|failure| String::from_utf8_lossy(&failure_text(&failure)).into_owned()))
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
        let failure = functions.aggregate(&call, &mut || None, &mut |_: Output| true).unwrap_err();
        assert_eq!(failure_text(&failure), b"UDF: Execution Error 1");
    }
}

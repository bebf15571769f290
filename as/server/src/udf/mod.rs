//! User-defined functions: modules in Lua that clients register and apply to records.
//!
//! # Parts
//! [`module`] keeps the registered modules, which are items of the system metadata. An [`interpreter`] is a Lua state
//! with its limits; the prelude in `lua/` makes the functions for programs from primitives in [`bindings`], [`native`] does
//! the usual cases of those that programs call in loops, and [`value`], [`packing`] and [`unpacking`] convert values. [`Functions`] keeps interpreters for further calls, some for each module. [`stream`] runs
//! the functions of aggregations; [`places`] limits how many run at a time.
//!
//! # Threads
//! A call has an interpreter of its own, so calls run in parallel on as many threads as call. The only locks are those
//! of the list of modules, of the idle interpreters and of the places; none is held while a function runs.

mod bindings;
#[expect(unsafe_code, reason = "Lua's C interface")]
mod compiling;
mod interpreter;
#[expect(unsafe_code, reason = "Lua's allocator")]
mod long_strings;
mod module;
#[expect(unsafe_code, reason = "the library does not let handles of an interpreter move")]
mod movable;
#[expect(unsafe_code, reason = "Lua's C interface")]
mod native;
mod packer;
#[expect(unsafe_code, reason = "Lua's C interface")]
mod packing;
mod pattern;
mod places;
#[expect(unsafe_code, reason = "Lua's C interface")]
mod printing;
#[expect(unsafe_code, reason = "Lua's C interface")]
mod raw;
mod record;
mod sorting;
mod stream;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_time;
#[expect(unsafe_code, reason = "Lua's C interface")]
mod unpacking;
mod value;
mod watch;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use interpreter::{CallLimits, Interpreter};
use movable::MovableInterpreter;

use crate::smd::{self, Occasion, Smd, SmdItem};

pub(crate) use interpreter::Failure;
pub(crate) use module::{
    ContentError, FILE_NAME_SIZE_MAX, Modules, decode_content, is_file_name, is_key, is_type, metadata_value,
};
pub(crate) use record::{BINS_MAX, FoundRecord, RecordInput, RecordState};
pub(crate) use stream::{RecordStream, StreamClosed, StreamOwner, failure_text};
pub(crate) use value::Output;
pub(crate) use watch::TimeLimit;

/// Maximum number of idle interpreters that are kept for a module.
const IDLE_MAX: usize = 16;
/// Time limit of a module's run at its registration.
const TRY_OUT_TIME_MAX: Duration = Duration::from_millis(1_000);

/// A function to call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FunctionCall<'a> {
    /// Name of the module: that of its file without the extension.
    pub(crate) module: &'a str,
    pub(crate) function: &'a [u8],
    /// Arguments, as a packed list.
    pub(crate) arguments: &'a [u8],
}

/// A call up to this duration is short.
const SHORT_TIME: Duration = Duration::from_micros(100);
/// Calls of a module count as short from the confidence `CONFIDENCE_MIN` on; `CONFIDENCE_MAX` is the highest. A short
/// call adds one, a long one halves it: a single long call may be chance, but a module whose calls become long is
/// detected after a few.
const CONFIDENCE_MIN: u32 = 16;
const CONFIDENCE_MAX: u32 = 256;
/// A call up to this duration is brief: it needs no priority.
const BRIEF_TIME: Duration = Duration::from_millis(1);
/// A call that is cut off after less time is no evidence about its module: its client gave it little time, or
/// it had waited.
const TELLING_TIME_MIN: Duration = Duration::from_millis(100);

/// An interpreter that has loaded a module. It is kept for further calls when this is dropped.
pub(crate) struct Lease<'a> {
    functions: &'a Functions,
    module: &'a str,
    /// Version of the modules when it was made.
    version: u64,
    /// Present until this is dropped.
    interpreter: Option<MovableInterpreter>,
    /// Whether it serves a call on a service thread.
    is_for_short: bool,
    /// The end of the call, if there was one.
    end: Option<CallEnd>,
}

/// The end of a call.
#[derive(Clone, Copy)]
enum CallEnd {
    /// The call ended by itself, after this time.
    After(Duration),
    /// It was cut off, and had too little time to judge its module.
    CutShort,
    /// It was cut off, although it had enough time.
    Late,
}

/// Whether what was cut off at `limit` had time enough to say something of its module. A call that is tried on a service thread
/// never has.
fn is_telling(limit: &TimeLimit) -> bool {
    limit.time() >= TELLING_TIME_MIN
}

impl Lease<'_> {
    fn interpreter(&self) -> &Interpreter {
        let Some(interpreter) = &self.interpreter else { unreachable!("only the drop takes it") };
        interpreter.get()
    }

    /// Calls a function with a record; the call is cut off at `limit`.
    fn call(&mut self, call: &FunctionCall<'_>, record: RecordState, limit: TimeLimit) -> EndedCall {
        let (started, interpreter) = (Instant::now(), self.interpreter());
        cf::fault_point!("udf");
        let limits = CallLimits { time: limit, makes_no_long_strings: self.is_for_short };
        let (output, record) = interpreter.call(call.function, call.arguments, record, limits);
        let was_late = interpreter.was_late();
        self.end = Some(if !was_late {
            CallEnd::After(started.elapsed())
        } else if is_telling(&limit) {
            CallEnd::Late
        } else {
            CallEnd::CutShort
        });
        EndedCall { output, record, was_late }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // An interpreter that a panic has left in the middle of a call is not used again.
        if let Some(interpreter) = self.interpreter.take().filter(|_| !std::thread::panicking()) {
            self.functions.give_back(self.module, self.version, interpreter, self.end);
        }
    }
}

/// Idle interpreters of a module.
struct Idle {
    /// Version of the modules when they were made.
    version: u64,
    interpreters: VecDeque<MovableInterpreter>,
    /// Confidence that the next call is short.
    confidence: u32,
    /// Whether the last call used up its time.
    is_overdue: bool,
    /// Whether the last call was brief.
    is_brief: bool,
    /// Whether a call has made a long string. Interpreters may have kept it, so all further calls run in the
    /// pool.
    has_long_strings: bool,
}

impl Idle {
    fn new(version: u64) -> Self {
        Idle {
            version,
            interpreters: VecDeque::new(),
            confidence: 0,
            is_overdue: false,
            is_brief: false,
            has_long_strings: false,
        }
    }

    /// Whether calls count as short.
    fn is_short(&self) -> bool {
        self.confidence >= CONFIDENCE_MIN && !self.has_long_strings
    }

    /// Notes how a call ended.
    fn note(&mut self, end: CallEnd) {
        self.confidence = match end {
            CallEnd::After(time) if time <= SHORT_TIME => (self.confidence + 1).min(CONFIDENCE_MAX),
            CallEnd::After(_) | CallEnd::CutShort | CallEnd::Late => self.confidence / 2,
        };
        self.is_brief = matches!(end, CallEnd::After(time) if time <= BRIEF_TIME);
        match end {
            CallEnd::After(_) => self.is_overdue = false,
            CallEnd::CutShort => {}
            CallEnd::Late => self.is_overdue = true,
        }
    }
}

/// The expected duration of a module's next call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ModulePace {
    /// The call is likely short.
    Quick,
    Unknown,
    /// The call may use up its time, as the last one did.
    Overdue,
}

/// A call that has ended.
pub(crate) struct EndedCall {
    pub(crate) output: Result<Output, Failure>,
    /// The record after the call.
    pub(crate) record: RecordState,
    /// Whether it was cut off: its time was over before it ended, or it needs the pool.
    pub(crate) was_late: bool,
}

/// The functions of a server.
pub(crate) struct Functions {
    modules: Arc<Modules>,
    idle: Mutex<HashMap<String, Idle>>,
    /// Whether interpreters are kept after a call.
    is_caching: bool,
    stream_places: places::Places,
}

/// The reason why a module cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompileError {
    /// The file that the error names; empty if it names none.
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) message: Vec<u8>,
}

impl Functions {
    /// Starts without modules; their copies will be in `folder`.
    pub(crate) fn new(folder: &Path, is_caching: bool) -> Self {
        Functions {
            modules: Arc::new(Modules::new(folder)),
            idle: Mutex::default(),
            is_caching,
            stream_places: places::Places::of_machine(),
        }
    }

    /// Takes the modules from the system metadata, now and after every change.
    pub(crate) fn follow(&self, smd: &Smd) {
        let modules = Arc::clone(&self.modules);
        smd.listen(smd::Module::Udf, move |items: &[&SmdItem], _: Occasion| modules.accept(items));
    }

    /// The registered modules.
    pub(crate) fn modules(&self) -> &Modules {
        &self.modules
    }

    /// Drops all interpreters, and with them the variables of functions.
    pub(crate) fn clear_cache(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
    }

    /// Compiles and runs a module as its registration does. Files of another kind are accepted unchecked.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub(crate) fn check(&self, file_name: &str, content: &[u8]) -> Result<(), CompileError> {
        if file_name.ends_with(".so") {
            return Ok(());
        }
        let interpreter = Interpreter::new(&self.modules).map_err(|_| CompileError {
            file: String::new(),
            line: 0,
            message: b"not enough memory".to_vec(),
        })?;
        interpreter
            .try_out(file_name, content, TimeLimit::by_clock(TRY_OUT_TIME_MAX))
            .map_err(|text| compile_error(&text))
    }

    /// Calls a function with a record, for as long as `limit` says, in the interpreter of `lease` if there is one.
    pub(crate) fn call<'a>(
        &'a self,
        call: &FunctionCall<'a>,
        record: RecordState,
        limit: TimeLimit,
        lease: Option<Lease<'a>>,
    ) -> EndedCall {
        match lease.map_or_else(|| self.lease(call.module, limit), Ok) {
            Ok(mut lease) => lease.call(call, record, limit),
            Err(failure) => EndedCall { output: Err(failure), record, was_late: false },
        }
    }

    /// An interpreter for a call that is likely short: recent calls of `module` were short, and an interpreter is idle.
    pub(crate) fn lease_for_short<'a>(&'a self, module: &'a str) -> Option<Lease<'a>> {
        let version = self.modules.version();
        let mut idle = self.idle.lock();
        let idle = idle.get_mut(module).filter(|idle| idle.version == version && idle.is_short())?;
        let interpreter = Some(idle.interpreters.pop_front()?);
        Some(Lease { functions: self, module, version, interpreter, is_for_short: true, end: None })
    }

    /// An interpreter that has loaded `module`.
    fn lease<'a>(&'a self, module: &'a str, limit: TimeLimit) -> Result<Lease<'a>, Failure> {
        let version = self.modules.version();
        let lease = |interpreter| Lease {
            functions: self,
            module,
            version,
            interpreter: Some(interpreter),
            is_for_short: false,
            end: None,
        };
        // The interpreter that has been idle longest: each has its own variables of a module.
        let idle = self
            .idle
            .lock()
            .get_mut(module)
            .filter(|idle| idle.version == version)
            .and_then(|idle| idle.interpreters.pop_front());
        if let Some(interpreter) = idle {
            return Ok(lease(interpreter));
        }
        if !self.modules.has_module(module) {
            return Err(Failure::Module);
        }
        let interpreter = Interpreter::new(&self.modules).map_err(|_| Failure::Module)?;
        if let Err(failure) = interpreter.load(module, limit) {
            if interpreter.was_late() && is_telling(&limit) {
                self.note_late(module, version);
            }
            return Err(failure);
        }
        Ok(lease(MovableInterpreter::new(interpreter)))
    }

    fn give_back(&self, module: &str, version: u64, interpreter: MovableInterpreter, end: Option<CallEnd>) {
        let is_reusable = self.is_caching && interpreter.get().is_reusable();
        let has_long_strings = interpreter.get().has_long_strings();
        // Interpreters that are not kept are dropped without the lock.
        let mut interpreter = Some(interpreter);
        self.with_idle(module, version, |idle| {
            end.into_iter().for_each(|end| idle.note(end));
            idle.has_long_strings |= has_long_strings;
            if is_reusable && idle.interpreters.len() < IDLE_MAX {
                idle.interpreters.extend(interpreter.take());
            }
        });
    }

    /// Changes the state of `module`, unless the modules have changed since `version`.
    fn with_idle(&self, module: &str, version: u64, change: impl FnOnce(&mut Idle)) {
        if version != self.modules.version() {
            return;
        }
        let mut all = self.idle.lock();
        let idle = match all.get_mut(module) {
            Some(idle) if idle.version == version => idle,
            _ => {
                // Interpreters of earlier versions are dropped, also those of modules that are no longer
                // called.
                all.retain(|_, idle| idle.version == version);
                all.entry(module.to_owned()).or_insert_with(|| Idle::new(version))
            }
        };
        change(idle);
    }

    /// The expected duration of the next call of the module `name`, judged by recent calls.
    pub(crate) fn pace(&self, name: &[u8]) -> ModulePace {
        let version = self.modules.version();
        let idle = self.idle.lock();
        // No module has a name that is not text.
        let idle = std::str::from_utf8(name).ok().and_then(|name| idle.get(name));
        match idle.filter(|idle| idle.version == version) {
            Some(idle) if idle.is_overdue => ModulePace::Overdue,
            Some(idle) if idle.is_short() => ModulePace::Quick,
            _ => ModulePace::Unknown,
        }
    }

    /// Whether the last call of the module called `name` was brief.
    pub(crate) fn was_brief(&self, name: &[u8]) -> bool {
        let version = self.modules.version();
        let idle = self.idle.lock();
        let idle = std::str::from_utf8(name).ok().and_then(|name| idle.get(name));
        idle.is_some_and(|idle| idle.version == version && idle.is_brief)
    }

    /// Makes `module` overdue, for a test.
    #[cfg(test)]
    pub(crate) fn note_overdue(&self, module: &str) {
        self.note_late(module, self.modules.version());
    }

    /// Makes the last call of `module` brief, for a test.
    #[cfg(test)]
    pub(crate) fn note_brief(&self, module: &str) {
        self.with_idle(module, self.modules.version(), |idle| idle.note(CallEnd::After(BRIEF_TIME)));
    }

    /// Makes `module` quick, for a test.
    #[cfg(test)]
    pub(crate) fn note_quick(&self, module: &str) {
        self.with_idle(module, self.modules.version(), |idle| idle.confidence = CONFIDENCE_MIN);
    }

    /// Notes that a call of `module` used up its time.
    fn note_late(&self, module: &str, version: u64) {
        self.with_idle(module, version, |idle| idle.note(CallEnd::Late));
    }
}

/// Parses an error of the form `[string "file"]:line: message`; it keeps the first line of an error of
/// another form.
fn compile_error(text: &[u8]) -> CompileError {
    const MESSAGE_SIZE_MAX: usize = 256;
    let parsed = || {
        let text = std::str::from_utf8(text).ok()?;
        let (file, rest) = text.strip_prefix('[')?.split_once('"')?.1.split_once('"')?;
        let (line, message) = rest.split_once(':')?.1.split_once(':')?;
        let message = message.strip_prefix(' ').unwrap_or(message);
        Some(CompileError { file: file.to_owned(), line: line.parse().unwrap_or(0), message: message.into() })
    };
    parsed().unwrap_or_else(|| {
        let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let message = first[..first.len().min(MESSAGE_SIZE_MAX)].to_vec();
        CompileError { file: String::new(), line: 0, message }
    })
}

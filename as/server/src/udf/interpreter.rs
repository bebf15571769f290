//! An interpreter: a Lua state with the functions for programs, without unsafe functions, and with limits.
//!
//! # Limits
//! - Time: a hook looks at the clock every 250 instructions, more often if they are slow, and raises an error when the time of
//!   the call is over (`watch.rs`). Code in C or Rust, which runs no instructions, has its own bounds (`lua/sandbox.lua`,
//!   `native.rs`, `native/many.rs`, `packing.rs`, `unpacking.rs`, `pattern.rs`, `value.rs`).
//! - Memory: [`MEMORY_MAX`] for all values, and a limit for each buffer of `native::bytes`.
//! - Depth: Lua bounds calls itself; values are bounded in `value.rs`.
//!
//! An interpreter that ran out of time or has grown large is not used again.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use mlua::{ChunkMode, Function, Lua, LuaOptions, StdLib, Table, Value};

use super::bindings::record::Session;
use super::bindings::{record, text};
use super::compiling;
use super::long_strings::{LongStringWatch, MEMORY_MAX};
use super::module::Modules;
use super::native;
use super::packing::Purpose;
use super::raw::{self, Ended, Entry, PlainCall};
use super::record::RecordState;
use super::value::{Converter, Makers, Output, Plain, Shared, ValueError};
use super::watch::{TimeLimit, Watch};

/// An interpreter that has grown to this size is not kept.
const KEPT_MEMORY_MAX: usize = 8 << 20;

/// The reason why a function gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is no such module, or it cannot be loaded.
    Module,
    /// The function raised an error: its text, or nothing if the error is no text.
    Function(Option<Vec<u8>>),
}

/// The limits of a call.
#[derive(Clone, Copy)]
pub(super) struct CallLimits {
    pub(super) time: TimeLimit,
    /// Whether making a long string ends it, as its time does.
    pub(super) makes_no_long_strings: bool,
}

/// The handles into one Lua state. Fields are dropped in this order: the state before the watch that its hook reads.
pub(super) struct Interpreter {
    run_record: Function,
    pub(super) run_stream: Function,
    pub(super) make_record: Function,
    pub(super) make_stream: Function,
    pcall: Function,
    require: Function,
    entry: Entry,
    shared: Rc<Shared>,
    pub(super) lua: Lua,
    pub(super) session: Rc<Session>,
    pub(super) watch: Rc<Watch>,
    /// Whether a call has made a long string, which may still be there.
    has_long_strings: Cell<bool>,
}

impl Interpreter {
    pub(super) fn converter(&self) -> Converter<'_> {
        self.shared.converter(&self.lua)
    }

    /// A new interpreter, which finds modules in `modules`.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub(super) fn new(modules: &Arc<Modules>) -> mlua::Result<Self> {
        let libraries =
            StdLib::COROUTINE | StdLib::TABLE | StdLib::OS | StdLib::STRING | StdLib::UTF8 | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::default())?;
        lua.gc_gen(0, 0);
        let (watch, session) = (Rc::<Watch>::default(), Rc::<Session>::default());
        let primitives = raw::install(&lua, &watch, &session)?;
        let globals = lua.globals();
        let (pcall, host): (Function, Table) = (globals.get("pcall")?, lua.create_table()?);
        host.set("proxy", primitives.proxy)?;
        host.set("open", primitives.open)?;
        host.set("wrap", primitives.wrap)?;
        host.set("quick", native::maker(&lua)?)?;
        host.set("keep_metatables", native::metatable_keeper(&lua)?)?;
        host.set("watched", primitives.watched)?;
        host.set("look_soon", primitives.look_soon)?;
        host.set("NIL", Value::NULL)?;
        host.set("PIECE_SIZE", compiling::PIECE_SIZE)?;
        host.set("module_path", modules.path_pattern())?;
        install_find_module(&lua, &host, modules)?;
        host.set("is_native", native::is_native(&lua)?)?;
        text::install(&lua, &host, &watch)?;
        let prelude = [
            ("=base", include_str!("lua/base.lua")),
            ("=sandbox", include_str!("lua/sandbox.lua")),
            ("=list", include_str!("lua/list.lua")),
            ("=map", include_str!("lua/map.lua")),
            ("=bytes", include_str!("lua/bytes.lua")),
            ("=record", include_str!("lua/record.lua")),
            ("as.lua", include_str!("lua/as.lua")),
            ("stream_ops.lua", include_str!("lua/stream_ops.lua")),
        ];
        for (name, text) in prelude {
            lua.load(text).set_name(name).set_mode(ChunkMode::Text).call::<()>(&host)?;
        }
        let last = lua.load(include_str!("lua/aerospike.lua")).set_name("aerospike.lua");
        let (run_record, run_stream) = last.set_mode(ChunkMode::Text).call(&host)?;
        let makers = Makers { open: host.get("open")?, geojson: host.get("make_geojson")? };
        let shared = Rc::new(Shared { makers, watch: Rc::clone(&watch) });
        install_conversions(&lua, &host, &Rc::downgrade(&shared))?;
        record::install(&lua, &host, &Rc::downgrade(&shared), &session)?;
        let entry = Entry::new(&lua, host.get("record_meta")?, host.get("aerospike")?)?;
        lua.set_memory_limit(MEMORY_MAX)?;
        Ok(Interpreter {
            run_record,
            run_stream,
            make_record: primitives.make_record,
            make_stream: host.get("make_stream")?,
            pcall,
            require: globals.get("require")?,
            entry,
            shared,
            lua,
            session,
            watch,
            has_long_strings: Cell::new(false),
        })
    }

    /// Loads a module; fails if that takes longer than `limit`.
    pub(super) fn load(&self, module: &str, limit: TimeLimit) -> Result<(), Failure> {
        self.watch.begin(limit);
        let strings = self.watch_long_strings(false);
        let loaded = self.pcall.call::<(bool, Value)>((&self.require, module));
        self.note_long_strings(&strings);
        drop(strings);
        self.watch.end();
        match loaded {
            Ok((true, _)) => Ok(()),
            Ok((false, error)) => {
                let text = error_text(&error).unwrap_or_default();
                cf::warning_limited!(
                    Udf,
                    "module {module} cannot be loaded: {}",
                    String::from_utf8_lossy(&text)
                );
                Err(Failure::Module)
            }
            Err(_) => Err(Failure::Module),
        }
    }

    /// Compiles and runs a module to check it before registration.
    ///
    /// # Errors
    /// The text of the error.
    pub(super) fn try_out(&self, file_name: &str, content: &[u8], limit: TimeLimit) -> Result<(), Vec<u8>> {
        self.watch.begin(limit);
        let strings = self.watch_long_strings(false);
        let compiled = compiling::compile(&self.lua, content, file_name);
        let run = compiled.and_then(|function| self.pcall.call::<(bool, Value)>(function));
        drop(strings);
        self.watch.end();
        match run {
            Ok((true, _)) => Ok(()),
            Ok((false, error)) => {
                let number = || Some(self.lua.coerce_string(error.clone()).ok()??.as_bytes().to_vec());
                let text = error_text(&error).or_else(number);
                Err(text.unwrap_or_else(|| b"(Null error message returned by lua)".to_vec()))
            }
            Err(error) => Err(message_of(&error)),
        }
    }

    /// Calls a function with a record and packed arguments. Returns its result and the changed record.
    pub(super) fn call(
        &self,
        function: &[u8],
        arguments: &[u8],
        record: RecordState,
        limits: CallLimits,
    ) -> (Result<Output, Failure>, RecordState) {
        self.watch.begin(limits.time);
        let strings = self.watch_long_strings(limits.makes_no_long_strings);
        let id = self.session.open(record);
        let output = match Plain::arguments(arguments) {
            Some(arguments) => self.call_plain(PlainCall { function, record: id, arguments: &arguments }),
            None => self.call_opened(function, arguments, id),
        };
        if self.note_long_strings(&strings) && limits.makes_no_long_strings {
            self.watch.expire();
        }
        drop(strings);
        self.watch.end();
        let record = self.session.close().unwrap_or_else(|| unreachable!("only a call closes its record"));
        (output, record)
    }

    /// Calls a function whose arguments are plain.
    fn call_plain(&self, call: PlainCall<'_>) -> Result<Output, Failure> {
        let raised = |text: Option<&[u8]>| Failure::Function(text.map(<[u8]>::to_vec));
        let ended = self.entry.call(call, |ended| match ended {
            Ended::NotFound => Ok(Err(raised(Some(b"function not found")))),
            Ended::Returned(Some(value)) => Ok(Ok(value.output())),
            Ended::Raised(Some(Plain::Text(text))) => Ok(Err(raised(Some(text)))),
            Ended::Raised(Some(_)) => Ok(Err(raised(None))),
            Ended::Returned(None) => Err(true),
            Ended::Raised(None) => Err(false),
        });
        let has_returned = match ended {
            Ok(output) => return output,
            Err(has_returned) => has_returned,
        };
        let kept = Entry::take_kept(&self.lua);
        let kept = kept.map_err(|error| Failure::Function(Some(message_of(&error))))?;
        if has_returned {
            self.converter().output(&kept).map_err(|error| failure_of(&error))
        } else {
            Err(Failure::Function(error_text(&kept)))
        }
    }

    fn call_opened(&self, function: &[u8], arguments: &[u8], id: i64) -> Result<Output, Failure> {
        let failed = |error: mlua::Error| Failure::Function(Some(message_of(&error)));
        let converter = self.converter();
        let arguments = converter.arguments(arguments).map_err(|error| failure_of(&error))?;
        let name = self.lua.create_string(function).map_err(failed)?;
        let record: Value = self.make_record.call(id).map_err(failed)?;
        let mut all = mlua::MultiValue::with_capacity(arguments.len() + 2);
        all.push_back(Value::String(name));
        all.push_back(record);
        all.extend(arguments);
        let (is_done, value): (bool, Value) = self.run_record.call(all).map_err(failed)?;
        if is_done {
            converter.output(&value).map_err(|error| failure_of(&error))
        } else {
            Err(Failure::Function(error_text(&value)))
        }
    }

    /// Detects long strings that the next calls make; see [`Entry::watch_long_strings`].
    pub(super) fn watch_long_strings(&self, is_refusing: bool) -> LongStringWatch {
        self.entry.watch_long_strings(&self.watch, is_refusing)
    }

    /// Notes whether a call has made a long string, and returns that.
    pub(super) fn note_long_strings(&self, strings: &LongStringWatch) -> bool {
        let has_made_one = strings.has_made_one();
        self.has_long_strings.set(self.has_long_strings.get() || has_made_one);
        has_made_one
    }

    /// Whether any call has made a long string.
    pub(super) fn has_long_strings(&self) -> bool {
        self.has_long_strings.get()
    }

    /// Whether the last call was cut off, usually because its time was over.
    pub(super) fn was_late(&self) -> bool {
        self.watch.end()
    }

    /// Whether the interpreter may be used for further calls.
    pub(super) fn is_reusable(&self) -> bool {
        !self.watch.end() && self.used_memory() < KEPT_MEMORY_MAX
    }

    /// Number of bytes of its values.
    pub(super) fn used_memory(&self) -> usize {
        self.lua.used_memory()
    }
}

/// `find_module(name)` returns a registered module as a function, the reason if there is none, and its file.
fn install_find_module(lua: &Lua, host: &Table, modules: &Arc<Modules>) -> mlua::Result<()> {
    let modules = Arc::clone(modules);
    host.set(
        "find_module",
        lua.create_function(move |lua, name: mlua::String| {
            let name = String::from_utf8_lossy(&name.as_bytes()).into_owned();
            let Some(content) = modules.content_of_module(&name) else { return Ok((Value::Nil, None, None)) };
            let path = modules.path_of_module(&name);
            Ok(match compiling::compile(lua, &content, &format!("@{path}")) {
                Ok(function) => (Value::Function(function), None, Some(path)),
                Err(error) => {
                    (Value::Nil, Some(String::from_utf8_lossy(&message_of(&error)).into_owned()), Some(path))
                }
            })
        })?,
    )
}

/// `packed_size(value)` and `text_of(value)`.
fn install_conversions(lua: &Lua, host: &Table, shared: &Weak<Shared>) -> mlua::Result<()> {
    let of_size = Weak::clone(shared);
    host.set(
        "packed_size",
        lua.create_function(move |lua, value: Value| {
            let Some(shared) = of_size.upgrade() else { return Ok(0) };
            shared
                .converter(lua)
                .packed(&value, Purpose::Result)
                .map(|packed| packed.len())
                .map_err(mlua::Error::runtime)
        })?,
    )?;
    let of_text = Weak::clone(shared);
    host.set(
        "text_of",
        lua.create_function(move |lua, value: Value| {
            let text = of_text.upgrade().map(|shared| shared.converter(lua).text(&value));
            lua.create_string(text.transpose().map_err(mlua::Error::runtime)?.unwrap_or_default())
        })?,
    )
}

pub(super) fn failure_of(error: &ValueError) -> Failure {
    Failure::Function(Some(error.to_string().into_bytes()))
}

/// The text of an error that a program raised or passed on; `None` if it is no text.
pub(super) fn error_text(error: &Value) -> Option<Vec<u8>> {
    match error {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Error(error) => Some(message_of(error)),
        _ => None,
    }
}

/// The text of an error without the parts that Rust added.
pub(super) fn message_of(error: &mlua::Error) -> Vec<u8> {
    let text = match error {
        mlua::Error::SyntaxError { message, .. } => message.clone(),
        mlua::Error::RuntimeError(message) => message.clone(),
        mlua::Error::MemoryError(_) => "not enough memory".to_owned(),
        mlua::Error::CallbackError { cause, .. } => return message_of(cause),
        other => other.to_string(),
    };
    let text = text.split("\nstack traceback:").next().unwrap_or_default();
    text.strip_prefix("runtime error: ").unwrap_or(text).as_bytes().to_vec()
}

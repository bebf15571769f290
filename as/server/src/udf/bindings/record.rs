//! Access of the prelude to the record that a function works on. Records have numbers: a record that a
//! function kept from an earlier call is invalid.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use datamodel::{BytesType, Particle};
use mlua::{Lua, MultiValue, Table, Value};
use proto::ResultCode;

use super::super::record::RecordState;
use super::super::value::{Plain, Shared, to_zero};

/// Maximum length of a bin's name in bytes.
const BIN_NAME_SIZE_MAX: usize = 15;
/// Maximum length in bytes of a text that is passed as a plain value.
const PLAIN_TEXT_SIZE_MAX: usize = 64;

/// A copy of a plain bin value.
pub(crate) enum PlainBin {
    /// Anything but a text.
    Value(Plain<'static>),
    /// A text: its bytes at the start of the array, and their number.
    Text([u8; PLAIN_TEXT_SIZE_MAX], usize),
}

impl PlainBin {
    pub(crate) fn value(&self) -> Plain<'_> {
        match self {
            PlainBin::Value(value) => *value,
            PlainBin::Text(bytes, size) => Plain::Text(&bytes[..*size]),
        }
    }

    fn of_text(text: &[u8]) -> Option<Self> {
        let text = to_zero(text);
        let mut bytes = [0; PLAIN_TEXT_SIZE_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        Some(PlainBin::Text(bytes, text.len()))
    }
}

/// The record of the running call.
#[derive(Default)]
pub(crate) struct Session {
    /// Number of the record, or of the last one if there is none.
    id: Cell<i64>,
    record: RefCell<Option<RecordState>>,
}

impl Session {
    /// Makes `record` the record of the call. Returns its number.
    pub(crate) fn open(&self, record: RecordState) -> i64 {
        let id = self.id.get() + 1;
        self.id.set(id);
        *self.record.borrow_mut() = Some(record);
        id
    }

    /// Ends the call's access to its record and returns the record.
    pub(crate) fn close(&self) -> Option<RecordState> {
        self.record.borrow_mut().take()
    }

    /// Whether the record of the call belongs to a stream.
    pub(crate) fn is_read_only(&self) -> bool {
        self.record.borrow().as_ref().is_none_or(|record| record.input.is_read_only)
    }

    /// The value of `record[name]` for record `id`, if it is plain: a number, a boolean, a short text or nil.
    pub(crate) fn plain_bin(&self, id: i64, name: &[u8]) -> Option<PlainBin> {
        const ABSENT: PlainBin = PlainBin::Value(Plain::Nil);
        if name.contains(&0) {
            return None;
        }
        if id != self.id.get() || name.len() > BIN_NAME_SIZE_MAX {
            return Some(ABSENT);
        }
        let record = self.record.try_borrow().ok()?;
        let Some(particle) = record.as_ref().and_then(|record| record.bin(name)) else { return Some(ABSENT) };
        Some(PlainBin::Value(match particle {
            Particle::Integer(value) => Plain::Integer(value),
            Particle::Float(value) => Plain::Number(value),
            Particle::Bool(value) => Plain::Boolean(value),
            Particle::Bytes(BytesType::String, text) => return PlainBin::of_text(&text),
            Particle::Bytes(..) => return None,
        }))
    }

    /// The key of record `id`, if it is plain: an integer, a short text or nil.
    pub(crate) fn plain_key(&self, id: i64) -> Option<PlainBin> {
        const ABSENT: PlainBin = PlainBin::Value(Plain::Nil);
        let key = self.read(id, |record| match record.visible_key() {
            Some([1, integer @ ..]) => Some(
                integer
                    .try_into()
                    .map_or(ABSENT, |bytes| PlainBin::Value(Plain::Integer(i64::from_be_bytes(bytes)))),
            ),
            Some([3, text @ ..]) => PlainBin::of_text(text),
            Some([4, ..]) => None,
            _ => Some(ABSENT),
        });
        key.unwrap_or(Some(ABSENT))
    }

    /// The name of the set of record `id`, if it is short; nil if there is none.
    pub(crate) fn plain_set_name(&self, id: i64) -> Option<PlainBin> {
        const ABSENT: PlainBin = PlainBin::Value(Plain::Nil);
        let name = self.read(id, |record| match record.metadata() {
            Some(metadata) if !metadata.set_name.is_empty() => PlainBin::of_text(metadata.set_name),
            _ => Some(ABSENT),
        });
        name.unwrap_or(Some(ABSENT))
    }

    /// The result of `read` on record `id`; `None` if that is not the record of the call.
    pub(crate) fn read<T>(&self, id: i64, read: impl FnOnce(&RecordState) -> T) -> Option<T> {
        if id != self.id.get() {
            return None;
        }
        self.record.borrow().as_ref().map(read)
    }

    /// As [`read`](Self::read), for functions that change the record.
    pub(crate) fn change<T>(&self, id: i64, change: impl FnOnce(&mut RecordState) -> T) -> Option<T> {
        if id != self.id.get() {
            return None;
        }
        self.record.borrow_mut().as_mut().map(change)
    }
}

/// Installs the prelude's functions on records in `host`.
///
/// # Errors
/// When Lua has not enough memory.
pub(crate) fn install(
    lua: &Lua,
    host: &Table,
    shared: &Weak<Shared>,
    session: &Rc<Session>,
) -> mlua::Result<()> {
    install_metadata(lua, host, shared, session)?;
    install_saves(lua, host, shared, session)
}

fn install_metadata(
    lua: &Lua,
    host: &Table,
    shared: &Weak<Shared>,
    session: &Rc<Session>,
) -> mlua::Result<()> {
    let of_set = Rc::clone(session);
    host.set(
        "record_set_name",
        lua.create_function(move |lua, id: i64| {
            let name = of_set.read(id, |record| record.metadata().map(|metadata| metadata.set_name.to_vec()));
            let name = name.flatten().filter(|name| !name.is_empty());
            name.map(|name| lua.create_string(name)).transpose()
        })?,
    )?;
    let of_names = Rc::clone(session);
    host.set(
        "record_bin_names",
        lua.create_function(move |lua, id: i64| {
            of_names.read(id, |record| names_of_bins(lua, record)).flatten().transpose()
        })?,
    )?;
    let (of_bin, converter) = (Rc::clone(session), Weak::clone(shared));
    host.set(
        "record_bin",
        lua.create_function(move |lua, (id, name): (i64, mlua::String)| {
            let Some(shared) = converter.upgrade() else { return Ok(Value::Nil) };
            let value = of_bin.read(id, |record| {
                let particle = record.bin(&name.as_bytes())?;
                Some(shared.converter(lua).value_of(&particle))
            });
            match value.flatten() {
                Some(Ok(value)) => Ok(value),
                Some(Err(error)) => Err(mlua::Error::runtime(error)),
                None => Ok(Value::Nil),
            }
        })?,
    )?;
    let (of_key, converter) = (Rc::clone(session), Weak::clone(shared));
    host.set(
        "record_key",
        lua.create_function(move |lua, id: i64| {
            let key = of_key.read(id, |record| record.visible_key().map(<[u8]>::to_vec)).flatten();
            match key.as_deref() {
                Some([1, integer @ ..]) => Ok(integer
                    .try_into()
                    .map_or(Value::Nil, |bytes| Value::Integer(i64::from_be_bytes(bytes)))),
                Some([3, text @ ..]) => Ok(Value::String(lua.create_string(to_zero(text))?)),
                Some([4, bytes @ ..]) => {
                    let Some(shared) = converter.upgrade() else { return Ok(Value::Nil) };
                    let blob = Particle::Bytes(BytesType::Blob, bytes.into());
                    shared.converter(lua).value_of(&blob).map_err(mlua::Error::runtime)
                }
                _ => Ok(Value::Nil),
            }
        })?,
    )
}

/// Names of the record's bins; `None` without a record.
fn names_of_bins(lua: &Lua, record: &RecordState) -> Option<mlua::Result<Vec<mlua::String>>> {
    let names = record.bin_names()?;
    Some(names.iter().map(|name| lua.create_string(name)).collect())
}

/// The value of `record.<name>` that is a number.
pub(crate) fn metadata_number(record: &RecordState, name: &[u8]) -> Option<i64> {
    let metadata = record.metadata()?;
    let size = |is_kept: bool| if is_kept { metadata.stored_size.cast_signed() } else { 0 };
    Some(match name {
        b"gen" => i64::from(metadata.generation),
        b"ttl" => i64::from(metadata.ttl),
        b"last_update_time" => metadata.last_update_time.cast_signed(),
        b"size" => size(true),
        b"memory_size" => size(record.input.is_in_memory),
        b"device_size" => size(record.input.is_on_device),
        _ => record.bin_names().map_or(0, |names| names.len() as i64),
    })
}

fn install_saves(lua: &Lua, host: &Table, shared: &Weak<Shared>, session: &Rc<Session>) -> mlua::Result<()> {
    /// Sets `host.name` to a function that changes a record.
    fn set<A: mlua::FromLua + 'static, R: mlua::IntoLuaMulti + 'static>(
        (lua, host, session): (&Lua, &Table, &Rc<Session>),
        name: &str,
        without: fn() -> R,
        change: fn(&mut RecordState, A) -> R,
    ) -> mlua::Result<()> {
        let session = Rc::clone(session);
        let function = lua.create_function(move |_, (id, argument): (i64, A)| {
            Ok(session.change(id, |record| change(record, argument)).unwrap_or_else(without))
        })?;
        host.set(name, function)
    }
    let context = (lua, host, session);
    set(context, "record_drop_key", || (), |record, _: Value| record.drop_key())?;
    set(context, "record_create", || Some(1), |record, _: Value| record.create().err())?;
    set(context, "record_uncreate", || (), |record, _: Value| record.uncreate())?;
    set(context, "record_update", || Some(-2), |record, _: Value| record.update().err())?;
    set(
        context,
        "record_begin_save",
        || Some(ResultCode::Unknown.code()),
        |record, _: Value| record.begin_save().err().map(ResultCode::code),
    )?;
    set(context, "record_end_save", || (), |record, _: Value| record.end_save())?;
    set(
        context,
        "record_delete_bin",
        || (),
        |record, name: mlua::String| record.delete_bin(&name.as_bytes()),
    )?;
    set(
        context,
        "record_save_failed",
        || (),
        |record, result: u8| {
            record.save_failed(ResultCode::from_code(result).unwrap_or(ResultCode::Unknown));
        },
    )?;
    let of_names = Rc::clone(session);
    host.set(
        "record_names_to_remove",
        lua.create_function(move |lua, id: i64| {
            let names = of_names.read(id, |record| {
                record.update().ok()?;
                names_of_bins(lua, record)
            });
            names.flatten().transpose()
        })?,
    )?;
    let (of_bin, converter) = (Rc::clone(session), Weak::clone(shared));
    host.set(
        "record_set_bin",
        lua.create_function(move |lua, mut arguments: MultiValue| {
            let (id, name, value) = (arguments.pop_front(), arguments.pop_front(), arguments.pop_front());
            let (Some(Value::Integer(id)), Some(Value::String(name)), Some(shared)) =
                (id, name, converter.upgrade())
            else {
                return Ok(Some(ResultCode::Unknown.code()));
            };
            let set = shared.converter(lua).to_particle(&value.unwrap_or(Value::Nil)).and_then(|particle| {
                of_bin
                    .change(id, |record| record.set_bin(&name.as_bytes(), particle))
                    .unwrap_or(Err(ResultCode::Unknown))
            });
            Ok(set.err().map(ResultCode::code))
        })?,
    )
}

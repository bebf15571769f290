//! Commands about secondary indexes: create, drop and list them, and show their figures.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use datamodel::bins::BIN_NAME_SIZE_MAX;
use datamodel::sindex::{ContextError, IndexType, IndexedValue, KeyType, context_text};
use proto::ResultCode;

use super::request::InfoResult;
use super::request::Joined;
use super::{Arguments, InfoError};
use crate::namespace::Namespace;
use crate::node::Node;
use crate::sindex::{
    CONTEXT_TEXT_SIZE, ContextTextError, Definition, DefinitionError, INDEX_COUNT_MAX, INDEX_NAME_SIZE_MAX,
    SecondaryIndex, can_be, context_of_text,
};
use crate::smd::Module;

/// Length limit (exclusive) of an index name.
const NAME_SIZE_MAX: usize = INDEX_NAME_SIZE_MAX + 1;
/// Length limit (exclusive) of a namespace name.
const NAMESPACE_SIZE_MAX: usize = 32;
/// Length limit (exclusive) of a set name.
const SET_SIZE_MAX: usize = 64;
/// Length limit (exclusive) of the type of an index.
const TYPE_SIZE_MAX: usize = 10;
/// Length limit (exclusive) of the indexed data: a bin and a type.
const DATA_SIZE_MAX: usize = BIN_NAME_SIZE_MAX + 1 + 11 + 1;
/// Length limit (exclusive) of `true` and `false`.
const SWITCH_SIZE_MAX: usize = 6;

fn no_index() -> InfoError {
    InfoError::new(ResultCode::IndexNotFound, "no index")
}

/// The indexes of all namespaces or of one, or the figures of one index.
pub(super) fn tree(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let (name, index) = arguments.parts();
    if name.is_empty() && index.is_none() {
        write_lists(node, None, false, out);
        return Ok(());
    }
    let Some(namespace) = node.namespace(name) else {
        out.push_str("ns_type=unknown");
        return Ok(());
    };
    match index {
        None => write_lists(node, Some(namespace), false, out),
        Some(index) => write_figures(&*node.indexes.of(namespace).named(index).ok_or_else(no_index)?, out),
    }
    Ok(())
}

pub(super) fn list(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let namespace = arguments.optional_namespace_or_ns(node)?;
    let in_base64 = match arguments.optional("b64", SWITCH_SIZE_MAX)? {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(InfoError::parameter("bad b64")),
    };
    write_lists(node, namespace.map(|namespace| &**namespace), in_base64, out);
    Ok(())
}

/// The indexes of one namespace, or of all.
fn write_lists(node: &Node, of: Option<&Namespace>, in_base64: bool, out: &mut String) {
    let mut rows = Joined::new(out, ';');
    let is_asked = |namespace: &Namespace| of.is_none_or(|of| of.position() == namespace.position());
    for namespace in node.namespaces.iter().filter(|namespace| is_asked(namespace)) {
        for index in node.indexes.of(namespace).all() {
            rows.item(row(&index, in_base64));
        }
    }
}

fn row(index: &SecondaryIndex, in_base64: bool) -> String {
    let Definition { namespace, set, value, context_text: base64 } = &index.definition;
    let context = match (&value.context, base64) {
        (Some(_), Some(base64)) if in_base64 => base64.clone(),
        (Some(context), _) => context_text(context),
        (None, _) => String::from("null"),
    };
    format!(
        "ns={namespace}:indexname={}:set={}:bin={}:type={}:indextype={}:context={context}:state={}",
        index.name(),
        if set.is_empty() { "NULL" } else { set },
        String::from_utf8_lossy(&value.bin),
        value.key_type.name_and_letter().0,
        value.index_type.name_and_letter().0,
        state(index)
    )
}

/// The state of an index: the operations that it allows.
fn state(index: &SecondaryIndex) -> &'static str {
    if index.has_failed() {
        "ERROR"
    } else if index.is_readable() {
        "RW"
    } else {
        "WO"
    }
}

pub(super) fn stat(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let name = arguments.required("indexname", NAME_SIZE_MAX)?;
    arguments.required_either("namespace", "ns", NAMESPACE_SIZE_MAX)?;
    let namespace = arguments.namespace_or_ns(node)?;
    write_figures(&*node.indexes.of(namespace).named(name).ok_or_else(no_index)?, out);
    Ok(())
}

fn write_figures(index: &SecondaryIndex, out: &mut String) {
    let mut pairs = Joined::new(out, ';');
    pairs.pair("entries", index.entry_count());
    pairs.pair("used_bytes", index.used_bytes());
    pairs.pair("entries_per_bval", index.entries_per_bval.load(Relaxed));
    pairs.pair("entries_per_rec", index.entries_per_rec.load(Relaxed));
    pairs.pair("load_pct", index.load_pct.load(Relaxed));
    pairs.pair("load_time", index.load_time_ms.load(Relaxed));
    pairs.pair("stat_gc_recs", index.gc_cleaned.load(Relaxed));
    let unread = index.unread_records.load(Relaxed);
    if unread > 0 {
        pairs.pair("unread_recs", unread);
    }
}

pub(super) fn exists(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let name = arguments.required("indexname", NAME_SIZE_MAX)?;
    arguments.required_either("namespace", "ns", NAMESPACE_SIZE_MAX)?;
    let namespace = arguments.namespace_or_ns(node)?;
    let _ = write!(out, "{}", node.indexes.of(namespace).named(name).is_some());
    Ok(())
}

/// Indexes of a namespace in the system metadata, compared with the name and the key in a command.
struct Known {
    /// Keys of the indexes with the command's name.
    named: Vec<String>,
    has_key: bool,
    count: usize,
}

impl Known {
    fn of(node: &Node, namespace: &str, name: &str, key: &str) -> Self {
        let mut known = Known { named: Vec::new(), has_key: false, count: 0 };
        for item in node.smd.live_items(Module::Sindex) {
            if item.key.split('|').next() != Some(namespace) {
                continue;
            }
            known.count += 1;
            known.has_key |= item.key == key;
            if item.value.as_deref() == Some(name) {
                known.named.push(item.key);
            }
        }
        known
    }
}

pub(super) fn create(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let name = arguments.required("indexname", NAME_SIZE_MAX)?;
    let definition = definition(arguments)?;
    let key = definition.smd_key();
    match Definition::from_smd_item(&key, Some(name)) {
        Ok(read) if read == definition => {}
        Err(DefinitionError::Name(why)) => {
            return Err(InfoError::parameter(format!("bad 'indexname' - {why}")));
        }
        // A delimiter of keys in the name of the namespace, the set or the bin.
        _ => return Err(InfoError::parameter("no index can have such a namespace, set or bin name")),
    }
    let known = Known::of(node, &definition.namespace, name, &key);
    let found = |text: &str| Err(InfoError::new(ResultCode::IndexFound, text));
    match &known.named[..] {
        [] => {}
        [own] if *own == key => {
            out.push_str("ok");
            return Ok(());
        }
        [_] => return found("'indexname' already exists with different definition"),
        _ => return found("'indexname' already exists with multiple definitions"),
    }
    if !known.has_key && known.count >= INDEX_COUNT_MAX {
        return Err(InfoError::new(ResultCode::IndexMaxCount, "already at sindex definition limit"));
    }
    node.smd.set(Module::Sindex, &key, name)?;
    out.push_str("ok");
    Ok(())
}

/// Removes an index. A missing index is not an error.
pub(super) fn delete(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let name = arguments.required("indexname", NAME_SIZE_MAX)?;
    let namespace = arguments.required_either("namespace", "ns", NAMESPACE_SIZE_MAX)?;
    match &Known::of(node, namespace, name, "").named[..] {
        [] => {}
        [key] => node.smd.delete(Module::Sindex, key)?,
        _ => return Err(InfoError::new(ResultCode::IndexFound, "'indexname' is not unique")),
    }
    out.push_str("ok");
    Ok(())
}

/// The definition of the index to make.
fn definition(arguments: Arguments<'_>) -> Result<Definition, InfoError> {
    let namespace = arguments.required_either("namespace", "ns", NAMESPACE_SIZE_MAX)?;
    let set = arguments.optional("set", SET_SIZE_MAX)?.unwrap_or_default();
    let context_text = arguments.optional("context", CONTEXT_TEXT_SIZE)?;
    let context = context_text.map(context_of_text).transpose().map_err(|error| {
        InfoError::parameter(match error {
            ContextTextError::Base64 => "'context' invalid base64",
            ContextTextError::Context(ContextError::Invalid) => "'context' invalid cdt context",
            ContextTextError::Context(ContextError::NotShortest) => "'context' not normalized msgpack",
        })
    })?;
    let index_type = match arguments.optional("indextype", TYPE_SIZE_MAX)? {
        None => IndexType::Default,
        Some(text) => index_type(text)?,
    };
    let (bin, type_text) = bin_and_type(arguments.required("indexdata", DATA_SIZE_MAX)?)?;
    let key_type = key_type(type_text)?;
    if !can_be(index_type, key_type) {
        return Err(InfoError::parameter(
            "bad 'indexdata' bin type for 'indextype' 'mapkeys' - must be one of 'numeric', 'string', 'blob'",
        ));
    }
    Ok(Definition {
        namespace: namespace.to_owned(),
        set: set.to_owned(),
        value: IndexedValue { bin: bin.as_bytes().into(), context, index_type, key_type },
        context_text: context_text.map(str::to_owned),
    })
}

fn index_type(text: &str) -> Result<IndexType, InfoError> {
    let found = IndexType::ALL.iter().find(|(_, name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(index_type, ..)| *index_type).ok_or_else(|| {
        InfoError::parameter("bad 'indextype' - must be one of 'default', 'list', 'mapkeys', 'mapvalues'")
    })
}

fn bin_and_type(data: &str) -> Result<(&str, &str), InfoError> {
    let missing_type = || InfoError::parameter("'indexdata' missing bin type");
    match data.split_once(',').ok_or_else(missing_type)? {
        ("", _) => Err(InfoError::parameter("'indexdata' missing bin name")),
        (bin, _) if bin.len() > BIN_NAME_SIZE_MAX => {
            Err(InfoError::parameter("'indexdata' bin name too long"))
        }
        parts => Ok(parts),
    }
}

fn key_type(text: &str) -> Result<KeyType, InfoError> {
    let found = KeyType::ALL.iter().find(|(_, name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(key_type, ..)| *key_type).ok_or_else(|| {
        InfoError::parameter(
            "bad 'indexdata' bin type - must be one of 'numeric', 'string', 'blob', 'geo2dsphere'",
        )
    })
}

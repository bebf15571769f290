//! Details of one record and of its storage.
//!
//! Tools know these names. Fields of the C server's index that this index lacks are left out.

use std::fmt::Write;

use cf::Digest;
use datamodel::Particle;
use datamodel::flat::FlatRecord;
use proto::ResultCode;

use super::request::{InfoResult, Joined, NAMESPACE_NAME_SIZE};
use super::{Arguments, InfoError};
use crate::index::{Element, PartitionId};
use crate::namespace::Namespace;
use crate::node::Node;
use crate::storage::ReadBuffer;

/// Length limit (exclusive) of a digest in hexadecimal digits.
const DIGEST_TEXT_MAX: usize = 41;
/// Length limit (exclusive) of a mode's name.
const MODE_SIZE_MAX: usize = 32;

/// The record with its values, or with the stored bytes.
pub(super) fn debug_record(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let (namespace, digest) = place(node, arguments)?;
    let content = match arguments.optional("mode", MODE_SIZE_MAX)? {
        None => Content::Values,
        Some("raw" | "raw-encrypted") => Content::Bytes,
        Some("pickle") => {
            return Err(InfoError::unsupported(
                "mode pickle is not supported: asd-inspect shows the stored record",
            ));
        }
        Some(_) => return Err(InfoError::parameter("unknown mode")),
    };
    show(namespace, &digest, content, out)
}

/// The record without its values.
pub(super) fn debug_record_meta(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let (namespace, digest) = place(node, arguments)?;
    show(namespace, &digest, Content::Meta, out)
}

fn place<'s>(node: &'s Node, arguments: Arguments<'_>) -> Result<(&'s Namespace, Digest), InfoError> {
    Ok((
        arguments.namespace(node, NAMESPACE_NAME_SIZE)?,
        parse_digest(arguments.required("keyd", DIGEST_TEXT_MAX)?)?,
    ))
}

/// The part of a record that is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Meta,
    Values,
    Bytes,
}

fn show(namespace: &Namespace, digest: &Digest, content: Content, out: &mut String) -> InfoResult {
    let mut scratch = ReadBuffer::new();
    let found = namespace.storage.get_readable(&namespace.index, digest, &mut scratch);
    let guard = found.ok_or_else(|| InfoError::new(ResultCode::NotFound, "record not found"))?;
    let mut pairs = Joined::new(out, ';');
    pairs.pair("pid", PartitionId::of(digest).index());
    pairs.pair("repl-ix", 0);
    pairs.pair("index", index_fields(namespace, &guard));
    if !guard.location.is_stored() {
        return Ok(());
    }
    let unreadable = |_| InfoError::new(ResultCode::Unknown, "the stored record cannot be read");
    let bytes = namespace.storage.record_bytes(&guard, &mut scratch).map_err(unreadable)?;
    if content == Content::Bytes {
        pairs.pair("raw-size", bytes.len());
        pairs.pair("raw-bytes", hex(bytes));
        return Ok(());
    }
    let damaged = |_| InfoError::new(ResultCode::Unknown, "the stored record is damaged");
    let record = FlatRecord::parse(bytes).map_err(damaged)?;
    if let Some(key) = record.key {
        pairs.pair("key", key_fields(key, content));
    }
    let bins = record.load_bins().map_err(damaged)?;
    pairs.pair("n-bins", bins.len());
    let mut all = String::new();
    let mut list = Joined::new(&mut all, ':');
    for bin in record.bins() {
        let bin = bin.map_err(damaged)?;
        list.item(bin_fields(bin.name, &bin.particle, content));
    }
    if !bins.is_empty() {
        pairs.pair("bins", all);
    }
    Ok(())
}

fn parse_digest(text: &str) -> Result<Digest, InfoError> {
    if text.len() + 1 != DIGEST_TEXT_MAX {
        return Err(InfoError::parameter("keyd"));
    }
    let mut bytes = [0; 20];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits =
            std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()));
        *byte = digits
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or_else(|| InfoError::parameter("bad keyd"))?;
    }
    Ok(Digest(bytes))
}

fn index_fields(namespace: &Namespace, element: &Element) -> String {
    let mut text = String::new();
    let mut fields = Joined::new(&mut text, ',');
    let set = namespace.set_of(element);
    fields.pair("keyd", hex(&element.digest().0));
    fields.pair("set-id", element.set_id.0);
    fields.pair("set-name", set.map_or("null".into(), |set| set.display_name()));
    fields.pair("void-time", element.void_time);
    fields.pair("lut", element.last_update_time());
    fields.pair("generation", element.generation);
    fields.pair("rblock-id", element.location.rblock());
    fields.pair("n-rblocks", element.location.rblock_count());
    fields.pair("file-id", element.location.device());
    fields.pair("key-stored", u8::from(element.location.key_stored()));
    text
}

fn key_fields(key: &[u8], content: Content) -> String {
    let mut text = String::new();
    let mut fields = Joined::new(&mut text, ',');
    fields.pair("flat-size", key.len());
    if let Some((kind, value)) = key.split_first() {
        fields.pair("type", kind);
        if content == Content::Values {
            fields.pair("value", hex(value));
        }
    }
    text
}

fn bin_fields(name: &[u8], particle: &Particle<'_>, content: Content) -> String {
    let mut text = String::new();
    let mut fields = Joined::new(&mut text, ',');
    fields.pair("bin-name", String::from_utf8_lossy(name));
    fields.pair("type", particle.type_number());
    if content == Content::Values {
        let mut value = Vec::new();
        particle.write_wire(&mut value);
        fields.pair("data-size", value.len());
        fields.pair("value", hex(&value));
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_40_hexadecimal_digits() {
        let text = "00112233445566778899aabbccddeeff00112233";
        assert_eq!(parse_digest(text).map(|digest| hex(&digest.0)), Ok(text.to_owned()));
        let error = |text: &str| parse_digest(text).err().map(|error| error.to_string());
        assert_eq!(error("00"), Some("ERROR:4:keyd".to_owned()));
        assert_eq!(error("+0112233445566778899aabbccddeeff00112233"), Some("ERROR:4:bad keyd".to_owned()));
        assert_eq!(error("ééééééééééééééééé000000"), Some("ERROR:4:bad keyd".to_owned()));
    }
}

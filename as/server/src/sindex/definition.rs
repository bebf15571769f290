//! The definition of a secondary index, and its form in system metadata.
//!
//! ```text
//! key    namespace|set|bin|type|key type                     set: empty for all of the namespace
//!        namespace|set|bin|c<context>|type|key type          context: in base64
//! value  name of the index
//! ```
//! Types and key types are single letters.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datamodel::bins::check_name;
use datamodel::flat::SET_NAME_SIZE_MAX;
use datamodel::sindex::{ContextError, IndexType, IndexedValue, KeyType, check_context};

use crate::smd::NOT_IN_COMMANDS;

/// Most bytes of an index's name.
pub(crate) const INDEX_NAME_SIZE_MAX: usize = 63;
/// Length limit (exclusive) of a context in base64.
pub(crate) const CONTEXT_TEXT_SIZE: usize = 2048;

/// Characters that no indexed bin has in its name: in a command they end the name.
const NOT_IN_BINS: [char; 3] = [',', ';', '\n'];

/// What is wrong with an item of system metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DefinitionError {
    /// The key is no definition.
    Key(&'static str),
    /// The name cannot be that of an index.
    Name(&'static str),
}

/// Checks the name of an index.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_index_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("the name of the index is empty"),
        name if name.len() > INDEX_NAME_SIZE_MAX => Err("the name of the index is longer than 63 bytes"),
        name if name.contains(NOT_IN_COMMANDS) => {
            Err("the name of the index has a zero byte, a semicolon or a line feed")
        }
        _ => Ok(()),
    }
}

/// Why a text is no valid context of an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ContextTextError {
    Base64,
    Context(ContextError),
}

/// Decodes a context from base64 text.
///
/// # Errors
/// The reason why the text is not valid.
pub(crate) fn context_of_text(text: &str) -> Result<Box<[u8]>, ContextTextError> {
    let bytes = STANDARD.decode(text).map_err(|_| ContextTextError::Base64)?;
    check_context(&bytes).map_err(ContextTextError::Context)?;
    Ok(bytes.into())
}

/// The values that an index covers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Definition {
    pub(crate) namespace: String,
    /// Empty: all of the namespace.
    pub(crate) set: String,
    pub(crate) value: IndexedValue,
    /// The context in base64, as it was given.
    pub(crate) context_text: Option<String>,
}

impl Definition {
    /// Whether its keys are the cells of regions that are not stored with them, so that each must be covered anew.
    pub(crate) fn covers_regions(&self) -> bool {
        let is_at_top = self.value.index_type == IndexType::Default && self.value.context.is_none();
        self.value.key_type == KeyType::Geo2DSphere && !is_at_top
    }

    /// The key of system metadata.
    pub(crate) fn smd_key(&self) -> String {
        let context = self.context_text.as_ref().map_or(String::new(), |text| format!("|c{text}"));
        let bin = String::from_utf8_lossy(&self.value.bin);
        let (_, index_type) = self.value.index_type.name_and_letter();
        let (_, key_type) = self.value.key_type.name_and_letter();
        format!("{}|{}|{bin}{context}|{index_type}|{key_type}", self.namespace, self.set)
    }

    /// The definition of an index called `name`, or a dropped one, from an item of system metadata; or what is wrong
    /// with it. Commands that make indexes are judged by this too.
    pub(crate) fn from_smd_item(key: &str, name: Option<&str>) -> Result<Self, DefinitionError> {
        let definition = Self::from_smd_key(key).map_err(DefinitionError::Key)?;
        name.map_or(Ok(()), check_index_name).map_err(DefinitionError::Name)?;
        Ok(definition)
    }

    /// Parses a key of system metadata, or returns what is wrong with it.
    pub(crate) fn from_smd_key(key: &str) -> Result<Self, &'static str> {
        let parts: Vec<&str> = key.split('|').collect();
        let (namespace, set, bin, context_text, index_type, key_type) = match parts[..] {
            [namespace, set, bin, index_type, key_type] => (namespace, set, bin, None, index_type, key_type),
            [namespace, set, bin, context, index_type, key_type] => {
                let context =
                    context.strip_prefix('c').ok_or("its key has no context where one should be")?;
                (namespace, set, bin, Some(context), index_type, key_type)
            }
            _ => return Err("its key has not five or six parts"),
        };
        if set.len() > SET_NAME_SIZE_MAX || set.contains(NOT_IN_COMMANDS) {
            return Err("no set with such a name can have an index");
        }
        if bin.is_empty() || check_name(bin.as_bytes()).is_err() || bin.contains(NOT_IN_BINS) {
            return Err("no bin with such a name can have an index");
        }
        let index_type = IndexType::ALL
            .iter()
            .find(|row| is_letter(index_type, row.2))
            .ok_or("its key has no type of index")?;
        let key_type = KeyType::ALL
            .iter()
            .find(|row| is_letter(key_type, row.2))
            .ok_or("its key has no type of values")?;
        if context_text.is_some_and(|text| text.len() >= CONTEXT_TEXT_SIZE) {
            return Err("its context is too long");
        }
        let context =
            context_text.map(context_of_text).transpose().map_err(|_| "its context cannot be read")?;
        let value = IndexedValue {
            bin: bin.as_bytes().into(),
            context,
            index_type: index_type.0,
            key_type: key_type.0,
        };
        if !can_be(value.index_type, value.key_type) {
            return Err("no key of a map has such a type");
        }
        Ok(Definition {
            namespace: namespace.to_owned(),
            set: set.to_owned(),
            value,
            context_text: context_text.map(str::to_owned),
        })
    }
}

fn is_letter(text: &str, letter: char) -> bool {
    text.chars().eq([letter])
}

/// Whether indexes of these types are possible: GeoJSON cannot be a key of a map.
pub(crate) fn can_be(index_type: IndexType, key_type: KeyType) -> bool {
    index_type != IndexType::MapKeys || key_type != KeyType::Geo2DSphere
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_system_metadata_say_all_of_a_definition() {
        for key in ["test||age|.|I", "test|demo|tags|L|S", "test|s|b|ckiKiA3M=|K|B", "bar|s|where|V|G"] {
            let definition = Definition::from_smd_key(key).expect("a definition");
            assert_eq!(definition.smd_key(), key);
            assert_eq!(definition.value.context.is_some(), key.contains("|c"));
        }
        let definition = Definition::from_smd_key("test|s|b|ckiKiA3M=|K|B").expect("a definition");
        assert_eq!(definition.value.context.as_deref(), Some(&[0x92, 0x22, 0xa2, 3, b's'][..]));
        assert_eq!(definition.value.index_type, IndexType::MapKeys);
    }

    #[test]
    fn invalid_keys_are_refused() {
        for key in [
            "",
            "test|demo|b|.",
            "test|demo|b|.|I|x",
            "test|demo||.|I",
            "test|demo|0123456789abcdef|.|I",
            "test|demo|b|x|I",
            "test|demo|b|.|X",
            "test|demo|b|.|II",
            "test|demo|b|K|G",
            "test|demo|b|c!|.|I",
            "test|demo|b|ckhIB|.|I",
        ] {
            assert!(Definition::from_smd_key(key).is_err(), "{key}");
        }
        let long = format!("test|{}|b|.|I", "s".repeat(64));
        assert!(Definition::from_smd_key(&long).is_err());
        for key in [
            "test|de\0mo|b|.|I",
            "test|de;mo|b|.|I",
            "test|de\nmo|b|.|I",
            "test|demo|b\0|.|I",
            "test|demo|b,c|.|I",
            "test|demo|b;c|.|I",
            "test|demo|b\nc|.|I",
        ] {
            assert!(Definition::from_smd_key(key).is_err(), "{key:?}");
        }
    }

    #[test]
    fn names_of_indexes_are_those_that_commands_can_have() {
        let named = |name: &str| Definition::from_smd_item("test|demo|b|.|I", Some(name)).is_ok();
        assert!(["x", "a:b", "a=b", "a|b", &"x".repeat(63)].iter().all(|name| named(name)));
        for wrong in ["", "x\0", "a;b", "a\nb", &"x".repeat(64), &"x".repeat(300)] {
            assert!(!named(wrong), "{wrong:?}");
        }
        assert!(Definition::from_smd_item("test|demo|b|.|I", None).is_ok());
    }
}

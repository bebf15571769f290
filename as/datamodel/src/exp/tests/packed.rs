//! Builds expressions from parts.

use cf::msgpack::{put_double, put_integer, put_list_header, put_raw_header};

/// An expression, or another msgpack value.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Packed(pub(super) Vec<u8>);

impl From<i64> for Packed {
    fn from(value: i64) -> Self {
        let mut bytes = Vec::new();
        put_integer(&mut bytes, value);
        Packed(bytes)
    }
}

impl From<i32> for Packed {
    fn from(value: i32) -> Self {
        i64::from(value).into()
    }
}

impl From<f64> for Packed {
    fn from(value: f64) -> Self {
        let mut bytes = Vec::new();
        put_double(&mut bytes, value);
        Packed(bytes)
    }
}

impl From<bool> for Packed {
    fn from(value: bool) -> Self {
        Packed(vec![0xc2 | u8::from(value)])
    }
}

/// A text value.
impl From<&str> for Packed {
    fn from(value: &str) -> Self {
        raw(3, value.as_bytes())
    }
}

pub(super) const NIL: &[u8] = &[0xc0];

/// A value of bytes with particle type `kind`.
pub(super) fn raw(kind: u8, value: &[u8]) -> Packed {
    let mut bytes = Vec::new();
    put_raw_header(&mut bytes, value.len() as u32 + 1);
    bytes.push(kind);
    bytes.extend_from_slice(value);
    Packed(bytes)
}

/// A name or pattern.
pub(super) fn name(name: &str) -> Packed {
    let mut bytes = Vec::new();
    put_raw_header(&mut bytes, name.len() as u32);
    bytes.extend_from_slice(name.as_bytes());
    Packed(bytes)
}

pub(super) fn list(elements: &[Packed]) -> Packed {
    let mut bytes = Vec::new();
    put_list_header(&mut bytes, elements.len() as u32);
    elements.iter().for_each(|element| bytes.extend_from_slice(&element.0));
    Packed(bytes)
}

/// An operator and its elements.
macro_rules! exp {
    ($code:expr $(, $element:expr)* $(,)?) => {
        $crate::exp::tests::packed::list(&[
            $crate::exp::tests::packed::Packed::from($code)
            $(, $crate::exp::tests::packed::Packed::from($element))*
        ])
    };
}
pub(super) use exp;

/// A list of values as an expression.
pub(super) fn quoted(elements: &[Packed]) -> Packed {
    exp!(126, list(elements))
}

/// A bin of type number `type_number`.
pub(super) fn bin(type_number: i32, bin: &str) -> Packed {
    exp!(81, type_number, name(bin))
}

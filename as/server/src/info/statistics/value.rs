//! A figure as statistics print it.

use std::fmt;

/// A figure in its printed form.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    Number(u64),
    Signed(i64),
    Flag(bool),
    /// Upper-case hexadecimal digits, the form of node ids and cluster keys.
    Hex(u64),
    /// A number with this many digits after the point.
    Fixed(f64, usize),
    Text(String),
    /// A figure that is unknown or has no value.
    Null,
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(out, "{number}"),
            Value::Signed(number) => write!(out, "{number}"),
            Value::Flag(flag) => write!(out, "{flag}"),
            Value::Hex(number) => write!(out, "{number:X}"),
            Value::Fixed(number, digits) => write!(out, "{number:.digits$}"),
            Value::Text(text) => out.write_str(text),
            Value::Null => out.write_str("null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_printed_as_tools_read_them() {
        let texts = [
            Value::Number(7),
            Value::Signed(-7),
            Value::Flag(true),
            Value::Hex(0xAB_CD),
            Value::Fixed(1.0, 3),
            Value::Text("0:0,0:0".to_owned()),
            Value::Null,
        ]
        .map(|value| value.to_string());
        assert_eq!(texts, ["7", "-7", "true", "ABCD", "1.000", "0:0,0:0", "null"]);
    }
}

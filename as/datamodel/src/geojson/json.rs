//! The part of JSON that GeoJSON needs. A text is validated as a whole, then read in place.
//!
//! The rules are strict: UTF-8, no byte-order mark, no zero characters in strings, integers within 64 bits,
//! reals within the range of a double, an object or array at the top. If several members have the same name,
//! the last one counts. Memory is allocated only for deep nesting, and no function recurses.
//!
//! serde_json accepts the same texts (a test compares them), except for zero characters, larger integers and
//! nesting of more than 128 levels. It is not used, because results would change in these cases, and because
//! its tree is many times as large as the client's text.

use smallvec::SmallVec;

/// Deepest nesting of values.
const DEPTH_MAX: usize = 2048;

/// One value of a validated text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// The object or array in `text`, if it is one.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        std::str::from_utf8(text).ok()?;
        let mut scanner = Scanner { text, at: 0 };
        scanner.space();
        let start = scanner.at;
        matches!(scanner.peek(), b'{' | b'[').then_some(())?;
        scanner.check_value()?;
        let value = text.get(start..scanner.at)?;
        scanner.space();
        (scanner.at == text.len()).then_some(Value(value))
    }

    pub(super) fn is_object(self) -> bool {
        self.0.first() == Some(&b'{')
    }

    /// The value of member `name` of an object.
    pub(super) fn member(self, name: &str) -> Option<Self> {
        let mut scanner = self.inside(b'{')?;
        let mut found = None;
        while let Some(key) = scanner.next_value() {
            let value = scanner.next_value()?;
            if key.is_text(name) {
                found = Some(value);
            }
        }
        found
    }

    /// The elements of an array.
    pub(super) fn elements(self) -> Option<impl Iterator<Item = Self> + 'a> {
        let mut scanner = self.inside(b'[')?;
        Some(std::iter::from_fn(move || scanner.next_value()))
    }

    /// The elements of an array of exactly `N`.
    pub(super) fn array<const N: usize>(self) -> Option<[Self; N]> {
        let mut elements = self.elements()?;
        let mut array = [self; N];
        for slot in &mut array {
            *slot = elements.next()?;
        }
        elements.next().is_none().then_some(array)
    }

    /// A scanner after the first byte, if that is `open`.
    fn inside(self, open: u8) -> Option<Scanner<'a>> {
        (self.0.first() == Some(&open)).then_some(Scanner { text: self.0, at: 1 })
    }

    pub(super) fn number(self) -> Option<f64> {
        matches!(self.0.first()?, b'-' | b'0'..=b'9').then_some(())?;
        number(self.0)
    }

    /// Whether it is a string equal to `expected`, which is ASCII.
    pub(super) fn is_text(self, expected: &str) -> bool {
        let [b'"', inner @ .., b'"'] = self.0 else { return false };
        let mut bytes = inner.iter();
        let unescaped = std::iter::from_fn(|| match bytes.next()? {
            b'\\' => Some(match bytes.next()? {
                b'u' => {
                    let digits = bytes.by_ref().take(4).copied().collect::<SmallVec<[u8; 4]>>();
                    // Expected texts are ASCII.
                    u8::try_from(hex(&digits)?).unwrap_or(u8::MAX)
                }
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                &other => other,
            }),
            &byte => Some(byte),
        });
        unescaped.eq(expected.bytes())
    }
}

/// The number in `text`, if a signed integer of 64 bits or a double can hold it.
fn number(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.bytes().all(|byte| matches!(byte, b'-' | b'0'..=b'9')) {
        text.parse::<i64>().ok().map(|integer| integer as f64)
    } else {
        text.parse::<f64>().ok().filter(|real| real.is_finite())
    }
}

/// The number that four hexadecimal digits encode.
fn hex(digits: &[u8]) -> Option<u32> {
    let digit = |&digit: &u8| char::from(digit).to_digit(16);
    (digits.len() == 4).then_some(())?;
    digits.iter().try_fold(0, |sum, byte| Some(sum << 4 | digit(byte)?))
}

#[derive(Clone, Copy)]
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The next byte. At the end it is zero, which is valid nowhere.
    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn take(&mut self) -> u8 {
        let byte = self.peek();
        self.at += 1;
        byte
    }

    fn skip_while(&mut self, of_kind: impl Fn(u8) -> bool) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at += rest.iter().take_while(|&&byte| of_kind(byte)).count();
    }

    fn space(&mut self) {
        self.skip_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    }

    /// Skips the value that begins here, if it is valid.
    fn check_value(&mut self) -> Option<()> {
        // The closing bytes of the open containers.
        let mut open: SmallVec<[u8; 64]> = SmallVec::new();
        loop {
            if open.len() == DEPTH_MAX {
                return None;
            }
            let first = self.peek();
            let is_empty = match first {
                b'{' | b'[' => {
                    self.at += 1;
                    open.push(if first == b'{' { b'}' } else { b']' });
                    self.space();
                    self.peek() == *open.last()?
                }
                _ => {
                    self.check_scalar()?;
                    true
                }
            };
            if is_empty {
                // A value is complete, and possibly also the containers around it.
                loop {
                    let Some(&close) = open.last() else { return Some(()) };
                    self.space();
                    match self.take() {
                        b',' => break,
                        byte if byte == close => open.pop(),
                        _ => return None,
                    };
                }
                self.space();
            }
            if open.last() == Some(&b'}') {
                self.check_string()?;
                self.space();
                (self.take() == b':').then_some(())?;
                self.space();
            }
        }
    }

    fn check_scalar(&mut self) -> Option<()> {
        let word = |scanner: &mut Self, word: &[u8]| {
            scanner.at += word.len();
            scanner.text.get(..scanner.at)?.ends_with(word).then_some(())
        };
        match self.peek() {
            b'"' => self.check_string(),
            b't' => word(self, b"true"),
            b'f' => word(self, b"false"),
            b'n' => word(self, b"null"),
            _ => self.check_number(),
        }
    }

    fn check_string(&mut self) -> Option<()> {
        (self.take() == b'"').then_some(())?;
        loop {
            match self.take() {
                b'"' => return Some(()),
                0..0x20 => return None,
                b'\\' => match self.take() {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => self.check_unicode()?,
                    _ => return None,
                },
                _ => {}
            }
        }
    }

    /// Checks the digits of a unicode escape, and its second half if it needs one.
    fn check_unicode(&mut self) -> Option<()> {
        let mut unit = || {
            let digits = self.text.get(self.at..self.at + 4)?;
            self.at += 4;
            hex(digits)
        };
        match unit()? {
            0 | 0xDC00..0xE000 => None,
            0xD800..0xDC00 => {
                (self.take() == b'\\' && self.take() == b'u').then_some(())?;
                let digits = self.text.get(self.at..self.at + 4)?;
                self.at += 4;
                (0xDC00..0xE000).contains(&hex(digits)?).then_some(())
            }
            _ => Some(()),
        }
    }

    fn check_number(&mut self) -> Option<()> {
        let start = self.at;
        let digits = |scanner: &mut Self| {
            let start = scanner.at;
            scanner.skip_while(|byte| byte.is_ascii_digit());
            (scanner.at > start).then_some(scanner.at - start)
        };
        if self.peek() == b'-' {
            self.at += 1;
        }
        let leading_zero = self.peek() == b'0';
        if digits(self)? > 1 && leading_zero {
            return None;
        }
        if self.peek() == b'.' {
            self.at += 1;
            digits(self)?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            digits(self)?;
        }
        number(self.text.get(start..self.at)?).map(|_| ())
    }

    /// Takes the next value of a validated container. For an object, it is the next name or value. `None` at
    /// the end.
    fn next_value(&mut self) -> Option<Value<'a>> {
        self.skip_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':'));
        let start = self.at;
        match self.take() {
            b'"' => self.skip_string(),
            b'{' | b'[' => {
                let mut depth = 1u32;
                while depth != 0 {
                    match self.take() {
                        b'"' => self.skip_string(),
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ if self.at > self.text.len() => return None,
                        _ => {}
                    }
                }
            }
            b'}' | b']' | 0 => return None,
            _ => self.skip_while(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b'}' | b']')),
        }
        self.text.get(start..self.at).map(Value)
    }

    /// Skips the rest of a valid string.
    fn skip_string(&mut self) {
        loop {
            match self.take() {
                b'"' => return,
                b'\\' => self.at += 1,
                _ if self.at > self.text.len() => return,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_json_is_accepted() {
        for valid in [
            "{}",
            " [ ] ",
            "[1, -0, 2.5e-3, 1E+2, true, false, null, \"a\\u00e9\\n\\/\\\"\"]",
            "{\"a\" : {\"b\" : [[], {}]}, \"a\":\"\u{e9}\"}",
            "[\"\\ud83d\\ude00\", 9223372036854775807, 1e-999]",
        ] {
            assert!(Value::parse(valid.as_bytes()).is_some(), "{valid}");
        }
        for invalid in [
            "",
            "1",
            "\"a\"",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "[1 2]",
            "[01]",
            "[-]",
            "[1.]",
            "[.5]",
            "[1e]",
            "[+1]",
            "[nul]",
            "[truex]",
            "[\"\\x\"]",
            "[\"\\u12\"]",
            "[\"\\u0000\"]",
            "[\"\\ud800\"]",
            "[\"\\udc00\"]",
            "[\"\\ud800\\u0041\"]",
            "[\"\n\"]",
            "[9223372036854775808]",
            "[1e999]",
            "[] []",
            "[}",
            "\u{feff}[]",
            "[1]x",
            "{\"a\":1]",
            "[\"a]",
        ] {
            assert!(Value::parse(invalid.as_bytes()).is_none(), "{invalid}");
        }
        assert!(Value::parse(b"[\"\xff\"]").is_none());
        assert!(Value::parse(b"[\0]").is_none());
    }

    /// Texts of arrays and objects. They are valid, or have one character too many or too few.
    fn nested_arrays() -> impl Strategy<Value = String> {
        let leaf = "-?(0|[1-9][0-9]{0,8})([.][0-9]{1,3})?([eE][+-]?[0-9]{1,2})?|true|false|null|\"[a-z\u{e9}]{0,3}\"";
        let value = leaf.prop_recursive(4, 24, 4, |inner| {
            let many = proptest::collection::vec(inner, 0..4);
            prop_oneof![
                many.clone().prop_map(|items| format!("[{}]", items.join(","))),
                many.prop_map(|items| {
                    let members: Vec<String> = items.iter().map(|item| format!("\"a\": {item}")).collect();
                    format!("{{{}}}", members.join(" ,"))
                }),
            ]
        });
        (value, any::<proptest::sample::Index>(), 0..3).prop_map(|(mut text, at, change)| {
            let at = text.floor_char_boundary(at.index(text.len() + 1));
            match change {
                0 if at < text.len() => drop(text.remove(at)),
                1 => text.insert(at, ','),
                _ => {}
            }
            text
        })
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(Value::parse(&nested(2048)).is_some());
        assert!(Value::parse(&nested(2049)).is_none());
        let with_scalar = [vec![b'['; 2048], vec![b'1'], vec![b']'; 2048]].concat();
        assert!(Value::parse(&with_scalar).is_none());
        assert!(Value::parse(&[b'['; 1_000_000]).is_none());
    }

    #[test]
    fn values_are_found_in_place() {
        let text = br#" {"a":[1,[2,"]"],{"x":"}"}] ,"b" : -0, "\u0062":2.5,"c":"\u0050olygon"} "#;
        let root = Value::parse(text).unwrap();
        assert!(root.is_object());
        let elements: Vec<_> = root.member("a").unwrap().elements().unwrap().collect();
        assert_eq!(elements, [Value(b"1"), Value(br#"[2,"]"]"#), Value(br#"{"x":"}"}"#)]);
        assert_eq!(elements[1].array().map(|[a, b]| (a.number(), b.number())), Some((Some(2.0), None)));
        assert_eq!(elements[1].array::<3>(), None);
        assert_eq!(elements[1].array::<1>(), None);
        assert_eq!(root.member("b").and_then(Value::number), Some(2.5), "the last counts, escaped or not");
        assert!(root.member("c").unwrap().is_text("Polygon"));
        assert!(!root.member("c").unwrap().is_text("Poly"));
        assert_eq!(root.member("d"), None);
        assert!(root.elements().is_none());
        assert_eq!(Value(b"-0").number().map(f64::to_bits), Some(0), "an integer has no negative zero");
        assert_eq!(Value(b"-0.0").number().map(f64::to_bits), Some((-0.0f64).to_bits()));
    }

    proptest! {
        #[test]
        fn the_same_texts_are_accepted_as_by_serde_json(
            text in "[ \\t]?[\\[{]([\\[\\]{}\",:]|\"[a-z]{0,2}\"|\\\\[nbux\"/]|[0-9]{1,3}|[-.eE+]|true|null|[ ,]){0,12}[\\]}] ?",
            value in nested_arrays(),
        ) {
            for text in [text, value] {
                let theirs = serde_json::from_str::<serde_json::Value>(&text);
                let is_container = theirs.is_ok_and(|value| value.is_object() || value.is_array());
                prop_assert_eq!(Value::parse(text.as_bytes()).is_some(), is_container, "{}", text);
            }
        }

        #[test]
        fn any_bytes_are_accepted_or_not(text in "[\\[\\]{}\",:0-9a-z\\\\ .eE+-]{0,40}", bytes: Vec<u8>) {
            for text in [text.as_bytes(), &bytes] {
                if let Some(value) = Value::parse(text) {
                    let _ = value.member("a");
                    let _ = value.elements().map(|elements| elements.map(Value::number).count());
                }
            }
        }
    }
}

//! Parser of the `-o` option; [`super::object_spec`] has the grammar.

use super::object_spec::{BINS_MAX, COUNT_MAX, DEPTH_MAX, LENGTH_MAX, ObjectSpec, ValueSpec, integer_range};

pub(super) fn parse(text: &str) -> Result<ObjectSpec, String> {
    let mut parser = Parser { text, at: 0 };
    let items = parser.items(0, None)?;
    let mut bins = Vec::new();
    for (count, value) in items {
        for _ in 0..count {
            bins.push(value.clone());
        }
        if bins.len() > BINS_MAX {
            return Err(format!("object spec \"{text}\" has more than {BINS_MAX} bins"));
        }
    }
    if bins.is_empty() {
        return Err("the object spec has no bin".to_owned());
    }
    Ok(ObjectSpec { bins })
}

struct Parser<'a> {
    text: &'a str,
    /// Byte position. It is always on a character boundary.
    at: usize,
}

impl Parser<'_> {
    /// Comma-separated `[ count "*" ] type`, up to `close` or the end of the text.
    fn items(&mut self, depth: usize, close: Option<char>) -> Result<Vec<(u32, ValueSpec)>, String> {
        let mut items = Vec::new();
        if self.ends(close) {
            return Ok(items);
        }
        loop {
            let count = self.count()?;
            items.push((count, self.value(depth)?));
            if self.ends(close) {
                return Ok(items);
            }
            self.expect(',')?;
        }
    }

    /// Comma-separated `[ count "*" ] key ":" type`, up to the closing brace.
    fn pairs(&mut self, depth: usize) -> Result<Vec<(u32, ValueSpec, ValueSpec)>, String> {
        let mut pairs: Vec<(u32, ValueSpec, ValueSpec)> = Vec::new();
        if self.ends(Some('}')) {
            return Ok(pairs);
        }
        loop {
            let count = self.count()?;
            let key = self.value(depth)?;
            if !matches!(
                key,
                ValueSpec::Integer(_)
                    | ValueSpec::String(_)
                    | ValueSpec::Blob(_)
                    | ValueSpec::ConstantInteger(_)
                    | ValueSpec::ConstantString(_)
            ) {
                return Err(self.error("a map key is an integer, a string or bytes"));
            }
            self.check_keys_differ(&pairs, count, &key)?;
            self.expect(':')?;
            pairs.push((count, key, self.value(depth)?));
            if self.ends(Some('}')) {
                return Ok(pairs);
            }
            self.expect(',')?;
        }
    }

    /// Checks that a map of `pairs` can have `count` more keys of the kind of `key`.
    fn check_keys_differ(
        &self,
        pairs: &[(u32, ValueSpec, ValueSpec)],
        count: u32,
        key: &ValueSpec,
    ) -> Result<(), String> {
        let alike = pairs.iter().filter(|pair| pair.1 == *key).map(|pair| u64::from(pair.0)).sum::<u64>();
        if alike + u64::from(count) > key.variety() {
            return Err(self.error("there are not as many different keys of this kind"));
        }
        if pairs.iter().any(|pair| may_be(&pair.1, key) || may_be(key, &pair.1)) {
            return Err(self.error("a constant key may be the same as a random one"));
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<ValueSpec, String> {
        if depth > DEPTH_MAX {
            return Err(self.error("lists and maps are nested too deep"));
        }
        self.skip_space();
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Err(self.error("a value is missing"));
        };
        match first {
            '[' => {
                self.at += 1;
                Ok(ValueSpec::List(self.items(depth + 1, Some(']'))?))
            }
            '{' => {
                self.at += 1;
                Ok(ValueSpec::Map(self.pairs(depth + 1)?))
            }
            '"' => self.string_constant(),
            'I' => {
                self.at += 1;
                self.integer_size()
            }
            'S' => {
                self.at += 1;
                Ok(ValueSpec::String(self.length()?))
            }
            'B' => {
                self.at += 1;
                Ok(ValueSpec::Blob(self.length()?))
            }
            _ => self.word(),
        }
    }

    /// The part after an `I`: nothing, or the number of bytes.
    fn integer_size(&mut self) -> Result<ValueSpec, String> {
        match self.rest().chars().next() {
            Some(digit @ '1'..='8') => {
                self.at += 1;
                Ok(ValueSpec::Integer(digit as u8 - b'0'))
            }
            Some(c) if c.is_ascii_alphanumeric() => Err(self.error("I is followed by 1 to 8")),
            _ => Ok(ValueSpec::Integer(4)),
        }
    }

    /// The length after an `S` or `B`. Older tools wrote a colon before it.
    fn length(&mut self) -> Result<u32, String> {
        if self.rest().starts_with(':') {
            self.at += 1;
        }
        let digits = self.take_while(|c| c.is_ascii_digit());
        match digits.parse() {
            Ok(length @ 1..=LENGTH_MAX) => Ok(length),
            _ => Err(self.error("S and B are followed by a length of 1 to 8388608")),
        }
    }

    /// `b`, `D`, or a constant number or bool.
    fn word(&mut self) -> Result<ValueSpec, String> {
        let start = self.at;
        let word = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+')).to_owned();
        let value = match word.to_ascii_lowercase().as_str() {
            "b" if word == "b" => Some(ValueSpec::Bool),
            "d" if word == "D" => Some(ValueSpec::Float),
            "t" | "true" => Some(ValueSpec::ConstantBool(true)),
            "f" | "false" => Some(ValueSpec::ConstantBool(false)),
            lower if lower.contains('.') => {
                lower.strip_suffix('f').unwrap_or(lower).parse().ok().map(ValueSpec::ConstantFloat)
            }
            lower => integer_constant(lower).map(ValueSpec::ConstantInteger),
        };
        value.ok_or_else(|| {
            self.at = start;
            self.error("expected b, I, S, B, D, a constant, a list or a map")
        })
    }

    fn string_constant(&mut self) -> Result<ValueSpec, String> {
        let start = self.at;
        let mut text = String::new();
        let mut escaped = false;
        for (offset, c) in self.text[start + 1..].char_indices() {
            match (escaped, c) {
                (true, 'n') => text.push('\n'),
                (true, 't') => text.push('\t'),
                (true, 'r') => text.push('\r'),
                (true, other) => text.push(other),
                (false, '\\') => {
                    escaped = true;
                    continue;
                }
                (false, '"') => {
                    self.at = start + 1 + offset + 1;
                    return Ok(ValueSpec::ConstantString(text));
                }
                (false, other) => text.push(other),
            }
            escaped = false;
        }
        Err(self.error("the string is not closed"))
    }

    /// The number in a `count "*"` here; 1 if there is none.
    fn count(&mut self) -> Result<u32, String> {
        self.skip_space();
        let digits = self.rest().len() - self.rest().trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = self.rest().split_at(digits);
        if digits == 0 || !after.trim_start().starts_with('*') {
            return Ok(1);
        }
        match number.parse() {
            Ok(count @ 1..=COUNT_MAX) => {
                self.at += digits;
                self.expect('*')?;
                Ok(count)
            }
            _ => Err(self.error("a count is 1 to 1048576")),
        }
    }

    /// Whether the list of items ends here. Consumes `close`.
    fn ends(&mut self, close: Option<char>) -> bool {
        self.skip_space();
        match close {
            None => self.rest().is_empty(),
            Some(close) if self.rest().starts_with(close) => {
                self.at += close.len_utf8();
                true
            }
            Some(_) => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        self.skip_space();
        if !self.rest().starts_with(wanted) {
            return Err(self.error(&format!("expected '{wanted}'")));
        }
        self.at += wanted.len_utf8();
        Ok(())
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &str {
        let rest = &self.text[self.at..];
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn error(&self, what: &str) -> String {
        let place = if self.rest().is_empty() { "its end" } else { self.rest() };
        format!("object spec \"{}\": {what}, at {place}", self.text)
    }
}

/// Whether a value of the random kind `random` can equal the constant `constant`.
fn may_be(random: &ValueSpec, constant: &ValueSpec) -> bool {
    match (random, constant) {
        (ValueSpec::Integer(bytes), ValueSpec::ConstantInteger(value)) => {
            let (low, high) = integer_range(*bytes);
            (low..=high).contains(&(*value as u64))
        }
        (ValueSpec::String(length), ValueSpec::ConstantString(text)) => text.len() == *length as usize,
        _ => false,
    }
}

/// A number in decimal or `0x` hexadecimal digits, with an optional sign.
fn integer_constant(word: &str) -> Option<i64> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1i128, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let magnitude = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    i64::try_from(sign * i128::from(magnitude)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ValueSpec as V;
    use super::*;

    fn bins(text: &str) -> Vec<V> {
        parse(text).unwrap().bins
    }

    #[test]
    fn scalars() {
        assert_eq!(bins("I"), [V::Integer(4)]);
        assert_eq!(bins("I1,S16, B12 ,D,b"), [V::Integer(1), V::String(16), V::Blob(12), V::Float, V::Bool]);
        assert_eq!(bins("S:50"), [V::String(50)]);
        assert_eq!(bins("2*I8"), [V::Integer(8), V::Integer(8)]);
    }

    #[test]
    fn constants() {
        assert_eq!(bins("123, -10, 0x3ff"), [123, -10, 1023].map(V::ConstantInteger));
        assert_eq!(bins("T, FALSE"), [true, false].map(V::ConstantBool));
        assert_eq!(bins("123.456, 3.5f, -10.20"), [123.456, 3.5, -10.2].map(V::ConstantFloat));
        assert_eq!(bins(r#""a \"b\"\t,""#), [V::ConstantString("a \"b\"\t,".to_owned())]);
        assert_eq!(bins("-9223372036854775808"), [V::ConstantInteger(i64::MIN)]);
    }

    #[test]
    fn collections() {
        assert_eq!(bins("[]"), [V::List(vec![])]);
        assert_eq!(bins("[3*I2, S4]"), [V::List(vec![(3, V::Integer(2)), (1, V::String(4))])]);
        let inner = V::List(vec![(3, V::Integer(4)), (1, V::ConstantInteger(1))]);
        let map = V::Map(vec![(2, V::String(1), inner), (1, V::Integer(1), V::String(1))]);
        assert_eq!(bins("{2*S1:[3*I,1],1*I1:S1}"), [map]);
        assert_eq!(bins("{}"), [V::Map(vec![])]);
        assert_eq!(bins("{I1:1, 256:1, S1:1, \"ab\":1}").len(), 1);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, what) in [
            ("", "no bin"),
            ("I9", "1 to 8"),
            ("S", "length"),
            ("S0", "length"),
            ("B99999999999", "length"),
            ("[I1", "expected ','"),
            ("I1 I2", "expected ','"),
            ("I1,", "missing"),
            ("{I1}", "expected ':'"),
            ("{D:I1}", "map key"),
            ("{300*I1:I1}", "different keys"),
            ("{2*7:I1}", "different keys"),
            ("{1:I1,1:I2}", "different keys"),
            ("{I1:I1,5:I2}", "constant key"),
            ("{\"a\":I1,S1:I2}", "constant key"),
            ("\"open", "not closed"),
            ("0*I", "count"),
            ("x", "expected b"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        assert!(parse(&deep).unwrap_err().contains("too deep"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-bISBD0-9*,:{}\\[\\]\" .xtTé\\\\]{0,40}") {
            drop(parse(&text));
        }
    }
}

//! Cuts the text of a configuration file into statements and braces.
//!
//! A statement is the words of a line up to a brace; a brace counts only as a word of its own, so that patterns like
//! `${dn}` stay whole. `#` starts a comment wherever it stands. There are no quotes.

/// One statement or brace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item<'a> {
    /// Line in the file, from 1.
    pub line: usize,
    /// Whether it is a statement or a brace.
    pub what: What<'a>,
}

/// The kind of an [`Item`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What<'a> {
    /// A name and the words after it; never empty.
    Words(Vec<&'a str>),
    /// `{`
    Open,
    /// `}`
    Close,
}

#[must_use]
pub(super) fn items(text: &str) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).split('\n').enumerate() {
        let number = index + 1;
        let code = line.split('#').next().unwrap_or_default();
        let mut words = Vec::new();
        for word in code.split(is_space).filter(|word| !word.is_empty()) {
            match word {
                "{" => brace(&mut items, number, &mut words, What::Open),
                "}" => brace(&mut items, number, &mut words, What::Close),
                _ => match glued_brace(word) {
                    Some(name) if words.is_empty() => {
                        words.push(name);
                        brace(&mut items, number, &mut words, What::Open);
                    }
                    _ => words.push(word),
                },
            }
        }
        flush(&mut items, number, &mut words);
    }
    items
}

/// The characters between words; other control characters belong to words.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\u{b}' | '\u{c}')
}

/// The name in a word like `service{`.
fn glued_brace(word: &str) -> Option<&str> {
    word.strip_suffix('{').filter(|name| super::context::CONTEXTS.iter().any(|context| context.word == *name))
}

fn flush<'a>(items: &mut Vec<Item<'a>>, line: usize, words: &mut Vec<&'a str>) {
    if !words.is_empty() {
        items.push(Item { line, what: What::Words(std::mem::take(words)) });
    }
}

fn brace<'a>(items: &mut Vec<Item<'a>>, line: usize, words: &mut Vec<&'a str>, what: What<'a>) {
    flush(items, line, words);
    items.push(Item { line, what });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_and_braces() {
        let text = "a {\r\n\tb 1  2 # c {\n}\nservice{ port ${x} }\n#\n";
        let found: Vec<String> = items(text)
            .iter()
            .map(|item| match &item.what {
                What::Words(words) => format!("{}:{}", item.line, words.join(",")),
                What::Open => format!("{}:{{", item.line),
                What::Close => format!("{}:}}", item.line),
            })
            .collect();
        assert_eq!(found, ["1:a", "1:{", "2:b,1,2", "3:}", "4:service", "4:{", "4:port,${x}", "4:}"]);
    }
}

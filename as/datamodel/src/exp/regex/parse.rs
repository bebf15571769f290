//! Parses a pattern to a [`Node`].
//!
//! If case is ignored, pattern and text count as upper case (except the byte after a backslash). The text is
//! not changed: instead, the sets of bytes include lower case.

use super::set::{ByteSet, class, is_space, is_word};
use super::{Assertion, Flags, Node};

/// Deepest nesting of groups.
const DEPTH_MAX: u32 = 50;
/// Maximum number of consecutive intervals, each of which repeats the ones before it.
const INTERVALS_MAX: u32 = 4;
/// Largest number of repetitions of an interval.
const REPEAT_MAX: u32 = 0x7fff;
/// Longest name in a bracket expression.
const NAME_SIZE_MAX: usize = 31;
/// Number of groups that back-references can name.
const REFERABLE_GROUPS: u32 = 9;

/// The nodes of `pattern`, and whether it has back-references. `None` if it is invalid or nested too deep.
pub(super) fn parse(pattern: &[u8], flags: Flags) -> Option<(Node, bool)> {
    let mut parser = Parser {
        pattern,
        at: 0,
        flags,
        token: Token { kind: Kind::End, byte: 0 },
        group_count: 0,
        complete_groups: 0,
        has_back_references: false,
    };
    parser.advance(true);
    let mut node = parser.alternatives(0)?;
    if !flags.by_line {
        anchor_to_text(&mut node, false, false);
    }
    Some((node, parser.has_back_references))
}

/// Makes `^` and `$` match at the ends of the text instead of lines, with one exception as in the C library:
/// if a match is certain to continue beyond an anchor, the anchor matches next to a newline. For example,
/// `$\n` matches. `is_before` and `is_after` say whether something is certain to come before or after the
/// node.
fn anchor_to_text(node: &mut Node, is_before: bool, is_after: bool) {
    match node {
        Node::Assertion(assertion @ Assertion::LineStart) if !is_before => *assertion = Assertion::TextStart,
        Node::Assertion(assertion @ Assertion::LineEnd) if !is_after => *assertion = Assertion::TextEnd,
        Node::Concat(nodes) => {
            let last = nodes.iter().rposition(Node::takes_a_byte);
            let mut is_before = is_before;
            for (n, node) in nodes.iter_mut().enumerate() {
                anchor_to_text(node, is_before, is_after || last.is_some_and(|last| last > n));
                is_before |= node.takes_a_byte();
            }
        }
        Node::Alternate(nodes) => {
            nodes.iter_mut().for_each(|node| anchor_to_text(node, is_before, is_after));
        }
        Node::Group(_, node) | Node::Repeat { node, .. } => anchor_to_text(node, is_before, is_after),
        Node::Empty | Node::Set(_) | Node::Assertion(_) | Node::BackReference(_) => {}
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Byte,
    Period,
    /// Bytes of a class, or bytes outside it.
    Word(bool),
    Space(bool),
    Assertion(Assertion),
    BackReference(u32),
    Alternative,
    GroupStart,
    GroupEnd,
    BracketStart,
    Star,
    Plus,
    Question,
    IntervalStart,
    IntervalEnd,
    /// A backslash at the end.
    Backslash,
    End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Token {
    kind: Kind,
    /// The byte of the token, if the token has no meaning.
    byte: u8,
}

struct Parser<'p> {
    pattern: &'p [u8],
    at: usize,
    flags: Flags,
    /// The current token; `at` is after it.
    token: Token,
    group_count: u32,
    /// Bit n: group n, from 0, is complete in this alternative, so that a back-reference can name it.
    complete_groups: u16,
    has_back_references: bool,
}

/// # Tokens
impl Parser<'_> {
    fn byte(&self, ahead: usize) -> Option<u8> {
        let byte = *self.pattern.get(self.at + ahead)?;
        Some(if self.flags.ignore_case { byte.to_ascii_uppercase() } else { byte })
    }

    /// Reads the next token. With `caret_is_anchor`, `^` is an anchor at this place in the basic dialect.
    fn advance(&mut self, caret_is_anchor: bool) {
        let (token, len) = self.peek(caret_is_anchor);
        self.token = token;
        self.at += len;
    }

    /// The next token and its length.
    fn peek(&self, caret_is_anchor: bool) -> (Token, usize) {
        let Some(byte) = self.byte(0) else { return (Token { kind: Kind::End, byte: 0 }, 0) };
        if byte == b'\\' {
            return match self.pattern.get(self.at + 1) {
                None => (Token { kind: Kind::Backslash, byte }, 1),
                Some(&byte) => (Token { kind: self.escaped(byte), byte }, 2),
            };
        }
        let extended = |kind| if self.flags.extended { kind } else { Kind::Byte };
        let kind = match byte {
            b'|' => extended(Kind::Alternative),
            b'*' => Kind::Star,
            b'+' => extended(Kind::Plus),
            b'?' => extended(Kind::Question),
            b'{' => extended(Kind::IntervalStart),
            b'}' => extended(Kind::IntervalEnd),
            b'(' => extended(Kind::GroupStart),
            b')' => extended(Kind::GroupEnd),
            b'[' => Kind::BracketStart,
            b'.' => Kind::Period,
            b'^' if self.flags.extended || caret_is_anchor || self.at == 0 => {
                Kind::Assertion(Assertion::LineStart)
            }
            b'$' if self.flags.extended || self.is_dollar_anchor() => Kind::Assertion(Assertion::LineEnd),
            _ => Kind::Byte,
        };
        (Token { kind, byte }, 1)
    }

    /// The meaning of a byte after a backslash.
    fn escaped(&self, byte: u8) -> Kind {
        let basic = |kind| if self.flags.extended { Kind::Byte } else { kind };
        match byte {
            b'|' => basic(Kind::Alternative),
            b'1'..=b'9' => Kind::BackReference(u32::from(byte - b'1')),
            b'<' => Kind::Assertion(Assertion::WordStart),
            b'>' => Kind::Assertion(Assertion::WordEnd),
            b'b' => Kind::Assertion(Assertion::WordBoundary),
            b'B' => Kind::Assertion(Assertion::NoWordBoundary),
            b'`' => Kind::Assertion(Assertion::TextStart),
            b'\'' => Kind::Assertion(Assertion::TextEnd),
            b'w' => Kind::Word(true),
            b'W' => Kind::Word(false),
            b's' => Kind::Space(true),
            b'S' => Kind::Space(false),
            b'(' => basic(Kind::GroupStart),
            b')' => basic(Kind::GroupEnd),
            b'+' => basic(Kind::Plus),
            b'?' => basic(Kind::Question),
            b'{' => basic(Kind::IntervalStart),
            b'}' => basic(Kind::IntervalEnd),
            _ => Kind::Byte,
        }
    }

    /// Whether the next byte, a dollar, ends the pattern, a group or an alternative.
    fn is_dollar_anchor(&self) -> bool {
        matches!(self.pattern.get(self.at + 1..), Some([] | [b'\\', b'|' | b')', ..]))
    }
}

/// # Grammar
impl Parser<'_> {
    fn alternatives(&mut self, depth: u32) -> Option<Node> {
        let complete_before = self.complete_groups;
        let first = self.sequence(depth)?;
        if self.token.kind != Kind::Alternative {
            return Some(first);
        }
        let mut alternatives = vec![first];
        while self.token.kind == Kind::Alternative {
            self.advance(true);
            let is_empty = match self.token.kind {
                Kind::Alternative | Kind::End => true,
                kind => depth != 0 && kind == Kind::GroupEnd,
            };
            alternatives.push(if is_empty {
                Node::Empty
            } else {
                let complete = std::mem::replace(&mut self.complete_groups, complete_before);
                let alternative = self.sequence(depth)?;
                self.complete_groups |= complete;
                alternative
            });
        }
        Some(Node::Alternate(alternatives))
    }

    fn sequence(&mut self, depth: u32) -> Option<Node> {
        let mut nodes = Vec::new();
        loop {
            match self.repeated(depth)? {
                Node::Empty => {}
                node => nodes.push(node),
            }
            match self.token.kind {
                Kind::Alternative | Kind::End => break,
                Kind::GroupEnd if depth != 0 => break,
                _ => {}
            }
        }
        Some(match nodes.len() {
            0 => Node::Empty,
            1 => nodes.pop()?,
            _ => Node::Concat(nodes),
        })
    }

    /// One element with the repetitions that follow it.
    fn repeated(&mut self, depth: u32) -> Option<Node> {
        let mut node = match self.token.kind {
            Kind::Byte => self.literal(),
            Kind::Period => self.period(),
            Kind::Word(wanted) => self.set(ByteSet::where_(|byte| is_word(byte) == wanted)),
            Kind::Space(wanted) => self.set(ByteSet::where_(|byte| is_space(byte) == wanted)),
            Kind::BracketStart => self.bracket()?,
            Kind::GroupStart => self.group(depth)?,
            Kind::BackReference(group) => {
                if self.complete_groups & 1 << group == 0 {
                    return None;
                }
                self.has_back_references = true;
                Node::BackReference(group)
            }
            Kind::Assertion(assertion) => {
                // Anchors cannot be repeated, so the next token starts a new element.
                self.advance(false);
                return Some(Node::Assertion(assertion));
            }
            Kind::IntervalStart if !self.flags.extended => return None,
            Kind::Star | Kind::Plus | Kind::Question | Kind::IntervalStart if self.flags.extended => {
                return None;
            }
            Kind::GroupEnd if !self.flags.extended => return None,
            Kind::Star | Kind::Plus | Kind::Question | Kind::IntervalStart => self.literal(),
            Kind::GroupEnd | Kind::IntervalEnd => self.literal(),
            Kind::Alternative | Kind::End => return Some(Node::Empty),
            Kind::Backslash => return None,
        };
        self.advance(false);
        let mut interval_count = 0;
        while let Kind::Star | Kind::Plus | Kind::Question | Kind::IntervalStart = self.token.kind {
            let (min, max) = self.repetition()?;
            self.advance(false);
            node = repeat(node, min, max, &mut interval_count)?;
            if !self.flags.extended && matches!(self.token.kind, Kind::Star | Kind::IntervalStart) {
                return None;
            }
        }
        Some(node)
    }

    fn literal(&self) -> Node {
        self.set(ByteSet::of(self.token.byte))
    }

    /// The bytes of a text that are in `set` when converted to upper case.
    fn set(&self, set: ByteSet) -> Node {
        Node::Set(if self.flags.ignore_case {
            ByteSet::where_(|byte| set.contains(byte.to_ascii_uppercase()))
        } else {
            set
        })
    }

    fn period(&self) -> Node {
        Node::Set(ByteSet::where_(|byte| !self.flags.by_line || byte != b'\n'))
    }

    fn group(&mut self, depth: u32) -> Option<Node> {
        if depth >= DEPTH_MAX {
            return None;
        }
        let group = self.group_count;
        self.group_count += 1;
        self.advance(true);
        let contents = match self.token.kind {
            Kind::GroupEnd => Node::Empty,
            _ => self.alternatives(depth + 1)?,
        };
        if self.token.kind != Kind::GroupEnd {
            return None;
        }
        if group < REFERABLE_GROUPS {
            self.complete_groups |= 1 << group;
        }
        Some(Node::Group(group, Box::new(contents)))
    }

    /// The bounds of the repetition in the current token.
    fn repetition(&mut self) -> Option<(u32, Option<u32>)> {
        Some(match self.token.kind {
            Kind::Plus => (1, None),
            Kind::Question => (0, Some(1)),
            Kind::IntervalStart => {
                let min = match self.number()? {
                    Some(min) => min,
                    None if self.is_comma() => 0,
                    None => return None,
                };
                let max = match self.token.kind {
                    Kind::IntervalEnd => Some(min),
                    _ if self.is_comma() => self.number()?,
                    _ => return None,
                };
                if self.token.kind != Kind::IntervalEnd
                    || max.is_some_and(|max| max < min)
                    || max.unwrap_or(min) > REPEAT_MAX
                {
                    return None;
                }
                (min, max)
            }
            _ => (0, None),
        })
    }

    fn is_comma(&self) -> bool {
        self.token == Token { kind: Kind::Byte, byte: b',' }
    }

    /// The number before a comma or the end of the interval, which is then the current token. `Some(None)` if
    /// there are no digits.
    fn number(&mut self) -> Option<Option<u32>> {
        let mut number = None;
        loop {
            self.advance(false);
            match self.token {
                Token { kind: Kind::End, .. } => return None,
                Token { kind: Kind::IntervalEnd, .. } | Token { byte: b',', .. } => return Some(number),
                Token { kind: Kind::Byte, byte: digit @ b'0'..=b'9' } => {
                    let digit = u32::from(digit - b'0');
                    number = Some((number.unwrap_or(0) * 10 + digit).min(REPEAT_MAX + 1));
                }
                _ => return None,
            }
        }
    }
}

/// `node` repeated. Consecutive `*`, `+` and `?` are combined into one; other repetitions nest, up to a
/// limit.
fn repeat(node: Node, min: u32, max: Option<u32>, interval_count: &mut u32) -> Option<Node> {
    if matches!(node, Node::Empty) || max == Some(0) {
        return Some(Node::Empty);
    }
    if let (0..=1, None | Some(1)) = (min, max)
        && let Node::Repeat { node: inner, min: inner_min @ (0..=1), max: inner_max @ (None | Some(1)) } =
            node
    {
        let max = if max.is_none() || inner_max.is_none() { None } else { Some(1) };
        return Some(Node::Repeat { node: inner, min: min.min(inner_min), max });
    }
    *interval_count += 1;
    if *interval_count > INTERVALS_MAX {
        return None;
    }
    Some(Node::Repeat { node: Box::new(node), min, max })
}

/// # Bracket expressions
impl Parser<'_> {
    /// The bracket expression that starts at the current token.
    fn bracket(&mut self) -> Option<Node> {
        let mut set = ByteSet::default();
        let is_negated = self.byte(0) == Some(b'^');
        if is_negated {
            self.at += 1;
            if self.flags.by_line {
                set.insert(b'\n');
            }
        }
        let mut is_first = true;
        loop {
            let start = self.bracket_element(is_first)?;
            is_first = false;
            if start.is_single() && self.is_range()? {
                self.at += 1;
                let end = self.bracket_element(true)?;
                let (Element::Byte(first), Element::Byte(last)) = (start, end) else { return None };
                if first > last {
                    return None;
                }
                set.union(&ByteSet::where_(|byte| (first..=last).contains(&byte)));
            } else {
                match start {
                    Element::Byte(byte) => set.insert(byte),
                    Element::Equivalents(byte) => set.insert(byte),
                    Element::Class(class) => set.union(&class),
                }
            }
            if self.byte(0)? == b']' {
                self.at += 1;
                break;
            }
        }
        Some(self.set(if is_negated { set.complement() } else { set }))
    }

    /// Whether the next byte is the hyphen of a range, and not the last byte of the list. `None` at the end.
    fn is_range(&self) -> Option<bool> {
        Some(self.byte(0)? == b'-' && self.byte(1)? != b']')
    }

    /// Reads an element of a list. With `hyphen_is_byte`, a hyphen is allowed here; otherwise it is allowed
    /// only at the end of the list.
    fn bracket_element(&mut self, hyphen_is_byte: bool) -> Option<Element> {
        let byte = self.byte(0)?;
        if byte == b'['
            && let Some(delimiter @ (b'.' | b'=' | b':')) = self.byte(1)
        {
            self.at += 2;
            return self.bracket_symbol(delimiter);
        }
        self.at += 1;
        if byte == b'-' && !hyphen_is_byte && self.byte(0)? != b']' {
            return None;
        }
        Some(Element::Byte(byte))
    }

    /// Reads a collating symbol, an equivalence class or a class, after its opening.
    fn bracket_symbol(&mut self, delimiter: u8) -> Option<Element> {
        let rest = self.pattern.get(self.at..)?;
        let len = rest.windows(2).take(NAME_SIZE_MAX + 1).position(|pair| pair == [delimiter, b']'])?;
        let name = rest.get(..len)?;
        self.at += len + 2;
        if self.at > self.pattern.len() {
            return None;
        }
        let folded = |byte: &u8| if self.flags.ignore_case { byte.to_ascii_uppercase() } else { *byte };
        Some(match (delimiter, name) {
            (b':', b"upper" | b"lower") if self.flags.ignore_case => Element::Class(class(b"alpha")?),
            (b':', name) => Element::Class(class(name)?),
            (b'=', [byte]) => Element::Equivalents(folded(byte)),
            (b'.', [byte]) => Element::Byte(folded(byte)),
            _ => return None,
        })
    }
}

/// An element of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Element {
    Byte(u8),
    Equivalents(u8),
    Class(ByteSet),
}

impl Element {
    /// Whether the element can begin a range.
    const fn is_single(self) -> bool {
        matches!(self, Self::Byte(_))
    }
}

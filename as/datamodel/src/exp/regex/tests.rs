//! Compares patterns with the C library's `regcomp` and `regexec` in the C locale.

use proptest::prelude::*;

use super::{Matcher, Regex};
use crate::budget::{Budget, unlimited};

/// Whether a part of `text` matches, with and without a limit of the budget. An automaton is tested both on
/// the whole text and byte by byte.
fn is_match(regex: &Regex, text: &[u8]) -> Option<bool> {
    let Matcher::Automaton(automaton) = &regex.0 else {
        return unlimited(|budget| budget.check(Ok(regex.is_match(text, budget)))).ok().flatten();
    };
    let answer = regex.is_match(text, &Budget::unlimited());
    let text = super::before_zero(text);
    for steps in [u64::MAX, 1000, 100] {
        let budget = Budget::new(steps);
        let stepwise = automaton.is_match_stepwise(text, &budget);
        assert_eq!(stepwise, answer.filter(|_| !budget.is_exhausted()), "step by step");
        assert!(!budget.is_exhausted() || steps < u64::MAX);
    }
    answer
}

/// Flags, pattern, and texts with whether they match. `None` if the pattern is refused.
type Row = (u64, &'static [u8], Option<&'static [(&'static [u8], bool)]>);

const CASES: &[Row] = &[
    (1, b"^ab+c$", Some(&[(b"abbbc", true), (b"abbbcd", false), (b"xabc", false), (b"ac", false)])),
    (0, b"ab+", Some(&[(b"ab+", true), (b"abb", false)])),
    (0, b"ab\\+$", Some(&[(b"abb", true), (b"ab+", false)])),
    (1, b"a|b", Some(&[(b"xbx", true), (b"c", false)])),
    (0, b"a|b", Some(&[(b"a|b", true), (b"a", false)])),
    (0, b"a\\|b", Some(&[(b"b", true)])),
    (2, b"MiXed[a-c]", Some(&[(b"xMIXEDB", true), (b"mixedd", false)])),
    (3, b"^[[:lower:]]+$", Some(&[(b"ABc", true), (b"a1", false)])),
    (2, b"\\a", Some(&[(b"a", false), (b"A", false)])),
    (2, b"[Z-a]", None),
    (0, b"[Z-a]", Some(&[(b"Z", true), (b"_", true), (b"b", false)])),
    (4, b"^b$", Some(&[(b"a\nb\nc", true), (b"ab", false)])),
    (0, b"^b$", Some(&[(b"a\nb\nc", false), (b"b", true)])),
    (4, b"a.b", Some(&[(b"a\nb", false)])),
    (0, b"a.b", Some(&[(b"a\nb", true)])),
    (4, b"a[^x]b", Some(&[(b"a\nb", false)])),
    (4, b"a\\Wb", Some(&[(b"a\nb", true)])),
    (1, b"$\n", Some(&[(b"a\nb", true), (b"a", false)])),
    (1, b"x^", Some(&[(b"x\n", false)])),
    (1, b"\n^b", Some(&[(b"a\nb", true)])),
    (0, b"a^b", Some(&[(b"a^b", true)])),
    (1, b"a^b", Some(&[(b"a^b", false)])),
    (0, b"a$b", Some(&[(b"a$b", true)])),
    (0, b"\\(^a\\)", Some(&[(b"ba", false), (b"ab", true)])),
    (0, b"a\\(b$\\)", Some(&[(b"xab", true)])),
    (0, b"*a", Some(&[(b"*a", true), (b"a", false)])),
    (1, b"*a", None),
    (0, b"\\(*a\\)", Some(&[(b"*a", true)])),
    (1, b"(*a)", None),
    (1, b"a**", Some(&[(b"b", true)])),
    (0, b"a**", None),
    (0, b"^*", Some(&[(b"*", true), (b"a", false)])),
    (1, b"^*", None),
    (0, b"^^a", Some(&[(b"^a", true), (b"a", false)])),
    (1, b"^^a", Some(&[(b"a", true)])),
    (1, b"a{2,3}$", Some(&[(b"baaa", true), (b"a", false)])),
    (1, b"a{,2}b", Some(&[(b"b", true)])),
    (1, b"a{,}b", Some(&[(b"aaab", true)])),
    (1, b"a{3,2}", None),
    (1, b"a{", None),
    (1, b"a{1", None),
    (1, b"a{x}", None),
    (1, b"a{1,2,3}", None),
    (1, b"a{32767}", Some(&[(b"a", false)])),
    (1, b"a{32768}", None),
    (1, b"a{0}b", Some(&[(b"b", true)])),
    (0, b"a\\{2\\}", Some(&[(b"aa", true), (b"a{2}", false)])),
    (0, b"\\{2\\}", None),
    (0, b"a{2}", Some(&[(b"a{2}", true)])),
    (1, b"{1}", None),
    (1, b"a}", Some(&[(b"a}", true)])),
    (0, b"a\\}", Some(&[(b"a}", true)])),
    (1, b"a)", Some(&[(b"a)", true)])),
    (1, b"(a", None),
    (0, b"a\\)", None),
    (0, b"\\(a", None),
    (1, b"()", Some(&[(b"", true)])),
    (1, b"(|a)b", Some(&[(b"b", true)])),
    (1, b"a||b", Some(&[(b"x", true)])),
    (1, b"a|", Some(&[(b"", true)])),
    (1, b"", Some(&[(b"x", true)])),
    (1, b"(a+)\\1b", Some(&[(b"aaab", true), (b"ab", false)])),
    (0, b"\\(a*\\)x\\1$", Some(&[(b"aaxaa", true), (b"aaxa", true)])),
    (1, b"(a)|\\1", None),
    (1, b"\\1(a)", None),
    (3, b"(a)\\1", Some(&[(b"aA", true)])),
    (1, b"(a|b)*c\\1", Some(&[(b"abcb", true), (b"abca", false)])),
    (0, b"[]a]", Some(&[(b"]", true), (b"b", false)])),
    (0, b"[^]a]", Some(&[(b"]", false), (b"b", true)])),
    (0, b"[a-]", Some(&[(b"-", true)])),
    (0, b"[-a]", Some(&[(b"-", true)])),
    (0, b"[a-c-e]", None),
    (0, b"[%--]", Some(&[(b"-", true), (b",", true)])),
    (0, b"[[:digit:]_]", Some(&[(b"7", true), (b"x", false)])),
    (0, b"[[:foo:]]", None),
    (0, b"[[.a.]-c]", Some(&[(b"b", true)])),
    (0, b"[[=a=]]", Some(&[(b"a", true)])),
    (0, b"[[=ab=]]", None),
    (0, b"[[.space.]]", None),
    (0, b"[[:digit:]-z]", None),
    (0, b"[a", None),
    (0, b"[]", None),
    (0, b"[[:alpha:", None),
    (0, b"[\\]", Some(&[(b"\\", true)])),
    (0, b"[^a]", Some(&[(b"\xc3\xa9", true), (b"a", false)])),
    (1, b"[[:space:]]", Some(&[(b"\x0b", true)])),
    (1, b"\\bab\\b", Some(&[(b"x ab y", true), (b"xab", false)])),
    (1, b"\\Bb", Some(&[(b"ab", true), (b"b", false)])),
    (1, b"\\<a", Some(&[(b"b a", true), (b"ba", false)])),
    (1, b"a\\>", Some(&[(b"ba c", true), (b"ab", false)])),
    (5, b"\\`b", Some(&[(b"a\nb", false)])),
    (5, b"b\\'", Some(&[(b"b\na", false)])),
    (1, b"^\\w+\\s\\S\\W$", Some(&[(b"ab_1 x-", true), (b"ab x1", false)])),
    (1, b"a\\", None),
    (1, b"\\.", Some(&[(b"a", false), (b".", true)])),
    (1, b".", Some(&[(b"", false), (b"\xc3\xa9", true)])),
    (8, b"a", Some(&[(b"a", true)])),
    (1, b"\\b*", None),
    (0, b"\\b*", Some(&[(b"a*", true), (b"*", false)])),
];

#[test]
fn patterns_match_as_in_the_c_library() {
    for (flags, pattern, texts) in CASES {
        let shown = format!("{:?} with flags {flags}", String::from_utf8_lossy(pattern));
        let regex = Regex::new(pattern, *flags, &Budget::unlimited());
        assert_eq!(regex.is_some(), texts.is_some(), "{shown}");
        let Some(regex) = regex else { continue };
        for (text, matches) in texts.unwrap_or_default() {
            assert_eq!(is_match(&regex, text), Some(*matches), "{shown}: {text:?}");
        }
    }
}

#[test]
fn pattern_and_text_end_at_a_zero_byte() {
    let regex = Regex::new(b"a$\0b", 0, &Budget::unlimited()).unwrap();
    assert_eq!(is_match(&regex, b"xa\0y"), Some(true));
    assert_eq!(is_match(&regex, b"x\0a"), Some(false));
}

#[test]
fn patterns_nested_too_deep_or_repeated_too_often_are_refused() {
    assert!(Regex::new(&b"(".repeat(100_000), 1, &Budget::unlimited()).is_none());
    assert!(
        Regex::new(&[b"(".repeat(1_000), b")".repeat(1_000)].concat(), 1, &Budget::unlimited()).is_none()
    );
    assert!(Regex::new(b"((((a{999}){999}){999}){999}){999}", 1, &Budget::unlimited()).is_none());
    assert!(Regex::new(b"(a)\\1{999}{999}{999}", 1, &Budget::unlimited()).is_none());
    assert!(
        Regex::new(&[b"a".as_slice(), &b"*".repeat(1_000_000)].concat(), 1, &Budget::unlimited()).is_some()
    );
    assert!(
        Regex::new(&[b"a".as_slice(), &b"{2}".repeat(1_000)].concat(), 1, &Budget::unlimited()).is_none()
    );
}

#[test]
fn back_references_that_take_too_long_are_unknown() {
    let regex = Regex::new(b"^(a|a|a)*(b)\\2$", 1, &Budget::unlimited()).unwrap();
    assert_eq!(is_match(&regex, b"aabb"), Some(true));
    assert_eq!(is_match(&regex, &b"a".repeat(1_000)), None);
    let regex = Regex::new(b"(x)\\1", 1, &Budget::unlimited()).unwrap();
    assert_eq!(is_match(&regex, &b"x ".repeat(100_000)), Some(false));
}

fn escaped(text: &[u8]) -> Vec<u8> {
    text.iter().flat_map(|byte| [b'[', b'[', b'.', *byte, b'.', b']', b']']).collect()
}

proptest! {
    #[test]
    fn escaped_text_matches_itself_and_what_it_is_part_of(
        text in prop::collection::vec(1u8.., 0..12),
        rest in prop::collection::vec(1u8.., 0..12),
        flags in 0u64..8,
    ) {
        let regex = Regex::new(&escaped(&text), flags, &Budget::unlimited()).unwrap();
        prop_assert_eq!(is_match(&regex, &text), Some(true));
        prop_assert_eq!(is_match(&regex, &[&rest[..], &text].concat()), Some(true));
        let is_in = rest.windows(text.len().max(1)).any(|part| part.eq_ignore_ascii_case(&text)) || text.is_empty();
        if !is_in {
            prop_assert_eq!(is_match(&regex, &rest), Some(false));
        }
    }

    #[test]
    fn a_back_reference_does_not_change_what_matches(
        pattern in "[ab]([*+?]|\\{[0-2],[2-3]\\})?([|]?[abx]|[.]|[\\^$]|\\[[^]a]?[ab]\\]){0,4}",
        text in "[abxy\n]{0,8}",
    ) {
        // A reference to an empty group changes only how the pattern is matched.
        let plain = Regex::new(format!("({pattern})").as_bytes(), 1, &Budget::unlimited());
        let referring = Regex::new(format!("()({pattern})\\1").as_bytes(), 1, &Budget::unlimited());
        match (plain, referring) {
            (Some(plain), Some(referring)) => {
                prop_assert_eq!(is_match(&plain, text.as_bytes()), is_match(&referring, text.as_bytes()));
            }
            (plain, referring) => prop_assert_eq!(plain.is_some(), referring.is_some()),
        }
    }

    #[test]
    fn any_bytes_are_a_pattern_or_none(pattern: Vec<u8>, flags: u64, text: Vec<u8>) {
        if let Some(regex) = Regex::new(&pattern, flags, &Budget::unlimited()) {
            let _ = is_match(&regex, &text);
        }
    }

    #[test]
    fn special_bytes_are_a_pattern_or_none(
        pattern in "[ab(){}\\[\\]*+?|.^$\\\\12,:=\\-]{0,20}",
        flags in 0u64..8,
        text in "[ab12,\n]{0,20}",
    ) {
        if let Some(regex) = Regex::new(pattern.as_bytes(), flags, &Budget::unlimited()) {
            let _ = is_match(&regex, text.as_bytes());
        }
    }
}

//! No text of a file or command makes the parser panic, hang or contradict itself.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::config::command::{get_config, set_config};
use crate::config::context::CONTEXTS;

/// A file of words that configuration files contain, in any order.
fn wordy() -> impl Strategy<Value = String> {
    let mut words: Vec<&'static str> = vec![
        "{",
        "}",
        "{\n",
        "}\n",
        "\n",
        "\n",
        "#",
        " ",
        "any",
        "true",
        "1",
        "0",
        "-1",
        "4G",
        "3000",
        "10d",
        "x",
        "/a",
        "/b",
        "memory",
        "device",
        "pmem",
        "flash",
        "info",
        "100",
        "mesh",
        "multicast",
        "\u{0}",
        "é",
        "\r",
        "\t",
    ];
    for context in CONTEXTS {
        words.push(context.word);
        words.extend(context.specs.iter().map(|spec| spec.name));
    }
    words.extend(obsolete::OBSOLETE.iter().flat_map(|row| row.names));
    prop::collection::vec((prop::sample::select(words), prop::sample::select(vec![" ", " ", "\n"])), 0..300)
        .prop_map(|pairs| pairs.into_iter().flat_map(|(word, gap)| [word, gap]).collect())
}

/// A valid file with some of its characters replaced, removed or doubled.
fn mutated() -> impl Strategy<Value = String> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0_u8..4, any::<char>()), 1..20);
    let sources = vec![include_str!("rich.conf"), DEVELOPER_TEXT];
    (prop::sample::select(sources), edits).prop_map(|(source, edits)| {
        let mut characters: Vec<char> = source.chars().collect();
        for (place, edit, character) in edits {
            let place = place.index(characters.len());
            match edit {
                0 => characters[place] = character,
                1 => {
                    characters.remove(place);
                }
                2 => characters.insert(place, if character.is_alphabetic() { '}' } else { '{' }),
                _ => {
                    let copy: Vec<char> = characters.iter().copied().skip(place).take(60).collect();
                    characters.splice(place..place, copy);
                }
            }
        }
        characters.into_iter().collect()
    })
}

/// Checks the properties of every text: parsing ends, messages state a line, and an accepted configuration
/// can be shown and changed.
fn check(text: &str) {
    let line_count = text.split('\n').count();
    match parse(text, "f.conf") {
        Ok((config, found)) => {
            assert!(found.iter().all(|one| one.severity == Severity::Warning && one.line <= line_count));
            assert!(!get_config(&config, "").contains('\n'));
            for namespace in &config.namespaces {
                assert!(render::namespace(namespace).contains(";storage-engine="));
            }
        }
        Err(found) => {
            assert!(found.iter().any(|one| one.severity == Severity::Error));
            assert!(found.iter().all(|one| one.line <= line_count && !one.message.contains('\n')));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn any_words(text in wordy()) {
        check(&text);
    }

    #[test]
    fn any_mutation(text in mutated()) {
        check(&text);
    }

    #[test]
    fn any_command(params in "[a-z=;.0-9-]{0,60}", value in any::<String>(), index in any::<prop::sample::Index>()) {
        let config = Config::developer();
        let _ = get_config(&config, &params);
        let _ = set_config(&config, &params, &|_| ());
        let specs: Vec<_> = CONTEXTS.iter().flat_map(|context| context.specs).collect();
        let name = specs[index.index(specs.len())].name;
        for place in ["context=service", "context=network", "context=namespace;id=test", "context=namespace;id=test;set=s"] {
            let _ = set_config(&config, &format!("{place};{name}={value}"), &|_| ());
        }
        prop_assert!(!render::namespace(&config.namespaces[0]).is_empty());
    }
}

/// Even the worst kinds of large files are parsed quickly.
#[test]
fn time_is_bounded() {
    let deep = "network {\nservice {\n".repeat(20_000);
    let twice = format!("service {{\n{}", "ticker-interval 1\n".repeat(50_000));
    let obsolete = format!("service {{\n{}", "nsup-period 1\n".repeat(50_000));
    let braces = "{".repeat(50_000) + &" { }".repeat(50_000);
    let sets: String = (0..20_000).map(|index| format!("set s{index} {{\n}}\n")).collect();
    let sets = format!("namespace n {{\n{sets}");
    let levels = format!("logging {{\nconsole {{\n{}", "context any info\n".repeat(50_000));
    let word = format!("service {{\n{} 1\n", "x".repeat(1 << 20));
    for text in [deep, twice, obsolete, braces, sets, levels, word] {
        let start = Instant::now();
        check(&text);
        let name: String = text.chars().take(30).collect();
        assert!(start.elapsed() < Duration::from_secs(60), "{name:?} took {:?}", start.elapsed());
    }
}

//! House rules that the compiler does not check: heads of files, their length, direction of imports, banned
//! words.
//!
//! Lists of exceptions are ratchets: they state the present measure, and fail when it grows or when they
//! could be tightened, so that they only shrink.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/features.rs"]
mod features;

/// Largest number of lines in a file, without its test modules. The aim is half of it.
const FILE_LINES_MAX: usize = 1200;
/// Files above this length are listed in the test's output. They should be split when next changed.
const FILE_LINES_AIM: usize = 600;
/// Longer files, with their length.
const LONG_FILES: &[(&str, usize)] = &[];

/// Largest number of lines in a function, including its signature and closing brace.
const FUNCTION_LINES_MAX: usize = 100;
/// Longer functions, with their length.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// The crates of the project, and the crates of the project that each may use. The tests know the server only
/// from outside.
const CRATES: &[(&str, &[&str])] = &[
    ("build/workspace-hack", &[]),
    ("cf", &["workspace-hack"]),
    ("as/proto", &["cf"]),
    ("as/datamodel", &["cf", "proto"]),
    ("as/cluster", &["cf", "proto", "datamodel"]),
    ("as/certificates", &[]),
    ("as/server", &["cf", "proto", "datamodel", "cluster", "certificates"]),
    ("tools", &["cf", "proto", "datamodel", "certificates"]),
    ("tests", &[]),
    ("tests/fuzz-bodies", &["cf", "proto", "datamodel", "asd"]),
];

/// Layers of the server, lowest first: a module may use those of its own layer and below. `main`, `lib` and
/// modules not named here are above all.
const LAYERS: &[&[&str]] = &[
    &["version", "workers", "side_port", "peer_frames", "peer_misfits", "peer_traffic"],
    &["config", "metrics", "node_id", "best_practices"],
    &["tls"],
    &["namespace", "index", "storage"],
    &["sindex", "smd"],
    &["security"],
    &["udf"],
    &["heartbeat"],
    &["fabric"],
    &["transaction"],
    &["migrate"],
    &["query"],
    &["service"],
    &["health"],
    // These are the parts of the whole server; above them are the modules that report about it.
    &["node"],
    &["ticker", "info"],
    &["exporter"],
    &["ports"],
    &["server", "joining", "leaving", "preflight", "cli", "daemon"],
];

/// Names that must not occur in a crate, because they would break its isolation.
const IGNORANCE: &[(&str, &[&str], &str)] = &[
    ("as/proto/src", PURE, "proto is pure: no I/O, clock or locks"),
    ("as/datamodel/src", PURE, "datamodel is pure: no I/O, clock or locks"),
    ("as/cluster/src", PURE, "cluster is pure: no I/O, clock or locks"),
    ("as/server/src/storage", &["std::net", "socket2", "TcpStream"], "storage never sees a socket"),
];
const PURE: &[&str] = &[
    "parking_lot",
    "Mutex",
    "RwLock",
    "Instant",
    "SystemTime",
    "cf::clock",
    "std::net",
    "std::fs",
    "std::thread",
];

/// Files outside `cf` that may hold unsafe code.
const UNSAFE_FILES: &[&str] = &[
    "as/server/src/index/element.rs",
    "as/server/src/index/entry_tree.rs",
    "as/server/src/index/sprig.rs",
    "as/server/src/index/tree.rs",
    "as/server/src/storage/buffer.rs",
    "as/server/src/storage/engine.rs",
    "as/server/src/storage/reservation/place.rs",
    "as/server/src/storage/stripe.rs",
    "as/server/src/udf/compiling.rs",
    "as/server/src/udf/long_strings.rs",
    "as/server/src/udf/movable.rs",
    "as/server/src/udf/native.rs",
    "as/server/src/udf/native/bytes.rs",
    "as/server/src/udf/native/frame.rs",
    "as/server/src/udf/native/list.rs",
    "as/server/src/udf/native/many.rs",
    "as/server/src/udf/native/map.rs",
    "as/server/src/udf/native/next.rs",
    "as/server/src/udf/native/record.rs",
    "as/server/src/udf/native/text.rs",
    "as/server/src/udf/packing.rs",
    "as/server/src/udf/printing.rs",
    "as/server/src/udf/raw.rs",
    "as/server/src/udf/unpacking.rs",
];

/// Names of several types that are visible in all of a crate, with the reason.
const SHARED_NAMES: &[(&str, &str)] = &[
    ("Modify", "bits and hll have the same parts"),
    ("Read", "bits and hll have the same parts"),
    ("Options", "each tool has options"),
    ("Session", "of a user, and of a record that a function works on"),
    ("Request", "requests of two protocols, for records and for access control"),
];

/// Banned words. Open points belong in the tracker, and paths of one machine nowhere.
const BANNED: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "finish it, or open an issue"),
    (concat!("FIX", "ME"), "finish it, or open an issue"),
    (concat!("XX", "X"), "finish it, or open an issue"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/opt", "/cref"), "a path of one machine"),
    (concat!("/opt", "/bin"), "a path of one machine"),
    (concat!("/opt", "/venv"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("<<<<", "<<< "), "an unresolved conflict"),
    (concat!(">>>>", ">>> "), "an unresolved conflict"),
];

/// Only programs on a command line, build scripts and tests may print.
const PRINT_MACROS: &[&str] = &["println!", "print!", "eprintln!", "eprint!", "dbg!"];

#[test]
fn every_file_begins_with_what_it_owns() {
    let says = |file: &RustFile| {
        file.text.lines().next().is_some_and(|first| first.starts_with("//! ") && first.len() > 15)
    };
    let silent = rust_files().into_iter().filter(|file| !says(file));
    none(&silent.map(|file| format!("{}: the first line is not `//! …`", file.path)).collect::<Vec<_>>());
}

#[test]
fn files_stay_short() {
    let lengths = rust_files().into_iter().map(|file| (file.path.clone(), file.production().lines().count()));
    let lengths: BTreeMap<String, usize> = lengths.collect();
    for (path, length) in lengths.iter().filter(|(_, length)| **length > FILE_LINES_AIM) {
        ferrospike_tests::report(&format!(
            "{path}: {length} lines outside of tests, aim for {FILE_LINES_AIM}"
        ));
    }
    let long = lengths.into_iter().filter(|(_, length)| *length > FILE_LINES_MAX).collect();
    let listed = LONG_FILES.iter().map(|(path, length)| ((*path).to_owned(), *length)).collect();
    ratchet(&long, &listed, FILE_LINES_MAX);
}

#[test]
fn functions_stay_short() {
    let mut long = BTreeMap::new();
    for file in rust_files() {
        for (name, length) in functions(file.production()) {
            if length > FUNCTION_LINES_MAX {
                long.insert(format!("{} {name}", file.path), length);
            }
        }
    }
    let listed =
        LONG_FUNCTIONS.iter().map(|(path, name, length)| (format!("{path} {name}"), *length)).collect();
    ratchet(&long, &listed, FUNCTION_LINES_MAX);
}

#[test]
fn crates_are_used_in_one_direction() {
    let ours: Vec<&str> = CRATES.iter().map(|(folder, _)| crate_name(folder)).collect();
    for (folder, allowed) in CRATES {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let table: toml::Table = toml::from_str(&manifest).unwrap();
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names = table.get(kind).and_then(|t| t.as_table()).into_iter().flat_map(toml::Table::keys);
            for name in names.filter(|name| ours.contains(&name.as_str())) {
                assert!(allowed.contains(&name.as_str()), "{folder}/Cargo.toml: {kind} may not name {name}");
            }
        }
        let lints =
            table.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(lints, Some(true), "{folder}/Cargo.toml: `[lints] workspace = true` is missing");
    }
}

#[test]
fn modules_of_the_server_are_used_in_one_direction() {
    let layer =
        |module: &str| LAYERS.iter().position(|names| names.contains(&module)).unwrap_or(LAYERS.len());
    let mut wrong = Vec::new();
    for file in rust_files() {
        let Some(module) = file.server_module() else { continue };
        for used in crate_paths(file.production()) {
            if layer(&used) < LAYERS.len() && layer(&module) < layer(&used) {
                wrong.push(format!("{}: `{module}` uses `{used}`, which lies above it", file.path));
            }
        }
    }
    none(&wrong);
}

#[test]
fn every_module_of_the_server_has_a_layer() {
    let known: BTreeSet<&str> = LAYERS.iter().flat_map(|names| names.iter().copied()).collect();
    let mut modules: BTreeSet<String> = rust_files().iter().filter_map(RustFile::server_module).collect();
    modules.retain(|module| !["main", "lib"].contains(&module.as_str()) && !known.contains(module.as_str()));
    assert!(modules.is_empty(), "give these modules of the server their place in LAYERS: {modules:?}");
}

#[test]
fn every_layer_names_modules_that_exist() {
    let modules: BTreeSet<String> = rust_files().iter().filter_map(RustFile::server_module).collect();
    let known: BTreeSet<&str> = LAYERS.iter().flat_map(|names| names.iter().copied()).collect();
    let gone: Vec<&&str> = known.iter().filter(|name| !modules.contains(**name)).collect();
    assert!(gone.is_empty(), "the server has no such modules, remove them from LAYERS: {gone:?}");
    let named = LAYERS.iter().map(|names| names.len()).sum::<usize>();
    assert_eq!(named, known.len(), "a module is in two layers");
}

#[test]
fn the_map_shows_every_module_of_the_server() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = text.split("\n## ").find(|section| section.starts_with("Code map")).unwrap();
    let mut missing: BTreeSet<String> = rust_files().iter().filter_map(RustFile::server_module).collect();
    missing.retain(|module| {
        let is_shown = map.contains(&format!("`{module}/`")) || map.contains(&format!("`{module}.rs`"));
        !is_shown && !["main", "lib"].contains(&module.as_str())
    });
    assert!(missing.is_empty(), "give these modules a row in the code map of ARCHITECTURE.md: {missing:?}");
}

#[test]
fn a_name_belongs_to_one_type_in_a_crate() {
    let mut places: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for file in rust_files() {
        let Some((folder, _)) = file.path.split_once("/src/") else { continue };
        for name in visible_types(&code(file.production())) {
            places.entry((folder.to_owned(), name)).or_default().push(file.path.clone());
        }
    }
    let shared = |(_, name): &(String, String)| !SHARED_NAMES.iter().any(|(shared, _)| shared == name);
    let twice = places.iter().filter(|(key, files)| files.len() > 1 && shared(key));
    none(&twice.map(|((_, name), files)| format!("{name}: in {}", files.join(", "))).collect::<Vec<_>>());
    for (name, _) in SHARED_NAMES {
        let is_shared = places.iter().any(|((_, other), files)| other == name && files.len() > 1);
        assert!(is_shared, "{name} stands for one type now: remove it from the list");
    }
}

#[test]
fn layers_do_not_use_names_of_other_layers() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        for (_, names, why) in IGNORANCE.iter().filter(|(folder, ..)| file.path.starts_with(folder)) {
            let code = code(file.production());
            let named = names.iter().filter(|name| has_word(&code, name));
            wrong.extend(named.map(|name| format!("{}: names {name}, but {why}", file.path)));
        }
    }
    none(&wrong);
}

#[test]
fn unsafe_code_has_an_address() {
    let outside_cf = rust_files().into_iter().filter(|file| !file.path.starts_with("cf/"));
    let found: BTreeSet<String> =
        outside_cf.filter(|file| has_word(&code(&file.text), "unsafe")).map(|file| file.path).collect();
    let listed: BTreeSet<String> = UNSAFE_FILES.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(found, listed, "files with unsafe code, and those that may have it");
}

#[test]
fn libraries_do_not_print() {
    let prints = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        path.contains("/src/bin/")
            || path.contains("/tests/")
            || path.starts_with("tests/")
            || ["main.rs", "build.rs"].contains(&name)
    };
    let mut wrong = Vec::new();
    for file in rust_files().into_iter().filter(|file| !prints(&file.path)) {
        let code = code(file.production());
        let used = PRINT_MACROS.iter().filter(|name| has_word(&code, name));
        wrong.extend(used.map(|name| format!("{}: {name} outside of a program", file.path)));
    }
    none(&wrong);
}

#[test]
fn nothing_is_left_behind() {
    let mut wrong = Vec::new();
    for path in project_files() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            let left = BANNED.iter().filter(|(word, _)| has_word(line, word));
            wrong.extend(left.map(|(word, why)| format!("{path}:{}: {word}: {why}", number + 1)));
        }
    }
    none(&wrong);
}

#[test]
fn every_source_file_is_compiled() {
    let files = rust_files();
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut wrong = Vec::new();
    for path in &paths {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let is_root = ["lib.rs", "main.rs", "build.rs"].contains(&name)
            || folder.ends_with("/bin")
            || folder.ends_with("/tests")
            || folder.ends_with("/benches")
            || folder.ends_with("/examples")
            || folder.ends_with("fuzz_targets");
        if is_root {
            continue;
        }
        // `a/b.rs` is declared in `a/mod.rs`, in `a.rs` or in the crate's root; `a/mod.rs` is declared one
        // folder higher.
        let (folder, module) = match name {
            "mod.rs" => folder.rsplit_once('/').unwrap_or(("", folder)),
            _ => (folder, name.trim_end_matches(".rs")),
        };
        let parents = ["/mod.rs", "/lib.rs", "/main.rs", ".rs"].map(|parent| format!("{folder}{parent}"));
        let declared = files.iter().filter(|file| parents.contains(&file.path)).any(|file| {
            let declares = |line: &str| line.trim().ends_with(&format!("mod {module};"));
            file.text.lines().any(declares)
        });
        if !declared {
            wrong.push(format!("{path}: no `mod {module};` in any of {parents:?}"));
        }
    }
    none(&wrong);
}

/// A source file of the project.
struct RustFile {
    /// Path relative to the workspace.
    path: String,
    text: String,
}

impl RustFile {
    /// The server module that the file belongs to.
    fn server_module(&self) -> Option<String> {
        let path = self.path.strip_prefix("as/server/src/")?;
        Some(path.split('/').next()?.trim_end_matches(".rs").to_owned())
    }

    /// The text before the test module, which by convention is the last one. Empty for a file of tests.
    fn production(&self) -> &str {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") && !self.path.contains("/src/") {
            return "";
        }
        let end = self.text.match_indices("#[cfg(test)]\n").find(|(at, attribute)| {
            let next = self.text[at + attribute.len()..].lines().next().unwrap_or_default();
            next.trim_start_matches("pub(super) ").starts_with("mod ") && next.ends_with('{')
        });
        end.map_or(&self.text, |(at, _)| &self.text[..at])
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn rust_files() -> Vec<RustFile> {
    let sources = project_files().into_iter().filter(|path| path.ends_with(".rs"));
    sources.map(|path| RustFile { text: fs::read_to_string(root().join(&path)).unwrap(), path }).collect()
}

/// All files except built ones, relative to the workspace and sorted.
fn project_files() -> Vec<String> {
    let mut folders = vec![PathBuf::new()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            let name = entry.file_name().into_string().unwrap();
            let built = ["target", ".git", "__pycache__", ".pytest_cache", "corpora", "artifacts", "corpus"];
            if built.contains(&name.as_str()) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                files.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

/// Fails if there are lines, and prints them.
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Compares the items above a limit with the list of exceptions.
fn ratchet(found: &BTreeMap<String, usize>, listed: &BTreeMap<String, usize>, max: usize) {
    for (name, length) in found {
        let allowed = listed.get(name).copied().unwrap_or(max);
        assert!(*length <= allowed, "{name}: {length} lines, at most {allowed}: split it by concept");
    }
    for (name, length) in listed {
        let now = found.get(name).copied().unwrap_or(0);
        assert_eq!(now, *length, "{name} became shorter: tighten or remove its entry");
    }
}

/// Functions and their lengths. rustfmt's indentation marks their ends.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some((before, after)) = line.split_once("fn ") else { continue };
        if !before.split_whitespace().all(|word| word.starts_with("pub") || QUALIFIERS.contains(&word)) {
            continue;
        }
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let indent = &line[..line.len() - line.trim_start().len()];
        let ends = |line: &&str| {
            let rest = line.strip_prefix(indent).unwrap_or_default();
            rest.starts_with('}') || rest.starts_with(')') && rest.ends_with(';')
        };
        let on_one_line = line.ends_with(';') || line.ends_with('}');
        let end = if on_one_line { Some(0) } else { lines[start..].iter().position(ends) };
        found.push((name, end.map_or(0, |end| end + 1)));
    }
    found
}
const QUALIFIERS: &[&str] = &["const", "unsafe", "extern", "\"C\"", "async", "in", "crate)", "super)"];

/// First segments of the paths below `crate::`, including nested groups of `use`.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let code = code(text);
    let mut names = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                ',' if depth == 0 => {
                    names.insert(identifier(group[start..i].trim()));
                    start = i + 1;
                }
                '}' if depth == 0 => {
                    names.insert(identifier(group[start..i].trim()));
                    break;
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    names.remove("");
    names
}

/// The types that `code` makes visible in its whole crate or to other crates.
fn visible_types(code: &str) -> Vec<String> {
    let visible = code.lines().filter_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) "))
    });
    let types = visible.filter_map(|line| {
        let line = line.strip_prefix("unsafe ").unwrap_or(line);
        ["struct ", "enum ", "trait ", "union "].iter().find_map(|kind| line.strip_prefix(kind))
    });
    types.map(identifier).filter(|name| !name.is_empty()).collect()
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The text without comments and single-line strings. It is good enough for a search for words.
fn code(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut in_string = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if in_string => drop(chars.next()),
                '"' => in_string = !in_string,
                '/' if !in_string && chars.peek() == Some(&'/') => break,
                _ if !in_string => out.push(c),
                _ => {}
            }
        }
        out.push('\n');
    }
    out
}

/// Whether `word` occurs as a whole word, without a letter, digit or underscore next to it.
fn has_word(text: &str, word: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(inner);
        let after = text[at + word.len()..].chars().next().is_some_and(inner);
        let begins = word.chars().next().is_some_and(inner);
        let ends = word.chars().next_back().is_some_and(inner);
        !(before && begins || after && ends)
    })
}

#[test]
fn the_scanners_of_this_file_see_what_they_should() {
    let text = "use crate::{a::{b, c}, d};\nuse crate::e;\n// crate::f\nfn g() { crate::h::i() }\n";
    assert_eq!(crate_paths(text), ["a", "d", "e", "h"].map(str::to_owned).into());
    let text = "    pub(crate) fn one() {\n        x\n    }\n    fn two();\nfn three(\n    a: u8,\n) {\n}\n";
    let lengths: Vec<(String, usize)> = functions(text);
    assert_eq!(lengths, [("one".to_owned(), 3), ("two".to_owned(), 1), ("three".to_owned(), 4)]);
    assert!(has_word("a dbg!(x)", "dbg!") && !has_word("eprintln!()", "println!"));
    assert_eq!(code("a(\"crate::x\"); // b\n"), "a(); \n");
    let file = RustFile {
        path: "cf/src/a.rs".into(),
        text: "//! A.\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n}\n".into(),
    };
    assert_eq!(file.production().lines().count(), 3);
}

fn crate_name(folder: &str) -> &str {
    if folder == "as/server" { "asd" } else { folder.rsplit('/').next().unwrap_or(folder) }
}

//! Dependencies inside a crate. Files that use each other, directly or through other files, form a circle.
//! None of them can be read or changed without the others, so circles are few, and each has a reason.
//!
//! If a `mod.rs` re-exports a name, its use counts as use of the file that defines it. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};

use super::{RustFile, code, none, rust_files};

/// Crates whose files are checked.
const SOURCES: &[&str] =
    &["cf/src/", "as/proto/src/", "as/datamodel/src/", "as/cluster/src/", "as/server/src/", "tools/src/"];

/// Allowed circles. All files of a circle are below its paths.
const CIRCLES: &[(&[&str], &str)] = &[
    (&["cf/src/log/"], "the logger, and what the rest of the process reaches it through"),
    (
        &["as/datamodel/src/cdt/index", "as/datamodel/src/cdt/layout"],
        "an index is part of the layout it indexes",
    ),
    (&["as/datamodel/src/cdt/list/"], "additions to ordered lists are additions to lists"),
    (&["as/datamodel/src/cdt/map/select"], "selections by a list are made of selections by one value"),
    (&["as/datamodel/src/exp/compile/"], "methods of the compiler, by what they compile"),
    (&["as/cluster/src/"], "methods of a state machine stand in the file of what they do"),
    (
        &[
            "as/server/src/namespace/mod",
            "as/server/src/namespace/ahead",
            "as/server/src/namespace/commit",
            "as/server/src/namespace/load_figures",
            "as/server/src/namespace/load_observer",
            "as/server/src/namespace/opening",
            "as/server/src/namespace/partition",
            "as/server/src/namespace/set_index",
            "as/server/src/namespace/sets",
            "as/server/src/namespace/tombstones",
            "as/server/src/namespace/truncate",
        ],
        "methods of `Namespace` stand in the file of what they change",
    ),
    (&["tools/src/record/object_spec"], "the object spec and its parser"),
    (&["tools/src/compare/"], "options and the scenarios that have them"),
];

type Path = Vec<String>;

/// A name that a file brings into its scope.
struct Import {
    path: Path,
    name: String,
    is_public: bool,
}

/// A file of a crate, as a module.
struct Module {
    file: String,
    imports: Vec<Import>,
    /// The code without its imports.
    body: String,
}

/// The modules of one crate.
struct Modules(BTreeMap<Path, Module>);

#[test]
fn files_form_no_circles_but_those_with_a_reason() {
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    let files = rust_files();
    for source in SOURCES {
        let modules = Modules::of(source, &files);
        for circle in circles(&modules.edges()) {
            let paths: Vec<&str> = circle.iter().map(|path| modules.0[path].file.as_str()).collect();
            let is_below = |prefixes: &[&str]| {
                paths.iter().all(|path| prefixes.iter().any(|prefix| path.starts_with(prefix)))
            };
            match CIRCLES.iter().position(|(prefixes, _)| is_below(prefixes)) {
                Some(number) => drop(used.insert(number)),
                None => wrong.push(format!(
                    "these use one another, open the circle or give its reason in CIRCLES: {}",
                    paths.join(", ")
                )),
            }
        }
    }
    for (number, (prefixes, _)) in CIRCLES.iter().enumerate() {
        if !used.contains(&number) {
            wrong.push(format!("there is no circle below {prefixes:?} any more: remove it from the list"));
        }
    }
    none(&wrong);
}

#[test]
fn folders_form_no_circles() {
    let mut wrong = Vec::new();
    let files = rust_files();
    for source in SOURCES {
        let mut edges: BTreeMap<Path, BTreeSet<Path>> = BTreeMap::new();
        for (from, targets) in Modules::of(source, &files).edges() {
            let folder = |path: &Path| path.first().cloned().into_iter().collect::<Path>();
            let targets = targets.iter().map(folder).filter(|to| !to.is_empty() && *to != folder(&from));
            edges.entry(folder(&from)).or_default().extend(targets);
        }
        edges.remove(&Path::new());
        wrong.extend(circles(&edges).iter().map(|circle| format!("{source}: {circle:?} use one another")));
    }
    none(&wrong);
}

impl Modules {
    fn of(source: &str, files: &[RustFile]) -> Self {
        let mut modules = BTreeMap::new();
        for file in files {
            let Some(path) = module_path(source, &file.path) else { continue };
            let code = without_scopes(&code(file.production()));
            let (imports, body) = split_imports(&code);
            modules.insert(path, Module { file: file.path.clone(), imports, body });
        }
        Modules(modules)
    }

    /// For each module, the modules that it uses.
    fn edges(&self) -> BTreeMap<Path, BTreeSet<Path>> {
        let mut edges = BTreeMap::new();
        for (from, module) in &self.0 {
            let is_used = |import: &&Import| !import.is_public || super::has_word(&module.body, &import.name);
            let imported = module.imports.iter().filter(is_used).map(|import| import.path.clone());
            let targets = imported.chain(paths_in(&module.body));
            let targets = targets.filter_map(|path| self.definer(&self.absolute(from, &path)?, 0));
            edges.insert(from.clone(), targets.filter(|to| to != from).collect());
        }
        edges
    }

    /// The absolute path of `path`, as written in module `from`; `None` if it leads out of the crate.
    fn absolute(&self, from: &Path, path: &[String]) -> Option<Path> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([from, rest].concat()),
            "super" => {
                let mut base = from.clone();
                base.pop()?;
                match rest.first().map(String::as_str) {
                    Some("super") => self.absolute(&base, rest),
                    _ => Some([&base[..], rest].concat()),
                }
            }
            _ => {
                let child = [&from[..], &path[..1]].concat();
                self.0.contains_key(&child).then(|| [&from[..], path].concat())
            }
        }
    }

    /// The module that defines the target of `path`. Re-exports are followed.
    fn definer(&self, path: &Path, depth: usize) -> Option<Path> {
        let size = (0..=path.len()).rev().find(|size| self.0.contains_key(&path[..*size]))?;
        let module = path[..size].to_vec();
        let Some(name) = path.get(size).filter(|_| depth < 8) else { return Some(module) };
        for import in self.0[&module].imports.iter().filter(|import| import.name == *name) {
            let behind = self.absolute(&module, &import.path).filter(|behind| behind != path);
            if let Some(definer) =
                behind.and_then(|behind| self.definer(&[&behind[..], &path[size + 1..]].concat(), depth + 1))
            {
                return Some(definer);
            }
        }
        Some(module)
    }
}

/// The module of the file `path` in the crate at `source`; `None` for tests, programs and other crates.
fn module_path(source: &str, path: &str) -> Option<Path> {
    let path = path.strip_prefix(source)?.strip_suffix(".rs")?;
    let mut parts: Path = path.split('/').map(str::to_owned).collect();
    let is_test = |part: &String| part.ends_with("tests") || part.starts_with("crash_");
    if parts.iter().any(is_test) || ["main", "bin"].contains(&parts[0].as_str()) {
        return None;
    }
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] {
        parts.pop();
    }
    Some(parts)
}

/// `code` without the `in …` of visibilities.
fn without_scopes(code: &str) -> String {
    let mut parts = code.split("pub(in ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("pub");
        out.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    out
}

/// The imports of a file, and the rest of its code.
fn split_imports(code: &str) -> (Vec<Import>, String) {
    let (mut imports, mut body) = (Vec::new(), String::new());
    let mut rest = code;
    while !rest.is_empty() {
        let line = rest.split_inclusive('\n').next().unwrap_or(rest);
        let statement = line.trim_start();
        let visibility = statement.strip_prefix("pub").map(|after| match after.strip_prefix('(') {
            Some(scope) => scope.split_once(')').map_or("", |(_, rest)| rest).trim_start(),
            None => after.trim_start(),
        });
        let Some(_) = visibility.unwrap_or(statement).strip_prefix("use ") else {
            body.push_str(line);
            rest = &rest[line.len()..];
            continue;
        };
        let end = rest.find(';').map_or(rest.len(), |end| end + 1);
        let text = &rest[rest.find("use ").map_or(0, |at| at + 4)..end];
        let text: String = text.trim_end_matches(';').replace(" as ", "@").split_whitespace().collect();
        flatten(&[], &text, visibility.is_some(), &mut imports);
        rest = &rest[end..];
    }
    (imports, body)
}

/// The imports in `tree` below `prefix`.
fn flatten(prefix: &[String], tree: &str, is_public: bool, imports: &mut Vec<Import>) {
    let (mut depth, mut start) = (0, 0);
    let mut branches = Vec::new();
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    branches.push(&tree[start..]);
    let segments =
        |text: &str| text.split("::").filter(|s| !s.is_empty()).map(str::to_owned).collect::<Path>();
    for branch in branches.into_iter().filter(|branch| !branch.is_empty()) {
        if let Some((head, group)) = branch.split_once('{') {
            let below = [prefix, &segments(head)].concat();
            flatten(&below, group.strip_suffix('}').unwrap_or(group), is_public, imports);
            continue;
        }
        let (path, alias) =
            branch.split_once('@').map_or((branch, None), |(path, alias)| (path, Some(alias)));
        let mut path = [prefix, &segments(path)].concat();
        if path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = alias.map(str::to_owned).or_else(|| path.last().cloned()).unwrap_or_default();
        imports.push(Import { path, name, is_public });
    }
}

/// The paths of at least two segments in `body`.
fn paths_in(body: &str) -> Vec<Path> {
    let is_inner = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = body.split(|c| !is_inner(c)).filter(|word| word.contains("::"));
    words.map(|word| word.split("::").filter(|s| !s.is_empty()).map(str::to_owned).collect()).collect()
}

/// The sets of nodes that can all reach each other.
fn circles(edges: &BTreeMap<Path, BTreeSet<Path>>) -> Vec<BTreeSet<Path>> {
    let reached: BTreeMap<&Path, BTreeSet<&Path>> = edges
        .keys()
        .map(|from| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
            while let Some(node) = open.pop() {
                open.extend(edges.get(node).into_iter().flatten().filter(|to| seen.insert(*to)));
            }
            (from, seen)
        })
        .collect();
    let mut found: Vec<BTreeSet<Path>> = Vec::new();
    for (from, seen) in &reached {
        let circle: BTreeSet<Path> = seen
            .iter()
            .filter(|to| reached.get(**to).is_some_and(|back| back.contains(from)))
            .map(|to| (*to).clone())
            .collect();
        if circle.len() > 1 && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

#[test]
fn the_scanner_sees_through_re_exports() {
    let file = |path: &str, text: &str| RustFile { path: path.into(), text: text.into() };
    let files = [
        file("x/src/lib.rs", "//! A crate for a test.\nmod a;\nmod b;\n"),
        file("x/src/a/mod.rs", "//! A.\nmod c;\nmod d;\npub(crate) use c::{C, self as e};\n"),
        file("x/src/a/c.rs", "//! C.\nuse super::d::D;\npub(in crate::b) struct C(D);\n"),
        file("x/src/a/d.rs", "//! D. See super::C.\npub struct D;\n"),
        file("x/src/b.rs", "//! B.\nfn b() { crate::a::C }\n"),
    ];
    let path = |text: &str| text.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect::<Path>();
    let edges = Modules::of("x/src/", &files).edges();
    assert_eq!(edges[&path("b")], [path("a/c")].into());
    assert_eq!(edges[&path("a/c")], [path("a/d")].into());
    assert_eq!(edges[&path("a")], BTreeSet::new());
    assert!(circles(&edges).is_empty());
    let around = [(path("a"), [path("b")].into()), (path("b"), [path("a"), path("c")].into())].into();
    assert_eq!(circles(&around), [BTreeSet::from([path("a"), path("b")])]);
}

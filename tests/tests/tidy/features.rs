//! The server is built with the same features of packages whether its tests are built with it or not. So nothing is
//! built twice, and the tests check the code that is shipped.

use std::collections::BTreeSet;
use std::process::Command;

use super::root;

/// The packages of a build with their features, one in a line.
fn packages(selection: &[&str]) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "--offline",
            "--prefix",
            "none",
            "--no-dedupe",
            "--format",
            "{p} features: {f}",
        ])
        .args(selection)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "cargo tree: {}", String::from_utf8_lossy(&tree.stderr));
    String::from_utf8(tree.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn one_build_serves_tests_and_server() {
    let server = packages(&["--package", "asd", "--package", "ferrospike-tools", "--edges", "normal,build"]);
    let all = packages(&["--workspace", "--edges", "normal,build,dev"]);
    assert!(server.len() > 100, "{server:?}");
    let name = |line: &str| line.split(" features: ").next().unwrap_or_default().to_owned();
    let wrong: Vec<String> = server
        .difference(&all)
        .map(|line| {
            let others: Vec<&String> = all.iter().filter(|other| name(other) == name(line)).collect();
            format!("{line}\nand with the tests: {others:?}; add what is missing to build/workspace-hack/Cargo.toml")
        })
        .collect();
    super::none(&wrong);
}

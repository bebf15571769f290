//! The programs that the tests run. They are those of the running test's build. Cargo brings them up to date
//! before the first is run, so that no test judges a binary older than the source.
//!
//! The tests of a run are many processes. The first one builds, under a lock; the others read in the lock's
//! file that their run has been built. A run is identified by the process that started all of them (cargo or
//! nextest).

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The packages to build: those of all programs except the programs of the tests.
const PACKAGES: [&str; 2] = ["asd", "ferrospike-tools"];
/// The file in the build folder with the name of the run that was last built.
const NOTE: &str = ".up-to-date-for";
/// Cargo marks a target folder with this file.
const TARGET_MARK: &str = "CACHEDIR.TAG";

/// The server's binary: the one that `ASD` names, otherwise the one built from the current source.
///
/// # Panics
/// When it cannot be built.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("ASD") {
        return path.into();
    }
    built("asd").unwrap_or_else(|error| panic!("cannot find the server's binary: {error}"))
}

/// A program of the running test's build, built from the current source.
///
/// # Errors
/// When the test's own path is unknown.
///
/// # Panics
/// When the programs cannot be built.
pub fn built(name: &str) -> io::Result<PathBuf> {
    static UP_TO_DATE: OnceLock<Result<(), String>> = OnceLock::new();
    let folder = build_folder()?;
    let result = UP_TO_DATE.get_or_init(|| bring_up_to_date(&folder));
    result.clone().unwrap_or_else(|why| panic!("the programs to test are not up to date: {why}"));
    Ok(folder.join(name))
}

/// The folder with the programs of the running test's build.
fn build_folder() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().unwrap_or(Path::new("."));
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}

fn bring_up_to_date(folder: &Path) -> Result<(), String> {
    let run = run_name();
    let note = folder.join(NOTE);
    let failed = |error: io::Error| format!("{}: {error}", note.display());
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&note).map_err(failed)?;
    file.lock().map_err(failed)?;
    let mut last_run = String::new();
    file.read_to_string(&mut last_run).map_err(failed)?;
    if last_run == run {
        return Ok(());
    }
    build(folder)?;
    file.rewind().map_err(failed)?;
    file.set_len(0).map_err(failed)?;
    file.write_all(run.as_bytes()).map_err(failed)
}

/// The run of this process: the process that started it, and the start time of that process.
fn run_name() -> String {
    let parent = parent_id();
    let stat = fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
    let after_command = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let start = after_command.split_ascii_whitespace().nth(19).unwrap_or("unknown");
    format!("{parent} started at {start}")
}

fn build(folder: &Path) -> Result<(), String> {
    let arguments = build_arguments(folder)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(&cargo);
    // These variables belong to the running test. Build scripts that read them, such as that of `ring`, would
    // run again, and most of the build with them.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let output = command
        .args(&arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .map_err(|error| format!("{}: {error}", cargo.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let command = arguments.join(" ");
    Err(format!("cargo {command} failed:\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// The arguments that make cargo build into `folder`: `target/PROFILE` or `target/TRIPLE/PROFILE`.
fn build_arguments(folder: &Path) -> Result<Vec<String>, String> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let is_target = |path: &Path| path.join(TARGET_MARK).exists();
    let mut arguments: Vec<String> = ["build", "--quiet", "--bins"].map(str::to_owned).into();
    for package in PACKAGES {
        arguments.extend(["--package".to_owned(), package.to_owned()]);
    }
    let profile = name(folder).ok_or("the test has no folder")?;
    let profile = if profile == "debug" { "dev".to_owned() } else { profile };
    arguments.extend(["--profile".to_owned(), profile]);
    let parent = folder.parent().ok_or("the test's folder is in none")?;
    let target = match parent.parent() {
        Some(target) if is_target(target) && !is_target(parent) => {
            arguments.extend(["--target".to_owned(), name(parent).unwrap_or_default()]);
            target
        }
        // A copied target folder may have no mark.
        _ => parent,
    };
    arguments.extend(["--target-dir".to_owned(), target.display().to_string()]);
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_builds_into_the_folder_of_the_test() {
        let target = tempfile::tempdir().expect("a folder");
        let folder = target.path().join("checked");
        fs::write(target.path().join(TARGET_MARK), "").expect("a file");
        let line = |folder: PathBuf| build_arguments(&folder).expect("a target folder").join(" ");
        let start = "build --quiet --bins --package asd --package ferrospike-tools";
        let end = format!("--target-dir {}", target.path().display());
        assert_eq!(line(folder), format!("{start} --profile checked {end}"));
        assert_eq!(line(target.path().join("debug")), format!("{start} --profile dev {end}"));
        let with_triple = line(target.path().join("x86_64-unknown-linux-gnu/release"));
        assert_eq!(with_triple, format!("{start} --profile release --target x86_64-unknown-linux-gnu {end}"));
    }

    #[test]
    fn a_run_is_identified_by_the_process_that_started_it() {
        assert_eq!(run_name(), run_name());
        assert!(
            run_name().starts_with(&format!("{} started at ", parent_id()))
                && !run_name().ends_with("unknown")
        );
    }

    #[test]
    fn programs_are_there_and_not_older_than_the_source() {
        let modified = |path: PathBuf| fs::metadata(path).and_then(|data| data.modified()).expect("a file");
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (program, source) in [("asd", "as/server/src/main.rs"), ("asd-bench", "tools/src/lib.rs")] {
            assert!(
                modified(built(program).expect("a program")) >= modified(manifest.join("..").join(source))
            );
        }
    }
}

//! `astools.conf`: options of the tools in a file, as the official tools read it.
//!
//! `/etc/aerospike/astools.conf` is read first, then `~/.aerospike/astools.conf`, then the file of
//! `--config-file`; each provides the section `[cluster]`, which all tools share, and the section with the
//! tool's name. With `--instance NAME` these are `[cluster_NAME]` and `[asinfo_NAME]`. Later values override
//! earlier ones, and the command line overrides all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use toml::{Table, Value};

const SYSTEM_FILE: &str = "/etc/aerospike/astools.conf";
const USER_FILE: &str = ".aerospike/astools.conf";

/// Which files and sections are read.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Configuration file")]
pub struct FileOptions {
    /// Read options from this file too, after /etc/aerospike/astools.conf and ~/.aerospike/astools.conf
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Read options from this file only
    #[arg(long, value_name = "FILE", conflicts_with = "config_file")]
    only_config_file: Option<PathBuf>,

    /// Read no configuration file
    #[arg(long, conflicts_with_all = ["config_file", "only_config_file"])]
    no_config_file: bool,

    /// Use the sections whose names end in this, like [cluster_NAME]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// `arguments`, preceded by the options of configuration files. `command` includes [`FileOptions`]; its name
/// is that of the tool.
///
/// # Errors
/// The error of clap for the command line or for an invalid file. It prints itself.
pub fn with_files(command: &Command, arguments: Vec<OsString>) -> Result<Vec<OsString>, clap::Error> {
    let matches = command.clone().try_get_matches_from(&arguments)?;
    let refuse = |what| command.clone().error(ErrorKind::InvalidValue, what);
    let mut found = BTreeMap::new();
    for (path, must_exist) in files(&matches) {
        match fs::read_to_string(&path) {
            Ok(text) => take_from(&text, command, &matches, &mut found)
                .map_err(|what| refuse(format!("{}: {what}", path.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {}
            Err(error) => return Err(refuse(format!("{}: {error}", path.display()))),
        }
    }
    let mut all = arguments;
    all.splice(1.min(all.len())..1.min(all.len()), found.into_values().flatten());
    Ok(all)
}

/// The files to read, in order. The flag says whether a missing file is an error.
fn files(matches: &ArgMatches) -> Vec<(PathBuf, bool)> {
    if matches.get_flag("no_config_file") {
        return Vec::new();
    }
    if let Some(path) = matches.get_one::<PathBuf>("only_config_file") {
        return vec![(path.clone(), true)];
    }
    let mut files = vec![(PathBuf::from(SYSTEM_FILE), false)];
    files.extend(env::var_os("HOME").map(|home| (Path::new(&home).join(USER_FILE), false)));
    files.extend(matches.get_one::<PathBuf>("config_file").map(|path| (path.clone(), true)));
    files
}

/// Adds the options for `command` in the text of a file to `found`. Skips options that the command line
/// gives, and options of the shared section that this tool lacks.
fn take_from(
    text: &str,
    command: &Command,
    matches: &ArgMatches,
    found: &mut BTreeMap<String, Option<OsString>>,
) -> Result<(), String> {
    let file: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let tool = command.get_name();
    let ending = matches.get_one::<String>("instance").map(|name| format!("_{name}")).unwrap_or_default();
    for (section, is_shared) in [("cluster", true), (tool, false)] {
        let section = format!("{section}{ending}");
        let Some(value) = file.get(&section) else { continue };
        let options = value.as_table().ok_or_else(|| format!("'{section}' is not a section"))?;
        for (name, value) in options {
            let Some(arg) = command.get_arguments().find(|arg| is_called(arg, name)) else {
                if is_shared {
                    continue;
                }
                return Err(format!("unknown option '{name}' in [{section}]"));
            };
            if matches.value_source(arg.get_id().as_str()) != Some(ValueSource::CommandLine) {
                let words = argument(arg, value)
                    .ok_or_else(|| format!("'{name}' in [{section}] cannot be {value}"))?;
                found.insert(arg.get_id().to_string(), words);
            }
        }
    }
    Ok(())
}

fn is_called(arg: &Arg, name: &str) -> bool {
    let name = name.replace('_', "-");
    let aliases = arg.get_all_aliases().unwrap_or_default();
    arg.get_long() == Some(&*name) || aliases.into_iter().any(|alias| alias == name)
}

/// The argument for `arg` with this value. The inner `None` is a switch that is off.
#[expect(clippy::option_option, reason = "a switch that is off is no mistake")]
fn argument(arg: &Arg, value: &Value) -> Option<Option<OsString>> {
    let long = arg.get_long()?;
    if !arg.get_action().takes_values() {
        return value.as_bool().map(|is_on| is_on.then(|| format!("--{long}").into()));
    }
    let text = match value {
        Value::Array(parts) => parts.iter().map(plain).collect::<Option<Vec<_>>>()?.join(","),
        value => plain(value)?,
    };
    Some(Some(format!("--{long}={text}").into()))
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Some(value.to_string()),
        Value::Array(_) | Value::Table(_) | Value::Datetime(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{asbench, asinfo};

    /// The options that the tool takes from `text`, if its command line is `line`.
    fn taken(command: &Command, line: &str, text: &str) -> Result<Vec<String>, String> {
        let words = std::iter::once(command.get_name()).chain(line.split_whitespace());
        let matches = command.clone().try_get_matches_from(words).unwrap();
        let mut found = BTreeMap::new();
        take_from(text, command, &matches, &mut found)?;
        Ok(found.into_values().flatten().map(|word| word.into_string().unwrap()).collect())
    }

    const FILE: &str = "
        [cluster]
        host = \"db1:tls:4000\"   # the shared one
        port = 4001
        tls-enable = true
        cipher-suite = 'of another tool'
        user = 'peter'
        [cluster_far]
        host = 'db9'
        [asinfo]
        timeout = 2.5
        line_separator = true
        no-value = false
        [asbench]
        percentiles = [50, 99.9]
        quiet = true
        asyncMaxCommands = 7
        [asadm]
        anything = 1
    ";

    #[test]
    fn options_come_from_the_shared_section_and_the_own() {
        assert_eq!(
            taken(&asinfo::command(), "", FILE).unwrap(),
            [
                "--host=db1:tls:4000",
                "--line-separator",
                "--port=4001",
                "--timeout=2.5",
                "--tls-enable",
                "--user=peter"
            ]
        );
        let mut load = taken(&asbench::command(), "", FILE).unwrap();
        load.sort();
        assert_eq!(
            load,
            [
                "--async-max-commands=7",
                "--hosts=db1:tls:4000",
                "--percentiles=50,99.9",
                "--port=4001",
                "--quiet",
                "--tls-enable",
                "--user=peter"
            ]
        );
    }

    #[test]
    fn the_command_line_and_the_instance_decide() {
        let of = |line| taken(&asinfo::command(), line, FILE).unwrap();
        assert_eq!(of("-h other -l -t 1 -Upaul"), ["--port=4001", "--tls-enable"]);
        assert_eq!(of("--instance far"), ["--host=db9"]);
        assert!(of("--instance nobody").is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |text| taken(&asinfo::command(), "", text).unwrap_err();
        assert_eq!(wrong("[asinfo]\nhots = 'a'"), "unknown option 'hots' in [asinfo]");
        assert_eq!(wrong("[cluster]\nport = {}"), "'port' in [cluster] cannot be {}");
        assert_eq!(wrong("cluster = 1"), "'cluster' is not a section");
        assert!(wrong("[cluster").contains("line 1"));
    }
}

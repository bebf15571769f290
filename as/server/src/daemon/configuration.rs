//! Chooses the configuration that the server runs with, and reports its errors.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use crate::cli::{CONFIG_FILE_DEFAULT, Options};
use crate::config::{self, Config, DEVELOPER_SOURCE, DEVELOPER_TEXT, Diagnostic, Severity, Topic};

/// An accepted configuration.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: Config,
    /// The configuration as in the file.
    pub(super) text: String,
    /// Diagnostics that do not prevent a start.
    pub(super) warnings: Vec<Diagnostic>,
    /// Whether it is the built-in one.
    pub(super) developer: bool,
}

/// The reason why the server does not start with a configuration, for the person who wrote it.
#[derive(Debug)]
pub(super) enum Refusal {
    Unreadable { path: String, error: io::Error },
    Faulty { source: String, diagnostics: Vec<Diagnostic> },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unreadable { path, error } => {
                write!(f, "asd: cannot read the configuration file {path}: {error}")?;
                if error.kind() == io::ErrorKind::NotFound {
                    write!(f, "\nTry `asd --dev` for the built-in developer configuration.")?;
                }
                Ok(())
            }
            Refusal::Faulty { source, diagnostics } => {
                let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
                for diagnostic in diagnostics {
                    let word = match diagnostic.severity {
                        Severity::Error => "error",
                        Severity::Warning => "warning",
                    };
                    writeln!(f, "{word}: {diagnostic}")?;
                }
                let plural = if errors == 1 { "" } else { "s" };
                write!(f, "asd: {source} has {errors} error{plural}, nothing was started")
            }
        }
    }
}

/// The configuration `options` choose.
pub(super) fn load(options: &Options) -> Result<Loaded, Refusal> {
    load_with_default(options, Path::new(CONFIG_FILE_DEFAULT))
}

fn load_with_default(options: &Options, default: &Path) -> Result<Loaded, Refusal> {
    let chosen = options.config_file.as_deref();
    if options.dev {
        return parse(DEVELOPER_TEXT.to_owned(), DEVELOPER_SOURCE, true);
    }
    let path = chosen.unwrap_or(default);
    match fs::read(path) {
        Ok(bytes) => {
            // Comments may be in another encoding; a parameter that is not UTF-8 is refused by name.
            let text = String::from_utf8_lossy(&bytes).into_owned();
            parse(text, &path.display().to_string(), false)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && chosen.is_none() => {
            parse(DEVELOPER_TEXT.to_owned(), DEVELOPER_SOURCE, true)
        }
        Err(error) => Err(Refusal::Unreadable { path: path.display().to_string(), error }),
    }
}

fn parse(text: String, source: &str, developer: bool) -> Result<Loaded, Refusal> {
    let faulty = |diagnostics| Refusal::Faulty { source: source.to_owned(), diagnostics };
    let is_refused = |one: &Diagnostic| one.topic == Topic::Protection;
    let refusal = |one| if is_refused(&one) { Diagnostic { severity: Severity::Error, ..one } } else { one };
    match config::parse(&text, source) {
        // A refusal of this kind is reported without the warnings.
        Ok((_, found)) if found.iter().any(is_refused) => {
            Err(faulty(found.into_iter().filter(is_refused).map(refusal).collect()))
        }
        Ok((config, warnings)) => {
            if developer {
                config.keep_no_metadata();
            }
            Ok(Loaded { config, text, warnings, developer })
        }
        Err(found) => Err(faulty(found.into_iter().map(refusal).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn with_file(path: &str) -> Options {
        Options { config_file: Some(PathBuf::from(path)), ..Options::default() }
    }

    #[test]
    fn without_any_file_it_is_the_developer_configuration() {
        let loaded = load_with_default(&Options::default(), Path::new("/no/such/file")).unwrap();
        assert!(loaded.developer);
        assert_eq!(loaded.config.work_folder(), None, "another server's metadata");
        assert_eq!(&*loaded.config.mod_lua.user_path.get_or_empty(), "");
        assert!(loaded.config.namespace("test").is_some());
        assert!(loaded.warnings.iter().all(|warning| warning.severity == Severity::Warning));
    }

    #[test]
    fn a_file_that_was_asked_for_must_be_there() {
        let refusal = load_with_default(&with_file("/no/such/file"), Path::new("/")).unwrap_err().to_string();
        assert!(refusal.contains("/no/such/file") && refusal.contains("--dev"), "{refusal}");
        // The default file may be missing, but if it exists it must be readable.
        let refusal = load_with_default(&Options::default(), Path::new("/")).unwrap_err().to_string();
        assert!(refusal.starts_with("asd: cannot read the configuration file /:"), "{refusal}");
    }

    #[test]
    fn a_faulty_file_is_refused_with_all_its_errors() {
        let path = std::env::temp_dir().join(format!("asd-faulty-{}.conf", std::process::id()));
        fs::write(&path, "service {\n  proto-fd-maximum 5\n}\nnonsense\n").unwrap();
        let refusal = load(&with_file(path.to_str().unwrap())).unwrap_err().to_string();
        fs::remove_file(&path).unwrap();
        assert!(refusal.contains(".conf:2: "), "{refusal}");
        assert!(refusal.contains(".conf:4: "), "{refusal}");
        assert!(refusal.lines().last().unwrap().ends_with("nothing was started"), "{refusal}");
    }

    #[test]
    fn missing_protection_is_an_error_even_with_other_errors() {
        let told = |service: &str| {
            let text = format!(
                "service {{\n{service}\n}}\nnetwork {{\nservice {{\nport 3000\n}}\n}}\n\
                 namespace n {{\nstrong-consistency true\nstorage-engine memory {{\ndata-size 1G\n}}\n}}\n"
            );
            parse(text, "c", false).unwrap_err().to_string()
        };
        let refused = "error: c:10: 'strong-consistency' in namespace 'n' is not supported yet";
        let alone = told("");
        assert!(
            alone.starts_with(refused) && alone.ends_with("\nasd: c has 1 error, nothing was started"),
            "{alone}"
        );
        assert_eq!(alone.lines().count(), 2, "{alone}");
        let beside = told("nonsense 1");
        assert!(
            beside.contains(refused) && beside.ends_with("c has 2 errors, nothing was started"),
            "{beside}"
        );
    }
}

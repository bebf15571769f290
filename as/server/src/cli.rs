//! The command line of `asd`: the options of the familiar server, and a few that help to get started.

use std::ffi::OsString;
use std::path::PathBuf;

use cf::manual::Page;
use clap::Parser;

/// The path of the configuration without `--config-file`.
pub const CONFIG_FILE_DEFAULT: &str = "/etc/aerospike/aerospike.conf";

/// The man page of the server.
pub const MANUAL_PAGE: Page = Page {
    section: "8",
    source: concat!("Ferrospike ", env!("CARGO_PKG_VERSION")),
    see_also: &["asinfo(1)", "asbench(1)", "asd-inspect(1)", "asd-tls(1)", "systemctl(1)"],
    licence: env!("CARGO_PKG_LICENSE"),
};

const AFTER_HELP: &str = "\
Try `asd --dev` for a server that needs no set-up, `asd --help` for more.";

const AFTER_LONG_HELP: &str = "\
Which configuration is used:
  1. the file given with --config-file;
  2. otherwise /etc/aerospike/aerospike.conf, if it exists;
  3. otherwise the built-in developer configuration: one namespace `test` in memory, log on the
     terminal. The log states this at the start. `--dev` selects it even if there is a file.

Examples:
  asd                                     start with the configuration of this machine
  asd --dev                               try it without any set-up; Ctrl-C stops it
  asd --check-config -f my.conf           report all errors in my.conf, without starting a server
  asd --foreground -f my.conf             stay on the terminal
  asd --fgdaemon -f /etc/aerospike/aerospike.conf      under systemd or in a container

Parameters:
  asd --generate parameters               print all parameters of the file with bounds and defaults

Signals:
  SIGTERM, SIGINT   stop cleanly; another SIGINT, at least a second later, stops at once
  SIGHUP            reopen the log files; read certificates, keys and blacklists again
  SIGUSR1           write the state of the server to the log

Once it runs:
  asinfo -v status                        answers `ok`
  asinfo -v 'namespace/test'              statistics of the namespace `test`";

/// The options.
#[derive(Parser, Clone, PartialEq, Eq, Debug, Default)]
#[command(
    name = "asd",
    about = "The Ferrospike database server: speaks the protocols, configuration and files of Aerospike.",
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP,
    disable_version_flag = true,
    infer_long_args = true,
    max_term_width = 100,
)]
pub struct Options {
    /// Configuration file [default: /etc/aerospike/aerospike.conf]
    #[arg(long, short = 'f', value_name = "FILE")]
    pub config_file: Option<PathBuf>,

    /// Use the built-in developer configuration: namespace `test` in memory, log on the terminal
    #[arg(long, conflicts_with = "config_file")]
    pub dev: bool,

    /// Check the configuration and print all its errors, without starting a server
    ///
    /// The check also reports everything on this machine that would prevent a start, such as a port in use. What a
    /// running server with the same file uses does not count as an error. The exit status is 0 if a server could start,
    /// otherwise 1.
    #[arg(long)]
    pub check_config: bool,

    /// Stay on the terminal
    ///
    /// Without this option the server continues in the background, with its console output in
    /// /tmp/aerospike-console.<pid>. The command returns when the server is ready; a node with seeds then needs about
    /// two more seconds to form or join a cluster. If the server cannot start, the command prints the reason and
    /// returns 1. If the start takes longer than ten seconds, the command returns, and the start continues. The option
    /// is the same as `run-as-daemon false` in the service context.
    #[arg(long, short = 'd')]
    pub foreground: bool,

    /// Stay in the foreground, as a service of systemd or in a container
    ///
    /// Like --foreground, but `pidfile` of the configuration is ignored, because the service manager knows the process
    /// id.
    #[arg(long, short = 'F')]
    pub fgdaemon: bool,

    /// Show all log lines on the terminal until the configured log takes over
    #[arg(long, short = 'e')]
    pub early_verbose: bool,

    /// Accepted for compatibility: every start builds the index from the records on the devices
    #[arg(long, short = 'c')]
    pub cold_start: bool,

    /// Accepted for compatibility, without effect: each server on a machine needs a configuration file of its own
    #[arg(long, short = 'n', value_name = "0-15", default_value_t = 0,
          value_parser = clap::value_parser!(u8).range(0..=15), hide_default_value = true)]
    pub instance: u8,

    /// Print edition and version, then exit
    #[arg(long, short = 'v', visible_short_alias = 'V')]
    pub version: bool,
}

impl Options {
    /// The options in `arguments`, of which the first is the name of the program.
    ///
    /// # Errors
    /// The error in the arguments, or a request to print the help, which is also an `Err`.
    pub fn from_arguments<A: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self, clap::Error> {
        Options::try_parse_from(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Options, ErrorKind> {
        Options::from_arguments(line.split_whitespace()).map_err(|error| error.kind())
    }

    #[test]
    fn the_command_is_well_formed() {
        Options::command().debug_assert();
    }

    #[test]
    fn no_options_give_the_defaults() {
        assert_eq!(parse("asd"), Ok(Options::default()));
    }

    #[test]
    fn familiar_options() {
        // This is how the service file of the packages starts the server.
        let options = parse("/usr/bin/asd --config-file /etc/aerospike/aerospike.conf --fgdaemon").unwrap();
        assert_eq!(options.config_file, Some(PathBuf::from(CONFIG_FILE_DEFAULT)));
        assert!(options.fgdaemon && !options.foreground);

        let options = parse("asd --foreground --early-verbose --cold-start --instance 15").unwrap();
        assert!(options.foreground && options.early_verbose && options.cold_start);
        assert_eq!(options.instance, 15);
        assert_eq!(parse("asd -d -e -c -n 15"), Ok(options));

        assert!(parse("asd --version").unwrap().version);
        assert!(parse("asd -V").unwrap().version);
        // Long names may be cut as long as they are unique.
        assert!(parse("asd --early").unwrap().early_verbose);
        let options = parse("asd --config-file=a.conf --check-config").unwrap();
        assert!(options.check_config);
        assert_eq!(options.config_file, Some(PathBuf::from("a.conf")));
    }

    #[test]
    fn mistakes_are_refused() {
        assert_eq!(parse("asd --instance 16"), Err(ErrorKind::ValueValidation));
        assert_eq!(parse("asd --nonsense"), Err(ErrorKind::UnknownArgument));
        assert_eq!(parse("asd stray"), Err(ErrorKind::UnknownArgument));
        assert_eq!(parse("asd --config-file"), Err(ErrorKind::InvalidValue));
        assert_eq!(parse("asd --dev --config-file a.conf"), Err(ErrorKind::ArgumentConflict));
    }

    #[test]
    fn help_describes_a_start_without_a_configuration_and_every_option() {
        assert_eq!(parse("asd --help"), Err(ErrorKind::DisplayHelp));
        let help = Options::command().render_long_help().to_string();
        let taught = [
            CONFIG_FILE_DEFAULT,
            "developer configuration",
            "SIGHUP",
            "asd --check-config -f my.conf",
            "--generate parameters",
        ];
        for text in taught {
            assert!(help.contains(text), "{text}\n{help}");
        }
        for option in Options::command().get_arguments() {
            let long = option.get_long().unwrap();
            assert!(help.contains(&format!("--{long}")), "{long}\n{help}");
        }
    }
}

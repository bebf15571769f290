//! `asinfo`: sends info commands to one server and prints the answers.
//!
//! With `-v` it prints the bare value; without it, it prints the values of the server's default list,
//! numbered. The exit code is 1 when the server cannot be reached or refuses a command, 2 when the options
//! are wrong.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, CommandFactory, Parser};

use crate::astools;
use crate::host::{DEFAULT_PORT, Host};
use crate::info;
use crate::link::Access;
use crate::login::Login;
use crate::tls::TlsOptions;

/// Ask an Aerospike server for information, or change its dynamic settings.
#[derive(Parser, Debug)]
#[command(name = "asinfo", version, disable_help_flag = true, disable_version_flag = true)]
pub struct Options {
    /// Host to ask, as HOST[:TLS-NAME][:PORT]; the first of a comma-separated list is used
    #[arg(short = 'h', long, value_name = "HOST", default_value = "localhost")]
    host: String,

    /// Port for a host without one
    #[arg(short, long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    port: u16,

    /// Command to send, like build or "set-config:context=service;proto-fd-max=20000"; may be given several times, and
    /// contain several commands separated by newlines. Without it: the server's default list
    #[arg(short = 'v', long = "value", value_name = "COMMAND")]
    values: Vec<String>,

    /// Print the parts of a value on separate lines: split at semicolons, else colons, else commas
    #[arg(short = 'l', long = "line-separator", alias = "line_separator")]
    line_separator: bool,

    /// Print only the names in the server's answer, without the values
    #[arg(long)]
    no_value: bool,

    /// Longest wait for the server, in seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 5.0)]
    timeout: f64,

    /// User name at a server with access control; other servers accept every client
    #[arg(short = 'U', short_alias = 'u', long)]
    user: Option<String>,

    /// Password of the user
    #[arg(short = 'P', long, value_name = "PASSWORD", num_args = 0..=1, default_missing_value = "")]
    password: Option<String>,

    /// Authentication mode; accepted for compatibility with scripts and ignored, because the server itself manages all
    /// users
    #[arg(long, value_name = "MODE")]
    auth: Option<String>,

    /// Print this help
    #[arg(short = 'E', long, action = ArgAction::Help)]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,

    #[command(flatten)]
    tls: TlsOptions,

    #[command(flatten)]
    files: astools::FileOptions,
}

/// Reads the command line and configuration files.
///
/// # Errors
/// The error of clap, which prints itself; also for help and version.
pub fn parse_arguments(arguments: impl Iterator<Item = OsString>) -> Result<Options, clap::Error> {
    Options::try_parse_from(astools::with_files(&command(), arguments.collect())?)
}

/// The definition of all options.
#[must_use]
pub fn command() -> clap::Command {
    Options::command()
}

/// Runs with `options`.
///
/// # Errors
/// Only when `out` cannot be written.
pub fn run(options: &Options, out: &mut impl Write, errors: &mut impl Write) -> io::Result<ExitCode> {
    let host = match Host::parse(&options.host, options.port) {
        Ok(host) => host,
        Err(what) => {
            writeln!(errors, "asinfo: {what}")?;
            return Ok(ExitCode::from(2));
        }
    };
    let Some(timeout) =
        Duration::try_from_secs_f64(options.timeout).ok().filter(|timeout| !timeout.is_zero())
    else {
        writeln!(errors, "asinfo: --timeout must be more than 0 seconds")?;
        return Ok(ExitCode::from(2));
    };
    let commands = commands(&options.values);
    let login = Login::given(options.user.as_deref(), options.password.as_deref());
    let access =
        login.and_then(|login| Ok(Access { login, tls: options.tls.client(host.certificate_name())? }));
    let access = match access {
        Ok(access) => access,
        Err(what) => {
            writeln!(errors, "asinfo: {what}")?;
            return Ok(ExitCode::from(2));
        }
    };
    let answers = match info::ask(&host, &access, &commands, timeout) {
        Ok(answers) => answers,
        Err(error) => {
            writeln!(errors, "asinfo: {host}: {error}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    if answers.is_empty() && !commands.is_empty() {
        writeln!(errors, "asinfo: {host} answered nothing to {}", commands.join(", "))?;
        return Ok(ExitCode::FAILURE);
    }
    if let [(refusal, value)] = &answers[..]
        && value.is_empty()
        && info::is_error(refusal)
    {
        // The refusal is not the answer to one of the commands.
        let advice = if refusal.contains("not authenticated") { ": give --user and --password" } else { "" };
        writeln!(errors, "asinfo: {host}: {refusal}{advice}")?;
        return Ok(ExitCode::FAILURE);
    }
    print(options, &commands, &answers, out)?;
    let is_refused = !commands.is_empty() && answers.iter().any(|(_, value)| info::is_error(value));
    Ok(if is_refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The commands of all `-v`, without surrounding quotes. `stats` is an old name of `statistics`.
fn commands(values: &[String]) -> Vec<String> {
    let unquoted = |text: &str| text.trim().trim_matches(|c| c == '\'' || c == '"').to_owned();
    let commands = values.iter().flat_map(|value| value.split('\n')).map(unquoted);
    commands
        .filter(|command| !command.is_empty())
        .map(|command| if command == "stats" { "statistics".to_owned() } else { command })
        .collect()
}

fn print(
    options: &Options,
    commands: &[String],
    answers: &[(String, String)],
    out: &mut impl Write,
) -> io::Result<()> {
    for (number, (name, value)) in answers.iter().enumerate() {
        let value = value.trim_matches(';');
        let value = if options.line_separator { in_lines(value) } else { value.to_owned() };
        match commands.len() {
            _ if options.no_value => writeln!(out, "{name}")?,
            0 => writeln!(out, "{} :  {name}\n     {}", number + 1, value.replace('\n', "\n     "))?,
            1 => writeln!(out, "{value}")?,
            _ if options.line_separator => writeln!(out, "{name}\n{value}\n")?,
            _ => writeln!(out, "{name}\t{value}")?,
        }
    }
    out.flush()
}

/// `value` with each part on a line of its own.
fn in_lines(value: &str) -> String {
    let separator = [';', ':', ','].into_iter().find(|separator| value.contains(*separator));
    separator.map_or_else(|| value.to_owned(), |separator| value.replace(separator, "\n"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    /// Runs asinfo with `arguments` against a server whose answer is always `answer`.
    fn asinfo(arguments: &[&str], answer: &'static str) -> (ExitCode, String, String, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("-h{}", listener.local_addr().unwrap());
        let (sender, receiver) = std::sync::mpsc::channel();
        let server = cf::threads::spawn("server", move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut header = [0; info::HEADER_SIZE];
            stream.read_exact(&mut header).unwrap();
            let mut body = vec![0; info::decode_header(header).unwrap()];
            stream.read_exact(&mut body).unwrap();
            sender.send(body).unwrap();
            let mut frame = (answer.len() as u64).to_be_bytes().to_vec();
            frame[..2].copy_from_slice(&[2, 1]);
            frame.extend_from_slice(answer.as_bytes());
            stream.write_all(&frame).unwrap();
        })
        .unwrap();
        let options =
            Options::try_parse_from(["asinfo", &host].into_iter().chain(arguments.iter().copied())).unwrap();
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = run(&options, &mut out, &mut errors).unwrap();
        server.join().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (code, text(out), text(errors), receiver.recv().unwrap())
    }

    #[test]
    fn options_are_consistent() {
        Options::command().debug_assert();
        let parsed =
            Options::try_parse_from(["asinfo", "-h", "a", "-Upeter", "-P", "-v", "build", "-l"]).unwrap();
        assert_eq!((parsed.values.as_slice(), parsed.line_separator), (&["build".to_owned()][..], true));
    }

    #[test]
    fn one_command_prints_its_bare_value() {
        let (code, out, _, asked) = asinfo(&["-v", "'stats'"], "statistics\ta=1;b=2;\n");
        assert_eq!(
            (code, out.as_str(), asked.as_slice()),
            (ExitCode::SUCCESS, "a=1;b=2\n", &b"statistics\n"[..])
        );
        let (_, out, ..) = asinfo(&["-v", "statistics", "-l"], "statistics\ta=1;b=2;\n");
        assert_eq!(out, "a=1\nb=2\n");
        let (_, out, ..) = asinfo(&["-v", "x", "-l"], "x\ta:b,c\n");
        assert_eq!(out, "a\nb,c\n");
    }

    #[test]
    fn several_commands_print_their_names() {
        let (_, out, _, asked) = asinfo(&["-v", "build", "-v", "node\nname"], "build\t8\nnode\tA\nname\tA\n");
        assert_eq!(
            (out.as_str(), asked.as_slice()),
            ("build\t8\nnode\tA\nname\tA\n", &b"build\nnode\nname\n"[..])
        );
    }

    #[test]
    fn no_command_prints_the_numbered_list() {
        let (code, out, _, asked) = asinfo(&[], "node\tA\nbuild\t8\n");
        assert_eq!((code, out.as_str()), (ExitCode::SUCCESS, "1 :  node\n     A\n2 :  build\n     8\n"));
        assert!(asked.is_empty());
        let (_, out, ..) = asinfo(&["--no-value"], "node\tA\nbuild\t8\n");
        assert_eq!(out, "node\nbuild\n");
    }

    #[test]
    fn a_refusal_is_printed_and_fails() {
        let (code, out, ..) = asinfo(&["-v", "nonsense"], "nonsense\tERROR:4:unrecognized command\n");
        assert_eq!((code, out.as_str()), (ExitCode::FAILURE, "ERROR:4:unrecognized command\n"));
        for arguments in [&["-v", "build"][..], &[], &["-v", "build", "-v", "node"]] {
            let (code, out, errors, _) = asinfo(arguments, "ERROR:80:not authenticated\n");
            assert_eq!((code, out.as_str()), (ExitCode::FAILURE, ""));
            assert!(errors.ends_with("not authenticated: give --user and --password\n"), "{errors}");
        }
    }

    #[test]
    fn an_absent_server_and_bad_options_are_named() {
        let run_plain = |arguments: &[&str]| {
            let (mut out, mut errors) = (Vec::new(), Vec::new());
            let options = Options::try_parse_from(["asinfo"].iter().chain(arguments)).unwrap();
            let code = run(&options, &mut out, &mut errors).unwrap();
            (code, String::from_utf8(errors).unwrap())
        };
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (code, errors) = run_plain(&["-h", &free.to_string()]);
        assert_eq!(code, ExitCode::FAILURE);
        assert!(errors.contains("cannot connect"), "{errors}");
        assert_eq!(run_plain(&["-h", "a:99999"]).0, ExitCode::from(2));
        assert_eq!(run_plain(&["-t", "0"]).0, ExitCode::from(2));
    }
}

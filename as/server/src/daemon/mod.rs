//! The life of the process around the server: configuration, log, user, terminal, signals, end.
//!
//! The steps of [`run`] are in this order for these reasons: errors that a person at the terminal can correct
//! are found before the process leaves it; files are opened as the user the server runs as; the process
//! leaves the terminal while it has one thread; signals are blocked before the second thread starts.
//!
//! Threads: the calling thread starts and stops the service and waits in between; the thread `signals`
//! receives signals.

mod configuration;
mod descriptors;
mod files;
mod running;
mod signals;

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use cf::log::{CONSOLE, Level, Levels, Settings, SinkSettings, Target, check_syslog};
use cf::sys::notify::{READY, STOPPING, notify};
use cf::sys::probe::check_writable;
use cf::sys::process::{
    Background, Forked, PidFile, Progress, check_pid_file, console_file, fork, group_id, leave_terminal,
    set_file_permissions, switch_user, user_id,
};
use cf::threads;

use crate::cli::Options;
use crate::config::{Config, InUse, Obstacle};
use crate::version::{FERROSPIKE_VERSION, edition_and_build};
use configuration::Loaded;
use running::RunningServer;
pub use signals::Losses;
use signals::{Request, SharedStarter, Watch};

/// How long the process at the terminal waits for a server in the background.
const BACKGROUND_START_WAIT: Duration = Duration::from_secs(10);

/// The service that the process runs: the server, or a stand-in of a test.
pub trait Run {
    /// Hints for a user who has just started the server to try it.
    fn greeting(&self) -> String {
        String::new()
    }
    /// All obstacles to a start with `config` that can be found without a change.
    fn obstacles(_config: &Config) -> Vec<Obstacle> {
        Vec::new()
    }
    /// Writes the service's state to the log.
    fn dump(&self);
    /// Reads the files again that may have been replaced.
    fn reload(&self) {}
    /// Tells what an end at once loses. The answer is asked for while `stop` runs, from another thread.
    fn losses(&self) -> Losses {
        Box::new(Vec::new)
    }
    /// Stops cleanly: no acknowledged write is lost.
    ///
    /// # Errors
    /// When an acknowledged write is lost anyway.
    fn stop(self) -> Result<Ending, String>;
}

/// The state of a service that has stopped without a loss.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    Clean,
    /// Not all of the service has ended. The sentence says what has not, and what follows.
    Unclean(String),
}

/// Runs the service that `start` makes, with `options`, until a user or the system asks it to stop.
///
/// `start` gets the configuration and the options, and returns the service once it answers clients, or a
/// sentence with the reason why it cannot. When `start` is called, the log is open, and the process has its
/// user and has left the terminal.
pub fn run<S: Run>(options: &Options, start: impl FnOnce(Config, &Options) -> Result<S, String>) -> ExitCode {
    if options.version {
        say(&mut io::stdout(), format_args!("{}\nFerrospike {FERROSPIKE_VERSION}", edition_and_build()));
        return ExitCode::SUCCESS;
    }
    cf::log::install();
    if options.early_verbose {
        cf::log::logger().show_early_lines();
    }
    let loaded = match configuration::load(options) {
        Ok(loaded) => loaded,
        Err(refusal) => {
            say(&mut io::stderr(), format_args!("{refusal}"));
            return ExitCode::FAILURE;
        }
    };
    if options.check_config {
        return check::<S>(options, &loaded);
    }
    let starter = SharedStarter::default();
    match run_configured(options, loaded, start, &starter) {
        Ok(code) => code,
        Err(reason) => {
            cf::critical!(As, "{reason}");
            say_beside_the_log(&reason);
            if let Some(starter) = starter.lock().take() {
                starter.report_failure(&reason);
            }
            ExitCode::FAILURE
        }
    }
}

/// Reports all obstacles to a start with this configuration on this machine. A resource of the server that
/// already runs with it is only noted, because a restart frees it.
fn check<S: Run>(options: &Options, loaded: &Loaded) -> ExitCode {
    let Loaded { config, warnings, .. } = loaded;
    warnings.iter().for_each(|warning| say(&mut io::stderr(), format_args!("warning: {warning}")));
    let line = |name| config.lines.last("service", name);
    let pid_file = config.service.pidfile.get().filter(|_| !options.fgdaemon);
    // Only root and the server's own user can see the descriptors of a server.
    let running = RunningServer::find(options, pid_file.as_deref());
    let mut obstacles = Vec::new();
    // Files are opened as the user that the server runs as.
    let user = become_configured_user(config).err();
    obstacles.extend(user.map(|error| Obstacle::new(line("user").or_else(|| line("group")), error)));
    obstacles.extend(check_logs(config));
    obstacles.extend(files::shared(config, pid_file.is_some()));
    let is_told = obstacles.iter().any(|one| one.line.is_some() && one.line == line("pidfile"));
    if let Some(path) = pid_file.filter(|_| !is_told)
        && let Err(error) = check_pid_file(Path::new(&*path))
    {
        let is_held = error.kind() == io::ErrorKind::AddrInUse;
        let obstacle = Obstacle::new(line("pidfile"), format!("cannot hold the pidfile {path}: {error}"));
        obstacles.push(Obstacle { in_use: is_held.then(|| InUse::File((&*path).into())), ..obstacle });
    }
    obstacles.extend(S::obstacles(config));
    let is_held = |obstacle: &Obstacle| {
        running.as_ref().zip(obstacle.in_use.as_ref()).is_some_and(|(running, what)| running.holds(what))
    };
    let (held, mut obstacles): (Vec<_>, Vec<_>) = obstacles.into_iter().partition(is_held);
    obstacles.sort_by_key(|obstacle| (obstacle.line.is_none(), obstacle.line));
    if let Some(running) = running.filter(|_| !held.is_empty()) {
        let held: Vec<String> = held.iter().filter_map(|one| one.in_use.as_ref()).map(sentence).collect();
        let (source, held, id) = (&config.source, held.join(", "), running.id());
        say(
            &mut io::stderr(),
            format_args!("note: {source}: in use by the running server with pid {id}: {held}"),
        );
    }
    for Obstacle { line, sentence, .. } in &obstacles {
        let line = line.map_or_else(String::new, |line| format!(":{line}"));
        say(&mut io::stderr(), format_args!("error: {}{line}: {sentence}", config.source));
    }
    match obstacles.len() {
        0 => {
            say(&mut io::stdout(), format_args!("{} is accepted", config.source));
            ExitCode::SUCCESS
        }
        count => {
            let plural = if count == 1 { " prevents" } else { "s prevent" };
            say(&mut io::stderr(), format_args!("asd: {count} problem{plural} a start"));
            ExitCode::FAILURE
        }
    }
}

/// The log files that cannot be written. A syslog that takes no lines is told as a warning.
fn check_logs(config: &Config) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    for sink in &config.logging {
        match sink.settings().target {
            Target::Console => {}
            Target::File(path) => {
                if let Err(error) = check_writable(&path) {
                    let text = format!("cannot open the log {}: {error}", path.display());
                    obstacles.push(Obstacle::new(Some(sink.line), text));
                }
            }
            // A missing syslog daemon is no obstacle: each line tries again.
            Target::Syslog { path, .. } => {
                if let Err(error) = check_syslog(&path) {
                    let path = path.display();
                    let text = format_args!(
                        "warning: syslog {path} accepts no lines, so they are lost until it does: {error}"
                    );
                    say(&mut io::stderr(), text);
                }
            }
        }
    }
    obstacles
}

/// Writes the reason why the server did not start to standard error, for the person at the terminal and for
/// the journal of the service. The log may be elsewhere.
fn say_beside_the_log(reason: &str) {
    let sinks = cf::log::logger().sinks();
    if !sinks.is_empty() && !sinks.iter().any(|sink| sink == CONSOLE) {
        say(&mut io::stderr(), format_args!("asd: {reason}\nThe log is {}.", sinks.join(", ")));
    }
}

/// The part of [`run`] that follows once the configuration is known.
fn run_configured<S: Run>(
    options: &Options,
    loaded: Loaded,
    start: impl FnOnce(Config, &Options) -> Result<S, String>,
    starter: &SharedStarter,
) -> Result<ExitCode, String> {
    let Loaded { config, text, warnings, developer } = loaded;
    let service = &config.service;
    set_file_permissions(service.os_group_perms.get());
    become_configured_user(&config)?;
    if let Some(shared) = files::shared(&config, !options.fgdaemon).first() {
        return Err(shared.located(&config));
    }
    cf::log::logger().configure(&log_settings(&config)).map_err(sentence)?;
    let foreground = options.foreground || options.fgdaemon || developer || !service.run_as_daemon.get();
    if !foreground {
        let unable = |error| format!("cannot leave the terminal: {error}");
        match fork().map_err(unable)? {
            Forked::Parent(background) => return Ok(await_start(background)),
            Forked::Child(waiting) => *starter.lock() = Some(waiting),
        }
        leave_terminal().map_err(unable)?;
    }

    // Tools recognise a start in a log by this number of marks.
    let marks = "<>".repeat(10);
    cf::info!(As, "{marks}  {} by Ferrospike {FERROSPIKE_VERSION}  {marks}", edition_and_build());
    if developer {
        let why = if options.dev { "as asked" } else { "as there is no configuration file" };
        cf::info!(As, "running with the built-in developer configuration, {why}; nothing is kept on disk");
    }
    if !developer {
        echo(&text);
    }
    warnings.iter().for_each(|warning| cf::warning!(Config, "{warning}"));
    config.resolve(u32::try_from(threads::cpu_count()).unwrap_or(1));
    descriptors::provide(&config);
    let _pid_file = pid_file(options, &config)?;

    let watch = Watch::start(starter).map_err(|error| format!("cannot wait for signals: {error}"))?;
    let running = start(config, options)?;
    watch.service_started(running.losses());
    tell_manager(READY);
    if let Some(starter) = starter.lock().take() {
        starter.report_ready();
    }
    if developer {
        say(&mut io::stdout(), format_args!("{}", running.greeting()));
    }
    loop {
        match watch.next_request() {
            Request::Dump => running.dump(),
            Request::Reload => running.reload(),
            Request::Stop => break,
        }
    }
    tell_manager(STOPPING);
    cf::info!(As, "initiating clean shutdown ...");
    let ending = running.stop().map_err(|reason| format!("the shutdown was not clean: {reason}"))?;
    cf::log::logger().report_suppressed();
    match ending {
        Ending::Clean => cf::info!(As, "finished clean shutdown - exiting"),
        Ending::Unclean(what) => cf::warning!(As, "finished shutdown, which was not clean: {what} - exiting"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until the server in the background answers clients, and says if it does not. A start that reads large devices
/// may take hours, so the wait has a limit, and the start continues after it.
fn await_start(background: Background) -> ExitCode {
    let id = background.id();
    let mut log = cf::log::logger().sinks();
    for sink in log.iter_mut().filter(|sink| *sink == CONSOLE) {
        *sink = console_file(id).display().to_string();
    }
    let (said, code) = match background.await_report(BACKGROUND_START_WAIT) {
        Progress::Ready => return ExitCode::SUCCESS,
        Progress::Failed(reason) => (reason, ExitCode::FAILURE),
        Progress::Gone(how) => (format!("the server has ended during its start: {how}"), ExitCode::FAILURE),
        Progress::Starting => (format!("the server, process {id}, is still starting"), ExitCode::SUCCESS),
    };
    say(&mut io::stderr(), format_args!("asd: {said}\nThe log is {}.", log.join(", ")));
    code
}

/// The configured log. Without any sink, lines go to the console, so that the server is never silent.
fn log_settings(config: &Config) -> Settings {
    let mut settings = config.log_settings();
    if settings.sinks.is_empty() {
        settings.sinks.push(SinkSettings { target: Target::Console, levels: Levels::all(Level::Info) });
    }
    settings
}

fn become_configured_user(config: &Config) -> Result<(), String> {
    const ADVICE: &str =
        "leave 'user' and 'group' out of the configuration to run as the user who starts the server";
    let user = config.service.user.get().map(|name| user_id(&name)).transpose();
    let group = config.service.group.get().map(|name| group_id(&name)).transpose();
    let (user, group) = match (user, group) {
        (Ok(user), Ok(group)) => (user, group),
        (user, group) => {
            let unknown = [user.err(), group.err()].into_iter().flatten();
            let unknown: Vec<String> = unknown.map(|error| error.to_string()).collect();
            let them = if unknown.len() == 1 { "it" } else { "them" };
            return Err(format!("{}; create {them}, or {ADVICE}", unknown.join(", and ")));
        }
    };
    switch_user(user, group).map_err(|error| format!("cannot run as the configured user: {error}; {ADVICE}"))
}

/// Notifies the service manager, if it started this process. Without the notification it may stop the server,
/// so a failure is logged.
fn tell_manager(state: &str) {
    if let Err(error) = notify(state) {
        cf::warning!(As, "cannot tell the service manager {state}: {error}");
    }
}

/// The pid file; a new-style daemon has none, as its service manager knows its process id.
fn pid_file(options: &Options, config: &Config) -> Result<Option<PidFile>, String> {
    let Some(path) = config.service.pidfile.get() else { return Ok(None) };
    if options.fgdaemon {
        cf::info!(As, "pidfile {path} is not written under --fgdaemon");
        return Ok(None);
    }
    PidFile::create(Path::new(&*path)).map(Some).map_err(|error| {
        let line = config.lines.last("service", "pidfile");
        Obstacle::new(line, format!("cannot hold the pidfile {path}: {error}")).located(config)
    })
}

/// Writes the configuration to the log, so that the log shows the server's settings.
fn echo(text: &str) {
    for line in text.lines().map(str::trim_end) {
        if !line.is_empty() && !line.trim_start().starts_with('#') {
            cf::info!(Config, "{line}");
        }
    }
}

fn sentence(error: impl fmt::Display) -> String {
    error.to_string()
}

/// Writes a line for the person who typed the command. A failure is ignored, because the line may have no reader.
fn say(to: &mut impl Write, text: fmt::Arguments<'_>) {
    let _ = writeln!(to, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_sink_the_console_speaks() {
        let settings = log_settings(&Config::default());
        let console = SinkSettings { target: Target::Console, levels: Levels::all(Level::Info) };
        assert_eq!(settings.sinks, [console]);
        let developer = log_settings(&Config::developer());
        assert_eq!(developer.sinks.len(), 1);
    }
}

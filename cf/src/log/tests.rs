//! Tests of a complete logger with real files and sockets.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::*;
use crate::temp_folder::TempFolder;

const PLACE: Place = Place { file: "as/server/src/test.rs", line: 7 };

fn file_sink(path: &Path, level: Level) -> SinkSettings {
    SinkSettings { target: Target::File(path.to_owned()), levels: Levels::all(level) }
}

fn settings(sinks: Vec<SinkSettings>) -> Settings {
    Settings { sinks, time_style: TimeStyle::default() }
}

/// A separate logger with one file.
pub(super) fn logger_to_file(folder: &TempFolder, level: Level) -> (Logger, PathBuf) {
    let path = folder.join("aerospike.log");
    let logger = Logger::new();
    logger.configure(&settings(vec![file_sink(&path, level)])).unwrap();
    (logger, path)
}

pub(super) fn lines_of(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn say(logger: &Logger, context: Context, level: Level, text: &str) {
    if logger.enabled(context, level) {
        logger.write(context, level, PLACE, format_args!("{text}"));
    }
}

#[test]
fn each_sink_gets_what_its_levels_want() {
    let folder = TempFolder::new("levels");
    let (loud, quiet) = (folder.join("loud.log"), folder.join("quiet.log"));
    let mut levels = Levels::all(Level::Info);
    levels.set(Some(Context::Service), Level::Detail);
    let loud_sink = SinkSettings { target: Target::File(loud.clone()), levels };
    let logger = Logger::new();
    logger.configure(&settings(vec![loud_sink, file_sink(&quiet, Level::Critical)])).unwrap();

    assert!(logger.enabled(Context::Service, Level::Detail));
    assert!(!logger.enabled(Context::Hb, Level::Debug));
    say(&logger, Context::Service, Level::Detail, "detail of service");
    say(&logger, Context::Hb, Level::Debug, "debug of hb");
    say(&logger, Context::Hb, Level::Info, "info of hb");
    say(&logger, Context::Hb, Level::Critical, "the end");
    let texts: Vec<_> =
        lines_of(&loud).iter().map(|line| line.split(") ").last().unwrap().to_owned()).collect();
    assert_eq!(texts, ["detail of service", "info of hb", "the end"]);
    assert_eq!(lines_of(&quiet).len(), 1);

    logger.set_level(1, "hb", "debug").unwrap();
    assert!(logger.enabled(Context::Hb, Level::Debug));
    say(&logger, Context::Hb, Level::Debug, "debug of hb");
    assert_eq!((lines_of(&loud).len(), lines_of(&quiet).len()), (3, 2));
    assert_eq!(logger.levels(1).unwrap().get(Context::Hb), Level::Debug);
    logger.set_level(1, "any", "CRITICAL").unwrap();
    assert!(!logger.enabled(Context::Hb, Level::Debug));

    assert_eq!(logger.set_level(2, "hb", "debug"), Err(SetLevelError::UnknownSink));
    assert_eq!(logger.set_level(0, "hbx", "debug"), Err(SetLevelError::UnknownContext));
    assert_eq!(logger.set_level(0, "ANY", "debug"), Err(SetLevelError::UnknownContext));
    assert_eq!(logger.set_level(0, "hb", "loud"), Err(SetLevelError::UnknownLevel));
    assert_eq!(logger.levels(2), None);
    assert_eq!(logger.sinks(), [loud.display().to_string(), quiet.display().to_string()]);
}

#[test]
fn early_lines_reach_the_sinks_with_the_time_they_were_written() {
    let folder = TempFolder::new("early");
    let path = folder.join("aerospike.log");
    let logger = Logger::new();
    say(&logger, Context::Config, Level::Info, "first");
    say(&logger, Context::Config, Level::Debug, "not wanted early");
    let long = "x".repeat(4000);
    for _ in 0..100 {
        say(&logger, Context::Config, Level::Info, &long);
    }
    let mut with_millis = settings(vec![file_sink(&path, Level::Info)]);
    with_millis.time_style.millis = true;
    logger.configure(&with_millis).unwrap();
    say(&logger, Context::As, Level::Info, "after");

    let lines = lines_of(&path);
    assert!(lines[0].ends_with("INFO (config): (test.rs:7) first"), "{}", lines[0]);
    assert!(lines[0].split(" GMT").next().unwrap().contains('.'), "with milliseconds: {}", lines[0]);
    assert!(lines[lines.len() - 2].contains("lines from before the configuration found no room"));
    assert!(lines[lines.len() - 1].ends_with("after"));
    assert!(lines.len() > 50 && lines.len() < 100, "{}", lines.len());
}

#[test]
fn rolling_moves_on_to_a_new_file() {
    let folder = TempFolder::new("roll");
    let (logger, path) = logger_to_file(&folder, Level::Info);
    say(&logger, Context::As, Level::Info, "one");
    let old = path.with_extension("1");
    std::fs::rename(&path, &old).unwrap();
    say(&logger, Context::As, Level::Info, "two");
    logger.reopen();
    say(&logger, Context::As, Level::Info, "three");
    assert_eq!(lines_of(&old).len(), 2);
    assert_eq!(lines_of(&path).len(), 1);

    std::fs::rename(&path, folder.join("last")).unwrap();
    std::fs::create_dir(&path).unwrap();
    logger.reopen();
    let lines = lines_of(&folder.join("last"));
    assert!(lines[1].contains("lines still go to the old file"), "{lines:?}");
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_that_names_it() {
    let folder = TempFolder::new("missing");
    let path = folder.join("no/such/folder/a.log");
    let logger = Logger::new();
    let error = logger.configure(&settings(vec![file_sink(&path, Level::Info)])).unwrap_err();
    assert!(error.to_string().contains("no/such/folder/a.log"), "{error}");
    assert!(logger.sinks().is_empty());
}

#[test]
fn threads_write_whole_lines() {
    let folder = TempFolder::new("threads");
    let (logger, path) = logger_to_file(&folder, Level::Info);
    let text = "x".repeat(300);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    say(&logger, Context::Rw, Level::Info, &text);
                }
            });
        }
        for _ in 0..20 {
            logger.reopen();
        }
    });
    let lines = lines_of(&path);
    assert_eq!(lines.len(), 1600);
    assert!(lines.iter().all(|line| line.ends_with(&format!("(test.rs:7) {text}"))));
}

#[test]
fn syslog_gets_priority_time_tag_and_text() {
    let folder = TempFolder::new("syslog");
    let path = folder.join("log");
    let target = Target::Syslog { path: path.clone(), tag: "asd".to_owned(), facility: 16 };
    let logger = Logger::new();
    logger.configure(&settings(vec![SinkSettings { target, levels: Levels::all(Level::Info) }])).unwrap();
    say(&logger, Context::As, Level::Info, "nobody listens yet");

    for round in 0..2 {
        let _ = std::fs::remove_file(&path);
        let daemon = UnixDatagram::bind(&path).unwrap();
        say(&logger, Context::As, Level::Warning, "hello");
        let mut buffer = [0; 1024];
        let size = daemon.recv(&mut buffer).unwrap();
        let message = std::str::from_utf8(&buffer[..size]).unwrap();
        assert!(message.starts_with("<132>"), "round {round}: {message}");
        assert_eq!(&message[20..], " asd: WARNING (as): (test.rs:7) hello", "round {round}");
    }
}

#[test]
fn a_syslog_daemon_that_reads_nothing_delays_no_thread() {
    const LINES: usize = 300;
    let folder = TempFolder::new("stuck-syslog");
    let path = folder.join("log");
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_nonblocking(true).unwrap();
    let target = Target::Syslog { path, tag: "asd".to_owned(), facility: 16 };
    let logger = Logger::new();
    logger.configure(&settings(vec![SinkSettings { target, levels: Levels::all(Level::Info) }])).unwrap();
    let mut buffer = [0; 1024];
    let mut take_all = || std::iter::from_fn(|| daemon.recv(&mut buffer).ok()).count();

    // The queue of the socket has room for few lines. Without a limit, the first line that does not fit would
    // wait for ever.
    (0..LINES).for_each(|_| say(&logger, Context::As, Level::Info, "nobody reads"));
    let taken = take_all();
    assert!((1..LINES).contains(&taken), "{taken} of {LINES}");
    say(&logger, Context::As, Level::Info, "somebody reads again");
    assert_eq!(take_all(), 1);
}

#[test]
fn macros_write_to_the_log_of_the_process() {
    let folder = TempFolder::new("macros");
    let path = folder.join("aerospike.log");
    logger().configure(&settings(vec![file_sink(&path, Level::Info)])).unwrap();
    let (name, count) = ("test", 3);
    crate::info!(Service, "listening on {name}");
    crate::warning!(Nsup, { name }, "evicted {count} of {}", 4);
    crate::debug!(Service, "{}", panic_if_evaluated());
    crate::warning_limited!(Proto, { name }, "bad version {count}");
    ::log::set_logger(logger()).unwrap();
    ::log::warn!(target: "udf", "from a library");
    ::log::error!("from elsewhere");

    // Other tests of this process may log too.
    let ours = |line: &String| line.contains(": (tests.rs:");
    let texts: Vec<_> = lines_of(&path).into_iter().filter(ours).collect();
    let ends = [
        "listening on test",
        "{test} evicted 3 of 4",
        "{test} bad version 3",
        "from a library",
        "from elsewhere",
    ];
    assert_eq!(texts.len(), ends.len(), "{texts:?}");
    for (text, end) in texts.iter().zip(ends) {
        assert!(text.ends_with(end), "{text}");
    }
    assert!(texts[1].contains("WARNING (nsup): ("));
    assert!(texts[3].contains("WARNING (udf): ("));
    assert!(texts[4].contains("WARNING (misc): ("));
}

fn panic_if_evaluated() -> u32 {
    unreachable!("arguments of a line nobody wants are not evaluated")
}

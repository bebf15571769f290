//! Faults that tests inject: a named point of the code panics once when a test asks for it. Only builds with
//! debug assertions contain these points; in others [`fault_point!`](crate::fault_point) does nothing.
//!
//! A test sets the variable [`FOLDER`] to a folder before the process starts. A file in the folder with the
//! name of a point requests the panic. The first thread at the point removes the file and panics.
//!
//! A file with the name of the point and the suffix [`STALL`] stalls all threads at the point until the test
//! removes it. Tests simulate a disk that does not answer with it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// The environment variable that names the folder.
pub const FOLDER: &str = "FERROSPIKE_FAULTS";

/// Suffix of a file that stalls a point.
pub const STALL: &str = ".stall";

/// How often a stalled thread checks for the file.
const STALL_POLL: Duration = Duration::from_millis(1);

/// Panics here, once, if a test asks for it. The name says what the code does here.
#[macro_export]
macro_rules! fault_point {
    ($name:literal) => {
        if cfg!(debug_assertions) {
            $crate::fault::pass($name);
        }
    };
}

/// Passes the point called `name`.
///
/// # Panics
/// If a test asks for it.
pub fn pass(name: &str) {
    // The environment at the first point that is passed; it does not change afterwards.
    static FAULTS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(folder) = FAULTS.get_or_init(|| std::env::var_os(FOLDER).map(PathBuf::from)) else { return };
    let stall = folder.join([name, STALL].concat());
    while stall.exists() {
        std::thread::sleep(STALL_POLL);
    }
    if std::fs::remove_file(folder.join(name)).is_ok() {
        panic!("injected fault at {name}");
    }
}

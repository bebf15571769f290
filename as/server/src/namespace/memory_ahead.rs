//! The thread that backs the next elements of each index, and the next blocks in memory, with huge pages
//! ([`cf::huge_pages`]) before clients need them.
//!
//! While the system makes pages, it holds no lock that a client's thread takes. It only prepares memory of tables that
//! grow: those that took some since its last turn. While none grows, it turns the pages of blocks that were filled
//! without that into huge ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::time::Duration;

use super::Namespace;

/// Time between two turns while a table grows. A gigabyte a second fills less than a block in it.
const PERIOD: Duration = Duration::from_millis(5);
/// The same while none grows.
const IDLE_PERIOD: Duration = Duration::from_millis(50);

/// Body of the thread; ends once `is_stopping` is set and the thread is unparked.
pub(crate) fn prepare_memory(namespaces: &[Arc<Namespace>], is_stopping: &AtomicBool) {
    while !is_stopping.load(Acquire) {
        cf::fault_point!("memory-ahead");
        let mut is_growing = false;
        for namespace in namespaces {
            is_growing |= namespace.index.prepare_ahead() | namespace.storage.prepare_ahead();
        }
        if !is_growing {
            namespaces.iter().for_each(|namespace| namespace.storage.collapse_next());
        }
        std::thread::park_timeout(if is_growing { PERIOD } else { IDLE_PERIOD });
    }
}

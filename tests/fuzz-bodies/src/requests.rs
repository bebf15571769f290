//! Record messages, batches and queries, processed by a whole server.

use std::cell::RefCell;

use crate::server::Client;

thread_local! {
    static CLIENT: RefCell<Client> = RefCell::default();
}

/// Runs one input as described at the top of this file.
pub fn run(body: &[u8]) {
    CLIENT.with_borrow_mut(|client| client.message(body));
}

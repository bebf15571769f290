//! Record messages, batches and queries, carried out by a whole server.

use std::cell::RefCell;

use crate::server::Client;

thread_local! {
    static CLIENT: RefCell<Client> = RefCell::default();
}

/// Does what the head of this file says with one input.
pub fn run(body: &[u8]) {
    CLIENT.with_borrow_mut(|client| client.message(body));
}

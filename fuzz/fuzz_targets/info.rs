//! Info requests, answered by a whole server.
#![no_main]

use std::cell::RefCell;

use ferrospike_fuzz::Client;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static CLIENT: RefCell<Client> = RefCell::default();
}

fuzz_target!(|body: &[u8]| {
    CLIENT.with_borrow_mut(|client| client.info(body));
});

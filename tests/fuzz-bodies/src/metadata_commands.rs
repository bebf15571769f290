//! Commands about secondary indexes, functions, jobs, truncation and system metadata, answered by a whole server.
//!
//! Input: the command (one byte), its parameters.

use std::cell::RefCell;

use crate::server::Client;

const COMMANDS: [&str; 29] = [
    "sindex-create:ns=test;",
    "sindex-create:namespace=test;",
    "sindex-create:",
    "sindex-delete:ns=test;",
    "sindex-delete:",
    "sindex-exists:",
    "sindex-list:",
    "sindex-list",
    "sindex-stat:",
    "sindex/",
    "sindex",
    "udf-put:",
    "udf-put:filename=m.lua;udf-type=LUA;content=",
    "udf-get:",
    "udf-remove:",
    "udf-list",
    "query-show:",
    "query-abort:",
    "query-abort-all:",
    "truncate:",
    "truncate:namespace=test;set=",
    "truncate-undo:",
    "truncate-namespace:",
    "truncate-namespace-undo:",
    "eviction-reset:",
    "smd-show:",
    "smd-info",
    "udf-clear-cache",
    "sindex-create:ns=test;set=s;indexname=i;",
];

thread_local! {
    static CLIENT: RefCell<Client> = RefCell::default();
}

/// Runs one input as described at the top of this file.
pub fn run(input: &[u8]) {
    let Some((&command, parameters)) = input.split_first() else { return };
    let mut request = COMMANDS[usize::from(command) % COMMANDS.len()].as_bytes().to_vec();
    request.extend(parameters);
    request.push(b'\n');
    CLIENT.with_borrow_mut(|client| client.info(&request));
}

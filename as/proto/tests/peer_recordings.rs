//! Decodes every recorded message between C servers into its typed form, encodes it again and compares the
//! bytes. No message that is truncated or changed in one byte makes a decoder panic.
//!
//! The recordings are in `tests/corpora/cluster/wire`: gzipped lines of JSON. The first line is the head; in
//! each other line, `bytes` is the base64 of a whole message.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::read::GzDecoder;
use proto::message::Request;
use proto::peer::clustering::Clustering;
use proto::peer::exchange::Exchange;
use proto::peer::fields::split;
use proto::peer::heartbeat::{self, Heartbeat};
use proto::peer::hello::Hello;
use proto::peer::host_order::{from_host_order, to_host_order};
use proto::peer::migrate::Migrate;
use proto::peer::proxy::{Proxy, ProxyBody};
use proto::peer::replication::Replication;
use proto::peer::services::Services;
use proto::peer::smd::Smd;
use proto::peer::{MessageType, PeerError};

/// Number of messages in the recordings.
const MESSAGES: usize = 6900;

/// All recorded messages, with the names of their recordings.
fn recorded() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpora/cluster/wire");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut messages = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        for line in BufReader::new(GzDecoder::new(File::open(&path).unwrap())).lines().skip(1) {
            let row: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            let bytes = BASE64_STANDARD.decode(row["bytes"].as_str().unwrap()).unwrap();
            messages.push((name.clone(), bytes));
        }
    }
    messages
}

/// Decodes a message and encodes it again.
fn again(message: &[u8]) -> Result<Vec<u8>, PeerError> {
    let mut out = Vec::new();
    match MessageType::of(split(message)?.0).ok_or(PeerError::Unknown)? {
        MessageType::Hello => Hello::decode(message)?.encode(&mut out),
        MessageType::Migrate => Migrate::decode(message)?.encode(&mut out),
        MessageType::Proxy => Proxy::decode(message)?.encode(&mut out),
        MessageType::Clustering => Clustering::decode(message)?.encode(&mut out),
        MessageType::Replication => Replication::decode(message)?.encode(&mut out),
        MessageType::Services => Services::decode(message)?.encode(&mut out),
        MessageType::Exchange => Exchange::decode(message)?.encode(&mut out),
        MessageType::Smd => Smd::decode(message)?.encode(&mut out),
        MessageType::Heartbeat => match heartbeat::compressed(message)? {
            None => Heartbeat::decode(message)?.encode(&mut out),
            Some(deflated) => {
                let inner = heartbeat::inflate(deflated)?;
                assert_eq!(again(&inner)?, inner, "what was compressed");
                assert_eq!(heartbeat::inflate(&heartbeat::deflate(&inner))?, inner);
                heartbeat::wrap(&mut out, deflated);
            }
        },
    }
    Ok(out)
}

#[test]
fn every_recorded_message_is_encoded_as_it_was() {
    let messages = recorded();
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    for (name, message) in &messages {
        let number = split(message).unwrap().0;
        let out = again(message).unwrap_or_else(|error| panic!("{name} type {number}: {error}"));
        assert_eq!(out, *message, "{name} type {number}");
        *counts.entry(number).or_default() += 1;
    }
    println!("{} messages agree, by type {counts:?}", messages.len());
    assert_eq!(messages.len(), MESSAGES);
    assert_eq!(counts.len(), 9, "all message types are there");
}

#[test]
fn requests_that_were_passed_on_are_those_of_clients() {
    let (mut requests, mut rows) = (0, 0);
    for (name, message) in recorded() {
        if split(&message).unwrap().0 != MessageType::Proxy as u16 {
            continue;
        }
        let ProxyBody::Request { digest, frame, .. } = Proxy::decode(&message).unwrap().body else {
            continue;
        };
        let body = from_host_order(frame).unwrap_or_else(|error| panic!("{name}: {error}"));
        let request = Request::parse(&body).unwrap();
        assert_eq!(request.namespace, Some(&b"test"[..]));
        match request.record_digest() {
            None => rows += 1,
            own => assert_eq!(own, digest),
        }
        assert_eq!(to_host_order(&body).unwrap(), frame, "{name}");
        assert_eq!(request.to_body(None, None), body, "{name}");
        requests += 1;
    }
    assert!(requests > 100 && rows > 0, "{requests} requests, {rows} of them rows of batches");
}

#[test]
fn damaged_messages_are_errors_or_other_messages() {
    // One message of each length and type is enough.
    let shapes: BTreeMap<(u16, usize), Vec<u8>> = recorded()
        .into_iter()
        .filter(|(_, message)| message.len() < 700)
        .map(|(_, message)| ((split(&message).unwrap().0, message.len()), message))
        .collect();
    let mut refused = 0;
    for message in shapes.values() {
        for at in 0..message.len() {
            let mut cut = message[..at].to_vec();
            assert!(again(&cut).is_err());
            if at >= 6 {
                // The header is right, but a field ends early.
                let size = (at - 6) as u32;
                cut[..4].copy_from_slice(&size.to_be_bytes());
                refused += usize::from(again(&cut).is_err());
            }
            for flip in [1, 0x80, 0xFF] {
                let mut damaged = message.clone();
                damaged[at] ^= flip;
                refused += usize::from(again(&damaged).is_err());
            }
        }
    }
    assert!(refused > shapes.len());
}

//! Messages from other nodes: all bytes are either an error or a message that is the same after it is encoded
//! and decoded.
//!
//! The first byte of the input selects the message type; the rest is the body, so that the fuzzer need not
//! find a header.

use proto::peer::clustering::Clustering;
use proto::peer::exchange::Exchange;
use proto::peer::heartbeat::Heartbeat;
use proto::peer::hello::Hello;
use proto::peer::host_order::{from_host_order, to_host_order};
use proto::peer::migrate::Migrate;
use proto::peer::proxy::{Proxy, ProxyBody};
use proto::peer::replication::Replication;
use proto::peer::services::Services;
use proto::peer::smd::Smd;
use proto::peer::{HEADER_SIZE, MessageHeader, MessageType};

const TYPES: [MessageType; 9] = [
    MessageType::Hello,
    MessageType::Migrate,
    MessageType::Proxy,
    MessageType::Heartbeat,
    MessageType::Clustering,
    MessageType::Replication,
    MessageType::Services,
    MessageType::Exchange,
    MessageType::Smd,
];

/// Decodes a message, encodes it and decodes it again.
macro_rules! there_and_back {
    ($message:expr, $kind:ident) => {
        if let Ok(first) = $kind::decode($message) {
            let mut bytes = Vec::new();
            first.encode(&mut bytes);
            assert_eq!($kind::decode(&bytes).as_ref(), Ok(&first));
            let header = MessageHeader::parse(&bytes);
            assert!(matches!(header, Ok(Some(header)) if header.body_size + HEADER_SIZE == bytes.len()));
        }
    };
}

/// Runs one input as described at the top of this file.
pub fn run(input: &[u8]) {
    let Some((choice, body)) = input.split_first() else { return };
    let message_type = TYPES[usize::from(*choice) % TYPES.len()];
    let mut message = (body.len() as u32).to_be_bytes().to_vec();
    message.extend_from_slice(&(message_type as u16).to_be_bytes());
    message.extend_from_slice(body);
    let message = message.as_slice();
    match message_type {
        MessageType::Hello => there_and_back!(message, Hello),
        MessageType::Migrate => there_and_back!(message, Migrate),
        MessageType::Proxy => {
            there_and_back!(message, Proxy);
            if let Ok(Proxy { body: ProxyBody::Request { frame, .. }, .. }) = Proxy::decode(message)
                && let Ok(body) = from_host_order(frame)
            {
                assert_eq!(to_host_order(&body).as_deref(), Some(frame));
            }
        }
        MessageType::Heartbeat => there_and_back!(message, Heartbeat),
        MessageType::Clustering => there_and_back!(message, Clustering),
        MessageType::Replication => there_and_back!(message, Replication),
        MessageType::Services => there_and_back!(message, Services),
        MessageType::Exchange => there_and_back!(message, Exchange),
        MessageType::Smd => there_and_back!(message, Smd),
    }
}

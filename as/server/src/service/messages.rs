//! Record messages found in what a connection has sent.

use proto::frame::{FrameHeader, FrameType, HEADER_SIZE};
use proto::message::Request;
use smallvec::SmallVec;

use crate::transaction::PREPARED_REQUESTS;

/// A complete record message.
pub(super) struct Message<'a> {
    pub(super) request: Request<'a>,
    pub(super) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The one at the start of `bytes`.
    pub(super) fn in_front_of(bytes: &'a [u8]) -> Option<Self> {
        let Ok(Some(FrameHeader { frame_type: FrameType::Message, body_size })) = FrameHeader::parse(bytes)
        else {
            return None;
        };
        let body = bytes.get(HEADER_SIZE..HEADER_SIZE + body_size)?;
        Some(Message { request: Request::parse(body).ok()?, body })
    }

    /// Its size with the frame's header.
    pub(super) fn size(&self) -> usize {
        HEADER_SIZE + self.body.len()
    }
}

/// Complete record messages that follow one another.
pub(super) struct Messages<'a> {
    pub(super) requests: SmallVec<[Message<'a>; PREPARED_REQUESTS]>,
}

impl<'a> Messages<'a> {
    /// Those at the start of `bytes`, as many as can be prepared for at once.
    pub(super) fn in_front_of(bytes: &'a [u8]) -> Self {
        let mut requests = SmallVec::new();
        let mut rest = bytes;
        while requests.len() < PREPARED_REQUESTS {
            let Some(message) = Message::in_front_of(rest) else { break };
            rest = &rest[message.size()..];
            requests.push(message);
        }
        Messages { requests }
    }
}

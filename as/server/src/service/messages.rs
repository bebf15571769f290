//! Record messages found in what a connection has sent.

use cf::Digest;
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

    /// Namespace and digest of the record that it is about, if it is about one.
    pub(super) fn record(&self) -> Option<(&'a [u8], Digest)> {
        Some((self.request.namespace?, self.request.record_digest()?))
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
    /// Those at the start of `bytes`, of which `first` is the first, as many as can be prepared for at once.
    pub(super) fn from_first(first: Option<Message<'a>>, bytes: &'a [u8]) -> Self {
        let mut requests = SmallVec::new();
        let (mut rest, mut next) = (bytes, first);
        while let Some(message) = next {
            rest = &rest[message.size()..];
            requests.push(message);
            next = if rest.is_empty() || requests.len() == PREPARED_REQUESTS {
                None
            } else {
                Message::in_front_of(rest)
            };
        }
        Messages { requests }
    }
}

//! Record messages found in the bytes of a connection.

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
    /// The message at the start of `bytes`, if it is complete.
    #[inline(always)]
    pub(super) fn in_front_of(bytes: &'a [u8]) -> Option<Self> {
        let Ok(Some(FrameHeader { frame_type: FrameType::Message, body_size })) = FrameHeader::parse(bytes)
        else {
            return None;
        };
        let body = bytes.get(HEADER_SIZE..HEADER_SIZE + body_size)?;
        Some(Message { request: Request::parse(body).ok()?, body })
    }

    /// Namespace and digest of the message's record, if it is about one.
    pub(super) fn record(&self) -> Option<(&'a [u8], Digest)> {
        Some((self.request.namespace?, self.request.record_digest()?))
    }

    /// The size of the message including the frame's header.
    pub(super) fn size(&self) -> usize {
        HEADER_SIZE + self.body.len()
    }
}

/// Record messages after a first one that are carried out together with it.
pub(super) type Followers<'a> = SmallVec<[Message<'a>; PREPARED_REQUESTS - 1]>;

/// Adds the complete record messages at the start of `bytes` to `followers`, as many as are prefetched at
/// once. They are built in place, because a message is too large to be moved for each request.
#[inline]
pub(super) fn find_followers<'a>(bytes: &'a [u8], followers: &mut Followers<'a>) {
    let mut rest = bytes;
    while !rest.is_empty() && followers.len() < PREPARED_REQUESTS - 1 {
        let Some(message) = Message::in_front_of(rest) else { return };
        rest = &rest[message.size()..];
        followers.push(message);
    }
}

//! Room for large replies: reserved when the record is found, before the reply is made from it.
//!
//! The code that carries the request out decides how to reserve room (`TakeReplyRoom`). While there is none, the
//! request waits: it has changed nothing.

use proto::ResultCode;

use super::Call;

/// Replies that may exceed this size need room before they are made.
const LARGE_REPLY_SIZE: usize = 1 << 20;
/// Upper bound of a reply.
const REPLY_SIZE_MAX: usize = 128 << 20;

impl Call<'_> {
    /// Reserves room for the reply, if it may be large: each op may return the whole record of `record_size` bytes.
    ///
    /// # Errors
    /// When there is none now; the transaction then [waits](Self::wait_of_failed).
    #[inline]
    pub(super) fn check_reply_room(&self, record_size: usize) -> Result<(), ResultCode> {
        let size = record_size.saturating_mul(usize::from(self.request.op_count()).max(1));
        if size <= LARGE_REPLY_SIZE { Ok(()) } else { self.take_reply_room(size.min(REPLY_SIZE_MAX)) }
    }

    #[cold]
    fn take_reply_room(&self, size: usize) -> Result<(), ResultCode> {
        if self.patience.take_reply_room.is_none_or(|take| take(size)) {
            return Ok(());
        }
        self.patience.lacking_reply_size.set(size);
        Err(ResultCode::Timeout)
    }
}

//! Room for large replies: taken when the record is found that a reply is made from, before the reply is begun.
//!
//! Whoever carries the request out says where room is taken (`TakeReplyRoom`). While there is none, the request waits:
//! it has changed nothing.

use proto::ResultCode;

use super::Call;

/// A reply that may become larger takes room before it is made.
const LARGE_REPLY_SIZE: usize = 1 << 20;
/// No reply is larger.
const REPLY_SIZE_MAX: usize = 128 << 20;

impl Call<'_> {
    /// Takes room for the reply, if that may be large: each operation may answer all of the record, of `record_size` bytes.
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

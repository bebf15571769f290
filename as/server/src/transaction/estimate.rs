//! How large the reply to a request may become, before anything is done for it.

use proto::message::Request;

use super::Executor;
use crate::namespace::stored_size;

/// No reply is larger.
const REPLY_SIZE_MAX: u64 = 128 << 20;

impl Executor {
    /// The bytes that the reply to `request` may have, if these can be more than `large`; otherwise 0, found without a look
    /// at the record. Each operation may read all of the record.
    pub(crate) fn large_reply_size(&self, request: &Request<'_>, large: usize) -> usize {
        let Some(name) = request.namespace else { return 0 };
        let Some(namespace) = self.context.namespaces.iter().find(|known| known.name().as_bytes() == name)
        else {
            return 0;
        };
        let reads = u64::from(request.op_count()).max(1);
        if namespace.largest_record().saturating_mul(reads) <= large as u64 {
            return 0;
        }
        let Some(digest) = request.record_digest() else { return 0 };
        let size = namespace.index.get(&digest).map_or(0, |record| stored_size(&record));
        let size = size.saturating_mul(reads).min(REPLY_SIZE_MAX) as usize;
        if size > large { size } else { 0 }
    }
}

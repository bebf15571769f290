//! Counters of messages that are sent to other nodes again.

use proto::message::{Request, field, info2};

use crate::metrics::{NamespaceCounter, Origin};

/// The kind of request that sends a message to other nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SentFor {
    origin: Origin,
    operation: Operation,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    Read,
    Write,
    Delete,
    Udf,
}

impl SentFor {
    /// A request of `origin`.
    pub(super) fn of(request: &Request<'_>, origin: Origin) -> Self {
        let operation = if request.info2 & info2::WRITE == 0 {
            Operation::Read
        } else if request.info2 & info2::DELETE != 0 {
            Operation::Delete
        } else if request.has_field(field::UDF_FILE) {
            Operation::Udf
        } else {
            Operation::Write
        };
        SentFor { origin, operation }
    }

    fn is_row(self) -> bool {
        matches!(self.origin, Origin::BatchSub | Origin::FromProxyBatchSub)
    }

    /// The counter of a question for duplicates that is sent again.
    pub(super) fn question(self) -> NamespaceCounter {
        use NamespaceCounter as C;
        match (self.origin, self.operation, self.is_row()) {
            (Origin::UdfSub, ..) => C::RetransmitUdfSubDupRes,
            (Origin::OpsSub, ..) => C::RetransmitOpsSubDupRes,
            (_, Operation::Read, false) => C::RetransmitAllReadDupRes,
            (_, Operation::Write, false) => C::RetransmitAllWriteDupRes,
            (_, Operation::Delete, false) => C::RetransmitAllDeleteDupRes,
            (_, Operation::Udf, false) => C::RetransmitAllUdfDupRes,
            (_, Operation::Read, true) => C::RetransmitAllBatchSubReadDupRes,
            (_, Operation::Write, true) => C::RetransmitAllBatchSubWriteDupRes,
            (_, Operation::Delete, true) => C::RetransmitAllBatchSubDeleteDupRes,
            (_, Operation::Udf, true) => C::RetransmitAllBatchSubUdfDupRes,
        }
    }

    /// The counter of a replica write that is sent again. A read that renews its record's time to live counts as a
    /// write.
    pub(super) fn replica_write(self) -> NamespaceCounter {
        use NamespaceCounter as C;
        match (self.origin, self.operation, self.is_row()) {
            (Origin::UdfSub, ..) => C::RetransmitUdfSubReplWrite,
            (Origin::OpsSub, ..) => C::RetransmitOpsSubReplWrite,
            (_, Operation::Read | Operation::Write, false) => C::RetransmitAllWriteReplWrite,
            (_, Operation::Delete, false) => C::RetransmitAllDeleteReplWrite,
            (_, Operation::Udf, false) => C::RetransmitAllUdfReplWrite,
            (_, Operation::Read | Operation::Write, true) => C::RetransmitAllBatchSubWriteReplWrite,
            (_, Operation::Delete, true) => C::RetransmitAllBatchSubDeleteReplWrite,
            (_, Operation::Udf, true) => C::RetransmitAllBatchSubUdfReplWrite,
        }
    }
}

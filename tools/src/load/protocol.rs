//! The interface of a protocol for the load generator.

/// The kinds of requests that statistics distinguish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Changes a record.
    Write,
    /// Gets a record.
    Read,
    /// Removes a record.
    Delete,
    /// Calls a user-defined function on a record.
    Udf,
    /// Gets the records of a query.
    Query,
}

/// Number of [`Kind`]s; statistics are arrays of this length.
pub const KIND_COUNT: usize = 5;

impl Kind {
    /// All kinds in the order of their statistics.
    pub const ALL: [Kind; KIND_COUNT] = [Kind::Write, Kind::Read, Kind::Delete, Kind::Udf, Kind::Query];

    /// The word in progress lines and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Write => "write",
            Kind::Read => "read",
            Kind::Delete => "delete",
            Kind::Udf => "udf",
            Kind::Query => "query",
        }
    }
}

/// The way in which a reply counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Successful. For reads and deletes, the record existed; for queries, there were records.
    Hit,
    /// Successful, and there was no record.
    Miss,
    /// The server gave up at its own time limit.
    Timeout,
    /// The server refused.
    Error,
    /// The server reported success, but sent other data than requested.
    Wrong,
    /// The server refused, and would refuse every further request.
    Fatal,
}

/// A reply that was cut off the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Its size in bytes.
    pub size: usize,
    /// The server's result code, for statistics.
    pub code: u8,
    /// Its result.
    pub outcome: Outcome,
}

/// Makes requests and judges replies. Each thread of a run has its own.
pub trait Protocol: Send + 'static {
    /// Appends the next request to `out`; `None` if there is none left.
    fn next_request(&mut self, out: &mut Vec<u8>) -> Option<Kind>;

    /// Cuts the reply to a request of `kind` off the front of `bytes`; `None` while the reply is incomplete.
    ///
    /// # Errors
    /// A sentence when `bytes` do not belong to this protocol. The run then ends.
    fn reply(&mut self, kind: Kind, bytes: &[u8]) -> Result<Option<Reply>, String>;

    /// The error of the first reply whose outcome was an error, wrong or fatal.
    fn first_fault(&self) -> Option<String>;
}

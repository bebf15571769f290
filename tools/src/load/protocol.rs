//! The interface of a protocol for the load generator.

/// The kinds of requests that statistics tell apart.
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
}

/// Number of [`Kind`]s; statistics are arrays of this length.
pub const KIND_COUNT: usize = 4;

impl Kind {
    /// All kinds in the order of their statistics.
    pub const ALL: [Kind; KIND_COUNT] = [Kind::Write, Kind::Read, Kind::Delete, Kind::Udf];

    /// The word in progress lines and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Write => "write",
            Kind::Read => "read",
            Kind::Delete => "delete",
            Kind::Udf => "udf",
        }
    }
}

/// How a reply is to be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Done; for reads and deletes: the record was there.
    Hit,
    /// Done, and there was no record.
    Miss,
    /// The server gave up in time of its own.
    Timeout,
    /// The server refused.
    Error,
    /// The server says that it is done, but what it sent is not what was asked for.
    Wrong,
    /// The server refused in a way that no further request would fare better.
    Fatal,
}

/// One reply, cut off the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Bytes it took.
    pub size: usize,
    /// The server's result code, for statistics.
    pub code: u8,
    /// Its meaning.
    pub outcome: Outcome,
}

/// Makes requests and judges replies; each thread of a run has its own.
pub trait Protocol: Send + 'static {
    /// Appends the next request to `out`, or tells by `None` that there is nothing left to ask.
    fn next_request(&mut self, out: &mut Vec<u8>) -> Option<Kind>;

    /// Cuts the reply to a request of `kind` off the front of `bytes`; `None` when it is not complete yet.
    ///
    /// # Errors
    /// A sentence when `bytes` is not of this protocol; the run ends.
    fn reply(&mut self, kind: Kind, bytes: &[u8]) -> Result<Option<Reply>, String>;

    /// The error of the first reply whose outcome was an error, wrong or fatal.
    fn first_fault(&self) -> Option<String>;
}

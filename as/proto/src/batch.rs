//! Batches: many single-record requests in one field of a message.
//!
//! ```text
//! field:  number of rows u32, flags u8, rows
//! row:    index u32, digest 20, flags u8; then, unless it repeats the parameters of the row before:
//!         info1 u8, [info2 u8, info3 u8], [info4 u8], [generation u16], [record TTL u32],
//!         number of fields u16, number of ops u16, fields (the first is the namespace), ops
//!         (a digest among the fields takes the place of the digest of the row and of rows that repeat it)
//! ```

use cf::Digest;
use cf::digest::DIGEST_SIZE;

use crate::message::{Request, RequestHead, field, info1, info3};

pub mod batch_flag {
    /// Rows for records in memory may be carried out by the thread that read the batch.
    pub const ALLOW_INLINE: u8 = 1;
    /// Rows for records on devices may be carried out by the thread that read the batch.
    pub const ALLOW_INLINE_DEVICE: u8 = 2;
    /// A row's error does not end the batch.
    pub const RESPOND_ALL_KEYS: u8 = 4;
    /// The row whose error ends the batch is answered too.
    pub const REPORT_ERROR_ROW: u8 = 8;
}

const ROW_REPEATS: u8 = 1;
const ROW_HAS_INFO: u8 = 2;
const ROW_HAS_GENERATION: u8 = 4;
const ROW_HAS_RECORD_TTL: u8 = 8;
const ROW_HAS_INFO4: u8 = 0x10;

/// The bytes are not a batch, or not a valid row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadBatch;

/// The head of a batch field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch<'a> {
    /// Number of rows that the client states; the batch need not have that many.
    pub row_count: u32,
    pub flags: u8,
    pub rows: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Parses the head of a batch field.
    ///
    /// # Errors
    /// When it is too short.
    pub fn parse(value: &'a [u8]) -> Result<Self, BadBatch> {
        let (count, rest) = value.split_first_chunk().ok_or(BadBatch)?;
        let (&flags, rows) = rest.split_first().ok_or(BadBatch)?;
        Ok(Batch { row_count: u32::from_be_bytes(*count), flags, rows })
    }
}

/// One row: a request for one record.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// The client's number of the row; the reply repeats it.
    pub index: u32,
    pub digest: Digest,
    pub request: Request<'a>,
}

/// A position between rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowPosition {
    /// The offset at which the next row starts.
    at: usize,
    /// The offset of the last row with its own parameters.
    parameters_at: Option<usize>,
}

/// Reads the rows of a batch in order.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    bytes: &'a [u8],
    position: RowPosition,
    /// The parameters of the last row that has its own. They cannot be repeated if they include a user key.
    parameters: Option<Request<'a>>,
    info3: u8,
    transaction_ttl_ms: u32,
}

impl<'a> Rows<'a> {
    /// The rows in `bytes`. `parent` is the message that holds the batch.
    #[must_use]
    pub fn new(bytes: &'a [u8], parent: &Request<'_>) -> Self {
        Rows {
            bytes,
            position: RowPosition::default(),
            parameters: None,
            info3: parent.info3 & (info3::SC_READ_TYPE | info3::SC_READ_RELAX),
            transaction_ttl_ms: parent.transaction_ttl_ms,
        }
    }

    /// The position of the next row, for a later [`go_to`](Self::go_to).
    #[must_use]
    pub fn position(&self) -> RowPosition {
        self.position
    }

    /// Continues at a position that another reader of the same rows returned.
    ///
    /// # Errors
    /// When the rows differ from those of the other reader.
    pub fn go_to(&mut self, position: RowPosition) -> Result<(), BadBatch> {
        if let Some(at) = position.parameters_at {
            self.position = RowPosition { at, parameters_at: None };
            self.pass()?;
        }
        self.position = position;
        Ok(())
    }

    /// The next row.
    ///
    /// # Errors
    /// When there is none, or it is malformed. The rows after it can then not be found.
    pub fn read(&mut self) -> Result<Row<'a>, BadBatch> {
        let (index, digest) = self.pass()?;
        let request = self.parameters.clone().ok_or(BadBatch)?;
        Ok(Row { index, digest, request })
    }

    /// Skips the next row; returns its number and the digest of its record.
    ///
    /// # Errors
    /// Same error as [`read`](Self::read).
    pub fn pass(&mut self) -> Result<(u32, Digest), BadBatch> {
        let start = self.position.at;
        let rest = self.bytes.get(start..).ok_or(BadBatch)?;
        let (index, rest) = rest.split_first_chunk().ok_or(BadBatch)?;
        let (digest, rest) = rest.split_first_chunk::<DIGEST_SIZE>().ok_or(BadBatch)?;
        let (&flags, mut rest) = rest.split_first().ok_or(BadBatch)?;
        let repeats = flags & ROW_REPEATS != 0;
        if !repeats {
            let (parameters, after) = self.read_parameters(flags, rest).ok_or(BadBatch)?;
            self.parameters = Some(parameters);
            self.position.parameters_at = Some(start);
            rest = after;
        }
        self.position.at = self.bytes.len() - rest.len();
        let request = self.parameters.as_ref().ok_or(BadBatch)?;
        if repeats && request.key.is_some() {
            return Err(BadBatch);
        }
        // If the parameters include a digest, that digest counts; if it has a wrong size, the row fails.
        let digest = request.record_digest().unwrap_or(Digest(*digest));
        Ok((u32::from_be_bytes(*index), digest))
    }

    fn read_parameters(&self, flags: u8, bytes: &'a [u8]) -> Option<(Request<'a>, &'a [u8])> {
        let mut rest = bytes;
        let mut head = RequestHead {
            info1: take::<1>(&mut rest)?[0] & !(info1::COMPRESS_RESPONSE | info1::XDR),
            info2: 0,
            info3: self.info3,
            info4: 0,
            generation: 0,
            record_ttl: 0,
            transaction_ttl_ms: self.transaction_ttl_ms,
        };
        if flags & ROW_HAS_INFO != 0 {
            [head.info2, head.info3] = *take(&mut rest)?;
        }
        if flags & ROW_HAS_INFO4 != 0 {
            [head.info4] = *take(&mut rest)?;
        }
        if flags & ROW_HAS_GENERATION != 0 {
            head.generation = u32::from(u16::from_be_bytes(*take(&mut rest)?));
        }
        if flags & ROW_HAS_RECORD_TTL != 0 {
            head.record_ttl = u32::from_be_bytes(*take(&mut rest)?);
        }
        // Older clients state zero fields although they send the namespace.
        let field_count = u16::from_be_bytes(*take(&mut rest)?).max(1);
        let op_count = u16::from_be_bytes(*take(&mut rest)?);
        let (request, after) = Request::split_from(head, rest, field_count, op_count).ok()?;
        (request.first_field_type() == Some(field::NAMESPACE)).then_some((request, after))
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parent() -> Request<'static> {
        Request::parse(&[22, 0, 0, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0]).unwrap()
    }

    fn full_row(index: u32, flags: u8, middle: &[u8], fields: &[(u8, &[u8])]) -> Vec<u8> {
        let mut row = index.to_be_bytes().to_vec();
        row.extend([index as u8; 20]);
        row.push(flags);
        row.extend(middle);
        row.extend((fields.len() as u16).to_be_bytes());
        row.extend([0, 0]);
        for (field_type, value) in fields {
            row.extend((value.len() as u32 + 1).to_be_bytes());
            row.push(*field_type);
            row.extend(*value);
        }
        row
    }

    #[test]
    fn rows_have_their_own_or_repeated_parameters() {
        let mut bytes = full_row(7, 0, &[info1::READ | info1::XDR], &[(0, b"test"), (1, b"set")]);
        bytes.extend([0, 0, 0, 8]);
        bytes.extend([8; 20]);
        bytes.push(ROW_REPEATS);
        let all = ROW_HAS_INFO | ROW_HAS_INFO4 | ROW_HAS_GENERATION | ROW_HAS_RECORD_TTL;
        bytes.extend(full_row(9, all, &[1, 2, 3, 4, 0, 5, 0, 0, 0, 6], &[(0, b"bar")]));
        let mut rows = Rows::new(&bytes, &parent());
        let first = rows.read().unwrap();
        assert_eq!((first.index, first.digest, first.request.info1), (7, Digest([7; 20]), info1::READ));
        assert_eq!((first.request.info3, first.request.transaction_ttl_ms), (0xC0, 9));
        let second = rows.read().unwrap();
        assert_eq!(
            (second.index, second.digest, second.request.set_name()),
            (8, Digest([8; 20]), &b"set"[..])
        );
        let mut again = Rows::new(&bytes, &parent());
        again.read().unwrap();
        let before_second = again.position();
        let mut resumed = Rows::new(&bytes, &parent());
        resumed.go_to(before_second).unwrap();
        assert_eq!(resumed.read().unwrap().request.set_name(), b"set");
        let third = rows.read().unwrap().request;
        assert_eq!((third.info2, third.info3, third.info4), (2, 3, 4));
        assert_eq!((third.generation, third.record_ttl, third.namespace), (5, 6, Some(&b"bar"[..])));
        assert_eq!(rows.read().unwrap_err(), BadBatch);
    }

    #[test]
    fn keys_are_not_repeated_and_the_first_row_repeats_nothing() {
        let mut repeat = vec![0; 24];
        repeat.push(ROW_REPEATS);
        assert!(Rows::new(&repeat, &parent()).read().is_err());
        let mut bytes = full_row(1, 0, &[info1::READ], &[(0, b"test"), (2, b"\x03k")]);
        bytes.extend(&repeat);
        let mut rows = Rows::new(&bytes, &parent());
        assert!(rows.read().is_ok());
        assert!(rows.read().is_err());
    }

    #[test]
    fn the_first_field_of_a_row_is_the_namespace() {
        let result_of = |fields: &[(u8, &[u8])]| {
            let bytes = full_row(1, 0, &[info1::READ], fields);
            Rows::new(&bytes, &parent()).read().map(|_| ())
        };
        let namespace = (field::NAMESPACE, &b"test"[..]);
        for field_type in 1..=u8::MAX {
            assert_eq!(result_of(&[(field_type, b"x"), namespace]), Err(BadBatch), "{field_type}");
            assert_eq!(result_of(&[namespace, (field_type, b"x")]), Ok(()), "{field_type}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_rows_or_not(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut rows = Rows::new(&bytes, &parent());
            let mut count = 0;
            while rows.read().is_ok() {
                count += 1;
                prop_assert!(count <= bytes.len());
            }
        }
    }
}

//! Compressed messages: a record message inside a frame of type 4.
//!
//! ```text
//! offset  size  content
//!      0     8  frame header, type 4; its size counts all that follows
//!      8     8  size of the original frame with its header, big-endian
//!     16        the original frame, of type 3, as a zlib stream
//! ```
//! Both directions use the same form (`as_comp_proto` in the C server's proto.h). Inflation stops at the
//! announced size, and the caller may stop it between portions.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::frame::{BODY_SIZE_MAX, FrameHeader, FrameType, HEADER_SIZE, header_bytes};

/// Bytes before the zlib stream in the body.
pub const SIZE_SIZE: usize = 8;
/// Frames up to this size are not compressed. Clients have the same limit.
pub const THRESHOLD: usize = 128;
/// Bytes of the stream inflated between two calls of `go_on`.
const PORTION_SIZE: usize = 1024;
/// Bytes by which the buffer for inflated bytes grows.
const STEP_SIZE: usize = 64 << 10;

/// The reason why a body is not a compressed message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompressedError {
    /// It ends before the stream begins.
    Short,
    /// No message has this size.
    Announced(u64),
    /// The stream is too long for the announced size.
    StreamSize(usize),
    /// It is not a zlib stream, or is damaged.
    Stream,
    /// Its length differs from the announced one, or something follows it.
    Size,
    /// The inflated bytes are not a record message.
    Content,
}

impl std::fmt::Display for CompressedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CompressedError::Short => write!(f, "it ends before its stream"),
            CompressedError::Announced(size) => write!(f, "it announces {size} bytes"),
            CompressedError::StreamSize(size) => write!(f, "{size} bytes are too many for its stream"),
            CompressedError::Stream => write!(f, "it is no zlib stream"),
            CompressedError::Size => write!(f, "its stream has not the announced size"),
            CompressedError::Content => write!(f, "it holds no record message"),
        }
    }
}

/// The size of the original frame that `body`, of a frame of type 4, announces. It is a size that an
/// uncompressed message may have.
///
/// # Errors
/// `Short`, `Announced`, `StreamSize`.
pub fn announced_size(body: &[u8]) -> Result<usize, CompressedError> {
    split(body).map(|(announced, _)| announced)
}

/// The announced size, and the stream after it.
fn split(body: &[u8]) -> Result<(usize, &[u8]), CompressedError> {
    let Some((size, stream)) = body.split_first_chunk::<SIZE_SIZE>() else {
        return Err(CompressedError::Short);
    };
    let size = u64::from_be_bytes(*size);
    let announced = usize::try_from(size).map_err(|_| CompressedError::Announced(size))?;
    if announced < HEADER_SIZE || size > BODY_SIZE_MAX + HEADER_SIZE as u64 {
        return Err(CompressedError::Announced(size));
    }
    // Every compressor stores what it cannot shrink, so no valid stream is longer.
    if stream.len() > announced + announced / 8 + 1024 {
        return Err(CompressedError::StreamSize(stream.len()));
    }
    Ok((announced, stream))
}

/// Inflates messages one after another.
#[derive(Debug)]
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Inflater(Decompress::new(true))
    }
}

impl Inflater {
    /// Replaces `frame` by the original frame in `body`, a record message. Calls `go_on` repeatedly, and
    /// stops when it returns false. Returns whether the message was finished.
    ///
    /// # Errors
    /// When `body` is not a compressed message.
    pub fn inflate(
        &mut self,
        body: &[u8],
        frame: &mut Vec<u8>,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<bool, CompressedError> {
        let (announced, mut stream) = split(body)?;
        self.0.reset(true);
        frame.clear();
        // The buffer has room for one more byte than announced, to detect a stream that is too long.
        let (mut size, mut beyond) = (0, [0]);
        loop {
            if !go_on() {
                return Ok(false);
            }
            frame.resize((size + STEP_SIZE).min(announced), 0);
            let room = frame.get_mut(size..).filter(|room| !room.is_empty()).unwrap_or(&mut beyond);
            let portion = stream.get(..PORTION_SIZE).unwrap_or(stream);
            let before = (self.0.total_in(), self.0.total_out());
            let status = self.0.decompress(portion, room, FlushDecompress::None);
            let status = status.map_err(|_| CompressedError::Stream)?;
            // The lengths of input and output bound both numbers.
            #[expect(clippy::cast_possible_truncation, reason = "at most the sizes of slices")]
            let (taken, given) =
                ((self.0.total_in() - before.0) as usize, (self.0.total_out() - before.1) as usize);
            stream = stream.get(taken..).unwrap_or_default();
            size += given;
            if size > announced {
                return Err(CompressedError::Size);
            }
            if status == Status::StreamEnd {
                break;
            }
            if (taken, given) == (0, 0) {
                return Err(if stream.is_empty() { CompressedError::Size } else { CompressedError::Stream });
            }
        }
        if size != announced || !stream.is_empty() {
            return Err(CompressedError::Size);
        }
        match FrameHeader::parse(frame) {
            Ok(Some(FrameHeader { frame_type: FrameType::Message, body_size }))
                if HEADER_SIZE + body_size == size =>
            {
                Ok(true)
            }
            _ => Err(CompressedError::Content),
        }
    }
}

/// Compresses messages one after another. Its level is fast, because a reply that waits needs time more than
/// bytes.
#[derive(Debug)]
pub struct Deflater(Compress);

impl Default for Deflater {
    fn default() -> Self {
        Deflater(Compress::new(Compression::fast(), true))
    }
}

impl Deflater {
    /// Replaces `out` by the compressed form of `frame` if that is smaller; returns whether it is.
    pub fn deflate(&mut self, frame: &[u8], out: &mut Vec<u8>) -> bool {
        self.0.reset();
        out.clear();
        out.resize(frame.len(), 0);
        let Some((header, behind)) = out.split_first_chunk_mut::<HEADER_SIZE>() else { return false };
        let Some((original_size, stream)) = behind.split_first_chunk_mut::<SIZE_SIZE>() else { return false };
        let status = self.0.compress(frame, stream, FlushCompress::Finish);
        #[expect(clippy::cast_possible_truncation, reason = "at most the size of a slice")]
        let stream_size = self.0.total_out() as usize;
        if !matches!(status, Ok(Status::StreamEnd)) || stream_size >= stream.len() {
            return false;
        }
        *original_size = (frame.len() as u64).to_be_bytes();
        *header = header_bytes(FrameType::CompressedMessage, SIZE_SIZE + stream_size);
        out.truncate(HEADER_SIZE + SIZE_SIZE + stream_size);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame_of(body: &[u8]) -> Vec<u8> {
        [&header_bytes(FrameType::Message, body.len())[..], body].concat()
    }

    fn compressed(frame: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(Deflater::default().deflate(frame, &mut out));
        out
    }

    fn inflated(body: &[u8]) -> Result<Vec<u8>, CompressedError> {
        let mut out = b"of the last one".to_vec();
        Inflater::default().inflate(body, &mut out, || true).map(|done| {
            assert!(done);
            out
        })
    }

    #[test]
    fn compressed_messages_inflate_to_the_original() {
        let (mut inflater, mut out) = (Inflater::default(), Vec::new());
        for size in [150, 5_000, 64 << 10, 300_000, 3 << 20] {
            let frame = frame_of(&(0..size).map(|n| (n / 40) as u8).collect::<Vec<_>>());
            let small = compressed(&frame);
            let header = FrameHeader::parse(&small).expect("a header").expect("whole");
            assert_eq!(
                (header.frame_type, header.body_size),
                (FrameType::CompressedMessage, small.len() - HEADER_SIZE)
            );
            assert_eq!(inflater.inflate(&small[HEADER_SIZE..], &mut out, || true), Ok(true));
            assert_eq!(out, frame);
            let mut left = 1;
            let gives_up = |left: &mut i32| {
                *left -= 1;
                *left >= 0
            };
            if small.len() > 2 * PORTION_SIZE {
                assert_eq!(
                    inflater.inflate(&small[HEADER_SIZE..], &mut out, || gives_up(&mut left)),
                    Ok(false)
                );
            }
        }
    }

    #[test]
    fn messages_that_do_not_shrink_stay_unchanged() {
        let noise: Vec<u8> =
            (0..1000_u64).flat_map(|n| cf::wyhash::hash64(&n.to_le_bytes()).to_le_bytes()).collect();
        for frame in [frame_of(&noise), frame_of(&[]), frame_of(&[1; 10])] {
            assert!(!Deflater::default().deflate(&frame, &mut Vec::new()));
        }
    }

    #[test]
    fn wrong_compressed_messages_are_distinguished() {
        let frame = frame_of(&[7; 4000]);
        let small = compressed(&frame)[HEADER_SIZE..].to_vec();
        let announcing = |size: u64| [&size.to_be_bytes()[..], &small[SIZE_SIZE..]].concat();
        assert_eq!(inflated(&small[..7]), Err(CompressedError::Short));
        assert_eq!(inflated(&announcing(0)), Err(CompressedError::Announced(0)));
        let too_large = BODY_SIZE_MAX + 9;
        assert_eq!(inflated(&announcing(too_large)), Err(CompressedError::Announced(too_large)));
        assert_eq!(inflated(&announcing(u64::MAX)), Err(CompressedError::Announced(u64::MAX)));
        assert_eq!(inflated(&announcing(frame.len() as u64 - 1)), Err(CompressedError::Size));
        assert_eq!(inflated(&announcing(frame.len() as u64 + 1)), Err(CompressedError::Size));
        assert_eq!(inflated(&[&small[..], &[0]].concat()), Err(CompressedError::Size));
        assert_eq!(inflated(&small[..small.len() - 1]), Err(CompressedError::Size));
        let mut damaged = small.clone();
        *damaged.last_mut().expect("the checksum") ^= 1;
        assert_eq!(inflated(&damaged), Err(CompressedError::Stream));
        assert_eq!(
            inflated(&[&100_u64.to_be_bytes()[..], &[0; 2000]].concat()),
            Err(CompressedError::StreamSize(2000))
        );
        let nested = compressed(&[&header_bytes(FrameType::CompressedMessage, 300)[..], &[0; 300]].concat());
        assert_eq!(inflated(&nested[HEADER_SIZE..]), Err(CompressedError::Content));
        let info = compressed(&[&header_bytes(FrameType::Info, 300)[..], &[b'\n'; 300]].concat());
        assert_eq!(inflated(&info[HEADER_SIZE..]), Err(CompressedError::Content));
        let two = compressed(&[frame_of(&[1; 200]), frame_of(&[1; 200])].concat());
        assert_eq!(inflated(&two[HEADER_SIZE..]), Err(CompressedError::Content));
    }

    #[test]
    fn a_bomb_takes_no_more_memory_than_it_announces() {
        let zeros = vec![0; 64 << 20];
        let mut stream = Vec::with_capacity(1 << 20);
        let mut compress = Compress::new(Compression::best(), true);
        let status = compress.compress_vec(&zeros, &mut stream, FlushCompress::Finish);
        assert_eq!(status.expect("compressed"), Status::StreamEnd);
        let body = [&100_000_u64.to_be_bytes()[..], &stream].concat();
        let mut out = Vec::new();
        assert_eq!(Inflater::default().inflate(&body, &mut out, || true), Err(CompressedError::Size));
        assert!(out.capacity() <= 2 * 100_000, "{}", out.capacity());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(
            body in prop::collection::vec(any::<u8>(), 0..400),
            change in any::<(prop::sample::Index, u8)>(),
        ) {
            let _ = inflated(&body);
            let frame = frame_of(&[&body[..], &[3; 200]].concat());
            let mut small = compressed(&frame)[HEADER_SIZE..].to_vec();
            let at = change.0.index(small.len());
            small[at] ^= change.1;
            // A changed bit may still stand for the same bytes, such as another distance within a run. The
            // checksum decides.
            if let Ok(whole) = inflated(&small) {
                prop_assert_eq!(whole, frame);
            }
        }
    }
}

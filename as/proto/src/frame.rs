//! Frames: the 8 bytes before every message in both directions.
//!
//! ```text
//! offset  size  content
//!      0     1  version, 2
//!      1     1  type of the body
//!      2     6  size of the body, big-endian
//! ```

/// Bytes of a frame header.
pub const HEADER_SIZE: usize = 8;
/// The only version of the protocol.
pub const VERSION: u8 = 2;
/// Largest body that a client may send. If a larger one is announced, the connection is closed.
pub const BODY_SIZE_MAX: u64 = 128 * 1024 * 1024;
/// The same limit for info and security requests. The largest of them holds a UDF module in base64.
pub const INFO_BODY_SIZE_MAX: u64 = 4 * 1024 * 1024;

/// The content of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameType {
    Info = 1,
    Security = 2,
    Message = 3,
    CompressedMessage = 4,
    InternalXdr = 5,
}

impl FrameType {
    /// Largest body of a frame of this type that a client may send.
    #[must_use]
    pub const fn body_size_max(self) -> u64 {
        match self {
            FrameType::Info | FrameType::Security => INFO_BODY_SIZE_MAX,
            FrameType::Message | FrameType::CompressedMessage | FrameType::InternalXdr => BODY_SIZE_MAX,
        }
    }
}

/// The reason why bytes are not a frame. The stream cannot be resynchronised after any of these errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The bytes look like the start of a TLS handshake on a clear-text port.
    Tls,
    /// A version other than 2 (security frames may have 0).
    Version(u8),
    /// An unknown frame type.
    Type(u8),
    /// The body exceeds the [limit of its type](FrameType::body_size_max).
    TooLarge(u64),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::Tls => write!(f, "TLS handshake on a port without TLS"),
            FrameError::Version(version) => write!(f, "unsupported protocol version {version}"),
            FrameError::Type(number) => write!(f, "unknown frame type {number}"),
            FrameError::TooLarge(size) => write!(f, "frame body of {size} bytes, more than is allowed"),
        }
    }
}

/// A checked frame header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    pub frame_type: FrameType,
    pub body_size: usize,
}

impl FrameHeader {
    /// Reads the header at the start of `bytes`; `None` while there are fewer than [`HEADER_SIZE`] bytes.
    ///
    /// # Errors
    /// When the bytes cannot begin a frame.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some(header) = bytes.first_chunk::<HEADER_SIZE>() else { return Ok(None) };
        let [version, number, size @ ..] = *header;
        let body_size = size.iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        if version != VERSION {
            // A TLS record header: handshake (22), major version 3.
            if version == 22 && number == 3 {
                return Err(FrameError::Tls);
            }
            if version != 0 || number != FrameType::Security as u8 {
                return Err(FrameError::Version(version));
            }
        }
        let frame_type = match number {
            1 => FrameType::Info,
            2 => FrameType::Security,
            3 => FrameType::Message,
            4 => FrameType::CompressedMessage,
            5 => FrameType::InternalXdr,
            _ => return Err(FrameError::Type(number)),
        };
        match usize::try_from(body_size) {
            Ok(size) if body_size <= frame_type.body_size_max() => {
                Ok(Some(FrameHeader { frame_type, body_size: size }))
            }
            _ => Err(FrameError::TooLarge(body_size)),
        }
    }
}

/// The header of a frame with a body of `body_size` bytes.
#[inline]
#[must_use]
pub const fn header_bytes(frame_type: FrameType, body_size: usize) -> [u8; HEADER_SIZE] {
    let [_, _, a, b, c, d, e, f] = (body_size as u64).to_be_bytes();
    [VERSION, frame_type as u8, a, b, c, d, e, f]
}

/// Appends the reply to any security request if security is off. Clients then continue without it.
///
/// Its 16 body bytes are zero except for the result in the second.
pub fn write_security_not_enabled(out: &mut Vec<u8>) {
    let mut body = [0u8; 16];
    body[1] = crate::ResultCode::SecurityNotEnabled.code();
    out.extend_from_slice(&header_bytes(FrameType::Security, body.len()));
    out.extend_from_slice(&body);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_round_trips() {
        let bytes = header_bytes(FrameType::Message, 0x0102_0304);
        assert_eq!(bytes, [2, 3, 0, 0, 1, 2, 3, 4]);
        let header = FrameHeader { frame_type: FrameType::Message, body_size: 0x0102_0304 };
        assert_eq!(FrameHeader::parse(&bytes), Ok(Some(header)));
    }

    #[test]
    fn bytes_that_cannot_begin_a_frame_are_classified() {
        assert_eq!(FrameHeader::parse(&[2, 3, 0, 0, 0, 0, 0]), Ok(None));
        assert_eq!(FrameHeader::parse(&[1, 3, 0, 0, 0, 0, 0, 0]), Err(FrameError::Version(1)));
        assert_eq!(FrameHeader::parse(&[0, 3, 0, 0, 0, 0, 0, 0]), Err(FrameError::Version(0)));
        assert_eq!(FrameHeader::parse(&[2, 6, 0, 0, 0, 0, 0, 0]), Err(FrameError::Type(6)));
        assert_eq!(FrameHeader::parse(&[22, 3, 1, 2, 0, 1, 0, 1]), Err(FrameError::Tls));
        assert_eq!(FrameHeader::parse(&[2, 3, 0, 0, 8, 0, 0, 1]), Err(FrameError::TooLarge(0x0800_0001)));
        assert!(FrameHeader::parse(&[0, 2, 0, 0, 0, 0, 0, 0]).is_ok());
        assert_eq!(FrameHeader::parse(&[2, 1, 0, 0, 0, 0x40, 0, 1]), Err(FrameError::TooLarge(0x40_0001)));
        assert!(FrameHeader::parse(&[2, 1, 0, 0, 0, 0x40, 0, 0]).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(Some(header)) = FrameHeader::parse(&bytes) {
                prop_assert!(header.body_size as u64 <= BODY_SIZE_MAX);
            }
        }
    }
}

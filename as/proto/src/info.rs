//! Framing of info requests. A request has a name on each line, a reply a line `name TAB value` for each
//! name.

use crate::frame::{self, FrameType};

/// Longest name of an info command.
pub const COMMAND_NAME_SIZE_MAX: usize = 31;

/// The requests in the body of an info frame. An empty body holds none; a last line counts even without a
/// line feed.
pub fn requests(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

/// Appends an info frame with `body` to `out`.
pub fn write_frame(out: &mut Vec<u8>, body: &[u8]) {
    out.extend_from_slice(&frame::header_bytes(FrameType::Info, body.len()));
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_requests() {
        let lines: Vec<&[u8]> = requests(b"node\n\nbuild").collect();
        assert_eq!(lines, [&b"node"[..], b"build"]);
        assert_eq!(requests(b"").count(), 0);
    }
}

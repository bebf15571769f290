//! Redis GET and SET as load, so that the same client measures both servers.
//!
//! Keys are `key:` and twelve digits, as those of `redis-benchmark`. The `redis` crate builds each request
//! once. After that only the digits change, so that building takes no measured time. The crate can read
//! partial replies only in its own connections, which hold one request at a time or a whole pipeline, so this
//! module has its own reader.

use crate::load::random::Random;
use crate::load::{Kind, Outcome, Protocol, Reply};

/// The key in a new request.
const KEY: &str = "key:000000000000";
/// Number of digits at the end of the key.
const DIGITS: usize = 12;

/// Requests for a Redis server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RedisWork {
    /// SET every key once, in order.
    Fill,
    /// GET random keys.
    Get,
    /// SET random keys.
    Set,
}

/// Redis requests of one thread.
#[derive(Debug)]
pub struct RedisLoad {
    work: RedisWork,
    key_count: u64,
    next_key: u64,
    request: Request,
    value_size: usize,
    random: Random,
    first_fault: Option<String>,
}

impl RedisLoad {
    /// Requests on `key_count` keys with values of `value_size` bytes.
    #[must_use]
    pub fn new(work: RedisWork, key_count: u64, value_size: usize, seed: u64) -> Self {
        let request = match work {
            RedisWork::Get => Request::new(redis::cmd("GET").arg(KEY)),
            RedisWork::Fill | RedisWork::Set => {
                Request::new(redis::cmd("SET").arg(KEY).arg(vec![b'x'; value_size]))
            }
        };
        let random = Random::new(seed);
        RedisLoad { work, key_count, next_key: 0, request, value_size, random, first_fault: None }
    }

    fn fault(&mut self, what: String) -> Outcome {
        self.first_fault.get_or_insert(what);
        Outcome::Error
    }
}

impl Protocol for RedisLoad {
    #[inline]
    fn next_request(&mut self, out: &mut Vec<u8>) -> Option<Kind> {
        let index = match self.work {
            RedisWork::Fill => self.next_key,
            RedisWork::Get | RedisWork::Set => self.random.below(self.key_count),
        };
        if index >= self.key_count {
            return None;
        }
        self.next_key += 1;
        self.request.append(index, out);
        Some(if self.work == RedisWork::Get { Kind::Read } else { Kind::Write })
    }

    #[inline]
    fn reply(&mut self, kind: Kind, bytes: &[u8]) -> Result<Option<Reply>, String> {
        let Some(line_size) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let line = &bytes[..line_size];
        let mut size = line_size + 2;
        let outcome = match (kind, line) {
            (Kind::Write, b"+OK") => Outcome::Hit,
            (Kind::Read, b"$-1") => Outcome::Miss,
            (Kind::Read, [b'$', digits @ ..]) => {
                let length: usize = std::str::from_utf8(digits)
                    .ok()
                    .and_then(|digits| digits.parse().ok())
                    .filter(|length| *length <= 512 << 20)
                    .ok_or("the server sent a malformed length")?;
                size += length + 2;
                if bytes.len() < size {
                    return Ok(None);
                }
                if length == self.value_size {
                    Outcome::Hit
                } else {
                    self.fault(format!("a value has {length} bytes, {} expected", self.value_size));
                    Outcome::Wrong
                }
            }
            (_, [b'-', text @ ..]) => self.fault(String::from_utf8_lossy(text).into_owned()),
            _ => return Err(format!("the server sent \"{}\"", String::from_utf8_lossy(line))),
        };
        let code = u8::from(outcome == Outcome::Error);
        Ok(Some(Reply { size, code, outcome }))
    }

    fn first_fault(&self) -> Option<String> {
        self.first_fault.clone()
    }
}

/// A request in which only the digits of the key change.
#[derive(Debug)]
struct Request {
    bytes: Vec<u8>,
    /// The place of the digits.
    digits: std::ops::Range<usize>,
}

impl Request {
    fn new(command: &redis::Cmd) -> Self {
        let bytes = command.get_packed_command();
        let key = bytes.windows(KEY.len()).position(|part| part == KEY.as_bytes());
        let end = key.unwrap_or_else(|| panic!("a command without the key")) + KEY.len();
        Request { bytes, digits: end - DIGITS..end }
    }

    /// Appends the request for key number `index` to `out`.
    #[inline]
    fn append(&self, index: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let mut rest = index;
        for digit in out[start..][self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_resp_arrays() {
        let mut out = Vec::new();
        let mut fill = RedisLoad::new(RedisWork::Fill, 2, 3, 0);
        assert_eq!(fill.next_request(&mut out), Some(Kind::Write));
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000000\r\n$3\r\nxxx\r\n");
        out.clear();
        fill.next_request(&mut out);
        assert_eq!(fill.next_request(&mut out), None);
        assert!(out.windows(16).any(|key| key == b"key:000000000001"));
        out.clear();
        Request::new(redis::cmd("GET").arg(KEY)).append(1_048_576, &mut out);
        assert!(out.ends_with(b"key:000001048576\r\n"));
        out.clear();
        let mut get = RedisLoad::new(RedisWork::Get, 1, 3, 0);
        assert_eq!(get.next_request(&mut out), Some(Kind::Read));
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000000\r\n");
    }

    #[test]
    fn replies_are_cut_off_when_complete_and_judged() {
        let mut load = RedisLoad::new(RedisWork::Get, 1, 3, 0);
        let mut reply = |kind, bytes: &[u8]| load.reply(kind, bytes);
        for size in 0..9 {
            assert_eq!(reply(Kind::Read, &b"$3\r\nabc\r\n"[..size]), Ok(None));
        }
        let hit = Reply { size: 9, code: 0, outcome: Outcome::Hit };
        assert_eq!(reply(Kind::Read, b"$3\r\nabc\r\n$3"), Ok(Some(hit)));
        assert_eq!(reply(Kind::Read, b"$-1\r\n"), Ok(Some(Reply { size: 5, outcome: Outcome::Miss, ..hit })));
        assert_eq!(reply(Kind::Write, b"+OK\r\n"), Ok(Some(Reply { size: 5, ..hit })));
        assert_eq!(reply(Kind::Read, b"$2\r\nab\r\n").unwrap().unwrap().outcome, Outcome::Wrong);
        assert_eq!(reply(Kind::Write, b"-OOM\r\n").unwrap().unwrap().outcome, Outcome::Error);
        assert!(reply(Kind::Read, b"+OK\r\n").is_err());
        assert!(reply(Kind::Read, b"$x\r\n").is_err());
        assert!(load.first_fault().unwrap().contains("2 bytes"));
    }
}

//! Redis GET and SET as load, so that both servers are measured by the same client.
//!
//! Keys are `key:` and twelve digits, as those of `redis-benchmark`.

use crate::load::random::Random;
use crate::load::{Kind, Outcome, Protocol, Reply};

/// Bytes of a key.
const KEY_SIZE: usize = 16;

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
    value: Vec<u8>,
    random: Random,
    first_fault: Option<String>,
}

impl RedisLoad {
    /// Requests on `key_count` keys with values of `value_size` bytes.
    #[must_use]
    pub fn new(work: RedisWork, key_count: u64, value_size: usize, seed: u64) -> Self {
        let value = vec![b'x'; value_size];
        RedisLoad { work, key_count, next_key: 0, value, random: Random::new(seed), first_fault: None }
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
        if self.work == RedisWork::Get {
            out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$16\r\n");
            append_key(index, out);
            out.extend_from_slice(b"\r\n");
            return Some(Kind::Read);
        }
        out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$16\r\n");
        append_key(index, out);
        out.extend_from_slice(b"\r\n$");
        append_decimal(self.value.len() as u64, out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.value);
        out.extend_from_slice(b"\r\n");
        Some(Kind::Write)
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
                if length == self.value.len() {
                    Outcome::Hit
                } else {
                    self.fault(format!("a value has {length} bytes, {} expected", self.value.len()));
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

fn append_key(index: u64, out: &mut Vec<u8>) {
    let mut key = *b"key:000000000000";
    let mut rest = index;
    for digit in key[KEY_SIZE - 12..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&key);
}

fn append_decimal(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = number;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
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

    #[test]
    fn numbers_become_digits() {
        let mut out = Vec::new();
        append_decimal(0, &mut out);
        append_decimal(1_048_576, &mut out);
        assert_eq!(out, b"01048576");
    }
}

//! Login to a server with access control, in the way of the official clients.
//!
//! ```text
//! header   u8 version = 2, u8 type = 2, u48 big-endian length of the body
//! message  u8 scheme = 0, u8 result, u8 command, u8 count of fields, 12 zero bytes
//! field    u32 big-endian length of what follows, u8 id, data
//! ```

use std::io::{self, Read, Write};

/// The salt that all clients use for passwords: `7EqJtq98hPqEX7fNZaFWoO` in the alphabet of bcrypt.
const SALT: [u8; 16] =
    [0xf4, 0x6b, 0x0b, 0xbe, 0xcf, 0xfe, 0x8d, 0x1b, 0x06, 0x67, 0xd8, 0x4f, 0x6d, 0xc1, 0xd8, 0xa9];
const COST: u32 = 10;

const HEADER_SIZE: usize = 8;
const PROTO_VERSION: u8 = 2;
const PROTO_TYPE_SECURITY: u8 = 2;
const MESSAGE_SIZE: usize = 16;
const COMMAND_GRANT_ROLES: u8 = 5;
const COMMAND_LOGIN: u8 = 20;
const FIELD_USER: u8 = 0;
const FIELD_CREDENTIAL: u8 = 3;
const FIELD_ROLES: u8 = 10;
/// Longest answer to a login.
const REPLY_SIZE_MAX: usize = 16 << 10;

/// Results of a login that have messages of their own.
const RESULT_NOT_ENABLED: u8 = 52;
const RESULTS: &[(u8, &str)] = &[
    (60, "there is no such user"),
    (62, "the password is wrong"),
    (65, "the password is wrong"),
    (82, "the user may not log in from this address"),
];

/// A login request.
#[derive(Clone, Debug)]
pub struct Login {
    request: Vec<u8>,
}

impl Login {
    /// Makes a login as `user` with `password`. This takes some 50 ms, because a slow hash is sent instead of
    /// the password.
    ///
    /// # Errors
    /// When the password cannot be hashed.
    pub fn new(user: &str, password: &str) -> Result<Self, String> {
        let credential = bcrypt::hash_with_salt(password, COST, SALT)
            .map_err(|error| format!("the password cannot be hashed: {error}"))?
            .format_for_version(bcrypt::Version::TwoA);
        let fields = [(FIELD_USER, user.as_bytes()), (FIELD_CREDENTIAL, credential.as_bytes())];
        Ok(Login { request: request(COMMAND_LOGIN, &fields) })
    }

    /// Makes a login as `user`, if a user is given. A missing password counts as empty.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn given(user: Option<&str>, password: Option<&str>) -> Result<Option<Self>, String> {
        user.map(|user| Login::new(user, password.unwrap_or_default())).transpose()
    }

    /// Logs in on `stream`. A server without access control accepts every client.
    ///
    /// # Errors
    /// When the server refuses, or does not answer.
    pub fn enter(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        match ask(stream, &self.request)? {
            0 | RESULT_NOT_ENABLED => Ok(()),
            result => {
                let known = RESULTS.iter().find(|(code, _)| *code == result);
                let reason = known.map_or_else(|| format!("result {result}"), |(_, text)| (*text).to_owned());
                Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("the login is refused: {reason}"),
                ))
            }
        }
    }
}

/// Grants `role` to `user`, on an administrator's connection.
///
/// # Errors
/// When the server refuses, or does not answer.
pub fn grant(stream: &mut (impl Read + Write), user: &str, role: &str) -> io::Result<()> {
    let mut roles = vec![1, role.len() as u8];
    roles.extend(role.as_bytes());
    let request = request(COMMAND_GRANT_ROLES, &[(FIELD_USER, user.as_bytes()), (FIELD_ROLES, &roles)]);
    match ask(stream, &request)? {
        0 => Ok(()),
        result => Err(io::Error::other(format!("{role} cannot be granted to {user}: result {result}"))),
    }
}

fn request(command: u8, fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut message = vec![0; MESSAGE_SIZE];
    (message[2], message[3]) = (command, fields.len() as u8);
    for (id, data) in fields {
        message.extend((data.len() as u32 + 1).to_be_bytes());
        message.push(*id);
        message.extend_from_slice(data);
    }
    let mut request = (message.len() as u64).to_be_bytes().to_vec();
    (request[0], request[1]) = (PROTO_VERSION, PROTO_TYPE_SECURITY);
    request.extend(message);
    request
}

/// Sends a request and returns its result.
fn ask(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<u8> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut header = [0; HEADER_SIZE];
    stream.read_exact(&mut header)?;
    let size = (u64::from_be_bytes(header) & 0xFFFF_FFFF_FFFF) as usize;
    let is_reply = header[..2] == [PROTO_VERSION, PROTO_TYPE_SECURITY];
    if !is_reply || !(MESSAGE_SIZE..=REPLY_SIZE_MAX).contains(&size) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer to the login is invalid"));
    }
    let mut reply = vec![0; size];
    stream.read_exact(&mut reply)?;
    Ok(reply[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_has_the_bytes_of_official_tools() {
        let login = Login::new("admin", "admin").expect("a login");
        let hex: String = login.request.iter().map(|byte| format!("{byte:02x}")).collect();
        // The bytes are recorded. Official clients send version 2, the recorded tool sends 0.
        let recorded = "000200000000005b00001402000000000000000000000000000000060061646d696e0000003d0324326124313024\
                        3745714a74713938685071455837664e5a6146576f4f316d564f2f344d4c70477a73716f6a7a364539476566366958\
                        446a58644461";
        assert_eq!(hex.replacen("0202", "0002", 1), recorded.replace(char::is_whitespace, ""));
    }
}

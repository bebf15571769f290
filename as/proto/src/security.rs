//! The security protocol: frames of type 2. With them clients log in, and administrators manage users and
//! roles.
//!
//! The body of a frame is one message; only answers to queries have several:
//!
//! ```text
//! offset  size  content
//!      0     1  scheme, 0
//!      1     1  result; 0 in requests
//!      2     1  command; 0 in replies
//!      3     1  count of fields
//!      4    12  zero
//! ```
//!
//! A field is `size u32 | id u8 | data`; its size counts the id. Source: requests of the official clients, and
//! exchanges recorded with a server (`tests/corpora/security-vectors.json`).

use std::str;

use crate::ResultCode;
use crate::frame::{self, FrameType};

/// Bytes of a message before its fields.
pub const MESSAGE_HEADER_SIZE: usize = 16;
/// Longest name of a user or a role.
pub const NAME_SIZE_MAX: usize = 63;
/// Size of the credential that clients send instead of a password: bcrypt with a fixed salt, as text.
pub const CREDENTIAL_SIZE: usize = 60;
/// Maximum number of message bytes in one frame of a query's answer, without its last message.
const FRAME_SIZE: usize = 4 << 10;

/// Ids of fields.
pub mod field {
    pub const USER: u8 = 0;
    pub const PASSWORD: u8 = 1;
    pub const OLD_PASSWORD: u8 = 2;
    pub const CREDENTIAL: u8 = 3;
    pub const CLEAR_PASSWORD: u8 = 4;
    pub const SESSION_TOKEN: u8 = 5;
    pub const SESSION_TTL: u8 = 6;
    pub const ROLES: u8 = 10;
    pub const ROLE: u8 = 11;
    pub const PRIVILEGES: u8 = 12;
    pub const WHITELIST: u8 = 13;
    pub const READ_QUOTA: u8 = 14;
    pub const WRITE_QUOTA: u8 = 15;
    pub const READ_INFO: u8 = 16;
    pub const WRITE_INFO: u8 = 17;
    pub const CONNECTIONS: u8 = 18;
}

/// Declares an enum of wire numbers, with names, and the conversion from a number.
macro_rules! numbers {
    ($(#[$doc:meta])* $type:ident { $($name:ident = $number:literal $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $type { $($name = $number),+ }

        impl $type {
            /// All values, in the order of their numbers.
            pub const ALL: &[$type] = &[$($type::$name),+];

            /// The value with number `number`.
            #[must_use]
            pub const fn from_code(number: u8) -> Option<Self> {
                match number {
                    $($number => Some($type::$name),)+
                    _ => None,
                }
            }

            /// Its number on the wire.
            #[must_use]
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// Its name as text.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($type::$name => $text,)+
                }
            }
        }
    };
}

numbers! {
    /// The command of a request. The names are those of the audit log.
    Command {
        Authenticate = 0 "authentication",
        CreateUser = 1 "create user",
        DropUser = 2 "drop user",
        SetPassword = 3 "set password",
        ChangePassword = 4 "change password",
        GrantRoles = 5 "grant roles",
        RevokeRoles = 6 "revoke roles",
        QueryUsers = 9 "query users",
        CreateRole = 10 "create role",
        DropRole = 11 "drop role",
        GrantPrivileges = 12 "add privs",
        RevokePrivileges = 13 "delete privs",
        SetWhitelist = 14 "set whitelist",
        SetQuotas = 15 "set quotas",
        QueryRoles = 16 "query roles",
        Login = 20 "login",
    }
}

numbers! {
    /// The kind of a privilege. Each kind is also the name of a predefined role that has only this privilege,
    /// for all namespaces.
    PrivilegeCode {
        UserAdmin = 0 "user-admin",
        SysAdmin = 1 "sys-admin",
        DataAdmin = 2 "data-admin",
        UdfAdmin = 3 "udf-admin",
        SindexAdmin = 4 "sindex-admin",
        Read = 10 "read",
        ReadWrite = 11 "read-write",
        ReadWriteUdf = 12 "read-write-udf",
        Write = 13 "write",
        Truncate = 14 "truncate",
    }
}

impl PrivilegeCode {
    /// Whether a privilege of this kind has a namespace and a set, on the wire as well.
    #[must_use]
    pub const fn is_scoped(self) -> bool {
        self.code() >= 10
    }
}

/// A privilege of a role, and its scope. An empty namespace means all namespaces, an empty set the whole
/// namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Privilege {
    pub code: PrivilegeCode,
    pub namespace: String,
    pub set: String,
}

impl Privilege {
    /// A privilege for all namespaces.
    #[must_use]
    pub const fn everywhere(code: PrivilegeCode) -> Self {
        Privilege { code, namespace: String::new(), set: String::new() }
    }
}

/// A request with its fields. Unknown fields are skipped. If a field occurs several times, the last one
/// counts.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Request<'a> {
    /// Number of the command, which may be unknown.
    pub command: u8,
    pub user: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    pub old_password: Option<&'a [u8]>,
    pub credential: Option<&'a [u8]>,
    pub clear_password: Option<&'a [u8]>,
    pub session_token: Option<&'a [u8]>,
    pub roles: Option<Vec<&'a str>>,
    pub role: Option<&'a str>,
    /// The privileges, or the error `SecurityPrivilege`, which counts only if the request has no other error.
    pub privileges: Option<Result<Vec<Privilege>, ResultCode>>,
    pub whitelist: Option<&'a str>,
    pub read_quota: Option<u32>,
    pub write_quota: Option<u32>,
}

/// Removes `size` bytes from the start of `bytes` and returns them.
fn take<'a>(bytes: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(size)?;
    *bytes = rest;
    Some(taken)
}

fn take_u8(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

/// Removes a text and the byte with its size from the start of `bytes` and returns the text.
fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let size = take_u8(bytes)?;
    str::from_utf8(take(bytes, size.into())?).ok()
}

fn number(data: &[u8]) -> Result<u32, ResultCode> {
    Ok(u32::from_be_bytes(data.try_into().map_err(|_| ResultCode::SecurityField)?))
}

fn name(data: &[u8], wrong: ResultCode) -> Result<&str, ResultCode> {
    str::from_utf8(data).map_err(|_| wrong)
}

/// The names of roles that follow their count.
fn roles(mut data: &[u8]) -> Option<Vec<&str>> {
    let count = take_u8(&mut data)?;
    let roles = (0..count).map(|_| take_text(&mut data)).collect::<Option<Vec<_>>>()?;
    data.is_empty().then_some(roles)
}

/// The privileges that follow their count.
fn privileges(mut data: &[u8]) -> Result<Vec<Privilege>, ResultCode> {
    let count = take_u8(&mut data).ok_or(ResultCode::SecurityField)?;
    let mut privileges = Vec::new();
    for _ in 0..count {
        let code = take_u8(&mut data).ok_or(ResultCode::SecurityField)?;
        let code = PrivilegeCode::from_code(code).ok_or(ResultCode::SecurityPrivilege)?;
        let mut privilege = Privilege::everywhere(code);
        if code.is_scoped() {
            let mut text = || take_text(&mut data).map(str::to_owned).ok_or(ResultCode::SecurityField);
            (privilege.namespace, privilege.set) = (text()?, text()?);
        }
        privileges.push(privilege);
    }
    if data.is_empty() { Ok(privileges) } else { Err(ResultCode::SecurityField) }
}

impl<'a> Request<'a> {
    /// Parses the body of a frame.
    ///
    /// # Errors
    /// The result for the client, if the scheme is not 0 or a field is invalid.
    pub fn parse(body: &'a [u8]) -> Result<Self, ResultCode> {
        let (header, mut rest) =
            body.split_first_chunk::<MESSAGE_HEADER_SIZE>().ok_or(ResultCode::SecurityField)?;
        let [scheme, _, command, field_count, ..] = *header;
        if scheme != 0 {
            return Err(ResultCode::SecurityScheme);
        }
        let mut request = Request { command, ..Request::default() };
        let mut found: u8 = 0;
        // The official Go client states too few fields when it creates a role, so all fields up to the end of
        // the body count.
        while found < field_count || !rest.is_empty() {
            let size = rest.split_first_chunk::<4>().ok_or(ResultCode::SecurityField)?;
            rest = size.1;
            let size = usize::try_from(u32::from_be_bytes(*size.0)).map_err(|_| ResultCode::SecurityField)?;
            let field = take(&mut rest, size).ok_or(ResultCode::SecurityField)?;
            let (&id, data) = field.split_first().ok_or(ResultCode::SecurityField)?;
            request.add(id, data)?;
            found = found.checked_add(1).ok_or(ResultCode::SecurityField)?;
        }
        Ok(request)
    }

    fn add(&mut self, id: u8, data: &'a [u8]) -> Result<(), ResultCode> {
        match id {
            field::USER => self.user = Some(name(data, ResultCode::SecurityUser)?),
            field::PASSWORD => self.password = Some(data),
            field::OLD_PASSWORD => self.old_password = Some(data),
            field::CREDENTIAL => self.credential = Some(data),
            field::CLEAR_PASSWORD => self.clear_password = Some(data),
            field::SESSION_TOKEN => self.session_token = Some(data),
            field::ROLES => self.roles = Some(roles(data).ok_or(ResultCode::SecurityField)?),
            field::ROLE => self.role = Some(name(data, ResultCode::SecurityRole)?),
            field::PRIVILEGES => {
                let privileges = privileges(data);
                if privileges == Err(ResultCode::SecurityField) {
                    return Err(ResultCode::SecurityField);
                }
                self.privileges = Some(privileges);
            }
            field::WHITELIST => self.whitelist = Some(name(data, ResultCode::SecurityWhitelist)?),
            field::READ_QUOTA => self.read_quota = Some(number(data)?),
            field::WRITE_QUOTA => self.write_quota = Some(number(data)?),
            _ => {}
        }
        Ok(())
    }
}

/// Whether `name` is valid for a user or a role.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=NAME_SIZE_MAX).contains(&name.len())
        && !name.chars().any(|char| char.is_control() || char == ':' || char == ';')
}

/// The frame that answers a request with only a result.
#[must_use]
pub fn result_frame(result: ResultCode) -> Vec<u8> {
    let mut replies = Replies::new();
    replies.message(result);
    replies.finish()
}

/// Messages of an answer, in one or more frames.
#[derive(Debug)]
pub struct Replies {
    frames: Vec<u8>,
    /// The offset at which the current frame starts.
    frame: usize,
}

impl Default for Replies {
    fn default() -> Self {
        Self::new()
    }
}

impl Replies {
    #[must_use]
    pub fn new() -> Self {
        Replies { frames: vec![0; frame::HEADER_SIZE], frame: 0 }
    }

    /// Adds a message.
    pub fn message(&mut self, result: ResultCode) -> Message<'_> {
        if self.body_size() >= FRAME_SIZE {
            self.end_frame();
        }
        let start = self.frames.len();
        self.frames.extend([0, result.code(), 0, 0]);
        self.frames.extend([0; MESSAGE_HEADER_SIZE - 4]);
        Message { bytes: &mut self.frames, start }
    }

    /// Ends the answer to a query with a frame of its own.
    pub fn end_query(&mut self) {
        if self.body_size() > 0 {
            self.end_frame();
        }
        self.message(ResultCode::SecurityEnd);
    }

    /// The frames.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.write_header();
        self.frames
    }

    fn body_size(&self) -> usize {
        self.frames.len() - self.frame - frame::HEADER_SIZE
    }

    fn write_header(&mut self) {
        let header = frame::header_bytes(FrameType::Security, self.body_size());
        let place = self.frames.get_mut(self.frame..).and_then(|frame| frame.first_chunk_mut());
        *place.expect("a frame has room for its header") = header;
    }

    fn end_frame(&mut self) {
        self.write_header();
        self.frame = self.frames.len();
        self.frames.extend([0; frame::HEADER_SIZE]);
    }
}

/// A message to which fields can be added, at most 255.
#[derive(Debug)]
pub struct Message<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl Message<'_> {
    /// Adds a field of bytes.
    pub fn bytes(&mut self, id: u8, data: &[u8]) -> &mut Self {
        let size = u32::try_from(data.len() + 1).expect("fields are short");
        self.bytes.extend(size.to_be_bytes());
        self.bytes.push(id);
        self.bytes.extend_from_slice(data);
        let count = self.bytes.get_mut(self.start + 3).expect("a message has a header");
        *count = count.checked_add(1).expect("messages have few fields");
        self
    }

    /// Adds a numeric field.
    pub fn number(&mut self, id: u8, number: u32) -> &mut Self {
        self.bytes(id, &number.to_be_bytes())
    }

    /// Adds a field with numbers after their count.
    pub fn numbers(&mut self, id: u8, numbers: &[u32]) -> &mut Self {
        let mut data = vec![count_of(numbers.len())];
        data.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
        self.bytes(id, &data)
    }

    /// Adds names of roles, at most 255.
    pub fn roles<'r>(&mut self, roles: impl ExactSizeIterator<Item = &'r str>) -> &mut Self {
        let mut data = vec![count_of(roles.len())];
        roles.for_each(|role| push_text(&mut data, role));
        self.bytes(field::ROLES, &data)
    }

    /// Adds privileges, at most 255.
    pub fn privileges<'p>(&mut self, privileges: impl ExactSizeIterator<Item = &'p Privilege>) -> &mut Self {
        let mut data = vec![count_of(privileges.len())];
        for privilege in privileges {
            data.push(privilege.code.code());
            if privilege.code.is_scoped() {
                push_text(&mut data, &privilege.namespace);
                push_text(&mut data, &privilege.set);
            }
        }
        self.bytes(field::PRIVILEGES, &data)
    }
}

fn count_of(count: usize) -> u8 {
    u8::try_from(count).expect("a list in a security message has at most 255 entries")
}

fn push_text(data: &mut Vec<u8>, text: &str) {
    data.push(count_of(text.len()));
    data.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests;

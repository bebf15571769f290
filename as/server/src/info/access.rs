//! Whether the user of a connection may have an info command carried out.

use std::net::SocketAddr;

use proto::ResultCode;

use super::{Arguments, InfoError, commands, value_of};
use crate::node::Node;
use crate::security::audit::{Report, printable};
use crate::security::permission::{Permissions, Scope};
use crate::security::{Charge, Session};

/// As much of a request as the audit log shows.
const LOGGED_SIZE_MAX: usize = 200;
/// What a connection is answered before a login, whatever it asks for.
const NOT_AUTHENTICATED: &[u8] = b"ERROR:80:not authenticated\n";

/// Who asks: on a node with access control, and what for it.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    /// `None` without access control.
    pub(super) session: Option<&'a Session>,
    pub(super) client: SocketAddr,
}

impl Asker<'_> {
    /// The whole answer to somebody who has not logged in.
    pub(super) fn refusal(self) -> Option<&'static [u8]> {
        self.session.is_some_and(|session| session.logged_in().is_err()).then_some(NOT_AUTHENTICATED)
    }

    /// The value of one request, or its error.
    pub(super) fn value_of(self, node: &Node, line: &str) -> String {
        let (Some(session), Some(access)) = (self.session, &node.security) else {
            return value_of(node, line);
        };
        let (needed, arguments) = commands::needed_by(line);
        if needed == Permissions::NONE {
            return value_of(node, line);
        }
        let result = session.check(needed, scope_of(needed, arguments), Charge::None);
        let code = result.err().unwrap_or(ResultCode::Ok);
        let user = session.user_name();
        // The command itself says what was done; it may hold a module of any size.
        let detail = printable(&line.chars().take(LOGGED_SIZE_MAX).collect::<String>());
        access.log.write(Report::SysAdmin, code, self.client, user.as_deref(), "info request", &detail);
        match result {
            Ok(()) => value_of(node, line),
            Err(code) => {
                let text = format!("role violation - requires permission '{}'", needed.name());
                InfoError::new(code, text).to_string()
            }
        }
    }
}

/// Where a command has its effect, if a privilege for a namespace or a set can be enough for it.
fn scope_of(needed: Permissions, arguments: Arguments<'_>) -> Scope<'_> {
    if needed != Permissions::TRUNCATE {
        return Scope::Server;
    }
    let value = |name: &str| arguments.optional(name, usize::MAX).ok().flatten();
    let Some(namespace) = value("namespace").or_else(|| value("ns")) else { return Scope::Server };
    Scope::Set { namespace, set: value("set").unwrap_or_default() }
}

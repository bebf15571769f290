//! Permission checks of info commands for the user of a connection.

use std::net::SocketAddr;

use proto::ResultCode;

use super::{Arguments, InfoError, commands, value_of};
use crate::node::Node;
use crate::security::audit::{Report, printable};
use crate::security::permission::{Permissions, Scope};
use crate::security::{Charge, Standing};

/// Maximum number of characters of a request that the audit log shows.
const LOGGED_SIZE_MAX: usize = 200;
/// The answer to any request before a login.
const NOT_AUTHENTICATED: &[u8] = b"ERROR:80:not authenticated\n";
/// The answer to any request after the user lost the right to connect from its address.
const NOT_WHITELISTED: &[u8] = b"ERROR:82:not whitelisted\n";

/// The client that sends a request, and with access control the user's rights.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    /// The user and its rights; `None` without access control.
    pub(super) standing: Option<&'a Standing>,
    pub(super) client: SocketAddr,
}

impl Asker<'_> {
    /// The whole answer to a client that has not logged in or may not ask any more; `body` is its request.
    pub(super) fn refusal(self, node: &Node, body: &[u8]) -> Option<&'static [u8]> {
        let standing = self.standing?;
        let result = standing.logged_in().err()?;
        let user = if result == ResultCode::NotWhitelisted { standing.session().user_name() } else { None };
        if let Some(access) = &node.security {
            let detail = commands_in(body);
            access.log.write(Report::SysAdmin, result, self.client, user.as_deref(), "info request", &detail);
        }
        Some(if result == ResultCode::NotWhitelisted { NOT_WHITELISTED } else { NOT_AUTHENTICATED })
    }

    /// The value of one request, or its error.
    pub(super) fn value_of(self, node: &Node, line: &str) -> String {
        let (Some(standing), Some(access)) = (self.standing, &node.security) else {
            return value_of(node, line);
        };
        let (needed, arguments) = commands::needed_by(line);
        if needed == Permissions::NONE {
            return value_of(node, line);
        }
        let scope = scope_of(needed, arguments);
        let result = standing.logged_in().and_then(|user| user.check(needed, scope, Charge::None));
        let code = result.err().unwrap_or(ResultCode::Ok);
        let user = standing.session().user_name();
        // The start of the command identifies the action; the whole may contain a module of any size.
        let detail = printable(&line.chars().take(LOGGED_SIZE_MAX).collect::<String>());
        access.log.write(Report::SysAdmin, code, self.client, user.as_deref(), "info request", &detail);
        match result {
            Ok(()) => value_of(node, line),
            Err(code) => {
                // Some clients recognise a refused registration only by `error=`; without it they wait for
                // the module for ever.
                let own_form = if needed == Permissions::UDF_ADMIN { ";error=role_violation" } else { "" };
                let text = format!("role violation - requires permission '{}'{own_form}", needed.name());
                InfoError::new(code, text).to_string()
            }
        }
    }
}

/// The names of the commands in a request before a login. The audit log shows no other part of the request, because it
/// may be a misdirected password.
fn commands_in(body: &[u8]) -> String {
    let start = String::from_utf8_lossy(&body[..body.len().min(LOGGED_SIZE_MAX)]);
    let names: Vec<&str> = start.lines().map(|line| commands::name_of(line).unwrap_or("?")).collect();
    names.join(",")
}

/// The place where a command has its effect, if a privilege for a namespace or a set can be enough for it.
fn scope_of(needed: Permissions, arguments: Arguments<'_>) -> Scope<'_> {
    if needed != Permissions::TRUNCATE {
        return Scope::Server;
    }
    let value = |name: &str| arguments.optional(name, usize::MAX).ok().flatten();
    let Some(namespace) = value("namespace").or_else(|| value("ns")) else { return Scope::Server };
    Scope::Set { namespace: namespace.as_bytes(), set: value("set").unwrap_or_default().as_bytes() }
}

//! The audit log: who logged in, who changed users, who was refused. Lines go to the context `audit`:
//!
//! ```text
//! OUTCOME | client: ADDRESS | authenticated user: NAME | action: ACTION | detail: DETAIL
//! ```
//!
//! Never a password, a credential or a token.

use std::net::SocketAddr;

use proto::ResultCode;

use super::AccessControl;
use crate::config::params::security::SecurityLogParams;

/// Which setting of `security.log` asks for a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Report {
    Authentication,
    UserAdmin,
    SysAdmin,
}

impl Report {
    fn is_on(self, log: &SecurityLogParams) -> bool {
        match self {
            Report::Authentication => log.report_authentication.get(),
            Report::UserAdmin => log.report_user_admin.get(),
            Report::SysAdmin => log.report_sys_admin.get(),
        }
    }
}

/// What became of an action, as the log says it.
fn outcome(result: ResultCode) -> &'static str {
    match result {
        ResultCode::Ok => "permitted",
        ResultCode::NotAuthenticated => "not authenticated",
        ResultCode::RoleViolation => "role violation",
        ResultCode::NotWhitelisted => "not whitelisted",
        ResultCode::QuotaExceeded => "quota exceeded",
        ResultCode::SecurityUser => "authentication failed (user)",
        ResultCode::SecurityPassword | ResultCode::SecurityCredential => "authentication failed (password)",
        ResultCode::SecuritySessionExpired => "authentication failed (session)",
        _ => "failed",
    }
}

/// Names and other texts of clients, on one line and in one field of it.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() || char == '|' { '?' } else { char }).collect()
}

impl AccessControl {
    /// Writes a line, if the settings ask for it.
    pub(crate) fn audit(
        &self,
        report: Report,
        result: ResultCode,
        client: SocketAddr,
        user: Option<&str>,
        action: &str,
        detail: &str,
    ) {
        let Some(security) = &self.config.security else { return };
        let is_violation = matches!(
            result,
            ResultCode::NotAuthenticated | ResultCode::RoleViolation | ResultCode::NotWhitelisted
        );
        if report.is_on(&security.log) || is_violation && security.log.report_violation.get() {
            let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { printable(text) };
            cf::info!(
                Audit,
                "{} | client: {client} | authenticated user: {} | action: {action} | detail: {}",
                outcome(result),
                or_none(user.unwrap_or_default()),
                or_none(detail)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_forge_a_line() {
        assert_eq!(printable("eve\n| action: x\u{1b}[2J"), "eve?? action: x?[2J");
    }
}

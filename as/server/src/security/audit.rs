//! The audit log: it reports logins, changes of users, refusals, and operations on records. Its lines go to the context
//! `audit`:
//!
//! ```text
//! OUTCOME | client: ADDRESS | authenticated user: NAME | action: ACTION | detail: DETAIL
//! ```
//!
//! Lines never hold a password, a credential or a token.

use std::net::SocketAddr;
use std::sync::Arc;

use proto::ResultCode;

use crate::config::Config;
use crate::config::params::security::SecurityLogParams;

/// The setting of `security.log` that enables a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Report {
    Authentication,
    UserAdmin,
    SysAdmin,
    /// An operation on records; `is_asked_for` says whether the settings ask for it.
    Data {
        is_asked_for: bool,
    },
}

impl Report {
    fn is_on(self, log: &SecurityLogParams) -> bool {
        match self {
            Report::Authentication => log.report_authentication.get(),
            Report::UserAdmin => log.report_user_admin.get(),
            Report::SysAdmin => log.report_sys_admin.get(),
            Report::Data { is_asked_for } => is_asked_for,
        }
    }
}

/// The outcome of an action, in the words of the log.
fn outcome(report: Report, result: ResultCode) -> &'static str {
    match result {
        ResultCode::Ok => "permitted",
        ResultCode::NotAuthenticated => "not authenticated",
        ResultCode::RoleViolation => "role violation",
        ResultCode::NotWhitelisted => "not whitelisted",
        ResultCode::QuotaExceeded => "quota exceeded",
        ResultCode::SecurityUser if report == Report::Authentication => "authentication failed (user)",
        ResultCode::SecurityPassword | ResultCode::SecurityCredential => "authentication failed (password)",
        ResultCode::SecuritySessionExpired => "authentication failed (session)",
        _ => "failed",
    }
}

/// Text of a client in a form that fits into one field of a line.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() || char == '|' { '?' } else { char }).collect()
}

/// The operations on records that are reported for one user.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct ReportedData {
    /// Whether all operations of the user are reported.
    everywhere: bool,
    /// Operations in these namespaces, or in these sets of namespaces.
    places: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl ReportedData {
    /// Applies the settings to a user with this name and these roles.
    pub(super) fn new(log: &SecurityLogParams, user: &str, roles: &[&str]) -> Self {
        let place = |text: &String| match text.split_once(' ') {
            Some((namespace, set)) => (namespace.into(), Some(set.into())),
            None => (text.clone().into(), None),
        };
        let names_user = log.report_data_op_user.get().iter().any(|name| name == user);
        let names_role = log.report_data_op_role.get().iter().any(|name| roles.contains(&name.as_str()));
        ReportedData {
            everywhere: names_user || names_role,
            places: log.report_data_op.get().iter().map(place).collect(),
        }
    }

    /// Whether no operation is reported in any place.
    pub(super) fn is_empty(&self) -> bool {
        !self.everywhere && self.places.is_empty()
    }

    /// Whether an operation in this place is reported.
    #[inline]
    pub(super) fn covers(&self, namespace: &[u8], set: &[u8]) -> bool {
        self.everywhere || !self.places.is_empty() && self.names(namespace, set)
    }

    fn names(&self, namespace: &[u8], set: &[u8]) -> bool {
        let is_of = |(of, only): &(Vec<u8>, Option<Vec<u8>>)| {
            of == namespace && only.as_ref().is_none_or(|only| only == set)
        };
        self.places.iter().any(is_of)
    }
}

/// Writes the lines that the settings enable.
pub(crate) struct AuditLog {
    config: Arc<Config>,
}

impl AuditLog {
    pub(super) const fn new(config: Arc<Config>) -> Self {
        AuditLog { config }
    }

    /// Writes a line, if the settings enable it. Clients' texts in `detail` must be [`printable`].
    pub(crate) fn write(
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
            let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
            cf::info!(
                Audit,
                "{} | client: {client} | authenticated user: {} | action: {action} | detail: {}",
                outcome(report, result),
                or_none(printable(user.unwrap_or_default())),
                or_none(detail.replace(char::is_control, "?"))
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

    #[test]
    fn an_unknown_user_in_a_command_is_not_a_failed_login() {
        let nobody = ResultCode::SecurityUser;
        assert_eq!(outcome(Report::Authentication, nobody), "authentication failed (user)");
        assert_eq!(outcome(Report::UserAdmin, nobody), "failed");
    }

    #[test]
    fn data_is_reported_by_place_user_and_role() {
        let log = SecurityLogParams::default();
        let covers = |user, namespace: &str, set: &str| {
            ReportedData::new(&log, user, &["auditor"]).covers(namespace.as_bytes(), set.as_bytes())
        };
        assert!(!covers("bob", "test", "a"));
        log.report_data_op.push("test a".to_owned());
        assert!(covers("bob", "test", "a") && !covers("bob", "test", "") && !covers("bob", "test", "b"));
        log.report_data_op.push("bar".to_owned());
        assert!(covers("bob", "bar", "x") && !covers("bob", "", ""));
        log.report_data_op_user.push("eve".to_owned());
        assert!(covers("eve", "test", "b") && !covers("bob", "test", "b"));
        log.report_data_op_role.push("auditor".to_owned());
        assert!(covers("bob", "test", "b"));
    }
}

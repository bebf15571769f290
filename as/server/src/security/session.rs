//! Who is at the other end of a connection, and what that user may do now.
//!
//! A user that is logged in somewhere has one [`UserRights`], which all its connections share. When its roles change, the
//! rights in it are replaced: every connection has the new ones with its next request or batch row. A user that is dropped
//! and made again is another user: connections of the former stay without rights.
//!
//! # Locks
//! None on the way of a request: it reads two pointers (arc-swap) that hardly ever change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use proto::ResultCode;

use super::accounts::AccountId;
use super::audit::{AuditLog, Report};
use super::permission::{Permissions, Rights, Scope};
use super::quota::Rate;

/// A user that is logged in.
pub(crate) struct UserRights {
    name: String,
    id: AccountId,
    rights: ArcSwap<Rights>,
    /// The user does not exist any more. Never unset.
    is_retired: AtomicBool,
    connections: AtomicU32,
    pub(super) reads: Rate,
    pub(super) writes: Rate,
}

impl UserRights {
    pub(super) fn new(name: &str, id: AccountId, rights: Rights) -> Self {
        UserRights {
            name: name.to_owned(),
            id,
            rights: ArcSwap::from_pointee(rights),
            is_retired: AtomicBool::new(false),
            connections: AtomicU32::new(0),
            reads: Rate::default(),
            writes: Rate::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn id(&self) -> AccountId {
        self.id
    }

    /// Gives the user other rights.
    pub(super) fn replace(&self, rights: Rights) {
        self.rights.store(Arc::new(rights));
    }

    /// The user was dropped.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Relaxed);
        self.replace(Rights::default());
    }

    pub(super) fn rights(&self) -> Arc<Rights> {
        self.rights.load_full()
    }

    /// Whether the user may do this there, by its rights of this moment.
    #[inline]
    fn check(
        &self,
        rights: &Rights,
        wanted: Permissions,
        scope: Scope<'_>,
        charge: Charge,
    ) -> Result<(), ResultCode> {
        if !rights.allow(wanted, scope) {
            return Err(ResultCode::RoleViolation);
        }
        let is_within = match charge {
            Charge::None => true,
            Charge::Read => self.reads.take(rights.read_quota),
            Charge::Write => self.writes.take(rights.write_quota),
        };
        if is_within { Ok(()) } else { Err(ResultCode::QuotaExceeded) }
    }

    /// Connections of the user.
    pub(super) fn connection_count(&self) -> u32 {
        self.connections.load(Relaxed)
    }
}

/// Whose a connection is: nobody's until somebody has logged in.
pub(crate) struct Session {
    user: ArcSwapOption<UserRights>,
    /// Where the connection comes from.
    client: SocketAddr,
    log: Arc<AuditLog>,
}

/// How a request counts against quotas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Charge {
    None,
    Read,
    Write,
}

impl Session {
    /// A session of a connection from `client`.
    pub(super) fn new(client: SocketAddr, log: Arc<AuditLog>) -> Self {
        Session { user: ArcSwapOption::empty(), client, log }
    }

    /// The connection is `user`'s from now on.
    pub(super) fn enter(&self, user: Arc<UserRights>) {
        user.connections.fetch_add(1, Relaxed);
        self.leave(Some(user));
    }

    fn leave(&self, next: Option<Arc<UserRights>>) {
        if let Some(before) = self.user.swap(next) {
            before.connections.fetch_sub(1, Relaxed);
        }
    }

    /// The user, unless there is none, or none any more.
    pub(super) fn user(&self) -> Option<Arc<UserRights>> {
        self.user.load_full().filter(|user| !user.is_retired.load(Relaxed))
    }

    /// The user's name, for logs.
    pub(crate) fn user_name(&self) -> Option<String> {
        self.user.load().as_ref().map(|user| user.name.clone())
    }

    /// The user as it is while one request is looked at.
    ///
    /// # Errors
    /// `NotAuthenticated` if nobody has logged in, or the user does not exist any more.
    #[inline]
    pub(crate) fn logged_in(&self) -> Result<LoggedIn<'_>, ResultCode> {
        let user = self.user.load();
        let is_there = user.as_ref().is_some_and(|user| !user.is_retired.load(Relaxed));
        if is_there { Ok(LoggedIn { session: self, user }) } else { Err(ResultCode::NotAuthenticated) }
    }

    /// Whether the user may do this there.
    ///
    /// # Errors
    /// As [`logged_in`](Self::logged_in) and [`LoggedIn::check`].
    #[inline]
    pub(crate) fn check(
        &self,
        wanted: Permissions,
        scope: Scope<'_>,
        charge: Charge,
    ) -> Result<(), ResultCode> {
        self.logged_in()?.check(wanted, scope, charge)
    }

    /// Tells the audit log of an operation on records: what was done, and about which record.
    #[cold]
    fn report_data(
        &self,
        is_asked_for: bool,
        result: Result<(), ResultCode>,
        user: Option<&str>,
        (action, detail): (&str, String),
    ) {
        let code = result.err().unwrap_or(ResultCode::Ok);
        self.log.write(Report::Data { is_asked_for }, code, self.client, user, action, &detail);
    }

    /// Tells the audit log of an operation on records that was refused as nobody has logged in.
    #[cold]
    pub(crate) fn report_stranger(&self, describe: impl FnOnce() -> (&'static str, String)) {
        self.report_data(false, Err(ResultCode::NotAuthenticated), None, describe());
    }
}

/// A user of whom a request is.
pub(crate) struct LoggedIn<'a> {
    session: &'a Session,
    user: Guard<Option<Arc<UserRights>>>,
}

impl LoggedIn<'_> {
    /// Whether the user may do this there.
    ///
    /// # Errors
    /// `RoleViolation` without the permission, `QuotaExceeded`.
    #[inline]
    pub(crate) fn check(
        &self,
        wanted: Permissions,
        scope: Scope<'_>,
        charge: Charge,
    ) -> Result<(), ResultCode> {
        let user = self.user.as_ref().ok_or(ResultCode::NotAuthenticated)?;
        user.check(&user.rights.load(), wanted, scope, charge)
    }

    /// As [`check`](Self::check), for an operation on records of a namespace and set, which the audit log may tell of:
    /// `describe` gives its name and what it is about.
    ///
    /// # Errors
    /// As `check`.
    #[inline]
    pub(crate) fn check_data(
        &self,
        wanted: Permissions,
        (namespace, set): (&str, &str),
        charge: Charge,
        describe: impl FnOnce() -> (&'static str, String),
    ) -> Result<(), ResultCode> {
        let user = self.user.as_ref().ok_or(ResultCode::NotAuthenticated)?;
        let rights = user.rights.load();
        let result = user.check(&rights, wanted, Scope::Set { namespace, set }, charge);
        let is_reported = rights.reported.covers(namespace, set);
        if is_reported || result.is_err() {
            self.session.report_data(is_reported, result, Some(&user.name), describe());
        }
        result
    }

    /// What is to be allowed as long as something goes on that has just been allowed.
    pub(crate) fn permit(&self, wanted: Permissions, namespace: &str, set: &str) -> Option<Permit> {
        let user = Arc::clone(self.user.as_ref()?);
        Some(Permit { user, wanted, namespace: namespace.to_owned(), set: set.to_owned() })
    }
}

/// The right that something long was begun with. It is looked at again while that goes on, also when its connection is gone.
pub(crate) struct Permit {
    user: Arc<UserRights>,
    wanted: Permissions,
    namespace: String,
    set: String,
}

impl Permit {
    /// Whether the user still has the right.
    ///
    /// # Errors
    /// `NotAuthenticated` if there is no such user any more, `RoleViolation`.
    pub(crate) fn check(&self) -> Result<(), ResultCode> {
        if self.user.is_retired.load(Relaxed) {
            return Err(ResultCode::NotAuthenticated);
        }
        let scope = Scope::Set { namespace: &self.namespace, set: &self.set };
        let is_allowed = self.user.rights.load().allow(self.wanted, scope);
        if is_allowed { Ok(()) } else { Err(ResultCode::RoleViolation) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave(None);
    }
}

#[cfg(test)]
mod tests {
    use proto::security::{Privilege, PrivilegeCode};

    use super::*;

    fn read_everywhere() -> Rights {
        let mut rights = Rights::default();
        rights.add(&Privilege::everywhere(PrivilegeCode::Read));
        rights
    }

    #[test]
    fn all_connections_of_a_user_follow_its_rights() {
        let user = Arc::new(UserRights::new("bob", AccountId(1), read_everywhere()));
        let log = Arc::new(AuditLog::new(Arc::default()));
        let session = || Session::new(([127, 0, 0, 1], 1).into(), Arc::clone(&log));
        let sessions = [session(), session()];
        let check = |session: &Session| session.check(Permissions::READ, Scope::Server, Charge::Read);
        assert_eq!(check(&sessions[0]), Err(ResultCode::NotAuthenticated));
        sessions.iter().for_each(|session| session.enter(Arc::clone(&user)));
        assert_eq!(user.connection_count(), 2);
        assert!(sessions.iter().all(|session| check(session).is_ok()));
        user.replace(Rights::default());
        assert!(sessions.iter().all(|session| check(session) == Err(ResultCode::RoleViolation)));
        user.retire();
        assert!(sessions.iter().all(|session| check(session) == Err(ResultCode::NotAuthenticated)));
        assert!(sessions[0].user().is_none());
        // Rights that come late change nothing.
        user.replace(read_everywhere());
        assert_eq!(check(&sessions[1]), Err(ResultCode::NotAuthenticated));
        sessions[0].enter(Arc::new(UserRights::new("bob", AccountId(2), read_everywhere())));
        assert!(check(&sessions[0]).is_ok());
        assert_eq!(user.connection_count(), 1);
        drop(sessions);
        assert_eq!(user.connection_count(), 0);
    }

    #[test]
    fn a_permit_ends_with_the_right() {
        let user = Arc::new(UserRights::new("bob", AccountId(1), read_everywhere()));
        let session = Session::new(([127, 0, 0, 1], 1).into(), Arc::new(AuditLog::new(Arc::default())));
        session.enter(Arc::clone(&user));
        let permit =
            session.logged_in().expect("a user").permit(Permissions::QUERY, "test", "").expect("a permit");
        drop(session);
        assert_eq!(permit.check(), Ok(()), "it outlives its connection");
        user.replace(Rights::default());
        assert_eq!(permit.check(), Err(ResultCode::RoleViolation));
        user.retire();
        assert_eq!(permit.check(), Err(ResultCode::NotAuthenticated));
    }
}

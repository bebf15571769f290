//! Who is at the other end of a connection, and what that user may do now.
//!
//! A user that is logged in somewhere has one [`UserRights`], which all its connections share. When its roles change, the
//! rights in it are replaced: every connection has the new ones with its next request or batch row. A user that is dropped
//! and made again is another user: connections of the former stay without rights.
//!
//! # Locks
//! None on the way of a request: it reads two pointers (arc-swap) that hardly ever change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use proto::ResultCode;

use super::accounts::AccountId;
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

    /// Connections of the user.
    pub(super) fn connection_count(&self) -> u32 {
        self.connections.load(Relaxed)
    }
}

/// Whose a connection is: nobody's until somebody has logged in.
#[derive(Default)]
pub(crate) struct Session(ArcSwapOption<UserRights>);

/// How a request counts against quotas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Charge {
    None,
    Read,
    Write,
}

impl Session {
    /// The connection is `user`'s from now on.
    pub(super) fn enter(&self, user: Arc<UserRights>) {
        user.connections.fetch_add(1, Relaxed);
        self.leave(Some(user));
    }

    fn leave(&self, next: Option<Arc<UserRights>>) {
        if let Some(before) = self.0.swap(next) {
            before.connections.fetch_sub(1, Relaxed);
        }
    }

    /// The user, unless there is none, or none any more.
    pub(super) fn user(&self) -> Option<Arc<UserRights>> {
        self.0.load_full().filter(|user| !user.is_retired.load(Relaxed))
    }

    /// The user's name, for logs.
    pub(crate) fn user_name(&self) -> Option<String> {
        self.0.load().as_ref().map(|user| user.name.clone())
    }

    /// The user as it is while one request is looked at.
    ///
    /// # Errors
    /// `NotAuthenticated` if nobody has logged in, or the user does not exist any more.
    #[inline]
    pub(crate) fn logged_in(&self) -> Result<LoggedIn, ResultCode> {
        let user = self.0.load();
        let is_there = user.as_ref().is_some_and(|user| !user.is_retired.load(Relaxed));
        if is_there { Ok(LoggedIn(user)) } else { Err(ResultCode::NotAuthenticated) }
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
}

/// A user of whom a request is.
pub(crate) struct LoggedIn(Guard<Option<Arc<UserRights>>>);

impl LoggedIn {
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
        let user = self.0.as_ref().ok_or(ResultCode::NotAuthenticated)?;
        let rights = user.rights.load();
        if !rights.allow(wanted, scope) {
            return Err(ResultCode::RoleViolation);
        }
        let is_within = match charge {
            Charge::None => true,
            Charge::Read => user.reads.take(rights.read_quota),
            Charge::Write => user.writes.take(rights.write_quota),
        };
        if is_within { Ok(()) } else { Err(ResultCode::QuotaExceeded) }
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
        let sessions = [Session::default(), Session::default()];
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
}

//! Who is at the other end of a connection, and what that user may do now.
//!
//! A user that is logged in somewhere has one [`UserRights`], which all its connections share. When its roles change, the
//! rights in it are replaced: every connection has the new ones with its next request or batch row.
//!
//! # Locks
//! None on the way of a request: it reads two pointers (arc-swap) that hardly ever change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use arc_swap::{ArcSwap, ArcSwapOption};
use proto::ResultCode;

use super::permission::{Permissions, Rights, Scope};
use super::quota::Rate;

/// A user that is logged in.
pub(crate) struct UserRights {
    name: String,
    rights: ArcSwap<Rights>,
    /// The user does not exist any more.
    is_dropped: AtomicBool,
    connections: AtomicU32,
    pub(super) reads: Rate,
    pub(super) writes: Rate,
}

impl UserRights {
    pub(super) fn new(name: &str, rights: Rights) -> Self {
        UserRights {
            name: name.to_owned(),
            rights: ArcSwap::from_pointee(rights),
            is_dropped: AtomicBool::new(false),
            connections: AtomicU32::new(0),
            reads: Rate::default(),
            writes: Rate::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Gives the user other rights; `None` when it does not exist any more.
    pub(super) fn replace(&self, rights: Option<Rights>) {
        self.is_dropped.store(rights.is_none(), Relaxed);
        self.rights.store(Arc::new(rights.unwrap_or_default()));
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
        self.0.load_full().filter(|user| !user.is_dropped.load(Relaxed))
    }

    /// The user's name, for logs.
    pub(crate) fn user_name(&self) -> Option<String> {
        self.0.load().as_ref().map(|user| user.name.clone())
    }

    /// Whether somebody has logged in, who is still a user.
    ///
    /// # Errors
    /// `NotAuthenticated`.
    #[inline]
    pub(crate) fn check_login(&self) -> Result<(), ResultCode> {
        self.check(Permissions::NONE, Scope::Server, Charge::None)
    }

    /// Whether the user may do this there.
    ///
    /// # Errors
    /// `NotAuthenticated` without a user, `RoleViolation` without the permission, `QuotaExceeded`.
    #[inline]
    pub(crate) fn check(
        &self,
        wanted: Permissions,
        scope: Scope<'_>,
        charge: Charge,
    ) -> Result<(), ResultCode> {
        let user = self.0.load();
        let Some(user) = user.as_ref().filter(|user| !user.is_dropped.load(Relaxed)) else {
            return Err(ResultCode::NotAuthenticated);
        };
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
        let user = Arc::new(UserRights::new("bob", read_everywhere()));
        let sessions = [Session::default(), Session::default()];
        let check = |session: &Session| session.check(Permissions::READ, Scope::Server, Charge::Read);
        assert_eq!(check(&sessions[0]), Err(ResultCode::NotAuthenticated));
        sessions.iter().for_each(|session| session.enter(Arc::clone(&user)));
        assert_eq!(user.connection_count(), 2);
        assert!(sessions.iter().all(|session| check(session).is_ok()));
        user.replace(Some(Rights::default()));
        assert!(sessions.iter().all(|session| check(session) == Err(ResultCode::RoleViolation)));
        user.replace(None);
        assert!(sessions.iter().all(|session| check(session) == Err(ResultCode::NotAuthenticated)));
        assert!(sessions[0].user().is_none());
        // The same name again.
        user.replace(Some(read_everywhere()));
        assert!(check(&sessions[1]).is_ok());
        sessions[0].enter(Arc::new(UserRights::new("eve", Rights::default())));
        assert_eq!(user.connection_count(), 1);
        drop(sessions);
        assert_eq!(user.connection_count(), 0);
    }
}

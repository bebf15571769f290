//! Sessions: the user of each connection, and that user's current rights.
//!
//! A logged-in user has one [`UserRights`], which all its connections share. When its roles change, the rights in it
//! are replaced: connections use the new ones with their next request, a batch with its next turn. A user that is
//! dropped and created again is another user: connections of the former stay without rights.
//!
//! A thread that carries out requests of a session keeps a [`Standing`]: the user and its rights. It is looked up again
//! when the number of [`Changes`] has changed.
//!
//! # Locks
//! A request takes none: it reads a number that rarely changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam::utils::CachePadded;
use proto::ResultCode;

use super::accounts::AccountId;
use super::audit::{AuditLog, Report};
use super::permission::{Permissions, Rights, Scope};
use super::quota::{Charge, Quota, Rate};

/// Counts changes of any rights, and of the users of sessions.
#[derive(Default)]
pub(super) struct Changes(CachePadded<AtomicU64>);

impl Changes {
    fn note(&self) {
        self.0.fetch_add(1, Release);
    }

    #[inline]
    fn count(&self) -> u64 {
        self.0.load(Acquire)
    }
}

/// A logged-in user.
pub(crate) struct UserRights {
    name: String,
    id: AccountId,
    rights: ArcSwap<Rights>,
    /// Whether the user was dropped. Never unset.
    is_retired: AtomicBool,
    changes: Arc<Changes>,
    connections: AtomicU32,
    pub(super) reads: Rate,
    pub(super) writes: Rate,
}

impl UserRights {
    pub(super) fn new(name: &str, id: AccountId, rights: Rights, changes: Arc<Changes>) -> Self {
        UserRights {
            name: name.to_owned(),
            id,
            rights: ArcSwap::from_pointee(rights),
            is_retired: AtomicBool::new(false),
            changes,
            connections: AtomicU32::new(0),
            reads: Rate::default(),
            writes: Rate::default(),
        }
    }

    pub(super) const fn id(&self) -> AccountId {
        self.id
    }

    /// Replaces the user's rights, unless they are the same.
    pub(super) fn replace(&self, rights: Rights) {
        if **self.rights.load() != rights {
            self.rights.store(Arc::new(rights));
            self.changes.note();
        }
    }

    /// Takes all rights from a dropped user.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Release);
        self.rights.store(Arc::default());
        self.changes.note();
    }

    pub(super) fn rights(&self) -> Arc<Rights> {
        self.rights.load_full()
    }

    /// The user's rights, for a client at `address`.
    ///
    /// # Errors
    /// `NotAuthenticated` if the user was dropped, `NotWhitelisted`.
    fn rights_at(&self, address: IpAddr) -> Result<Arc<Rights>, ResultCode> {
        let rights = self.rights();
        if self.is_retired.load(Acquire) {
            Err(ResultCode::NotAuthenticated)
        } else if rights.allow_address(address) {
            Ok(rights)
        } else {
            Err(ResultCode::NotWhitelisted)
        }
    }

    /// The counter of requests of this kind, and the user's quota for them.
    pub(super) fn counted(&self, charge: Charge) -> Option<(&Rate, Quota)> {
        match charge {
            Charge::None => None,
            Charge::Read => Some((&self.reads, self.rights.load().read_quota)),
            Charge::Write => Some((&self.writes, self.rights.load().write_quota)),
        }
    }

    /// Number of connections of the user.
    pub(super) fn connection_count(&self) -> u32 {
        self.connections.load(Relaxed)
    }
}

/// The user of a connection; none before a login.
pub(crate) struct Session {
    user: ArcSwapOption<UserRights>,
    /// Address of the client.
    client: SocketAddr,
    log: Arc<AuditLog>,
    changes: Arc<Changes>,
}

impl Session {
    /// A session of a connection from `client`.
    pub(super) fn new(client: SocketAddr, log: Arc<AuditLog>, changes: Arc<Changes>) -> Self {
        Session { user: ArcSwapOption::empty(), client, log, changes }
    }

    /// Logs `user` in on the connection.
    pub(super) fn enter(&self, user: Arc<UserRights>) {
        user.connections.fetch_add(1, Relaxed);
        if self.leave(Some(user)) {
            self.changes.note();
        }
    }

    /// Replaces the user; returns whether there was one before.
    fn leave(&self, next: Option<Arc<UserRights>>) -> bool {
        let before = self.user.swap(next);
        if let Some(before) = &before {
            before.connections.fetch_sub(1, Relaxed);
        }
        before.is_some()
    }

    /// The user's name, for logs.
    pub(crate) fn user_name(&self) -> Option<String> {
        self.user.load().as_ref().map(|user| user.name.clone())
    }

    /// The user and its current rights.
    fn look_up(&self) -> Result<(Arc<UserRights>, Arc<Rights>), ResultCode> {
        let user = self.user.load_full().ok_or(ResultCode::NotAuthenticated)?;
        let rights = user.rights_at(self.client.ip())?;
        Ok((user, rights))
    }

    /// Reports an operation on records to the audit log: its name and the record.
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
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave(None);
    }
}

/// One thread's view of a session: the user and its rights as of the last [`refresh`](Self::refresh).
pub(crate) struct Standing {
    session: Arc<Session>,
    changes: Arc<Changes>,
    /// The number of changes before the lookup.
    change_count: u64,
    found: Result<(Arc<UserRights>, Arc<Rights>), ResultCode>,
    /// [`Rights::unconditional`] of these rights, stored here because most requests need no other check.
    unconditional: Permissions,
}

impl Standing {
    /// A view of the current state.
    pub(crate) fn new(session: Arc<Session>) -> Self {
        let changes = Arc::clone(&session.changes);
        let found = Err(ResultCode::NotAuthenticated);
        let mut standing =
            Standing { session, changes, change_count: 0, found, unconditional: Permissions::NONE };
        standing.look_up();
        standing
    }

    pub(crate) const fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Looks up the user again, if anything has changed.
    #[inline]
    pub(crate) fn refresh(&mut self) {
        // The first login on a session counts as no change, so a session without a user is always looked up.
        if self.found.is_err() || self.change_count != self.changes.count() {
            self.look_up();
        }
    }

    #[cold]
    fn look_up(&mut self) {
        self.change_count = self.changes.count();
        self.found = self.session.look_up();
        self.unconditional =
            self.found.as_ref().map_or(Permissions::NONE, |(_, rights)| rights.unconditional());
    }

    /// The user.
    ///
    /// # Errors
    /// `NotAuthenticated` if no user has logged in or the user was dropped; `NotWhitelisted` if the user may not
    /// connect from this address any more.
    #[inline]
    pub(crate) fn logged_in(&self) -> Result<LoggedIn<'_>, ResultCode> {
        match &self.found {
            Ok((user, rights)) => {
                let unconditional = self.unconditional;
                Ok(LoggedIn { session: &self.session, user, rights, unconditional })
            }
            Err(result) => Err(*result),
        }
    }

    /// Reports an operation on records that was refused with `result` to the audit log.
    #[cold]
    pub(crate) fn report_refused(&self, result: ResultCode, what: (&'static str, String)) {
        let user = if result == ResultCode::NotAuthenticated { None } else { self.session.user_name() };
        self.session.report_data(false, Err(result), user.as_deref(), what);
    }
}

/// The user of a request.
#[derive(Clone, Copy)]
pub(crate) struct LoggedIn<'a> {
    session: &'a Session,
    user: &'a Arc<UserRights>,
    rights: &'a Rights,
    unconditional: Permissions,
}

impl LoggedIn<'_> {
    pub(super) fn name(&self) -> &str {
        &self.user.name
    }

    /// Whether the user may do this in `scope`.
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
        if !self.rights.allow(wanted, scope) {
            return Err(ResultCode::RoleViolation);
        }
        let is_within = match charge {
            Charge::None => true,
            Charge::Read => self.user.reads.take(self.rights.read_quota),
            Charge::Write => self.user.writes.take(self.rights.write_quota),
        };
        if is_within { Ok(()) } else { Err(ResultCode::QuotaExceeded) }
    }

    /// As [`check`](Self::check), for an operation on records of a namespace and set, which the audit log may report:
    /// `describe` returns its name and subject.
    ///
    /// # Errors
    /// As `check`.
    #[inline(always)]
    pub(crate) fn check_data(
        &self,
        wanted: Permissions,
        place: (&[u8], &[u8]),
        charge: Charge,
        describe: impl FnOnce() -> (&'static str, String),
    ) -> Result<(), ResultCode> {
        if self.unconditional.contains(wanted) {
            return Ok(());
        }
        self.check_conditions(wanted, place, charge, describe)
    }

    /// The rest of [`check_data`](Self::check_data), out of line because requests with unconditional permissions do not
    /// need it.
    #[inline(never)]
    fn check_conditions(
        &self,
        wanted: Permissions,
        (namespace, set): (&[u8], &[u8]),
        charge: Charge,
        describe: impl FnOnce() -> (&'static str, String),
    ) -> Result<(), ResultCode> {
        let result = self.check(wanted, Scope::Set { namespace, set }, charge);
        let is_reported = self.rights.reported.covers(namespace, set);
        if is_reported || result.is_err() {
            self.session.report_data(is_reported, result, Some(&self.user.name), describe());
        }
        result
    }

    /// The right of a query that has just been allowed, to be checked again while the query runs.
    pub(crate) fn permit(
        &self,
        wanted: Permissions,
        (namespace, set): (&[u8], &[u8]),
        charge: Charge,
    ) -> Permit {
        Permit {
            user: Arc::clone(self.user),
            address: self.session.client.ip(),
            wanted,
            namespace: namespace.into(),
            set: set.into(),
            charge,
            reservation: None,
        }
    }
}

/// The right that a query was started with. It is checked again while the query runs, even if its connection is gone.
pub(crate) struct Permit {
    user: Arc<UserRights>,
    address: IpAddr,
    wanted: Permissions,
    namespace: Box<[u8]>,
    set: Box<[u8]>,
    charge: Charge,
    /// The query's share of the user's quota.
    reservation: Option<Reservation>,
}

impl Permit {
    /// Checks that the user still has the right.
    ///
    /// # Errors
    /// `NotAuthenticated` if the user was dropped, `NotWhitelisted`, `RoleViolation`.
    pub(crate) fn check(&self) -> Result<(), ResultCode> {
        let rights = self.user.rights_at(self.address)?;
        let scope = Scope::Set { namespace: &self.namespace, set: &self.set };
        if rights.allow(self.wanted, scope) { Ok(()) } else { Err(ResultCode::RoleViolation) }
    }

    /// Takes `records_per_second` of the user's quota, where 0 is no limit, until the permit is dropped.
    ///
    /// # Errors
    /// `QuotaExceeded` if less is left, or if there is a quota and no limit.
    pub(crate) fn reserve(&mut self, records_per_second: u32) -> Result<(), ResultCode> {
        self.reservation = None;
        self.reservation = Reservation::new(&self.user, self.charge, records_per_second)?;
        Ok(())
    }
}

/// Counts a query against the quota of its user until it is dropped.
struct Reservation {
    user: Arc<UserRights>,
    charge: Charge,
    records_per_second: u32,
}

impl Reservation {
    /// `None` for a query that does not count.
    ///
    /// # Errors
    /// `QuotaExceeded`.
    fn new(
        user: &Arc<UserRights>,
        charge: Charge,
        records_per_second: u32,
    ) -> Result<Option<Self>, ResultCode> {
        let Some((rate, quota)) = user.counted(charge) else { return Ok(None) };
        if quota == Quota::Off {
            return Ok(None);
        }
        if rate.reserve(records_per_second, quota) {
            Ok(Some(Reservation { user: Arc::clone(user), charge, records_per_second }))
        } else {
            Err(ResultCode::QuotaExceeded)
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((rate, _)) = self.user.counted(self.charge) {
            rate.give_back(self.records_per_second);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proto::security::{Privilege, PrivilegeCode};

    use super::super::audit::ReportedData;
    use super::super::whitelist::Whitelist;
    use super::*;
    use crate::config::params::security::SecurityLogParams;

    fn read_everywhere() -> Rights {
        let mut rights = Rights::default();
        rights.add(&Privilege::everywhere(PrivilegeCode::Read));
        rights
    }

    /// Users and sessions that share one count of changes.
    #[derive(Default)]
    struct Setup(Arc<Changes>);

    impl Setup {
        fn user(&self, id: u64) -> Arc<UserRights> {
            Arc::new(UserRights::new("bob", AccountId(id), read_everywhere(), Arc::clone(&self.0)))
        }

        fn standing(&self) -> Standing {
            let log = Arc::new(AuditLog::new(Arc::default()));
            Standing::new(Arc::new(Session::new(([127, 0, 0, 1], 1).into(), log, Arc::clone(&self.0))))
        }
    }

    fn check(standing: &mut Standing) -> Result<(), ResultCode> {
        standing.refresh();
        standing.logged_in()?.check(Permissions::READ, Scope::Server, Charge::Read)
    }

    fn from(whitelist: &str) -> Rights {
        let mut rights = read_everywhere();
        rights.add_whitelist(&Whitelist::parse(whitelist).expect("addresses"));
        rights
    }

    #[test]
    fn all_connections_of_a_user_follow_its_rights() {
        let setup = Setup::default();
        let user = setup.user(1);
        let mut standings = [setup.standing(), setup.standing()];
        let all = |standings: &mut [Standing; 2], expected| {
            assert!(standings.iter_mut().all(|standing| check(standing) == expected), "{expected:?}");
        };
        all(&mut standings, Err(ResultCode::NotAuthenticated));
        standings.iter().for_each(|standing| standing.session().enter(Arc::clone(&user)));
        assert_eq!(user.connection_count(), 2);
        all(&mut standings, Ok(()));
        user.replace(Rights::default());
        all(&mut standings, Err(ResultCode::RoleViolation));
        user.replace(from("10.0.0.0/8"));
        all(&mut standings, Err(ResultCode::NotWhitelisted));
        user.replace(from("10.0.0.0/8,127.0.0.1"));
        all(&mut standings, Ok(()));
        user.retire();
        all(&mut standings, Err(ResultCode::NotAuthenticated));
        // A late change of rights has no effect.
        user.replace(read_everywhere());
        all(&mut standings, Err(ResultCode::NotAuthenticated));
        standings[0].session().enter(setup.user(2));
        assert_eq!(check(&mut standings[0]), Ok(()));
        assert_eq!(user.connection_count(), 1);
        drop(standings);
        assert_eq!(user.connection_count(), 0);
    }

    #[test]
    fn a_connection_of_one_user_becomes_that_of_another() {
        let setup = Setup::default();
        let mut standing = setup.standing();
        standing.session().enter(setup.user(1));
        assert_eq!(check(&mut standing), Ok(()));
        let other = setup.user(2);
        other.replace(Rights::default());
        standing.session().enter(other);
        assert_eq!(check(&mut standing), Err(ResultCode::RoleViolation));
    }

    #[test]
    fn counted_or_reported_operations_are_checked() {
        let setup = Setup::default();
        let (user, mut standing) = (setup.user(1), setup.standing());
        standing.session().enter(Arc::clone(&user));
        let mut reads = |rights: Rights| {
            user.replace(rights);
            standing.refresh();
            let told = Cell::new(0);
            let results = [(), ()].map(|()| {
                let place = (&b"test"[..], &b""[..]);
                let user = standing.logged_in().expect("a user");
                user.check_data(Permissions::READ, place, Charge::Read, || {
                    told.set(told.get() + 1);
                    ("read", String::new())
                })
            });
            (results, told.get())
        };
        assert_eq!(reads(read_everywhere()), ([Ok(()); 2], 0));
        let mut limited = read_everywhere();
        limited.read_quota = Quota::Limited(0);
        assert_eq!(reads(limited), ([Err(ResultCode::QuotaExceeded); 2], 2));
        assert_eq!(reads(read_everywhere()), ([Ok(()); 2], 0));
        let log = SecurityLogParams::default();
        log.report_data_op.push("test".to_owned());
        let mut reported = read_everywhere();
        reported.reported = ReportedData::new(&log, "bob", &[]);
        assert_eq!(reads(reported), ([Ok(()); 2], 2));
        assert_eq!(reads(Rights::default()), ([Err(ResultCode::RoleViolation); 2], 2));
    }

    #[test]
    fn a_permit_ends_with_the_right() {
        let setup = Setup::default();
        let (user, mut standing) = (setup.user(1), setup.standing());
        standing.session().enter(Arc::clone(&user));
        standing.refresh();
        let place = (&b"test"[..], &b""[..]);
        let permit = standing.logged_in().expect("a user").permit(Permissions::QUERY, place, Charge::Read);
        drop(standing);
        assert_eq!(permit.check(), Ok(()), "it outlives its connection");
        user.replace(Rights::default());
        assert_eq!(permit.check(), Err(ResultCode::RoleViolation));
        user.replace(from("::1"));
        assert_eq!(permit.check(), Err(ResultCode::NotWhitelisted));
        user.replace(read_everywhere());
        assert_eq!(permit.check(), Ok(()));
        user.retire();
        assert_eq!(permit.check(), Err(ResultCode::NotAuthenticated));
    }

    #[test]
    fn a_permit_holds_a_part_of_the_quota() {
        let setup = Setup::default();
        let (user, mut standing) = (setup.user(1), setup.standing());
        let mut limited = read_everywhere();
        limited.read_quota = Quota::Limited(500);
        user.replace(limited);
        standing.session().enter(Arc::clone(&user));
        standing.refresh();
        let permit = || {
            let place = (&b"test"[..], &b""[..]);
            standing.logged_in().expect("a user").permit(Permissions::QUERY, place, Charge::Read)
        };
        let (mut first, mut second) = (permit(), permit());
        assert_eq!(first.reserve(0), Err(ResultCode::QuotaExceeded));
        assert_eq!((first.reserve(400), first.reserve(300)), (Ok(()), Ok(())), "the last one counts");
        assert_eq!(second.reserve(201), Err(ResultCode::QuotaExceeded));
        assert_eq!(second.reserve(200), Ok(()));
        drop(first);
        assert_eq!(user.reads.figures(Quota::Limited(500)), [500, 0, 200, 0]);
        assert_eq!(second.reserve(500), Ok(()));
    }
}

//! Permissions, the permissions that each privilege carries, and the rights that follow from a user's roles.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::security::{Privilege, PrivilegeCode};

use super::audit::ReportedData;
use super::quota::Quota;
use super::whitelist::Whitelist;

/// Declares the permissions, one bit each, with their names in refusals.
macro_rules! permissions {
    ($($(#[$doc:meta])* $constant:ident = $bit:literal $name:literal;)+) => {
        impl Permissions {
            $($(#[$doc])* pub(crate) const $constant: Permissions = Permissions(1 << $bit);)+
        }

        const NAMES: &[(Permissions, &str)] = &[$((Permissions::$constant, $name)),+];
    };
}

/// A set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Permissions(u64);

permissions! {
    /// Reads of single records.
    READ = 0 "read";
    /// Queries that return records.
    QUERY = 1 "query";
    WRITE = 2 "write";
    DELETE = 3 "delete";
    /// UDFs on single records.
    UDF_APPLY = 4 "udf-apply";
    /// UDFs in queries.
    UDF_QUERY = 5 "udf-query";
    /// Operations in background queries.
    OPS_QUERY = 6 "ops-query";
    UDF_ADMIN = 16 "udf-admin";
    SINDEX_ADMIN = 17 "sindex-admin";
    QUERY_ADMIN = 18 "query-admin";
    TRUNCATE = 19 "truncate";
    EVICT_ADMIN = 20 "evict-admin";
    RECORD_INFO = 21 "record-info";
    SET_CONFIG = 24 "set-config";
    LOGGING_CTRL = 25 "logging-ctrl";
    SERVICE_CTRL = 26 "service-ctrl";
    XDR_SET_FILTER = 27 "xdr-set-filter";
    USER_ADMIN = 44 "user-admin";
}

impl Permissions {
    pub(crate) const NONE: Permissions = Permissions(0);

    pub(crate) const fn and(self, other: Permissions) -> Permissions {
        Permissions(self.0 | other.0)
    }

    pub(crate) const fn contains(self, wanted: Permissions) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// The name of the first permission in the set.
    pub(crate) fn name(self) -> &'static str {
        NAMES.iter().find(|(permission, _)| self.contains(*permission)).map_or("none", |(_, name)| name)
    }
}

/// The permissions that a privilege of this kind carries.
pub(crate) const fn permissions_of(code: PrivilegeCode) -> Permissions {
    const DATA_ADMIN: Permissions = Permissions::UDF_ADMIN
        .and(Permissions::SINDEX_ADMIN)
        .and(Permissions::QUERY_ADMIN)
        .and(Permissions::TRUNCATE)
        .and(Permissions::EVICT_ADMIN)
        .and(Permissions::RECORD_INFO);
    const READ: Permissions = Permissions::READ.and(Permissions::QUERY);
    const WRITE: Permissions = Permissions::WRITE.and(Permissions::DELETE).and(Permissions::OPS_QUERY);
    match code {
        PrivilegeCode::UserAdmin => Permissions::USER_ADMIN,
        PrivilegeCode::SysAdmin => DATA_ADMIN
            .and(Permissions::SET_CONFIG)
            .and(Permissions::LOGGING_CTRL)
            .and(Permissions::SERVICE_CTRL)
            .and(Permissions::XDR_SET_FILTER),
        PrivilegeCode::DataAdmin => DATA_ADMIN,
        PrivilegeCode::UdfAdmin => Permissions::UDF_ADMIN,
        PrivilegeCode::SindexAdmin => Permissions::SINDEX_ADMIN,
        PrivilegeCode::Read => READ,
        PrivilegeCode::ReadWrite => READ.and(WRITE),
        PrivilegeCode::ReadWriteUdf => {
            READ.and(WRITE).and(Permissions::UDF_APPLY).and(Permissions::UDF_QUERY)
        }
        PrivilegeCode::Write => WRITE,
        PrivilegeCode::Truncate => Permissions::TRUNCATE,
    }
}

/// The place where an action takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope<'a> {
    /// No particular place: only privileges for all namespaces count.
    Server,
    /// A set of a namespace; an empty set stands for records without one, and for a whole namespace.
    Set { namespace: &'a [u8], set: &'a [u8] },
}

/// Rights that follow from the roles of a user.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Rights {
    everywhere: Permissions,
    /// Permissions in a whole namespace.
    namespaces: BTreeMap<Vec<u8>, Permissions>,
    /// Permissions by namespace and set.
    sets: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Permissions>>,
    /// The addresses from which the user may connect; `None` allows all.
    whitelist: Option<Whitelist>,
    /// Limits of reads and of writes per second.
    pub(super) read_quota: Quota,
    pub(super) write_quota: Quota,
    /// The operations of the user that the audit log reports.
    pub(super) reported: ReportedData,
}

impl Rights {
    /// Adds a privilege of one of the roles.
    pub(super) fn add(&mut self, privilege: &Privilege) {
        let permissions = permissions_of(privilege.code);
        let place = match (privilege.namespace.as_str(), privilege.set.as_str()) {
            ("", _) => &mut self.everywhere,
            (namespace, "") => self.namespaces.entry(namespace.into()).or_default(),
            (namespace, set) => self.sets.entry(namespace.into()).or_default().entry(set.into()).or_default(),
        };
        *place = place.and(permissions);
    }

    /// Adds the addresses from which a role may be used. Several roles with addresses allow all of them together.
    pub(super) fn add_whitelist(&mut self, whitelist: &Whitelist) {
        self.whitelist.get_or_insert_default().extend(whitelist);
    }

    #[inline]
    pub(crate) fn allow(&self, wanted: Permissions, scope: Scope<'_>) -> bool {
        if self.everywhere.contains(wanted) {
            return true;
        }
        let Scope::Set { namespace, set } = scope else { return false };
        let mut allowed = self.everywhere;
        if let Some(permissions) = self.namespaces.get(namespace) {
            allowed = allowed.and(*permissions);
        }
        if let Some(permissions) = self.sets.get(namespace).and_then(|sets| sets.get(set)) {
            allowed = allowed.and(*permissions);
        }
        allowed.contains(wanted)
    }

    /// The permissions that the user has everywhere, if no operation is counted or reported: a request that needs only
    /// these is allowed without further checks.
    pub(super) fn unconditional(&self) -> Permissions {
        let is_counted = [self.read_quota, self.write_quota] != [Quota::Off; 2];
        if is_counted || !self.reported.is_empty() { Permissions::NONE } else { self.everywhere }
    }

    /// Whether the user may connect from `address`.
    pub(crate) fn allow_address(&self, address: IpAddr) -> bool {
        self.whitelist.as_ref().is_none_or(|whitelist| whitelist.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(privileges: &[(PrivilegeCode, &str, &str)]) -> Rights {
        let mut rights = Rights::default();
        for (code, namespace, set) in privileges {
            rights.add(&Privilege {
                code: *code,
                namespace: (*namespace).to_owned(),
                set: (*set).to_owned(),
            });
        }
        rights
    }

    const fn set<'a>(namespace: &'a str, set: &'a str) -> Scope<'a> {
        Scope::Set { namespace: namespace.as_bytes(), set: set.as_bytes() }
    }

    #[test]
    fn nothing_is_allowed_without_a_privilege() {
        let none = Rights::default();
        assert!(!none.allow(Permissions::READ, set("test", "")));
        assert!(!none.allow(Permissions::USER_ADMIN, Scope::Server));
        assert!(none.allow(Permissions::NONE, Scope::Server));
    }

    #[test]
    fn a_privilege_counts_in_its_scope_only() {
        let rights = rights(&[(PrivilegeCode::Read, "test", "a"), (PrivilegeCode::Write, "test", "")]);
        assert!(rights.allow(Permissions::READ, set("test", "a")));
        assert!(!rights.allow(Permissions::READ, set("test", "b")));
        assert!(!rights.allow(Permissions::READ, set("test", "")));
        assert!(!rights.allow(Permissions::READ, set("bar", "a")));
        assert!(!rights.allow(Permissions::READ, Scope::Server));
        assert!(rights.allow(Permissions::WRITE, set("test", "")));
        assert!(rights.allow(Permissions::WRITE, set("test", "b")));
        // Two privileges allow it together.
        assert!(rights.allow(Permissions::WRITE.and(Permissions::READ), set("test", "a")));
        assert!(!rights.allow(Permissions::WRITE.and(Permissions::READ), set("test", "b")));
    }

    #[test]
    fn administrators_have_the_included_permissions() {
        let sys = permissions_of(PrivilegeCode::SysAdmin);
        assert!(sys.contains(permissions_of(PrivilegeCode::DataAdmin)));
        assert!(sys.contains(Permissions::SET_CONFIG) && !sys.contains(Permissions::USER_ADMIN));
        assert!(!sys.contains(Permissions::READ));
        assert!(!permissions_of(PrivilegeCode::DataAdmin).contains(Permissions::SET_CONFIG));
        assert_eq!(permissions_of(PrivilegeCode::UdfAdmin), Permissions::UDF_ADMIN);
    }

    #[test]
    fn every_permission_has_a_name_and_a_bit_of_its_own() {
        let mut all = Permissions::NONE;
        for (permission, name) in NAMES {
            assert!(!all.contains(*permission), "{name}");
            assert_eq!(permission.name(), *name);
            all = all.and(*permission);
        }
    }
}

//! Users and roles, and the commands of administrators that change them. Pure: a command yields the items of system
//! metadata that it changes; the accounts change when the metadata reports the items.
//!
//! Items, in module `security`: `user|NAME` holds the hash of the password and the names and ids of roles, `role|NAME`
//! an id, privileges, addresses and quotas, both as JSON; `secret|token` the secret that signs session tokens. The
//! format is specific to Ferrospike: that of the C server is not public.
//!
//! Each command changes one item, so a crash leaves the state before or after it. Dropping a role deletes its item:
//! users that had the role keep its name and id, which grant no rights, even if another role gets the name.
//!
//! An item that no command could have made, from a damaged file or another node, has no effect as a whole. In
//! particular a role whose addresses cannot be read must not be valid everywhere.

use std::collections::{BTreeMap, BTreeSet};

use proto::ResultCode;
use proto::security::{Privilege, PrivilegeCode, is_name};
use serde_json::{Map, Value, json};

use super::password::is_hash;
use super::permission::Rights;
use super::quota::Quota;
use super::whitelist::Whitelist;

const USER: &str = "user";
const ROLE: &str = "role";
/// Key of the item with the secret that signs session tokens, as base64.
pub(super) const SECRET_KEY: &str = "secret|token";
/// Maximum number of roles of a user and of privileges of a role: each count is one byte on the wire.
const LIST_MAX: usize = 255;

/// Distinguishes a user from dropped users of the same name. Users stored without one have 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AccountId(pub(super) u64);

/// Distinguishes a role from dropped roles of the same name. Predefined roles, and those stored without one, have 0.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct RoleId(pub(super) u64);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct User {
    pub(super) id: AccountId,
    /// Hash of the credential, which clients send in place of the password, in the PHC format; empty for a user that logs
    /// in by certificate alone.
    pub(super) password: String,
    /// The roles that the user was granted, including dropped ones: see [`Accounts::roles_of`].
    granted: BTreeMap<String, RoleId>,
}

/// A role that is not predefined.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Role {
    id: RoleId,
    pub(super) privileges: BTreeSet<Privilege>,
    /// The address list in the administrator's spelling; empty without one.
    pub(super) whitelist: String,
    pub(super) read_quota: u32,
    pub(super) write_quota: u32,
}

/// The privileges of a request, or the error in them. That error is reported only if the request has no other
/// error.
pub(super) type Privileges<'p> = Result<&'p [Privilege], ResultCode>;

/// The new value of an item of system metadata; `None` removes the item.
pub(super) type ItemChange = (String, Option<String>);

/// What an item without effect was to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ItemKind {
    User,
    Role,
    Unknown,
}

/// Why an item has no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ItemError {
    pub(super) kind: ItemKind,
    pub(super) why: &'static str,
}

/// All users and roles.
#[derive(Default, Debug)]
pub(super) struct Accounts {
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
}

/// The predefined role of this name.
fn predefined(name: &str) -> Option<Role> {
    let code = PrivilegeCode::ALL.iter().find(|code| code.name() == name)?;
    Some(Role { privileges: BTreeSet::from([Privilege::everywhere(*code)]), ..Role::default() })
}

impl User {
    fn to_json(&self) -> String {
        let names: Vec<&String> = self.granted.keys().collect();
        let ids: BTreeMap<&String, u64> =
            self.granted.iter().filter(|(_, id)| id.0 != 0).map(|(name, id)| (name, id.0)).collect();
        json!({ "id": self.id.0, "password": self.password, "roles": names, "role-ids": ids }).to_string()
    }

    /// The user of an item, or what is wrong with it.
    fn from_item(name: &str, text: &str) -> Result<Self, &'static str> {
        if !is_name(name) {
            return Err("no user has such a name");
        }
        let user = User::from_json(text).ok_or("its value cannot be read")?;
        if !user.password.is_empty() && !is_hash(&user.password) {
            return Err("its password is no hash");
        }
        if user.granted.len() > LIST_MAX || !user.granted.keys().all(|role| is_name(role)) {
            return Err("its roles cannot be roles of a user");
        }
        Ok(user)
    }

    fn from_json(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let names = value.get("roles")?.as_array()?;
        let ids = value.get("role-ids");
        let id_of = |name: &str| ids?.get(name)?.as_u64();
        let granted = |name: &Value| {
            let name = name.as_str()?;
            Some((name.to_owned(), RoleId(id_of(name).unwrap_or_default())))
        };
        Some(User {
            id: AccountId(value.get("id").and_then(Value::as_u64).unwrap_or_default()),
            password: value.get("password")?.as_str()?.to_owned(),
            granted: names.iter().map(granted).collect::<Option<_>>()?,
        })
    }
}

impl Role {
    fn to_json(&self) -> String {
        let privileges: Vec<Value> = self
            .privileges
            .iter()
            .map(|privilege| json!([privilege.code.name(), privilege.namespace, privilege.set]))
            .collect();
        json!({
            "id": self.id.0,
            "privileges": privileges,
            "whitelist": self.whitelist,
            "read-quota": self.read_quota,
            "write-quota": self.write_quota,
        })
        .to_string()
    }

    /// The role of an item, or what is wrong with it.
    fn from_item(name: &str, text: &str) -> Result<Self, &'static str> {
        if !is_name(name) || predefined(name).is_some() {
            return Err("no role that can be made has such a name");
        }
        let role = Role::from_json(text).ok_or("its value cannot be read")?;
        let (privileges, mut made) = (role.privileges.iter().cloned().collect::<Vec<_>>(), Role::default());
        add_privileges(&mut made, &privileges).map_err(|_| "its privileges are not valid")?;
        checked_whitelist(Some(&role.whitelist)).map_err(|_| "its addresses cannot be read")?;
        Ok(role)
    }

    fn from_json(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let value: &Map<String, Value> = value.as_object()?;
        let quota = |name| value.get(name)?.as_u64().and_then(|quota| u32::try_from(quota).ok());
        let privilege = |value: &Value| {
            let [code, namespace, set] = value.as_array()?.as_slice() else { return None };
            let name = code.as_str()?;
            let code = PrivilegeCode::ALL.iter().find(|code| code.name() == name)?;
            let (namespace, set) = (namespace.as_str()?.to_owned(), set.as_str()?.to_owned());
            Some(Privilege { code: *code, namespace, set })
        };
        Some(Role {
            id: RoleId(value.get("id").and_then(Value::as_u64).unwrap_or_default()),
            privileges: value.get("privileges")?.as_array()?.iter().map(privilege).collect::<Option<_>>()?,
            whitelist: value.get("whitelist")?.as_str()?.to_owned(),
            read_quota: quota("read-quota")?,
            write_quota: quota("write-quota")?,
        })
    }
}

fn user_item(name: &str, user: &User) -> ItemChange {
    (format!("{USER}|{name}"), Some(user.to_json()))
}

fn role_item(name: &str, role: &Role) -> ItemChange {
    (format!("{ROLE}|{name}"), Some(role.to_json()))
}

impl Accounts {
    /// Applies an item of system metadata. Returns the names of the users whose rights may have changed.
    ///
    /// # Errors
    /// Why the item has no effect.
    pub(super) fn apply(&mut self, key: &str, value: Option<&str>) -> Result<Vec<String>, ItemError> {
        let (kind, name) = key.split_once('|').unwrap_or((key, ""));
        let of = |kind| move |why| ItemError { kind, why };
        match (kind, value) {
            (USER, None) => drop(self.users.remove(name)),
            (USER, Some(value)) => {
                let user = User::from_item(name, value).map_err(of(ItemKind::User))?;
                self.users.insert(name.to_owned(), user);
            }
            (ROLE, None) => drop(self.roles.remove(name)),
            (ROLE, Some(value)) => {
                let role = Role::from_item(name, value).map_err(of(ItemKind::Role))?;
                self.roles.insert(name.to_owned(), role);
            }
            // What is gone had no effect.
            (_, None) => return Ok(Vec::new()),
            _ => {
                return Err(ItemError { kind: ItemKind::Unknown, why: "it is neither a user nor a role" });
            }
        }
        if kind == USER {
            return Ok(vec![name.to_owned()]);
        }
        let concerned = self.users.iter().filter(|(_, user)| user.granted.contains_key(name));
        Ok(concerned.map(|(name, _)| name.clone()).collect())
    }

    pub(super) fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// All users, by name.
    pub(super) fn users(&self) -> impl Iterator<Item = (&str, &User)> {
        self.users.iter().map(|(name, user)| (name.as_str(), user))
    }

    /// A role of this name, predefined or not.
    pub(super) fn role(&self, name: &str) -> Option<Role> {
        predefined(name).or_else(|| self.roles.get(name).cloned())
    }

    /// Whether the role with this name has this id.
    fn is_role(&self, name: &str, id: RoleId) -> bool {
        self.role(name).is_some_and(|role| role.id == id)
    }

    /// The roles of a user, by name: those that were granted to it and have not been dropped since.
    pub(super) fn roles_of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a str> {
        let has = move |(name, id): &(&String, &RoleId)| self.is_role(name, **id);
        user.granted.iter().filter(has).map(|(name, _)| name.as_str())
    }

    /// Whether a user has the role of this name.
    pub(super) fn has_role(&self, user: &User, name: &str) -> bool {
        user.granted.get(name).is_some_and(|id| self.is_role(name, *id))
    }

    /// All roles, by name.
    pub(super) fn roles(&self) -> BTreeMap<String, Role> {
        let mut roles = self.roles.clone();
        for code in PrivilegeCode::ALL {
            roles.extend(predefined(code.name()).map(|role| (code.name().to_owned(), role)));
        }
        roles
    }

    /// The id and the rights of the user with this name; `None` if there is no such user. A role that no longer exists
    /// gives no rights. The largest quota of the roles counts, if quotas are enabled.
    pub(super) fn rights_of(&self, name: &str, has_quotas: bool) -> Option<(AccountId, Rights)> {
        let (mut rights, mut reads, mut writes) = (Rights::default(), 0, 0);
        let user = self.users.get(name)?;
        for role in self.roles_of(user).filter_map(|name| self.role(name)) {
            role.privileges.iter().for_each(|privilege| rights.add(privilege));
            if let Some(whitelist) = Whitelist::parse(&role.whitelist) {
                rights.add_whitelist(&whitelist);
            }
            (reads, writes) = (role.read_quota.max(reads), role.write_quota.max(writes));
        }
        rights.read_quota = Quota::new(has_quotas, reads);
        rights.write_quota = Quota::new(has_quotas, writes);
        Some((user.id, rights))
    }

    /// # Errors
    /// `SecurityUser` for an invalid name, `SecurityUserExists`, `SecurityRole` for a role that does not
    /// exist.
    pub(super) fn create_user(
        &self,
        name: &str,
        id: AccountId,
        password: String,
        roles: &[&str],
    ) -> Result<ItemChange, ResultCode> {
        if !is_name(name) {
            return Err(ResultCode::SecurityUser);
        }
        if self.users.contains_key(name) {
            return Err(ResultCode::SecurityUserExists);
        }
        let mut user = User { id, password, granted: BTreeMap::new() };
        self.add_roles(&mut user, roles)?;
        Ok(user_item(name, &user))
    }

    fn add_roles(&self, user: &mut User, roles: &[&str]) -> Result<(), ResultCode> {
        for name in roles {
            let role = self.role(name).ok_or(ResultCode::SecurityRole)?;
            user.granted.insert((*name).to_owned(), role.id);
        }
        if user.granted.len() > LIST_MAX { Err(ResultCode::SecurityRole) } else { Ok(()) }
    }

    /// A copy of a user for a change, without the roles that were dropped.
    fn changed_user(&self, name: &str) -> Result<User, ResultCode> {
        let mut user = self.users.get(name).cloned().ok_or(ResultCode::SecurityUser)?;
        user.granted.retain(|role, id| self.is_role(role, *id));
        Ok(user)
    }

    /// # Errors
    /// `SecurityUser` if there is no such user.
    pub(super) fn drop_user(&self, name: &str) -> Result<ItemChange, ResultCode> {
        self.changed_user(name)?;
        Ok((format!("{USER}|{name}"), None))
    }

    /// # Errors
    /// `SecurityUser` if there is no such user.
    pub(super) fn set_password(&self, name: &str, password: String) -> Result<ItemChange, ResultCode> {
        let user = User { password, ..self.changed_user(name)? };
        Ok(user_item(name, &user))
    }

    /// # Errors
    /// `SecurityUser` if there is no such user, `SecurityRole` if there is no such role.
    pub(super) fn grant_roles(&self, name: &str, roles: &[&str]) -> Result<ItemChange, ResultCode> {
        let mut user = self.changed_user(name)?;
        self.add_roles(&mut user, roles)?;
        Ok(user_item(name, &user))
    }

    /// # Errors
    /// `SecurityUser` if there is no such user, `SecurityRole` if there is no such role. A role that the user
    /// does not have is no error.
    pub(super) fn revoke_roles(&self, name: &str, roles: &[&str]) -> Result<ItemChange, ResultCode> {
        let mut user = self.changed_user(name)?;
        if !roles.iter().all(|role| self.role(role).is_some()) {
            return Err(ResultCode::SecurityRole);
        }
        user.granted.retain(|role, _| !roles.contains(&role.as_str()));
        Ok(user_item(name, &user))
    }

    /// # Errors
    /// `SecurityRole` for an invalid name, `SecurityRoleExists`, and as
    /// [`set_whitelist`](Self::set_whitelist) and [`grant_privileges`](Self::grant_privileges).
    pub(super) fn create_role(
        &self,
        name: &str,
        id: RoleId,
        privileges: Privileges<'_>,
        whitelist: Option<&str>,
        (read_quota, write_quota): (u32, u32),
    ) -> Result<ItemChange, ResultCode> {
        if !is_name(name) {
            return Err(ResultCode::SecurityRole);
        }
        if self.role(name).is_some() {
            return Err(ResultCode::SecurityRoleExists);
        }
        let whitelist = checked_whitelist(whitelist)?;
        let mut role = Role { id, read_quota, write_quota, whitelist, ..Role::default() };
        add_privileges(&mut role, privileges?)?;
        Ok(role_item(name, &role))
    }

    /// A copy of the role with this name, for a change. Predefined roles cannot be changed and count as
    /// missing.
    fn changed_role(&self, name: &str) -> Result<Role, ResultCode> {
        if predefined(name).is_some() {
            return Err(ResultCode::SecurityRole);
        }
        self.roles.get(name).cloned().ok_or(ResultCode::SecurityRole)
    }

    /// The role of this name and the privileges to grant or revoke, which must not be empty.
    fn role_to_change_by<'p>(
        &self,
        name: &str,
        privileges: Privileges<'p>,
    ) -> Result<(Role, &'p [Privilege]), ResultCode> {
        let (role, privileges) = (self.changed_role(name)?, privileges?);
        if privileges.is_empty() { Err(ResultCode::SecurityPrivilege) } else { Ok((role, privileges)) }
    }

    /// Drops a role: no user has it any more.
    ///
    /// # Errors
    /// `SecurityRole` if there is no such role.
    pub(super) fn drop_role(&self, name: &str) -> Result<ItemChange, ResultCode> {
        self.changed_role(name)?;
        Ok((format!("{ROLE}|{name}"), None))
    }

    /// # Errors
    /// `SecurityRole` if there is no such role, `SecurityPrivilege` if a privilege is invalid or none is
    /// given.
    pub(super) fn grant_privileges(
        &self,
        name: &str,
        privileges: Privileges<'_>,
    ) -> Result<ItemChange, ResultCode> {
        let (mut role, privileges) = self.role_to_change_by(name, privileges)?;
        add_privileges(&mut role, privileges)?;
        Ok(role_item(name, &role))
    }

    /// # Errors
    /// `SecurityRole` if there is no such role, `SecurityPrivilege` if no privilege is given. A privilege
    /// that the role lacks is no error.
    pub(super) fn revoke_privileges(
        &self,
        name: &str,
        privileges: Privileges<'_>,
    ) -> Result<ItemChange, ResultCode> {
        let (mut role, privileges) = self.role_to_change_by(name, privileges)?;
        role.privileges.retain(|privilege| !privileges.contains(privilege));
        Ok(role_item(name, &role))
    }

    /// Sets the addresses from which a role may be used; `None` allows all.
    ///
    /// # Errors
    /// `SecurityRole` if there is no such role, `SecurityWhitelist` for invalid addresses.
    pub(super) fn set_whitelist(
        &self,
        name: &str,
        whitelist: Option<&str>,
    ) -> Result<ItemChange, ResultCode> {
        let role = Role { whitelist: checked_whitelist(whitelist)?, ..self.changed_role(name)? };
        Ok(role_item(name, &role))
    }

    /// Sets the quotas that are given.
    ///
    /// # Errors
    /// `SecurityRole` if there is no such role.
    pub(super) fn set_quotas(
        &self,
        name: &str,
        read_quota: Option<u32>,
        write_quota: Option<u32>,
    ) -> Result<ItemChange, ResultCode> {
        let mut role = self.changed_role(name)?;
        role.read_quota = read_quota.unwrap_or(role.read_quota);
        role.write_quota = write_quota.unwrap_or(role.write_quota);
        Ok(role_item(name, &role))
    }
}

fn checked_whitelist(whitelist: Option<&str>) -> Result<String, ResultCode> {
    let Some(text) = whitelist.filter(|text| !text.is_empty()) else { return Ok(String::new()) };
    Whitelist::parse(text).ok_or(ResultCode::SecurityWhitelist)?;
    Ok(text.to_owned())
}

/// Adds privileges to a role. A set without a namespace and invalid names are errors.
fn add_privileges(role: &mut Role, privileges: &[Privilege]) -> Result<(), ResultCode> {
    let is_text = |text: &str| !text.chars().any(char::is_control);
    for privilege in privileges {
        let has_place = !privilege.namespace.is_empty() || privilege.set.is_empty();
        if !has_place || !is_text(&privilege.namespace) || !is_text(&privilege.set) {
            return Err(ResultCode::SecurityPrivilege);
        }
        role.privileges.insert(privilege.clone());
    }
    if role.privileges.len() > LIST_MAX { Err(ResultCode::SecurityPrivilege) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::password::tests::HASH;
    use crate::security::permission::{Permissions, Scope};

    /// Accounts that apply changes at once.
    #[derive(Default)]
    struct Applied(Accounts);

    impl Applied {
        fn apply(&mut self, change: Result<ItemChange, ResultCode>) -> Result<Vec<String>, ResultCode> {
            let (key, value) = change?;
            Ok(self.0.apply(&key, value.as_deref()).expect("an item of ours"))
        }

        fn roles_of(&self, name: &str) -> Vec<&str> {
            self.0.roles_of(self.0.user(name).expect("a user")).collect()
        }
    }

    fn privilege(code: PrivilegeCode, namespace: &str, set: &str) -> Privilege {
        Privilege { code, namespace: namespace.to_owned(), set: set.to_owned() }
    }

    #[test]
    fn users_get_and_lose_roles() {
        let mut all = Applied::default();
        let create = |all: &Applied, name: &str, roles: &[&str]| {
            all.0.create_user(name, AccountId(7), HASH.into(), roles)
        };
        for name in ["", "a:b", &"n".repeat(64)] {
            assert_eq!(create(&all, name, &[]), Err(ResultCode::SecurityUser), "{name}");
        }
        assert_eq!(create(&all, "bob", &["read", "nobody"]), Err(ResultCode::SecurityRole));
        let change = create(&all, "bob", &["read"]);
        assert_eq!(all.apply(change), Ok(vec!["bob".to_owned()]));
        assert_eq!(create(&all, "bob", &[]), Err(ResultCode::SecurityUserExists));
        let change = all.0.grant_roles("bob", &["write", "read"]);
        all.apply(change).expect("granted");
        assert_eq!(all.roles_of("bob"), ["read", "write"]);
        assert_eq!(all.0.grant_roles("bob", &["nobody"]), Err(ResultCode::SecurityRole));
        assert_eq!(all.0.grant_roles("eve", &["read"]), Err(ResultCode::SecurityUser));
        let change = all.0.revoke_roles("bob", &["read", "truncate"]);
        all.apply(change).expect("revoked");
        assert_eq!(all.roles_of("bob"), ["write"]);
        assert_eq!(all.0.revoke_roles("bob", &["nobody"]), Err(ResultCode::SecurityRole));
        let change = all.0.drop_user("bob");
        all.apply(change).expect("dropped");
        assert_eq!(all.0.drop_user("bob"), Err(ResultCode::SecurityUser));
        assert_eq!(all.0.rights_of("bob", true), None);
    }

    #[test]
    fn roles_are_made_and_changed_and_their_users_follow() {
        let mut all = Applied::default();
        let here = [privilege(PrivilegeCode::Read, "test", "a")];
        let create = |all: &Applied, name: &str, whitelist| {
            all.0.create_role(name, RoleId(1), Ok(&here), whitelist, (0, 7))
        };
        assert_eq!(create(&all, "read", None), Err(ResultCode::SecurityRoleExists), "predefined");
        assert_eq!(create(&all, "", None), Err(ResultCode::SecurityRole));
        assert_eq!(create(&all, "r", Some("bad_IP")), Err(ResultCode::SecurityWhitelist));
        let change = create(&all, "r", Some("127.0.0.1"));
        all.apply(change).expect("created");
        let change = all.0.create_user("bob", AccountId(7), HASH.into(), &["r"]);
        all.apply(change).expect("created");
        let allows = |all: &Applied, set: &str| {
            let (id, rights) = all.0.rights_of("bob", true).expect("a user");
            assert_eq!(id, AccountId(7));
            rights.allow(Permissions::READ, Scope::Set { namespace: b"test", set: set.as_bytes() })
        };
        assert!(allows(&all, "a") && !allows(&all, "b"));
        let quotas = |has_quotas| {
            let (_, rights) = all.0.rights_of("bob", has_quotas).expect("a user");
            (rights.read_quota, rights.write_quota)
        };
        assert_eq!(quotas(true), (Quota::Unlimited, Quota::Limited(7)));
        assert_eq!(quotas(false), (Quota::Off, Quota::Off));
        let change = all.0.grant_privileges("r", Ok(&[privilege(PrivilegeCode::Read, "test", "b")]));
        assert_eq!(all.apply(change), Ok(vec!["bob".to_owned()]), "who has the role is concerned");
        assert!(allows(&all, "b"));
        let change = all.0.revoke_privileges("r", Ok(&here));
        all.apply(change).expect("revoked");
        assert!(!allows(&all, "a"));
        assert_eq!(all.0.grant_privileges("r", Ok(&[])), Err(ResultCode::SecurityPrivilege));
        let unknown = Err(ResultCode::SecurityPrivilege);
        assert_eq!(all.0.grant_privileges("nobody", unknown), Err(ResultCode::SecurityRole));
        assert_eq!(all.0.revoke_privileges("r", unknown), Err(ResultCode::SecurityPrivilege));
        let created = |name| all.0.create_role(name, RoleId(2), unknown, None, (0, 0));
        assert_eq!(created("r"), Err(ResultCode::SecurityRoleExists));
        assert_eq!(created("s"), Err(ResultCode::SecurityPrivilege));
        let wrong = [privilege(PrivilegeCode::Read, "", "a")];
        assert_eq!(all.0.grant_privileges("r", Ok(&wrong)), Err(ResultCode::SecurityPrivilege));
        for predefined in ["read", "nobody"] {
            assert_eq!(all.0.grant_privileges(predefined, Ok(&here)), Err(ResultCode::SecurityRole));
            assert_eq!(all.0.set_whitelist(predefined, None), Err(ResultCode::SecurityRole));
            assert_eq!(all.0.drop_role(predefined), Err(ResultCode::SecurityRole));
        }
        let change = all.0.set_quotas("r", Some(5), None);
        all.apply(change).expect("set");
        let role = all.0.role("r").expect("a role");
        assert_eq!((role.read_quota, role.write_quota, role.whitelist.as_str()), (5, 7, "127.0.0.1"));
        let change = all.0.drop_role("r");
        assert_eq!(all.apply(change), Ok(vec!["bob".to_owned()]), "who had it is concerned");
        assert_eq!(all.roles_of("bob"), Vec::<&str>::new());
        assert!(!allows(&all, "b"));
        assert_eq!(all.0.revoke_roles("bob", &["r"]), Err(ResultCode::SecurityRole));
    }

    #[test]
    fn a_role_that_is_made_again_is_another_one() {
        let mut all = Applied::default();
        let everywhere = [Privilege::everywhere(PrivilegeCode::Read)];
        let create = |all: &Applied, id| all.0.create_role("r", RoleId(id), Ok(&everywhere), None, (0, 0));
        let reads = |all: &Applied, name: &str| {
            let (_, rights) = all.0.rights_of(name, false).expect("a user");
            rights.allow(Permissions::READ, Scope::Server)
        };
        let change = create(&all, 1);
        all.apply(change).expect("created");
        for name in ["bob", "eve"] {
            let change = all.0.create_user(name, AccountId(7), HASH.into(), &["r", "write"]);
            all.apply(change).expect("created");
            assert!(reads(&all, name));
        }
        let change = all.0.drop_role("r");
        assert_eq!(all.apply(change).map(|users| users.len()), Ok(2));
        let change = create(&all, 2);
        assert_eq!(all.apply(change).map(|users| users.len()), Ok(2));
        for name in ["bob", "eve"] {
            assert!(!reads(&all, name) && !all.0.has_role(all.0.user(name).expect("a user"), "r"));
            assert_eq!(all.roles_of(name), ["write"]);
        }
        let change = all.0.grant_roles("bob", &["r"]);
        all.apply(change).expect("granted");
        assert!(reads(&all, "bob") && !reads(&all, "eve"));
        // A change of the user removes its dropped roles.
        let change = all.0.set_password("eve", HASH.into());
        all.apply(change).expect("set");
        assert!(!all.0.user("eve").expect("a user").granted.contains_key("r"));
        assert_eq!((all.roles_of("bob"), all.roles_of("eve")), (vec!["r", "write"], vec!["write"]));
    }

    #[test]
    fn items_without_ids_are_read() {
        let mut all = Accounts::default();
        let role = r#"{"privileges":[["read","",""]],"whitelist":"","read-quota":0,"write-quota":0}"#;
        let user = json!({ "password": HASH, "roles": ["office", "write"] }).to_string();
        for (key, value) in [("role|office", role), ("user|bob", &user)] {
            all.apply(key, Some(value)).expect("an item of ours");
        }
        assert!(all.roles_of(all.user("bob").expect("a user")).eq(["office", "write"]));
    }

    #[test]
    fn predefined_roles_are_listed_among_the_others() {
        let mut all = Applied::default();
        let write = [privilege(PrivilegeCode::Write, "test", "")];
        let change = all.0.create_role("middle", RoleId(1), Ok(&write), None, (0, 0));
        all.apply(change).expect("created");
        let names: Vec<String> = all.0.roles().into_keys().collect();
        let expected = "data-admin middle read read-write read-write-udf sindex-admin sys-admin truncate udf-admin \
                        user-admin write";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn what_no_command_could_have_made_has_no_effect() {
        let user = |password: &str, roles: Value| json!({ "password": password, "roles": roles }).to_string();
        let role = |privileges: Value, whitelist: &str| {
            json!({ "privileges": privileges, "whitelist": whitelist, "read-quota": 0, "write-quota": 0 })
                .to_string()
        };
        let read = json!([["read", "test", ""]]);
        let many = |what: &str| (0..=LIST_MAX).map(|n| format!("{what}{n}")).collect::<Vec<_>>();
        let places: Vec<_> = many("n").iter().map(|namespace| json!(["read", namespace, ""])).collect();
        let (good_user, good_role) = (user(HASH, json!(["read"])), role(read.clone(), "10.0.0.0/8"));
        let long = "n".repeat(64);
        let mut accounts = Accounts::default();
        for (key, value) in [
            ("user", good_user.clone()),
            ("other|x", good_user.clone()),
            ("user|", good_user.clone()),
            ("user|a:b", good_user.clone()),
            (&*format!("user|{long}"), good_user.clone()),
            ("user|x", "{}".to_owned()),
            ("user|x", "no JSON".to_owned()),
            ("user|x", user("secret", json!(["read"]))),
            ("user|x", user("$argon2id$v=19$m=19456", json!(["read"]))),
            ("user|x", user("$2a$10$7EqJtq98hPqEX7fNZaFWoO1mVO/4MLpGzsqojz6E9Gef6iXDjXdDa", json!(["read"]))),
            ("user|x", user(HASH, json!([""]))),
            ("user|x", user(HASH, json!(["a;b"]))),
            ("user|x", user(HASH, json!(many("role")))),
            ("role|", good_role.clone()),
            ("role|a;b", good_role.clone()),
            ("role|read", good_role.clone()),
            ("role|x", "[]".to_owned()),
            ("role|x", role(json!([["fly", "", ""]]), "")),
            ("role|x", role(json!([["read", "", "set"]]), "")),
            ("role|x", role(json!([["read", "te\nst", ""]]), "")),
            ("role|x", role(json!(places), "")),
            ("role|x", role(read.clone(), "10.0.0.0/99")),
            ("role|x", role(read.clone(), ",")),
        ] {
            assert!(accounts.apply(key, Some(&value)).is_err(), "{key} {value}");
        }
        assert!(accounts.users.is_empty() && accounts.roles.is_empty());
        assert_eq!(accounts.apply("user|x", Some(&good_user)), Ok(vec!["x".to_owned()]));
        assert_eq!(accounts.apply("role|x", Some(&good_role)), Ok(vec![]));
        assert_eq!(
            accounts.apply("user|by-certificate", Some(&user("", json!([])))).map(|users| users.len()),
            Ok(1)
        );
        // A change that cannot be understood leaves what was there.
        assert!(accounts.apply("user|x", Some("{}")).is_err() && accounts.user("x").is_some());
        assert_eq!(accounts.apply("user|x", None), Ok(vec!["x".to_owned()]));
        assert_eq!(accounts.apply("other", None), Ok(vec![]));
    }
}

//! The requests of the security protocol: logins and the commands of administrators.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proto::ResultCode;
use proto::security::{self, Command, NAME_SIZE_MAX, Privilege, PrivilegeCode, Replies, Request, field};

use super::accounts::{AccountId, Accounts, ItemChange, Role, RoleId, User};
use super::audit::{Report, printable};
use super::permission::{Permissions, Scope};
use super::quota::{Charge, Quota, Rate};
use super::session::{Session, Standing, UserRights};
use super::token::{self, Token};
use super::{AccessControl, new_id};
use crate::smd::Module;

/// The credential that clients send for the password `nopassword`: its user logs in by certificate alone.
pub(super) const NO_PASSWORD: &[u8] = b"$2a$10$7EqJtq98hPqEX7fNZaFWoOePA2sZy..tlOF99W2N0g5KZ3dLaw8WO";

/// The value that clients send for a quota that does not change.
const SAME_QUOTA: u32 = u32::MAX;

/// Result of a command: an answer with content, or only a result code.
type Answer = Result<Option<Vec<u8>>, ResultCode>;

/// The client of a connection: the facts known from the connection itself.
pub(crate) struct Peer<'a> {
    pub(crate) address: SocketAddr,
    /// The name in its verified certificate.
    pub(crate) certificate_name: Option<&'a str>,
}

/// A command that is being carried out.
struct Call<'a> {
    access: &'a AccessControl,
    request: &'a Request<'a>,
    /// The user and rights of the connection before the command.
    standing: Standing,
    client: SocketAddr,
    certificate_name: Option<&'a str>,
}

impl AccessControl {
    /// The frames that answer a request; called on a security thread. A login is for `session`, the session of `peer`'s
    /// connection.
    pub(crate) fn answer(&self, body: &[u8], session: &Arc<Session>, peer: &Peer<'_>) -> Vec<u8> {
        let Peer { address: client, certificate_name } = *peer;
        let request = match Request::parse(body) {
            Ok(request) => request,
            Err(result) => return security::result_frame(result),
        };
        let Some(command) = Command::from_code(request.command) else {
            return security::result_frame(ResultCode::SecurityCommand);
        };
        let standing = Standing::new(Arc::clone(session));
        let call = Call { access: self, request: &request, standing, client, certificate_name };
        let user = session.user_name();
        let answer = call.run(command);
        let result = answer.as_ref().err().copied().unwrap_or(ResultCode::Ok);
        let (report, user) = match command {
            // The detail names the user who failed.
            Command::Login | Command::Authenticate => (Report::Authentication, session.user_name()),
            _ => (Report::UserAdmin, user),
        };
        self.log.write(report, result, client, user.as_deref(), command.name(), &call.detail());
        match answer {
            Ok(Some(frames)) => frames,
            Ok(None) => security::result_frame(ResultCode::Ok),
            Err(result) => security::result_frame(result),
        }
    }
}

/// The effort that an answer takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SecurityWork {
    /// A lookup in the accounts.
    Look,
    /// A slow hash: the user has not been verified before.
    Verification,
    /// A change of users or roles in the whole cluster and on disk.
    Change,
}

impl AccessControl {
    /// The effort that the answer to a request of `client` takes.
    pub(crate) fn work_of(&self, body: &[u8], client: SocketAddr) -> SecurityWork {
        let Ok(request) = Request::parse(body) else { return SecurityWork::Look };
        match Command::from_code(request.command) {
            None | Some(Command::QueryUsers | Command::QueryRoles) => SecurityWork::Look,
            Some(Command::Login | Command::Authenticate) => {
                let (Some(name), Some(credential), None) =
                    (request.user, request.credential, request.session_token)
                else {
                    return SecurityWork::Look;
                };
                let is_known = self
                    .accounts
                    .read()
                    .user(name)
                    .is_some_and(|user| self.verifier.remembers(name, &user.password, credential));
                if is_known || self.attempts.is_barred(name, client.ip(), Instant::now()) {
                    SecurityWork::Look
                } else {
                    SecurityWork::Verification
                }
            }
            Some(_) => SecurityWork::Change,
        }
    }
}

fn user_of<'a>(request: &Request<'a>) -> Result<&'a str, ResultCode> {
    match request.user {
        Some(name) if (1..=NAME_SIZE_MAX).contains(&name.len()) => Ok(name),
        _ => Err(ResultCode::SecurityUser),
    }
}

fn role_of<'a>(request: &Request<'a>) -> Result<&'a str, ResultCode> {
    match request.role {
        Some(name) if (1..=NAME_SIZE_MAX).contains(&name.len()) => Ok(name),
        _ => Err(ResultCode::SecurityRole),
    }
}

/// Checks the form of a credential, which clients send in place of a password.
fn checked_credential(credential: Option<&[u8]>) -> Result<&[u8], ResultCode> {
    let is_credential = |bytes: &&[u8]| {
        bytes.len() == security::CREDENTIAL_SIZE && bytes.starts_with(b"$2") && bytes.is_ascii()
    };
    credential.filter(is_credential).ok_or(ResultCode::SecurityPassword)
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Call<'_> {
    fn run(&self, command: Command) -> Answer {
        match command {
            Command::Login => return self.login(),
            Command::Authenticate => return self.authenticate(),
            Command::ChangePassword => return self.change_password(),
            Command::QueryUsers => return self.query_users(),
            Command::QueryRoles => return self.query_roles(),
            _ => {}
        }
        self.check_administrator(false)?;
        // The slow hash comes before any lock is taken.
        let password = match command {
            Command::CreateUser | Command::SetPassword => {
                user_of(self.request)?;
                self.hash(self.request.password)?
            }
            _ => String::new(),
        };
        let _one_at_a_time = self.access.changes.lock();
        let change = self.change_of(command, password)?;
        let answer = self.store(change)?;
        let takes_rights = matches!(
            command,
            Command::DropUser | Command::RevokeRoles | Command::DropRole | Command::RevokePrivileges
        );
        if takes_rights {
            self.access.report_administrators();
        }
        Ok(answer)
    }

    /// The change that an administrator's command makes. `password` is the hash of the new password, if the
    /// command sets one.
    fn change_of(&self, command: Command, password: String) -> Result<ItemChange, ResultCode> {
        let request = self.request;
        let accounts = self.access.accounts.read();
        let roles = || request.roles.as_deref().unwrap_or_default();
        let privileges = || match &request.privileges {
            None => Ok(&[][..]),
            Some(Ok(privileges)) => Ok(&privileges[..]),
            Some(Err(result)) => Err(*result),
        };
        let id = || new_id().map_err(|_| ResultCode::Unknown);
        match command {
            Command::CreateUser => {
                accounts.create_user(user_of(request)?, AccountId(id()?), password, roles())
            }
            Command::SetPassword => {
                let name = user_of(request)?;
                refuse_without_password(accounts.user(name))?;
                accounts.set_password(name, password)
            }
            Command::DropUser => accounts.drop_user(user_of(request)?),
            Command::GrantRoles => accounts.grant_roles(user_of(request)?, roles()),
            Command::RevokeRoles => accounts.revoke_roles(user_of(request)?, roles()),
            Command::CreateRole => {
                let quotas = self.quotas()?;
                let quotas = (quotas.0.unwrap_or(0), quotas.1.unwrap_or(0));
                let (name, id) = (role_of(request)?, RoleId(id()?));
                accounts.create_role(name, id, privileges(), request.whitelist, quotas)
            }
            Command::DropRole => accounts.drop_role(role_of(request)?),
            Command::GrantPrivileges => accounts.grant_privileges(role_of(request)?, privileges()),
            Command::RevokePrivileges => accounts.revoke_privileges(role_of(request)?, privileges()),
            Command::SetWhitelist => accounts.set_whitelist(role_of(request)?, request.whitelist),
            Command::SetQuotas => {
                let (read, write) = self.quotas()?;
                accounts.set_quotas(role_of(request)?, read, write)
            }
            _ => Err(ResultCode::SecurityCommand),
        }
    }

    /// The quotas that the request changes.
    fn quotas(&self) -> Result<(Option<u32>, Option<u32>), ResultCode> {
        let given = |quota: Option<u32>| quota.filter(|quota| *quota != SAME_QUOTA);
        let quotas = (given(self.request.read_quota), given(self.request.write_quota));
        let wanted = [quotas.0, quotas.1].into_iter().flatten().any(|quota| quota > 0);
        let security = self.access.config.security.as_ref();
        if wanted && !security.is_some_and(|security| security.params.enable_quotas.get()) {
            return Err(ResultCode::SecurityQuotasNotEnabled);
        }
        Ok(quotas)
    }

    fn hash(&self, credential: Option<&[u8]>) -> Result<String, ResultCode> {
        let credential = checked_credential(credential)?;
        if credential == NO_PASSWORD {
            return Ok(String::new());
        }
        self.access.verifier.hash(credential).map_err(|error| {
            cf::warning!(Security, "cannot hash a password: {error}");
            ResultCode::Unknown
        })
    }

    /// Stores a change; it takes effect before this returns.
    fn store(&self, (key, value): ItemChange) -> Answer {
        let smd = &self.access.smd;
        let stored = match value {
            Some(value) => smd.set(Module::Security, &key, &value),
            None => smd.delete(Module::Security, &key),
        };
        stored.map_err(|error| {
            cf::warning!(Security, "cannot store a change of users or roles: {error}");
            ResultCode::Unknown
        })?;
        Ok(None)
    }

    /// Verifies a credential. After too many failures, attempts are refused for a while without verification.
    fn verify(&self, name: &str, credential: Option<&[u8]>) -> Result<User, ResultCode> {
        let access = self.access;
        let (address, now) = (self.client.ip(), Instant::now());
        if access.attempts.is_barred(name, address, now) {
            return Err(ResultCode::SecurityCredential);
        }
        let Some(credential) = credential else { return Err(ResultCode::SecurityCredential) };
        let user = access.accounts.read().user(name).cloned();
        let result = match user {
            Some(user) if access.verifier.verify(name, &user.password, credential) => {
                access.attempts.succeed(name, address);
                return Ok(user);
            }
            Some(_) => ResultCode::SecurityCredential,
            None => {
                access.verifier.verify_nobody(credential);
                ResultCode::SecurityUser
            }
        };
        let bar = access.attempts.fail(name, address, now);
        if !bar.is_zero() {
            cf::warning_limited!(
                Security,
                "too many failed logins as '{}' from {address}: further ones are refused for {bar:?}",
                printable(name)
            );
        }
        Err(result)
    }

    /// Logs the user in on the connection, if its address is allowed.
    fn enter(&self, name: &str) -> Result<(), ResultCode> {
        let user: Arc<UserRights> = self.access.user_rights(name).ok_or(ResultCode::SecurityUser)?;
        if !user.rights().allow_address(self.client.ip()) {
            return Err(ResultCode::NotWhitelisted);
        }
        self.standing.session().enter(user);
        Ok(())
    }

    fn login(&self) -> Answer {
        if self.request.user.is_none() && self.request.credential.is_none() {
            return self.login_by_certificate();
        }
        let name = user_of(self.request)?;
        if self.request.credential.is_none() && self.request.clear_password.is_some() {
            return Err(ResultCode::LdapNotConfigured);
        }
        let user = self.verify(name, self.request.credential)?;
        self.enter_with_token(name, &user)
    }

    /// A login without user and credential: the name in the client's certificate is the user's name.
    fn login_by_certificate(&self) -> Answer {
        let name = self.certificate_name.ok_or(ResultCode::SecurityCredential)?;
        let user = self.access.accounts.read().user(name).cloned().ok_or(ResultCode::SecurityUser)?;
        self.enter_with_token(name, &user)
    }

    /// Logs the user in on the connection; the answer contains a token for further connections.
    fn enter_with_token(&self, name: &str, user: &User) -> Answer {
        self.enter(name)?;
        let security = self.access.config.security.as_ref();
        let ttl_s = security.map_or(0, |security| security.params.session_ttl.get());
        let secret = self.access.secret.read().ok_or(ResultCode::Unknown)?;
        let token = token::issue(&secret, name, (user.id, &user.password), unix_seconds() + u64::from(ttl_s));
        let mut replies = Replies::new();
        replies.message(ResultCode::Ok).bytes(field::SESSION_TOKEN, &token).number(field::SESSION_TTL, ttl_s);
        Ok(Some(replies.finish()))
    }

    fn authenticate(&self) -> Answer {
        let Some(bytes) = self.request.session_token else {
            // A client without a session token sends a credential.
            let name = user_of(self.request)?;
            self.verify(name, self.request.credential)?;
            return self.enter(name).map(|()| None);
        };
        let secret = self.access.secret.read().ok_or(ResultCode::Unknown)?;
        let token = Token::read(&secret, bytes).ok_or(ResultCode::SecurityCredential)?;
        // A request without a user means the user in the certificate.
        let name = self.request.user.or(self.certificate_name);
        if name.is_some_and(|name| name != token.user) {
            return Err(ResultCode::SecurityCredential);
        }
        let is_for_user = {
            let accounts = self.access.accounts.read();
            accounts.user(token.user).is_some_and(|user| token.is_for(&secret, (user.id, &user.password)))
        };
        if !is_for_user {
            return Err(ResultCode::SecurityCredential);
        }
        if token.expiry_s < unix_seconds() {
            return Err(ResultCode::SecuritySessionExpired);
        }
        self.enter(token.user).map(|()| None)
    }

    /// Changes the user's own password. This requires the old password and no permission.
    fn change_password(&self) -> Answer {
        let own = self.standing.logged_in()?;
        let name = user_of(self.request)?;
        if self.access.accounts.read().user(name).is_none() {
            return Err(ResultCode::SecurityUser);
        }
        if own.name() != name {
            return Err(ResultCode::RoleViolation);
        }
        refuse_without_password(self.access.accounts.read().user(name))?;
        // The old password is verified before the slow hash of the new one: changes wait for each other, and a client
        // that guesses passwords must not delay them.
        self.verify(name, self.request.old_password)?;
        let hash = self.hash(self.request.password)?;
        let _one_at_a_time = self.access.changes.lock();
        let change = self.access.accounts.read().set_password(name, hash)?;
        self.store(change)
    }

    /// Checks that the user may change other accounts, or only its own if `is_own`.
    fn check_administrator(&self, is_own: bool) -> Result<(), ResultCode> {
        let wanted = if is_own { Permissions::NONE } else { Permissions::USER_ADMIN };
        self.standing.logged_in()?.check(wanted, Scope::Server, Charge::None)
    }

    fn query_users(&self) -> Answer {
        let own = self.standing.logged_in()?;
        self.check_administrator(self.request.user == Some(own.name()))?;
        let accounts = self.access.accounts.read();
        let mut replies = Replies::new();
        match self.request.user {
            Some(name) => {
                let user = accounts.user(name).ok_or(ResultCode::SecurityUser)?;
                self.write_user(&accounts, &mut replies, (name, user));
            }
            None => accounts.users().for_each(|user| self.write_user(&accounts, &mut replies, user)),
        }
        replies.end_query();
        Ok(Some(replies.finish()))
    }

    fn write_user(&self, accounts: &Accounts, replies: &mut Replies, (name, user): (&str, &User)) {
        let known = self.access.users.lock().get(name).cloned();
        let rights = self.access.rights_of(accounts, name).map(|(_, rights)| rights).unwrap_or_default();
        let figures = |quota: Quota, rate: fn(&UserRights) -> &Rate| {
            known.as_deref().map_or([quota.number(), 0, 0, 0], |user| rate(user).figures(quota))
        };
        replies
            .message(ResultCode::Ok)
            .bytes(field::USER, name.as_bytes())
            .roles(accounts.roles_of(user).collect::<Vec<_>>().into_iter())
            .number(field::CONNECTIONS, known.as_ref().map_or(0, |known| known.connection_count()))
            .numbers(field::READ_INFO, &figures(rights.read_quota, |user| &user.reads))
            .numbers(field::WRITE_INFO, &figures(rights.write_quota, |user| &user.writes));
    }

    fn query_roles(&self) -> Answer {
        let own = self.standing.logged_in()?;
        let accounts = self.access.accounts.read();
        let has_role =
            |role: &str| accounts.user(own.name()).is_some_and(|user| accounts.has_role(user, role));
        self.check_administrator(self.request.role.is_some_and(has_role))?;
        let mut replies = Replies::new();
        match self.request.role {
            Some(name) => {
                let role = accounts.role(name).ok_or(ResultCode::SecurityRole)?;
                write_role(&mut replies, name, &role);
            }
            None => accounts.roles().iter().for_each(|(name, role)| write_role(&mut replies, name, role)),
        }
        replies.end_query();
        Ok(Some(replies.finish()))
    }

    /// The audit log's description of the request, without secrets.
    fn detail(&self) -> String {
        let request = self.request;
        let mut parts = Vec::new();
        let mut part =
            |name: &str, value: Option<String>| parts.extend(value.map(|value| format!("{name}={value}")));
        part("user", request.user.map(printable));
        let roles = |roles: &Vec<&str>| roles.iter().map(|role| printable(role)).collect::<Vec<_>>();
        part("roles", request.roles.as_ref().map(|all| roles(all).join(",")));
        part("role", request.role.map(printable));
        let privilege = |privilege: &Privilege| {
            let name = logged_name(privilege.code);
            if privilege.code.is_scoped() {
                format!("{name}{{{}|{}}}", printable(&privilege.namespace), printable(&privilege.set))
            } else {
                name.to_owned()
            }
        };
        let privileges = request.privileges.as_ref().and_then(|privileges| privileges.as_ref().ok());
        part("privs", privileges.map(|all| all.iter().map(privilege).collect::<Vec<_>>().join(",")));
        part("whitelist", request.whitelist.map(printable));
        part("read-quota", request.read_quota.map(|quota| quota.to_string()));
        part("write-quota", request.write_quota.map(|quota| quota.to_string()));
        parts.join(";")
    }
}

/// The audit log's name of a privilege: letters for the oldest ones.
fn logged_name(code: PrivilegeCode) -> &'static str {
    match code {
        PrivilegeCode::UserAdmin => "u",
        PrivilegeCode::SysAdmin => "s",
        PrivilegeCode::DataAdmin => "d",
        PrivilegeCode::Read => "r",
        PrivilegeCode::ReadWrite => "rw",
        PrivilegeCode::ReadWriteUdf => "rwf",
        PrivilegeCode::Write => "w",
        newer => newer.name(),
    }
}

/// Refuses to give a password to a user that logs in by certificate alone.
fn refuse_without_password(user: Option<&User>) -> Result<(), ResultCode> {
    match user {
        Some(user) if user.password.is_empty() => Err(ResultCode::SecurityPasswordForbidden),
        _ => Ok(()),
    }
}

fn write_role(replies: &mut Replies, name: &str, role: &Role) {
    let mut message = replies.message(ResultCode::Ok);
    message.bytes(field::ROLE, name.as_bytes());
    if role.read_quota > 0 || role.write_quota > 0 {
        message.number(field::READ_QUOTA, role.read_quota).number(field::WRITE_QUOTA, role.write_quota);
    }
    if !role.privileges.is_empty() {
        message.privileges(role.privileges.iter().collect::<Vec<_>>().into_iter());
    }
    if !role.whitelist.is_empty() {
        message.bytes(field::WHITELIST, role.whitelist.as_bytes());
    }
}

//! Access control: users, roles and their permissions, sessions, quotas, the audit log. It is on with a `security`
//! context in the configuration; then nothing is permitted before a login.
//!
//! Users and roles are items of system metadata (`accounts.rs`), so that they are durable and the same in the whole
//! cluster. An administrator's command sets items; the rights in force change when the metadata reports them.
//!
//! # Threads
//! The security threads carry out all requests of the security protocol: they hash passwords and wait for the disk.
//! Service threads only read the [`Standing`] of a connection.
//!
//! # Locks
//! `changes` is held while a command makes a change, over a call of the metadata, whose listener takes
//! `accounts` and then `users`. No lock is taken under these two.

mod accounts;
mod attempts;
pub(crate) mod audit;
mod commands;
mod password;
pub(crate) mod permission;
mod quota;
mod session;
#[cfg(test)]
mod tests;
mod token;
mod whitelist;

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use datamodel::smd::SmdItem;
use parking_lot::{Mutex, RwLock};
use proto::security::PrivilegeCode;

use crate::config::Config;
use crate::smd::{Module, Occasion, Smd, report_unusable};
use accounts::{AccountId, Accounts, ItemError, ItemKind, SECRET_KEY};
use attempts::Attempts;
pub(crate) use attempts::origin;
use audit::{AuditLog, ReportedData};
pub(crate) use commands::{Peer, SecurityWork};
use password::{Verifier, random};
use permission::{Permissions, Rights, Scope};
pub(crate) use quota::Charge;
use session::{Changes, UserRights};
pub(crate) use session::{LoggedIn, Permit, Session, Standing};
use token::Secret;

const SECOND: Duration = Duration::from_secs(1);
const FIRST_ADMINISTRATOR: &str = "admin";
const FIRST_PASSWORD: &str = "admin";
/// Cost and salt that every client uses to hash passwords.
const CLIENT_COST: u32 = 10;
const CLIENT_SALT: &[u8; 16] =
    &[0xf4, 0x6b, 0x0b, 0xbe, 0xcf, 0xfe, 0x8d, 0x1b, 0x06, 0x67, 0xd8, 0x4f, 0x6d, 0xc1, 0xd8, 0xa9];

/// The reason why access control cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    #[error("the system has no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    #[error("the password of the first user cannot be hashed: {0}")]
    Password(#[from] bcrypt::BcryptError),
    #[error("cannot read default-password-file '{0}': {1}")]
    PasswordFile(String, std::io::Error),
    #[error("cannot store the first user: {0}")]
    Store(String),
    #[error(
        "{0} holds no secret for tokens that can be read: put a copy from a backup or from another node in its place, or, \
         on a node without others, remove the item '{SECRET_KEY}' from it"
    )]
    Secret(String),
    /// Its second part says what of that can still be seen.
    #[error(
        "{0} holds no user{1}, so nobody could log in: put a copy from a backup or from another node in its place; or take \
         it away to start like a new node, without all other users and roles and with the first administrator alone, \
         whose password is that of default-password-file or the one that everybody knows"
    )]
    NoUser(String, String),
    #[error("{0}")]
    Metadata(std::io::Error),
}

/// Checks that a first start could read the password of its first user.
///
/// # Errors
/// When it needs `default-password-file` and cannot read it.
pub(crate) fn check_password_file(config: &Config) -> Result<(), SecurityError> {
    let path = config.security.as_ref().and_then(|security| security.params.default_password_file.get());
    let folder = config.work_folder();
    match path {
        Some(path) if !folder.is_some_and(|folder| Smd::has_file(&folder, Module::Security)) => {
            read_password(&path).map(drop)
        }
        _ => Ok(()),
    }
}

/// Checks that a start would find a user, unless it is the first one. Nothing is logged or changed.
///
/// # Errors
/// When the stored users cannot be read, or there are none.
pub(crate) fn check_users(config: &Config) -> Result<(), SecurityError> {
    let folder = config.work_folder().filter(|_| config.security.is_some());
    let Some(folder) = folder else { return Ok(()) };
    let found = Smd::look_into(&folder, Module::Security).map_err(SecurityError::Metadata)?;
    let Some((place, items)) = found else { return Ok(()) };
    let mut accounts = Accounts::default();
    let mut is_read =
        |item: &SmdItem| item.key == SECRET_KEY || accounts.apply(&item.key, item.value.as_deref()).is_ok();
    let unread = items.iter().filter(|item| !is_read(item)).count();
    if accounts.users().next().is_none() { Err(no_user(place, unread)) } else { Ok(()) }
}

fn no_user(place: String, unread: usize) -> SecurityError {
    let what = match unread {
        0 => String::new(),
        1 => " that can be read (1 item cannot)".to_owned(),
        unread => format!(" that can be read ({unread} items cannot)"),
    };
    SecurityError::NoUser(place, what)
}

/// The first line of the file at `path`.
fn read_password(path: &str) -> Result<String, SecurityError> {
    let text =
        fs::read_to_string(path).map_err(|error| SecurityError::PasswordFile(path.to_owned(), error))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Access control of a node.
pub(crate) struct AccessControl {
    config: Arc<Config>,
    smd: Arc<Smd>,
    verifier: Verifier,
    /// The secret that signs tokens.
    secret: RwLock<Option<Secret>>,
    accounts: RwLock<Accounts>,
    /// Users that have logged in since the start.
    users: Mutex<HashMap<String, Arc<UserRights>>>,
    /// The change counter shared by all users and sessions.
    noted: Arc<Changes>,
    /// Serializes changes.
    changes: Mutex<()>,
    attempts: Attempts,
    pub(crate) log: Arc<AuditLog>,
    /// Items that could not be read.
    unread: AtomicUsize,
}

impl AccessControl {
    /// Opens access control with the users and roles in the system metadata. If nothing was stored yet, it creates the
    /// first administrator.
    ///
    /// # Errors
    /// When there is a file without users, the metadata cannot be stored, or the system has no random bytes.
    pub(crate) fn open(config: &Arc<Config>, smd: &Arc<Smd>) -> Result<Arc<Self>, SecurityError> {
        let access = Arc::new(AccessControl {
            config: Arc::clone(config),
            smd: Arc::clone(smd),
            verifier: Verifier::new()?,
            secret: RwLock::default(),
            accounts: RwLock::default(),
            users: Mutex::default(),
            noted: Arc::default(),
            changes: Mutex::default(),
            attempts: Attempts::default(),
            log: Arc::new(AuditLog::new(Arc::clone(config))),
            unread: AtomicUsize::new(0),
        });
        let listener = Arc::downgrade(&access);
        smd.listen(Module::Security, move |items: &[&SmdItem], _: Occasion| {
            if let Some(access) = listener.upgrade() {
                access.accept(items);
            }
        });
        // The administrator comes first: so no end of the first start leaves a file without users.
        access.make_administrator()?;
        access.make_secret()?;
        access.report_administrators();
        Ok(access)
    }

    /// Applies items of the metadata.
    fn accept(&self, items: &[&SmdItem]) {
        let mut concerned = Vec::new();
        let mut accounts = self.accounts.write();
        for item in items {
            if item.key == SECRET_KEY {
                let decoded = item.value.as_ref().and_then(|value| BASE64.decode(value).ok());
                match decoded.and_then(|secret| secret.try_into().ok()) {
                    Some(secret) => *self.secret.write() = Some(secret),
                    // Without a secret nobody could log in.
                    None => report_unusable(
                        Module::Security,
                        &item.key,
                        "it is no secret",
                        Some("take the file of another node"),
                    ),
                }
                continue;
            }
            match accounts.apply(&item.key, item.value.as_deref()) {
                Ok(users) => concerned.extend(users),
                Err(ItemError { kind, why }) => {
                    self.unread.fetch_add(1, Relaxed);
                    report_unusable(Module::Security, &item.key, why, Some(remedy(kind)));
                }
            }
        }
        let mut users = self.users.lock();
        for name in concerned {
            let Some(user) = users.get(&name) else { continue };
            match self.rights_of(&accounts, &name) {
                Some((id, rights)) if id == user.id() => user.replace(rights),
                // The name now belongs to another user.
                _ => {
                    user.retire();
                    users.remove(&name);
                }
            }
        }
    }

    fn make_secret(&self) -> Result<(), SecurityError> {
        if self.secret.read().is_none() {
            let secret: Secret = random()?;
            let stored = self.smd.add_default(Module::Security, SECRET_KEY, &BASE64.encode(secret));
            stored.map_err(|error| SecurityError::Store(error.to_string()))?;
        }
        let has_secret = self.secret.read().is_some();
        let place = || self.smd.stored_in(Module::Security).unwrap_or_default();
        if has_secret { Ok(()) } else { Err(SecurityError::Secret(place())) }
    }

    fn make_administrator(&self) -> Result<(), SecurityError> {
        if self.accounts.read().users().next().is_some() {
            return Ok(());
        }
        // What is stored was damaged or emptied: the password that everybody knows must not open it.
        if let Some(place) = self.smd.stored_in(Module::Security) {
            return Err(no_user(place, self.unread.load(Relaxed)));
        }
        let file =
            self.config.security.as_ref().and_then(|security| security.params.default_password_file.get());
        let password = match &file {
            None => FIRST_PASSWORD.to_owned(),
            Some(path) => read_password(path)?,
        };
        let hash = self.verifier.hash(credential_of(&password)?.as_bytes())?;
        let roles = [PrivilegeCode::UserAdmin.name()];
        let created =
            self.accounts.read().create_user(FIRST_ADMINISTRATOR, AccountId(new_id()?), hash, &roles);
        let (key, value) = created.map_err(|result| SecurityError::Store(format!("{result:?}")))?;
        let stored = self.smd.add_default(Module::Security, &key, value.as_deref().unwrap_or_default());
        stored.map_err(|error| SecurityError::Store(error.to_string()))?;
        if file.is_none() {
            cf::warning!(
                Security,
                "user '{FIRST_ADMINISTRATOR}' has the password that everybody knows: change it at once"
            );
        }
        Ok(())
    }

    /// Logs that nobody can change users and roles, if that is so: only the stored file can help then.
    fn report_administrators(&self) {
        let accounts = self.accounts.read();
        let is_administrator = |name: &str| {
            let rights = self.rights_of(&accounts, name);
            rights.is_some_and(|(_, rights)| rights.allow(Permissions::USER_ADMIN, Scope::Server))
        };
        if !accounts.users().any(|(name, _)| is_administrator(name)) {
            cf::warning!(
                Security,
                "no user may change users and roles: if somebody should, stop the server and put a copy of {} from a backup or \
                 from another node in its place",
                self.smd.stored_in(Module::Security).unwrap_or_default()
            );
        }
    }

    /// A session for a connection that has just been accepted.
    pub(crate) fn session(&self, client: SocketAddr) -> Arc<Session> {
        Arc::new(Session::new(client, Arc::clone(&self.log), Arc::clone(&self.noted)))
    }

    /// The id of the user with this name and its current rights.
    fn rights_of(&self, accounts: &Accounts, name: &str) -> Option<(AccountId, Rights)> {
        let security = self.config.security.as_ref();
        let has_quotas = security.is_some_and(|security| security.params.enable_quotas.get());
        let (id, mut rights) = accounts.rights_of(name, has_quotas)?;
        if let (Some(security), Some(user)) = (security, accounts.user(name)) {
            let roles: Vec<&str> = accounts.roles_of(user).collect();
            rights.reported = ReportedData::new(&security.log, name, &roles);
        }
        Some((id, rights))
    }

    /// Applies changed settings of the audit log or of quotas, also to users that are logged in.
    pub(crate) fn settings_changed(&self) {
        let accounts = self.accounts.read();
        let users = self.users.lock();
        for (name, user) in users.iter() {
            if let Some((id, rights)) = self.rights_of(&accounts, name)
                && id == user.id()
            {
                user.replace(rights);
            }
        }
    }

    /// The state that the user's connections share; `None` if there is no such user.
    fn user_rights(&self, name: &str) -> Option<Arc<UserRights>> {
        // The lock is held until the rights are in force, so that a concurrent change replaces them
        // afterwards.
        let accounts = self.accounts.read();
        let (id, rights) = self.rights_of(&accounts, name)?;
        let mut users = self.users.lock();
        let new = || Arc::new(UserRights::new(name, id, Rights::default(), Arc::clone(&self.noted)));
        let user = Arc::clone(users.entry(name.to_owned()).or_insert_with(new));
        drop(users);
        user.replace(rights);
        Some(user)
    }

    /// Body of the thread that adds each second to the figures of all users, until `stopping` is set and it is
    /// unparked.
    pub(crate) fn run_ticks(&self, stopping: &AtomicBool) {
        let mut next = Instant::now() + SECOND;
        while !stopping.load(Acquire) {
            std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
            if Instant::now() >= next {
                next += SECOND;
                cf::fault_point!("quotas");
                self.tick();
            }
        }
    }

    fn tick(&self) {
        let weight = self.config.security.as_ref().map_or(1, |security| security.params.tps_weight.get());
        for user in self.users.lock().values() {
            user.reads.tick(weight);
            user.writes.tick(weight);
        }
    }
}

/// What an administrator can do about an item without effect.
fn remedy(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::User => "let a user administrator create the user anew, or take the file of another node",
        ItemKind::Role => {
            "let a user administrator create the role anew and grant it again, or take the file of another node"
        }
        ItemKind::Unknown => "take the file of another node",
    }
}

/// A number that is not the id of any other user or role.
fn new_id() -> Result<u64, getrandom::Error> {
    random().map(u64::from_le_bytes)
}

/// The credential that clients send for `password`.
fn credential_of(password: &str) -> Result<String, bcrypt::BcryptError> {
    let parts = bcrypt::hash_with_salt(password, CLIENT_COST, *CLIENT_SALT)?;
    Ok(parts.format_for_version(bcrypt::Version::TwoA))
}

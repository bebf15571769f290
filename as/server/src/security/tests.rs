//! Access control with a disk that stops, and expired tokens.

use std::net::SocketAddr;

use proto::ResultCode;
use proto::security::{Command, field};

use super::*;
use crate::smd::CrashingFolder;

/// Types and contents of fields.
type Fields<'a> = &'a [(u8, &'a [u8])];

const SECURED: &str =
    "security {\n enable-quotas true\n}\nnamespace test {\n storage-engine memory {\n data-size 1G\n }\n}\n";

fn open(folder: &Arc<CrashingFolder>) -> Result<Arc<AccessControl>, SecurityError> {
    AccessControl::open(&crate::config::for_tests(SECURED), &Arc::new(Smd::open_for_tests(folder)))
}

fn client() -> SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

/// The result of a command.
fn ask(access: &AccessControl, session: &Arc<Session>, command: Command, fields: Fields<'_>) -> u8 {
    let mut body = vec![0; 16];
    (body[2], body[3]) = (command.code(), fields.len() as u8);
    for (id, data) in fields {
        body.extend((data.len() as u32 + 1).to_be_bytes());
        body.push(*id);
        body.extend_from_slice(data);
    }
    let peer = Peer { address: client(), certificate_name: None };
    access.answer(&body, session, &peer)[9]
}

/// A session of the first administrator.
fn of_admin(access: &AccessControl) -> Arc<Session> {
    let session = access.session(client());
    session.enter(access.user_rights(FIRST_ADMINISTRATOR).expect("the administrator"));
    session
}

/// All users and roles, as text.
fn contents(access: &AccessControl) -> String {
    format!("{:?}", access.accounts.read())
}

const READ_IN_TEST: &[u8] = &[1, 10, 4, b't', b'e', b's', b't', 0];
const READ: &[u8] = b"\x01\x04read";
const WRITE: &[u8] = b"\x01\x05write";

#[test]
fn passwords_are_hashed_as_clients_do() {
    let known = |password: &str| credential_of(password).expect("a hash");
    assert_eq!(known("nopassword").as_bytes(), commands::NO_PASSWORD);
    assert_eq!(known("admin"), "$2a$10$7EqJtq98hPqEX7fNZaFWoO1mVO/4MLpGzsqojz6E9Gef6iXDjXdDa");
    assert_eq!(known(""), "$2a$10$7EqJtq98hPqEX7fNZaFWoOLCkFexA7A9eoJ0Ew.mTDdk.E60D.9zS");
}

#[test]
fn a_crash_at_any_write_leaves_the_old_users_or_the_new_ones() {
    let folder = CrashingFolder::with(&[]);
    let access = open(&folder).expect("it opens");
    let admin = of_admin(&access);
    let (bob, office) = ((field::USER, &b"bob"[..]), (field::ROLE, &b"office"[..]));
    let password = credential_of("pass").expect("a hash");
    let password = (field::PASSWORD, password.as_bytes());
    let prepared: [(Command, Fields<'_>); 2] = [
        (Command::CreateRole, &[office, (field::PRIVILEGES, READ_IN_TEST)]),
        (Command::CreateUser, &[bob, password, (field::ROLES, READ)]),
    ];
    for (command, fields) in prepared {
        assert_eq!(ask(&access, &admin, command, fields), 0);
    }
    let eve = (field::USER, &b"eve"[..]);
    let no_password = (field::PASSWORD, commands::NO_PASSWORD);
    let changes: [(Command, Fields<'_>); 9] = [
        (Command::CreateUser, &[eve, no_password, (field::ROLES, READ)]),
        (Command::SetPassword, &[bob, password]),
        (Command::GrantRoles, &[bob, (field::ROLES, WRITE)]),
        (Command::RevokeRoles, &[bob, (field::ROLES, READ)]),
        (Command::DropUser, &[bob]),
        (Command::CreateRole, &[(field::ROLE, b"other"), (field::PRIVILEGES, READ_IN_TEST)]),
        (Command::SetWhitelist, &[office, (field::WHITELIST, b"10.0.0.0/8")]),
        (Command::SetQuotas, &[office, (field::READ_QUOTA, &[0, 0, 0, 9])]),
        (Command::DropRole, &[office]),
    ];
    let old = contents(&access);
    for (command, fields) in changes {
        let (mut found_old, mut found_new) = (0, 0);
        for step in 0..3 {
            let [start] = &folder.after_crash()[..] else { panic!("what is acknowledged is on disk") };
            let access = open(start).expect("it opens");
            let admin = of_admin(&access);
            start.disk.lock().stop_at = Some((start.steps() + step, 40));
            assert_eq!(ask(&access, &admin, command, fields), ResultCode::Unknown.code(), "{command:?}");
            assert_eq!(contents(&access), old, "{command:?}: what is refused has not happened");
            for left in start.after_crash() {
                let found = contents(&open(&left).expect("it opens after a crash"));
                let is_old = found == old;
                // Hashes have a salt: the same command gives a different one each time.
                assert!(is_old || step == 2, "{command:?} stopped at step {step}: {found}");
                *(if is_old { &mut found_old } else { &mut found_new }) += 1;
            }
        }
        assert!(found_old > 0 && found_new > 0, "{command:?}: {found_old} old, {found_new} new");
        // The state after the whole command.
        let [start] = &folder.after_crash()[..] else { panic!("what is acknowledged is on disk") };
        let access = open(start).expect("it opens");
        assert_eq!(ask(&access, &of_admin(&access), command, fields), 0, "{command:?}");
        let new = contents(&access);
        assert_ne!(new, old, "{command:?}");
        assert_eq!(contents(&open(&start.after_crash()[0]).expect("it opens")), new, "{command:?}");
    }
}

#[test]
fn a_role_is_dropped_for_all_its_users_or_for_none() {
    let folder = CrashingFolder::with(&[]);
    let access = open(&folder).expect("it opens");
    let admin = of_admin(&access);
    let office = (field::ROLE, &b"office"[..]);
    let created: Fields<'_> = &[office, (field::PRIVILEGES, READ_IN_TEST)];
    assert_eq!(ask(&access, &admin, Command::CreateRole, created), 0);
    let names = ["bob", "eve", "kim"];
    for name in names {
        let user = (field::USER, name.as_bytes());
        let password = (field::PASSWORD, commands::NO_PASSWORD);
        let fields: Fields<'_> = &[user, password, (field::ROLES, b"\x01\x06office")];
        assert_eq!(ask(&access, &admin, Command::CreateUser, fields), 0);
    }
    let readers = |access: &AccessControl| {
        let accounts = access.accounts.read();
        let scope = Scope::Set { namespace: b"test", set: b"" };
        let may_read = |name: &&str| {
            let (_, rights) = accounts.rights_of(name, false).expect("a user");
            rights.allow(Permissions::READ, scope)
        };
        names.iter().filter(|name| may_read(name)).count()
    };
    assert_eq!(readers(&access), names.len());
    let mut step = 0;
    loop {
        let [start] = &folder.after_crash()[..] else { panic!("what is acknowledged is on disk") };
        let access = open(start).expect("it opens");
        start.disk.lock().stop_at = Some((start.steps() + step, 40));
        let result = ask(&access, &of_admin(&access), Command::DropRole, &[office]);
        assert_eq!(readers(&access), if result == 0 { 0 } else { names.len() }, "stopped at step {step}");
        for left in start.after_crash() {
            let found = readers(&open(&left).expect("it opens after a crash"));
            assert!(
                found == 0 || found == names.len(),
                "stopped at step {step}: {found} still have the role"
            );
        }
        if result == 0 {
            break;
        }
        step += 1;
    }
    assert!(step > 0, "it was stopped");
}

#[test]
fn there_is_an_administrator_however_the_first_start_ended() {
    for step in 0..6 {
        let folder = CrashingFolder::with(&[]);
        folder.disk.lock().stop_at = Some((step, 10));
        assert!(open(&folder).is_err(), "step {step}");
        for left in folder.after_crash() {
            let access = open(&left).expect("it opens after a crash");
            assert!(access.secret.read().is_some(), "step {step}");
            let accounts = access.accounts.read();
            assert!(accounts.users().map(|(name, _)| name).eq([FIRST_ADMINISTRATOR]), "step {step}");
            let (_, rights) = accounts.rights_of(FIRST_ADMINISTRATOR, true).expect("a user");
            assert!(rights.allow(Permissions::USER_ADMIN, Scope::Server));
        }
    }
}

/// The password that everybody knows opens a new node only, not one that lost its users.
#[test]
fn a_file_without_users_opens_nothing() {
    let item = |key: &str, value: Option<&str>| SmdItem {
        key: key.to_owned(),
        value: value.map(str::to_owned),
        generation: 1,
        timestamp: 1,
    };
    let role = r#"{"privileges":[["read","",""]],"whitelist":"","read-quota":0,"write-quota":0}"#;
    let secret = BASE64.encode([7; 32]);
    let file = |items: &[SmdItem]| datamodel::smd::encode_file(crate::smd::SmdVersion::default(), items);
    let (secret, gone) = (item(SECRET_KEY, Some(&secret)), item("user|admin", None));
    for (bytes, unread) in [
        (b"[[1,1]]".to_vec(), ""),
        (b"[[]]".to_vec(), ""),
        (file(std::slice::from_ref(&secret)), ""),
        (file(&[secret.clone(), gone.clone()]), ""),
        (file(&[item("role|office", Some(role))]), ""),
        (file(&[item("user|admin", Some("{}"))]), " that can be read (1 item cannot)"),
        (file(&[secret.clone(), item("admin", Some("{}"))]), " that can be read (1 item cannot)"),
    ] {
        let folder = CrashingFolder::with(&[("security.smd", &bytes)]);
        let Err(error) = open(&folder) else { panic!("{}", String::from_utf8_lossy(&bytes)) };
        let text = error.to_string();
        assert!(text.starts_with(&format!("folder/security.smd holds no user{unread}, so")), "{text}");
        let [left] = &folder.after_crash()[..] else { panic!("nothing is written") };
        assert_eq!(left.content("security.smd"), bytes);
    }
    // A secret that is missing is made, one that cannot be read is not replaced.
    let user = item("user|eve", Some(&format!(r#"{{"password":"{}","roles":[]}}"#, password::tests::HASH)));
    let damaged = file(&[user.clone(), item(SECRET_KEY, Some("x"))]);
    let Err(error) = open(&CrashingFolder::with(&[("security.smd", &damaged)])) else { panic!("it opens") };
    assert!(error.to_string().starts_with("folder/security.smd holds no secret"), "{error}");
    let access = open(&CrashingFolder::with(&[("security.smd", &file(&[user]))])).expect("it opens");
    assert!(access.secret.read().is_some() && access.accounts.read().user(FIRST_ADMINISTRATOR).is_none());
}

#[test]
fn a_token_ends_with_its_time() {
    let access = open(&CrashingFolder::with(&[])).expect("it opens");
    let secret = access.secret.read().expect("a secret");
    let admin = access.accounts.read().user("admin").expect("a user").clone();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    for (expiry_s, expected) in [(now + 60, 0), (now - 1, ResultCode::SecuritySessionExpired.code())] {
        let token = token::issue(&secret, "admin", (admin.id, &admin.password), expiry_s);
        let session = access.session(client());
        let fields = [(field::USER, &b"admin"[..]), (field::SESSION_TOKEN, &token[..])];
        assert_eq!(ask(&access, &session, Command::Authenticate, &fields), expected);
        assert_eq!(session.user_name().is_some(), expected == 0);
    }
}

//! Whether the user of a connection may have a request carried out: what it needs, by kind of request.

use std::sync::Arc;

use proto::ResultCode;
use proto::message::{Request, field, info1, info2};

use crate::security::permission::{Permissions, Scope};
use crate::security::{Charge, LoggedIn, Session};

/// Whose a request is; `None` while there is no access control.
pub(crate) type Access = Option<Arc<Session>>;

/// What a request for one record needs.
fn needed_by_single(request: &Request<'_>) -> (Permissions, Charge) {
    if request.info2 & info2::WRITE == 0 {
        return (Permissions::READ, Charge::Read);
    }
    if request.info2 & info2::DELETE != 0 {
        return (Permissions::DELETE, Charge::Write);
    }
    if request.has_field(field::UDF_FILE) {
        return (Permissions::UDF_APPLY, Charge::Write);
    }
    let reads = if request.info1 & info1::READ != 0 { Permissions::READ } else { Permissions::NONE };
    (Permissions::WRITE.and(reads), Charge::Write)
}

/// What a query needs.
fn needed_by_query(request: &Request<'_>) -> (Permissions, Charge) {
    /// A UDF of a query that changes records, instead of one that makes a result of them.
    const BACKGROUND: &[u8] = &[2];
    let is_write = request.info2 & info2::WRITE != 0;
    if request.has_field(field::UDF_FILE) {
        let is_background = is_write || request.field(field::UDF_OP) == Some(BACKGROUND);
        return (Permissions::UDF_QUERY, if is_background { Charge::Write } else { Charge::Read });
    }
    if is_write { (Permissions::OPS_QUERY, Charge::Write) } else { (Permissions::QUERY, Charge::Read) }
}

fn check(
    user: Option<&LoggedIn>,
    (needed, charge): (Permissions, Charge),
    request: &Request<'_>,
) -> Result<(), ResultCode> {
    let Some(user) = user else { return Ok(()) };
    // A name that is no text is that of no namespace and no set. It is allowed where a whole namespace is.
    let text = |bytes| str::from_utf8(bytes).unwrap_or("\u{fffd}");
    let (namespace, set) = (text(request.namespace.unwrap_or_default()), text(request.set_name()));
    user.check(needed, Scope::Set { namespace, set }, charge)
}

/// Who has logged in; nobody where there is no access control. This comes before everything else that may be wrong with a
/// request.
///
/// # Errors
/// `NotAuthenticated`.
#[inline]
pub(super) fn logged_in(session: Option<&Session>) -> Result<Option<LoggedIn>, ResultCode> {
    session.map(Session::logged_in).transpose()
}

/// Whether a request for one record is allowed.
///
/// # Errors
/// As [`LoggedIn::check`].
#[inline]
pub(super) fn check_single(user: Option<&LoggedIn>, request: &Request<'_>) -> Result<(), ResultCode> {
    check(user, needed_by_single(request), request)
}

/// Whether a row of a batch is allowed, whose user may have lost rights since the batch began.
///
/// # Errors
/// As [`Session::check`].
#[inline]
pub(super) fn check_row(session: Option<&Session>, request: &Request<'_>) -> Result<(), ResultCode> {
    check_single(logged_in(session)?.as_ref(), request)
}

/// Whether a query is allowed.
///
/// # Errors
/// As [`LoggedIn::check`].
pub(super) fn check_query(user: Option<&LoggedIn>, request: &Request<'_>) -> Result<(), ResultCode> {
    check(user, needed_by_query(request), request)
}

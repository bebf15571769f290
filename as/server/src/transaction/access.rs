//! Permission checks of record requests for the user of a connection, by kind of request.

use std::sync::Arc;

use cf::Digest;
use proto::ResultCode;
use proto::message::{Request, field, info1, info2};

use crate::security::audit::printable;
use crate::security::permission::Permissions;
use crate::security::{Charge, LoggedIn, Permit, Session, Standing};

/// Types of keys.
const KEY_INTEGER: u8 = 1;
const KEY_STRING: u8 = 3;
const KEY_BLOB: u8 = 4;
/// Maximum number of characters of a key that the audit log shows.
const LOGGED_KEY_SIZE_MAX: usize = 150;

/// The session that a request belongs to; `None` without access control.
pub(crate) type Access = Option<Arc<Session>>;

/// Permissions and charge of a request for one record.
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

/// Permissions and charge of a query.
fn needed_by_query(request: &Request<'_>) -> (Permissions, Charge) {
    /// The value of the UDF op field for a background UDF, which changes records; an aggregation has another value.
    const BACKGROUND: &[u8] = &[2];
    let is_write = request.info2 & info2::WRITE != 0;
    if request.has_field(field::UDF_FILE) {
        let is_background = is_write || request.field(field::UDF_OP) == Some(BACKGROUND);
        return (Permissions::UDF_QUERY, if is_background { Charge::Write } else { Charge::Read });
    }
    if is_write { (Permissions::OPS_QUERY, Charge::Write) } else { (Permissions::QUERY, Charge::Read) }
}

/// The audit log's name of a request for one record.
fn action_of_single(request: &Request<'_>) -> &'static str {
    if request.info2 & info2::WRITE == 0 {
        "read"
    } else if request.info2 & info2::DELETE != 0 {
        "delete"
    } else if request.has_field(field::UDF_FILE) {
        "udf"
    } else {
        "write"
    }
}

/// The audit log's name of a query.
fn action_of_query(request: &Request<'_>) -> &'static str {
    match (request.has_field(field::UDF_FILE), needed_by_query(request).1) {
        (false, Charge::Write) => "ops query",
        (false, _) => "query",
        (true, Charge::Write) => "udf query",
        (true, _) => "aggregation",
    }
}

/// The audit log's description of a request's record: `{namespace|set} [S|key]`, or the digest if the key is not sent.
fn detail_of(request: &Request<'_>, digest: Option<Digest>) -> String {
    let (namespace, set) = place_of(request);
    let text = |name| printable(&String::from_utf8_lossy(name));
    let mut detail = format!("{{{}|{}}}", text(namespace), text(set));
    let key = request.field(field::KEY).and_then(<[u8]>::split_first);
    match (key, digest) {
        (Some((&KEY_STRING, text)), _) => {
            detail.push_str(" [S|");
            let shown: String = String::from_utf8_lossy(text).chars().take(LOGGED_KEY_SIZE_MAX).collect();
            detail.push_str(&printable(&shown));
        }
        (Some((&KEY_INTEGER, number)), _) if number.len() == 8 => {
            let number = number.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            detail.push_str(&format!(" [I|{}", number.cast_signed()));
        }
        (Some((&KEY_BLOB, bytes)), _) => {
            let bytes = bytes.iter().take(LOGGED_KEY_SIZE_MAX / 3);
            let hex: Vec<String> = bytes.map(|byte| format!("{byte:02X}")).collect();
            detail.push_str(&format!(" [B|{}", hex.join(" ")));
        }
        (_, Some(digest)) => {
            detail.push_str(&format!(" [D|{digest}"));
        }
        (_, None) => return detail,
    }
    detail.push(']');
    detail
}

/// Namespace and set of a request.
fn place_of<'a>(request: &Request<'a>) -> (&'a [u8], &'a [u8]) {
    (request.namespace.unwrap_or_default(), request.set_name())
}

/// The user that has logged in; `None` without access control. This check comes before all others of a request.
///
/// # Errors
/// As [`Standing::logged_in`].
#[inline(always)]
pub(super) fn logged_in<'a>(
    standing: Option<&'a Standing>,
    request: &Request<'_>,
) -> Result<Option<LoggedIn<'a>>, ResultCode> {
    let Some(standing) = standing else { return Ok(None) };
    match standing.logged_in() {
        Ok(user) => Ok(Some(user)),
        Err(result) => {
            report_refused(standing, request, result);
            Err(result)
        }
    }
}

#[cold]
fn report_refused(standing: &Standing, request: &Request<'_>, result: ResultCode) {
    let action = if request.info1 & info1::BATCH != 0 {
        "batch"
    } else if request.has_field(field::DIGEST) {
        action_of_single(request)
    } else {
        action_of_query(request)
    };
    standing.report_refused(result, (action, detail_of(request, request.record_digest())));
}

/// Whether a request for the record of `digest` is allowed.
///
/// # Errors
/// As [`LoggedIn::check`].
#[inline(always)]
pub(super) fn check_single(
    user: Option<&LoggedIn<'_>>,
    request: &Request<'_>,
    digest: Option<Digest>,
) -> Result<(), ResultCode> {
    let Some(user) = user else { return Ok(()) };
    let (needed, charge) = needed_by_single(request);
    user.check_data(needed, place_of(request), charge, || {
        (action_of_single(request), detail_of(request, digest))
    })
}

/// Whether a row of a batch is allowed.
///
/// # Errors
/// As [`logged_in`] and [`check_single`].
#[inline(always)]
pub(super) fn check_row(
    standing: Option<&Standing>,
    request: &Request<'_>,
    digest: Digest,
) -> Result<(), ResultCode> {
    check_single(logged_in(standing, request)?.as_ref(), request, Some(digest))
}

/// Checks whether a query is allowed. Returns the permit that is checked again while the query runs; `None` without
/// access control.
///
/// # Errors
/// As [`LoggedIn::check`].
pub(super) fn check_query(
    user: Option<&LoggedIn<'_>>,
    request: &Request<'_>,
) -> Result<Option<Permit>, ResultCode> {
    let Some(user) = user else { return Ok(None) };
    let ((needed, charge), place) = (needed_by_query(request), place_of(request));
    // The query is charged against the quota when its rate is known.
    user.check_data(needed, place, Charge::None, || (action_of_query(request), detail_of(request, None)))?;
    Ok(Some(user.permit(needed, place, charge)))
}

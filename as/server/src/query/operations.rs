//! The work of a query on the records that it finds: operations, or functions.

use datamodel::Budget;
use datamodel::exp::Operation as ExpressionOperation;
use proto::ResultCode;
use proto::message::{Request, field, info1, op_code};

/// Operations that a background query must not have.
const READS: [u8; 5] =
    [op_code::READ, op_code::CDT_READ, op_code::BITS_READ, op_code::HLL_READ, op_code::EXP_READ];

/// Length limit (exclusive) of the names of modules and functions.
const FUNCTION_NAME_SIZE_MAX: usize = 128;

/// The operations of a query.
pub(super) struct Operations {
    /// The message with the operations.
    pub(super) body: Box<[u8]>,
    /// Module and name of the function to apply instead of operations.
    pub(super) function: Option<(String, String)>,
}

impl Operations {
    /// The operations of a request that was parsed from `body`.
    ///
    /// # Errors
    /// `Parameter` if there are none, if some read, or if an expression is invalid.
    pub(super) fn from_request(
        request: &Request<'_>,
        body: &[u8],
        budget: &Budget<'_>,
    ) -> Result<Self, ResultCode> {
        let is_write_only = request.info1 & info1::READ == 0
            && request.op_count() > 0
            && request.ops().all(|op| !READS.contains(&op.code));
        let are_valid = || {
            let mut expressions = request.ops().filter(|op| op.code == op_code::EXP_MODIFY);
            expressions.all(|op| ExpressionOperation::for_modify(op.value, budget).is_ok())
        };
        if is_write_only && are_valid() {
            Ok(Operations { body: body.into(), function: None })
        } else {
            Err(ResultCode::Parameter)
        }
    }

    /// The function named by a request that was parsed from `body`.
    ///
    /// # Errors
    /// `Parameter` if there is none, or its name is too long.
    pub(super) fn function_from_request(request: &Request<'_>, body: &[u8]) -> Result<Self, ResultCode> {
        Ok(Operations { body: body.into(), function: Some(function_names(request)?) })
    }
}

/// The stream function of a query.
pub(super) struct Aggregation {
    pub(super) module: String,
    pub(super) function: String,
    /// A packed list.
    pub(super) arguments: Box<[u8]>,
}

impl Aggregation {
    /// The function named by a request.
    ///
    /// # Errors
    /// `Parameter` if it names none, or its name is too long.
    pub(super) fn from_request(request: &Request<'_>) -> Result<Self, ResultCode> {
        let (module, function) = function_names(request)?;
        let arguments = request.field(field::UDF_ARGUMENTS).unwrap_or_default().into();
        Ok(Aggregation { module, function, arguments })
    }
}

/// Module and name of the function named by a request that also has arguments for it.
///
/// # Errors
/// `Parameter` if one of the three is missing, or a name is too long.
pub(super) fn function_names(request: &Request<'_>) -> Result<(String, String), ResultCode> {
    let name = |number| {
        let name = request.field(number).filter(|name| name.len() < FUNCTION_NAME_SIZE_MAX);
        name.map(|name| String::from_utf8_lossy(name).into_owned()).ok_or(ResultCode::Parameter)
    };
    let names = (name(field::UDF_FILE)?, name(field::UDF_FUNCTION)?);
    request.field(field::UDF_ARGUMENTS).map(|_| names).ok_or(ResultCode::Parameter)
}

//! Result codes of the client protocol.

/// Declares the codes, and the conversion from a number.
macro_rules! result_codes {
    ($($name:ident = $number:literal),+ $(,)?) => {
        /// The code in the `result` byte of a reply, with names and numbers of the protocol.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum ResultCode { $($name = $number),+ }

        impl ResultCode {
            #[must_use]
            pub const fn from_code(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

result_codes! {
    Ok = 0,
    Unknown = 1,
    NotFound = 2,
    Generation = 3,
    Parameter = 4,
    RecordExists = 5,
    BinExists = 6,
    ClusterKeyMismatch = 7,
    OutOfSpace = 8,
    Timeout = 9,
    AlwaysForbidden = 10,
    Unavailable = 11,
    IncompatibleType = 12,
    RecordTooBig = 13,
    KeyBusy = 14,
    QueryAborted = 15,
    UnsupportedFeature = 16,
    BinNotFound = 17,
    DeviceOverload = 18,
    KeyMismatch = 19,
    Namespace = 20,
    BinName = 21,
    Forbidden = 22,
    ElementNotFound = 23,
    ElementExists = 24,
    EnterpriseOnly = 25,
    OpNotApplicable = 26,
    FilteredOut = 27,
    LostConflict = 28,
    SecurityEnd = 50,
    SecurityNotSupported = 51,
    SecurityNotEnabled = 52,
    SecurityScheme = 53,
    SecurityCommand = 54,
    SecurityField = 55,
    SecurityState = 56,
    SecurityUser = 60,
    SecurityUserExists = 61,
    SecurityPassword = 62,
    SecurityPasswordExpired = 63,
    SecurityPasswordForbidden = 64,
    SecurityCredential = 65,
    SecuritySessionExpired = 66,
    SecurityRole = 70,
    SecurityRoleExists = 71,
    SecurityPrivilege = 72,
    SecurityWhitelist = 73,
    SecurityQuotasNotEnabled = 74,
    SecurityQuota = 75,
    NotAuthenticated = 80,
    RoleViolation = 81,
    NotWhitelisted = 82,
    QuotaExceeded = 83,
    LdapNotConfigured = 90,
    UdfExecution = 100,
    BatchDisabled = 150,
    BatchMaxRequests = 151,
    BatchQueuesFull = 152,
    InvalidGeoJson = 160,
    IndexFound = 200,
    IndexNotFound = 201,
    IndexOutOfMemory = 202,
    IndexNotReadable = 203,
    IndexGeneric = 204,
    IndexName = 205,
    IndexMaxCount = 206,
}

impl ResultCode {
    /// The number on the wire.
    #[inline]
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

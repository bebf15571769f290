//! Who we say we are.
//!
//! Tools and clients decide by the build what a server can do, so it is the version whose protocols, files
//! and commands this server speaks.

/// The version of the Aerospike server this one answers as (`build` of the info protocol).
pub const BUILD: &str = "8.0.0.7";

/// The edition (`edition` of the info protocol).
pub const EDITION: &str = "Aerospike Community Edition";

/// The version of Ferrospike itself.
pub const FERROSPIKE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Edition and build as `version` of the info protocol and the first line of the log have them.
#[must_use]
pub fn edition_and_build() -> String {
    format!("{EDITION} build {BUILD}")
}

/// The revision this was built from; the release build sets it.
pub const BUILD_SHA: &str = or_unknown(option_env!("FERROSPIKE_BUILD_SHA"));

/// When that revision was made, as `date` writes it; the release build sets it.
pub const BUILD_TIME: &str = or_unknown(option_env!("FERROSPIKE_BUILD_TIME"));

/// The system it was built for, such as `debian12`; the release build sets it.
pub const BUILD_OS: &str = or_unknown(option_env!("FERROSPIKE_BUILD_OS"));

const fn or_unknown(value: Option<&'static str>) -> &'static str {
    match value {
        Some(value) => value,
        None => "unknown",
    }
}

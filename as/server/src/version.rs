//! Names and versions that the server reports.
//!
//! Tools and clients derive a server's features from its build, so the build is the version of the C server whose
//! protocols, files and commands this server implements.

/// The version of the C server that this server reports (`build` of the info protocol).
pub const BUILD: &str = "8.0.0.7";

/// The edition (`edition` of the info protocol).
pub const EDITION: &str = "Aerospike Community Edition";

/// The version of Ferrospike itself.
pub const FERROSPIKE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Edition and build in the form of `version` of the info protocol and of the first log line.
#[must_use]
pub fn edition_and_build() -> String {
    format!("{EDITION} build {BUILD}")
}

/// The source revision of this build; the release build sets it.
pub const BUILD_SHA: &str = or_unknown(option_env!("FERROSPIKE_BUILD_SHA"));

/// Time of that revision, as `date` writes it; the release build sets it.
pub const BUILD_TIME: &str = or_unknown(option_env!("FERROSPIKE_BUILD_TIME"));

/// The system of this build, such as `debian12`; the release build sets it.
pub const BUILD_OS: &str = or_unknown(option_env!("FERROSPIKE_BUILD_OS"));

const fn or_unknown(value: Option<&'static str>) -> &'static str {
    match value {
        Some(value) => value,
        None => "unknown",
    }
}

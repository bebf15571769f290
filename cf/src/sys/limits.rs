//! The limit on open file descriptors. The server raises it as far as the system allows, and runs with any limit.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the number of file descriptors that this process may open to `wanted`, or as near as the system
/// allows, and returns the new number. The number is never lowered.
///
/// Any user may raise the soft limit up to the hard one; root may raise both.
///
/// # Errors
/// When the limit cannot be read. It is then unknown.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= wanted {
        return Ok(soft);
    }
    if wanted > hard && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    let target = wanted.min(hard);
    // If this is refused (for instance by a sandbox), the soft limit stays.
    let raised = setrlimit(Resource::RLIMIT_NOFILE, target, hard).is_ok();
    Ok(if raised { target } else { soft })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_goes_up_to_what_is_allowed_and_never_down() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise_open_files(1).unwrap(), soft);
        let wanted = (soft + 1).min(hard);
        assert_eq!(raise_open_files(wanted).unwrap(), wanted);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, wanted);
        // More descriptors than the kernel gives to any process.
        let most = raise_open_files(u64::MAX - 1).unwrap();
        assert!(most >= wanted);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, most);
    }
}

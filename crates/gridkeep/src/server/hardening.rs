//! Keeping what is in the memory of the server there: not in a swap area, not in a core dump, not before other processes' eyes.
//!
//! The operators' commands have keys in their memory too, and are closed off as the server is. What the system does not allow is
//! reported and no reason not to start.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Closes the memory of the process to core dumps and to other processes of its user. The first act of the program, before it has
/// read anything: nothing is logged yet, so what could not be done is answered, to be told later.
pub fn close_off() -> Vec<String> {
    let mut troubles = Vec::new();
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        troubles.push(format!("core dumps could not be switched off; a crash could write secrets to the disk: set LimitCORE=0 ({error})"));
    }
    if let Err(error) = prctl::set_dumpable(false) {
        troubles.push(format!(
            "the memory of the program could not be closed to other processes of its user ({error})"
        ));
    }
    troubles
}

/// Locks the memory of the server, now and as it comes into use. Only beyond any limit, that is without one or with the capability
/// `CAP_IPC_LOCK`: otherwise every later allocation past the limit would fail.
pub fn lock() {
    const ADVICE: &str = "the memory of the server is not locked and may be written to a swap area: set LimitMEMLOCK=infinity, or have no swap area that is not encrypted";
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
    let limited = soft != RLIM_INFINITY
        && setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err();
    // With an allowance of nothing only the capability locks. What a user namespace calls by its name does not.
    if limited && let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, 0, hard) {
        tracing::info!(limit = soft, %error, "{ADVICE}");
        return;
    }
    // Pages are locked when they are first touched, so that what is only set aside takes no memory.
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault;
    if let Err(error) = mlockall(flags) {
        tracing::info!(limit = soft, %error, "{ADVICE}");
    }
    // The allowance was ours to lower for the attempt; raising it again up to the hard limit is always allowed.
    if limited && let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard) {
        tracing::info!(limit = soft, %error, "the limit of locked memory could not be put back");
    }
}

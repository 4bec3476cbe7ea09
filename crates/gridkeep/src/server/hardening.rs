//! Keeping what is in the memory of the server there: not in a swap area, not in a core dump, not before other processes' eyes.
//!
//! What the system does not allow is reported and no reason not to start.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Does what can be done.
pub fn apply() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!(%error, "core dumps could not be switched off; a crash could write secrets to the disk: set LimitCORE=0");
    }
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!(%error, "the memory of the server could not be closed to other processes of its user");
    }
    lock();
}

/// Locks the memory, now and as it comes into use. Only without a limit: with one, every later allocation beyond it would fail.
fn lock() {
    const ADVICE: &str = "the memory of the server is not locked and may be written to a swap area: set LimitMEMLOCK=infinity, or have no swap area that is not encrypted";
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_MEMLOCK)
        && soft != RLIM_INFINITY
        && setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err()
    {
        tracing::info!(limit = soft, "{ADVICE}");
        return;
    }
    // Pages are locked when they are first touched, so that what is only set aside takes no memory.
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault;
    if let Err(error) = mlockall(flags) {
        tracing::info!(%error, "{ADVICE}");
    }
}

//! Logging in with the key of an ssh-agent: logging in itself in [`login`], whose key is whose in [`keys`], those in files in
//! [`files`], as they were read last in [`remembered`].
//!
//! A key is bound to a credkey and an issuer. One that was registered with a login at an issuer opens that issuer's credentials and
//! no other's, unless the operator says otherwise. A login's issuer and role are bound to its token; nothing that another login of
//! the same person does changes them. The nonce to sign carries its own proof, so handing one out writes nothing; the login that
//! succeeds with it spends it, in the same commit, for all nodes.

mod files;
mod keys;
mod login;
mod remembered;

use gridkeep_token::time::UnixSeconds;

use crate::records::KeeperRecord;
use crate::setup::Setup;

pub use gridkeep_identity::ssh::{FORMATS as SSH_SIGNATURE_FORMATS, Form as SshSignatureForm};
pub use keys::{RegisterSshKeys, SshKey, SshKeySource, is_name as is_ssh_key_name};
pub use login::{SshChallenge, SshLogin, SshProbe};
pub(crate) use remembered::KeyFiles;

/// Where the API has it.
pub(crate) const SSH_MOUNT: &str = "auth/ssh/";
/// Notes since when ssh logins are off. Tells whether they were off for longer than what was taken out is kept, so that no key of before
/// shall count again.
pub(crate) fn switch(record: &mut KeeperRecord, setup: &Setup, now: UnixSeconds) -> bool {
    if setup.ssh.is_some() {
        let off = record.ssh_off_since.take();
        return off.is_some_and(|since| !setup.still_kept(since, now));
    }
    record.ssh_off_since.get_or_insert(now.0);
    false
}

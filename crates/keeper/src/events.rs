//! Events: who did what to which grant, credential, token or login, when, from where, with what result. History for people; the
//! audit log of a dialect is another view of the same facts.

use std::net::IpAddr;

use gridkeep_token::time::UnixSeconds;
use serde::{Deserialize, Serialize};

use crate::database::{Change, name};
use crate::failure::Failure;
use crate::records::EVENT;

/// How long events are kept, in seconds.
const KEPT: i64 = 90 * 86_400;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: UnixSeconds,
    /// What: `login`, `login_needed`, `bound`, `deleted`, `idle`, `revoked`, `revoked_at_issuer`, `operator_token`,
    /// `keyring_rotated`, `root_key_replaced`.
    pub what: String,
    /// To which thing, by name.
    pub subject: String,
    /// Who: a token's display name, or the keeper itself.
    pub by: String,
    /// From where.
    #[serde(default)]
    pub from: Option<IpAddr>,
    /// With what result, in a sentence.
    #[serde(default)]
    pub detail: String,
}

/// Adds `event` to a change, so that it is stored with what it tells of or not at all.
pub(crate) fn record(change: &mut Change, event: &Event) -> Result<(), Failure> {
    let id = format!("{:012}-{}", event.at.0.max(0), crate::secret::random_id());
    change.put(
        name(EVENT, &[&event.subject, &id]),
        event,
        Some(event.at.0.saturating_add(KEPT)),
    )?;
    Ok(())
}

//! How each member of etcd is, for whoever looks for the reason why the store does not answer.

use std::sync::Arc;
use std::time::Duration;

use super::Settings;
use super::proto::{STATUS, StatusRequest, StatusResponse};
use super::rpc::Rpc;
use super::trouble::{Tells, Trouble};
use crate::StoreError;

/// How long a member may take to answer.
const ASK: Duration = Duration::from_secs(3);

/// A member as it was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberHealth {
    /// Its address in the configuration.
    pub endpoint: String,
    /// Version and what it complains of; or why it did not answer.
    pub state: Result<MemberState, String>,
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    /// Version of etcd; empty where it has no leader and says nothing else.
    pub version: String,
    /// Whether it knows a leader; without one nothing can be written.
    pub has_leader: bool,
    /// Alarms and the like, in etcd's words.
    pub complaints: Vec<String>,
}

/// Asks every member how it is, over the connection that a store there would use. Changes nothing.
///
/// # Errors
/// [`StoreError::Connection`] if an endpoint or a file of TLS can not be used.
pub async fn health(settings: &Settings) -> Result<Vec<MemberHealth>, StoreError> {
    settings.check()?;
    if let Some(tls) = &settings.tls {
        tls.load()?;
    }
    let rpc = Rpc::new(&settings.endpoints, settings.tls.clone().map(Arc::new))?;
    let mut members = Vec::new();
    for (index, endpoint) in settings.endpoints.iter().enumerate() {
        let answer = rpc
            .call_member::<_, StatusResponse>(index, STATUS, &StatusRequest {}, ASK)
            .await;
        members.push(MemberHealth {
            endpoint: endpoint.clone(),
            state: match answer {
                Ok(status) => Ok(MemberState {
                    version: status.version,
                    has_leader: status.leader != 0,
                    complaints: status.errors,
                }),
                // It answers, and without a leader that is all it says.
                Err(Trouble::NotDone(cause)) if cause.tells == Tells::NoLeader => Ok(MemberState {
                    version: String::new(),
                    has_leader: false,
                    complaints: Vec::new(),
                }),
                Err(Trouble::NotDone(cause) | Trouble::Lost(cause) | Trouble::Refused(cause)) => {
                    Err(cause.what)
                }
                Err(other) => Err(other.into_error(endpoint).to_string()),
            },
        });
    }
    Ok(members)
}

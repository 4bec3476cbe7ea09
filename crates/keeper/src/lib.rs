//! The domain of gridkeep: issuers and roles, grants, credentials, keeper tokens, rules, login sessions and events.
//!
//! Owns what may be done with a credential, by whom, and how a refresh token is kept from being lost. Refuses to know HTTP,
//! HTML, YAML and status codes: every call answers with a value or with one of the failures of [`failure`], which a dialect
//! translates. The three things a caller wants first:
//!
//! * [`Keeper::open`] with a store and a [`setup::Setup`];
//! * [`Keeper::authenticate`] and [`Keeper::authorize`] for every request;
//! * [`Keeper::read`], the access token of a credential.
//!
//! A new thing that is kept gets its record in [`records`], its operations in a module of its own, and its failures as
//! variants in [`failure`].

pub mod clock;
pub mod cluster;
pub mod failure;
pub mod policy;
pub mod records;
pub mod secret;
pub mod setup;

mod anchors;
mod background;
mod census;
mod credentials;
mod crowd;
mod database;
mod delegation;
mod events;
mod exchange;
mod grants;
mod keeper;
mod keys;
mod login;
mod measure;
mod network;
mod overview;
mod rate_limits;
mod recurring;
mod refresh;
mod rekey;
mod removed;
mod revocation;
mod spool;
mod ssh;
mod terms;
mod tokens;
mod uses;

pub use anchors::{AuditAnchor, AuditEvidence};
pub use cluster::Peer;
pub use credentials::{
    AccessToken, CredentialName, Holders, NamesPage, NamesWanted, PutCredential, Want,
};
pub use crowd::{Crowd, CrowdLimits, network};
pub use delegation::{Delegate, Delegated, Delegation, Holder, UseLimits};
pub use events::Event;
pub use failure::{BadInput, Failure, Later, LaterKind, Refused};
pub use gridkeep_store::Shares;
pub use gridkeep_token::time::{Seconds, UnixSeconds};
pub use keeper::{ClusterIdentity, FLIGHT, Keeper, KeeperOptions, Mount};
pub use keys::KeyStatus;
pub use login::{
    Callback, CallbackOutcome, KerberosMount, Login, LoginStart, LoginStarted, Poll, PollOutcome,
    TicketLogin,
};
pub use measure::describe_metrics;
pub use network::{Network, NotANetwork};
pub use overview::{CredentialDetails, Excerpt, GrantDetails, PendingRevocations};
pub use policy::{Granted, Operation, Policy, PolicyWrite};
pub use rate_limits::{CountedBy, RateLimit, RateLimitOptions, RateLimitTable};
pub use records::{Identity, KeeperToken};
pub use rekey::{NewShares, RekeyAttempt, RekeyRefused, RekeyStatus};
pub use secret::{TokenId, random_uuid};
pub use setup::{
    CallbackMode, IssuerSetup, KeepAlive, KerberosSetup, LeftOut, Lifetimes, Limits, OperatorRule,
    RobotRule, RoleSetup, Setup, SshSetup,
};
pub use ssh::{
    RegisterSshKeys, SSH_SIGNATURE_FORMATS, SshChallenge, SshKey, SshKeySource, SshLogin, SshProbe,
    SshSignatureForm, is_ssh_key_name,
};
pub use terms::{BoundClaim, ClaimName, LoginTerms};
pub use tokens::{Bearer, CreateToken, Issued, Kin, Renewed, TokenRole};

#[cfg(test)]
mod tests;

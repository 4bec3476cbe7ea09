//! Why something was not done: refused for ever, refused for now, or asked for wrongly.
//!
//! The distinction is the point: stock credential monitors delete a user's tokens when they read the words of a final
//! refusal, so [`Refused`] is built only on proof, and whatever may heal by itself is a [`Later`].

use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

/// The outcome of a call that did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// Refused for ever, on proof.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Refused for now: the same request may succeed later.
    #[error(transparent)]
    Later(#[from] Later),
    /// The request itself is wrong.
    #[error(transparent)]
    BadInput(#[from] BadInput),
    /// Nothing is stored under that name.
    #[error("nothing is stored under that name")]
    NotFound,
}

impl Failure {
    /// What kind of trouble it is, where it may pass.
    #[must_use]
    pub fn later_kind(&self) -> Option<LaterKind> {
        match self {
            Self::Later(later) => Some(later.kind),
            Self::Refused(_) | Self::BadInput(_) | Self::NotFound => None,
        }
    }
}

/// A refusal that repeating will not change.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// The secret was not issued here: it is missing, cannot be parsed, or its MAC is wrong.
    #[error("the token was not issued by this service")]
    UnknownToken,
    /// The token or one of its ancestors was revoked.
    #[error("the token was revoked")]
    TokenRevoked,
    /// The token or one of its ancestors is expired beyond the tolerance for clocks.
    #[error("the token is expired")]
    TokenExpired,
    /// The token may not be used from the caller's address.
    #[error("the token may not be used from this address")]
    WrongAddress,
    /// A look-up or renewal of somebody else's token named one that is not ours.
    #[error("bad token")]
    BadTokenForLookup,
    /// A live token whose policies do not cover the path.
    #[error("the policies of this token do not allow {operation} on {path}")]
    Policy {
        /// What was asked: `read`, `update` …
        operation: &'static str,
        /// The path as the policy sees it.
        path: String,
    },
    /// The ssh key is not registered for who it was shown for.
    #[error("the ssh key is not registered for this name and issuer, or has expired")]
    SshKey,
    /// The token issuer refused the refresh token for good.
    #[error("the token issuer refuses this login for good ({error}{}): {cause}. Log in again", description.as_ref().map(|d| format!(": {d}")).unwrap_or_default())]
    GrantDead {
        /// The OAuth error code of the issuer.
        error: String,
        /// The issuer's own description, when it gave one.
        description: Option<String>,
        /// What is known about why.
        cause: String,
    },
}

/// What kind of trouble stands behind a [`Later`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaterKind {
    /// The store cannot be read or written.
    Store,
    /// The store has no room left.
    StoreFull,
    /// The token issuer does not answer or answers with a fault.
    IssuerDown,
    /// The token issuer has not answered within the waiter's time; the request goes on.
    IssuerSlow,
    /// Our own budget or breaker holds requests to the issuer back.
    IssuerThrottled,
    /// The clock jumped and is not trusted yet.
    ClockDoubtful,
    /// A token of ours has no record: the store may be behind or restored.
    TokenRecordMissing,
    /// The issuer was taken out of the configuration not long ago.
    IssuerRemoved,
    /// The role was taken out of the configuration not long ago.
    RoleRemoved,
    /// The way the token was logged in by was taken out of the configuration not long ago.
    LoginRemoved,
    /// The issuer or role is left out because of an error in its configuration.
    LeftOut,
    /// Too many logins are under way.
    TooManyLogins,
    /// The server is stopping.
    ShuttingDown,
}

/// Trouble that may pass.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}")]
pub struct Later {
    /// What kind it is.
    pub kind: LaterKind,
    /// A full sentence: what happened, what it means, what to do.
    pub what: String,
    /// How long to wait before asking again, where that is known.
    pub retry_after: Option<Duration>,
}

impl Later {
    /// Trouble of `kind`, told in one sentence.
    pub fn new(kind: LaterKind, what: impl Into<String>) -> Self {
        Later {
            kind,
            what: what.into(),
            retry_after: None,
        }
    }

    /// The same with a time to wait.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

/// A request that is wrong in itself. `Display` is the text a client of the Vault API meets.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the text of each variant says what it is")]
pub enum BadInput {
    #[error(
        "no issuer \"{issuer}\" is configured on this server; check the issuer name (htgettoken -i)"
    )]
    UnknownIssuer { issuer: String },
    #[error("role \"{role}\" could not be found")]
    UnknownRole { role: String },
    #[error(transparent)]
    Rekey(crate::rekey::RekeyRefused),
    #[error("{what}")]
    RootKeyReplaced { what: String },
    #[error("missing role")]
    MissingRole,
    #[error("missing client_nonce")]
    MissingClientNonce,
    #[error("missing redirect_uri")]
    MissingRedirectUri,
    #[error("OpenBao login failed. Expired or missing OAuth state.")]
    LoginExpired,
    #[error("invalid client_nonce")]
    WrongNonce,
    #[error("authorization failed: {code}")]
    LoginFailed { code: String },
    #[error("OpenBao login failed. claim \"{claim}\" not found in token")]
    MissingClaim { claim: String },
    #[error("OpenBao login failed. claim \"{claim}\" could not be converted to string")]
    ClaimNotString { claim: String },
    #[error(
        "OpenBao login failed. The value of claim \"{claim}\" cannot be used as a credential key: {why}"
    )]
    ClaimUnusable { claim: String, why: &'static str },
    #[error(
        "OpenBao login failed. error validating claims: claim \"{claim}\" does not match any associated bound claim values; role \"{role}\" is for others; ask the operators of this server"
    )]
    ClaimNotBound { claim: String, role: String },
    #[error(
        "role \"{role}\" may be used from certain addresses only; {} is none of them",
        from.map_or_else(|| "an unknown one".to_owned(), |from| from.to_string())
    )]
    AddressNotAllowed { role: String, from: Option<IpAddr> },
    #[error("Token verification failed. No id_token found in response.")]
    NoIdToken,
    #[error("Token verification failed. {what}")]
    TokenVerification { what: String },
    #[error("missing server (consider configuring a default server)")]
    MissingServer,
    #[error(
        "server \"{server}\" has configuration problems: server configuration does not exist (was it deleted?)"
    )]
    UnknownServer { server: String },
    #[error("server \"{server}\" does not match issuer \"{issuer}\" of the credential's name")]
    ServerMismatch { server: String, issuer: String },
    #[error("missing refresh_token")]
    MissingRefreshToken,
    #[error("unknown grant_type \"{grant_type}\"; this server stores refresh tokens only")]
    UnknownGrantType { grant_type: String },
    #[error(
        "the refresh token handle is unknown, belongs to another login or is older than 15 minutes; log in again"
    )]
    UnknownHandle,
    #[error("credential name \"{name}\" is not of the form issuer/credkey:role")]
    BadName { name: String },
    #[error(
        "{operation} failed: server rejected request: {error}{}",
        detail(description, uri)
    )]
    IssuerRejected {
        operation: &'static str,
        error: String,
        description: Option<String>,
        uri: Option<String>,
    },
    #[error("{operation} failed: {what}")]
    IssuerCannot {
        operation: &'static str,
        what: String,
    },
    #[error(
        "exchange failed: the issuer gave more than was asked for ({extra}); the token was discarded"
    )]
    TooWide { extra: String },
    #[error("token expired: {what}")]
    Expired { what: String },
    #[error("root or sudo privileges required to specify token id")]
    IdNeedsSudo,
    #[error(
        "client-chosen token ids are not supported: every token of this server carries its own proof of origin"
    )]
    IdUnsupported,
    #[error("root or sudo privileges required to create orphan token")]
    OrphanNeedsSudo,
    #[error("root or sudo privileges required to create periodic token")]
    PeriodNeedsSudo,
    #[error("child policies must be subset of parent")]
    PoliciesNotSubset,
    #[error("root tokens may not be created without parent token being root")]
    RootNeedsRoot,
    #[error("restricted use token cannot generate child tokens")]
    RestrictedUse,
    #[error("token type \"{kind}\" is not supported: use type service")]
    UnsupportedTokenType { kind: String },
    #[error("number of uses cannot be negative")]
    NegativeUses,
    #[error("a token can have at most {limit} ancestors")]
    TooDeep { limit: usize },
    #[error("token not found")]
    TokenNotFound,
    #[error("lease is not renewable")]
    NotRenewable,
    #[error("past the max TTL, cannot renew")]
    PastMaxTtl,
    #[error("original token role \"{role}\" could not be found, not renewing")]
    TokenRoleGone { role: String },
    #[error("unknown role {role}")]
    UnknownTokenRole { role: String },
    #[error("invalid lease ID")]
    InvalidLease,
    #[error(
        "\"{cidr}\" is not an address or an address range such as 192.0.2.0/24 or 2001:db8::/32"
    )]
    AddressRange { cidr: String },
    #[error("the address range \"{cidr}\" is not within those of the parent token ({})", parent.join(", "))]
    AddressRangeWider { cidr: String, parent: Vec<String> },
    #[error(
        "{what} \"{wanted}\" is beyond what was delegated, which is: {allowed}; ask the owner of the credential for more"
    )]
    BeyondDelegation {
        what: &'static str,
        wanted: String,
        allowed: String,
    },
    #[error(
        "no principal \"{to}\" is known by that form; name a login mount of this server and who logs in there, such as oidc-dune/bob"
    )]
    UnknownPrincipal { to: String },
    #[error(
        "only those whom gridkeep.robots names may give a token that is renewed without end; leave the period out, or ask the operators of this server"
    )]
    PeriodNeedsRobotRule,
    #[error("missing accessor")]
    MissingAccessor,
    #[error("invalid accessor")]
    InvalidAccessor,
    #[error("missing token ID")]
    MissingTokenId,
    #[error("token to revoke not found")]
    RevokeTargetNotFound,
    #[error("cannot delete default policy")]
    CannotDeleteDefaultPolicy,
    #[error("cannot delete \"root\" policy")]
    CannotChangeRootPolicy,
    #[error(
        "policy \"{name}\" is built in: it can neither be changed nor removed; write one of another name beside it"
    )]
    BuiltinPolicy { name: String },
    #[error(
        "policy \"{name}\" follows from the configuration files of {} and cannot be changed by API; change the files there and reload", server(node.as_ref())
    )]
    PolicyFromFiles {
        name: String,
        /// The node of the cluster whose files they are; `None`: this server.
        node: Option<String>,
    },
    #[error("check-and-set parameter did not match the current version")]
    CasMismatch,
    #[error("check-and-set parameter required for this call")]
    CasMissing,
    #[error(
        "{what} follows from the configuration files of {} and cannot be changed by API; change {key} there and reload", server(node.as_ref())
    )]
    FromFiles {
        what: String,
        key: String,
        /// The node of the cluster whose files they are; `None`: this server.
        node: Option<String>,
    },
    #[error("quota rule with similar properties exists under the name \"{name}\"")]
    SimilarRateLimit { name: String },
    #[error("nonce time expired or invalid")]
    SshNonce,
    #[error("could not load configuration")]
    SshNotConfigured,
    #[error("this key stands in the file {file} of this server, and is to be taken out there")]
    SshKeyInFile { file: String },
    #[error("failed to parse policy: {text}")]
    PolicySyntax { text: String },
    #[error("{0}")]
    Other(String),
}

fn server(node: Option<&String>) -> String {
    node.map_or("this server".to_owned(), |node| format!("node {node}"))
}

fn detail(description: &Option<String>, uri: &Option<String>) -> String {
    let mut text = String::new();
    if let Some(description) = description {
        text.push_str(": ");
        text.push_str(description);
    }
    if let Some(uri) = uri {
        text.push_str(&format!(" (see {uri})"));
    }
    text
}

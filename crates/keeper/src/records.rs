//! What the store holds for the keeper: one kind per sort of record, and the structures inside.
//!
//! Fields are only ever added, with a default, so that an older record can be read by a newer program.

use std::collections::BTreeMap;
use std::fmt;

use gridkeep_store::Kind;
use gridkeep_token::time::{Seconds, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::clock::TOLERANCE_SECONDS;
use crate::delegation::UseLimits;
use crate::secret::TokenId;

pub(crate) const TOKEN: Kind = Kind(1);
pub(crate) const ACCESSOR: Kind = Kind(2);
pub(crate) const POLICY: Kind = Kind(3);
pub(crate) const CREDENTIAL: Kind = Kind(4);
pub(crate) const GRANT: Kind = Kind(5);
pub(crate) const INTENT: Kind = Kind(6);
pub(crate) const EXCHANGED: Kind = Kind(7);
pub(crate) const LOGIN: Kind = Kind(8);
pub(crate) const HANDLE: Kind = Kind(9);
pub(crate) const EVENT: Kind = Kind(10);
pub(crate) const DUE: Kind = Kind(11);
pub(crate) const REVOCATION: Kind = Kind(12);
pub(crate) const KEEPER: Kind = Kind(13);
pub(crate) const BROUGHT: Kind = Kind(14);
pub(crate) const AUDIT_ANCHOR: Kind = Kind(30);
pub(crate) const PROOF: Kind = Kind(31);
pub(crate) const TOKEN_ROLE: Kind = Kind(40);
pub(crate) const DELEGATION: Kind = Kind(41);
pub(crate) const NAMED: Kind = Kind(42);
pub(crate) const HELD: Kind = Kind(43);
pub(crate) const NODE: Kind = Kind(90);
/// The mark that is written along with every policy.
pub(crate) const POLICIES: Kind = Kind(91);
pub(crate) const CONFIGURATION: Kind = Kind(92);
pub(crate) const SSH_KEYS: Kind = Kind(20);
pub(crate) const SSH_NONCE: Kind = Kind(21);

/// How long a dead token's record stays, so that its death can be proven.
pub(crate) const TOMBSTONE: i64 = 40 * 86_400;

/// Who a token speaks for: an alias on a login mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Accessor of the login mount.
    pub mount_accessor: String,
    /// The alias, for an OIDC login the owner key.
    pub alias: String,
    /// Facts about this login that policies may refer to.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// A keeper token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperToken {
    /// Its id.
    pub id: TokenId,
    /// A name for it that gives no power.
    pub accessor: String,
    /// Names of its policies, sorted.
    pub policies: Vec<String>,
    /// Free facts, shown at look-up.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// A name for people.
    pub display_name: String,
    /// The path of the request that made it.
    pub path: String,
    /// The token it was made with, unless it is an orphan.
    #[serde(default)]
    pub parent: Option<TokenId>,
    /// All tokens whose death is its death, nearest first.
    #[serde(default)]
    pub ancestors: Vec<TokenId>,
    /// Whether it has no parent.
    pub orphan: bool,
    /// When it was made.
    pub created_at: UnixSeconds,
    /// The fraction of that second.
    #[serde(default)]
    pub created_nanos: u32,
    /// The life it was given.
    pub creation_ttl: Seconds,
    /// When it ends; `None` for a root token.
    pub expires_at: Option<UnixSeconds>,
    /// A hard end counted from its making; 0 = none.
    #[serde(default)]
    pub explicit_max_ttl: Seconds,
    /// Each renewal gives it this long, without limit; 0 = not periodic.
    #[serde(default)]
    pub period: Seconds,
    /// How many uses it has left; 0 = no limit.
    #[serde(default)]
    pub num_uses: u64,
    /// Whether it may be renewed.
    pub renewable: bool,
    /// Identifier of the identity.
    #[serde(default)]
    pub entity: Option<String>,
    /// When it was last renewed.
    #[serde(default)]
    pub last_renewal: Option<UnixSeconds>,
    /// Who it speaks for.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// Addresses it may be used from, as CIDR; empty = anywhere.
    #[serde(default)]
    pub bound_cidrs: Vec<String>,
    /// How far it may use credentials, besides its policies; `None` = as they say.
    #[serde(default)]
    pub limits: Option<UseLimits>,
    /// The token role it was made by.
    #[serde(default)]
    pub role: Option<String>,
    /// Set once it was revoked.
    #[serde(default)]
    pub revoked: Option<Revoked>,
}

impl KeeperToken {
    /// Whether it was made with another token, and not by a login.
    pub fn is_child(&self) -> bool {
        self.path.starts_with("auth/token/create")
    }

    /// The key under which the credentials of the person it speaks for are stored.
    pub fn credkey(&self) -> Option<&str> {
        // A child has what whoever made it put there.
        let told = self.meta.get("credkey").map(String::as_str);
        told.filter(|key| !key.is_empty() && !self.is_child())
            .or_else(|| Some(self.identity.as_ref()?.alias.as_str()))
    }

    /// Seconds left at `now`; 0 for a token without end.
    pub fn ttl(&self, now: UnixSeconds) -> Seconds {
        self.expires_at.map_or(Seconds(0), |end| {
            Seconds((end.0 - now.0).max(0).unsigned_abs())
        })
    }
}

/// The death of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// When.
    pub at: UnixSeconds,
    /// Whether its children live on as orphans.
    #[serde(default)]
    pub children_survive: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AccessorRecord {
    pub token: TokenId,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PolicyRecord {
    pub text: String,
    pub version: u64,
    #[serde(default)]
    pub allow_slashes: bool,
    #[serde(default)]
    pub allow_wildcards: bool,
    #[serde(default)]
    pub cas_required: bool,
    #[serde(default)]
    pub expires_at: Option<UnixSeconds>,
    pub modified: UnixSeconds,
}

/// A name that points to a grant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CredentialRecord {
    pub grant: String,
    pub created_at: UnixSeconds,
    /// Display name of the token that bound it.
    pub bound_by: String,
    /// Issuer URL and client id at the time: the grant is never shown to another.
    pub issuer_url: String,
    pub client_id: String,
    /// Scopes the role asked for at that time.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// One login at an issuer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GrantRecord {
    pub id: String,
    pub issuer: String,
    pub issuer_url: String,
    pub client_id: String,
    #[serde(default)]
    pub subject: Option<String>,
    /// Counts the refresh tokens this grant has had.
    pub generation: u64,
    pub created_at: UnixSeconds,
    pub refreshed_at: UnixSeconds,
    pub used_at: UnixSeconds,
    /// Names of the credentials that point here, as `issuer/owner:role`.
    #[serde(default)]
    pub references: Vec<String>,
    pub state: GrantState,
    /// The grant key, wrapped for each way to open it.
    pub slots: Vec<Slot>,
    /// [`GrantSecrets`] under the grant key, base64.
    pub sealed: String,
    /// Day (since the epoch) under which it stands in the keep-alive index.
    #[serde(default)]
    pub due: Option<i64>,
    /// A refresh may have been acted on at the issuer without its answer having arrived.
    #[serde(default)]
    pub answer_lost: Option<AnswerLost>,
    /// Fingerprint of the refresh token a client brought, when the grant did not come from a login of ours.
    #[serde(default)]
    pub brought: Option<String>,
    /// Name of the credential it was first brought for, as `issuer/owner:role`.
    #[serde(default)]
    pub brought_for: Option<String>,
    /// What of the secrets may be told without opening them; absent where the record was written before that was noted.
    #[serde(default)]
    pub ends: Option<GrantEnds>,
}

/// What a grant has, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GrantEnds {
    /// Whether there is a refresh token.
    pub refreshable: bool,
    /// The end that the refresh token names itself.
    pub refresh: Option<UnixSeconds>,
    /// When the access token at hand ends.
    pub access: Option<UnixSeconds>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnswerLost {
    pub at: UnixSeconds,
    pub node: String,
    pub how: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(crate) enum GrantState {
    Live,
    Dead {
        at: UnixSeconds,
        error: String,
        description: Option<String>,
        cause: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Slot {
    /// `server`, or `token <id>`.
    pub opener: String,
    /// The grant key, sealed, base64.
    pub wrapped: String,
}

/// What only the holder of a slot sees.
#[derive(Clone, Default, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub(crate) struct GrantSecrets {
    pub refresh_token: Option<String>,
    /// Tokens that were received but lost a race, and the one before the present: tried before the grant is called dead.
    #[serde(default)]
    pub alternates: Vec<String>,
    pub access: Option<CachedToken>,
}

impl fmt::Debug for GrantSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantSecrets")
            .field("refreshable", &self.refresh_token.is_some())
            .field("alternates", &self.alternates.len())
            .field("access", &self.access)
            .finish()
    }
}

/// An access token and its life.
#[derive(
    Clone, PartialEq, Eq, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop,
)]
pub(crate) struct CachedToken {
    pub token: String,
    pub token_type: String,
    pub issued_at: i64,
    pub expires_at: Option<i64>,
    #[serde(default)]
    pub scope: Option<String>,
}

impl fmt::Debug for CachedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedToken")
            .field("token_type", &self.token_type)
            .field("issued_at", &self.issued_at)
            .field("expires_at", &self.expires_at)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl CachedToken {
    /// Whether it lives for at least `minimum` more seconds at `now`. One from the future was dated by a clock that was wrong, so
    /// its end is not known.
    pub fn lasts(&self, now: UnixSeconds, minimum: Seconds) -> bool {
        self.expires_at.is_none_or(|end| {
            self.issued_at - now.0 <= TOLERANCE_SECONDS
                && end - now.0 >= i64::try_from(minimum.0).unwrap_or(i64::MAX)
        })
    }

    /// Whether it is as good as a new one although it lives shorter than `minimum`: more than 90 % of its life is left, and all
    /// of that life would not be enough.
    pub fn is_all_there_is(&self, now: UnixSeconds, minimum: Seconds) -> bool {
        self.is_fresh(now) && !self.lived_for(minimum)
    }

    /// Whether its whole life, whatever is left of it, is at least `minimum`.
    pub fn lived_for(&self, minimum: Seconds) -> bool {
        self.expires_at
            .is_none_or(|end| end - self.issued_at >= i64::try_from(minimum.0).unwrap_or(i64::MAX))
    }

    fn is_fresh(&self, now: UnixSeconds) -> bool {
        self.expires_at
            .is_none_or(|end| (end - now.0) * 10 > (end - self.issued_at) * 9)
    }
}

/// Written before a refresh token is sent: who sends which generation, and until when nobody else may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    pub id: String,
    #[serde(default)]
    pub grant: String,
    pub generation: u64,
    pub node: String,
    /// Start of the node's process, so that a restarted node knows its own dead flights.
    pub process: String,
    pub started_at: UnixSeconds,
    pub deadline: UnixSeconds,
}

impl Intent {
    /// How long nobody else may take over.
    pub fn span(&self) -> std::time::Duration {
        let seconds = (self.deadline.0 - self.started_at.0).max(0);
        std::time::Duration::from_secs(seconds.unsigned_abs())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExchangedRecord {
    /// [`CachedToken`] under the grant key, base64.
    pub sealed: String,
}

/// A login under way.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct LoginRecord {
    pub issuer: String,
    /// What the issuer was at the start of the login: a code is never shown to another.
    #[serde(default)]
    pub issuer_url: String,
    #[serde(default)]
    pub client_id: String,
    pub role: String,
    pub client_nonce: String,
    pub started_at: UnixSeconds,
    pub deadline: UnixSeconds,
    pub from: Option<std::net::IpAddr>,
    pub step: LoginStep,
}

impl fmt::Debug for LoginRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginRecord")
            .field("issuer", &self.issuer)
            .field("role", &self.role)
            .field("deadline", &self.deadline)
            .field("from", &self.from)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "at")]
pub(crate) enum LoginStep {
    Device {
        device_code: String,
        interval: u64,
        /// When a node of the cluster may ask the issuer next, in milliseconds since 1970.
        #[serde(default)]
        next_ms: i64,
    },
    Code {
        redirect_uri: String,
        code_verifier: String,
        nonce: String,
    },
    /// The code was taken by one callback and is being redeemed.
    Redeeming,
    Failed {
        code: String,
    },
    Ready {
        login: Box<ReadyLogin>,
    },
}

impl fmt::Debug for LoginStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoginStep::Device { interval, .. } => write!(f, "Device(every {interval} s)"),
            LoginStep::Code { redirect_uri, .. } => write!(f, "Code({redirect_uri})"),
            LoginStep::Redeeming => f.write_str("Redeeming"),
            LoginStep::Failed { code } => write!(f, "Failed({code})"),
            LoginStep::Ready { login } => write!(f, "Ready({})", login.owner),
        }
    }
}

/// A login that the issuer has confirmed and the client has not picked up yet.
#[derive(Clone, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub(crate) struct ReadyLogin {
    pub owner: String,
    pub subject: Option<String>,
    /// The rule of the configuration that makes the person an operator.
    #[serde(default)]
    pub operator_rule: Option<String>,
    /// The rules of the configuration that let the person care for robots.
    #[serde(default)]
    pub robot_rules: Vec<String>,
    pub refresh_token: Option<String>,
    pub access: CachedToken,
}

impl fmt::Debug for ReadyLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyLogin")
            .field("owner", &self.owner)
            .field("subject", &self.subject)
            .field("refreshable", &self.refresh_token.is_some())
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// What a `gkh.` handle stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HandleRecord {
    pub grant: String,
    pub issuer: String,
    pub role: String,
    pub owner: String,
    pub login_token: TokenId,
    pub expires_at: UnixSeconds,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RevocationRecord {
    pub since: UnixSeconds,
    pub attempts: u32,
    /// Only forget the grant: its refresh token was brought by a client, who may still hold and use it.
    #[serde(default)]
    pub forget: bool,
}

/// Where a refresh token that a client brought lies: named by its fingerprint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BroughtRecord {
    pub grant: String,
}

/// The ssh keys of one credkey, at whichever issuers. Named by the credkey in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SshKeysRecord {
    pub keys: Vec<SshKeyRecord>,
}

/// One registered ssh key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SshKeyRecord {
    /// `type base64`.
    pub line: String,
    /// What its owner calls it.
    #[serde(default)]
    pub comment: String,
    /// The credkey, in the spelling under which its credentials are stored.
    pub owner: String,
    /// The issuer whose credentials it opens; `None` = those of all, as an administrator said.
    #[serde(default)]
    pub issuer: Option<String>,
    pub added_at: UnixSeconds,
    /// Display name of the token it was registered with.
    pub added_by: String,
    /// When it stops to count.
    #[serde(default)]
    pub expires_at: Option<UnixSeconds>,
    /// A login with it, not necessarily the last one: noted once a day.
    #[serde(default)]
    pub used_at: Option<UnixSeconds>,
}

/// A nonce that a login was made with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SpentNonceRecord {
    pub at: UnixSeconds,
}

/// A proof by a ticket that was used, named by the fingerprint of its authenticator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProofRecord {
    pub at: UnixSeconds,
}

/// The keeper's own state: one record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeeperRecord {
    pub cluster_id: String,
    /// The latest wall-clock time seen.
    pub high_water: i64,
    /// Issuers taken out of the configuration, and when.
    #[serde(default)]
    pub removed_issuers: BTreeMap<String, i64>,
    /// Issuers that were configured last.
    #[serde(default)]
    pub issuers: Vec<String>,
    /// Since when logging in with ssh keys is switched off.
    #[serde(default)]
    pub ssh_off_since: Option<i64>,
    /// Roles of issuers that stay, taken out of the configuration, and when; as `issuer/role` in lower case.
    #[serde(default)]
    pub removed_roles: BTreeMap<String, i64>,
    /// Roles that were configured last.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Issuers that had Kerberos logins last.
    #[serde(default)]
    pub kerberos: Vec<String>,
    /// Issuers whose Kerberos logins were taken out of the configuration, and when.
    #[serde(default)]
    pub removed_kerberos: BTreeMap<String, i64>,
    /// Level in which records are written.
    #[serde(default = "first_level")]
    pub level: u16,
    /// Whether the names of all credentials are indexed by person.
    #[serde(default)]
    pub names_indexed: bool,
    /// Whether all tokens are indexed by person.
    #[serde(default)]
    pub tokens_indexed: bool,
    /// Since when records are sealed under the newest data key.
    #[serde(default)]
    pub data_key: Option<DataKeySince>,
}

/// A data key and when it was first in use, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataKeySince {
    pub generation: u32,
    pub at: UnixSeconds,
}

fn first_level() -> u16 {
    1
}

/// The configuration that all nodes share.
#[derive(Clone, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub(crate) struct ConfigurationRecord {
    pub version: u64,
    pub digest: String,
    pub by: String,
    #[zeroize(skip)]
    pub at: UnixSeconds,
    pub text: String,
}

#[cfg(test)]
mod tests;

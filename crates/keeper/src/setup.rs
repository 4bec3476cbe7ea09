//! What the operator configured, as the keeper needs it. Where it was read from is nobody's business here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use gridkeep_identity::kerberos::AcceptTickets;
use gridkeep_issuer::TokenIssuer;
use gridkeep_token::time::Seconds;

use crate::rate_limits::RateLimit;
use crate::terms::LoginTerms;

/// Longest life of a token, in seconds: 672 hours, the system limit that clients of the original count on.
pub const SYSTEM_MAX_TTL: Seconds = Seconds(2_419_200);

/// How long an issuer is believed to keep an unused refresh token: 30 days, what INDIGO IAM does.
pub const ISSUER_KEEPS: Seconds = Seconds(30 * 86_400);

/// How a person logs in at an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackMode {
    /// RFC 8628: the person types a code at the issuer.
    Device,
    /// Authorization code returning to this server, with a confirmation page.
    Direct,
    /// The same without the confirmation page.
    NoConfirm,
}

/// One role of an issuer: a name for a list of scopes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleSetup {
    /// The role's name with the operator's spelling; compared without regard to case.
    pub name: String,
    /// The scopes asked for at login, without `openid`, which is always added in front.
    pub scopes: Vec<String>,
    /// The claim whose value is the owner key for this role, where it differs from the issuer's.
    pub credclaim: Option<String>,
    /// For whom it is, and what its logins get.
    pub terms: LoginTerms,
}

/// One configured token issuer.
#[derive(Clone)]
pub struct IssuerSetup {
    /// The name users give with `htgettoken -i`.
    pub name: String,
    /// The issuer's URL, to the letter.
    pub url: String,
    /// Our client id there.
    pub client_id: String,
    /// How to talk to it.
    pub client: Arc<dyn TokenIssuer>,
    /// How people log in.
    pub callback_mode: CallbackMode,
    /// The claim whose value is the owner key.
    pub credclaim: String,
    /// Whether `credclaim`, here and in roles, is a JSON pointer; else it is a name at the top.
    pub credclaim_pointer: bool,
    /// Its roles.
    pub roles: Vec<RoleSetup>,
    /// Whether a login made with other scopes than its role has today is refused until it is made anew.
    pub reauth_on_scope_change: bool,
    /// How long it keeps a refresh token that is not used; `None` = as [`KeepAlive::issuer_keeps`] says.
    pub refresh_token_life: Option<Seconds>,
}

impl IssuerSetup {
    /// The role called `name`, whatever its case.
    pub fn role(&self, name: &str) -> Option<&RoleSetup> {
        self.roles
            .iter()
            .find(|role| role.name.eq_ignore_ascii_case(name))
    }
}

impl std::fmt::Debug for IssuerSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuerSetup")
            .field("name", &self.name)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// How the tickets of an issuer's users are judged.
#[derive(Debug, Clone)]
pub struct KerberosSetup {
    /// Who judges them.
    pub acceptor: Arc<dyn AcceptTickets>,
    /// The principal that clients ask a ticket for, without its realm: `host/` and the name of the service.
    pub service_account: String,
    /// Text, beginning with `@`, that may follow a principal's name in the name of its credential.
    pub policy_domain: Option<String>,
}

/// Who is an operator: a login at `issuer` whose `claim` is, or contains, `value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRule {
    /// Name of the issuer.
    pub issuer: String,
    /// Top-level claim.
    pub claim: String,
    /// The text it has to be, or to contain when it is a list.
    pub value: String,
}

impl OperatorRule {
    /// The rule as one text, to remember with a token by which rule it has its rights.
    pub fn text(&self) -> String {
        format!("{} {}={}", self.issuer, self.claim, self.value)
    }
}

/// Who cares for robots: a login at `issuer` whose `claim` is, or contains, `value` may store credentials of an account and below it,
/// and give robots tokens for them that have no end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RobotRule {
    /// Name of the issuer.
    pub issuer: String,
    /// Top-level claim.
    pub claim: String,
    /// The text it has to be, or to contain when it is a list.
    pub value: String,
    /// The group account, first part of its robots' credkeys; `None` = each person's own.
    pub account: Option<String>,
}

impl RobotRule {
    /// The rule as one text, to remember with a login by which rules it has its rights.
    pub fn text(&self) -> String {
        let account = self.account.as_deref().unwrap_or("own");
        let whose = if self.account.is_some() {
            "account"
        } else {
            "of"
        };
        format!(
            "{} {}={} {whose} {account}",
            self.issuer, self.claim, self.value
        )
    }
}

/// How long tokens live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifetimes {
    /// Life of a token nobody asked a life for.
    pub default_ttl: Seconds,
    /// Upper limit for every token that is not periodic.
    pub max_ttl: Seconds,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Lifetimes {
            default_ttl: SYSTEM_MAX_TTL,
            max_ttl: SYSTEM_MAX_TTL,
        }
    }
}

/// When an unused grant is refreshed only to keep it alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    /// Refresh a grant that was not refreshed for this long; sooner at an issuer that forgets sooner ([`Setup::kept_alive_after`]).
    pub after: Seconds,
    /// Stop when nobody used the grant for this long.
    pub limit: Seconds,
    /// How long issuers keep a refresh token that is not used.
    pub issuer_keeps: Seconds,
}

impl Default for KeepAlive {
    fn default() -> Self {
        KeepAlive {
            after: Seconds(7 * 86_400),
            limit: Seconds(180 * 86_400),
            issuer_keeps: ISSUER_KEEPS,
        }
    }
}

/// Bounds against floods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Login sessions under way in total.
    pub login_sessions_total: usize,
    /// Login sessions under way from one IPv4 address or IPv6 network of 64 bits. From one IPv6 network of 56 or 48 bits, which may be
    /// one customer's, as many, or a tenth of the total if that is more.
    pub login_sessions_per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            login_sessions_total: 10_000,
            login_sessions_per_address: 200,
        }
    }
}

/// How people log in with the keys of their ssh-agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSetup {
    /// Whether a key registered through one issuer opens the credentials of the same credkey at all others.
    pub cross_issuer: bool,
    /// A directory of keys that administrators supply: `CREDKEY` for all issuers, `ISSUER/CREDKEY` for one.
    pub authorized_keys: Option<PathBuf>,
    /// Whether signatures of RSA keys with SHA-1 count, the only ones that clients of the original make.
    pub rsa_sha1: bool,
    /// By issuer: a text beginning with `@` that may follow the credkey in the names of credentials.
    pub domains: BTreeMap<String, String>,
}

/// What stands in the configuration and is not served, because of an error in it. It counts as configured: nothing of it is forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Names of issuers.
    pub issuers: BTreeSet<String>,
    /// Roles of issuers that are served, as `issuer/role` in lower case.
    pub roles: BTreeSet<String>,
    /// Whether more issuers may stand there than can be told by name, so that any could be meant.
    pub any_issuer: bool,
    /// Issuers that are served of which that holds for roles.
    pub any_role_of: BTreeSet<String>,
    /// Whether logging in with ssh keys is off because of an error.
    pub ssh: bool,
    /// Whether a Kerberos service is out because of an error, so that logging in with tickets may be off where it was on.
    pub kerberos: bool,
}

/// Everything that was configured.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// The issuers.
    pub issuers: Vec<IssuerSetup>,
    /// Kerberos logins, by the name of the issuer whose roles they are for.
    pub kerberos: BTreeMap<String, KerberosSetup>,
    /// How clients and browsers reach the service: scheme, name and port, without a slash at the end.
    pub public_url: String,
    /// Further addresses of the same form under which browsers may come back, such as one from before the service was renamed.
    pub other_urls: Vec<String>,
    /// Whether an OIDC login may register ssh keys.
    pub self_registration: bool,
    /// Logging in with ssh keys; `None` = switched off.
    pub ssh: Option<SshSetup>,
    /// Who is an operator.
    pub operators: Vec<OperatorRule>,
    /// Who cares for robots.
    pub robots: Vec<RobotRule>,
    /// Token lifetimes.
    pub lifetimes: Lifetimes,
    /// Keep-alive of idle grants.
    pub keep_alive: KeepAlive,
    /// Flood limits.
    pub limits: Limits,
    /// How many requests one address or user may send.
    pub rate_limits: Vec<RateLimit>,
    /// Issuers taken out of the configuration, with the time (Unix seconds) that was noticed.
    pub removed_issuers: BTreeMap<String, i64>,
    /// The same of roles of issuers that stay, as `issuer/role` in lower case.
    pub removed_roles: BTreeMap<String, i64>,
    /// The same of Kerberos logins, by the issuers that had them.
    pub removed_kerberos: BTreeMap<String, i64>,
    /// When it was noticed that logging in with ssh keys is switched off.
    pub removed_ssh: Option<i64>,
    /// What is not served because of an error in it.
    pub left_out: LeftOut,
    /// How long what was taken out is kept; `None`: a week.
    pub keep_removed: Option<Seconds>,
    /// The node of the cluster whose files this follows from, where that is another one.
    pub published_by: Option<String>,
}

impl Setup {
    /// The issuer called `name`, to the letter.
    pub fn issuer(&self, name: &str) -> Option<&IssuerSetup> {
        self.issuers.iter().find(|issuer| issuer.name == name)
    }

    /// How long `issuer` keeps a refresh token that is not used.
    pub(crate) fn refresh_token_life(&self, issuer: &IssuerSetup) -> Seconds {
        issuer
            .refresh_token_life
            .unwrap_or(self.keep_alive.issuer_keeps)
    }

    /// After how long an unused grant of the issuer called `name` is refreshed: in the first quarter of the time that the issuer keeps
    /// it, so that there is time left if refreshing fails. Never sooner than after a day, which is as fine as the index of such grants is.
    pub(crate) fn kept_alive_after(&self, name: &str) -> Seconds {
        const DAY: u64 = 86_400;
        let longest = self.keep_alive.after;
        let quarter = |issuer| Seconds((self.refresh_token_life(issuer).0 / 4).max(DAY));
        self.issuer(name)
            .map_or(longest, |issuer| quarter(issuer).min(longest))
    }

    /// The address an issuer sends browsers back to.
    pub fn callback_url(&self, issuer: &str) -> String {
        callback_below(&self.public_url, issuer)
    }

    /// All addresses it may send them to, that one first.
    pub fn callback_urls(&self, issuer: &str) -> impl Iterator<Item = String> {
        std::iter::once(&self.public_url)
            .chain(&self.other_urls)
            .map(move |url| callback_below(url, issuer))
    }
}

fn callback_below(url: &str, issuer: &str) -> String {
    format!("{url}/v1/auth/oidc-{issuer}/oidc/callback")
}

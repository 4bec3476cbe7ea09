//! Rules: what a keeper token may do, as policies in the language of the Vault API.
//!
//! Owns the policies that follow from the configuration ([`builtin`]), those that operators write
//! ([`kept`]), and deciding with them ([`acl`]). Refuses to know where a request came from. Another built-in policy is one function in [`builtin`].

mod acl;
mod builtin;
mod kept;
mod kerberos;
mod syntax;
mod unreadable;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use gridkeep_token::time::UnixSeconds;
use serde_json::{Map, Value};

use crate::clock::TOLERANCE_SECONDS;
use crate::database::Database;
use crate::delegation::{self, UseLimits};
use crate::failure::{BadInput, Failure, Later, LaterKind, Refused};
use crate::keeper::Keeper;
use crate::records::{KeeperToken, POLICY, PolicyRecord};
use crate::secret::Mint;
use crate::setup::{OperatorRule, Setup};
use crate::tokens::Bearer;

pub(crate) use crate::removed::known_issuer;
pub use acl::Capability;
use acl::{Acl, Subject};
pub(crate) use builtin::{login_policies, ssh_register_policy};
pub use kept::PolicyWrite;
pub(crate) use kerberos::{kerberos_accessor, kerberos_policy};
use syntax::PathRule;
use unreadable::Unreadable;

/// May do everything.
pub const ROOT: &str = "root";
/// What every ordinary token of the original may do with itself.
pub const DEFAULT: &str = "default";
/// Everything but reading other people's access tokens.
pub const OPERATOR: &str = "operator";
/// How the names of the policies begin by which people register ssh keys.
pub(crate) const SSH_REGISTER: &str = "sshregister-";
/// How the names of the policies begin by which people care for robots.
pub(crate) const ROBOTS: &str = "robots-";
/// What every login token may do with itself.
pub const TOKENOPS: &str = "tokenops";
/// What a login with an ssh key may do.
pub const SSH: &str = "ssh";
/// What the token of a delegation may do.
pub const DELEGATED: &str = "delegated";
/// Under this name a token's identity carries the rule by which its login was an operator's.
pub(crate) const OPERATOR_RULE: &str = "operator_rule";

/// What a request does to its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Writing something that is not there.
    Create,
    /// Reading.
    Read,
    /// Writing.
    Update,
    /// Deleting.
    Delete,
    /// Listing one level.
    List,
    /// Listing all levels.
    Scan,
    /// Merging into what is there.
    Patch,
}

impl Operation {
    /// The word in policies and audit lines.
    pub fn word(self) -> &'static str {
        self.capability().word()
    }

    fn capability(self) -> Capability {
        match self {
            Operation::Create => Capability::Create,
            Operation::Read => Capability::Read,
            Operation::Update => Capability::Update,
            Operation::Delete => Capability::Delete,
            Operation::List => Capability::List,
            Operation::Scan => Capability::Scan,
            Operation::Patch => Capability::Patch,
        }
    }
}

/// A permission that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The policies whose rule applied.
    pub policies: Vec<String>,
    /// Whether that rule also gives sudo.
    pub sudo: bool,
    /// Whether the token is root.
    pub root: bool,
    /// How far a credential may be used that was delegated: within one of these. Empty for what is one's own.
    pub limits: Vec<UseLimits>,
}

/// A policy with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name, in lower case.
    pub name: String,
    /// Its text as it was written.
    pub text: String,
    /// Whether it follows from the configuration and so cannot be written.
    pub builtin: bool,
    /// Counts its writings.
    pub version: u64,
    /// Whether identity values with `/` may be put into its paths.
    pub allow_slashes: bool,
    /// Whether identity values with `*` or `+` may be put into its paths.
    pub allow_wildcards: bool,
    /// Whether it is written only over a version that the writer names.
    pub cas_required: bool,
    /// When it ends, if it does: from then on it is as if it were not there.
    pub expires_at: Option<UnixSeconds>,
    /// When it was last written; `None` for a built-in one.
    pub modified: Option<UnixSeconds>,
    rules: Vec<PathRule>,
}

impl Policy {
    fn parse(name: &str, text: &str) -> Result<Policy, BadInput> {
        let rules = syntax::parse(text).map_err(|text| BadInput::PolicySyntax { text })?;
        Ok(Policy {
            name: name.to_owned(),
            text: text.to_owned(),
            builtin: false,
            version: 1,
            allow_slashes: false,
            allow_wildcards: false,
            cas_required: false,
            expires_at: None,
            modified: None,
            rules,
        })
    }

    /// Whether it has not ended.
    fn stands(&self, now: UnixSeconds) -> bool {
        self.expires_at.is_none_or(|end| end > now)
    }

    fn from_record(name: &str, record: &PolicyRecord) -> Result<Policy, BadInput> {
        let mut policy = Policy::parse(name, &record.text)?;
        policy.version = record.version;
        policy.allow_slashes = record.allow_slashes;
        policy.allow_wildcards = record.allow_wildcards;
        policy.cas_required = record.cas_required;
        policy.expires_at = record.expires_at;
        policy.modified = Some(record.modified);
        Ok(policy)
    }
}

/// The policies in the store.
#[derive(Debug, Clone, Default)]
struct Written {
    policies: HashMap<String, Arc<Policy>>,
    unreadable: Unreadable,
}

/// All policies, ready for use.
pub(crate) struct Policies {
    builtin: RwLock<HashMap<String, Arc<Policy>>>,
    written: RwLock<Arc<Written>>,
    /// The rules by which logins are operators today.
    operator_rules: RwLock<HashSet<String>>,
    /// Held while a policy is written, so that what is in memory is what was stored last.
    writing: tokio::sync::Mutex<()>,
}

impl Policies {
    pub async fn load(db: &Database) -> Result<Policies, Failure> {
        Ok(Policies {
            builtin: RwLock::default(),
            written: RwLock::new(Arc::new(Self::stored(db).await?)),
            operator_rules: RwLock::default(),
            writing: tokio::sync::Mutex::default(),
        })
    }

    /// Reads anew what may have been written on other nodes.
    pub async fn reload(&self, db: &Database) -> Result<(), Failure> {
        let _alone = self.writing.lock().await;
        self.read_anew(db).await
    }

    async fn read_anew(&self, db: &Database) -> Result<(), Failure> {
        let stored = Arc::new(Self::stored(db).await?);
        *self.written.write().unwrap_or_else(PoisonError::into_inner) = stored;
        Ok(())
    }

    /// As they are at this moment: no lock is held while they are looked at.
    fn written(&self) -> Arc<Written> {
        self.written
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn stored(db: &Database) -> Result<Written, Failure> {
        let mut found = Written::default();
        let damaged = db.each_counting_damaged(POLICY, &[], |stored| {
            let name = stored.name.parts().first().map(|part| String::from_utf8_lossy(part).into_owned()).unwrap_or_default();
            match unreadable::read(&name, &stored) {
                Ok(policy) => {
                    found.policies.insert(name, Arc::new(policy));
                }
                Err(error) => {
                    tracing::error!(policy = name, %error, "a stored policy cannot be read, and those who have it are answered with 503; delete it and write it again, or bring all servers to one version");
                    found.unreadable.names.insert(name);
                }
            }
            std::ops::ControlFlow::Continue(())
        })
        .await?;
        found.unreadable.nameless = damaged > 0;
        Ok(found)
    }

    /// Makes the built-in policies of `setup`.
    pub fn rebuild(&self, setup: &Setup, mint: &Mint) {
        let mut policies = HashMap::new();
        let plain = builtin::all(setup, mint).into_iter();
        let with_slashes = kerberos::all(setup, mint).into_iter();
        for ((name, text), allow_slashes) in plain
            .map(|policy| (policy, false))
            .chain(with_slashes.map(|policy| (policy, true)))
        {
            match Policy::parse(&name, &text) {
                Ok(mut policy) => {
                    policy.builtin = true;
                    // The names of robots' credentials have slashes, and come from the delegation, not from a login.
                    policy.allow_slashes = allow_slashes || name == DELEGATED;
                    policies.insert(name, Arc::new(policy));
                }
                // Unreachable for names that passed the validation of the configuration; without the policy nothing is granted.
                Err(error) => {
                    tracing::error!(policy = name, %error, "a policy of the configuration cannot be made and grants nothing")
                }
            }
        }
        *self.builtin.write().unwrap_or_else(PoisonError::into_inner) = policies;
        *self
            .operator_rules
            .write()
            .unwrap_or_else(PoisonError::into_inner) =
            setup.operators.iter().map(OperatorRule::text).collect();
    }

    /// Whether a policy counts for a token. A login that was an operator's by a rule is one only as long as the rule stands.
    fn counts(&self, policy: &str, token: &KeeperToken) -> bool {
        let rule = token
            .identity
            .as_ref()
            .and_then(|identity| identity.metadata.get(OPERATOR_RULE));
        match rule {
            Some(rule) if policy == OPERATOR => self
                .operator_rules
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(rule),
            _ => true,
        }
    }

    pub fn get(&self, name: &str, now: UnixSeconds) -> Option<Arc<Policy>> {
        if let Some(policy) = self
            .builtin
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
        {
            return Some(policy.clone());
        }
        self.written()
            .policies
            .get(name)
            .filter(|policy| policy.stands(now))
            .cloned()
    }

    fn names(&self, now: UnixSeconds) -> Vec<String> {
        let mut names: Vec<String> = self
            .builtin
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect();
        let written = self.written();
        names.extend(
            written
                .policies
                .iter()
                .filter(|(_, policy)| policy.stands(now))
                .map(|(name, _)| name.clone()),
        );
        names.extend(written.unreadable.names.iter().cloned());
        names.push(ROOT.to_owned());
        names.sort_unstable();
        names.dedup();
        names
    }

    fn set(&self, name: &str, policy: Option<Policy>) {
        let mut written = self.written.write().unwrap_or_else(PoisonError::into_inner);
        let written = Arc::make_mut(&mut written);
        match policy {
            Some(policy) => written.policies.insert(name.to_owned(), Arc::new(policy)),
            None => written.policies.remove(name),
        };
        written.unreadable.names.remove(name);
    }

    /// Those policies of a token that have ended at `now`, of which that is not certain: just now, or by a clock in doubt.
    fn ended_perhaps(
        &self,
        token: &KeeperToken,
        now: UnixSeconds,
        doubtful: bool,
    ) -> Vec<Arc<Policy>> {
        let written = self.written();
        token
            .policies
            .iter()
            .filter(|name| self.counts(name, token) && self.get(name, now).is_none())
            .filter_map(|name| written.policies.get(name))
            .filter(|policy| {
                let just_now = |end: UnixSeconds| now.0 - end.0 <= TOLERANCE_SECONDS;
                doubtful || policy.expires_at.is_some_and(just_now)
            })
            .cloned()
            .collect()
    }

    fn acl<'a>(&self, token: &'a KeeperToken, now: UnixSeconds) -> Acl<'a> {
        Acl {
            policies: token
                .policies
                .iter()
                .filter(|name| self.counts(name, token))
                .filter_map(|name| self.get(name, now))
                .collect(),
            subject: Subject {
                identity: token.identity.as_ref(),
                entity: token.entity.as_deref(),
            },
        }
    }
}

impl Keeper {
    /// Whether `bearer` may do `operation` on `path` with these parameters.
    ///
    /// # Errors
    /// [`Refused::Policy`] when a live token's policies refuse something that exists; for a credential of an issuer or role that
    /// does not exist the failure says so instead. [`Failure::Later`] when a policy that allows it has ended by a clock that may be
    /// wrong, when a policy of the token cannot be read, and when its way to log in was taken out not long ago.
    pub fn authorize(
        &self,
        bearer: &Bearer,
        operation: Operation,
        path: &str,
        parameters: &Map<String, Value>,
    ) -> Result<Granted, Failure> {
        let token = &bearer.token;
        if token.policies.iter().any(|policy| policy == ROOT) {
            return Ok(Granted {
                policies: vec![ROOT.to_owned()],
                sudo: true,
                root: true,
                limits: Vec::new(),
            });
        }
        let now = self.now();
        self.inner.policies.certain(token, now)?;
        let mut acl = self.inner.policies.acl(token, now);
        if let Some(granted) = granted(&acl, operation, path, parameters) {
            return Ok(granted);
        }
        self.refusal_needs_proof(path)?;
        let setup = self.setup();
        setup.left_out.excuses(&token.policies)?;
        setup.excuses_removed(&token.policies, now)?;
        let perhaps = self
            .inner
            .policies
            .ended_perhaps(token, now, self.clock_doubtful());
        let stand = acl.policies.len();
        // Each alone as well, since one of them may deny what another allows.
        for more in perhaps.chunks(1).chain([perhaps.as_slice()]) {
            acl.policies.truncate(stand);
            acl.policies.extend_from_slice(more);
            if granted(&acl, operation, path, parameters).is_some() {
                return Err(Later::new(
                    LaterKind::ClockDoubtful,
                    "by this server's clock the policy that allows this has ended, just now or while the clock is in doubt; try again later, and ask the operators of this server if it stays so",
                )
                .into());
            }
        }
        Err(Refused::Policy {
            operation: operation.word(),
            path: path.to_owned(),
        }
        .into())
    }

    /// A refusal is said only about an issuer and role that exist (decision 6).
    fn refusal_needs_proof(&self, path: &str) -> Result<(), Failure> {
        let below = |mounts: &[&str]| mounts.iter().find_map(|mount| path.strip_prefix(mount));
        if let Some(text) = below(&["secret/oauth/creds/", "secret/oauth/sts/"]) {
            return self.stands(text);
        }
        let of_issuers = [delegation::MOUNT, delegation::ROBOT_MOUNT, "auth/ssh/keys/"];
        match below(&of_issuers).map(|text| self.stands(text)) {
            Some(Err(Failure::Later(later))) => Err(later.into()),
            _ => Ok(()),
        }
    }

    /// Whether the issuer that `text` begins with is configured, and the role that it ends with.
    fn stands(&self, text: &str) -> Result<(), Failure> {
        let setup = self.setup();
        let issuer = text.split('/').next().unwrap_or_default();
        let issuer = known_issuer(&setup, issuer, self.now())?;
        if let Some((_, role)) = text.rsplit_once(':') {
            crate::removed::known_role(&setup, issuer, role, self.now())?;
        }
        Ok(())
    }

    /// The capabilities of `token` on `path`, as `sys/capabilities` shows them.
    pub fn capabilities(&self, token: &KeeperToken, path: &str) -> Vec<String> {
        if token.policies.iter().any(|policy| policy == ROOT) {
            return vec![ROOT.to_owned()];
        }
        let acl = self.inner.policies.acl(token, self.now());
        let words = acl
            .find(path, path.ends_with('/'))
            .as_ref()
            .map(acl::Rule::words)
            .unwrap_or_default();
        if words.is_empty() {
            vec!["deny".to_owned()]
        } else {
            words
        }
    }

    /// Whether the policies of `token` say anything about paths below `prefix` but that they are denied.
    pub fn reaches(&self, token: &KeeperToken, prefix: &str) -> bool {
        token.policies.iter().any(|policy| policy == ROOT)
            || self.inner.policies.acl(token, self.now()).reaches(prefix)
    }

    /// The policies that a login for a role of an issuer gets, unless it is an operator's.
    pub fn login_policies(&self, issuer: &str, role: &str) -> Vec<String> {
        login_policies(&self.setup(), issuer, role, false, &[])
    }

    /// What stands behind `base` in the paths that let `token` list, each as far as it is literal, and whether that is the whole of
    /// it; `None` when a path covers all below `base`.
    pub(crate) fn path_starts(
        &self,
        token: &KeeperToken,
        base: &str,
    ) -> Option<Vec<(String, bool)>> {
        if token.policies.iter().any(|policy| policy == ROOT) {
            return None;
        }
        self.inner
            .policies
            .acl(token, self.now())
            .listed_below(base)
    }
}

/// What the policies of `acl` allow.
fn granted(
    acl: &Acl<'_>,
    operation: Operation,
    path: &str,
    parameters: &Map<String, Value>,
) -> Option<Granted> {
    let rule = acl.find(path, matches!(operation, Operation::List | Operation::Scan))?;
    let sudo = rule.has(Capability::Sudo);
    // What is deleted or listed is not made of parameters: as in the original they are bound in writing and reading alone.
    let bound = !matches!(
        operation,
        Operation::Delete | Operation::List | Operation::Scan
    );
    let allowed = rule.has(operation.capability())
        && (!bound || rule.allows(parameters))
        && (sudo || !builtin::needs_sudo(path));
    allowed.then(|| Granted {
        policies: rule.policies().to_vec(),
        sudo,
        root: false,
        limits: Vec::new(),
    })
}

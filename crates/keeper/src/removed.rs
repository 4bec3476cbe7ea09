//! What was taken out of the configuration, or is left out of it because of an error: issuers and roles that users still ask for.
//!
//! What is left out by an error counts as configured, and its users are told to come back later. What was taken out is another matter,
//! yet a slip of the pen must not cost every user a browser login either: it is remembered, answered for with an explanation, and its
//! credentials are kept for a time; only after it they are deleted, and their grants revoked where the issuer can still be asked.

use std::time::Duration;

use gridkeep_token::time::{Seconds, UnixSeconds};

use crate::credentials::CredentialName;
use crate::database::name;
use crate::failure::{BadInput, Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::policy::{SSH, kerberos_policy};
use crate::records::{CREDENTIAL, CredentialRecord, KEEPER, KeeperRecord};
use crate::setup::{IssuerSetup, LeftOut, RoleSetup, Setup};

/// How long what was taken out is kept when nothing else is configured: a week.
const KEPT: Seconds = Seconds(7 * 86_400);
/// Credentials deleted in one go.
const AT_ONCE: usize = 5_000;

/// What a credential of a removed role or issuer is deleted by.
const BY: &str = "configuration";

impl Setup {
    /// How long what was taken out is kept.
    pub fn removed_kept(&self) -> Seconds {
        self.keep_removed.unwrap_or(KEPT)
    }

    /// Whether what was taken out at `since` (Unix seconds) is to be kept yet.
    pub(crate) fn still_kept(&self, since: i64, now: UnixSeconds) -> bool {
        now.0.saturating_sub(since) < i64::try_from(self.removed_kept().0).unwrap_or(i64::MAX)
    }

    /// A refusal to a token of a way to log in that was taken out not long ago is none either: the policy it went by is out with it.
    pub(crate) fn excuses_removed(
        &self,
        policies: &[String],
        now: UnixSeconds,
    ) -> Result<(), Failure> {
        let ssh = self
            .removed_ssh
            .filter(|_| policies.iter().any(|policy| policy == SSH));
        // Names of issuers may have what stands between issuer and role.
        let present = |policy: &String| {
            self.kerberos_roles()
                .any(|(issuer, role, _)| kerberos_policy(&issuer.name, &role.name) == *policy)
        };
        let kerberos = self.removed_kerberos.iter().find(|(issuer, _)| {
            let start = kerberos_policy(issuer, "");
            policies
                .iter()
                .any(|policy| policy.starts_with(&start) && !present(policy))
        });
        let found = ssh
            .map(|since| ("logging in with ssh keys".to_owned(), since))
            .into_iter()
            .chain(kerberos.map(|(issuer, since)| {
                (
                    format!("logging in with Kerberos for issuer \"{issuer}\""),
                    *since,
                )
            }))
            .find(|(_, since)| self.still_kept(*since, now));
        match found {
            Some((what, since)) => {
                let days = (now.0 - since) / 86_400;
                let text = format!(
                    "{what} was taken out of this server's configuration {days} days ago; log in another way, or ask the operators of this server whether it comes back"
                );
                Err(Later::new(LaterKind::LoginRemoved, text).into())
            }
            None => Ok(()),
        }
    }

    fn told(&self, what: &str, since: i64, now: UnixSeconds) -> String {
        let (days, kept) = ((now.0 - since) / 86_400, self.removed_kept().0 / 86_400);
        format!(
            "{what} was taken out of this server's configuration {days} days ago; its logins are kept for {kept} days; ask the operators of this server whether it comes back"
        )
    }
}

/// The configured issuer `issuer`, or why it cannot be used.
pub(crate) fn known_issuer<'a>(
    setup: &'a Setup,
    issuer: &str,
    now: UnixSeconds,
) -> Result<&'a IssuerSetup, Failure> {
    if let Some(found) = setup.issuer(issuer) {
        return Ok(found);
    }
    if setup.left_out.issuers.contains(issuer) {
        return Err(left_out(&format!("issuer \"{issuer}\"")));
    }
    match setup.removed_issuers.get(issuer) {
        Some(since) if setup.still_kept(*since, now) => {
            let text = setup.told(&format!("issuer \"{issuer}\""), *since, now);
            Err(Later::new(LaterKind::IssuerRemoved, text).into())
        }
        _ => Err(BadInput::UnknownIssuer {
            issuer: issuer.to_owned(),
        }
        .into()),
    }
}

/// The role called `role` of a configured issuer, or why it cannot be used.
pub(crate) fn known_role<'a>(
    setup: &Setup,
    issuer: &'a IssuerSetup,
    role: &str,
    now: UnixSeconds,
) -> Result<&'a RoleSetup, Failure> {
    if let Some(found) = issuer.role(role) {
        return Ok(found);
    }
    let key = role_key(&issuer.name, role);
    if setup.left_out.roles.contains(&key) {
        let what = format!("role \"{role}\" of issuer \"{}\"", issuer.name);
        return Err(left_out(&what));
    }
    match setup.removed_roles.get(&key) {
        Some(since) if setup.still_kept(*since, now) => {
            let what = format!("role \"{role}\" of issuer \"{}\"", issuer.name);
            let text = setup.told(&what, *since, now);
            Err(Later::new(LaterKind::RoleRemoved, text).into())
        }
        _ => Err(BadInput::UnknownRole {
            role: role.to_owned(),
        }
        .into()),
    }
}

fn left_out(what: &str) -> Failure {
    let text = format!(
        "{what} is not served at the moment, because of an error in this server's configuration; its logins are kept; ask the operators of this server to correct it"
    );
    Later::new(LaterKind::LeftOut, text).into()
}

impl LeftOut {
    /// A refusal to a token of a way to log in that an error has switched off is none: the policy it went by is out with that way.
    pub(crate) fn excuses(&self, policies: &[String]) -> Result<(), Failure> {
        let has = |wanted: fn(&str) -> bool| policies.iter().any(|policy| wanted(policy));
        if self.ssh && has(|policy| policy == SSH) {
            return Err(left_out("logging in with ssh keys"));
        }
        if self.kerberos && has(|policy| policy.starts_with("kerberos-")) {
            return Err(left_out("a Kerberos service"));
        }
        Ok(())
    }

    /// Adds a role of an issuer that is served.
    pub fn insert_role(&mut self, issuer: &str, role: &str) {
        self.roles.insert(role_key(issuer, role));
    }

    /// Whether an issuer that is not served may be one of those.
    pub fn may_have_issuer(&self, issuer: &str) -> bool {
        self.any_issuer || self.issuers.contains(issuer)
    }

    /// Whether that holds for a role of an issuer that is served.
    pub fn may_have_role(&self, issuer: &str, role: &str) -> bool {
        self.may_have_key(&role_key(issuer, role))
    }

    fn may_have_key(&self, key: &str) -> bool {
        let issuer = key.split('/').next().unwrap_or_default();
        self.roles.contains(key) || self.any_role_of.contains(issuer)
    }
}

/// Issuers have no slash in their names, so that no two roles have the same key.
fn role_key(issuer: &str, role: &str) -> String {
    format!("{issuer}/{}", role.to_ascii_lowercase())
}

/// Notes in the keeper's record what `setup` no longer has, and what came back; and in `setup` what of the record it leaves out.
pub(crate) fn note(record: &mut KeeperRecord, setup: &mut Setup, now: UnixSeconds) {
    let left_out = &mut setup.left_out;
    for old in &record.issuers {
        if left_out.any_issuer && !setup.issuers.iter().any(|issuer| issuer.name == *old) {
            left_out.issuers.insert(old.clone());
        }
    }
    let issuers: Vec<String> = setup
        .issuers
        .iter()
        .map(|issuer| &issuer.name)
        .chain(&left_out.issuers)
        .cloned()
        .collect();
    let mut roles: Vec<String> = setup
        .issuers
        .iter()
        .flat_map(|issuer| {
            issuer
                .roles
                .iter()
                .map(|role| role_key(&issuer.name, &role.name))
        })
        .collect();
    for gone in record.issuers.iter().filter(|old| !issuers.contains(old)) {
        record.removed_issuers.entry(gone.clone()).or_insert(now.0);
    }
    record
        .removed_issuers
        .retain(|issuer, _| !issuers.contains(issuer));
    let mut still = Vec::new();
    for gone in record.roles.iter().filter(|old| !roles.contains(old)) {
        // The roles of an issuer that is gone altogether go with it.
        let whole = gone.split('/').next().unwrap_or_default();
        if left_out.issuers.contains(whole) {
            still.push(gone.clone());
        } else if left_out.may_have_key(gone) {
            left_out.roles.insert(gone.clone());
        } else if issuers.iter().any(|issuer| issuer == whole) {
            record.removed_roles.entry(gone.clone()).or_insert(now.0);
        }
    }
    roles.extend(left_out.roles.iter().cloned());
    roles.append(&mut still);
    record.removed_roles.retain(|role, _| !roles.contains(role));
    (record.issuers, record.roles) = (issuers, roles);
    note_kerberos(record, setup, now);
}

/// The same of Kerberos logins, by the issuers that have them.
fn note_kerberos(record: &mut KeeperRecord, setup: &Setup, now: UnixSeconds) {
    let mut here: Vec<String> = setup.kerberos.keys().cloned().collect();
    let gone: Vec<String> = record
        .kerberos
        .iter()
        .filter(|old| !here.contains(old))
        .cloned()
        .collect();
    if setup.left_out.kerberos {
        here.extend(gone);
    } else {
        for issuer in gone {
            record.removed_kerberos.entry(issuer).or_insert(now.0);
        }
    }
    record
        .removed_kerberos
        .retain(|issuer, _| !here.contains(issuer));
    record.kerberos = here;
}

impl Keeper {
    /// Deletes the credentials of what was taken out long enough ago. Nothing while the clock is in doubt.
    pub(crate) async fn forget_removed(&self) -> Result<(), Failure> {
        let key = name(KEEPER, &[]);
        let Some(stored) = self.inner.db.get::<KeeperRecord>(&key).await? else {
            return Ok(());
        };
        let (setup, now) = (self.setup(), self.now());
        if self.clock_doubtful() {
            return Ok(());
        }
        let over = |since: &i64| !setup.still_kept(*since, now);
        for (issuer, since) in &stored.value.removed_issuers {
            let present = setup.issuer(issuer).is_some() || setup.left_out.may_have_issuer(issuer);
            if over(since) && !present && self.forget(issuer, None).await? {
                self.amend_record(|record| {
                    record.removed_issuers.remove(issuer);
                })
                .await?;
            }
        }
        for (role, since) in &stored.value.removed_roles {
            let Some((issuer, name)) = role.split_once('/') else {
                continue;
            };
            let configured = setup
                .issuer(issuer)
                .is_some_and(|issuer| issuer.role(name).is_some());
            let present = configured
                || setup.left_out.may_have_issuer(issuer)
                || setup.left_out.may_have_key(role);
            if over(since) && !present && self.forget(issuer, Some(name)).await? {
                self.amend_record(|record| {
                    record.removed_roles.remove(role);
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Deletes credentials of an issuer, or of one of its roles; tells whether that was all of them.
    async fn forget(&self, issuer: &str, role: Option<&str>) -> Result<bool, Failure> {
        let mut names = Vec::new();
        self.inner
            .db
            .each::<CredentialRecord>(CREDENTIAL, &[issuer.as_bytes()], |stored| {
                if let Some(name) = CredentialName::of_record(&stored.name)
                    && role.is_none_or(|role| name.role.eq_ignore_ascii_case(role))
                {
                    names.push(name);
                }
                if names.len() < AT_ONCE {
                    std::ops::ControlFlow::Continue(())
                } else {
                    std::ops::ControlFlow::Break(())
                }
            })
            .await?;
        for name in &names {
            if *self.stopping().borrow() {
                return Ok(false);
            }
            self.delete_as(BY, None, name).await?;
        }
        if !names.is_empty() {
            let count = names.len();
            tracing::info!(
                issuer,
                role,
                count,
                "credentials of what was taken out of the configuration were deleted"
            );
        }
        Ok(names.len() < AT_ONCE)
    }
}

/// How often removed issuers and roles are looked after.
pub(crate) const PERIOD: Duration = Duration::from_secs(600);

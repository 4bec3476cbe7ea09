//! Credentials: names that point to grants. Reading an access token, storing, deleting, listing.

use std::time::Duration;

use gridkeep_store::Guard;
use gridkeep_token::time::{Seconds, UnixSeconds};
use secrecy::{ExposeSecret, SecretString};

use crate::background::unreferenced_since;
use crate::database::{Change, NotCommitted, Stored, name};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure, Later, LaterKind, Refused};
use crate::keeper::Keeper;
use crate::login::HANDLE_LIFE;
use crate::policy::known_issuer;
use crate::records::{
    CREDENTIAL, CachedToken, CredentialRecord, GRANT, GrantRecord, GrantSecrets, GrantState,
    HANDLE, HandleRecord, KeeperToken, REVOCATION,
};
use crate::refresh::{cached, issuer_failure};
use crate::secret::{Purpose, random_id};
use crate::setup::IssuerSetup;
use crate::tokens::{Bearer, later};

/// The least life of a token that is handed out, in seconds.
const LEAST: Seconds = Seconds(10);
const LONGEST_NAME: usize = 512;
/// Names one grant can have.
const MAX_REFERENCES: usize = 64;

/// The name of a credential: issuer, owner key, role.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CredentialName {
    /// Name of the issuer.
    pub issuer: String,
    /// Whose it is: `alice`, or for a robot `alice/purpose/machine`. Called credkey in the Vault API.
    pub owner: String,
    /// Name of the role.
    pub role: String,
}

impl CredentialName {
    /// Reads `issuer/owner:role`.
    ///
    /// # Errors
    /// [`BadInput::BadName`] when a part is missing or holds what may not be in a path.
    pub fn parse(text: &str) -> Result<CredentialName, BadInput> {
        let bad = || BadInput::BadName {
            name: text.chars().filter(|c| !c.is_control()).take(80).collect(),
        };
        if text.len() > LONGEST_NAME || text.contains(":/") || text.chars().any(char::is_control) {
            return Err(bad());
        }
        let (issuer, rest) = text.split_once('/').ok_or_else(bad)?;
        let (owner, role) = rest.rsplit_once(':').ok_or_else(bad)?;
        let empty_part = owner
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..");
        if issuer.is_empty() || role.is_empty() || role.contains('/') || empty_part {
            return Err(bad());
        }
        Ok(CredentialName {
            issuer: issuer.to_owned(),
            owner: owner.to_owned(),
            role: role.to_owned(),
        })
    }

    fn key(&self) -> gridkeep_store::Name {
        name(CREDENTIAL, &[&self.issuer, &self.owner, &self.role])
    }
}

impl std::fmt::Display for CredentialName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.issuer, self.owner, self.role)
    }
}

/// What a reader wants of the access token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Want {
    /// Least remaining life.
    pub minimum: Seconds,
    /// Scopes to narrow to; empty = as granted.
    pub scopes: Vec<String>,
    /// Audiences to narrow to.
    pub audiences: Vec<String>,
    /// Resources (RFC 8707) to narrow to.
    pub resources: Vec<String>,
}

impl Want {
    /// Whether the token has to be exchanged for a narrower one.
    pub fn narrows(&self) -> bool {
        !(self.scopes.is_empty() && self.audiences.is_empty() && self.resources.is_empty())
    }

    pub(crate) fn least(&self) -> Seconds {
        self.minimum.max(LEAST)
    }
}

/// An access token for its reader.
#[derive(Debug, Clone)]
pub struct AccessToken {
    /// The token.
    pub token: SecretString,
    /// Its OAuth type, in canonical spelling.
    pub token_type: String,
    /// When it ends, if the issuer said.
    pub expires_at: Option<UnixSeconds>,
    /// Name of the issuer.
    pub server: String,
    /// What the reader should know.
    pub warnings: Vec<String>,
}

/// A credential to be stored.
#[derive(Debug, Clone, Default)]
pub struct PutCredential {
    /// Name of the issuer, which has to be that of the credential's name.
    pub server: Option<String>,
    /// `refresh_token`, or nothing.
    pub grant_type: Option<String>,
    /// A refresh token, or a handle of ours.
    pub refresh_token: Option<SecretString>,
}

/// What is known of a credential without showing anything secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialSummary {
    /// Its name.
    pub name: CredentialName,
    /// When it was bound, and by whom.
    pub bound_at: UnixSeconds,
    /// Display name of the token that bound it.
    pub bound_by: String,
    /// When its grant was last refreshed and last used.
    pub refreshed_at: Option<UnixSeconds>,
    /// Last use that was noted.
    pub used_at: Option<UnixSeconds>,
    /// `None` while it works, else why a login is needed.
    pub trouble: Option<String>,
}

/// A credential with its grant opened.
pub(crate) struct Opened {
    pub grant: Stored<GrantRecord>,
    pub secrets: GrantSecrets,
    pub issuer: IssuerSetup,
    pub warnings: Vec<String>,
}

impl Keeper {
    /// Reads `issuer/owner:role`.
    ///
    /// # Errors
    /// See [`CredentialName::parse`].
    pub fn parse_name(&self, text: &str) -> Result<CredentialName, Failure> {
        Ok(CredentialName::parse(text)?)
    }

    /// The access token of a credential: from the cache when it lives long enough, else refreshed, and exchanged for a narrower
    /// one when `want` asks for that. The caller has been authorised.
    ///
    /// # Errors
    /// [`Failure::NotFound`] when nothing is stored; [`Refused::GrantDead`] when the issuer refused for good and nothing cached
    /// lives long enough; [`Failure::Later`] while the issuer is slow or down.
    pub async fn read(
        &self,
        _by: &Bearer,
        credential: &CredentialName,
        want: &Want,
    ) -> Result<AccessToken, Failure> {
        let mut opened = self.open_credential(credential).await?;
        let access = self.base_token(&mut opened, want.least()).await?;
        self.mark_used(&opened.grant.value.id, &access);
        let access = if want.narrows() {
            self.exchanged(&opened, &access, want).await?
        } else {
            access
        };
        Ok(AccessToken {
            token: SecretString::from(access.token.clone()),
            token_type: access.token_type.clone(),
            expires_at: access.expires_at.map(UnixSeconds),
            server: credential.issuer.clone(),
            warnings: opened.warnings,
        })
    }

    async fn open_credential(&self, credential: &CredentialName) -> Result<Opened, Failure> {
        let setup = self.setup();
        known_issuer(&setup, &credential.issuer, self.now())?;
        let stored = self
            .inner
            .db
            .get::<CredentialRecord>(&credential.key())
            .await?
            .ok_or(Failure::NotFound)?;
        let grant = self
            .inner
            .db
            .get::<GrantRecord>(&name(GRANT, &[&stored.value.grant]))
            .await?
            .ok_or(Failure::NotFound)?;
        let issuer = self.issuer_of(&grant.value)?;
        let mut warnings = Vec::new();
        if let Some(role) = issuer
            .role(&credential.role)
            .filter(|role| role.scopes != stored.value.scopes && !stored.value.scopes.is_empty())
        {
            warnings.push(format!("the scopes of role \"{}\" were changed after this login was made; log in again to get a token with the new ones", role.name));
        }
        let (_, secrets) = self.inner.sealer.open(&grant.value)?;
        Ok(Opened {
            grant,
            secrets,
            issuer,
            warnings,
        })
    }

    /// The grant's own access token with at least `least` seconds to live.
    async fn base_token(
        &self,
        opened: &mut Opened,
        least: Seconds,
    ) -> Result<CachedToken, Failure> {
        let now = self.now();
        let access = opened.secrets.access.clone();
        let dead = matches!(opened.grant.value.state, GrantState::Dead { .. });
        if let Some(access) = &access {
            if access.lasts(now, least) {
                if let GrantState::Dead { error, cause, .. } = &opened.grant.value.state {
                    opened.warnings.push(format!(
                        "token will expire: refresh failed: {error}: {cause}; log in again"
                    ));
                }
                return Ok(access.clone());
            }
            // No refresh gives more than the issuer's own life of a token.
            if !dead && access.is_fresh(now) && access.lasts(now, LEAST) {
                opened.warnings.push(format!("the issuer's tokens live shorter than the {} seconds asked for; this one is fresh", least.0));
                return Ok(access.clone());
            }
        }
        let fresh = self.refreshed(&opened.grant.value.id).await?;
        let now = self.now();
        if !fresh.lasts(now, LEAST) {
            return Err(BadInput::Expired {
                what: format!(
                    "even a fresh token of this issuer lives less than {} seconds",
                    LEAST.0
                ),
            }
            .into());
        }
        if !fresh.lasts(now, least) {
            opened.warnings.push(format!(
                "the issuer's tokens live shorter than the {} seconds asked for; this one is fresh",
                least.0
            ));
        }
        Ok(fresh)
    }

    /// Stores a credential: redeems a handle of an earlier login, or takes a real refresh token and proves it.
    ///
    /// # Errors
    /// [`BadInput`] for everything that is wrong with the request; a handle that is unknown, foreign or late never goes to an issuer.
    pub async fn put(
        &self,
        by: &Bearer,
        credential: &CredentialName,
        request: PutCredential,
    ) -> Result<(), Failure> {
        let server = request
            .server
            .filter(|server| !server.is_empty())
            .ok_or(BadInput::MissingServer)?;
        let setup = self.setup();
        if setup.issuer(&server).is_none() && !setup.removed_issuers.contains_key(&server) {
            return Err(BadInput::UnknownServer { server }.into());
        }
        let issuer = known_issuer(&setup, &server, self.now())?.clone();
        if server != credential.issuer {
            return Err(BadInput::ServerMismatch {
                server,
                issuer: credential.issuer.clone(),
            }
            .into());
        }
        if issuer.role(&credential.role).is_none() {
            return Err(BadInput::UnknownRole {
                role: credential.role.clone(),
            }
            .into());
        }
        if let Some(grant_type) = request
            .grant_type
            .filter(|kind| !matches!(kind.as_str(), "" | "refresh_token"))
        {
            return Err(BadInput::UnknownGrantType { grant_type }.into());
        }
        let token = request
            .refresh_token
            .filter(|token| !token.expose_secret().trim().is_empty())
            .ok_or(BadInput::MissingRefreshToken)?;
        let token = SecretString::from(token.expose_secret().trim().to_owned());
        if token.expose_secret().starts_with("gkh.") {
            return self.redeem(by, credential, &token).await;
        }
        self.prove_and_bind(by, credential, issuer, token).await
    }

    async fn redeem(
        &self,
        by: &Bearer,
        credential: &CredentialName,
        handle: &SecretString,
    ) -> Result<(), Failure> {
        let proven = self
            .inner
            .mint
            .prove_secret(Purpose::Handle, handle)
            .ok_or(BadInput::UnknownHandle)?;
        if self.now() >= later(proven.issued_at, HANDLE_LIFE) {
            return Err(BadInput::UnknownHandle.into());
        }
        let stored = self
            .inner
            .db
            .get::<HandleRecord>(&gridkeep_store::Name::new(
                HANDLE,
                &[proven.id().as_slice()],
            ))
            .await?
            .ok_or(BadInput::UnknownHandle)?
            .value;
        let own =
            by.token.id == stored.login_token || by.token.ancestors.contains(&stored.login_token);
        if !own || self.now() >= stored.expires_at || stored.issuer != credential.issuer {
            return Err(BadInput::UnknownHandle.into());
        }
        self.bind(&by.token, by.from, credential, &stored.grant)
            .await
    }

    /// Points `credential` to `grant`; what it pointed to before loses that reference. Repeating it changes nothing.
    async fn bind(
        &self,
        by: &KeeperToken,
        from: Option<std::net::IpAddr>,
        credential: &CredentialName,
        grant: &str,
    ) -> Result<(), Failure> {
        loop {
            let mut change = Change::new();
            let key = credential.key();
            let standing = self.inner.db.get::<CredentialRecord>(&key).await?;
            if standing
                .as_ref()
                .is_some_and(|standing| standing.value.grant == grant)
            {
                return Ok(());
            }
            let stored = self
                .inner
                .db
                .get::<GrantRecord>(&name(GRANT, &[grant]))
                .await?
                .ok_or(BadInput::UnknownHandle)?;
            let mut record = stored.value.clone();
            if record.references.len() >= MAX_REFERENCES {
                return Err(BadInput::Other(format!("one login can be stored under at most {MAX_REFERENCES} names; log in again for more")).into());
            }
            record.references.push(credential.to_string());
            let scopes = self
                .issuer_of(&record)?
                .role(&credential.role)
                .map(|role| role.scopes.clone())
                .unwrap_or_default();
            change
                .guard(stored.unchanged())
                .put(stored.name.clone(), &record, None)?;
            change.delete(name(REVOCATION, &[grant]));
            self.put_credential(
                &mut change,
                credential,
                &record,
                standing.as_ref(),
                &by.display_name,
                scopes,
            )
            .await?;
            events::record(
                &mut change,
                &Event {
                    at: self.now(),
                    what: "bound".into(),
                    subject: credential.to_string(),
                    by: by.display_name.clone(),
                    from,
                    detail: format!("grant {grant}"),
                },
            )?;
            match self.inner.db.commit(change).await {
                Ok(()) => return Ok(()),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Puts the credential's record into `change`, and takes its name from the grant it pointed to before.
    pub(crate) async fn put_credential(
        &self,
        change: &mut Change,
        credential: &CredentialName,
        grant: &GrantRecord,
        standing: Option<&Stored<CredentialRecord>>,
        by: &str,
        scopes: Vec<String>,
    ) -> Result<(), Failure> {
        let record = CredentialRecord {
            grant: grant.id.clone(),
            created_at: self.now(),
            bound_by: by.to_owned(),
            issuer_url: grant.issuer_url.clone(),
            client_id: grant.client_id.clone(),
            scopes,
        };
        match standing {
            None => change.guard(Guard::Absent(credential.key())),
            Some(standing) => change.guard(standing.unchanged()),
        };
        change.put(credential.key(), &record, None)?;
        if let Some(standing) = standing.filter(|standing| standing.value.grant != grant.id) {
            self.unreference(change, &standing.value.grant, credential)
                .await?;
        }
        Ok(())
    }

    /// Takes `credential` off the names of `grant`; without a name left it is queued for revocation at the issuer.
    async fn unreference(
        &self,
        change: &mut Change,
        grant: &str,
        credential: &CredentialName,
    ) -> Result<(), Failure> {
        let Some(stored) = self
            .inner
            .db
            .get::<GrantRecord>(&name(GRANT, &[grant]))
            .await?
        else {
            return Ok(());
        };
        let mut record = stored.value.clone();
        let text = credential.to_string();
        record.references.retain(|reference| *reference != text);
        change.guard(stored.unchanged());
        if record.references.is_empty() {
            let now = self.now();
            change.put(
                name(REVOCATION, &[grant]),
                &crate::records::RevocationRecord {
                    since: now,
                    attempts: 0,
                },
                None,
            )?;
        }
        change.put(stored.name.clone(), &record, None)?;
        Ok(())
    }

    /// A refresh token that a client brings is used once, which proves it, and what comes back is bound.
    async fn prove_and_bind(
        &self,
        by: &Bearer,
        credential: &CredentialName,
        issuer: IssuerSetup,
        token: SecretString,
    ) -> Result<(), Failure> {
        let (answer, waiting) = tokio::sync::oneshot::channel();
        let (keeper, by, credential) = (self.clone(), by.clone(), credential.clone());
        self.own(async move {
            let outcome = keeper.prove_and_bind_now(&by, &credential, &issuer, &token).await;
            if let Err(failure) = &outcome {
                tracing::info!(%credential, %failure, "a refresh token brought by a client was not stored");
            }
            let _ = answer.send(outcome);
        });
        match tokio::time::timeout(self.inner.options.waiter, waiting).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(Later::new(
                LaterKind::IssuerSlow,
                "the token issuer has not confirmed the refresh token yet; the request goes on and the credential will be stored if it does; read it in a few seconds",
            )
            .after(Duration::from_secs(2))
            .into()),
        }
    }

    async fn prove_and_bind_now(
        &self,
        by: &Bearer,
        credential: &CredentialName,
        issuer: &IssuerSetup,
        token: &SecretString,
    ) -> Result<(), Failure> {
        // The grant is stored before its token is sent, so that what comes back always has a place to go.
        let secrets = GrantSecrets {
            refresh_token: Some(token.expose_secret().to_owned()),
            alternates: Vec::new(),
            access: None,
        };
        let grant = self.new_grant(issuer, None, &secrets)?;
        let mut change = Change::new();
        change.guard(Guard::Absent(name(GRANT, &[&grant.id]))).put(
            name(GRANT, &[&grant.id]),
            &grant,
            None,
        )?;
        change.put(
            name(REVOCATION, &[&grant.id]),
            &unreferenced_since(self.now()),
            None,
        )?;
        self.inner.db.commit(change).await?;
        let mut flight = self.flight(&grant.id);
        let landing = flight
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|landing| landing.clone());
        match landing {
            Some(Ok(_)) => self.bind(&by.token, by.from, credential, &grant.id).await,
            Some(Err(failure)) => {
                if !matches!(failure, Failure::Later(_)) {
                    let mut change = Change::new();
                    change
                        .delete(name(GRANT, &[&grant.id]))
                        .delete(name(REVOCATION, &[&grant.id]));
                    self.inner.db.commit(change).await?;
                }
                Err(match failure {
                    Failure::Refused(Refused::GrantDead {
                        error, description, ..
                    }) => BadInput::IssuerRejected {
                        operation: "refresh",
                        error,
                        description,
                        uri: None,
                    }
                    .into(),
                    other => other,
                })
            }
            None => Err(Later::new(
                LaterKind::ShuttingDown,
                "the server is stopping; store the credential again in a moment",
            )
            .into()),
        }
    }

    /// A grant of `issuer` with these secrets, not stored yet.
    pub(crate) fn new_grant(
        &self,
        issuer: &IssuerSetup,
        subject: Option<String>,
        secrets: &GrantSecrets,
    ) -> Result<GrantRecord, Failure> {
        let id = random_id();
        let now = self.now();
        let (key, slot) = self.inner.sealer.new_key(&id)?;
        Ok(GrantRecord {
            sealed: key.seal(&id, secrets)?,
            id,
            issuer: issuer.name.clone(),
            issuer_url: issuer.url.clone(),
            client_id: issuer.client_id.clone(),
            subject,
            generation: 0,
            created_at: now,
            refreshed_at: now,
            used_at: now,
            references: Vec::new(),
            state: GrantState::Live,
            slots: vec![slot],
            due: None,
            answer_lost: None,
        })
    }

    /// Deletes a credential; its grant is revoked at the issuer afterwards when no other name points to it. Tells whether there
    /// was one.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be written.
    pub async fn delete(&self, by: &Bearer, credential: &CredentialName) -> Result<bool, Failure> {
        loop {
            let Some(standing) = self
                .inner
                .db
                .get::<CredentialRecord>(&credential.key())
                .await?
            else {
                return Ok(false);
            };
            let mut change = Change::new();
            change.guard(standing.unchanged()).delete(credential.key());
            self.unreference(&mut change, &standing.value.grant, credential)
                .await?;
            events::record(
                &mut change,
                &Event {
                    at: self.now(),
                    what: "deleted".into(),
                    subject: credential.to_string(),
                    by: by.token.display_name.clone(),
                    from: by.from,
                    detail: String::new(),
                },
            )?;
            match self.inner.db.commit(change).await {
                Ok(()) => {
                    let keeper = self.clone();
                    self.own(async move {
                        if let Err(failure) = keeper.revoke_unreferenced().await {
                            tracing::info!(%failure, "revocation at the issuer was put off");
                        }
                    });
                    return Ok(true);
                }
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Credentials of `issuer` that `visible` lets through, sorted by name.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn list_credentials(
        &self,
        issuer: &str,
        visible: impl Fn(&CredentialName) -> bool,
    ) -> Result<Vec<CredentialSummary>, Failure> {
        let mut found = Vec::new();
        self.inner
            .db
            .each::<CredentialRecord>(CREDENTIAL, &[issuer.as_bytes()], |stored| {
                let parts: Vec<String> = stored
                    .name
                    .parts()
                    .iter()
                    .map(|part| String::from_utf8_lossy(part).into_owned())
                    .collect();
                if let [issuer, owner, role] = parts.as_slice() {
                    let credential = CredentialName {
                        issuer: issuer.clone(),
                        owner: owner.clone(),
                        role: role.clone(),
                    };
                    if visible(&credential) {
                        found.push((credential, stored.value));
                    }
                }
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        let mut summaries = Vec::with_capacity(found.len());
        for (credential, record) in found {
            let grant = self
                .inner
                .db
                .get::<GrantRecord>(&name(GRANT, &[&record.grant]))
                .await?
                .map(|grant| grant.value);
            let trouble = match grant.as_ref().map(|grant| &grant.state) {
                Some(GrantState::Live) => None,
                Some(GrantState::Dead { error, cause, .. }) => {
                    Some(format!("login needed: {error}: {cause}"))
                }
                None => Some("login needed: its grant is gone".to_owned()),
            };
            summaries.push(CredentialSummary {
                name: credential,
                bound_at: record.created_at,
                bound_by: record.bound_by,
                refreshed_at: grant.as_ref().map(|grant| grant.refreshed_at),
                used_at: grant.as_ref().map(|grant| grant.used_at),
                trouble,
            });
        }
        summaries.sort_by_key(|summary| summary.name.to_string());
        Ok(summaries)
    }

    /// Whether `credential` points to a grant that works and was made with the scopes the role has today.
    pub(crate) async fn healthy(
        &self,
        credential: &CredentialName,
        issuer: &IssuerSetup,
    ) -> Result<(Option<Stored<CredentialRecord>>, bool), Failure> {
        let Some(standing) = self
            .inner
            .db
            .get::<CredentialRecord>(&credential.key())
            .await?
        else {
            return Ok((None, false));
        };
        let grant = self
            .inner
            .db
            .get::<GrantRecord>(&name(GRANT, &[&standing.value.grant]))
            .await?;
        let scopes = issuer
            .role(&credential.role)
            .map(|role| role.scopes.clone())
            .unwrap_or_default();
        let healthy = grant.is_some_and(|grant| {
            let grant = grant.value;
            grant.state == GrantState::Live
                && grant.answer_lost.is_none()
                && grant.issuer_url == issuer.url
                && grant.client_id == issuer.client_id
                && grant.due.is_some()
        }) && standing.value.scopes == scopes;
        Ok((Some(standing), healthy))
    }

    /// Exchanges `base` at the issuer for a narrower token.
    pub(crate) async fn exchange_at_issuer(
        &self,
        issuer: &IssuerSetup,
        base: &CachedToken,
        want: &Want,
    ) -> Result<CachedToken, Failure> {
        let request = gridkeep_issuer::ExchangeRequest {
            subject_token: SecretString::from(base.token.clone()),
            scopes: want.scopes.clone(),
            audiences: want.audiences.clone(),
            resources: want.resources.clone(),
        };
        let response = issuer
            .client
            .exchange(&request)
            .await
            .map_err(|error| issuer_failure("exchange", &error))?;
        Ok(cached(&response, self.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let name = CredentialName::parse("cms/bob@cern.ch:production").expect("a name");
        assert_eq!(
            (
                name.issuer.as_str(),
                name.owner.as_str(),
                name.role.as_str()
            ),
            ("cms", "bob@cern.ch", "production")
        );
        let robot = CredentialName::parse("dune/dunepro/managedtokens/host.example.org:default")
            .expect("a name");
        assert_eq!(robot.owner, "dunepro/managedtokens/host.example.org");
        for bad in [
            "",
            "dune",
            "dune/",
            "dune/alice",
            "dune/:default",
            "dune/alice:",
            "/alice:default",
            "dune/a//b:r",
            "dune/../b:r",
            "dune/a:/b:r",
            "dune/a\nb:r",
            "dune/a:b/c",
        ] {
            assert!(CredentialName::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_survives_its_text(issuer in "[a-z0-9_-]{1,10}", owner in "[a-zA-Z0-9@._-]{1,10}(/[a-z0-9_-]{1,5}){0,2}", role in "[a-z0-9_-]{1,10}") {
            prop_assume!(owner.split('/').all(|part| part != "." && part != ".."));
            let name = CredentialName { issuer, owner, role };
            prop_assert_eq!(CredentialName::parse(&name.to_string()), Ok(name));
        }

        #[test]
        fn arbitrary_text_does_not_panic(text in ".{0,600}") {
            let _ = CredentialName::parse(&text);
        }
    }
}

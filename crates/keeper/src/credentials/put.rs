//! Storing: a handle of an earlier login is redeemed, a real refresh token that a client brings is proved by using it.

use std::time::Duration;

use gridkeep_store::{Guard, Name};
use secrecy::{ExposeSecret, SecretString};

use super::CredentialName;
use crate::database::{Change, NotCommitted, Stored, name};
use crate::failure::{BadInput, Failure, Later, LaterKind, Refused};
use crate::keeper::Keeper;
use crate::login::HANDLE_LIFE;
use crate::policy::known_issuer;
use crate::records::{
    BROUGHT, BroughtRecord, GRANT, GrantRecord, GrantSecrets, GrantState, HANDLE, HandleRecord,
    REVOCATION,
};
use crate::removed::known_role;
use crate::secret::{Purpose, hex};
use crate::setup::{IssuerSetup, Setup};
use crate::tokens::{Bearer, later};

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

impl Keeper {
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
        let setup = self.setup();
        let (issuer, token) = self.checked_put(&setup, credential, request)?;
        if token.expose_secret().starts_with(Purpose::Handle.prefix()) {
            return self.redeem(by, credential, &token).await;
        }
        self.prove_and_bind(by, credential, issuer.clone(), token)
            .await
    }

    /// The issuer and the token of a request that makes sense.
    fn checked_put<'a>(
        &self,
        setup: &'a Setup,
        credential: &CredentialName,
        request: PutCredential,
    ) -> Result<(&'a IssuerSetup, SecretString), Failure> {
        let server = request
            .server
            .filter(|server| !server.is_empty())
            .ok_or(BadInput::MissingServer)?;
        let spoken_of =
            setup.removed_issuers.contains_key(&server) || setup.left_out.issuers.contains(&server);
        if setup.issuer(&server).is_none() && !spoken_of {
            return Err(BadInput::UnknownServer { server }.into());
        }
        let issuer = known_issuer(setup, &server, self.now())?;
        if server != credential.issuer {
            return Err(BadInput::ServerMismatch {
                server,
                issuer: credential.issuer.clone(),
            }
            .into());
        }
        known_role(setup, issuer, &credential.role, self.now())?;
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
        Ok((issuer, token))
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
            return Err(self.too_late(BadInput::UnknownHandle));
        }
        let stored = self
            .inner
            .db
            .get::<HandleRecord>(&Name::new(HANDLE, &[proven.id().as_slice()]))
            .await?
            .ok_or(BadInput::UnknownHandle)?
            .value;
        let own =
            by.token.id == stored.login_token || by.token.ancestors.contains(&stored.login_token);
        if !own || stored.issuer != credential.issuer {
            return Err(BadInput::UnknownHandle.into());
        }
        if self.now() >= stored.expires_at {
            return Err(self.too_late(BadInput::UnknownHandle));
        }
        self.bind(&by.token, by.from, credential, &stored.grant)
            .await
    }

    /// What somebody hears who comes after the end of something: `ended`, unless the clock that says so is in doubt.
    pub(crate) fn too_late(&self, ended: BadInput) -> Failure {
        if !self.clock_doubtful() {
            return ended.into();
        }
        Later::new(
            LaterKind::ClockDoubtful,
            "by this server's clock it is too late for this, but the clock jumped and is not trusted; try again when the operators have set it right",
        )
        .into()
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
        let grant = self.grant_of_brought(issuer, token, credential).await?;
        if grant.generation > 0 {
            // Proved when it was first brought: sending it again could make the issuer revoke all that came from it.
            if is_of_person(&grant, credential) {
                return self.bind(&by.token, by.from, credential, &grant.id).await;
            }
            // A token that was replaced since proves nothing; whoever finds an old one must not get what came from it.
            let (_, secrets) = self.inner.sealer.open(&grant)?;
            if secrets.refresh_token.as_deref() != Some(token.expose_secret()) {
                return Err(BadInput::IssuerRejected {
                    operation: "refresh",
                    error: "invalid_grant".to_owned(),
                    description: None,
                    uri: None,
                }
                .into());
            }
        }
        let mut flight = self.flight(&grant.id, Some(grant.generation));
        let landing = flight
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|landing| landing.clone());
        match landing {
            Some(Ok(_)) => self.bind(&by.token, by.from, credential, &grant.id).await,
            Some(Err(failure)) => {
                if !matches!(failure, Failure::Later(_)) {
                    self.forget_unproved(&grant.id).await?;
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

    /// The grant that holds `token`: the one it was brought for before, so that two names for one refresh token do not refresh
    /// against each other, else a new one. It is stored before its token is sent, so that what comes back has a place to go.
    async fn grant_of_brought(
        &self,
        issuer: &IssuerSetup,
        token: &SecretString,
        credential: &CredentialName,
    ) -> Result<GrantRecord, Failure> {
        let fingerprint = self.fingerprint(issuer, token);
        let key = name(BROUGHT, &[&fingerprint]);
        loop {
            let known: Option<Stored<BroughtRecord>> = self.inner.db.get(&key).await?;
            if let Some(known) = &known {
                let grant: Option<Stored<GrantRecord>> = self
                    .inner
                    .db
                    .get(&name(GRANT, &[&known.value.grant]))
                    .await?;
                if let Some(grant) = grant.filter(|grant| usable(&grant.value, issuer)) {
                    return Ok(grant.value);
                }
            }
            let secrets = GrantSecrets {
                refresh_token: Some(token.expose_secret().to_owned()),
                alternates: Vec::new(),
                access: None,
            };
            let mut grant = self.new_grant(issuer, None, &secrets)?;
            grant.brought = Some(fingerprint.clone());
            grant.brought_for = Some(credential.to_string());
            let mut change = Change::new();
            change.guard(
                known
                    .as_ref()
                    .map_or_else(|| Guard::Absent(key.clone()), Stored::unchanged),
            );
            let record = BroughtRecord {
                grant: grant.id.clone(),
            };
            change
                .put(key.clone(), &record, None)?
                .put(name(GRANT, &[&grant.id]), &grant, None)?
                .put(
                    name(REVOCATION, &[&grant.id]),
                    &self.unreferenced(true),
                    None,
                )?;
            match self.inner.db.commit(change).await {
                Ok(()) => return Ok(grant),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// A refresh token as the name of a record: nobody can get the token from it.
    fn fingerprint(&self, issuer: &IssuerSetup, token: &SecretString) -> String {
        let text = format!(
            "{}\0{}\0{}",
            issuer.url,
            issuer.client_id,
            token.expose_secret()
        );
        let text = zeroize::Zeroizing::new(text.into_bytes());
        hex(&self
            .inner
            .db
            .store
            .index_mac("brought refresh token", &text))
    }

    /// Drops a grant whose brought token the issuer refused, unless it got a name meanwhile.
    async fn forget_unproved(&self, grant: &str) -> Result<(), Failure> {
        let stored: Option<Stored<GrantRecord>> = self.inner.db.get(&name(GRANT, &[grant])).await?;
        let Some(stored) = stored.filter(|stored| stored.value.references.is_empty()) else {
            return Ok(());
        };
        let mut change = Change::new();
        change.guard(stored.unchanged());
        self.forget_grant(&mut change, &stored.value).await?;
        change.delete(name(REVOCATION, &[grant]));
        match self.inner.db.commit(change).await {
            Ok(()) | Err(NotCommitted::Conflict) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    /// Puts the end of a grant's records into `change`, but for its places in queues.
    pub(crate) async fn forget_grant(
        &self,
        change: &mut Change,
        grant: &GrantRecord,
    ) -> Result<(), Failure> {
        change.delete(name(GRANT, &[&grant.id]));
        if let Some(day) = grant.due {
            change.delete(crate::refresh::due_name(day, &grant.id));
        }
        if let Some(fingerprint) = &grant.brought {
            let known: Option<Stored<BroughtRecord>> =
                self.inner.db.get(&name(BROUGHT, &[fingerprint])).await?;
            if let Some(known) = known.filter(|known| known.value.grant == grant.id) {
                change.guard(known.unchanged()).delete(known.name);
            }
        }
        Ok(())
    }
}

/// Whether `credential` is of the person whose credentials hold `grant`, or, while none does, of the one it was brought for.
fn is_of_person(grant: &GrantRecord, credential: &CredentialName) -> bool {
    let person = |name: &CredentialName| {
        let first = name.owner.split('/').next().unwrap_or_default();
        (name.issuer.clone(), first.to_owned())
    };
    let names = if grant.references.is_empty() {
        grant.brought_for.as_slice()
    } else {
        grant.references.as_slice()
    };
    names
        .iter()
        .filter_map(|name| CredentialName::parse(name).ok())
        .any(|name| person(&name) == person(credential))
}

fn usable(grant: &GrantRecord, issuer: &IssuerSetup) -> bool {
    grant.state == GrantState::Live
        && grant.issuer_url == issuer.url
        && grant.client_id == issuer.client_id
}

//! Names and grants: binding a name to a grant, taking it off, and what follows for grants that nobody names any more.

use std::net::IpAddr;

use gridkeep_store::Guard;

use super::CredentialName;
use super::named::{enter, leave};
use crate::database::{Change, NotCommitted, Stored, name};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::records::{
    CredentialRecord, GRANT, GrantRecord, GrantSecrets, GrantState, KeeperToken, REVOCATION,
    RevocationRecord,
};
use crate::secret::random_id;
use crate::setup::IssuerSetup;
use crate::tokens::Bearer;

/// Names one grant can have.
const MAX_REFERENCES: usize = 64;

impl Keeper {
    /// Points `credential` to `grant`; what it pointed to before loses that reference. Repeating it changes nothing.
    pub(super) async fn bind(
        &self,
        by: &KeeperToken,
        from: Option<std::net::IpAddr>,
        credential: &CredentialName,
        grant: &str,
    ) -> Result<(), Failure> {
        let bound_by = self.name_of_user(by).await?;
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
                // A dead one is as good as gone: its issuer has refused it, or it is being revoked.
                .filter(|stored| stored.value.state == GrantState::Live)
                .ok_or(BadInput::UnknownHandle)?;
            let mut record = stored.value.clone();
            if record.references.len() >= MAX_REFERENCES {
                return Err(BadInput::Other(format!("one login can be stored under at most {MAX_REFERENCES} names; log in again for more")).into());
            }
            record.references.push(credential.to_string());
            let scopes = self
                .issuer_of(&self.setup(), &record)?
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
                &bound_by,
                scopes,
            )
            .await?;
            events::record(
                &mut change,
                &Event {
                    at: self.now(),
                    what: "bound".into(),
                    subject: credential.to_string(),
                    by: bound_by.clone(),
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
        enter(change, credential)?;
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
            change.put(
                name(REVOCATION, &[grant]),
                &RevocationRecord {
                    since: self.now(),
                    attempts: 0,
                    forget: false,
                },
                None,
            )?;
        }
        change.put(stored.name.clone(), &record, None)?;
        Ok(())
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
        let mut grant = GrantRecord {
            sealed: String::new(),
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
            brought: None,
            brought_for: None,
            ends: None,
        };
        key.close(&mut grant, secrets)?;
        Ok(grant)
    }

    /// Deletes a credential; its grant is revoked at the issuer afterwards when no other name points to it. Tells whether there
    /// was one.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be written.
    pub async fn delete(&self, by: &Bearer, credential: &CredentialName) -> Result<bool, Failure> {
        let name = self.name_of_user(&by.token).await?;
        self.delete_as(&name, by.from, credential).await
    }

    /// The same on behalf of `by`, whoever that is.
    ///
    /// # Errors
    /// As for [`Keeper::delete`].
    pub async fn delete_as(
        &self,
        by: &str,
        from: Option<IpAddr>,
        credential: &CredentialName,
    ) -> Result<bool, Failure> {
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
            leave(&mut change, credential);
            self.unreference(&mut change, &standing.value.grant, credential)
                .await?;
            events::record(
                &mut change,
                &Event {
                    at: self.now(),
                    what: "deleted".into(),
                    subject: credential.to_string(),
                    by: by.to_owned(),
                    from,
                    detail: String::new(),
                },
            )?;
            match self.inner.db.commit_critical(change).await {
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
}

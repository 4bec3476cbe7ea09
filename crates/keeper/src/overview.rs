//! What operators and owners are shown: what is stored, for whom, how long it lives, what is failing and why.
//!
//! Owns putting that together; shows nothing secret and changes nothing. Who may see what is for policies and dialects to say.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use gridkeep_token::time::UnixSeconds;

use crate::credentials::CredentialName;
use crate::database::name;
use crate::failure::Failure;
use crate::keeper::Keeper;
use crate::records::{
    CREDENTIAL, CredentialRecord, GRANT, GrantEnds, GrantRecord, GrantState, REVOCATION,
    RevocationRecord,
};
use crate::setup::Setup;
use crate::tokens::later;

/// Ends nearer than this are told of, in seconds.
const SOON: i64 = 7 * 86_400;

/// A credential and the login behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialDetails {
    /// Its name.
    pub name: CredentialName,
    /// When it was bound.
    pub bound_at: UnixSeconds,
    /// Display name of the token that bound it.
    pub bound_by: String,
    /// Why it does not work, when it does not.
    pub trouble: Option<String>,
    /// The login; `None` when it is gone.
    pub grant: Option<GrantDetails>,
}

/// One login at an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantDetails {
    /// Its id.
    pub id: String,
    /// Whose it is at the issuer.
    pub subject: Option<String>,
    /// When it was made.
    pub created_at: UnixSeconds,
    /// When it was last refreshed.
    pub refreshed_at: UnixSeconds,
    /// Last use that was noted.
    pub used_at: UnixSeconds,
    /// All names that point to it.
    pub names: Vec<String>,
    /// Whether it can be refreshed.
    pub refreshable: bool,
    /// When the access token at hand ends.
    pub access_until: Option<UnixSeconds>,
    /// Its absolute end, where it is known: that of a refresh token which says so itself, or of the only access token.
    pub ends_at: Option<UnixSeconds>,
    /// Its idle end: until then it is kept alive although nobody uses it. After that the issuer forgets it when it pleases.
    pub idle_end: Option<UnixSeconds>,
}

impl CredentialDetails {
    /// Whether its end, absolute or idle, is near and has not passed.
    pub fn ends_soon(&self, now: UnixSeconds) -> bool {
        self.an_end(|end| (0..SOON).contains(&(end.0 - now.0)))
    }

    /// Whether its end, absolute or idle, has passed.
    pub fn has_ended(&self, now: UnixSeconds) -> bool {
        self.an_end(|end| end < now)
    }

    fn an_end(&self, is: impl Fn(UnixSeconds) -> bool) -> bool {
        let ends = self.grant.iter();
        ends.flat_map(|grant| [grant.ends_at, grant.idle_end])
            .flatten()
            .any(is)
    }
}

/// A list that may have been cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt<T> {
    /// What was found first.
    pub found: Vec<T>,
    /// Whether there is more.
    pub more: bool,
}

/// What waits to be revoked at issuers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PendingRevocations {
    /// How many logins.
    pub count: usize,
    /// How many of them an issuer has refused or not answered for at least once.
    pub tried: usize,
}

impl Keeper {
    /// Everything about one credential but its secrets.
    ///
    /// # Errors
    /// [`Failure::NotFound`].
    pub async fn credential_details(
        &self,
        credential: &CredentialName,
    ) -> Result<CredentialDetails, Failure> {
        let key = name(
            CREDENTIAL,
            &[&credential.issuer, &credential.owner, &credential.role],
        );
        let stored = self
            .inner
            .db
            .get::<CredentialRecord>(&key)
            .await?
            .ok_or(Failure::NotFound)?;
        self.details(&self.setup(), credential.clone(), stored.value)
            .await
    }

    /// The credentials of `issuer`, or of all, that are `visible`; at most `limit` of them, in order of their names.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn credentials_in_detail(
        &self,
        issuer: Option<&str>,
        limit: usize,
        visible: impl Fn(&CredentialName) -> bool,
    ) -> Result<Excerpt<CredentialDetails>, Failure> {
        let prefix: Vec<&[u8]> = issuer.iter().map(|issuer| issuer.as_bytes()).collect();
        let mut names = BTreeMap::new();
        let mut more = false;
        self.inner
            .db
            .each::<CredentialRecord>(CREDENTIAL, &prefix, |stored| {
                if let Some(credential) = CredentialName::of_record(&stored.name)
                    && visible(&credential)
                {
                    if names.len() == limit {
                        more = true;
                        return ControlFlow::Break(());
                    }
                    names.insert(credential.to_string(), (credential, stored.value));
                }
                ControlFlow::Continue(())
            })
            .await?;
        let setup = self.setup();
        let mut found = Vec::with_capacity(names.len());
        for (credential, record) in names.into_values() {
            found.push(self.details(&setup, credential, record).await?);
        }
        Ok(Excerpt { found, more })
    }

    async fn details(
        &self,
        setup: &Setup,
        credential: CredentialName,
        record: CredentialRecord,
    ) -> Result<CredentialDetails, Failure> {
        let stored = self
            .inner
            .db
            .get::<GrantRecord>(&name(GRANT, &[&record.grant]))
            .await?;
        let grant = stored.map(|stored| {
            let ends = self.ends_of(&stored.value);
            let trouble = self.trouble_of(setup, &stored.value, ends.is_none());
            (grant_details(setup, &stored.value, ends), trouble)
        });
        let now = self.now();
        let trouble = match &grant {
            None => Some("login needed: its login is gone".to_owned()),
            Some((_, Some(trouble))) => Some(trouble.clone()),
            Some((details, None)) => details
                .ends_at
                .filter(|end| *end <= now)
                .map(|_| "login needed: its time at the issuer is over".to_owned()),
        };
        Ok(CredentialDetails {
            name: credential,
            bound_at: record.created_at,
            bound_by: record.bound_by,
            trouble,
            grant: grant.map(|(details, _)| details),
        })
    }

    /// What is known of the ends of a grant that can be opened. Its secrets stay closed, but in a record of an earlier time.
    fn ends_of(&self, grant: &GrantRecord) -> Option<GrantEnds> {
        let sealer = &self.inner.sealer;
        match grant.ends {
            Some(ends) => sealer.key(grant).is_ok().then_some(ends),
            None => {
                let (_, secrets) = sealer.open(grant).ok()?;
                Some(GrantEnds::of(&secrets))
            }
        }
    }

    fn trouble_of(&self, setup: &Setup, grant: &GrantRecord, damaged: bool) -> Option<String> {
        if let GrantState::Dead { error, cause, .. } = &grant.state {
            return Some(format!("login needed: {error}: {cause}"));
        }
        if let Err(failure) = self.issuer_of(setup, grant) {
            return Some(failure.to_string());
        }
        if damaged {
            return Some("login needed: the record of its login is damaged".to_owned());
        }
        grant.answer_lost.as_ref().map(|lost| {
            format!(
                "in doubt: an answer of the issuer was lost ({}); the next refresh shows whether a login is needed",
                lost.how
            )
        })
    }

    /// What waits to be revoked at issuers.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn pending_revocations(&self) -> Result<PendingRevocations, Failure> {
        let now = self.now();
        let mut pending = PendingRevocations::default();
        self.inner
            .db
            .each::<RevocationRecord>(REVOCATION, &[], |stored| {
                // One that was never tried and is for later belongs to a login whose handle may still be redeemed.
                if stored.value.attempts > 0 || stored.value.since <= now {
                    pending.count += 1;
                    pending.tried += usize::from(stored.value.attempts > 0);
                }
                ControlFlow::Continue(())
            })
            .await?;
        Ok(pending)
    }
}

fn grant_details(setup: &Setup, grant: &GrantRecord, ends: Option<GrantEnds>) -> GrantDetails {
    let refreshable = ends.is_some_and(|ends| ends.refreshable);
    let access_until = ends.and_then(|ends| ends.access);
    GrantDetails {
        id: grant.id.clone(),
        subject: grant.subject.clone(),
        created_at: grant.created_at,
        refreshed_at: grant.refreshed_at,
        used_at: grant.used_at,
        names: grant.references.clone(),
        refreshable,
        ends_at: if refreshable {
            ends.and_then(|ends| ends.refresh)
        } else {
            access_until
        },
        access_until,
        idle_end: refreshable.then(|| later(grant.used_at, setup.keep_alive.limit)),
    }
}

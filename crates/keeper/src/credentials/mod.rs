//! Credentials: names that point to grants.
//!
//! Owns reading an access token, here; storing in [`put`], binding and deleting in [`bind`], the form of names in
//! [`name`]. Refuses to know how a refresh is done: that is the refresh engine's.

mod bind;
mod holders;
mod name;
mod named;
mod put;

use std::sync::Arc;

use gridkeep_token::time::{Seconds, UnixSeconds};
use secrecy::SecretString;

use crate::database::{Stored, name as record_name};
use crate::delegation::UseLimits;
use crate::failure::{BadInput, Failure, Later, LaterKind, Refused};
use crate::keeper::Keeper;
use crate::policy::known_issuer;
use crate::records::{CachedToken, CredentialRecord, GRANT, GrantRecord, GrantSecrets, GrantState};
use crate::removed::known_role;
use crate::setup::Setup;
use crate::tokens::Bearer;

pub use holders::Holders;
pub use name::CredentialName;
pub use named::{NamesPage, NamesWanted};
pub use put::PutCredential;

/// The least life of a token that is handed out, in seconds.
pub(crate) const LEAST: Seconds = Seconds(10);

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
    /// What was delegated to the reader: the token stays within one of these. Empty for what is the reader's own.
    pub limits: Vec<UseLimits>,
}

impl Want {
    /// Whether the token has to be exchanged for a narrower one.
    pub fn narrows(&self) -> bool {
        !(self.scopes.is_empty() && self.audiences.is_empty() && self.resources.is_empty())
    }

    pub(crate) fn least(&self) -> Seconds {
        self.minimum.max(LEAST)
    }

    /// Refuses what is no scope (RFC 6749, section 3.3) and what no audience or resource can be, before it is compared, cached or
    /// sent: what one side takes for one item must not be two to another.
    fn check(&self) -> Result<(), BadInput> {
        let no_scope = |scope: &&String| {
            let of_token = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            scope.is_empty() || !scope.bytes().all(of_token)
        };
        if let Some(scope) = self.scopes.iter().find(no_scope) {
            return Err(BadInput::Other(format!(
                "{scope:?} is no scope: scopes are made of printable ASCII characters other than blanks, '\"' and '\\'"
            )));
        }
        let mut named = self.audiences.iter().chain(&self.resources);
        if let Some(other) = named.find(|text| text.chars().any(char::is_control)) {
            return Err(BadInput::Other(format!(
                "{other:?} is no audience or resource: it holds control characters"
            )));
        }
        Ok(())
    }
}

/// What is wanted, within the reader's own limits and within the first of what was delegated that allows it.
fn within_limits(own: Option<&UseLimits>, want: &Want) -> Result<Want, BadInput> {
    let want = match own {
        Some(own) => own.narrow(want)?,
        None => want.clone(),
    };
    let mut refusal = None;
    for limits in &want.limits {
        match limits.narrow(&want) {
            Ok(narrowed) => {
                return Ok(Want {
                    limits: vec![limits.clone()],
                    ..narrowed
                });
            }
            Err(beyond) => refusal = Some(beyond),
        }
    }
    refusal.map_or(Ok(want), Err)
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

/// A credential with its grant opened.
pub(crate) struct Opened {
    pub grant: Arc<Stored<GrantRecord>>,
    pub secrets: GrantSecrets,
    pub setup: Arc<Setup>,
    pub warnings: Vec<String>,
}

/// What a grant holds, opened with what the configuration says of it today.
struct Contents {
    secrets: GrantSecrets,
    setup: Arc<Setup>,
    warnings: Vec<String>,
}

impl Opened {
    pub fn warn_short(&mut self, least: Seconds) {
        self.warnings.push(format!(
            "the issuer's tokens live shorter than the {} seconds asked for; this one is fresh",
            least.0
        ));
    }
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
    /// [`Failure::NotFound`] when nothing is stored; [`GrantDead`](crate::Refused::GrantDead) when the issuer refused for good and nothing cached
    /// lives long enough; [`Failure::Later`] while the issuer is slow or down.
    pub async fn read(
        &self,
        by: &Bearer,
        credential: &CredentialName,
        want: &Want,
    ) -> Result<AccessToken, Failure> {
        want.check()?;
        let own = by.token.limits.as_ref();
        let want = within_limits(own, want)?;
        if let Some(known) = self.known_token(credential, &want) {
            return Ok(known);
        }
        let mut opened = self.open_credential(credential).await?;
        let access = self.base_token(&mut opened, want.least()).await?;
        self.mark_used(&opened.grant.value.id, &access);
        let access = if want.narrows() {
            self.exchanged(&mut opened, &access, &want).await?
        } else {
            access
        };
        for limits in own.into_iter().chain(&want.limits) {
            limits.check_audience(&access.token)?;
        }
        Ok(AccessToken {
            token: SecretString::from(access.token.clone()),
            token_type: access.token_type.clone(),
            expires_at: access.expires_at.map(UnixSeconds),
            server: credential.issuer.clone(),
            warnings: opened.warnings,
        })
    }

    /// The access token as it is in memory, while that counts; `None` means that the store has to be asked.
    fn known_token(&self, credential: &CredentialName, want: &Want) -> Option<AccessToken> {
        if want.narrows() {
            return None;
        }
        let kept = self.kept()?;
        let stored = kept.credentials.get(&credential.key())?;
        let grant = kept
            .grants
            .get(&record_name(GRANT, &[&stored.value.grant]))?;
        if grant.value.state != GrantState::Live {
            return None;
        }
        let contents = self
            .contents(credential, &stored.value, &grant.value)
            .ok()?;
        let access = contents.secrets.access.as_ref()?;
        if !access.lasts(self.now(), want.least()) {
            return None;
        }
        self.mark_used(&grant.value.id, access);
        Some(AccessToken {
            token: SecretString::from(access.token.clone()),
            token_type: access.token_type.clone(),
            expires_at: access.expires_at.map(UnixSeconds),
            server: credential.issuer.clone(),
            warnings: contents.warnings,
        })
    }

    /// Issuer and role of a credential are configured. Asked also for robots, whose policy covers whatever role stands behind their name.
    fn is_served(&self, setup: &Setup, credential: &CredentialName) -> Result<(), Failure> {
        let issuer = known_issuer(setup, &credential.issuer, self.now())?;
        known_role(setup, issuer, &credential.role, self.now()).map(drop)
    }

    async fn open_credential(&self, credential: &CredentialName) -> Result<Opened, Failure> {
        self.is_served(&self.setup(), credential)?;
        let stored = self
            .inner
            .db
            .get_and_keep(|caches| &caches.credentials, &credential.key())
            .await?
            .ok_or(Failure::NotFound)?;
        let grant = self
            .inner
            .db
            .get_and_keep(
                |caches| &caches.grants,
                &record_name(GRANT, &[&stored.value.grant]),
            )
            .await?
            .ok_or(Failure::NotFound)?;
        let contents = self.contents(credential, &stored.value, &grant.value)?;
        Ok(Opened {
            grant,
            secrets: contents.secrets,
            setup: contents.setup,
            warnings: contents.warnings,
        })
    }

    fn contents(
        &self,
        credential: &CredentialName,
        stored: &CredentialRecord,
        grant: &GrantRecord,
    ) -> Result<Contents, Failure> {
        let setup = self.setup();
        self.is_served(&setup, credential)?;
        let issuer = self.issuer_of(&setup, grant)?;
        let mut warnings = Vec::new();
        if let Some(role) = issuer
            .role(&credential.role)
            .filter(|role| role.scopes != stored.scopes && !stored.scopes.is_empty())
        {
            if issuer.reauth_on_scope_change {
                return Err(Refused::GrantDead {
                    error: "scopes_changed".into(),
                    description: None,
                    cause: format!("the scopes of role \"{}\" were changed after this login was made, and the operators of this server ask for a new login then", role.name),
                }
                .into());
            }
            warnings.push(format!("the scopes of role \"{}\" were changed after this login was made; log in again to get a token with the new ones", role.name));
        }
        let (_, secrets) = self.inner.sealer.open(grant)?;
        Ok(Contents {
            secrets,
            setup,
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
        if let Some(access) = opened.secrets.access.clone() {
            if access.lasts(now, least) {
                if let GrantState::Dead { error, cause, .. } = &opened.grant.value.state {
                    opened.warnings.push(format!(
                        "token will expire: refresh failed: {error}: {cause}; log in again"
                    ));
                }
                return Ok(access);
            }
            let dead = matches!(opened.grant.value.state, GrantState::Dead { .. });
            if !dead && access.is_all_there_is(now, least) && access.lasts(now, LEAST) {
                opened.warn_short(least);
                return Ok(access);
            }
        }
        let grant = &opened.grant.value;
        let fresh = self.refreshed(&grant.id, grant.generation).await?;
        let now = self.now();
        if !fresh.lasts(now, LEAST) {
            return Err(too_short(&fresh, "token"));
        }
        if !fresh.lasts(now, least) {
            opened.warn_short(least);
        }
        Ok(fresh)
    }
}

/// Why a new token that lives for less than [`LEAST`] is not handed out: all of its life is shorter than that, or some of it went by
/// before the token was here and kept, and then the next one may do. `which` names the token.
pub(crate) fn too_short(token: &CachedToken, which: &str) -> Failure {
    if token.lived_for(LEAST) {
        return Later::new(
            LaterKind::IssuerSlow,
            format!(
                "a fresh {which} was so long on its way from the token issuer, or in being kept, that less than {} seconds of its life are left; try again",
                LEAST.0
            ),
        )
        .into();
    }
    BadInput::Expired {
        what: format!(
            "even a fresh {which} of this issuer lives less than {} seconds",
            LEAST.0
        ),
    }
    .into()
}

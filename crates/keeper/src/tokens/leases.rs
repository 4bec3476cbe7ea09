//! Tokens by the path they came from, as the lease calls of the Vault API see them: there a token is the lease of its own login.
//!
//! Whoever is to be locked out at once is locked out by the prefix of a login mount.

use futures_util::stream::{self, TryStreamExt as _};

use crate::database::Stored;
use crate::failure::{BadInput, Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::records::{KeeperToken, TOKEN};
use crate::secret::TokenId;

/// Revocations under way at once; the store commits them in groups.
const AT_ONCE: usize = 64;

/// The lease of a token: the path it came from, and its id, which gives no power.
fn lease_of(token: &KeeperToken) -> String {
    format!("{}/h{}", token.path, String::from(token.id))
}

/// The id in a lease.
fn id_in(lease: &str) -> Option<TokenId> {
    let (_, last) = lease.rsplit_once('/')?;
    TokenId::try_from(last.strip_prefix('h')?.to_owned()).ok()
}

/// `prefix` with one slash at its end, so that `auth/oidc-dune` does not also mean `auth/oidc-dune2`.
fn directory(prefix: &str) -> String {
    let bare = prefix.trim_matches('/');
    if bare.is_empty() {
        String::new()
    } else {
        format!("{bare}/")
    }
}

impl Keeper {
    /// The live token with this lease.
    ///
    /// # Errors
    /// [`BadInput::InvalidLease`] when there is none.
    pub async fn lease(&self, lease: &str) -> Result<KeeperToken, Failure> {
        let id = id_in(lease).ok_or(BadInput::InvalidLease)?;
        let found = self.live(&id).await.map_err(|failure| match failure {
            // A lease carries no proof of its origin, so a missing record is no riddle but a wrong lease.
            Failure::Later(Later {
                kind: LaterKind::TokenRecordMissing,
                ..
            })
            | Failure::Refused(_)
            | Failure::NotFound => BadInput::InvalidLease.into(),
            other => other,
        })?;
        if lease_of(&found.value) == lease {
            Ok(found.value)
        } else {
            Err(BadInput::InvalidLease.into())
        }
    }

    /// Revokes the token with this lease; one that is not there stays so.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be written.
    pub async fn revoke_lease(&self, lease: &str) -> Result<(), Failure> {
        match self.lease(lease).await {
            Ok(token) => self.revoke(&token.id).await,
            Err(Failure::BadInput(BadInput::InvalidLease)) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// What lies directly below `prefix`: parts of paths with a slash, and leases.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn leases_below(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        let prefix = directory(prefix);
        let mut keys = std::collections::BTreeSet::new();
        self.each_living(|token| {
            if let Some(rest) = lease_of(token).strip_prefix(&prefix) {
                keys.insert(match rest.split_once('/') {
                    Some((part, _)) => format!("{part}/"),
                    None => rest.to_owned(),
                });
            }
        })
        .await?;
        Ok(keys.into_iter().collect())
    }

    /// Revokes every token that came from a path below `prefix`, and with each all its descendants. Tells how many.
    ///
    /// # Errors
    /// [`BadInput::InvalidLease`] for an empty prefix, which would end everything.
    pub async fn revoke_prefix(&self, prefix: &str) -> Result<usize, Failure> {
        let prefix = directory(prefix);
        if prefix.is_empty() {
            return Err(BadInput::InvalidLease.into());
        }
        let mut doomed = Vec::new();
        self.each_living(|token| {
            if lease_of(token).starts_with(&prefix) {
                doomed.push(token.id);
            }
        })
        .await?;
        stream::iter(doomed.iter().copied().map(Ok))
            .try_for_each_concurrent(AT_ONCE, |id| async move { self.revoke(&id).await })
            .await?;
        Ok(doomed.len())
    }

    /// Every token that is neither revoked nor expired by itself.
    async fn each_living(&self, mut each: impl FnMut(&KeeperToken)) -> Result<(), Failure> {
        let now = self.now();
        self.inner
            .db
            .each::<KeeperToken>(TOKEN, &[], |stored: Stored<KeeperToken>| {
                let token = &stored.value;
                if token.revoked.is_none() && token.expires_at.is_none_or(|end| end > now) {
                    each(token);
                }
                std::ops::ControlFlow::Continue(())
            })
            .await
    }
}

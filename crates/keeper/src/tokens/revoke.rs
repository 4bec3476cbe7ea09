//! Revoking: a tree in one write, or one token whose children live on.

use super::{dead_to, held, kept_until, token_name};
use crate::database::{Change, NotCommitted};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::records::{KeeperToken, Revoked};
use crate::secret::TokenId;

impl Keeper {
    /// Revokes a token and with it all its descendants. One that is dead already stays so.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be written.
    pub async fn revoke(&self, id: &TokenId) -> Result<(), Failure> {
        loop {
            let Some(stored) = self.inner.db.get::<KeeperToken>(&token_name(id)).await? else {
                return Ok(());
            };
            if stored.value.revoked.is_some() {
                return Ok(());
            }
            let mut change = Change::new();
            change.guard(stored.unchanged());
            self.put_death(&mut change, stored.value, false)?;
            match self.inner.db.commit_critical(change).await {
                Ok(()) => return Ok(()),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Revokes a token alone: its children live on as orphans.
    ///
    /// # Errors
    /// [`BadInput::RevokeTargetNotFound`] when there is no such living token.
    pub async fn revoke_orphan(&self, id: &TokenId) -> Result<(), Failure> {
        loop {
            // Only a living one: the children of one that died with its ancestors are dead, and cutting them loose from it would
            // bring them back. So nothing above it may change either until this is committed.
            let found = self
                .live_with_ancestors(id)
                .await
                .map_err(|failure| dead_to(failure, &BadInput::RevokeTargetNotFound.into()))?;
            let mut change = Change::new();
            change.guard(found.token.unchanged());
            for ancestor in found.above {
                change.guard(ancestor);
            }
            self.put_death(&mut change, found.token.value, true)?;
            match self.inner.db.commit_critical(change).await {
                Ok(()) => return Ok(()),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    fn put_death(
        &self,
        change: &mut Change,
        mut token: KeeperToken,
        children_survive: bool,
    ) -> Result<(), Failure> {
        let now = self.inner.time.now();
        token.revoked = Some(Revoked {
            at: now,
            children_survive,
        });
        change.put(token_name(&token.id), &token, kept_until(&token))?;
        held::leave(change, &token);
        events::record(
            change,
            &Event {
                at: now,
                what: "revoked".into(),
                subject: format!("token {}", token.accessor),
                by: token.display_name.clone(),
                from: None,
                detail: String::new(),
            },
        )
    }
}

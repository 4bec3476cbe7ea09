//! Which tokens somebody may look at and end as their own: all of the same person, or those below the one that was shown; and what that
//! person is called.

use std::sync::Arc;

use gridkeep_store::Name;

use super::{Bearer, token_name};
use crate::database::Stored;
use crate::failure::Failure;
use crate::keeper::Keeper;
use crate::policy::{DEFAULT, SSH_REGISTER};
use crate::records::KeeperToken;
use crate::secret::TokenId;

/// The tokens that are somebody's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kin {
    asking: TokenId,
    /// Whose tokens all of them are; `None` = none but the asking one and what was made of it.
    entity: Option<String>,
}

impl Kin {
    /// Whether `token` is one of them.
    pub fn includes(&self, token: &KeeperToken) -> bool {
        token.id == self.asking
            || token.ancestors.contains(&self.asking)
            || (self.entity.is_some() && token.entity == self.entity)
    }
}

impl Keeper {
    /// The tokens that are the bearer's own. A child that was given less than those above it is meant for somebody else's hands, and
    /// has none but itself and its descendants; one that is as good as the login it came from, as clients keep it, has all the
    /// person's.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn kin(&self, bearer: &Bearer) -> Result<Kin, Failure> {
        let token = &bearer.token;
        let above = self.above(token).await?;
        let whole = above.iter().all(|above| {
            above
                .as_ref()
                .is_some_and(|above| is_as_good(token, &above.value))
        });
        Ok(Kin {
            asking: token.id,
            entity: token.entity.clone().filter(|_| whole),
        })
    }

    /// Under which name people know whoever uses `token`. Children have names of Vault's, `token` for most, which say nothing of that:
    /// then it is the name of the login they come from, or else of the person they speak for.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn name_of_user(&self, token: &KeeperToken) -> Result<String, Failure> {
        if !token.is_child() {
            return Ok(token.display_name.clone());
        }
        let above = self.above(token).await?;
        let login = above
            .iter()
            .flatten()
            .find(|above| !above.value.is_child())
            .map(|above| above.value.display_name.clone());
        Ok(login
            .or_else(|| Some(token.identity.as_ref()?.alias.clone()))
            .unwrap_or_else(|| token.display_name.clone()))
    }

    /// The tokens that a token comes from, the nearest first; `None` for one that is no more.
    async fn above(
        &self,
        token: &KeeperToken,
    ) -> Result<Vec<Option<Arc<Stored<KeeperToken>>>>, Failure> {
        let names: Vec<Name> = token.ancestors.iter().map(token_name).collect();
        self.inner
            .db
            .get_many_and_keep(|caches| &caches.tokens, &names)
            .await
    }
}

/// Whether a token may do all that the one above it may, but for what clients leave out of the tokens that they keep: registering ssh
/// keys. `default` gives nothing over anybody else.
fn is_as_good(token: &KeeperToken, above: &KeeperToken) -> bool {
    let left_out = |policy: &str| policy == DEFAULT || policy.starts_with(SSH_REGISTER);
    token.num_uses == above.num_uses
        && token.limits == above.limits
        && token.bound_cidrs == above.bound_cidrs
        && above
            .policies
            .iter()
            .all(|policy| left_out(policy) || token.policies.contains(policy))
}

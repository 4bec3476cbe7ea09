//! Tokens by whom they speak for: an index from a person to the tokens, so that a list costs what its person has and not what the
//! store has.
//!
//! An entry comes and moves with its token and goes when that is revoked or swept. Tokens of nobody in particular (an operator's, and
//! what is made of it) stand under their display name.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use gridkeep_store::{Cursor, Name};
use gridkeep_token::time::UnixSeconds;
use serde::{Deserialize, Serialize};

use super::{Bearer, token_name};
use crate::database::{Change, NotCommitted, Stored};
use crate::failure::{Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::overview::Excerpt;
use crate::records::{HELD, KeeperToken, TOKEN};
use crate::secret::TokenId;

/// Tokens of one person that are looked at for one list; whoever has more is told so.
const MOST_ENTRIES: usize = 10_000;
/// Entries that are looked through for it, those of tokens that have ended included, which are swept a week later.
const MOST_PASSED: usize = 20 * MOST_ENTRIES;
/// Tokens looked through where the index does not help: a part of a name, or a store that is not indexed yet.
const MOST_LOOKED_AT: usize = if cfg!(test) { 500 } else { 20_000 };
/// Tokens entered into the index per transaction.
const AT_ONCE: usize = 40;
/// Tokens whose records are read side by side.
const ABREAST: usize = 16;
/// Parts of a name that a person is looked for under.
const MOST_PARTS: usize = 8;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct HeldRecord {
    token: TokenId,
    accessor: String,
    #[serde(default)]
    expires_at: Option<UnixSeconds>,
}

/// Whom a token speaks for: robots stand with their person.
fn person(token: &KeeperToken) -> &str {
    match &token.identity {
        Some(identity) => identity.alias.split('/').next().unwrap_or(&identity.alias),
        None => &token.display_name,
    }
}

fn entry(token: &KeeperToken) -> Name {
    let entity = token.entity.as_deref().unwrap_or_default();
    let parts = [person(token).as_bytes(), entity.as_bytes(), &token.id.0];
    Name::new(HELD, &parts)
}

/// Enters a token, or moves its entry's end, along with what is being written of it.
pub(super) fn enter(change: &mut Change, token: &KeeperToken) -> Result<(), Failure> {
    let record = HeldRecord {
        token: token.id,
        accessor: token.accessor.clone(),
        expires_at: token.expires_at,
    };
    change.put(entry(token), &record, token.expires_at.map(|end| end.0))?;
    Ok(())
}

/// Takes a token out that is being revoked.
pub(super) fn leave(change: &mut Change, token: &KeeperToken) {
    change.delete(entry(token));
}

impl Keeper {
    /// The live tokens that are the bearer's own ([`Keeper::kin`]): those whose accessors follow `after`, at most `most` of them, in
    /// order of their accessors. Of those that speak for nobody only the ones with the same display name are looked at.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn tokens_of(
        &self,
        by: &Bearer,
        after: Option<&str>,
        most: usize,
    ) -> Result<Excerpt<KeeperToken>, Failure> {
        let (asking, kin) = (&by.token, self.kin(by).await?);
        let is_own = |token: &KeeperToken| kin.includes(token);
        let follows = |accessor: &str| after.is_none_or(|after| accessor > after);
        if !self.tokens_are_indexed().await? {
            let wanted = |token: &KeeperToken| is_own(token) && follows(&token.accessor);
            let mut listed = self.live_tokens(MOST_LOOKED_AT, wanted).await?;
            listed
                .found
                .sort_unstable_by(|one, other| one.accessor.cmp(&other.accessor));
            listed.more |= listed.found.len() > most;
            listed.found.truncate(most);
            return Ok(listed);
        }
        let mut found = Entries::default();
        let entity = asking.entity.as_deref().unwrap_or_default();
        let prefix = [person(asking).as_bytes(), entity.as_bytes()];
        self.look_through_held(&prefix, &mut found).await?;
        found.tokens.insert(asking.accessor.clone(), asking.id);
        let wanted = found
            .tokens
            .into_iter()
            .filter(|(accessor, _)| follows(accessor))
            .map(|(_, id)| id);
        let listed = self.living(wanted, most, is_own).await?;
        Ok(Excerpt {
            more: listed.more || found.more,
            ..listed
        })
    }

    /// The live tokens that speak for the person `of`, or whose display names contain this; at most `most`, the newest first. All
    /// tokens of that person are looked at, and of the others as many as can be in reasonable time: `more` says whether some were not.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn tokens_named(
        &self,
        of: &str,
        most: usize,
    ) -> Result<Excerpt<KeeperToken>, Failure> {
        let wanted = |token: &KeeperToken| token.display_name.contains(of) || person(token) == of;
        let mut listed = self.live_tokens(most, wanted).await?;
        if !listed.more || of.is_empty() {
            return Ok(listed);
        }
        // Display names of people end with the person: oidc-dune-alice.
        let mut entries = Entries::default();
        let parts = of.match_indices('-').map(|(at, _)| &of[at + 1..]);
        for part in std::iter::once(of).chain(parts).take(MOST_PARTS) {
            self.look_through_held(&[part.as_bytes()], &mut entries)
                .await?;
        }
        for token in &listed.found {
            entries.tokens.remove(&token.accessor);
        }
        let room = most.saturating_sub(listed.found.len());
        let others = self
            .living(entries.tokens.into_values(), room, wanted)
            .await?;
        listed.found.extend(others.found);
        newest_first(&mut listed.found);
        Ok(listed)
    }

    /// The live tokens for which `wanted`, with their ancestors alive; at most `limit`, the newest first. Not more tokens are looked
    /// at than can be in reasonable time, dead ones included.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn live_tokens(
        &self,
        limit: usize,
        wanted: impl Fn(&KeeperToken) -> bool,
    ) -> Result<Excerpt<KeeperToken>, Failure> {
        let now = self.now();
        let (mut found, mut looked_at, mut cut) = (Vec::new(), 0, false);
        self.inner
            .db
            .each::<KeeperToken>(TOKEN, &[], |stored| {
                if looked_at == MOST_LOOKED_AT {
                    cut = true;
                    return ControlFlow::Break(());
                }
                looked_at += 1;
                let token = stored.value;
                if is_held(&token, now) && wanted(&token) {
                    found.push(token.id);
                }
                ControlFlow::Continue(())
            })
            .await?;
        let mut listed = self.living(found.into_iter(), limit, wanted).await?;
        newest_first(&mut listed.found);
        listed.more |= cut;
        Ok(listed)
    }

    /// Those of `tokens` that are alive with all their ancestors and for which `wanted`, in their order; at most `most`.
    async fn living(
        &self,
        tokens: impl Iterator<Item = TokenId>,
        most: usize,
        wanted: impl Fn(&KeeperToken) -> bool,
    ) -> Result<Excerpt<KeeperToken>, Failure> {
        let mut looked_at = stream::iter(tokens)
            .map(|id| async move {
                match self.live(&id).await {
                    Ok(stored) => Ok(Some(stored.value)),
                    // It or an ancestor is dead, or died while this was looked at.
                    Err(
                        Failure::Refused(_)
                        | Failure::NotFound
                        | Failure::Later(Later {
                            kind: LaterKind::ClockDoubtful | LaterKind::TokenRecordMissing,
                            ..
                        }),
                    ) => Ok(None),
                    Err(other) => Err(other),
                }
            })
            .buffered(ABREAST);
        let mut found = Vec::new();
        while let Some(token) = looked_at.try_next().await? {
            match token.filter(&wanted) {
                Some(_) if found.len() == most => return Ok(Excerpt { found, more: true }),
                Some(token) => found.push(token),
                None => {}
            }
        }
        Ok(Excerpt { found, more: false })
    }

    async fn look_through_held(
        &self,
        prefix: &[&[u8]],
        found: &mut Entries,
    ) -> Result<(), Failure> {
        let now = self.now();
        self.inner
            .db
            .each::<HeldRecord>(HELD, prefix, |stored| {
                if found.tokens.len() == MOST_ENTRIES || found.looked_at == MOST_PASSED {
                    found.more = true;
                    return ControlFlow::Break(());
                }
                found.looked_at += 1;
                let held = stored.value;
                if held.expires_at.is_none_or(|end| end > now) {
                    found.tokens.insert(held.accessor, held.token);
                }
                ControlFlow::Continue(())
            })
            .await
    }

    /// Whether every live token is in the index; until then the tokens themselves are looked through.
    async fn tokens_are_indexed(&self) -> Result<bool, Failure> {
        Ok(self.record().await?.value.tokens_indexed)
    }

    /// Enters the tokens of a store that was written before there was an index. Several nodes may be at it.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read or written.
    pub(crate) async fn index_tokens(&self) -> Result<(), Failure> {
        if self.tokens_are_indexed().await? {
            return Ok(());
        }
        let now = self.now();
        let db = &self.inner.db;
        let mut after: Option<Cursor> = None;
        loop {
            let (page, next, _) = db.page::<KeeperToken>(TOKEN, &[], after).await?;
            let living: Vec<Name> = page
                .into_iter()
                .map(|stored| stored.value)
                .filter(|token| is_held(token, now))
                .map(|token| token_name(&token.id))
                .collect();
            for names in living.chunks(AT_ONCE) {
                self.index_some_tokens(names, now).await?;
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        tracing::info!("tokens are indexed by person");
        self.amend_record(|record| record.tokens_indexed = true)
            .await
    }

    async fn index_some_tokens(&self, names: &[Name], now: UnixSeconds) -> Result<(), Failure> {
        loop {
            let mut change = Change::new();
            let found: Vec<Option<Stored<KeeperToken>>> = self.inner.db.get_many(names).await?;
            for stored in found.into_iter().flatten() {
                if is_held(&stored.value, now) {
                    // Not for one that is revoked meanwhile.
                    change.guard(stored.unchanged());
                    enter(&mut change, &stored.value)?;
                }
            }
            match self.inner.db.commit(change).await {
                Ok(()) => return Ok(()),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }
}

fn is_held(token: &KeeperToken, now: UnixSeconds) -> bool {
    token.revoked.is_none() && token.expires_at.is_none_or(|end| end > now)
}

fn newest_first(tokens: &mut [KeeperToken]) {
    tokens.sort_by_key(|token| std::cmp::Reverse((token.created_at, token.created_nanos)));
}

/// What was found in the index, by accessor.
#[derive(Default)]
struct Entries {
    tokens: BTreeMap<String, TokenId>,
    looked_at: usize,
    more: bool,
}

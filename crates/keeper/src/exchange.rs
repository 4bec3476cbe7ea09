//! Narrowed access tokens: RFC 8693 at the issuer, cached per grant, scopes and audience. Never wider than asked.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use gridkeep_token::time::Seconds;

use crate::credentials::{Opened, Want};
use crate::database::{Change, name};
use crate::failure::{BadInput, Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::records::{CachedToken, EXCHANGED, ExchangedRecord};
use crate::secret::hex;

impl Keeper {
    /// The narrowed token of an opened credential: cached when it lives long enough, else exchanged now.
    pub(crate) async fn exchanged(
        &self,
        opened: &Opened,
        base: &CachedToken,
        want: &Want,
    ) -> Result<CachedToken, Failure> {
        let grant = &opened.grant.value;
        let cache = name(EXCHANGED, &[&grant.id, &cache_key(want)]);
        let key = self.inner.sealer.key(grant)?;
        let least = want.least();
        let look = async || -> Result<Option<CachedToken>, Failure> {
            let found = self.inner.db.get::<ExchangedRecord>(&cache).await?;
            let now = self.now();
            Ok(found
                .and_then(|found| key.open::<CachedToken>(&grant.id, &found.value.sealed))
                .filter(|token| {
                    token.lasts(now, least)
                        || (token.is_fresh(now) && token.lasts(now, Seconds(10)))
                }))
        };
        if let Some(token) = look().await? {
            return Ok(token);
        }
        let gate = self.gate(&format!("{}/{}", grant.id, cache_key(want)));
        let work = async {
            let _one = gate.lock().await;
            if let Some(token) = look().await? {
                return Ok(token);
            }
            let token = self.exchange_at_issuer(&opened.issuer, base, want).await?;
            refuse_wider(&token, want)?;
            if let Some(end) = token.expires_at {
                let record = ExchangedRecord {
                    sealed: key.seal(&grant.id, &token)?,
                };
                let mut change = Change::new();
                change.put(cache.clone(), &record, Some(end))?;
                self.inner.db.commit(change).await?;
            }
            Ok(token)
        };
        let outcome = tokio::time::timeout(self.inner.options.waiter, work).await;
        drop(gate);
        self.forget_gates();
        outcome.unwrap_or_else(|_| {
            Err(Later::new(LaterKind::IssuerSlow, "the token issuer has not answered the request for a narrowed token in time; try again in a few seconds")
                .after(Duration::from_secs(2))
                .into())
        })
    }

    fn gate(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.inner
            .exchanges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key.to_owned())
            .or_default()
            .clone()
    }

    fn forget_gates(&self) {
        self.inner
            .exchanges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, gate| Arc::strong_count(gate) > 1);
    }
}

/// Order does not matter to what a token may do, so it does not matter to the cache.
fn cache_key(want: &Want) -> String {
    let mut input = Vec::new();
    for list in [&want.scopes, &want.audiences, &want.resources] {
        let mut sorted: Vec<&String> = list.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        for item in sorted {
            input.extend_from_slice(item.as_bytes());
            input.push(0);
        }
        input.push(1);
    }
    hex(&digest::digest(&digest::SHA256, &input).as_ref()[..16])
}

/// A request for less must not be answered with more.
///
/// Scopes that stand for others (capability sets, groups, the profile itself) may come back as what they stand for, so with one
/// of them in the request the answer is not compared.
fn refuse_wider(token: &CachedToken, want: &Want) -> Result<(), Failure> {
    let stands_for_others = |scope: &String| {
        scope == "wlcg" || scope.starts_with("wlcg.") || scope.starts_with("wlcg:")
    };
    if want.scopes.is_empty() || want.scopes.iter().any(stands_for_others) {
        return Ok(());
    }
    let granted = match &token.scope {
        Some(scope) => Some(scope.clone()),
        None => scope_of(&token.token),
    };
    let extra: Vec<String> = granted
        .unwrap_or_default()
        .split_whitespace()
        .filter(|scope| !want.scopes.iter().any(|wanted| covers(wanted, scope)))
        .map(str::to_owned)
        .collect();
    if extra.is_empty() {
        Ok(())
    } else {
        Err(BadInput::TooWide {
            extra: extra.join(" "),
        }
        .into())
    }
}

/// Whether asking for `wanted` allows being given `granted`: the same, or the same capability on a path below it.
fn covers(wanted: &str, granted: &str) -> bool {
    if wanted == granted || matches!(granted, "openid" | "offline_access") {
        return true;
    }
    match (wanted.split_once(':'), granted.split_once(':')) {
        (Some((wanted, above)), Some((granted, below))) => {
            let above = above.trim_end_matches('/');
            wanted == granted
                && below
                    .strip_prefix(above)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        _ => false,
    }
}

/// The scope claim of a token that is a JWT. Not verified: it came straight from the issuer over TLS.
fn scope_of(token: &str) -> Option<String> {
    let jws = gridkeep_token::jws::Jws::parse(token).ok()?;
    jws.unverified_claims()
        .get("scope")?
        .as_str()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(scope: &str) -> CachedToken {
        CachedToken {
            token: "opaque".into(),
            token_type: "Bearer".into(),
            issued_at: 0,
            expires_at: Some(10),
            scope: Some(scope.into()),
        }
    }

    fn want(scopes: &[&str]) -> Want {
        Want {
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            ..Want::default()
        }
    }

    #[test]
    fn a_wider_answer_is_refused() {
        for (asked, got, fine) in [
            (&["storage.read:/a"][..], "storage.read:/a", true),
            (&["storage.read:/a"], "storage.read:/a/b", true),
            (&["storage.read:/a"], "storage.read:/ab", false),
            (&["storage.read:/a"], "storage.read:/", false),
            (
                &["storage.read:/a"],
                "storage.read:/a storage.modify:/a",
                false,
            ),
            (&["compute.read"], "compute.read openid", true),
            (&["wlcg.capabilityset:/vo"], "storage.read:/vo", true),
            (&["compute.read"], "", true),
        ] {
            assert_eq!(
                refuse_wider(&token(got), &want(asked)).is_ok(),
                fine,
                "{asked:?} {got}"
            );
        }
    }

    #[test]
    fn the_cache_does_not_care_about_order() {
        assert_eq!(
            cache_key(&want(&["a", "b"])),
            cache_key(&want(&["b", "a", "a"]))
        );
        assert_ne!(cache_key(&want(&["a", "b"])), cache_key(&want(&["ab"])));
        let audience = Want {
            audiences: vec!["a".into()],
            ..Want::default()
        };
        assert_ne!(cache_key(&want(&["a"])), cache_key(&audience));
    }
}

//! Narrowed access tokens: RFC 8693 at the issuer, cached per grant, scopes and audience. Never wider than asked.
//!
//! As with a refresh, the request to the issuer is a task of the keeper's own: a reader that does not wait finds its answer at
//! the next try.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use gridkeep_issuer::{ExchangeRequest, IssuerError, Sent, TokenResponse};
use gridkeep_store::Name;
use secrecy::SecretString;
use tokio::sync::watch;

use crate::credentials::{LEAST, Opened, Want, too_short};
use crate::database::{Change, name};
use crate::failure::{BadInput, Failure, Later, LaterKind};
use crate::grants::GrantKey;
use crate::keeper::Keeper;
use crate::records::{CachedToken, EXCHANGED, ExchangedRecord};
use crate::refresh::{Flight, Landing, cached, issuer_failure};
use crate::secret::hex;
use crate::setup::IssuerSetup;

/// The exchanges under way on this node, by grant and what is asked for.
#[derive(Default)]
pub(crate) struct Exchanges(Mutex<HashMap<String, Flight>>);

/// Takes an exchange off the list however its task ends.
struct Listed {
    keeper: Keeper,
    id: String,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.keeper
            .inner
            .exchanges
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

/// One exchange: what is asked of whom, and where the answer is kept.
struct Exchange {
    issuer: IssuerSetup,
    grant: String,
    key: GrantKey,
    cache: Name,
    base: CachedToken,
    want: Want,
}

impl Keeper {
    /// The narrowed token of an opened credential: cached when it lives long enough, else exchanged now.
    pub(crate) async fn exchanged(
        &self,
        opened: &mut Opened,
        base: &CachedToken,
        want: &Want,
    ) -> Result<CachedToken, Failure> {
        let grant = &opened.grant.value;
        let exchange = Exchange {
            issuer: self.issuer_of(&opened.setup, grant)?.clone(),
            grant: grant.id.clone(),
            key: self.inner.sealer.key(grant)?,
            cache: name(EXCHANGED, &[&grant.id, &cache_key(want)]),
            base: base.clone(),
            want: want.clone(),
        };
        let token = match self.known_exchange(&exchange).await? {
            Some(token) => token,
            None => {
                let mut under_way = self.exchange(exchange);
                match tokio::time::timeout(
                    self.inner.options.waiter,
                    under_way.wait_for(Option::is_some),
                )
                .await
                {
                    Ok(Ok(landing)) => landing.clone().unwrap_or_else(|| Err(slow()))?,
                    _ => return Err(slow()),
                }
            }
        };
        let now = self.now();
        if !token.lasts(now, LEAST) {
            return Err(too_short(&token, "narrowed token"));
        }
        if !token.lasts(now, want.least()) {
            opened.warn_short(want.least());
        }
        Ok(token)
    }

    /// The cached answer to an exchange, if it is good enough.
    async fn known_exchange(&self, exchange: &Exchange) -> Result<Option<CachedToken>, Failure> {
        let found = self
            .inner
            .db
            .get::<ExchangedRecord>(&exchange.cache)
            .await?;
        let (now, least) = (self.now(), exchange.want.least());
        Ok(found
            .and_then(|found| {
                exchange
                    .key
                    .open::<CachedToken>(&exchange.grant, &found.value.sealed)
            })
            .filter(|token| {
                token.lasts(now, least)
                    || (token.is_all_there_is(now, least) && token.lasts(now, LEAST))
            })
            // Whatever put it there: what was not asked for is not handed out.
            .filter(|token| refuse_wider(token, &exchange.want).is_ok()))
    }

    /// Joins the same exchange under way or starts it.
    fn exchange(&self, exchange: Exchange) -> Flight {
        let id = format!(
            "{}/{}/{}",
            exchange.grant,
            cache_key(&exchange.want),
            exchange.want.least().0
        );
        let mut under_way = self
            .inner
            .exchanges
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = under_way.get(&id) {
            return flight.clone();
        }
        let (land, flight) = watch::channel(None);
        under_way.insert(id.clone(), flight.clone());
        let (keeper, listed) = (
            self.clone(),
            Listed {
                keeper: self.clone(),
                id,
            },
        );
        self.own(async move {
            let landing = keeper.exchange_now(&exchange).await;
            drop(listed);
            let _ = land.send(Some(landing));
        });
        flight
    }

    async fn send_exchange(
        &self,
        exchange: &Exchange,
        request: &ExchangeRequest,
    ) -> Result<TokenResponse, IssuerError> {
        let limit = self.inner.options.flight;
        tokio::time::timeout(limit, exchange.issuer.client.exchange(request))
            .await
            .unwrap_or_else(|_| {
                Err(IssuerError::Temporary {
                    what: format!("no answer within {} seconds", limit.as_secs()),
                    sent: Sent::Maybe,
                    retry_after: None,
                })
            })
    }

    async fn exchange_now(&self, exchange: &Exchange) -> Landing {
        // An exchange that ended between the reader's look and this one has left its answer.
        if let Some(token) = self.known_exchange(exchange).await? {
            return Ok(token);
        }
        let mut request = ExchangeRequest {
            subject_token: SecretString::from(exchange.base.token.clone()),
            scopes: exchange.want.scopes.clone(),
            audiences: exchange.want.audiences.clone(),
            resources: exchange.want.resources.clone(),
        };
        let mut asked = self.now();
        let mut answer = self.send_exchange(exchange, &request).await;
        if wants_scopes(&answer) && request.scopes.is_empty() {
            // Some issuers (INDIGO IAM) exchange only what is named: name all that the login has.
            request.scopes = scopes_of(&exchange.base);
            if !request.scopes.is_empty() {
                asked = self.now();
                answer = self.send_exchange(exchange, &request).await;
            }
        }
        let response = answer.map_err(|error| issuer_failure("exchange", &error))?;
        let token = cached(&response, asked);
        refuse_wider(&token, &exchange.want)?;
        if let Some(end) = token.expires_at {
            let record = ExchangedRecord {
                sealed: exchange.key.seal(&exchange.grant, &token)?,
            };
            let mut change = Change::new();
            change.put(exchange.cache.clone(), &record, Some(end))?;
            // It can be had again: a store that takes nothing now is no reason to withhold it.
            if let Err(error) = self.inner.db.commit(change).await {
                tracing::info!(grant = exchange.grant, failure = %Failure::from(error), "a narrowed token is not cached");
            }
        }
        Ok(token)
    }
}

fn slow() -> Failure {
    Later::new(
        LaterKind::IssuerSlow,
        "the token issuer has not answered the request for a narrowed token in time; the request goes on; try again in a few seconds",
    )
    .after(Duration::from_secs(2))
    .into()
}

/// Order does not matter to what a token may do, so it does not matter to the cache.
pub(crate) fn cache_key(want: &Want) -> String {
    let mut input = Vec::new();
    // Counts and lengths stand before what they are of, so that no item can be read as two, or as one of the next list.
    let length = |input: &mut Vec<u8>, length: usize| {
        input.extend_from_slice(&(length as u64).to_be_bytes());
    };
    for list in [&want.scopes, &want.audiences, &want.resources] {
        let mut sorted: Vec<&String> = list.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        length(&mut input, sorted.len());
        for item in sorted {
            length(&mut input, item.len());
            input.extend_from_slice(item.as_bytes());
        }
    }
    hex(&digest::digest(&digest::SHA256, &input).as_ref()[..16])
}

/// Whether an issuer refused because the request named no scope, or may have.
fn wants_scopes(answer: &Result<TokenResponse, IssuerError>) -> bool {
    matches!(answer, Err(IssuerError::Refused { error, .. }) if matches!(error.as_str(), "invalid_scope" | "invalid_request"))
}

/// The scopes of an access token that a narrower one can have too; `offline_access` would ask for a refresh token.
fn scopes_of(token: &CachedToken) -> Vec<String> {
    token
        .scope
        .clone()
        .or_else(|| scope_of(&token.token))
        .unwrap_or_default()
        .split_whitespace()
        .filter(|scope| *scope != "offline_access")
        .map(str::to_owned)
        .collect()
}

/// A request for less must not be answered with more.
///
/// Capability sets come back as what they stand for, so with one of them in the request the answer is not compared.
fn refuse_wider(token: &CachedToken, want: &Want) -> Result<(), Failure> {
    let stands_for_others = |scope: &String| scope.starts_with("wlcg.capabilityset");
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
    // These grant nothing at a resource: they name the profile and the groups in the token.
    let names_only = granted == "wlcg" || granted.starts_with("wlcg.groups");
    // Nor do those of OpenID Connect Core, sections 5.4 and 11; Keycloak adds its default ones to every answer.
    let of_openid = matches!(
        granted,
        "openid" | "offline_access" | "profile" | "email" | "address" | "phone"
    );
    if wanted == granted || names_only || of_openid {
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
            (
                &["storage.read:/a"],
                "openid storage.read:/a profile email",
                true,
            ),
            (&["wlcg.capabilityset:/vo"], "storage.read:/vo", true),
            (&["compute.read"], "", true),
            (
                &["wlcg", "compute.read"],
                "compute.read compute.modify",
                false,
            ),
            (
                &["wlcg.groups:/dune", "storage.read:/a"],
                "wlcg.groups storage.read:/",
                false,
            ),
            (
                &["wlcg.groups", "storage.read:/a"],
                "wlcg wlcg.groups:/dune storage.read:/a",
                true,
            ),
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

    #[test]
    fn no_item_is_taken_for_two_by_the_cache() {
        let two = want(&["storage.create:/dune/a", "storage.read:/dune/a"]);
        for one in [
            "storage.create:/dune/a\0storage.read:/dune/a",
            "storage.create:/dune/a\0storage.read:/dune/a\0",
            "storage.create:/dune/a storage.read:/dune/a",
        ] {
            assert_ne!(cache_key(&two), cache_key(&want(&[one])), "{one:?}");
        }
        let both = |scopes: &[&str], audiences: &[&str]| Want {
            audiences: want(audiences).scopes,
            ..want(scopes)
        };
        assert_ne!(
            cache_key(&both(&["a"], &["b"])),
            cache_key(&both(&["a\0\u{1}b"], &[]))
        );
        assert_ne!(
            cache_key(&both(&["a", "b"], &[])),
            cache_key(&both(&["a"], &["b"]))
        );
    }
}

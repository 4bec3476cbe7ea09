//! The keys of token issuers for commands that verify: fetched over https, kept in a file of the user.
//!
//! Owns where the copy lies and who may fetch at the same time; when to fetch is [`gridkeep_token::profile::key_cache`]'s policy, how is in
//! `fetch`. Refuses to know what the keys are for. A further way to obtain keys is one more file beside `fetch`.

mod cache;
mod fetch;
#[cfg(test)]
pub(crate) mod testing;

pub use fetch::{FetchError, fetch};

use crate::environment::Environment;
use crate::http::TrustSources;
use cache::Entry;
use gridkeep_token::jws::JwkSet;
use gridkeep_token::profile::key_cache::{IssuerKeys, Plan, Policy};
use gridkeep_token::profile::{Keys, KeysUnavailable};
use gridkeep_token::time::UnixSeconds;
use std::sync::Arc;
use std::time::Duration;

/// Limit of a fetch without which a token cannot be judged.
const FETCH_LIMIT: Duration = Duration::from_secs(20);
/// Limit of a fetch that only makes a usable copy newer: a person is waiting for the answer, not for the copy.
const REFRESH_LIMIT: Duration = Duration::from_secs(5);

/// Keys fetched when needed, with a copy on disk that outlives the command and an outage of the issuer.
#[derive(Debug)]
pub struct FetchedKeys<'a> {
    environment: &'a Environment,
    trust: TrustSources,
    policy: Policy,
}

impl<'a> FetchedKeys<'a> {
    /// Keys fetched from servers whose certificates `trust` vouches for.
    pub fn new(environment: &'a Environment, trust: TrustSources) -> FetchedKeys<'a> {
        FetchedKeys {
            environment,
            trust,
            policy: Policy::default(),
        }
    }

    /// Fetches now and keeps the result.
    fn refresh(
        &self,
        entry: &Entry,
        mut state: IssuerKeys,
        issuer: &str,
        now: UnixSeconds,
        limit: Duration,
    ) -> Result<Arc<JwkSet>, FetchError> {
        state.started(now);
        match fetch(issuer, &self.trust, self.environment, limit) {
            Ok(keys) => {
                state.fetched(&self.policy, keys.clone(), None, now);
                entry.write(&state, now);
                Ok(Arc::new(keys))
            }
            Err(error) => {
                state.failed();
                entry.write(&state, now);
                Err(error)
            }
        }
    }
}

impl Keys for FetchedKeys<'_> {
    fn keys(
        &self,
        issuer: &str,
        kid: Option<&str>,
        now: UnixSeconds,
    ) -> Result<Arc<JwkSet>, KeysUnavailable> {
        let unavailable = |reason: String, retry_after| KeysUnavailable {
            issuer: issuer.to_owned(),
            reason,
            retry_after,
        };
        let entry = Entry::of(issuer, &self.trust, self.environment);
        // Most tokens need no fetch, so the first look takes no lock.
        let patience = match entry.read(&self.policy, now).plan(&self.policy, kid, now) {
            Plan::Use(keys) => return Ok(keys),
            Plan::UseAndRefresh(_) => Duration::ZERO,
            _ => FETCH_LIMIT,
        };
        // Commands that run side by side fetch once: who waited here plans again with what the other one wrote.
        let lock = entry.lock(patience);
        let state = entry.read(&self.policy, now);
        match state.plan(&self.policy, kid, now) {
            Plan::Use(keys) => Ok(keys),
            Plan::UseAndRefresh(copy) if lock.is_busy() => Ok(copy),
            Plan::UseAndRefresh(copy) => Ok(self
                .refresh(&entry, state, issuer, now, REFRESH_LIMIT)
                .unwrap_or(copy)),
            Plan::FetchFirst { fallback } | Plan::Wait { fallback } => {
                match self.refresh(&entry, state, issuer, now, FETCH_LIMIT) {
                    Ok(keys) => Ok(keys),
                    Err(error) => fallback.ok_or_else(|| unavailable(error.to_string(), None)),
                }
            }
            Plan::Unavailable { retry_after } => Err(unavailable(
                "the last attempt failed a moment ago".to_owned(),
                Some(retry_after),
            )),
        }
    }
}

#[cfg(test)]
mod tests;

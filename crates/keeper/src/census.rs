//! Counting what the store holds, from time to time: credentials, grants and tokens.
//!
//! A walk through all records of three kinds, page by page, that takes a tenth of the time of one processor, so that millions of
//! records do not hold up who is served; and then a pause of ten times as long. What was counted last stays until the next walk ends.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gridkeep_token::time::UnixSeconds;
use serde::Deserialize;

use crate::failure::Failure;
use crate::keeper::Keeper;
use crate::records::{CREDENTIAL, GRANT, GrantState, Revoked, TOKEN};

/// The pause after a walk, in times of the walk.
const PAUSE: u32 = 10;
/// The rest after each page, in times of the page.
const REST: u32 = 9;
const SHORTEST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Census {
    pub at: UnixSeconds,
    pub issuers: BTreeMap<String, OfIssuer>,
    /// Tokens neither expired nor revoked themselves. Those whose parent died are among them until they are swept.
    pub tokens: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OfIssuer {
    pub credentials: u64,
    pub live: u64,
    pub dead: u64,
    /// When the live grant that was not refreshed for longest was.
    pub oldest: Option<UnixSeconds>,
}

/// The last one.
#[derive(Default)]
pub(crate) struct LastCensus(Mutex<Option<Arc<Census>>>);

impl LastCensus {
    pub(crate) fn last(&self) -> Option<Arc<Census>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

// Parts of records, so that no secret is read on the way.

#[derive(Deserialize)]
struct Grant {
    issuer: String,
    refreshed_at: UnixSeconds,
    #[serde(default)]
    references: Vec<String>,
    state: GrantState,
    #[serde(default)]
    due: Option<i64>,
}

#[derive(Deserialize)]
struct Token {
    expires_at: Option<UnixSeconds>,
    #[serde(default)]
    revoked: Option<Revoked>,
}

impl Keeper {
    /// Counts again and again.
    pub(crate) fn start_census(&self) {
        let (keeper, mut stop) = (self.clone(), self.stopping());
        self.own(async move {
            loop {
                let began = tokio::time::Instant::now();
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    counted = keeper.count() => if let Err(failure) = counted {
                        tracing::debug!(%failure, "credentials, grants and tokens could not be counted");
                    }
                }
                let pause = (began.elapsed() * PAUSE).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
    }

    pub(crate) async fn count(&self) -> Result<(), Failure> {
        let now = self.now();
        let mut census = Census {
            at: now,
            issuers: BTreeMap::new(),
            tokens: 0,
        };
        let db = &self.inner.db;
        db.each_resting::<serde::de::IgnoredAny>(CREDENTIAL, &[], REST, |stored| {
            let issuer = stored.name.parts().first();
            if let Some(issuer) = issuer.and_then(|part| std::str::from_utf8(part).ok()) {
                census.of(issuer).credentials += 1;
            }
            ControlFlow::Continue(())
        })
        .await?;
        db.each_resting::<Grant>(GRANT, &[], REST, |stored| {
            let grant = stored.value;
            let of = census.of(&grant.issuer);
            if grant.state == GrantState::Live {
                of.live += 1;
            } else {
                of.dead += 1;
            }
            // One without a refresh token or a name is not refreshed any more, and that is as it should be.
            if grant.state == GrantState::Live
                && grant.due.is_some()
                && !grant.references.is_empty()
            {
                let oldest = of.oldest.get_or_insert(grant.refreshed_at);
                *oldest = (*oldest).min(grant.refreshed_at);
            }
            ControlFlow::Continue(())
        })
        .await?;
        db.each_resting::<Token>(TOKEN, &[], REST, |stored| {
            let token = stored.value;
            if token.revoked.is_none() && token.expires_at.is_none_or(|end| now < end) {
                census.tokens += 1;
            }
            ControlFlow::Continue(())
        })
        .await?;
        *self
            .inner
            .census
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(census));
        Ok(())
    }
}

impl Census {
    fn of(&mut self, issuer: &str) -> &mut OfIssuer {
        self.issuers.entry(issuer.to_owned()).or_default()
    }
}

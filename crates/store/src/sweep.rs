//! Deleting what has expired, long after readers have ceased to see it.

use std::time::Duration;

use crate::engine::{RawCommitError, RawGuard, RawTransaction};
use crate::{Store, StoreError, sealing};

/// Deleted per commit: small, so that others' commits fit beside them.
const CHUNK: usize = 50;
const LEASE: Duration = Duration::from_secs(60);

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// False if somebody else is sweeping.
    pub ran: bool,
    /// Records deleted.
    pub deleted: usize,
    /// True if the limit was reached: sweep again.
    pub more: bool,
}

impl Store {
    /// Deletes up to `limit` records that expired more than `grace` seconds before `now` (seconds since 1970 UTC). Only one
    /// sweep runs at a time, whoever asks. Do not call it while the clock is in doubt.
    ///
    /// # Errors
    /// [`StoreError`]; what was deleted before it stays deleted.
    pub async fn sweep(&self, now: i64, grace: i64, limit: usize) -> Result<Swept, StoreError> {
        let holder: String = sealing::random::<8>()?
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let Some(lease) = self.lease("store/sweep", &holder, LEASE).await? else {
            return Ok(Swept::default());
        };
        let swept = self
            .sweep_leased(now.saturating_sub(grace.max(0)), limit.max(1), &lease)
            .await;
        lease.release().await?;
        swept
    }

    async fn sweep_leased(
        &self,
        before: i64,
        limit: usize,
        lease: &crate::Lease,
    ) -> Result<Swept, StoreError> {
        let due = self.inner.engine.due(before, limit).await?;
        let mut swept = Swept {
            ran: true,
            deleted: 0,
            more: due.len() >= limit,
        };
        for chunk in due.chunks(CHUNK) {
            let mut keys: Vec<(Vec<u8>, u64)> = chunk
                .iter()
                .map(|due| (due.key.clone(), due.version))
                .collect();
            while !keys.is_empty() {
                let transaction = RawTransaction {
                    guards: keys
                        .iter()
                        .map(|(key, version)| RawGuard::At(key.clone(), *version))
                        .collect(),
                    deletes: keys.iter().map(|(key, _)| key.clone()).collect(),
                    ..RawTransaction::default()
                };
                match self.inner.engine.commit(transaction).await {
                    Ok(_) => {
                        swept.deleted += keys.len();
                        break;
                    }
                    // Written anew since it was found: no longer due.
                    Err(RawCommitError::Conflict(index)) => drop(keys.remove(index)),
                    Err(RawCommitError::Store(error)) => return Err(error),
                }
            }
            if !lease.renew().await? {
                swept.more = true;
                break;
            }
        }
        Ok(swept)
    }
}

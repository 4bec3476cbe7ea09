//! What only one node at a time shall do.

use std::time::Duration;

use crate::failure::Failure;
use crate::keeper::Keeper;

/// A node that dies keeps the others from its work for this long.
const LIFE: Duration = Duration::from_secs(30);

impl Keeper {
    /// Does `work` unless another node is at it; says whether it was done. A lease is lost when the store is away for too long:
    /// the work is then left where it is, so it must be such that it can be taken up by another.
    pub(crate) async fn alone(
        &self,
        what: &str,
        work: impl Future<Output = Result<(), Failure>>,
    ) -> Result<bool, Failure> {
        if !self.inner.cluster.is_shared() {
            return work.await.map(|()| true);
        }
        let holder = format!("{} {}", self.inner.options.node, self.inner.process);
        let lease = self.inner.db.store.lease(what, &holder, LIFE).await;
        let Some(lease) = lease.map_err(|error| self.inner.db.not_written(&error))? else {
            return Ok(false);
        };
        let mut work = std::pin::pin!(work);
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                () = tokio::time::sleep(LIFE / 3) => {}
            }
            match lease.renew().await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::info!(what, "another node goes on with this work");
                    return Ok(false);
                }
                Err(error) => return Err(self.inner.db.not_written(&error)),
            }
        };
        // One that is not given back lapses.
        if let Err(error) = lease.release().await {
            tracing::debug!(what, %error, "a lease was not given back");
        }
        done.map(|()| true)
    }
}

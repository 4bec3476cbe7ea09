//! A lease as its holder has it.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
use crate::{Kind, Name, Store, StoreError};

/// A lease that is held. Not given back by itself when dropped: it lapses.
pub struct Lease {
    engine: Arc<dyn Engine>,
    name: String,
    fence: u64,
    ttl: Duration,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("fence", &self.fence)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl Lease {
    /// Greater than that of every lease of this store before.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// Lets it live its whole time again from now; false if it is lost.
    ///
    /// # Errors
    /// [`StoreError`]; then count it as lost at its old end.
    pub async fn renew(&self) -> Result<bool, StoreError> {
        self.engine
            .renew_lease(&self.name, self.fence, self.ttl)
            .await
    }

    /// Gives it back.
    ///
    /// # Errors
    /// [`StoreError`]; then it lapses.
    pub async fn release(self) -> Result<(), StoreError> {
        self.engine.release_lease(&self.name, self.fence).await
    }
}

impl Store {
    /// Takes the lease of this name for `holder`, unless somebody else's is live. The same holder gets it anew, and what it held
    /// before is lost. A lease is advice: guard what must not happen twice by a record's version, or record the fence with it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let name = self.hidden("lease", name);
        let holder = self.hidden("holder", holder);
        let fence = self.inner.engine.lease(&name, &holder, ttl).await?;
        Ok(fence.map(|fence| Lease {
            engine: self.inner.engine.clone(),
            name,
            fence,
            ttl,
        }))
    }

    /// What the engine, which keeps leases in the clear, is told in place of a text.
    fn hidden(&self, what: &str, text: &str) -> String {
        let hashed = self.inner.hasher.key(&Name::new(Kind(0), &[what, text]));
        hashed.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

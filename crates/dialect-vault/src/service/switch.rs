//! Telling a server to seal itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use gridkeep_keeper::Shares;
use tokio::sync::Notify;

use crate::sealed::SealKind;

/// How a server is sealed, and whether it is to be sealed again. From that moment every request is refused; the owner of the service
/// then takes it away, and the keys with it.
#[derive(Debug, Default)]
pub struct SealSwitch {
    kind: Mutex<SealKind>,
    begun: AtomicBool,
    told: Notify,
}

impl SealSwitch {
    /// Of a server that is sealed like this.
    #[must_use]
    pub fn new(kind: SealKind) -> Self {
        SealSwitch {
            kind: Mutex::new(kind),
            ..SealSwitch::default()
        }
    }

    /// How it is sealed.
    #[must_use]
    pub fn kind(&self) -> SealKind {
        *self.kind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The root key was split anew.
    pub(crate) fn split_anew(&self, split: Shares) {
        *self.kind.lock().unwrap_or_else(PoisonError::into_inner) = SealKind::Shamir {
            threshold: split.threshold,
            count: split.count,
        };
    }

    /// From now on every request is refused.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.told.notify_one();
    }

    /// Whether that was said.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Waits for that.
    pub async fn wait(&self) {
        while !self.begun() {
            self.told.notified().await;
        }
    }
}

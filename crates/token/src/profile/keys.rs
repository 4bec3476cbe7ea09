//! Where verification gets an issuer's keys from: a trait, and the implementation that needs no network.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use crate::jws::JwkSet;
use crate::time::{Seconds, UnixSeconds};

/// No usable keys of an issuer can be had now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the keys of {issuer} cannot be had: {reason}; try again later")]
pub struct KeysUnavailable {
    /// The issuer.
    pub issuer: String,
    /// Why, in a few words.
    pub reason: String,
    /// When asking again makes sense.
    pub retry_after: Option<Seconds>,
}

/// A source of issuers' keys. Implementations are asked only for issuers that the verifier trusts.
pub trait Keys {
    /// The key set of `issuer`. When `kid` is given and unknown, an implementation may refresh its copy first, within the
    /// limits of [`super::key_cache`]; it then returns the set whether the key turned up or not.
    ///
    /// # Errors
    /// [`KeysUnavailable`].
    fn keys(
        &self,
        issuer: &str,
        kid: Option<&str>,
        now: UnixSeconds,
    ) -> Result<Arc<JwkSet>, KeysUnavailable>;
}

/// Keys known beforehand, per issuer: from files, from a fetch that already happened, from a test.
#[derive(Clone, Debug, Default)]
pub struct StaticKeys {
    sets: BTreeMap<String, Arc<JwkSet>>,
}

impl StaticKeys {
    /// The keys of one issuer.
    #[must_use]
    pub fn one(issuer: &str, set: JwkSet) -> Self {
        Self::default().with(issuer, set)
    }

    /// Also these keys.
    #[must_use]
    pub fn with(mut self, issuer: &str, set: JwkSet) -> Self {
        self.sets.insert(issuer.to_owned(), Arc::new(set));
        self
    }
}

impl Keys for StaticKeys {
    fn keys(
        &self,
        issuer: &str,
        _: Option<&str>,
        _: UnixSeconds,
    ) -> Result<Arc<JwkSet>, KeysUnavailable> {
        self.sets
            .get(issuer)
            .cloned()
            .ok_or_else(|| KeysUnavailable {
                issuer: issuer.to_owned(),
                reason: "none were given".to_owned(),
                retry_after: None,
            })
    }
}

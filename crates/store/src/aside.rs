//! What is kept outside the store for the time in which the store is not reached: sealed under the root key itself, so that whoever has the
//! key opens it without the keyring.
//!
//! Owns the sealing only. Where the bytes lie and what is in them is the caller's matter, who must be able to do without: after the root
//! key was replaced they can no longer be opened.

use zeroize::Zeroizing;

use crate::sealing::{open_blob, seal_blob};
use crate::{RootKey, Store, StoreError};

const LABEL: &[u8] = b"gridkeep aside";

impl Store {
    /// Seals `plain` under the root key that the keyring is sealed under; `purpose` is what it may be opened for.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] for a moment while the root key is being replaced; [`StoreError::Sealing`].
    pub fn seal_aside(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let key = self.inner.wrapping_key(&self.inner.keyring())?;
        seal_blob(&key.secret, LABEL, purpose.as_bytes(), plain)
    }
}

impl RootKey {
    /// Opens what [`Store::seal_aside`] has sealed for this purpose; `None` if it is not that, or of another root key.
    #[must_use]
    pub fn open_aside(&self, purpose: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        open_blob(&self.wrapping_key(), LABEL, purpose.as_bytes(), sealed)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Initialise, OpenOptions, RootKey, open};

    #[tokio::test]
    async fn it_opens_with_the_root_key_and_for_its_purpose_only() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("root.key");
        let mut options = OpenOptions::new(
            &place.path().join("data"),
            RootKey::generate_file(&path).unwrap(),
        );
        options.initialise = Initialise::WithGivenKey;
        let store = open(options).unwrap();
        let key = RootKey::from_file(&path).unwrap();
        let sealed = store.seal_aside("peers", b"where they are").unwrap();
        assert!(!sealed.windows(5).any(|piece| piece == b"where"));
        let opened = |key: &RootKey, purpose, sealed: &[u8]| key.open_aside(purpose, sealed);
        assert_eq!(
            opened(&key, "peers", &sealed).unwrap().as_slice(),
            b"where they are"
        );
        assert!(opened(&key, "others", &sealed).is_none());
        assert!(opened(&key, "peers", &sealed[1..]).is_none());
        assert!(opened(&key, "peers", b"").is_none());
        let other = RootKey::generate_file(&place.path().join("other.key")).unwrap();
        assert!(opened(&other, "peers", &sealed).is_none());
        // From then on it is the new key that opens.
        store.replace_root_key(&other).await.unwrap();
        let sealed = store.seal_aside("peers", b"elsewhere").unwrap();
        assert_eq!(
            opened(&other, "peers", &sealed).unwrap().as_slice(),
            b"elsewhere"
        );
        assert!(opened(&key, "peers", &sealed).is_none());
        store.close().await.unwrap();
    }
}

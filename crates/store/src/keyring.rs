//! The keyring: the data keys of all generations and the store-wide secret, sealed under the root key.
//!
//! Owns its form and what is derived from the secret. Records are sealed under the newest generation; older ones are kept as
//! long as a record may need them. Knows nothing of engines: it is bytes to them.

use std::collections::BTreeMap;

use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use crate::codec::{Reader, Writer};
use crate::sealing::{self, DataKey};
use crate::{StoreError, root_key};

const LABEL: &[u8] = b"gridkeep keyring";
const FORM: u8 = 1;

pub(crate) struct Keyring {
    /// Version of the engine's entry it was read from: every commit is guarded by it.
    pub(crate) version: u64,
    /// The root key it was found sealed under, and so the one to seal its successor under.
    pub(crate) root_key_id: String,
    secret: Zeroizing<[u8; 32]>,
    keys: BTreeMap<u32, DataKey>,
    newest: u32,
}

impl Keyring {
    /// The keyring of a new store.
    pub(crate) fn generate() -> Result<Self, StoreError> {
        let keys = BTreeMap::from([(1, DataKey::random(1)?)]);
        Ok(Self {
            version: 0,
            root_key_id: String::new(),
            secret: sealing::random()?,
            keys,
            newest: 1,
        })
    }

    /// Generation of the key that new records are sealed under.
    pub(crate) fn newest(&self) -> u32 {
        self.newest
    }

    /// Number of generations kept.
    pub(crate) fn generations(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn sealing_key(&self) -> Result<&DataKey, StoreError> {
        self.keys.get(&self.newest).ok_or(StoreError::Sealing)
    }

    pub(crate) fn key(&self, generation: u32) -> Option<&DataKey> {
        self.keys.get(&generation)
    }

    /// The same with one more generation.
    pub(crate) fn rotated(&self) -> Result<Self, StoreError> {
        let newest = self.newest.checked_add(1).ok_or(StoreError::Sealing)?;
        let mut next = self.since(0)?;
        next.keys.insert(newest, DataKey::random(newest)?);
        next.newest = newest;
        Ok(next)
    }

    /// The same without the generations before `oldest`; the newest always stays.
    pub(crate) fn since(&self, oldest: u32) -> Result<Self, StoreError> {
        let keys = self
            .keys
            .values()
            .filter(|key| key.generation >= oldest || key.generation == self.newest)
            .map(|key| {
                Ok((
                    key.generation,
                    DataKey::new(key.generation, key.secret.clone())?,
                ))
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(Self {
            version: self.version,
            root_key_id: self.root_key_id.clone(),
            secret: self.secret.clone(),
            keys,
            newest: self.newest,
        })
    }

    pub(crate) fn seal(
        &self,
        wrapping_key: &[u8; 32],
        store: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let mut out = Writer::with_capacity(64 + self.keys.len() * 36);
        out.u8(FORM);
        out.raw(&*self.secret);
        out.u32(u32::try_from(self.keys.len()).unwrap_or(u32::MAX));
        for key in self.keys.values() {
            out.u32(key.generation);
            out.raw(&*key.secret);
        }
        sealing::seal_blob(wrapping_key, LABEL, store, &out.finish())
    }

    pub(crate) fn open(
        wrapping_key: &[u8; 32],
        store: &[u8],
        version: u64,
        sealed: &[u8],
    ) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged {
            what: "the keyring".to_owned(),
        };
        let plain = sealing::open_blob(wrapping_key, LABEL, store, sealed).ok_or_else(damaged)?;
        match plain.first() {
            Some(&found) if found > FORM => Err(StoreError::NewerFormat {
                found: found.into(),
                supported: FORM.into(),
            }),
            _ => Self::parse(version, &plain).ok_or_else(damaged),
        }
    }

    fn parse(version: u64, plain: &[u8]) -> Option<Self> {
        let mut input = Reader::new(plain);
        if input.u8()? != FORM {
            return None;
        }
        let secret = Zeroizing::new(input.array()?);
        let mut keys = BTreeMap::new();
        for _ in 0..input.u32()? {
            let generation = input.u32()?;
            keys.insert(
                generation,
                DataKey::new(generation, Zeroizing::new(input.array()?)).ok()?,
            );
        }
        let newest = *keys.keys().next_back()?;
        input.is_empty().then_some(Self {
            version,
            root_key_id: String::new(),
            secret,
            keys,
            newest,
        })
    }

    /// A key derived from the store-wide secret, the same for the life of the store.
    pub(crate) fn derive(&self, purpose: &[u8], label: &[u8]) -> Zeroizing<[u8; 32]> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, purpose).extract(&*self.secret);
        root_key::derive(&prk, label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_sealing_and_refuses_tampering() {
        let first = Keyring::generate().unwrap();
        let second = first.rotated().unwrap();
        assert_eq!(
            (first.newest(), second.newest(), second.generations()),
            (1, 2, 2)
        );
        let sealed = second.seal(&[1; 32], b"store").unwrap();
        let opened = Keyring::open(&[1; 32], b"store", 9, &sealed).unwrap();
        assert_eq!(
            (opened.version, opened.newest(), opened.generations()),
            (9, 2, 2)
        );
        assert_eq!(opened.key(1).unwrap().secret, first.key(1).unwrap().secret);
        assert_eq!(*opened.derive(b"p", b"l"), *first.derive(b"p", b"l"));
        assert_ne!(*opened.derive(b"p", b"l"), *first.derive(b"p", b"m"));
        assert_ne!(*opened.derive(b"p", b"l"), *first.derive(b"q", b"l"));
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Keyring::open(&[1; 32], b"store", 9, &bad).is_err(),
                "bit {bit}"
            );
        }
        assert!(Keyring::open(&[1; 32], b"other", 9, &sealed).is_err());
        assert!(Keyring::open(&[2; 32], b"store", 9, &sealed).is_err());
        let pruned = opened.since(2).unwrap();
        assert_eq!((pruned.generations(), pruned.key(1).is_none()), (1, true));
        assert_eq!(opened.since(9).unwrap().generations(), 1);
    }
}

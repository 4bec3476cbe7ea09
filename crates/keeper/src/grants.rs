//! The secrets of a grant: sealed with a grant key that is wrapped once for each way to open it (decision 5).
//!
//! The slot `server` is opened with a key of the store, so grants that have one are refreshed without their owner. A further kind
//! of slot is one more opener in [`Sealer`].

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use gridkeep_token::time::UnixSeconds;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::failure::{Failure, Later, LaterKind};
use crate::records::{GrantEnds, GrantRecord, GrantSecrets, Slot};
use crate::secret::fill;

const SERVER_SLOT: &str = "server";
const NONCE: usize = 12;

/// The key under which one grant's secrets lie.
pub(crate) struct GrantKey(Zeroizing<[u8; 32]>);

/// Opens and closes grants.
pub(crate) struct Sealer {
    server: Zeroizing<[u8; 32]>,
}

impl Sealer {
    pub fn new(server: Zeroizing<[u8; 32]>) -> Self {
        Sealer { server }
    }

    /// A new grant key and its server slot.
    pub fn new_key(&self, grant: &str) -> Result<(GrantKey, Slot), Failure> {
        let mut key = Zeroizing::new([0; 32]);
        fill(&mut *key);
        let wrapped = seal(&self.server, &slot_context(grant), &*key)?;
        Ok((
            GrantKey(key),
            Slot {
                opener: SERVER_SLOT.to_owned(),
                wrapped,
            },
        ))
    }

    /// The grant key, through the server slot.
    pub fn key(&self, grant: &GrantRecord) -> Result<GrantKey, Failure> {
        let slot = grant
            .slots
            .iter()
            .find(|slot| slot.opener == SERVER_SLOT)
            .ok_or_else(|| damaged(&grant.id))?;
        let bytes = open(&self.server, &slot_context(&grant.id), &slot.wrapped)
            .ok_or_else(|| damaged(&grant.id))?;
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() != key.len() {
            return Err(damaged(&grant.id));
        }
        key.copy_from_slice(&bytes);
        Ok(GrantKey(key))
    }

    /// The secrets of `grant`.
    pub fn open(&self, grant: &GrantRecord) -> Result<(GrantKey, GrantSecrets), Failure> {
        let key = self.key(grant)?;
        let secrets = key
            .open(&grant.id, &grant.sealed)
            .ok_or_else(|| damaged(&grant.id))?;
        Ok((key, secrets))
    }
}

impl GrantKey {
    /// Puts `secrets` into their grant, and beside them what may be told without opening them.
    pub fn close(&self, grant: &mut GrantRecord, secrets: &GrantSecrets) -> Result<(), Failure> {
        grant.sealed = self.seal(&grant.id, secrets)?;
        grant.ends = Some(GrantEnds::of(secrets));
        Ok(())
    }

    /// Seals a value that belongs to `grant`.
    pub fn seal<T: Serialize>(&self, grant: &str, value: &T) -> Result<String, Failure> {
        let plain = Zeroizing::new(serde_json::to_vec(value).map_err(|_| damaged(grant))?);
        seal(&self.0, grant.as_bytes(), &plain)
    }

    /// Opens a value that belongs to `grant`.
    pub fn open<T: DeserializeOwned>(&self, grant: &str, sealed: &str) -> Option<T> {
        let plain = open(&self.0, grant.as_bytes(), sealed)?;
        serde_json::from_slice(&plain).ok()
    }
}

impl GrantEnds {
    /// What may be told of `secrets`.
    pub fn of(secrets: &GrantSecrets) -> Self {
        let refresh_token = secrets.refresh_token.as_deref();
        GrantEnds {
            refreshable: refresh_token.is_some(),
            refresh: refresh_token.and_then(own_end),
            access: secrets
                .access
                .as_ref()
                .and_then(|access| access.expires_at)
                .map(UnixSeconds),
        }
    }
}

/// The end that a refresh token names itself, as those of some issuers do, which are JWTs. Nothing is decided by it.
fn own_end(token: &str) -> Option<UnixSeconds> {
    let payload = token.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims["exp"]
        .as_i64()
        .filter(|end| *end > 0)
        .map(UnixSeconds)
}

fn slot_context(grant: &str) -> Vec<u8> {
    [b"slot server ", grant.as_bytes()].concat()
}

/// Seals `plain` under `key` with a random nonce; base64 of nonce and ciphertext.
pub(crate) fn seal(key: &[u8; 32], context: &[u8], plain: &[u8]) -> Result<String, Failure> {
    let mut nonce = [0; NONCE];
    fill(&mut nonce);
    let mut bytes = plain.to_vec();
    let sealing = UnboundKey::new(&AES_256_GCM_SIV, key).map(LessSafeKey::new);
    let sealed = sealing.and_then(|sealing| {
        sealing.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context),
            &mut bytes,
        )
    });
    if sealed.is_err() {
        zeroize::Zeroize::zeroize(&mut bytes);
        return Err(Later::new(
            LaterKind::Store,
            "a secret could not be sealed; nothing was stored; see the server log",
        )
        .into());
    }
    let mut all = nonce.to_vec();
    all.append(&mut bytes);
    Ok(STANDARD_NO_PAD.encode(all))
}

/// The opposite of [`seal`]; `None` when a bit is not as it was written.
pub(crate) fn open(key: &[u8; 32], context: &[u8], sealed: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut all = Zeroizing::new(STANDARD_NO_PAD.decode(sealed).ok()?);
    if all.len() < NONCE {
        return None;
    }
    let (nonce, bytes) = all.split_at_mut(NONCE);
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let opening = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key).ok()?);
    let plain = opening
        .open_in_place(nonce, Aad::from(context), bytes)
        .ok()?;
    Some(Zeroizing::new(plain.to_vec()))
}

fn damaged(grant: &str) -> Failure {
    Later::new(
        LaterKind::Store,
        format!("the stored login {grant} cannot be opened: its record is damaged or sealed for somebody else; other logins are not affected; log in again or restore it"),
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_tokens_that_say_so_have_an_end() {
        let jwt = |claims: &str| format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(
            own_end(&jwt(r#"{"exp": 1900000000}"#)),
            Some(UnixSeconds(1_900_000_000))
        );
        for without in [
            jwt(r#"{"exp": 0}"#),
            jwt(r#"{"jti": "x"}"#),
            jwt("nonsense"),
            "opaque".to_owned(),
            "a.b".to_owned(),
            String::new(),
        ] {
            assert_eq!(own_end(&without), None, "{without}");
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_only_for_its_context(plain in proptest::collection::vec(any::<u8>(), 0..200), other in ".{1,10}") {
            let sealed = seal(&[3; 32], b"here", &plain).expect("seals");
            let opened = open(&[3; 32], b"here", &sealed).expect("opens");
            prop_assert_eq!(&*opened, &plain);
            prop_assert!(open(&[4; 32], b"here", &sealed).is_none());
            prop_assert!(other == "here" || open(&[3; 32], other.as_bytes(), &sealed).is_none());
        }

        #[test]
        fn arbitrary_text_does_not_open(text in ".{0,80}") {
            prop_assert!(open(&[3; 32], b"here", &text).is_none());
        }
    }
}

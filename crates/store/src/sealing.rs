//! Sealing of records: AES-256-GCM-SIV under a data key, the place and head of the record as associated data.
//!
//! Owns the form of a sealed record. Random nonces are safe with this cipher: even a repeated one only shows that two equal
//! records are equal. Knows neither engines nor where keys come from.
//!
//! Form: `form u8 ‖ key generation u32 ‖ kind u16 ‖ schema u16 ‖ expiry (u8, i64) ‖ nonce [12] ‖ ciphertext ‖ tag [16]`; the
//! plaintext is the plain name and the body. Associated data: a label, the hashed key, and all before the nonce.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::codec::{Reader, Writer};
use crate::{Name, Record, StoreError};

/// Newest form of a sealed record that this program reads and writes: the write level.
pub(crate) const FORM: u8 = 1;
const HEAD: usize = 1 + 4 + 2 + 2 + 9;
const NONCE: usize = 12;
const TAG: usize = 16;

/// One data key.
pub(crate) struct DataKey {
    pub(crate) generation: u32,
    pub(crate) secret: Zeroizing<[u8; 32]>,
    aead: LessSafeKey,
}

impl DataKey {
    pub(crate) fn new(generation: u32, secret: Zeroizing<[u8; 32]>) -> Result<Self, StoreError> {
        let aead = aead(&secret)?;
        Ok(Self {
            generation,
            secret,
            aead,
        })
    }

    pub(crate) fn random(generation: u32) -> Result<Self, StoreError> {
        Self::new(generation, random()?)
    }
}

fn aead(secret: &[u8; 32]) -> Result<LessSafeKey, StoreError> {
    UnboundKey::new(&AES_256_GCM_SIV, secret)
        .map(LessSafeKey::new)
        .map_err(|_| StoreError::Sealing)
}

pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, StoreError> {
    let mut out = Zeroizing::new([0; N]);
    rand::fill(&mut *out).map_err(|_| StoreError::Sealing)?;
    Ok(out)
}

/// Seals a record for the place `key`.
pub(crate) fn seal(
    data_key: &DataKey,
    key: &[u8],
    name: &Name,
    record: &Record,
) -> Result<Vec<u8>, StoreError> {
    let mut head = Writer::with_capacity(HEAD);
    head.u8(FORM);
    head.u32(data_key.generation);
    head.u16(name.kind().0);
    head.u16(record.schema);
    head.optional_i64(record.expires_at);
    let head = head.finish();

    let mut plain = Writer::with_capacity(name.encoded_len() + record.body.len());
    name.write(&mut plain);
    plain.raw(&record.body);
    seal_raw(
        &data_key.aead,
        b"gridkeep record",
        key,
        &head,
        plain.finish(),
    )
}

/// What is to be seen of a sealed record without its key.
pub(crate) fn generation(sealed: &[u8]) -> Result<u32, StoreError> {
    let mut input = Reader::new(sealed);
    match (input.u8(), input.u32()) {
        (Some(form), _) if form > FORM => Err(StoreError::NewerFormat {
            found: form.into(),
            supported: FORM.into(),
        }),
        (Some(FORM), Some(generation)) => Ok(generation),
        _ => Err(damaged(&[])),
    }
}

/// Opens what was sealed for the place `key`.
pub(crate) fn open(
    data_key: &DataKey,
    key: &[u8],
    sealed: &[u8],
) -> Result<(Name, Record), StoreError> {
    let head = sealed.get(..HEAD).ok_or_else(|| damaged(key))?;
    let mut plain = open_raw(&data_key.aead, b"gridkeep record", key, HEAD, sealed)
        .ok_or_else(|| damaged(key))?;
    read_plain(head, &mut plain).ok_or_else(|| damaged(key))
}

fn read_plain(head: &[u8], plain: &mut Zeroizing<Vec<u8>>) -> Option<(Name, Record)> {
    let mut head = Reader::new(head);
    let (_, _, kind) = (head.u8()?, head.u32()?, head.u16()?);
    let (schema, expires_at) = (head.u16()?, head.optional_i64()?);
    let mut input = Reader::new(plain);
    let name = Name::read(&mut input)?;
    let body = Zeroizing::new(input.rest().to_vec());
    (name.kind().0 == kind).then_some((
        name,
        Record {
            schema,
            body,
            expires_at,
        },
    ))
}

/// Seals something that is not a record: the keyring.
pub(crate) fn seal_blob(
    secret: &[u8; 32],
    label: &[u8],
    context: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, StoreError> {
    let mut copy = Zeroizing::new(Vec::with_capacity(plain.len() + TAG));
    copy.extend_from_slice(plain);
    seal_raw(&aead(secret)?, label, context, &[FORM], copy)
}

/// Opens [`seal_blob`]'s work; `None` if it is not that.
pub(crate) fn open_blob(
    secret: &[u8; 32],
    label: &[u8],
    context: &[u8],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    open_raw(&aead(secret).ok()?, label, context, 1, sealed)
}

fn associated(label: &[u8], context: &[u8], head: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(label.len() + context.len() + head.len() + 8);
    for piece in [label, context] {
        out.extend_from_slice(&u32::try_from(piece.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(head);
    out
}

fn seal_raw(
    key: &LessSafeKey,
    label: &[u8],
    context: &[u8],
    head: &[u8],
    mut plain: Zeroizing<Vec<u8>>,
) -> Result<Vec<u8>, StoreError> {
    let nonce = random::<NONCE>()?;
    let aad = Aad::from(associated(label, context, head));
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), aad, &mut plain)
        .map_err(|_| StoreError::Sealing)?;
    let mut out = Vec::with_capacity(head.len() + NONCE + plain.len() + TAG);
    out.extend_from_slice(head);
    out.extend_from_slice(&*nonce);
    out.extend_from_slice(&plain);
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

fn open_raw(
    key: &LessSafeKey,
    label: &[u8],
    context: &[u8],
    head: usize,
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let mut input = Reader::new(sealed);
    let head = input.take(head)?;
    let nonce = Nonce::assume_unique_for_key(input.array()?);
    let mut buffer = Zeroizing::new(input.rest().to_vec());
    let length = key
        .open_in_place(
            nonce,
            Aad::from(associated(label, context, head)),
            &mut buffer,
        )
        .ok()?
        .len();
    buffer.truncate(length);
    Some(buffer)
}

/// Names the record by the beginning of its hashed key, which reveals nothing and is enough to find it.
pub(crate) fn damaged(key: &[u8]) -> StoreError {
    StoreError::Corrupt {
        what: format!("record {}", short(key)),
    }
}

pub(crate) fn short(key: &[u8]) -> String {
    let from = key.len().saturating_sub(8);
    let kind = key.get(1..3).map_or(0, |kind| {
        u16::from_be_bytes(kind.try_into().unwrap_or_default())
    });
    key.get(from.max(3)..)
        .unwrap_or_default()
        .iter()
        .fold(format!("{kind}/…"), |text, byte| {
            format!("{text}{byte:02x}")
        })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::Kind;

    fn sample() -> (Name, Record) {
        let record = Record {
            schema: 7,
            body: Zeroizing::new(b"{\"refresh_token\":\"s3cret-value\"}".to_vec()),
            expires_at: Some(1_800_000_000),
        };
        (Name::new(Kind(4), &["dune", "alice", "default"]), record)
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let key = DataKey::random(3).unwrap();
        let (name, record) = sample();
        let sealed = seal(&key, b"place", &name, &record).unwrap();
        assert_eq!(open(&key, b"place", &sealed), Ok((name, record)));
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&key, b"place", &bad).is_err(), "bit {bit}");
        }
        for cut in 0..sealed.len() {
            assert!(open(&key, b"place", &sealed[..cut]).is_err(), "cut {cut}");
        }
    }

    #[test]
    fn a_record_opens_only_in_its_place_and_under_its_key() {
        let key = DataKey::random(3).unwrap();
        let (name, record) = sample();
        let sealed = seal(&key, b"place", &name, &record).unwrap();
        assert_eq!(
            open(&key, b"elsewhere", &sealed),
            Err(damaged(b"elsewhere"))
        );
        assert!(open(&DataKey::random(3).unwrap(), b"place", &sealed).is_err());
    }

    #[test]
    fn a_newer_form_is_named_as_such() {
        let key = DataKey::random(3).unwrap();
        let (name, record) = sample();
        let mut sealed = seal(&key, b"place", &name, &record).unwrap();
        assert_eq!(generation(&sealed), Ok(3));
        sealed[0] = 9;
        assert_eq!(
            generation(&sealed),
            Err(StoreError::NewerFormat {
                found: 9,
                supported: 1
            })
        );
        assert!(generation(&sealed[..3]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_sealed_opens_and_shows_nothing(
            parts in vec(vec(any::<u8>(), 0..20), 0..4), body in vec(any::<u8>(), 0..300), kind: u16, schema: u16, expires_at: Option<i64>,
        ) {
            let key = DataKey::random(1).unwrap();
            let name = Name::new(Kind(kind), &parts);
            let record = Record { schema, body: Zeroizing::new(body.clone()), expires_at };
            let sealed = seal(&key, b"place", &name, &record).unwrap();
            for part in parts.iter().chain([&body]).filter(|part| part.len() > 6) {
                prop_assert!(!sealed.windows(part.len()).any(|window| window == part.as_slice()));
            }
            prop_assert_ne!(&seal(&key, b"place", &name, &record).unwrap(), &sealed);
            prop_assert_eq!(open(&key, b"place", &sealed), Ok((name, record)));
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes in vec(any::<u8>(), 0..120)) {
            let key = DataKey::random(1).unwrap();
            prop_assert!(open(&key, b"place", &bytes).is_err());
            let _ = generation(&bytes);
        }
    }
}

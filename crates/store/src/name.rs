//! Names of records, and how they are hashed for the engine.
//!
//! Owns the promise that names leak nothing and that a prefix of a name is a prefix of its hashed key. Knows neither records
//! nor engines.

use aws_lc_rs::hmac;

use crate::codec::{Reader, Writer};

/// Kind of a record. The numbers are given by the keeper; they go into the associated data and the head of each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u16);

/// Name of a record: its kind and an ordered list of components, each any bytes. A name without components is a singleton.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    kind: Kind,
    parts: Vec<Box<[u8]>>,
}

impl Name {
    /// A name of this kind with these components.
    pub fn new<P: AsRef<[u8]>>(kind: Kind, parts: &[P]) -> Self {
        Self {
            kind,
            parts: parts.iter().map(|part| part.as_ref().into()).collect(),
        }
    }

    /// The one record of a kind that has only one.
    #[must_use]
    pub fn singleton(kind: Kind) -> Self {
        Self {
            kind,
            parts: Vec::new(),
        }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The components.
    #[must_use]
    pub fn parts(&self) -> &[Box<[u8]>] {
        &self.parts
    }

    /// Component `index` as text, if it is there and is UTF-8.
    #[must_use]
    pub fn text(&self, index: usize) -> Option<&str> {
        self.parts
            .get(index)
            .and_then(|part| std::str::from_utf8(part).ok())
    }

    /// Bytes that [`Name::write`] writes.
    pub(crate) fn encoded_len(&self) -> usize {
        6 + self.parts.iter().map(|part| part.len() + 4).sum::<usize>()
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u16(self.kind.0);
        out.u32(u32::try_from(self.parts.len()).unwrap_or(u32::MAX));
        for part in &self.parts {
            out.bytes(part);
        }
    }

    pub(crate) fn read(input: &mut Reader<'_>) -> Option<Self> {
        let kind = Kind(input.u16()?);
        let count = input.u32()?;
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push(input.bytes()?.into());
        }
        Some(Self { kind, parts })
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.kind.0)?;
        for part in &self.parts {
            write!(f, "/{}", part.escape_ascii())?;
        }
        Ok(())
    }
}

/// First byte of the keys of records.
const RECORDS: u8 = b'r';
/// Bytes of HMAC-SHA256 kept per component: no two of 2^64 names meet by chance.
const COMPONENT: usize = 16;

/// Turns names into the keys the engine sees.
pub(crate) struct NameHasher {
    key: hmac::Key,
}

impl NameHasher {
    pub(crate) fn new(index_key: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, index_key),
        }
    }

    /// Key of a name.
    pub(crate) fn key(&self, name: &Name) -> Vec<u8> {
        self.hash(name.kind, name.parts.iter().map(AsRef::as_ref))
    }

    /// What the keys of all names of this kind beginning with these components begin with, the name of just these included.
    pub(crate) fn prefix(&self, kind: Kind, parts: &[&[u8]]) -> Vec<u8> {
        self.hash(kind, parts.iter().copied())
    }

    /// Every component's hash covers its predecessors' (by their hash), so that equal components below different owners do not
    /// show as equal.
    fn hash<'a>(&self, kind: Kind, parts: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut out = Vec::with_capacity(3 + parts.len() * COMPONENT);
        out.push(RECORDS);
        out.extend_from_slice(&kind.0.to_be_bytes());
        for part in parts {
            let mut mac = hmac::Context::with_key(&self.key);
            // `out` has a length that is a function of the depth, so the concatenation is unambiguous.
            mac.update(&out);
            mac.update(part);
            out.extend_from_slice(mac.sign().as_ref().get(..COMPONENT).unwrap_or_default());
        }
        out
    }
}

/// Kind of the record that has this key; `None` for what is not a record's.
pub(crate) fn kind_of(key: &[u8]) -> Option<Kind> {
    match key {
        [RECORDS, high, low, ..] => Some(Kind(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

/// What all keys of records begin with.
pub(crate) fn all_records() -> Vec<u8> {
    vec![RECORDS]
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn hasher(seed: u8) -> NameHasher {
        NameHasher::new(&[seed; 32])
    }

    /// `out ‖ part` must not be ambiguous: moving a byte between components gives another key.
    #[test]
    fn component_borders_count() {
        let h = hasher(1);
        let keys: Vec<_> = [
            vec!["ab", "c"],
            vec!["a", "bc"],
            vec!["abc"],
            vec!["abc", ""],
            vec!["", "abc"],
            vec![],
        ]
        .iter()
        .map(|parts| h.key(&Name::new(Kind(1), parts)))
        .collect();
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn equal_components_below_different_owners_do_not_show() {
        let h = hasher(1);
        let a = h.key(&Name::new(Kind(1), &["alice", "default"]));
        let b = h.key(&Name::new(Kind(1), &["bob", "default"]));
        assert_ne!(a[a.len() - COMPONENT..], b[b.len() - COMPONENT..]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_prefix_of_a_name_is_a_prefix_of_its_key(kind: u16, parts in vec(vec(any::<u8>(), 0..20), 0..6), cut in 0usize..6) {
            let h = hasher(2);
            let name = Name::new(Kind(kind), &parts);
            let cut = cut.min(parts.len());
            let head: Vec<&[u8]> = parts[..cut].iter().map(Vec::as_slice).collect();
            let prefix = h.prefix(Kind(kind), &head);
            let key = h.key(&name);
            prop_assert!(key.starts_with(&prefix));
            prop_assert_eq!(key.len(), 3 + 16 * parts.len());
            if cut > 0 {
                let mut other = parts[..cut].to_vec();
                other[cut - 1].push(0);
                let other: Vec<&[u8]> = other.iter().map(Vec::as_slice).collect();
                prop_assert!(!key.starts_with(&h.prefix(Kind(kind), &other)));
            }
            prop_assert!(!key.starts_with(&h.prefix(Kind(kind ^ 1), &head)));
            if !parts.is_empty() {
                prop_assert_ne!(&hasher(3).key(&name), &key);
            }
            // Nothing of a component of some length is to be seen.
            for part in parts.iter().filter(|part| part.len() > 6) {
                prop_assert!(!key.windows(part.len()).any(|window| window == part.as_slice()));
            }
        }

        #[test]
        fn names_survive_their_encoding(kind: u16, parts in vec(vec(any::<u8>(), 0..20), 0..6)) {
            let name = Name::new(Kind(kind), &parts);
            let mut out = Writer::default();
            name.write(&mut out);
            let bytes = out.finish();
            prop_assert_eq!(bytes.len(), name.encoded_len());
            prop_assert_eq!(Name::read(&mut Reader::new(&bytes)), Some(name));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Name::read(&mut Reader::new(&bytes[..cut])), None);
            }
        }
    }
}

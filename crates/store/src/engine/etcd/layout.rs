//! Where things lie in etcd: keys below the configured prefix, and the head before each value.
//!
//! * `<prefix>d<key>`: an entry; its value is a head (version, expiry) and the bytes written.
//! * `<prefix>e<name>`: a lease that is held.
//! * `<prefix>i<bucket><key>`: says that the entry expires in that bucket; written along with the entry.
//! * `<prefix>m<name>`: what the engine notes of itself: layout, openings, sessions.

use crate::codec::{Reader, Writer};

/// Width of a bucket of the expiry index, in seconds.
const BUCKET: i64 = 60;

/// The keys of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    prefix: Vec<u8>,
}

impl Layout {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.as_bytes().to_vec(),
        }
    }

    fn key(&self, room: u8, parts: &[&[u8]]) -> Vec<u8> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let mut out = Vec::with_capacity(self.prefix.len() + 1 + length);
        out.extend_from_slice(&self.prefix);
        out.push(room);
        parts.iter().for_each(|part| out.extend_from_slice(part));
        out
    }

    /// Everything of the store: first key and end.
    pub(crate) fn all(&self) -> (Vec<u8>, Vec<u8>) {
        (self.prefix.clone(), end_of(&self.prefix))
    }

    pub(crate) fn entry(&self, key: &[u8]) -> Vec<u8> {
        self.key(b'd', &[key])
    }

    /// The key of an entry, from where it lies.
    pub(crate) fn entry_key<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        self.within(b'd', key)
    }

    pub(crate) fn lease(&self, name: &str) -> Vec<u8> {
        self.key(b'e', &[name.as_bytes()])
    }

    pub(crate) fn lease_name<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        self.within(b'e', key)
            .and_then(|name| std::str::from_utf8(name).ok())
    }

    /// What is watched: entries and leases.
    pub(crate) fn watched(&self) -> (Vec<u8>, Vec<u8>) {
        (self.key(b'd', &[]), self.key(b'f', &[]))
    }

    /// Entries and leases, and the index.
    pub(crate) fn data(&self) -> [(Vec<u8>, Vec<u8>); 2] {
        let index = (self.key(b'i', &[]), self.key(b'j', &[]));
        [self.watched(), index]
    }

    pub(crate) fn leases(&self) -> (Vec<u8>, Vec<u8>) {
        (self.key(b'e', &[]), self.key(b'f', &[]))
    }

    /// Where an entry is found by its expiry.
    pub(crate) fn index(&self, expires_at: i64, key: &[u8]) -> Vec<u8> {
        self.key(b'i', &[&bucket(expires_at).to_be_bytes(), key])
    }

    /// The key of an entry, from where it is indexed.
    pub(crate) fn indexed_key<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        self.within(b'i', key).and_then(|rest| rest.get(8..))
    }

    /// Where all indexed entries lie that expire before this second, and some that expire less than a bucket later.
    pub(crate) fn indexed_before(&self, before: i64) -> (Vec<u8>, Vec<u8>) {
        let end = bucket(before).saturating_add(1).to_be_bytes();
        (self.key(b'i', &[]), self.key(b'i', &[&end]))
    }

    pub(crate) fn note(&self, name: &str) -> Vec<u8> {
        self.key(b'm', &[name.as_bytes()])
    }

    fn within<'a>(&self, room: u8, key: &'a [u8]) -> Option<&'a [u8]> {
        key.strip_prefix(self.prefix.as_slice())?
            .strip_prefix(&[room])
    }
}

/// The first key behind all that begin with this one. A prefix of nothing but 0xff bytes has none; etcd's sign for "to the end" stands
/// for it.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Number of a bucket, such that big-endian bytes sort as times do, those before 1970 included.
pub(crate) fn bucket(at: i64) -> u64 {
    at.div_euclid(BUCKET).cast_unsigned() ^ (1 << 63)
}

/// What stands before the bytes of an entry, and alone in the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The version, where it is not the revision of the write: the entry was sealed anew or came from another store.
    pub(crate) version: Option<u64>,
    pub(crate) expires_at: Option<i64>,
}

const FORM: u8 = 1;

impl Head {
    pub(crate) fn before(self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Writer::with_capacity(18 + bytes.len());
        out.u8(FORM);
        out.u64(self.version.unwrap_or(0));
        out.optional_i64(self.expires_at);
        out.raw(bytes);
        out.finish().to_vec()
    }

    /// Head and bytes; `None` if it is not of this form.
    pub(crate) fn split(value: &[u8]) -> Option<(Self, &[u8])> {
        let mut input = Reader::new(value);
        if input.u8()? != FORM {
            return None;
        }
        let version = Some(input.u64()?).filter(|version| *version != 0);
        let expires_at = input.optional_i64()?;
        Some((
            Self {
                version,
                expires_at,
            },
            input.rest(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_where_they_should() {
        assert_eq!(end_of(b"a"), b"b");
        assert_eq!(end_of(b"a\xff\xff"), b"b");
        assert_eq!(end_of(b"\xff"), [0]);
        assert_eq!(end_of(b""), [0]);
    }

    #[test]
    fn heads_survive() {
        for head in [
            Head::default(),
            Head {
                version: Some(7),
                expires_at: Some(-1),
            },
            Head {
                version: None,
                expires_at: Some(i64::MIN + 1),
            },
        ] {
            let value = head.before(b"bytes");
            assert_eq!(Head::split(&value), Some((head, &b"bytes"[..])));
            for cut in 0..value.len() - 5 {
                assert_eq!(Head::split(&value[..cut]), None);
            }
        }
        assert_eq!(Head::split(b"something else, of some length"), None);
    }

    #[test]
    fn the_index_sorts_by_time() {
        let layout = Layout::new("p/");
        let at = |at| layout.index(at, b"key");
        assert!(at(-61) < at(-1) && at(-1) < at(0) && at(0) < at(i64::MAX));
        assert_eq!(at(0), at(59));
        let (from, to) = layout.indexed_before(60);
        assert!(from < at(i64::MIN) && at(119) < to && to < at(120));
        assert_eq!(layout.indexed_key(&at(5)), Some(&b"key"[..]));
        assert_eq!(
            layout.entry_key(&layout.entry(b"\0\xff")),
            Some(&b"\0\xff"[..])
        );
        assert_eq!(layout.entry_key(&layout.lease("x")), None);
        let (from, to) = layout.watched();
        for key in [layout.entry(b""), layout.lease("a")] {
            assert!(from <= key && key < to);
        }
        for key in [at(0), layout.note("x")] {
            assert!(key >= to);
        }
    }
}

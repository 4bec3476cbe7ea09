//! Records, their versions, and the transactions that write them.
//!
//! The body is opaque here: whoever reads and writes it keeps the fields it does not know. Nothing in this file touches a key
//! or an engine.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::codec::{Reader, Writer};
use crate::{CommitError, Name, StoreError};

/// Changes at every write of a record, never returns to an earlier value, and is greater for the later of two writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub(crate) u64);

impl Version {
    /// As a number, for fencing and for logs.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// From the number of an earlier [`Version::number`].
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// What is stored under a name.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Version of the body's form, chosen by the writer.
    pub schema: u16,
    /// The body; JSON by convention. Wiped from memory when dropped.
    pub body: Zeroizing<Vec<u8>>,
    /// When the record ceases to count, in seconds since 1970 UTC. The store does not hide expired records: readers compare with
    /// their clock. It deletes them in [`crate::Store::sweep`] only.
    pub expires_at: Option<i64>,
}

impl Record {
    /// A record whose body is `value` as JSON.
    ///
    /// # Errors
    /// [`StoreError::Unparsable`] if the value has no JSON form (a map with keys that are not text).
    pub fn json<T: Serialize>(
        schema: u16,
        value: &T,
        expires_at: Option<i64>,
    ) -> Result<Self, StoreError> {
        let unfit = |_| StoreError::Unparsable {
            kind: 0,
            schema,
            column: 0,
        };
        // Measured first, so that no growing buffer leaves a copy of a secret behind.
        let mut length = Length(0);
        serde_json::to_writer(&mut length, value).map_err(unfit)?;
        let mut body = Zeroizing::new(Vec::with_capacity(length.0));
        serde_json::to_writer(&mut *body, value).map_err(unfit)?;
        Ok(Self {
            schema,
            body,
            expires_at,
        })
    }

    /// The body read as JSON.
    ///
    /// # Errors
    /// [`StoreError::Unparsable`], which names the place and none of the content.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_slice(&self.body).map_err(|error| StoreError::Unparsable {
            kind: 0,
            schema: self.schema,
            column: error.column(),
        })
    }
}

/// Counts what is written to it.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("schema", &self.schema)
            .field("body", &format_args!("[{} bytes]", self.body.len()))
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

/// A record as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// The version that a guard must name to replace just this state.
    pub version: Version,
    /// What is stored.
    pub record: Record,
}

impl Entry {
    /// The body read as JSON; see [`Record::parse`].
    ///
    /// # Errors
    /// [`StoreError::Unparsable`], naming the kind.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        self.record.parse().map_err(|error| match error {
            StoreError::Unparsable { schema, column, .. } => StoreError::Unparsable {
                kind: self.name.kind().0,
                schema,
                column,
            },
            other => other,
        })
    }
}

/// What must hold for a transaction to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// There is no record of this name.
    Absent(Name),
    /// The record of this name is at this version.
    At(Name, Version),
}

impl Guard {
    /// The guard that holds as long as nobody writes `name` after this was read.
    #[must_use]
    pub fn unchanged(name: &Name, found: Option<&Entry>) -> Self {
        match found {
            None => Self::Absent(name.clone()),
            Some(entry) => Self::At(name.clone(), entry.version),
        }
    }

    /// The name it is about.
    #[must_use]
    pub fn name(&self) -> &Name {
        match self {
            Self::Absent(name) | Self::At(name, _) => name,
        }
    }
}

/// Writes that happen all or none, and only if every guard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Judged in order; the first that does not hold is reported.
    pub guards: Vec<Guard>,
    /// Records to write, whether or not they exist.
    pub puts: Vec<(Name, Record)>,
    /// Names to delete; deleting what is not there is no error.
    pub deletes: Vec<Name>,
}

/// A transaction that was committed and is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The version every record it wrote now has.
    pub version: Version,
}

impl Transaction {
    /// Most puts and deletes together, and most guards, that one transaction may have.
    pub const MAX_OPERATIONS: usize = 100;
    /// Most bytes of keys and sealed records that one transaction may write.
    pub const MAX_BYTES: usize = 1024 * 1024;

    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a guard.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Adds a record to write.
    #[must_use]
    pub fn put(mut self, name: Name, record: Record) -> Self {
        self.puts.push((name, record));
        self
    }

    /// Adds a name to delete.
    #[must_use]
    pub fn delete(mut self, name: Name) -> Self {
        self.deletes.push(name);
        self
    }

    /// Refuses what no engine takes, before any work is done on it. Bytes are judged again once sealed.
    pub(crate) fn check(&self) -> Result<(), CommitError> {
        let operations = (self.puts.len() + self.deletes.len()).max(self.guards.len());
        let bytes = self.puts.iter().map(|(_, record)| record.body.len()).sum();
        if operations > Self::MAX_OPERATIONS || bytes > Self::MAX_BYTES {
            return Err(CommitError::TooLarge { operations, bytes });
        }
        let mut names: Vec<&Name> = self
            .puts
            .iter()
            .map(|(name, _)| name)
            .chain(&self.deletes)
            .collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.get(1)) {
            return Err(CommitError::Repeated);
        }
        Ok(())
    }

    /// The transaction as bytes, for a spool that holds it while the store is away. Contains secrets: seal it.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let guards: usize = self
            .guards
            .iter()
            .map(|guard| guard.name().encoded_len() + 9)
            .sum();
        let puts: usize = self
            .puts
            .iter()
            .map(|(name, record)| name.encoded_len() + record.body.len() + 15)
            .sum();
        let deletes: usize = self.deletes.iter().map(Name::encoded_len).sum();
        // At least as much as is written: a growing buffer would leave copies of secrets behind.
        let mut out = Writer::with_capacity(13 + guards + puts + deletes);
        out.u8(ENCODING);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        out.u32(count(self.guards.len()));
        for guard in &self.guards {
            match guard {
                Guard::Absent(_) => out.u8(0),
                Guard::At(_, version) => {
                    out.u8(1);
                    out.u64(version.0);
                }
            }
            guard.name().write(&mut out);
        }
        out.u32(count(self.puts.len()));
        for (name, record) in &self.puts {
            name.write(&mut out);
            out.u16(record.schema);
            out.optional_i64(record.expires_at);
            out.bytes(&record.body);
        }
        out.u32(count(self.deletes.len()));
        for name in &self.deletes {
            name.write(&mut out);
        }
        out.finish()
    }

    /// The transaction of [`Transaction::encode`].
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`], or [`StoreError::Corrupt`] if the bytes are not exactly one transaction.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        match bytes.first() {
            Some(&found) if found > ENCODING => Err(StoreError::NewerFormat {
                found: found.into(),
                supported: ENCODING.into(),
            }),
            _ => Self::decode_known(bytes).ok_or_else(|| StoreError::Corrupt {
                what: "a spooled transaction".to_owned(),
            }),
        }
    }

    fn decode_known(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader::new(bytes);
        let mut transaction = Self::new();
        if input.u8()? != ENCODING {
            return None;
        }
        for _ in 0..input.u32()? {
            let version = match input.u8()? {
                0 => None,
                1 => Some(Version(input.u64()?)),
                _ => return None,
            };
            let name = Name::read(&mut input)?;
            transaction.guards.push(match version {
                None => Guard::Absent(name),
                Some(version) => Guard::At(name, version),
            });
        }
        for _ in 0..input.u32()? {
            let name = Name::read(&mut input)?;
            let schema = input.u16()?;
            let expires_at = input.optional_i64()?;
            let body = Zeroizing::new(input.bytes()?.to_vec());
            transaction.puts.push((
                name,
                Record {
                    schema,
                    body,
                    expires_at,
                },
            ));
        }
        for _ in 0..input.u32()? {
            transaction.deletes.push(Name::read(&mut input)?);
        }
        input.is_empty().then_some(transaction)
    }
}

/// Version of the form of [`Transaction::encode`].
const ENCODING: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::Kind;

    fn name() -> impl Strategy<Value = Name> {
        (any::<u16>(), vec(vec(any::<u8>(), 0..8), 0..4))
            .prop_map(|(kind, parts)| Name::new(Kind(kind), &parts))
    }

    fn transaction() -> impl Strategy<Value = Transaction> {
        let guard = (name(), any::<Option<u64>>()).prop_map(|(name, version)| match version {
            None => Guard::Absent(name),
            Some(version) => Guard::At(name, Version(version)),
        });
        let put = (
            name(),
            any::<u16>(),
            vec(any::<u8>(), 0..60),
            any::<Option<i64>>(),
        )
            .prop_map(|(name, schema, body, expires_at)| {
                (
                    name,
                    Record {
                        schema,
                        body: Zeroizing::new(body),
                        expires_at,
                    },
                )
            });
        (vec(guard, 0..5), vec(put, 0..5), vec(name(), 0..5)).prop_map(|(guards, puts, deletes)| {
            Transaction {
                guards,
                puts,
                deletes,
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn transactions_survive_their_encoding(transaction in transaction()) {
            let bytes = transaction.encode();
            prop_assert!(bytes.capacity() < bytes.len() + 9 * 5 + 1, "no more room than needed, and so never grown");
            let decoded = Transaction::decode(&bytes);
            prop_assert_eq!(decoded.as_ref(), Ok(&transaction));
            for cut in 0..bytes.len() {
                prop_assert!(Transaction::decode(&bytes[..cut]).is_err());
            }
            let mut longer = bytes.to_vec();
            longer.push(0);
            prop_assert!(Transaction::decode(&longer).is_err());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in vec(any::<u8>(), 0..200)) {
            if let Ok(transaction) = Transaction::decode(&bytes) {
                prop_assert_eq!(&*transaction.encode(), &bytes);
            }
        }
    }

    #[test]
    fn a_newer_encoding_is_named_as_such() {
        assert_eq!(
            Transaction::decode(&[9]),
            Err(StoreError::NewerFormat {
                found: 9,
                supported: 1
            })
        );
    }

    #[test]
    fn json_errors_carry_no_content() {
        let record =
            Record::json(3, &serde_json::json!({"refresh_token": "s3cret"}), None).unwrap();
        let error = record.parse::<Vec<u64>>().unwrap_err();
        assert_eq!(
            error,
            StoreError::Unparsable {
                kind: 0,
                schema: 3,
                column: 0
            }
        );
        assert!(!format!("{error} {error:?} {record:?}").contains("s3cret"));
        let entry = Entry {
            name: Name::singleton(Kind(9)),
            version: Version(1),
            record,
        };
        assert!(matches!(
            entry.parse::<String>(),
            Err(StoreError::Unparsable { kind: 9, .. })
        ));
    }

    #[test]
    fn limits_are_judged_before_any_work() {
        let name = |n: usize| Name::new(Kind(1), &[n.to_string()]);
        let record = |bytes: usize| Record {
            schema: 1,
            body: Zeroizing::new(vec![0; bytes]),
            expires_at: None,
        };
        let many = |n: usize| (0..n).fold(Transaction::new(), |tx, i| tx.put(name(i), record(1)));
        assert_eq!(many(100).check(), Ok(()));
        assert_eq!(
            many(101).check(),
            Err(CommitError::TooLarge {
                operations: 101,
                bytes: 101
            })
        );
        assert!(many(100).delete(name(200)).check().is_err());
        let guards = (0..101).fold(Transaction::new(), |tx, i| tx.guard(Guard::Absent(name(i))));
        assert!(guards.check().is_err());
        let large = Transaction::new().put(name(1), record(Transaction::MAX_BYTES + 1));
        assert!(matches!(
            large.check(),
            Err(CommitError::TooLarge { operations: 1, .. })
        ));
        assert_eq!(many(2).delete(name(1)).check(), Err(CommitError::Repeated));
        assert_eq!(
            many(2).put(name(1), record(1)).check(),
            Err(CommitError::Repeated)
        );
    }
}

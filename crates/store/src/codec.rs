//! The byte encoding of what the store writes: big-endian integers and length-prefixed strings.
//!
//! Knows nothing of what they mean. A reader never panics and never allocates more than it was given.

use zeroize::Zeroizing;

#[derive(Default)]
pub(crate) struct Writer {
    out: Zeroizing<Vec<u8>>,
}

impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self {
            out: Zeroizing::new(Vec::with_capacity(bytes)),
        }
    }
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
    pub(crate) fn u8(&mut self, n: u8) {
        self.raw(&[n]);
    }
    pub(crate) fn u16(&mut self, n: u16) {
        self.raw(&n.to_be_bytes());
    }
    pub(crate) fn u32(&mut self, n: u32) {
        self.raw(&n.to_be_bytes());
    }
    pub(crate) fn u64(&mut self, n: u64) {
        self.raw(&n.to_be_bytes());
    }
    pub(crate) fn i64(&mut self, n: i64) {
        self.raw(&n.to_be_bytes());
    }
    /// Bytes headed by their length. Lengths beyond 4 GiB can not occur: a transaction has at most 1 MiB.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.raw(bytes);
    }
    pub(crate) fn optional_i64(&mut self, n: Option<i64>) {
        self.u8(u8::from(n.is_some()));
        self.i64(n.unwrap_or(0));
    }
    pub(crate) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.out
    }
}

/// Every method answers `None` when the input ends early.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }
    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(head)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[n]| n)
    }
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }
    /// The inner `None` is an absent number.
    pub(crate) fn optional_i64(&mut self) -> Option<Option<i64>> {
        match (self.u8()?, self.i64()?) {
            (0, 0) => Some(None),
            (1, n) => Some(Some(n)),
            _ => None,
        }
    }
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

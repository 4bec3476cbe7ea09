//! The encoding of the ssh protocols (RFC 4251 section 5), as far as keys, signatures and agents need it.

/// Reads values one after the other; `None` once something is missing or not as it has to be.
#[derive(Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub fn is_at_end(self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn number(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.string()?).ok()
    }

    /// A positive number of any length, without the zero that keeps it positive. The shortest spelling only, so that one number has one.
    pub fn positive(&mut self) -> Option<&'a [u8]> {
        match self.string()? {
            [0, rest @ ..] if rest.first().is_some_and(|high| *high >= 0x80) => Some(rest),
            digits @ [first, ..] if (1..0x80).contains(first) => Some(digits),
            _ => None,
        }
    }
}

/// Appends a string.
pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    // No message that is written here comes near the limit of the length.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_written() {
        let mut bytes = Vec::new();
        put_string(&mut bytes, b"ssh-rsa");
        put_string(&mut bytes, &[1, 0, 1]);
        put_string(&mut bytes, &[0, 0xff]);
        bytes.extend_from_slice(&[0, 0, 0, 7, 9]);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.text(), Some("ssh-rsa"));
        assert_eq!(reader.positive(), Some([1, 0, 1].as_slice()));
        assert_eq!(reader.positive(), Some([0xff].as_slice()));
        assert_eq!((reader.number(), reader.byte()), (Some(7), Some(9)));
        assert!(reader.is_at_end() && reader.byte().is_none() && reader.string().is_none());
        for odd in [&[][..], &[0], &[0, 1], &[0x80], &[0, 0, 0x80]] {
            let mut bytes = Vec::new();
            put_string(&mut bytes, odd);
            assert_eq!(Reader::new(&bytes).positive(), None, "{odd:?}");
        }
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 1]).string(), None);
    }
}

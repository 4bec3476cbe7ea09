//! What a keytab file says of itself: for whom it holds keys. The keys are never looked at here.

/// A principal of a keytab, without its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The components, such as `host` and `vault.example.org`.
    pub components: Vec<String>,
    /// The realm.
    pub realm: String,
}

impl Entry {
    /// Whether this is the service `host` on one of `hosts`, whose case does not matter.
    pub fn is_host_of(&self, hosts: &[String]) -> bool {
        matches!(self.components.as_slice(), [service, host]
            if service == "host" && hosts.iter().any(|known| known.eq_ignore_ascii_case(host)))
    }
}

/// The principal of every key in a keytab (MIT's file format, version 0x0502); `None` when it is none.
pub fn entries(bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut rest = bytes.strip_prefix(&[0x05, 0x02])?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let length = i32::from_be_bytes(*rest.first_chunk::<4>()?);
        rest = &rest[4..];
        if length == 0 {
            // The end of what was written, for the library too.
            break;
        }
        // A deleted entry has a negative length.
        let size = usize::try_from(length.unsigned_abs()).ok()?;
        if size > rest.len() {
            return None;
        }
        let (entry, after) = rest.split_at(size);
        rest = after;
        if length > 0 {
            entries.push(principal(entry)?);
        }
    }
    Some(entries)
}

fn principal(mut rest: &[u8]) -> Option<Entry> {
    let count = number(&mut rest)?;
    let realm = text(&mut rest)?;
    let components = (0..count).map(|_| text(&mut rest)).collect::<Option<_>>()?;
    Some(Entry { components, realm })
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let value = u16::from_be_bytes(*rest.first_chunk::<2>()?);
    *rest = &rest[2..];
    Some(value.into())
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = number(rest)?;
    let text = String::from_utf8_lossy(rest.get(..length)?).into_owned();
    *rest = &rest[length..];
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A keytab with one key (of zeros) per principal.
    fn keytab(principals: &[(&str, &str, &str)]) -> Vec<u8> {
        let mut out = vec![5, 2];
        for (service, host, realm) in principals {
            let mut entry = 2_u16.to_be_bytes().to_vec();
            for part in [realm, service, host] {
                entry.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
                entry.extend(part.as_bytes());
            }
            // Name type, time stamp, version number, encryption type, key.
            entry.extend([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 18, 0, 32]);
            entry.extend([0; 32]);
            out.extend(i32::try_from(entry.len()).unwrap().to_be_bytes());
            out.extend(entry);
            // A deleted entry of four bytes.
            out.extend((-4_i32).to_be_bytes());
            out.extend([0; 4]);
        }
        out
    }

    #[test]
    fn principals_of_a_keytab() {
        let bytes = keytab(&[("host", "a.example", "LAB"), ("HTTP", "b.example", "OTHER")]);
        let found = entries(&bytes).unwrap();
        assert_eq!(found[0].components, ["host", "a.example"]);
        assert_eq!(found[0].realm, "LAB");
        assert_eq!(found[1].components, ["HTTP", "b.example"]);
        assert!(found[0].is_host_of(&["x".into(), "A.EXAMPLE".into()]));
        assert!(!found[1].is_host_of(&["b.example".into()]));
        assert_eq!(
            entries(&[&bytes[..], &[0; 7]].concat()).unwrap().len(),
            2,
            "what follows a length of zero is not read"
        );
        assert_eq!(entries(b"\x05\x02"), Some(vec![]));
        assert_eq!(entries(b"PK"), None);
        assert_eq!(entries(&bytes[..bytes.len() - 1]), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = entries(&[&[5, 2][..], &bytes].concat());
            let _ = entries(&bytes);
        }
    }
}

//! Writing JSON text straight into a buffer, for the few shapes that every request needs.

use serde::Serialize;

/// Writes `value` as JSON.
pub(crate) fn value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Writing to a Vec cannot fail, and nothing here has keys that are not text.
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.extend_from_slice(b"null");
    }
}

/// Writes a text as a JSON string.
pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    if text
        .bytes()
        .all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
    {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        value(out, text);
    }
}

/// Writes the members of an object one by one.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    started: bool,
}

impl<'a> Object<'a> {
    /// Opens the object.
    pub(crate) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object {
            out,
            started: false,
        }
    }

    /// Writes the name of the next member and gives the buffer for its value. `name` is one of ours and needs no escaping.
    pub(crate) fn key(&mut self, name: &'static str) -> &mut Vec<u8> {
        if self.started {
            self.out.push(b',');
        }
        self.started = true;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// A member that is a text.
    pub(crate) fn text(&mut self, name: &'static str, value: &str) {
        text(self.key(name), value);
    }

    /// A member that is a text, left out when empty.
    pub(crate) fn text_unless_empty(&mut self, name: &'static str, value: &str) {
        if !value.is_empty() {
            self.text(name, value);
        }
    }

    /// A member of any kind.
    pub(crate) fn member<T: Serialize + ?Sized>(&mut self, name: &'static str, member: &T) {
        value(self.key(name), member);
    }

    /// Closes the object.
    pub(crate) fn end(self) {
        self.out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_read_back(sent in "\\PC{0,20}|[\\x00-\\x7f]{0,20}") {
            let mut out = Vec::new();
            super::text(&mut out, &sent);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), sent);
        }
    }
}

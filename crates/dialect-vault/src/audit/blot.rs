//! The last look at a line: what has the form of a secret is replaced by its hash, wherever it got in.
//!
//! Paths, error texts and free metadata stand in the log in clear, and people do paste tokens into them.

use super::Hasher;

/// How secrets begin, and how many more characters make it one. Each beginning ends in a character that is rare in a line.
const FORMS: [(&[u8], usize); 3] = [(b"hvs.", 16), (b"gkh.", 16), (b"eyJ", 24)];

/// Replaces every secret in `line`.
pub(super) fn blot(line: Vec<u8>, hasher: &Hasher) -> Vec<u8> {
    let Some(first) = find(&line, 0) else {
        return line;
    };
    let mut clean = Vec::with_capacity(line.len() + 80);
    let mut copied = 0;
    let mut next = Some(first);
    while let Some((start, end)) = next {
        clean.extend_from_slice(&line[copied..start]);
        // Only ASCII lies in there.
        let secret = String::from_utf8_lossy(&line[start..end]);
        let quoted = hasher.quoted(&secret);
        clean.extend_from_slice(&quoted[1..quoted.len() - 1]);
        copied = end;
        next = find(&line, end);
    }
    clean.extend_from_slice(&line[copied..]);
    clean
}

/// Where the next secret begins and ends.
fn find(line: &[u8], from: usize) -> Option<(usize, usize)> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let mut at = from;
    loop {
        // Lines are long and nearly always clean, so the search is for what is rare and quick to rule out.
        let behind = at + memchr::memchr2(b'.', b'J', &line[at..])? + 1;
        at = behind;
        for (prefix, least) in FORMS {
            if !line[from..behind].ends_with(prefix) {
                continue;
            }
            let length = line[behind..]
                .iter()
                .take_while(|byte| is_part(byte))
                .count();
            if length >= least {
                return Some((behind - prefix.len(), behind + length));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cleaned(text: &str) -> String {
        String::from_utf8(blot(text.as_bytes().to_vec(), &Hasher::new(&[1; 32]))).unwrap()
    }

    #[test]
    fn secrets_go_and_words_stay() {
        let token = "hvs.AQAAAABqbJF-GvOZhTCI_KUZAHARgall4UPROAQK4J0ViN7hrvgXpI47w2me1AIu";
        let text = cleaned(&format!(
            "{{\"path\":\"auth/token/lookup/{token}\",\"error\":\"x {token} y eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2ln z\"}}"
        ));
        assert!(
            !text.contains(token) && !text.contains("eyJhbGci"),
            "{text}"
        );
        assert_eq!(text.matches("hmac-sha256:").count(), 3);
        assert!(text.ends_with(" z\"}"), "{text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        for word in [
            "hvs. is how tokens begin",
            "heyJude",
            "secret/oauth/creds/dune/hvs.example:default",
        ] {
            assert_eq!(cleaned(word), word);
        }
    }

    proptest! {
        #[test]
        fn nothing_else_changes(text in "[a-z .\"{}:/]{0,40}(gkh\\.[A-Za-z0-9_-]{16,40})?[ \"]?\\PC{0,20}") {
            let clean = cleaned(&text);
            prop_assert_eq!(clean == text, find(text.as_bytes(), 0).is_none());
            prop_assert!(find(clean.as_bytes(), 0).is_none());
        }
    }
}

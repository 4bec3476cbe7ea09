//! The chain of audit lines: each ends in a member that holds its number and a MAC over the line before and itself.
//!
//! Owns the form of that member and of the notes that the log writes about itself. The member is the last one of the line,
//!
//! ```text
//! ,"chain":{"id":"0123456789abcdef","seq":17,"mac":"<22 characters of base64url>"}}
//! ```
//!
//! and the MAC is the first half of HMAC-SHA256, under a key of the store, over the MAC of the line before (16 zero bytes for the
//! first), the number as 8 bytes big-endian, the identifier, and the line up to that member. Notes are lines too, of the path
//! `operator/audit`: they say where in which file the log went on, so that a file can be verified without those before it.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

const MEMBER: &[u8] = b",\"chain\":{\"id\":\"";
const ID: usize = 16;
const SEQ: &[u8] = b"\",\"seq\":";
const MAC: &[u8] = b",\"mac\":\"";
/// Characters of a MAC.
const MAC_TEXT: usize = 22;
const END: &[u8] = b"\"}}";

/// What notes have as their path.
pub(super) const NOTE_PATH: &str = "operator/audit";

/// A chain value.
pub(super) type Mac = [u8; 16];

/// A place in a chain: the number of a line and its MAC. Number 0 stands before the first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    pub seq: u64,
    pub mac: Mac,
}

/// Computes MACs.
#[derive(Clone)]
pub(super) struct Chainer {
    key: hmac::Key,
}

impl std::fmt::Debug for Chainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chainer")
    }
}

impl Chainer {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Chainer {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
        }
    }

    /// The MAC of line `seq` with this body behind a line with the MAC `before`.
    pub(super) fn mac(&self, before: &Mac, seq: u64, id: &[u8], body: &[u8]) -> Mac {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(before);
        context.update(&seq.to_be_bytes());
        context.update(id);
        context.update(body);
        let mut mac = Mac::default();
        mac.copy_from_slice(&context.sign().as_ref()[..16]);
        mac
    }

    /// Appends `line`, which is an object and may end in a newline, as the one behind `head`, and moves `head` on.
    pub(super) fn append(&self, out: &mut Vec<u8>, id: &str, head: &mut Head, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let body = line.strip_suffix(b"}").unwrap_or(line);
        head.seq += 1;
        head.mac = self.mac(&head.mac, head.seq, id.as_bytes(), body);
        out.extend_from_slice(body);
        out.extend_from_slice(MEMBER);
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(SEQ);
        out.extend_from_slice(head.seq.to_string().as_bytes());
        out.extend_from_slice(MAC);
        out.extend_from_slice(mac_text(&head.mac).as_bytes());
        out.extend_from_slice(END);
        out.push(b'\n');
    }

    /// Whether this is the line behind `before`.
    pub(super) fn follows(&self, before: &Head, line: &Chained<'_>) -> bool {
        before.seq.checked_add(1) == Some(line.head.seq)
            && self.mac(&before.mac, line.head.seq, line.id.as_bytes(), line.body) == line.head.mac
    }
}

/// A MAC as it is written.
pub(super) fn mac_text(mac: &Mac) -> String {
    URL_SAFE_NO_PAD.encode(mac)
}

/// A MAC from what is written.
pub(super) fn mac_of_text(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    (text.len() == MAC_TEXT
        && URL_SAFE_NO_PAD
            .decode_slice(text, &mut mac)
            .is_ok_and(|length| length == mac.len()))
    .then_some(mac)
}

/// A new identifier of a chain.
pub(super) fn new_id() -> String {
    let mut bytes = [0; ID / 2];
    // Without randomness the identifier is only not unique, which no proof rests on.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A line of a chain, taken apart. Nothing is proven of it yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chained<'a> {
    pub body: &'a [u8],
    pub id: &'a str,
    pub head: Head,
}

impl<'a> Chained<'a> {
    /// `None` if the line, without its newline, does not end in a member of a chain.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let start = memchr::memmem::rfind(line, MEMBER)?;
        let rest = &line[start + MEMBER.len()..];
        let (id, rest) = rest.split_at_checked(ID)?;
        let id = std::str::from_utf8(id)
            .ok()
            .filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let rest = rest.strip_prefix(SEQ)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let seq = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        let rest = rest[digits..].strip_prefix(MAC)?.strip_suffix(END)?;
        let mac = mac_of_text(std::str::from_utf8(rest).ok()?)?;
        Some(Chained {
            body: &line[..start],
            id,
            head: Head { seq, mac },
        })
    }

    /// The note this is, if it is one.
    pub(super) fn note(&self) -> Option<Note> {
        #[derive(Deserialize)]
        struct Line {
            request: Request,
        }
        #[derive(Deserialize)]
        struct Request {
            path: String,
            data: Note,
        }
        // Cheap to rule out for nearly all lines.
        memchr::memmem::find(self.body, b"\"operator/audit\"")?;
        let mut whole = self.body.to_vec();
        whole.push(b'}');
        let line: Line = serde_json::from_slice(&whole).ok()?;
        (line.request.path == NOTE_PATH).then_some(line.request.data)
    }
}

/// Why a note was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Happened {
    /// The server started.
    Opened,
    /// A new file was begun, because the old one was renamed or a reload asked for it.
    Rotated,
    /// The file was found shorter than it was.
    Cut,
    /// Lines could not be written for a while.
    Resumed,
}

/// What the log says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub event: Happened,
    /// Number of the line before.
    pub after: u64,
    /// MAC of the line before.
    pub after_mac: String,
    /// Bytes in the file before the note.
    pub offset: u64,
    /// How many of these, the newline behind them not counted, are a line that was torn.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub torn: u64,
    /// Lines that were never written, for want of room.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Note {
    /// The place in the chain that the note says it stands behind.
    pub(super) fn head(&self) -> Option<Head> {
        Some(Head {
            seq: self.after,
            mac: mac_of_text(&self.after_mac)?,
        })
    }

    /// The note as a line, still without its member of the chain.
    pub(super) fn line(&self, time: &str) -> Vec<u8> {
        let line = serde_json::json!({
            "time": time,
            "type": "response",
            "request": { "operation": "update", "path": NOTE_PATH, "data": self },
        });
        line.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The MACs were computed with Python's hmac module from the description above.
    #[test]
    fn the_form_is_the_described_one() {
        let chainer = Chainer::new(b"0123456789abcdef0123456789abcdef");
        let (mut out, mut head) = (Vec::new(), Head::default());
        chainer.append(
            &mut out,
            "00112233aabbccdd",
            &mut head,
            b"{\"type\":\"request\"}\n",
        );
        chainer.append(
            &mut out,
            "00112233aabbccdd",
            &mut head,
            b"{\"type\":\"response\"}\n",
        );
        assert_eq!(String::from_utf8(out).unwrap(), VECTOR);
    }

    const VECTOR: &str = "{\"type\":\"request\",\"chain\":{\"id\":\"00112233aabbccdd\",\"seq\":1,\"mac\":\"MaA-560Ityc9MJU5yAtYSA\"}}\n{\"type\":\"response\",\"chain\":{\"id\":\"00112233aabbccdd\",\"seq\":2,\"mac\":\"lvrgbQ-1TcmhfFm4S87swA\"}}\n";

    #[test]
    fn notes_read_back() {
        let chainer = Chainer::new(&[1; 32]);
        let note = Note {
            event: Happened::Resumed,
            after: 3,
            after_mac: mac_text(&[9; 16]),
            offset: 77,
            torn: 5,
            lost: 0,
        };
        let (mut out, mut head) = (Vec::new(), note.head().unwrap());
        chainer.append(&mut out, &new_id(), &mut head, &note.line("now"));
        let line = Chained::parse(out.strip_suffix(b"\n").unwrap()).unwrap();
        assert!(chainer.follows(&note.head().unwrap(), &line));
        assert_eq!(line.note(), Some(note));
        assert_eq!(head.seq, 4);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["request"]["data"]["event"], "resumed");
        assert_eq!(value["chain"]["seq"], 4);
    }

    proptest! {
        #[test]
        fn what_is_appended_is_taken_apart_again(text in "\\PC{0,40}", seq in 0..u64::MAX) {
            let chainer = Chainer::new(&[1; 32]);
            let line = serde_json::json!({"a": text, "chain": {"id": text}}).to_string();
            let before = Head { seq, mac: [7; 16] };
            let (mut out, mut head) = (Vec::new(), before);
            chainer.append(&mut out, "00112233aabbccdd", &mut head, line.as_bytes());
            let parsed = Chained::parse(out.strip_suffix(b"\n").unwrap()).unwrap();
            prop_assert_eq!(parsed.head, head);
            prop_assert!(chainer.follows(&before, &parsed));
            for cut in 0..out.len() - 1 {
                prop_assert!(Chained::parse(&out[..cut]).is_none_or(|line| !chainer.follows(&before, &line)));
            }
        }

        #[test]
        fn any_bytes_are_taken_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut near = bytes.clone();
            near.extend_from_slice(MEMBER);
            near.extend_from_slice(&bytes);
            let _ = Chained::parse(&bytes).and_then(|line| line.note());
            let _ = Chained::parse(&near).and_then(|line| line.note());
        }
    }
}

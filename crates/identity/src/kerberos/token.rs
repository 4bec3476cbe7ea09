//! The form of what a client sends: a GSS token of the mechanism krb5 (RFC 4121), bare or inside of SPNEGO (RFC 4178), around one AP-REQ
//! (RFC 4120, section 5.5.1).
//!
//! Read strictly, to the last byte, before the library sees it: of the same authenticator there must not be a second spelling that the
//! library accepts and that has another fingerprint. What is inside is for the library to judge.

use aws_lc_rs::digest;

/// krb5, 1.2.840.113554.1.2.2.
const KRB5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// The same with a bit lost, as old Windows writes it in SPNEGO, 1.2.840.48018.1.2.2.
const KRB5_OF_WINDOWS: &[u8] = &[0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// SPNEGO, 1.3.6.1.5.5.2.
const SPNEGO: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[APPLICATION 0]`, the frame of a first token (RFC 2743, section 3.1).
const FRAME: u8 = 0x60;
/// `[APPLICATION 14]`.
const AP_REQ: u8 = 0x6e;

/// A token that has the right form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Token<'t> {
    /// The bare token of the mechanism krb5.
    pub krb5: &'t [u8],
    /// SHA-256 of the encrypted authenticator, which nobody but its maker can write in another way.
    pub authenticator: [u8; 32],
}

/// Why a token does not have the right form.
pub(super) type Malformed = &'static str;

/// Reads what came after the word `Negotiate`, decoded.
pub(super) fn read(bytes: &[u8]) -> Result<Token<'_>, Malformed> {
    let (mechanism, inner) = frame(bytes)?;
    let krb5 = match mechanism {
        KRB5 => bytes,
        SPNEGO => first_mechanism_token(inner)?,
        _ => return Err("it is of a mechanism other than krb5 and SPNEGO"),
    };
    let (mechanism, inner) = frame(krb5)?;
    if mechanism != KRB5 {
        return Err("the token inside of SPNEGO is not of the mechanism krb5");
    }
    // RFC 4121, section 4.1: 01 00 stands before an AP-REQ.
    let request = inner
        .strip_prefix(&[1, 0])
        .ok_or("it holds no request of a client")?;
    let cipher = authenticator(request).ok_or("its AP-REQ is malformed")?;
    let digest = digest::digest(&digest::SHA256, cipher);
    let authenticator = digest
        .as_ref()
        .try_into()
        .map_err(|_| "it cannot be hashed")?;
    Ok(Token {
        krb5,
        authenticator,
    })
}

/// Mechanism and content of a first token.
fn frame(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    const WRONG: Malformed = "it is not a GSS token";
    let mut rest = bytes;
    let mut content = take(&mut rest, FRAME).ok_or(WRONG)?;
    if !rest.is_empty() {
        return Err("there is something after its end");
    }
    let mechanism = take(&mut content, OBJECT).ok_or(WRONG)?;
    Ok((mechanism, content))
}

/// The token of a NegTokenInit whose preferred mechanism is krb5. Anything else would take another round.
fn first_mechanism_token(inner: &[u8]) -> Result<&[u8], Malformed> {
    const WRONG: Malformed = "its SPNEGO part is malformed";
    let mut rest = inner;
    let mut choice = take(&mut rest, 0xa0).ok_or(WRONG)?;
    let mut init = take(&mut choice, SEQUENCE).ok_or(WRONG)?;
    let mut types = take(&mut init, 0xa0).ok_or(WRONG)?;
    let mut list = take(&mut types, SEQUENCE).ok_or(WRONG)?;
    if !(rest.is_empty() && choice.is_empty() && types.is_empty()) {
        return Err(WRONG);
    }
    let preferred = take(&mut list, OBJECT).ok_or(WRONG)?;
    if preferred != KRB5 && preferred != KRB5_OF_WINDOWS {
        return Err("the client prefers a mechanism other than krb5");
    }
    // The deprecated flags are read over.
    if init.first() == Some(&0xa1) {
        take(&mut init, 0xa1).ok_or(WRONG)?;
    }
    let mut token = take(&mut init, 0xa2).ok_or("it carries no token of the mechanism krb5")?;
    let found = take(&mut token, OCTET_STRING).ok_or(WRONG)?;
    if !token.is_empty() {
        return Err(WRONG);
    }
    Ok(found)
}

/// The ciphertext of the authenticator of an AP-REQ.
fn authenticator(request: &[u8]) -> Option<&[u8]> {
    let mut rest = request;
    let mut wrapped = take(&mut rest, AP_REQ)?;
    let mut fields = take(&mut wrapped, SEQUENCE)?;
    let mut version = take(&mut fields, 0xa0)?;
    let mut kind = take(&mut fields, 0xa1)?;
    let _options = take(&mut fields, 0xa2)?;
    let _ticket = take(&mut fields, 0xa3)?;
    let mut tagged = take(&mut fields, 0xa4)?;
    let mut encrypted = take(&mut tagged, SEQUENCE)?;
    let right = take(&mut version, INTEGER)? == [5] && take(&mut kind, INTEGER)? == [14];
    let _encryption_type = take(&mut encrypted, 0xa0)?;
    if encrypted.first() == Some(&0xa1) {
        take(&mut encrypted, 0xa1)?;
    }
    let mut cipher = take(&mut encrypted, 0xa2)?;
    let found = take(&mut cipher, OCTET_STRING)?;
    let whole = [
        rest, wrapped, fields, version, kind, tagged, encrypted, cipher,
    ]
    .iter()
    .all(|left| left.is_empty());
    (right && whole).then_some(found)
}

/// The content of the element with `tag` at the head of `rest`, which is moved behind it. Lengths are those of DER: definite, and in the
/// fewest bytes.
fn take<'b>(rest: &mut &'b [u8], tag: u8) -> Option<&'b [u8]> {
    let after_tag = rest.strip_prefix(&[tag])?;
    let (&first, after) = after_tag.split_first()?;
    let (length, after) = match first {
        0..=0x7f => (usize::from(first), after),
        0x81 => {
            let (&length, after) = after.split_first()?;
            (usize::from(length), after)
        }
        0x82..=0x84 => {
            let (bytes, after) = after.split_at_checked(usize::from(first - 0x80))?;
            let length = bytes
                .iter()
                .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
            (length, after)
        }
        _ => return None,
    };
    let least = match first {
        0x81 => 0x80,
        0x82 => 0x100,
        0x83 => 0x1_0000,
        0x84 => 0x100_0000,
        _ => 0,
    };
    if length < least {
        return None;
    }
    let (content, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(content)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match content.len() {
            short @ 0..0x80 => out.push(u8::try_from(short).unwrap()),
            middle @ 0x80..0x100 => out.extend([0x81, u8::try_from(middle).unwrap()]),
            long => {
                out.push(0x82);
                out.extend(u16::try_from(long).unwrap().to_be_bytes());
            }
        }
        out.extend(content);
        out
    }

    fn sequence(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
        element(tag, &element(SEQUENCE, &parts.concat()))
    }

    fn ap_req(cipher: &[u8]) -> Vec<u8> {
        sequence(
            AP_REQ,
            &[
                element(0xa0, &[2, 1, 5]),
                element(0xa1, &[2, 1, 14]),
                element(0xa2, &[3, 5, 0, 0, 0, 0, 0]),
                element(0xa3, b"a ticket"),
                sequence(
                    0xa4,
                    &[
                        element(0xa0, &[2, 1, 18]),
                        element(0xa2, &element(OCTET_STRING, cipher)),
                    ],
                ),
            ],
        )
    }

    fn krb5(cipher: &[u8]) -> Vec<u8> {
        element(
            FRAME,
            &[element(OBJECT, KRB5), vec![1, 0], ap_req(cipher)].concat(),
        )
    }

    pub fn spnego(mechanisms: &[&[u8]], token: &[u8]) -> Vec<u8> {
        let list: Vec<Vec<u8>> = mechanisms.iter().map(|oid| element(OBJECT, oid)).collect();
        let init = sequence(
            0xa0,
            &[
                sequence(0xa0, &list),
                element(0xa2, &element(OCTET_STRING, token)),
            ],
        );
        element(FRAME, &[element(OBJECT, SPNEGO), init].concat())
    }

    #[test]
    fn bare_and_in_spnego_it_is_the_same_authenticator() {
        for length in [10, 200, 300] {
            let bare = krb5(&vec![7; length]);
            let read_bare = read(&bare).unwrap();
            assert_eq!(read_bare.krb5, bare);
            for preferred in [KRB5, KRB5_OF_WINDOWS] {
                let wrapped = spnego(&[preferred, KRB5, &[42, 1]], &bare);
                assert_eq!(read(&wrapped).unwrap(), read_bare);
            }
        }
        assert_ne!(
            read(&krb5(b"one")).unwrap().authenticator,
            read(&krb5(b"two")).unwrap().authenticator
        );
    }

    #[test]
    fn other_spellings_are_refused() {
        let bare = krb5(&[7; 20]);
        assert!(read(&bare).is_ok());
        // Trailing bytes, a length in more bytes than it takes, an indefinite length.
        assert!(read(&[&bare[..], b"x"].concat()).is_err());
        assert!(read(&[&[FRAME, 0x81, bare[1]], &bare[2..]].concat()).is_err());
        assert!(read(&[&[FRAME, 0x80], &bare[2..], &[0, 0]].concat()).is_err());
        assert!(read(&bare[..bare.len() - 1]).is_err());
        assert!(read(b"").is_err());
        // NTLM, other mechanisms, a mechanism that would need another round, SPNEGO in SPNEGO.
        assert!(read(b"NTLMSSP\0\x01\0\0\0").is_err());
        assert!(read(&element(FRAME, &element(OBJECT, &[42, 1]))).is_err());
        assert!(read(&spnego(&[&[42, 1], KRB5], &bare)).is_err());
        assert!(read(&spnego(&[KRB5], &spnego(&[KRB5], &bare))).is_err());
        // A server's answer in a client's place.
        let mut reply = bare.clone();
        let at = reply.windows(2).position(|pair| pair == [1, 0]).unwrap();
        reply[at] = 2;
        assert!(read(&reply).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
            let _ = read(&element(FRAME, &[element(OBJECT, KRB5), vec![1, 0], bytes.clone()].concat()));
            let _ = read(&element(FRAME, &[element(OBJECT, SPNEGO), bytes].concat()));
        }

        #[test]
        fn a_changed_frame_has_the_same_fingerprint_or_none(at in 0_usize..60, to in any::<u8>()) {
            let bare = krb5(&[7; 20]);
            let mut changed = bare.clone();
            let cipher_begins = bare.len() - 20;
            let at = at % cipher_begins;
            changed[at] = to;
            if let Ok(token) = read(&changed) {
                prop_assert_eq!(token.authenticator, read(&bare).unwrap().authenticator);
            }
        }
    }
}

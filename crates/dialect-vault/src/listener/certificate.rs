//! The one thing we read in a certificate: when it ends (RFC 5280 section 4.1.2.5).

use gridkeep_keeper::UnixSeconds;

/// `notAfter` of a certificate in DER, or `None` when it is not one.
pub(super) fn not_after(der: &[u8]) -> Option<UnixSeconds> {
    const INTEGER: u8 = 0x02;
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (certificate, _) = take(der, SEQUENCE)?;
    let (to_be_signed, _) = take(certificate, SEQUENCE)?;
    let rest = take(to_be_signed, VERSION).map_or(to_be_signed, |(_, rest)| rest);
    let (_serial, rest) = take(rest, INTEGER)?;
    let (_algorithm, rest) = take(rest, SEQUENCE)?;
    let (_issuer, rest) = take(rest, SEQUENCE)?;
    let (validity, _) = take(rest, SEQUENCE)?;
    let (_, _, after_not_before) = element(validity)?;
    let (tag, end, _) = element(after_not_before)?;
    moment(tag, std::str::from_utf8(end).ok()?)
}

fn moment(tag: u8, text: &str) -> Option<UnixSeconds> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = text.strip_suffix('Z')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| digits.get(from..to)?.parse::<i16>().ok();
    let (year, at) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(0, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let part = |index: usize| i8::try_from(number(at + 2 * index, at + 2 * index + 2)?).ok();
    let moment =
        jiff::civil::DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0)
            .ok()?;
    Some(UnixSeconds(
        jiff::tz::Offset::UTC.to_timestamp(moment).ok()?.as_second(),
    ))
}

/// The contents of the first element, if it has `tag`, and what follows it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, contents, rest) = element(der)?;
    (found == tag).then_some((contents, rest))
}

fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (
                bytes
                    .iter()
                    .fold(0_usize, |length, byte| length << 8 | usize::from(*byte)),
                rest,
            )
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(year: i32) -> Vec<u8> {
        let mut parameters =
            rcgen::CertificateParams::new(vec!["vault.example.org".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(year, 3, 17);
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_is_found() {
        assert_eq!(not_after(&made(2030)), Some(UnixSeconds(1_899_936_000)));
        assert_eq!(
            not_after(&made(2060)).map(crate::time::whole).as_deref(),
            Some("2060-03-17T00:00:00Z")
        );
    }

    #[test]
    fn odd_times_are_not_guessed() {
        assert_eq!(
            moment(0x17, "490101000000Z")
                .map(crate::time::whole)
                .as_deref(),
            Some("2049-01-01T00:00:00Z")
        );
        assert_eq!(
            moment(0x17, "500101000000Z")
                .map(crate::time::whole)
                .as_deref(),
            Some("1950-01-01T00:00:00Z")
        );
        for text in [
            "",
            "Z",
            "490101000000",
            "491301000000Z",
            "4901010000+0Z",
            "20490101000000Z",
        ] {
            assert_eq!(moment(0x17, text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn damage_is_survived(at in 0_usize..300, byte in any::<u8>(), keep in 0_usize..400) {
            let mut der = made(2030);
            if let Some(place) = der.get_mut(at) { *place = byte; }
            der.truncate(keep);
            let _ = not_after(&der);
        }
    }
}

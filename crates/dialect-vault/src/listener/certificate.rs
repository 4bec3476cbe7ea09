//! The one thing we read in a certificate: from when until when it is valid (RFC 5280 section 4.1.2.5).

use gridkeep_keeper::UnixSeconds;

use crate::time;

/// From when until when a certificate is valid; `None` is what could not be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Validity {
    /// `notBefore`.
    pub starts: Option<UnixSeconds>,
    /// `notAfter`.
    pub ends: Option<UnixSeconds>,
}

impl Validity {
    /// That of a certificate in DER.
    pub fn of(der: &[u8]) -> Self {
        validity(der).unwrap_or_default()
    }

    /// Whole days until the end, negative when that has passed.
    pub fn days_left(self, now: UnixSeconds) -> Option<i64> {
        self.ends.map(|end| (end.0 - now.0).div_euclid(86_400))
    }

    /// Why clients refuse the certificate at this moment; `None` when they do not for its times.
    pub fn objection(self, now: UnixSeconds) -> Option<String> {
        match (self.starts, self.ends) {
            (_, Some(end)) if end < now => Some(format!("ended at {}", time::whole(end))),
            (Some(start), _) if start > now => {
                Some(format!("is not valid before {}", time::whole(start)))
            }
            _ => None,
        }
    }
}

fn validity(der: &[u8]) -> Option<Validity> {
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
    let (start_tag, start, after_not_before) = element(validity)?;
    let (end_tag, end, _) = element(after_not_before)?;
    Some(Validity {
        starts: moment(start_tag, start),
        ends: moment(end_tag, end),
    })
}

fn moment(tag: u8, text: &[u8]) -> Option<UnixSeconds> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
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
        assert_eq!(
            Validity::of(&made(2030)).ends,
            Some(UnixSeconds(1_899_936_000))
        );
        assert_eq!(
            Validity::of(&made(2060))
                .ends
                .map(crate::time::whole)
                .as_deref(),
            Some("2060-03-17T00:00:00Z")
        );
    }

    #[test]
    fn it_is_said_why_clients_refuse_it_now() {
        let validity = Validity::of(&made(2030));
        for (now, expected) in [
            (
                "2019-12-31T00:00:00Z",
                Some("is not valid before 2020-01-01T00:00:00Z"),
            ),
            ("2025-01-01T00:00:00Z", None),
            (
                "2031-01-01T00:00:00Z",
                Some("ended at 2030-03-17T00:00:00Z"),
            ),
        ] {
            let at: jiff::Timestamp = now.parse().unwrap();
            let found = validity.objection(UnixSeconds(at.as_second()));
            assert_eq!(found.as_deref(), expected, "{now}");
        }
        assert_eq!(Validity::of(b"").objection(UnixSeconds(0)), None);
    }

    #[test]
    fn odd_times_are_not_guessed() {
        assert_eq!(
            moment(0x17, b"490101000000Z")
                .map(crate::time::whole)
                .as_deref(),
            Some("2049-01-01T00:00:00Z")
        );
        assert_eq!(
            moment(0x17, b"500101000000Z")
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
            assert_eq!(moment(0x17, text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn damage_is_survived(at in 0_usize..300, byte in any::<u8>(), keep in 0_usize..400) {
            let mut der = made(2030);
            if let Some(place) = der.get_mut(at) { *place = byte; }
            der.truncate(keep);
            let _ = Validity::of(&der);
        }
    }
}

//! Moments as the API writes them: RFC 3339 in UTC with nine digits of a second.

use std::fmt::Write as _;
use std::time::Duration;

use gridkeep_keeper::UnixSeconds;

/// A moment given as time since the epoch.
pub(crate) fn since_epoch(moment: Duration) -> String {
    format(
        i64::try_from(moment.as_secs()).unwrap_or(i64::MAX),
        moment.subsec_nanos(),
    )
}

/// A moment given in seconds and nanoseconds.
pub(crate) fn exact(moment: UnixSeconds, nanoseconds: u32) -> String {
    format(moment.0, nanoseconds)
}

/// A moment in whole seconds, written without a fraction.
pub(crate) fn whole(moment: UnixSeconds) -> String {
    moment.to_string()
}

/// A moment as somebody wrote it, in RFC 3339.
pub(crate) fn parse(text: &str) -> Option<UnixSeconds> {
    let moment: jiff::Timestamp = text.trim().parse().ok()?;
    Some(UnixSeconds(moment.as_second()))
}

/// A moment as HTTP writes dates, with the zone's name as the original writes it.
pub(crate) fn http_date(moment: Duration) -> String {
    let seconds = i64::try_from(moment.as_secs()).unwrap_or(i64::MAX);
    let moment = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    moment.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string()
}

fn format(seconds: i64, nanoseconds: u32) -> String {
    let mut text = String::with_capacity(30);
    let beyond = if seconds < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    };
    let moment =
        jiff::Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap_or(0)).unwrap_or(beyond);
    // Writing into a String cannot fail.
    let _ = write!(text, "{moment:.9}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_digits() {
        assert_eq!(
            since_epoch(Duration::new(1_785_500_000, 123_456_789)),
            "2026-07-31T12:13:20.123456789Z"
        );
        assert_eq!(
            exact(UnixSeconds(1_785_500_000), 0),
            "2026-07-31T12:13:20.000000000Z"
        );
        assert_eq!(whole(UnixSeconds(1_785_500_000)), "2026-07-31T12:13:20Z");
        assert_eq!(
            parse("2026-07-31T14:13:20+02:00"),
            Some(UnixSeconds(1_785_500_000))
        );
        assert_eq!(parse("tomorrow"), None);
        assert_eq!(
            http_date(Duration::from_secs(1_785_500_000)),
            "Fri, 31 Jul 2026 12:13:20 UTC"
        );
        assert!(since_epoch(Duration::MAX).starts_with("9999-"));
    }
}

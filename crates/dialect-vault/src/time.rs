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
        assert!(since_epoch(Duration::MAX).starts_with("9999-"));
    }
}

//! The text of a point in time as the original has it: what `date` prints in the C locale, with one blank between its words. Owns nothing else.

use crate::environment::Environment;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The zone that `TZ` names, else the system's. `TZ` set but empty or unknown means UTC, as for `date`.
pub fn zone(environment: &Environment) -> TimeZone {
    let Some(name) = environment.var_os("TZ") else {
        return TimeZone::system();
    };
    let name = name.to_str().unwrap_or_default().trim_start_matches(':');
    TimeZone::get(name)
        .or_else(|_| TimeZone::posix(name))
        .unwrap_or(TimeZone::UTC)
}

/// The moment that `number`, a JSON number of seconds since 1970, stands for; `None` when no calendar date exists for it.
pub fn shown(number: &str, zone: &TimeZone) -> Option<String> {
    let moment = Timestamp::from_second(seconds(number)?)
        .ok()?
        .to_zoned_datetime(zone.clone());
    Some(moment.strftime("%a %b %-d %H:%M:%S %Z %Y").to_string())
}

/// The whole seconds of a JSON number; `None` where it is beyond any calendar.
pub fn seconds(number: &str) -> Option<i64> {
    if let Ok(whole) = number.parse() {
        return Some(whole);
    }
    let seconds = number.parse::<f64>().ok()?.floor();
    // Beyond this no f64 is exact and no date exists anyway.
    if seconds.abs() > 1e15 {
        return None;
    }
    format!("{seconds:.0}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_look_as_date_prints_them() {
        let utc = TimeZone::UTC;
        assert_eq!(
            shown("1900000000", &utc).unwrap(),
            "Sun Mar 17 17:46:40 UTC 2030"
        );
        assert_eq!(
            shown("1900000000.75", &utc).unwrap(),
            "Sun Mar 17 17:46:40 UTC 2030"
        );
        assert_eq!(
            shown("1.9e9", &utc).unwrap(),
            "Sun Mar 17 17:46:40 UTC 2030"
        );
        // Not "Dec  1", which is what `date` prints.
        assert_eq!(
            shown("1796083336", &utc).unwrap(),
            "Tue Dec 1 00:02:16 UTC 2026"
        );
        assert_eq!(shown("-1", &utc).unwrap(), "Wed Dec 31 23:59:59 UTC 1969");
        assert_eq!(shown("99999999999999999999", &utc), None);
        assert_eq!(shown("9223372036854775807", &utc), None);
    }

    #[test]
    fn the_zone_comes_from_the_environment() {
        let mut environment = Environment::current();
        environment
            .vars
            .insert("TZ".into(), "CET-1CEST,M3.5.0,M10.5.0/3".into());
        assert_eq!(
            shown("1900000000", &zone(&environment)).unwrap(),
            "Sun Mar 17 18:46:40 CET 2030"
        );
        environment.vars.insert("TZ".into(), String::new().into());
        assert_eq!(
            shown("1900000000", &zone(&environment)).unwrap(),
            "Sun Mar 17 17:46:40 UTC 2030"
        );
    }
}

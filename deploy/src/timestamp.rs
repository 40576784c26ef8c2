//! Times as RFC 3339 text.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in seconds since the epoch. A clock before 1970 is not set at all and reads as 0.
pub fn now_secs() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_secs()).ok())
        .unwrap_or(0)
}

/// Now, UTC, to the second: `2026-11-23T10:04:05Z`.
pub fn now() -> String {
    format(now_secs())
}

/// Text of a time given in seconds since the epoch, UTC.
pub fn format(secs: i64) -> String {
    let (days, time) = (secs.div_euclid(86400), secs.rem_euclid(86400));
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

/// Seconds since the epoch of a `date-time` of RFC 3339; fractions of a second are dropped. `None`: it is not one.
pub fn parse(text: &str) -> Option<i64> {
    let text = text.as_bytes();
    let number = |from: usize, length: usize| {
        let digits = text.get(from..from + length)?;
        digits.iter().try_fold(0_i64, |value, c| c.is_ascii_digit().then(|| value * 10 + i64::from(c - b'0')))
    };
    let marks: [(usize, &[u8]); 5] = [(4, b"-"), (7, b"-"), (10, b"Tt"), (13, b":"), (16, b":")];
    if !marks.iter().all(|(at, allowed)| text.get(*at).is_some_and(|c| allowed.contains(c))) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let days = days(year, month, day);
    // A day that the month does not have comes back as another one. The 60th second is a leap second.
    if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = &text[19..];
    if let [b'.', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|c| c.is_ascii_digit()).count();
        rest = if digits > 0 { &fraction[digits..] } else { return None };
    }
    let offset_secs = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let from = text.len() - 5;
            let (hours, minutes) = (number(from, 2)?, number(from + 3, 2)?);
            let secs = hours * 3600 + minutes * 60;
            if hours > 23 || minutes > 59 {
                return None;
            }
            if *sign == b'+' { secs } else { -secs }
        }
        _ => return None,
    };
    Some(days * 86400 + hour * 3600 + minute * 60 + second - offset_secs)
}

/// Days since 1970-01-01 of a day in the Gregorian calendar; see [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
///
/// Counts in years that begin in March, so that the leap day is the last one.
/// Source: <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_428_245, "2026-11-23T10:04:05Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            // What Go writes for a time that is not set.
            (-62_135_596_800, "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(format(secs), text);
            assert_eq!(parse(text), Some(secs), "{text}");
        }
    }

    #[test]
    fn every_form_of_the_standard_is_read_and_nothing_else() {
        for text in [
            "2026-11-23T10:04:05.123456789Z",
            "2026-11-23t10:04:05z",
            "2026-11-23T10:04:05+00:00",
            "2026-11-23T12:04:05+02:00",
            "2026-11-22T23:34:05.5-10:30",
        ] {
            assert_eq!(parse(text), Some(1_795_428_245), "{text}");
        }
        for text in [
            "",
            "2026-11-23",
            "2026-11-23 10:04:05Z",
            "2026-11-23T10:04:05",
            "2026-11-23T10:04:05.Z",
            "2026-11-23T10:04:05ZZ",
            "2026-11-23T10:04:05+0200",
            "2026-11-23T10:04:05+24:00",
            "2026-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "20é6-11-23T10:04:05Z",
            "2026-11-23T10:04:05é:00",
            "+026-11-23T10:04:05Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

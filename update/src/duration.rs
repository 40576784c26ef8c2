//! Lengths of time as users write them.

use std::time::Duration;

/// Parses a length of time: a number with m, h, d or w for minutes, hours, days or weeks.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let error = || format!("{text:?} is not a length of time; write a number with m, h, d or w, such as 14d");
    let (number, unit_secs) = match text.char_indices().next_back() {
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 60 * 60),
        Some((at, 'd')) => (&text[..at], 24 * 60 * 60),
        Some((at, 'w')) => (&text[..at], 7 * 24 * 60 * 60),
        // Nothing is nothing in any unit.
        _ if text == "0" => (text, 1),
        _ => return Err(error()),
    };
    let number: u32 = number.parse().map_err(|_| error())?;
    Ok(Duration::from_secs(u64::from(number) * unit_secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_a_unit() {
        assert_eq!(parse("90m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("12h"), Ok(Duration::from_secs(43_200)));
        assert_eq!(parse("14d"), parse("2w"));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        for text in ["", "d", "14", "-1d", "1.5d", "1 d", "99999999999d", "1é"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

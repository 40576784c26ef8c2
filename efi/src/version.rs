//! Comparison of versions as UAPI.10 defines it and systemd-boot does it.

use std::cmp::Ordering;

/// Compares two version texts.
///
/// `~` sorts before everything, even the end of the text; then come the end, `-`, `^`, `.`, letters and numbers, the
/// last ones by value. Any other character only separates. Source: UAPI.10 version format specification.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        a = skip_separators(a);
        b = skip_separators(b);
        if let Some(order) = marker(&mut a, &mut b, b'~') {
            return order;
        }
        if a.is_empty() || b.is_empty() {
            return a.len().min(1).cmp(&b.len().min(1));
        }
        for mark in [b'-', b'^', b'.'] {
            if let Some(order) = marker(&mut a, &mut b, mark) {
                return order;
            }
        }
        let order = if starts_with_digit(a) || starts_with_digit(b) {
            let a_number = without_leading_zeros(take_run(&mut a, u8::is_ascii_digit));
            let b_number = without_leading_zeros(take_run(&mut b, u8::is_ascii_digit));
            a_number.len().cmp(&b_number.len()).then_with(|| a_number.cmp(b_number))
        } else {
            // Byte slices compare as asked for: capitals first, and a longer run is greater than its beginning.
            take_run(&mut a, u8::is_ascii_alphabetic).cmp(take_run(&mut b, u8::is_ascii_alphabetic))
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Decides by a character that makes the text which has it the lower one; steps over it if both have it.
fn marker(a: &mut &[u8], b: &mut &[u8], mark: u8) -> Option<Ordering> {
    match (a.strip_prefix(&[mark]), b.strip_prefix(&[mark])) {
        (Some(a_rest), Some(b_rest)) => {
            *a = a_rest;
            *b = b_rest;
            None
        }
        (Some(_), None) => Some(Ordering::Less),
        (None, Some(_)) => Some(Ordering::Greater),
        (None, None) => None,
    }
}

fn skip_separators(text: &[u8]) -> &[u8] {
    let significant = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'~' | b'-' | b'^' | b'.');
    &text[text.iter().position(significant).unwrap_or(text.len())..]
}

fn starts_with_digit(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
}

fn take_run<'a>(text: &mut &'a [u8], belongs: fn(&u8) -> bool) -> &'a [u8] {
    let (run, rest) = text.split_at(text.iter().position(|c| !belongs(c)).unwrap_or(text.len()));
    *text = rest;
    run
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().position(|c| *c != b'0').unwrap_or(number.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_of_the_specification_ascends() {
        let chain = [
            "122.1",
            "123~rc1-1",
            "123",
            "123-a",
            "123-a.1",
            "123-1",
            "123-1.1",
            "123^post1",
            "123.a-1",
            "123.1-1",
            "123a-1",
            "124-1",
        ];
        for (i, a) in chain.iter().enumerate() {
            for (j, b) in chain.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} against {b}");
            }
        }
    }

    #[test]
    fn single_rules() {
        let less =
            [("B", "a"), ("~", ""), ("~", "0"), ("1.3.3", "1_2_3"), ("a", "ab"), ("9", "10"), ("0a", "0b"), ("", "0")];
        for (a, b) in less {
            assert_eq!(compare(a, b), Ordering::Less, "{a} against {b}");
            assert_eq!(compare(b, a), Ordering::Greater, "{b} against {a}");
        }
        for (a, b) in [("1_", "1"), ("1+", "1"), ("007", "7"), ("", "_"), ("a~~b", "a~~b"), ("x.-1", "x.-1")] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} against {b}");
        }
    }

    #[test]
    fn numbers_may_be_longer_than_any_integer() {
        let big = "9".repeat(60);
        assert_eq!(compare(&big, &format!("1{}", "0".repeat(60))), Ordering::Less);
    }

    #[test]
    fn a_greater_sequence_wins_whatever_the_image_version() {
        assert_eq!(compare("000010-1.0", "000009-99.9"), Ordering::Greater);
        assert_eq!(compare("1000000-1", "999999-1"), Ordering::Greater);
    }
}

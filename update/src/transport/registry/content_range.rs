//! The header `Content-Range` of an answer.

use reqwest::header::{CONTENT_RANGE, HeaderMap};

/// `bytes START-END/SIZE`, or `bytes */SIZE` where there is nothing to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// First byte that is sent.
    pub(super) start: Option<u64>,
    /// Size of the whole; `None` if the server does not know.
    pub(super) size_bytes: Option<u64>,
}

impl ContentRange {
    /// `None` if there is no such header or it makes no sense.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(CONTENT_RANGE)?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, size) = rest.split_once('/')?;
        let size_bytes = match size.trim() {
            "*" => None,
            size => Some(size.parse().ok()?),
        };
        let start = match range.trim() {
            "*" => None,
            range => {
                let (start, end) = range.split_once('-')?;
                let (start, end): (u64, u64) = (start.trim().parse().ok()?, end.trim().parse().ok()?);
                if end < start || size_bytes.is_some_and(|size| end >= size) {
                    return None;
                }
                Some(start)
            }
        };
        Some(Self { start, size_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_all_forms_are_understood() {
        let range = |start, size_bytes| Some(ContentRange { start, size_bytes });
        assert_eq!(ContentRange::parse("bytes 5-9/10"), range(Some(5), Some(10)));
        assert_eq!(ContentRange::parse("Bytes 5-9/*"), range(Some(5), None));
        assert_eq!(ContentRange::parse("bytes */10"), range(None, Some(10)));
    }

    #[test]
    fn nonsense_is_none() {
        for text in
            ["", "bytes", "bytes 5-9", "bytes 5/10", "bytes 9-5/10", "bytes 5-10/10", "lines 5-9/10", "bytes -1-9/10"]
        {
            assert_eq!(ContentRange::parse(text), None, "{text}");
        }
    }
}

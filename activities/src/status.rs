//! What an HTTP status means for a call.

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// No API delays a call for longer, whatever it asks.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// A delay of zero would be taken for none.
const MIN_RETRY_AFTER: Duration = Duration::from_millis(100);

/// What is to become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It succeeded.
    Success,
    /// The token was refused.
    Unauthorized,
    /// The API wants to be left alone, for so long.
    Throttled(Option<Duration>),
    /// A repetition may succeed.
    Unavailable,
    /// It points elsewhere.
    Redirect,
    /// A repetition will not succeed.
    Rejected,
}

/// Judges a status. `now` is what a date in `Retry-After` is compared with.
pub(crate) fn verdict(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Verdict {
    match status {
        StatusCode::UNAUTHORIZED => Verdict::Unauthorized,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Verdict::Throttled(retry_after(headers, now))
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => Verdict::Unavailable,
        status if status.is_success() => Verdict::Success,
        status if status.is_redirection() => Verdict::Redirect,
        status if status.is_server_error() => Verdict::Unavailable,
        _ => Verdict::Rejected,
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(now).unwrap_or_default()
        }
    };
    Some(asked.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn judge(status: u16, retry_after: Option<&str>) -> Verdict {
        let mut headers = HeaderMap::new();
        if let Some(text) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).expect("a value"));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        verdict(status, &headers, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn every_class_has_its_verdict() {
        for (status, expected) in [
            (200, Verdict::Success),
            (204, Verdict::Success),
            (301, Verdict::Redirect),
            (304, Verdict::Redirect),
            (307, Verdict::Redirect),
            (400, Verdict::Rejected),
            (401, Verdict::Unauthorized),
            (403, Verdict::Rejected),
            (404, Verdict::Rejected),
            (408, Verdict::Unavailable),
            (425, Verdict::Unavailable),
            (429, Verdict::Throttled(None)),
            (500, Verdict::Unavailable),
            (502, Verdict::Unavailable),
            (503, Verdict::Throttled(None)),
            (504, Verdict::Unavailable),
        ] {
            assert_eq!(judge(status, None), expected, "{status}");
        }
    }

    #[test]
    fn retry_after_is_honoured_within_bounds() {
        let seconds = |s| Verdict::Throttled(Some(Duration::from_secs(s)));
        assert_eq!(judge(429, Some("7")), seconds(7));
        assert_eq!(judge(503, Some("999999")), seconds(300));
        assert_eq!(
            judge(429, Some("0")),
            Verdict::Throttled(Some(MIN_RETRY_AFTER))
        );
        assert_eq!(
            judge(429, Some("Thu, 01 Jan 1970 00:00:20 GMT")),
            seconds(20)
        );
        for nonsense in ["-1", "soon", "", "1e9"] {
            assert_eq!(
                judge(429, Some(nonsense)),
                Verdict::Throttled(None),
                "{nonsense}"
            );
        }
    }
}

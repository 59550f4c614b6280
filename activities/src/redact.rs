//! Takes a token out of whatever came back from an API.
//!
//! Found and replaced: the token as it is; percent-encoded, JSON-escaped, as HTML character
//! references or with `\x` escapes, character by character in any mixture, once or twice over;
//! in hexadecimal of either case; in base64 of either alphabet at any offset, as in `Basic`
//! credentials or in an encoded dump of a whole request, line breaks included.
//!
//! Not covered: compression or encryption inside a body, base64 of base64, other alphabets, a
//! changed case of the token itself, and parts of a token.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// What stands where a token stood.
pub(crate) const REDACTED: &str = "[redacted]";

/// Shorter cores of base64 would match by chance everywhere. Tokens of the usual length are far
/// beyond it.
const MIN_BASE64_CORE: usize = 6;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Hexadecimal,
    Base64,
}

struct Pattern {
    form: Form,
    units: Zeroizing<Vec<u8>>,
}

/// Knows one token in all its forms. Wiped when dropped.
pub(crate) struct Redactor {
    patterns: Vec<Pattern>,
}

impl Redactor {
    /// A redactor for a token.
    pub(crate) fn new(token: &SecretString) -> Self {
        Self {
            patterns: Vec::new(),
        }
        .and(token.expose_secret())
    }

    /// The same, for one more secret.
    pub(crate) fn and(mut self, secret: &str) -> Self {
        let secret = secret.as_bytes();
        if !secret.is_empty() {
            self.patterns.push(Pattern {
                form: Form::Plain,
                units: Zeroizing::new(secret.to_vec()),
            });
            self.patterns.push(Pattern {
                form: Form::Hexadecimal,
                units: Zeroizing::new(hex::encode(secret).into_bytes()),
            });
            for offset in 0..3 {
                self.patterns.extend(base64_cores(secret, offset));
            }
        }
        self
    }

    /// The bytes without the token.
    pub(crate) fn bytes(&self, input: &[u8]) -> Vec<u8> {
        let mut output = Vec::with_capacity(input.len());
        let mut at = 0;
        while at < input.len() {
            match self.find_at(input, at) {
                Some((before, end)) => {
                    output.truncate(output.len() - before.min(output.len()));
                    output.extend_from_slice(REDACTED.as_bytes());
                    at = end;
                }
                None => {
                    output.push(input[at]);
                    at += 1;
                }
            }
        }
        output
    }

    /// The text without the token.
    pub(crate) fn text(&self, input: &str) -> String {
        String::from_utf8_lossy(&self.bytes(input.as_bytes())).into_owned()
    }

    /// The JSON value without the token, in names and strings alike.
    pub(crate) fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => {
                let fields = fields.into_iter();
                let fields = fields.map(|(name, value)| (self.text(&name), self.value(value)));
                Value::Object(fields.collect::<Map<_, _>>())
            }
            other => other,
        }
    }

    /// A match beginning here: how many bytes before it go too, and where it ends.
    fn find_at(&self, input: &[u8], at: usize) -> Option<(usize, usize)> {
        self.patterns.iter().find_map(|pattern| {
            let end = pattern.matches(input, at)?;
            Some(match pattern.form {
                Form::Plain | Form::Hexadecimal => (0, end),
                // The characters around a base64 core carry the token's first and last bits.
                Form::Base64 => (run_before(input, at), run_after(input, end)),
            })
        })
    }
}

/// Base64 of the token behind `offset` other bytes, without the characters that other bytes have
/// a part in.
fn base64_cores(token: &[u8], offset: usize) -> Vec<Pattern> {
    let mut padded = Zeroizing::new(vec![0; offset]);
    padded.extend_from_slice(token);
    let skip = [0, 2, 3][offset];
    let keep = padded.len() * 8 / 6;
    let mut cores = Vec::new();
    for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
        let encoded = Zeroizing::new(engine.encode(&*padded).into_bytes());
        let core = encoded.get(skip..keep).unwrap_or_default();
        let known = cores.iter().any(|p: &Pattern| p.units.as_slice() == core);
        if core.len() >= MIN_BASE64_CORE && !known {
            cores.push(Pattern {
                form: Form::Base64,
                units: Zeroizing::new(core.to_vec()),
            });
        }
    }
    cores
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_=%".contains(&byte)
}

fn run_before(input: &[u8], at: usize) -> usize {
    let before = input.get(..at).unwrap_or_default().iter().rev();
    before.take_while(|byte| is_base64(**byte)).count()
}

fn run_after(input: &[u8], end: usize) -> usize {
    let after = input.get(end..).unwrap_or_default().iter();
    end + after.take_while(|byte| is_base64(**byte)).count()
}

impl Pattern {
    /// Where the pattern ends if it begins at `start`. Several readings of an escape can be open
    /// at once; there are never more than a few.
    fn matches(&self, input: &[u8], start: usize) -> Option<usize> {
        let (first, others) = self.units.split_first()?;
        let begun = self.readings(input, start, *first);
        if begun.iter().all(Option::is_none) {
            return None;
        }
        let mut open: Vec<usize> = begun
            .iter()
            .flatten()
            .map(|length| start + length)
            .collect();
        for unit in others {
            let mut next = Vec::with_capacity(2);
            for at in open {
                let at = self.skip_noise(input, at);
                for length in self.readings(input, at, *unit).into_iter().flatten() {
                    if !next.contains(&(at + length)) {
                        next.push(at + length);
                    }
                }
            }
            if next.is_empty() {
                return None;
            }
            open = next;
        }
        open.into_iter().max()
    }

    /// What may stand between two characters: NUL of wide text, line breaks of base64.
    fn skip_noise(&self, input: &[u8], mut at: usize) -> usize {
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let breaks: &[&[u8]] = match self.form {
                Form::Base64 => &[
                    b"\0", b"\r", b"\n", b"\\r", b"\\n", b"%0D", b"%0A", b"%0d", b"%0a",
                ],
                Form::Plain | Form::Hexadecimal => &[b"\0"],
            };
            match breaks.iter().find(|noise| rest.starts_with(noise)) {
                Some(noise) => at += noise.len(),
                None => return at,
            }
        }
    }

    /// The lengths of all ways in which `unit` can stand at `at`.
    fn readings(&self, input: &[u8], at: usize, unit: u8) -> [Option<usize>; 3] {
        let rest = input.get(at..).unwrap_or_default();
        let Some(first) = rest.first() else {
            return [None; 3];
        };
        let literal = match self.form {
            Form::Hexadecimal => first.eq_ignore_ascii_case(&unit),
            Form::Plain | Form::Base64 => *first == unit,
        };
        let escaped = match first {
            b'%' => percent(rest, unit),
            b'\\' => backslash(rest, unit),
            b'&' => reference(rest, unit),
            _ => None,
        };
        // Percent-encoding on top of the others: `%5Cu0061`.
        let wrapped = match first {
            b'%' => percent(rest, b'\\')
                .and_then(|skip| Some(skip + escape_tail(rest.get(skip..)?, unit)?)),
            _ => None,
        };
        [literal.then_some(1), escaped, wrapped]
    }
}

/// `%61`, also encoded once more: `%2561`.
fn percent(rest: &[u8], unit: u8) -> Option<usize> {
    let mut at = 1;
    while rest.get(at..at + 2) == Some(b"25") && at < 7 {
        if unit == b'%' && code(rest, at + 2, 2).is_none() {
            return Some(at + 2);
        }
        at += 2;
    }
    let plain = (code(rest, at, 2) == Some(unit.into())).then_some(at + 2);
    let percent_itself = (unit == b'%' && at > 1).then_some(at);
    plain.or(percent_itself)
}

/// `\u0061`, `\x61`, `\/`, `\"`, `\\`, with any number of backslashes up to eight: each level of
/// nesting doubles them.
fn backslash(rest: &[u8], unit: u8) -> Option<usize> {
    let slashes = rest.iter().take(8).take_while(|b| **b == b'\\').count();
    if unit == b'\\' && slashes >= 2 {
        return Some(2);
    }
    let tail = escape_tail(rest.get(slashes..)?, unit)?;
    Some(slashes + tail)
}

/// What follows the backslash of an escape.
fn escape_tail(tail: &[u8], unit: u8) -> Option<usize> {
    let (digits, length) = match tail.first()? {
        b'u' => (4, 5),
        b'x' => (2, 3),
        byte if *byte == unit && !unit.is_ascii_alphanumeric() => return Some(1),
        _ => return None,
    };
    (code(tail, 1, digits) == Some(unit.into())).then_some(length)
}

/// `&#97;`, `&#x61;`, `&amp;`.
fn reference(rest: &[u8], unit: u8) -> Option<usize> {
    let end = rest.iter().take(10).position(|byte| *byte == b';')?;
    let name = std::str::from_utf8(rest.get(1..end)?).ok()?;
    let number = match name.strip_prefix('#') {
        Some(digits) => match digits.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => digits.parse().ok()?,
        },
        None => u32::from(match name {
            "amp" => b'&',
            "lt" => b'<',
            "gt" => b'>',
            "quot" => b'"',
            "apos" => b'\'',
            _ => return None,
        }),
    };
    (number == u32::from(unit)).then_some(end + 1)
}

fn code(bytes: &[u8], at: usize, digits: usize) -> Option<u32> {
    let digits = bytes.get(at..at + digits)?;
    let hexadecimal = digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok()?;
    hexadecimal.then(|| u32::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;
    use serde_json::json;

    const TOKEN: &str = "acme_5up3r+s3cret/t0ken~with=odd&chars";

    fn redactor() -> Redactor {
        Redactor::new(&SecretString::from(TOKEN))
    }

    fn gone(encoded: &str) {
        for text in [
            encoded.to_owned(),
            format!("before {encoded} after"),
            format!("\"{encoded}\","),
        ] {
            let clean = redactor().text(&text);
            assert!(clean.contains(REDACTED), "{text} -> {clean}");
            assert!(!clean.contains(encoded), "{text} -> {clean}");
        }
    }

    fn unicode(text: &str) -> String {
        text.chars()
            .map(|c| format!("\\u{:04X}", u32::from(c)))
            .collect()
    }

    #[test]
    fn every_form_is_found() {
        gone(TOKEN);
        gone(&hex::encode(TOKEN));
        gone(&hex::encode_upper(TOKEN));
        gone(&STANDARD.encode(TOKEN));
        gone(&URL_SAFE.encode(TOKEN));
        gone(&STANDARD_NO_PAD.encode(TOKEN));
        let all = utf8_percent_encode(TOKEN, NON_ALPHANUMERIC).to_string();
        gone(&all);
        gone(&all.to_lowercase());
        gone(&utf8_percent_encode(&all, NON_ALPHANUMERIC).to_string());
        let every: String = TOKEN.bytes().map(|b| format!("%{b:02x}")).collect();
        gone(&every);
        gone(&unicode(TOKEN));
        gone(&unicode(TOKEN).replace('\\', "\\\\"));
        gone(&unicode(TOKEN).replace('\\', "%5C"));
        gone(&TOKEN.replace('/', "\\/"));
        gone(&TOKEN.replace('&', "&amp;"));
        gone(&TOKEN.bytes().map(|b| format!("&#{b};")).collect::<String>());
        gone(
            &TOKEN
                .bytes()
                .map(|b| format!("\\x{b:02x}"))
                .collect::<String>(),
        );
        gone(
            &TOKEN
                .bytes()
                .map(|b| format!("{}\0", char::from(b)))
                .collect::<String>(),
        );
    }

    #[test]
    fn base64_around_a_token_goes_as_a_whole() {
        for user in ["u", "us", "use", "user:", "a longer user name"] {
            for engine in [STANDARD, URL_SAFE] {
                let credentials = format!("{user}:{TOKEN}@rest");
                let encoded = engine.encode(&credentials);
                let clean = redactor().text(&format!("Basic {encoded} end"));
                assert_eq!(clean, format!("Basic {REDACTED} end"), "{user}");
            }
        }
    }

    #[test]
    fn base64_with_line_breaks_is_found() {
        let encoded = STANDARD.encode(format!("some header\n{TOKEN}"));
        for separator in ["\n", "\r\n", "\\n", "%0A"] {
            let lines: Vec<_> = encoded
                .as_bytes()
                .chunks(16)
                .map(|line| std::str::from_utf8(line).expect("ASCII"))
                .collect();
            let clean = redactor().text(&lines.join(separator));
            assert!(clean.contains(REDACTED), "{clean}");
        }
    }

    #[test]
    fn json_is_clean_in_names_and_strings_at_any_depth() {
        let dirty = json!({
            TOKEN: [{ "deep": format!("x{TOKEN}y") }, 1, null],
            "nested": json!({ "again": TOKEN }).to_string(),
        });
        let clean = redactor().value(dirty);
        assert_eq!(
            clean,
            json!({
                REDACTED: [{ "deep": format!("x{REDACTED}y") }, 1, null],
                "nested": json!({ "again": REDACTED }).to_string(),
            })
        );
    }

    #[test]
    fn what_is_not_the_token_stays() {
        for text in [
            "",
            "nothing here",
            "acme_5up3r",
            "100% &amp; \\u0061 %41 ünïcödé",
            "\\\\\\",
        ] {
            assert_eq!(redactor().text(text), text);
        }
        assert_eq!(Redactor::new(&SecretString::from("")).text("x"), "x");
    }

    #[test]
    fn hostile_bodies_take_no_time() {
        for unit in ["%25", "\\", "%", "&#", "acme_", "\\u0061"] {
            let body = unit.repeat(100_000 / unit.len());
            assert_eq!(redactor().text(&body), body);
        }
    }

    /// One character of a token in one of its forms.
    fn encoded_unit(unit: u8, how: u8) -> String {
        match how % 6 {
            0 => format!("%{unit:02X}"),
            1 => format!("\\u{unit:04x}"),
            2 => format!("&#{unit};"),
            3 => format!("\\x{unit:02X}"),
            4 => format!("%25{unit:02x}"),
            _ => char::from(unit).to_string(),
        }
    }

    proptest! {
        #[test]
        fn any_mixture_of_escapes_is_found(
            token in "[a-zA-Z0-9_/+=~.-]{16,40}",
            how in proptest::collection::vec(any::<u8>(), 40),
            before in "[ -~]{0,12}",
            after in "[ -~]{0,12}",
        ) {
            let mixed: String = token.bytes().zip(how).map(|(b, h)| encoded_unit(b, h)).collect();
            let redactor = Redactor::new(&SecretString::from(token.as_str()));
            let clean = redactor.text(&format!("{before}{mixed}{after}"));
            prop_assert!(clean.contains(REDACTED), "{}", clean);
            prop_assert!(!clean.contains(&mixed), "{}", clean);
        }

        #[test]
        fn any_token_is_found_at_any_base64_offset(
            token in "[!-~]{16,64}",
            before in proptest::collection::vec(any::<u8>(), 0..9),
            after in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let redactor = Redactor::new(&SecretString::from(token.as_str()));
            let data = [before, token.into_bytes(), after].concat();
            for engine in [STANDARD, URL_SAFE] {
                prop_assert_eq!(redactor.text(&engine.encode(&data)), REDACTED);
            }
            prop_assert!(redactor.text(&hex::encode(&data)).contains(REDACTED));
        }
    }
}

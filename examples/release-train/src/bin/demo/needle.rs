//! Every form in which a secret might lie somewhere, and the search for all of them at once.

use aho_corasick::AhoCorasick;
use anyhow::{Context, Result};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeSet;

/// A secret and what to call it in a report.
pub(crate) struct Secret {
    pub(crate) label: &'static str,
    pub(crate) value: SecretString,
}

/// How a secret is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    Plain,
    /// Base64, with so many bytes (modulo 3) of something else before the secret.
    Base64(usize),
    /// The same in the alphabet for URLs.
    Base64Url(usize),
    Hex,
    HexUpper,
    /// Percent-encoded: every byte that is not a letter or digit.
    Url,
    UrlUpper,
    /// Percent-encoded: every byte.
    UrlWhole,
    UrlWholeUpper,
}

impl Form {
    pub(crate) const ALL: [Self; 13] = [
        Self::Plain,
        Self::Base64(0),
        Self::Base64(1),
        Self::Base64(2),
        Self::Base64Url(0),
        Self::Base64Url(1),
        Self::Base64Url(2),
        Self::Hex,
        Self::HexUpper,
        Self::Url,
        Self::UrlUpper,
        Self::UrlWhole,
        Self::UrlWholeUpper,
    ];

    /// The secret in this form, with something before and after it where that changes the form.
    pub(crate) fn write(self, secret: &str) -> String {
        let surrounded = |before| format!("{}{secret}..", &"::"[..before]);
        match self {
            Self::Plain => secret.to_owned(),
            Self::Base64(before) => STANDARD_NO_PAD.encode(surrounded(before)),
            Self::Base64Url(before) => URL_SAFE_NO_PAD.encode(surrounded(before)),
            Self::Hex => hex::encode(secret),
            Self::HexUpper => hex::encode_upper(secret),
            Self::Url => escape(secret, false, |byte| format!("%{byte:02x}")),
            Self::UrlUpper => escape(secret, false, |byte| format!("%{byte:02X}")),
            Self::UrlWhole => escape(secret, true, |byte| format!("%{byte:02x}")),
            Self::UrlWholeUpper => escape(secret, true, |byte| format!("%{byte:02X}")),
        }
    }

    /// The part of it that depends on the secret alone.
    fn core(self, secret: &str) -> String {
        let text = self.write(secret);
        match self {
            Self::Base64(before) | Self::Base64Url(before) => {
                let begin = (before * 8).div_ceil(6);
                let end = (before + secret.len()) * 8 / 6;
                text[begin..end].to_owned()
            }
            _ => text,
        }
    }
}

fn escape(secret: &str, whole: bool, one: impl Fn(u8) -> String) -> String {
    let escaped = secret.bytes().map(|byte| match byte {
        byte if byte.is_ascii_alphanumeric() && !whole => char::from(byte).to_string(),
        byte => one(byte),
    });
    escaped.collect()
}

/// What was found: which secret, in which form.
pub(crate) type Finds = BTreeSet<(&'static str, Form)>;

/// A search for secrets in all forms.
///
/// Each form is searched for as its two halves, and one half is a find: a database that spreads
/// a value over two pages leaves one of them whole. The halves are long and random enough to
/// occur nowhere by accident.
pub(crate) struct Search {
    automaton: AhoCorasick,
    owners: Vec<(&'static str, Form)>,
}

impl Search {
    pub(crate) fn new(secrets: &[Secret]) -> Result<Self> {
        let mut owners = Vec::new();
        let mut patterns = Vec::new();
        for secret in secrets {
            for form in Form::ALL {
                let text = form.core(secret.value.expose_secret());
                let (first, second) = text.split_at(text.len() / 2);
                for half in [first, second] {
                    patterns.push(half.to_owned());
                    owners.push((secret.label, form));
                }
            }
        }
        let automaton = AhoCorasick::new(&patterns).context("the search could not be prepared")?;
        Ok(Self { automaton, owners })
    }

    /// What is in these bytes. Forms that read alike are all found.
    pub(crate) fn run(&self, bytes: &[u8]) -> Finds {
        let hits = self.automaton.find_overlapping_iter(bytes);
        hits.map(|hit| self.owners[hit.pattern().as_usize()])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "acme_Zm9v-YmFy_cXV4MTIzNDU2Nzg5MGFiY2RlZmdoaWprbG0";

    fn search() -> Search {
        let secret = Secret {
            label: "secret",
            value: SecretString::from(SECRET),
        };
        Search::new(&[secret]).expect("prepared")
    }

    #[test]
    fn every_form_is_found_wherever_it_stands() {
        let search = search();
        for form in Form::ALL {
            let text = format!("before {} after", form.write(SECRET));
            assert!(
                search.run(text.as_bytes()).contains(&("secret", form)),
                "{form:?}"
            );
        }
    }

    #[test]
    fn base64_is_found_at_any_offset_and_before_anything() {
        let search = search();
        for before in 0..6 {
            for after in 0..6 {
                let text = format!("{}{SECRET}{}", "a".repeat(before), "z".repeat(after));
                let finds = search.run(STANDARD_NO_PAD.encode(text).as_bytes());
                assert!(
                    finds.contains(&("secret", Form::Base64(before % 3))),
                    "{before} {after}"
                );
            }
        }
    }

    #[test]
    fn a_value_that_is_torn_apart_is_found() {
        let search = search();
        for form in Form::ALL {
            let text = form.write(SECRET);
            for tear in 0..text.len() {
                let torn = format!("{}\0\0\0\u{7}{}", &text[..tear], &text[tear..]);
                assert!(
                    search.run(torn.as_bytes()).contains(&("secret", form)),
                    "{form:?} {tear}"
                );
            }
        }
    }

    #[test]
    fn something_else_is_not_found() {
        let other = SECRET.chars().rev().collect::<String>();
        for form in Form::ALL {
            assert!(search().run(form.write(&other).as_bytes()).is_empty());
        }
    }
}

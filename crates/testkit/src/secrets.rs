//! Looking for secrets where none may be: plain, in base64 at every alignment, in hexadecimal and
//! percent-encoded; also where a database has torn them in two.

use aho_corasick::AhoCorasick;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::{collections::BTreeSet, fs, io::ErrorKind, path::Path};

/// Finds some secrets in any of their encodings.
pub struct Searcher {
    patterns: AhoCorasick,
    places: Vec<String>,
    bytes: usize,
}

impl Searcher {
    /// Looks for these.
    ///
    /// # Errors
    /// They are too many or too long to be searched for.
    pub fn new(secrets: &[String]) -> anyhow::Result<Self> {
        // Either half of a form is a find: a value that lies on two pages leaves one of them whole.
        let forms = secrets.iter().flat_map(|secret| forms(secret));
        let halves = forms.flat_map(|form| {
            let (first, second) = form.split_at(form.len() / 2);
            [first.to_owned(), second.to_owned()]
        });
        Ok(Self {
            patterns: AhoCorasick::new(halves)?,
            places: Vec::new(),
            bytes: 0,
        })
    }

    /// Searches some bytes.
    pub fn look(&mut self, place: &str, bytes: &[u8]) {
        self.bytes += bytes.len();
        if self.patterns.is_match(bytes) {
            self.places.push(place.to_owned());
        }
    }

    /// Searches every file below a directory.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn look_below(&mut self, directory: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                self.look_below(&path)?;
            } else if path.is_file() {
                match fs::read(&path) {
                    Ok(bytes) => self.look(&path.display().to_string(), &bytes),
                    // Databases and keys are replaced while the program runs.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Where something was found.
    #[must_use]
    pub fn found_in(&self) -> &[String] {
        &self.places
    }

    /// How much was searched.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn forms(secret: &str) -> BTreeSet<String> {
    let hexadecimal = hex::encode(secret);
    let mut forms = BTreeSet::from([
        secret.to_owned(),
        hexadecimal.to_uppercase(),
        hexadecimal,
        utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
    ]);
    for lead in 0..3_usize {
        // What surrounds the secret decides the characters at its ends: they are left out.
        let shifted = [&b"\0\0"[..lead], secret.as_bytes()].concat();
        let whole = shifted.len() / 3 * 3;
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = engine.encode(&shifted[..whole]);
            forms.insert(text[if lead == 0 { 0 } else { 4 }..].to_owned());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_found_and_nothing_else() {
        let secret = "acme_0123-4567_89ab".to_owned();
        for lead in ["", "x", "xy", "xyz"] {
            let text = format!("{lead}{secret} and more");
            for form in [
                text.clone(),
                STANDARD_NO_PAD.encode(&text),
                URL_SAFE_NO_PAD.encode(&text),
                hex::encode(&text),
                hex::encode_upper(&text),
                utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string(),
            ] {
                let mut searcher = Searcher::new(std::slice::from_ref(&secret)).expect("patterns");
                searcher.look("here", form.as_bytes());
                assert_eq!(searcher.found_in(), ["here"], "{form}");
            }
        }
        let mut searcher = Searcher::new(&[secret]).expect("patterns");
        searcher.look("there", b"acme_0124-4567_89aX");
        assert!(searcher.found_in().is_empty());
    }

    #[test]
    fn a_secret_that_is_torn_in_two_is_found() {
        let secret = "acme_0123-4567_89ab".to_owned();
        for form in forms(&secret) {
            for tear in 0..form.len() {
                let mut searcher = Searcher::new(std::slice::from_ref(&secret)).expect("patterns");
                let torn = format!("{}\0\0\0\u{7}{}", &form[..tear], &form[tear..]);
                searcher.look("here", torn.as_bytes());
                assert_eq!(searcher.found_in(), ["here"], "{form} torn at {tear}");
            }
        }
    }
}

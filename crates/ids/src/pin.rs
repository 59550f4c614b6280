//! Public keys by their digest.

use crate::name::name;
use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, fmt, str::FromStr};

/// SHA-256 has 32 bytes: 43 characters of base64, the last of which stands for four bits, and one `=`.
const DIGITS: usize = 43;

name!(
    /// A pinned public key, as RFC 7469 has it: the SHA-256 of its SubjectPublicKeyInfo. One key has one
    /// text.
    KeyPin,
    "pin",
    "`sha256/` and 44 characters of base64: the SHA-256 of a SubjectPublicKeyInfo",
    |text| {
        let digits = text.strip_prefix("sha256/").and_then(|text| text.strip_suffix('='));
        digits.is_some_and(|digits| {
            digits.len() == DIGITS
                && digits.chars().all(|c| c.is_ascii_alphanumeric() || c == '+' || c == '/')
                && digits.ends_with(|c| "AEIMQUYcgkosw048".contains(c))
        })
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_a_digest_in_one_form() {
        let good = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        assert_eq!(good.parse::<KeyPin>().expect("a pin").as_str(), good);
        for bad in [
            "",
            "sha256/",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha1/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=",
            "sha256/47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFUA=",
            "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuF==",
            "SHA256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU= ",
        ] {
            assert!(bad.parse::<KeyPin>().is_err(), "{bad}");
        }
    }
}

//! What makes one-time codes: an authenticator, as people carry one (RFC 6238).

use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};
use std::time::{SystemTime, UNIX_EPOCH};

const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The code that it shows at this time, for a secret in base32.
///
/// # Panics
/// The secret is not one.
#[must_use]
pub fn code(secret: &SecretString, at: SystemTime) -> SecretString {
    let bits = secret.expose_secret().chars().flat_map(|letter| {
        let value = LETTERS.find(letter).expect("base32");
        (0..5)
            .rev()
            .map(move |bit| u8::from((value >> bit) & 1 == 1))
    });
    let bits: Vec<u8> = bits.collect();
    let byte = |bits: &[u8]| bits.iter().fold(0, |byte, bit| (byte << 1) | bit);
    let key: Vec<u8> = bits.chunks_exact(8).map(byte).collect();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let step = at.duration_since(UNIX_EPOCH).expect("after 1970").as_secs() / 30;
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let tag = tag.as_ref();
    let from = usize::from(tag[19] & 15);
    let four = tag[from..from + 4].try_into().expect("four bytes");
    let number = u32::from_be_bytes(four) & 0x7fff_ffff;
    SecretString::from(format!("{:06}", number % 1_000_000))
}

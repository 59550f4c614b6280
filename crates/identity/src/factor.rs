//! One-time codes (RFC 6238), and what stands in for a lost device.

use crate::agent::{seconds, time};
use aws_lc_rs::{constant_time, hmac};
use std::{fmt, time::SystemTime};
use xylem_ids::{AgentId, Namespace};
use xylem_seal::{CipherKey, CryptoError, Fields, Mac, Sealed, random_key};
use zeroize::Zeroizing;

/// A code is for so many seconds.
const STEP: u64 = 30;
/// Digits of a code.
const DIGITS: usize = 6;
/// Bytes of a secret.
const SECRET: usize = 20;
/// So many recovery codes.
pub(crate) const RECOVERY_CODES: usize = 10;

/// An agent's second factor as it is stored: its secret encrypted, and bound to the agent.
#[derive(Clone, PartialEq, Eq)]
pub struct SecondFactor {
    /// The namespace.
    pub namespace: Namespace,
    /// Whose it is.
    pub agent: AgentId,
    /// The secret.
    pub sealed: Sealed,
    /// When it was made.
    pub created_at: SystemTime,
    /// When its owner showed the first code; it counts from then on.
    pub confirmed_at: Option<SystemTime>,
    /// The keyed seal over the rest.
    pub seal: Mac,
}

impl fmt::Debug for SecondFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecondFactor({})", self.agent)
    }
}

impl SecondFactor {
    pub(crate) fn fields(&self) -> Fields {
        let fields = Fields::new("second factor row")
            .text(self.namespace.as_str())
            .text(self.agent.as_str())
            .bytes(&self.sealed.nonce)
            .bytes(&self.sealed.ciphertext)
            .number(seconds(self.created_at));
        time(fields, self.confirmed_at)
    }
}

/// What codes are made from. It is shown once, when it is made.
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub(crate) fn generate() -> Result<Self, CryptoError> {
        let random = random_key()?;
        let secret = random.iter().copied().take(SECRET).collect();
        Ok(Self(Zeroizing::new(secret)))
    }

    pub(crate) fn seal(
        &self,
        cipher: &CipherKey,
        namespace: &Namespace,
        agent: &AgentId,
    ) -> Result<Sealed, CryptoError> {
        cipher.seal(&place(namespace, agent), &self.0)
    }

    /// The secret of a row; `None` where the row is another agent's.
    pub(crate) fn open(
        cipher: &CipherKey,
        row: &SecondFactor,
    ) -> Result<Option<Self>, CryptoError> {
        let place = place(&row.namespace, &row.agent);
        Ok(cipher
            .open(&place, &row.sealed)?
            .map(|bytes| Self(Zeroizing::new(bytes.to_vec()))))
    }

    /// As people type it into a device.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(base32(&self.0))
    }

    /// The step that a code is for: this one, or the one before or after, for clocks differ.
    pub(crate) fn step_of(&self, code: &str, now: SystemTime) -> Option<u64> {
        let current = seconds(now) / STEP;
        let steps = current.saturating_sub(1)..=current.saturating_add(1);
        steps.rev().find(|step| {
            let expected = self.code(*step);
            constant_time::verify_slices_are_equal(expected.as_bytes(), code.as_bytes()).is_ok()
        })
    }

    fn code(&self, step: u64) -> Zeroizing<String> {
        // SHA-1 is what every device knows, and sound as part of an HMAC.
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let tag = tag.as_ref();
        let offset = usize::from(tag.last().copied().unwrap_or_default() & 15);
        let four = tag.get(offset..).and_then(|rest| rest.first_chunk::<4>());
        let number = u32::from_be_bytes(four.copied().unwrap_or_default()) & 0x7fff_ffff;
        Zeroizing::new(format!("{:0DIGITS$}", number % 1_000_000))
    }
}

fn place(namespace: &Namespace, agent: &AgentId) -> Fields {
    Fields::new("second factor")
        .text(namespace.as_str())
        .text(agent.as_str())
}

/// A recovery code: 80 bits, in four groups.
pub(crate) fn recovery_code() -> Result<Zeroizing<String>, CryptoError> {
    let random = random_key()?;
    let text = Zeroizing::new(base32(random.split_at(10).0).to_lowercase());
    let groups: Vec<&str> = (0..4)
        .filter_map(|at| text.get(at * 4..at * 4 + 4))
        .collect();
    Ok(Zeroizing::new(groups.join("-")))
}

/// A code of either kind as it was typed: case, spaces and dashes do not matter.
pub(crate) fn typed(code: &str) -> Zeroizing<String> {
    let letters = code.chars().filter(char::is_ascii_alphanumeric);
    Zeroizing::new(letters.map(|c| c.to_ascii_lowercase()).collect())
}

/// RFC 4648, without padding.
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    // Room for all of it: growing would leave copies behind.
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    let (mut held, mut bits) = (0_u32, 0);
    for byte in bytes {
        held = ((held << 8) | u32::from(*byte)) & 0xfff;
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(letter(LETTERS, held >> bits));
        }
    }
    if bits > 0 {
        text.push(letter(LETTERS, held << (5 - bits)));
    }
    text
}

fn letter(letters: &[u8; 32], number: u32) -> char {
    let at = usize::try_from(number & 31).unwrap_or_default();
    letters.get(at).copied().map_or('=', char::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn secret() -> Secret {
        Secret(Zeroizing::new(b"12345678901234567890".to_vec()))
    }

    #[test]
    fn codes_are_those_of_rfc_6238() {
        for (at, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000_u64, "353130"),
        ] {
            assert_eq!(*secret().code(at / STEP), code, "{at}");
        }
    }

    #[test]
    fn a_code_is_good_for_its_step_and_the_ones_beside_it() {
        let secret = secret();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let code = secret.code(100);
        for (now, found) in [
            (2969, None),
            (2970, Some(100)),
            (3000, Some(100)),
            (3059, Some(100)),
            (3060, None),
        ] {
            assert_eq!(secret.step_of(&code, at(now)), found, "{now}");
        }
        for bad in ["", "12345", "1234567", "28708é"] {
            assert_eq!(secret.step_of(bad, at(3000)), None);
        }
    }

    #[test]
    fn text_is_base32() {
        for (bytes, text) in [
            (b"" as &[u8], ""),
            (b"f", "MY"),
            (b"fo", "MZXQ"),
            (b"foo", "MZXW6"),
            (b"foob", "MZXW6YQ"),
            (b"fooba", "MZXW6YTB"),
            (b"foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(bytes), text);
        }
        assert_eq!(*secret().text(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
    }

    #[test]
    fn a_secret_opens_for_its_agent_alone() {
        let cipher = CipherKey::generate().unwrap();
        let namespace: Namespace = "default".parse().unwrap();
        let row = |agent: &str, sealed| SecondFactor {
            namespace: namespace.clone(),
            agent: agent.parse().unwrap(),
            sealed,
            created_at: UNIX_EPOCH,
            confirmed_at: None,
            seal: Mac([0; 32]),
        };
        let sealed = secret()
            .seal(&cipher, &namespace, &"one".parse().unwrap())
            .unwrap();
        let opens = |agent| Secret::open(&cipher, &row(agent, sealed.clone())).unwrap();
        assert_eq!(*opens("one").unwrap().text(), *secret().text());
        assert!(opens("two").is_none());
    }

    #[test]
    fn recovery_codes_are_typed_as_people_like() {
        let code = recovery_code().unwrap();
        assert_eq!(code.len(), 19);
        let shouted = code.to_uppercase().replace('-', "  ");
        assert_eq!(*typed(&shouted), code.replace('-', ""));
    }
}

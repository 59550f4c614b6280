//! Tokens: issued once, kept as digests, counted by label.

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

/// Counts of one token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TokenStats {
    /// The label it was issued under.
    pub label: String,
    /// The first 12 hexadecimal digits of its SHA-256; empty for `unknown`.
    pub fingerprint: String,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Calls that passed authentication, whatever came of them.
    pub calls: u64,
    /// Calls that were answered with 401.
    pub refusals: u64,
}

/// Who a call came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller(Option<usize>);

struct Token {
    digest: [u8; 32],
    stats: TokenStats,
}

/// All tokens ever issued.
#[derive(Default)]
pub(crate) struct Tokens {
    issued: Vec<Token>,
    unknown: u64,
}

impl Tokens {
    pub(crate) fn issue(&mut self, label: &str) -> String {
        let token = fresh("acme_");
        let digest = sha256(&token);
        self.issued.push(Token {
            digest,
            stats: TokenStats {
                label: label.to_owned(),
                fingerprint: hex::encode(&digest[..6]),
                ..TokenStats::default()
            },
        });
        token
    }

    pub(crate) fn revoke(&mut self, label: &str) -> bool {
        let mut found = false;
        for token in self.issued.iter_mut().filter(|t| t.stats.label == label) {
            token.stats.revoked = true;
            found = true;
        }
        found
    }

    /// Counts the call, and says who called if the token is good.
    pub(crate) fn admit(&mut self, token: Option<&str>) -> Option<Caller> {
        let digest = token.map(sha256);
        let known = self.issued.iter().position(|t| Some(t.digest) == digest);
        let Some(index) = known else {
            self.unknown += 1;
            return None;
        };
        let stats = &mut self.issued[index].stats;
        if stats.revoked {
            stats.refusals += 1;
            return None;
        }
        stats.calls += 1;
        Some(Caller(known))
    }

    /// Turns an admitted call into a refused one.
    pub(crate) fn refuse(&mut self, caller: Caller) {
        if let Some(token) = caller.0.and_then(|index| self.issued.get_mut(index)) {
            token.stats.calls = token.stats.calls.saturating_sub(1);
            token.stats.refusals += 1;
        }
    }

    pub(crate) fn stats(&self) -> Vec<TokenStats> {
        let unknown = TokenStats {
            label: "unknown".to_owned(),
            refusals: self.unknown,
            ..TokenStats::default()
        };
        let issued = self.issued.iter().map(|token| token.stats.clone());
        issued.chain([unknown]).collect()
    }
}

/// A fresh secret of 256 random bits.
pub(crate) fn fresh(prefix: &str) -> String {
    let mut random = [0_u8; 32];
    rand::fill(&mut random).expect("the system's random source works");
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random))
}

fn sha256(text: &str) -> [u8; 32] {
    let mut digest32 = [0; 32];
    digest32.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    digest32
}

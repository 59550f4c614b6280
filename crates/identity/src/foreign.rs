//! Tokens of identity providers: JWTs that say who somebody is there.
//!
//! What is checked a token against comes from the configuration, never from the token: the provider's
//! keys, algorithms, type and audience. Where its header says to find keys (`jku`, `jwk`, `x5u`, `x5c`)
//! is never read.

use crate::{Provider, access::seconds};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_ids::Roles;

/// Far more than a token with a hundred groups has.
const MAX_BYTES: usize = 16 * 1024;
/// How far a provider's clock may be from ours, in seconds.
const LEEWAY: u64 = 30;
/// A token that lives longer is no token to call with, in seconds.
const LONGEST: u64 = 24 * 60 * 60;
/// The most keys of a provider that are looked at.
const MOST_KEYS: usize = 100;

/// Why a token is not accepted. For the log only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reject {
    Malformed,
    Algorithm,
    Type,
    UnknownKey,
    Signature,
    Claims,
    Issuer,
    Audience,
    Time,
}

impl Reject {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::Type => "token_type",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Claims => "token_claims",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Time => "token_expired",
        }
    }
}

/// Whom a text claims to be issued by. Nothing of it is known to be true: it chooses what the text is
/// checked against.
pub(crate) fn issuer(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let claims = text.split('.').nth(1).filter(|_| text.len() <= MAX_BYTES)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Issuer = serde_json::from_slice(&claims).ok()?;
    Some(claims.iss)
}

/// Text in the form of a provider's token: nothing of it is known to be true.
pub(crate) struct UnverifiedForeign<'t> {
    text: &'t str,
    algorithm: Algorithm,
    key: Option<String>,
}

impl fmt::Debug for UnverifiedForeign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnverifiedForeign")
    }
}

impl<'t> UnverifiedForeign<'t> {
    /// Looks at the header.
    pub(crate) fn parse(text: &'t str, provider: &Provider) -> Result<Self, Reject> {
        let header = jsonwebtoken::decode_header(text).map_err(|_| Reject::Malformed)?;
        if !provider.algorithms.contains(&header.alg) {
            return Err(Reject::Algorithm);
        }
        if !provider.is_type(header.typ.as_deref()) {
            return Err(Reject::Type);
        }
        // Nothing that a token calls critical is understood here.
        if header.crit.is_some() {
            return Err(Reject::Malformed);
        }
        Ok(Self {
            text,
            algorithm: header.alg,
            key: header.kid,
        })
    }

    /// Checks signature, issuer, audience and times. The claims have their types: one of another type
    /// is no absent one.
    pub(crate) fn verify(
        &self,
        key: &ForeignKey,
        provider: &Provider,
        now: SystemTime,
    ) -> Result<Foreign, Reject> {
        let mut validation = Validation::new(self.algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let read =
            jsonwebtoken::decode::<Map<String, Value>>(self.text, &key.verifier, &validation);
        let all = read.map_err(|_| Reject::Signature)?.claims;
        let claims: Claims =
            serde_json::from_value(Value::Object(all.clone())).map_err(|_| Reject::Claims)?;
        if claims.iss != provider.issuer {
            return Err(Reject::Issuer);
        }
        if !claims.aud.contains(&provider.audience) {
            return Err(Reject::Audience);
        }
        let nameable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        if !(1..=255).contains(&claims.sub.len()) || !claims.sub.bytes().all(nameable) {
            return Err(Reject::Claims);
        }
        if !claims.is_now(seconds(now)) {
            return Err(Reject::Time);
        }
        let ways = claims.amr.unwrap_or_default();
        Ok(Foreign {
            roles: provider.roles(&all),
            second_factor: provider.is_second_factor(&ways),
            subject: claims.sub,
            issued_at: claims.iat.into(),
            until: Seconds(claims.exp.0.saturating_add(LEEWAY)).into(),
            signed_in: claims.auth_time.map(SystemTime::from),
        })
    }
}

/// What a token says, as far as that is read. Addresses and names of people are not.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    exp: Seconds,
    iat: Seconds,
    nbf: Option<Seconds>,
    auth_time: Option<Seconds>,
    amr: Option<Vec<String>>,
}

impl Claims {
    fn is_now(&self, now: u64) -> bool {
        let latest = now.saturating_add(LEEWAY);
        self.iat.0 <= latest
            && self.nbf.as_ref().is_none_or(|begin| begin.0 <= latest)
            && self.auth_time.as_ref().is_none_or(|at| at.0 <= latest)
            && now < self.exp.0.saturating_add(LEEWAY)
            && self.exp.0 <= latest.saturating_add(LONGEST)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Some(Vec<String>),
}

impl Audience {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(audience) => audience == wanted,
            Self::Some(audiences) => audiences.iter().any(|audience| audience == wanted),
        }
    }
}

/// A time of RFC 7519: seconds since 1970, which may have a fraction.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "serde_json::Number")]
struct Seconds(u64);

impl TryFrom<serde_json::Number> for Seconds {
    type Error = &'static str;

    fn try_from(number: serde_json::Number) -> Result<Self, Self::Error> {
        let whole = number.as_u64().or_else(|| {
            let whole = number.as_f64()?.trunc();
            // Beyond it neither a fraction nor a time is meant.
            (0.0..1e12).contains(&whole).then_some(whole as u64)
        });
        let whole = whole.filter(|whole| *whole < 1_000_000_000_000);
        whole.map(Self).ok_or("a time is seconds since 1970")
    }
}

impl From<Seconds> for SystemTime {
    fn from(seconds: Seconds) -> Self {
        UNIX_EPOCH + Duration::from_secs(seconds.0)
    }
}

/// What a provider says of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub(crate) subject: String,
    /// Those that the configuration maps, none where that is so.
    pub(crate) roles: Roles,
    pub(crate) issued_at: SystemTime,
    /// It is good before this: the leeway is counted.
    pub(crate) until: SystemTime,
    pub(crate) signed_in: Option<SystemTime>,
    pub(crate) second_factor: bool,
}

/// The public keys of a provider.
#[derive(Debug, Default)]
pub(crate) struct ForeignKeys(Vec<ForeignKey>);

/// One of them.
pub(crate) struct ForeignKey {
    key: Jwk,
    verifier: DecodingKey,
}

impl fmt::Debug for ForeignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForeignKey({:?})", self.key.common.key_id)
    }
}

impl ForeignKeys {
    /// Reads a key set. Keys of a form that is not known, or for something else than one of these
    /// algorithms, are left out: a provider may have them for others.
    pub(crate) fn parse(text: &[u8], algorithms: &[Algorithm]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(text).ok()?;
        let keys = set.keys.into_iter().take(MOST_KEYS).filter_map(|key| {
            let key: Jwk = serde_json::from_value(key).ok()?;
            let wanted = algorithms.iter().any(|algorithm| fits(&key, *algorithm));
            let verifier = DecodingKey::from_jwk(&key).ok().filter(|_| wanted)?;
            Some(ForeignKey { key, verifier })
        });
        Some(Self(keys.collect()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The key that a token names. Where it names none, there must be only one that it could mean.
    pub(crate) fn find(&self, token: &UnverifiedForeign<'_>) -> Option<&ForeignKey> {
        let mut fitting = self.0.iter().filter(|key| fits(&key.key, token.algorithm));
        match &token.key {
            Some(wanted) => fitting.find(|key| key.key.common.key_id.as_ref() == Some(wanted)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
    }
}

/// Whether a key is one for signatures of this algorithm.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512};
    use AlgorithmParameters::{EllipticCurve as Ec, OctetKeyPair as Okp, RSA};
    let made_for = match (&key.algorithm, algorithm) {
        (_, HS256 | HS384 | HS512) => false,
        (Ec(curve), ES256) => curve.curve == EllipticCurve::P256,
        (Ec(curve), ES384) => curve.curve == EllipticCurve::P384,
        (Okp(pair), EdDSA) => pair.curve == EllipticCurve::Ed25519,
        (RSA(_), other) => !matches!(other, ES256 | ES384 | EdDSA),
        _ => false,
    };
    let common = &key.common;
    let usage = common.public_key_use.as_ref();
    let operations = common.key_operations.as_ref();
    made_for
        && usage.is_none_or(|usage| *usage == PublicKeyUse::Signature)
        && operations.is_none_or(|all| all.contains(&KeyOperations::Verify))
        && common
            .key_algorithm
            .is_none_or(|own| own == algorithm.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn p256(more: Value) -> Value {
        // The public key of RFC 7517, appendix A.1.
        let mut key = json!({
            "kty": "EC", "crv": "P-256",
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        });
        for (name, value) in more.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    fn parse(keys: &[Value]) -> ForeignKeys {
        let text = json!({ "keys": keys }).to_string();
        ForeignKeys::parse(text.as_bytes(), &[Algorithm::ES256]).unwrap()
    }

    fn token(kid: Option<&str>) -> UnverifiedForeign<'static> {
        UnverifiedForeign {
            text: "",
            algorithm: Algorithm::ES256,
            key: kid.map(str::to_owned),
        }
    }

    #[test]
    fn only_keys_for_pinned_signatures_are_kept() {
        let kept = parse(&[
            p256(json!({"kid": "a"})),
            p256(json!({"kid": "b", "use": "sig", "alg": "ES256", "key_ops": ["verify"]})),
        ]);
        assert_eq!(kept.len(), 2);
        let others = parse(&[
            p256(json!({"use": "enc"})),
            p256(json!({"use": "tls"})),
            p256(json!({"key_ops": ["sign"]})),
            p256(json!({"alg": "ES384"})),
            p256(json!({"alg": "ECDH-ES"})),
            p256(json!({"crv": "P-384"})),
            p256(json!({"x": "!"})),
            json!({"kty": "OKP", "crv": "X25519", "x": "AAAA"}),
            json!({"kty": "oct", "k": "AAAA"}),
            json!({"kty": "RSA", "n": "AAAA", "e": "AQAB"}),
            json!("nonsense"),
        ]);
        assert_eq!(others.len(), 0);
        for broken in ["", "{}", "[]", "{\"keys\": 7}"] {
            assert!(ForeignKeys::parse(broken.as_bytes(), &[Algorithm::ES256]).is_none());
        }
    }

    #[test]
    fn a_key_goes_by_its_name_or_is_the_only_one() {
        let one = parse(&[p256(json!({"kid": "a"}))]);
        assert!(one.find(&token(Some("a"))).is_some() && one.find(&token(None)).is_some());
        assert!(one.find(&token(Some("b"))).is_none());
        let two = parse(&[p256(json!({"kid": "a"})), p256(json!({}))]);
        assert!(two.find(&token(Some("a"))).is_some() && two.find(&token(None)).is_none());
    }

    #[test]
    fn times_have_a_little_leeway_and_an_end() {
        const NOW: u64 = 1_800_000_000;
        let is_now = |change: Value| {
            let mut claims = json!({
                "iss": "a", "aud": "b", "sub": "c", "iat": NOW, "exp": NOW + 300,
            });
            for (name, value) in change.as_object().unwrap() {
                claims[name] = value.clone();
            }
            let claims: Result<Claims, _> = serde_json::from_value(claims);
            claims.ok().map(|claims| claims.is_now(NOW))
        };
        for (claims, expected) in [
            (json!({}), Some(true)),
            (json!({"exp": NOW - 29}), Some(true)),
            (json!({"exp": NOW - 30}), Some(false)),
            (json!({"exp": NOW + LONGEST + 30}), Some(true)),
            (json!({"exp": NOW + LONGEST + 31}), Some(false)),
            (json!({"iat": NOW + 30}), Some(true)),
            (json!({"iat": NOW + 31}), Some(false)),
            (json!({"nbf": NOW + 30}), Some(true)),
            (json!({"nbf": NOW + 31}), Some(false)),
            (json!({"auth_time": NOW + 31}), Some(false)),
            (json!({"iat": 1_799_999_999.5}), Some(true)),
            (json!({"exp": "1800000300"}), None),
            (json!({"exp": null}), None),
            (json!({"exp": -1}), None),
            (json!({"exp": 1e300}), None),
            (json!({"exp": u64::MAX}), None),
            (json!({"iat": null}), None),
            (json!({"nbf": "soon"}), None),
            (json!({"aud": 7}), None),
            (json!({"aud": ["b", 7]}), None),
            (json!({"amr": "mfa"}), None),
        ] {
            assert_eq!(is_now(claims.clone()), expected, "{claims}");
        }
    }

    #[test]
    fn whom_a_text_claims_to_be_from_is_read_without_trust() {
        let of = |claims: &str| issuer(&format!("a.{}.b", URL_SAFE_NO_PAD.encode(claims)));
        assert_eq!(of(r#"{"iss":"x"}"#).as_deref(), Some("x"));
        assert_eq!(of(r#"{"iss":7}"#), None);
        assert_eq!(of("{}"), None);
        assert_eq!(issuer("a.!.b"), None);
        assert_eq!(issuer("xyk_a"), None);
        let long = format!(r#"{{"iss":"x","a":"{}"}}"#, "a".repeat(MAX_BYTES));
        assert_eq!(of(&long), None);
    }
}

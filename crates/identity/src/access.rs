//! Access tokens: JWTs by the profile of RFC 9068, for 15 minutes. They say who, never what that agent
//! may do: its roles are read at every call.

use crate::signing::{KeySet, SigningKey};
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_ids::{AgentId, ClientId, KeyId, Namespace, Scopes, SessionId};
use xylem_seal::CryptoError;

/// How long an access token works.
pub const ACCESS_LIFE: Duration = Duration::from_secs(15 * 60);
/// Far more than one of ours has.
const MAX_BYTES: usize = 8 * 1024;
/// How far another instance's clock may be ahead, in seconds.
const AHEAD: u64 = 30;
const TYPE: &str = "at+jwt";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) aud: String,
    pub(crate) sub: AgentId,
    /// The API key that it was exchanged for, or what somebody signed in with.
    pub(crate) client_id: ClientId,
    /// The session that it belongs to, where somebody signed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sid: Option<SessionId>,
    /// When they did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) auth_time: Option<u64>,
    /// Whether they showed a second factor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) second_factor: bool,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) jti: KeyId,
    /// The namespace it works in.
    pub(crate) ns: Namespace,
    /// What it is narrowed to; whatever the roles give where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
}

/// What a token is issued for.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    pub(crate) client: ClientId,
    pub(crate) session: Option<SessionId>,
    pub(crate) signed_in: Option<SystemTime>,
    pub(crate) second_factor: bool,
}

/// Why a text is no access token of ours. For the log only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reject {
    Malformed,
    UnknownKey,
    Signature,
    Issuer,
    Time,
}

impl Reject {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Issuer => "token_issuer",
            Self::Time => "token_expired",
        }
    }
}

/// Text in the form of an access token: nothing of it is known to be true.
pub(crate) struct UnverifiedAccess<'t> {
    text: &'t str,
    pub(crate) kid: KeyId,
}

impl fmt::Debug for UnverifiedAccess<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnverifiedAccess")
    }
}

impl<'t> UnverifiedAccess<'t> {
    /// Looks at the header. Where it says to find keys (`jku`, `jwk`, `x5u`, `x5c`) is never read.
    pub(crate) fn parse(text: &'t str) -> Result<Self, Reject> {
        if text.len() > MAX_BYTES {
            return Err(Reject::Malformed);
        }
        let header = jsonwebtoken::decode_header(text).map_err(|_| Reject::Malformed)?;
        let ours = header.alg == Algorithm::EdDSA
            && header.typ.as_deref() == Some(TYPE)
            && header.crit.is_none();
        let kid = header.kid.filter(|_| ours).ok_or(Reject::Malformed)?;
        let kid = kid.parse().map_err(|_| Reject::UnknownKey)?;
        Ok(Self { text, kid })
    }

    /// Checks signature, issuer, audience and time. The claims have their types, and none is optional
    /// that decides: a claim of the wrong type is no absent one.
    pub(crate) fn verify(
        &self,
        keys: &KeySet,
        issuer: &str,
        now: SystemTime,
    ) -> Result<Claims, Reject> {
        let key = keys.find(&self.kid, now).ok_or(Reject::UnknownKey)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let read = jsonwebtoken::decode::<Claims>(self.text, &key.verifier, &validation);
        let claims = read.map_err(|_| Reject::Signature)?.claims;
        if claims.iss != issuer || claims.aud != issuer {
            return Err(Reject::Issuer);
        }
        let now = seconds(now);
        let sound = claims.iat <= now.saturating_add(AHEAD)
            && now < claims.exp
            && claims.exp.saturating_sub(claims.iat) <= ACCESS_LIFE.as_secs();
        sound.then_some(claims).ok_or(Reject::Time)
    }
}

/// Signs a token.
pub(crate) fn sign(key: &SigningKey, claims: &Claims) -> Result<String, CryptoError> {
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(key.id.to_string());
    jsonwebtoken::encode(&header, claims, &key.signer).map_err(|_| CryptoError)
}

/// Scopes as a token and RFC 6749 write them.
pub(crate) fn scope_text(scopes: &Scopes) -> Option<String> {
    scopes.codes().map(|codes| codes.join(" "))
}

/// Reads scopes; `None` where one is not known.
pub(crate) fn scopes(text: Option<&str>) -> Option<Scopes> {
    let Some(text) = text else {
        return Some(Scopes::All);
    };
    let scopes = text
        .split_ascii_whitespace()
        .map(|scope| scope.parse().ok());
    scopes.collect()
}

pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::generate;
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::{Value, json};
    use xylem_seal::CipherKey;

    const HOUSE: &str = "https://xylem.example";
    const NOW: u64 = 1_800_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn key(cipher: &CipherKey) -> SigningKey {
        let row = generate(cipher, now()).unwrap();
        SigningKey::open(cipher, &row).unwrap().unwrap()
    }

    fn claims() -> Value {
        json!({
            "iss": HOUSE, "aud": HOUSE, "sub": "one", "client_id": "abcdefghijkl",
            "iat": NOW, "exp": NOW + 900, "jti": "mnopqrstuvwx", "ns": "default", "scope": "trees",
        })
    }

    /// Signed as ours are, whatever it says.
    fn signed(key: &SigningKey, change: impl FnOnce(&mut Header, &mut Value)) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(key.id.to_string());
        let mut claims = claims();
        change(&mut header, &mut claims);
        jsonwebtoken::encode(&header, &claims, &key.signer).unwrap()
    }

    fn outcome(set: &KeySet, text: &str) -> Result<Claims, Reject> {
        UnverifiedAccess::parse(text)?.verify(set, HOUSE, now())
    }

    #[test]
    fn a_right_signature_alone_is_not_enough() {
        let cipher = CipherKey::generate().unwrap();
        let key = key(&cipher);
        let claim = |name: &str, value: Value| signed(&key, |_, claims| claims[name] = value);
        let header = |change: &dyn Fn(&mut Header)| signed(&key, |header, _| change(header));
        let cases = [
            (claim("iss", json!("https://other.example")), Reject::Issuer),
            (claim("iss", json!(format!("{HOUSE}/"))), Reject::Issuer),
            (claim("aud", json!("https://other.example")), Reject::Issuer),
            (claim("aud", json!([HOUSE])), Reject::Signature),
            (claim("aud", Value::Null), Reject::Signature),
            (claim("exp", json!(NOW)), Reject::Time),
            (claim("exp", json!(NOW + 901)), Reject::Time),
            (claim("exp", json!("1800000900")), Reject::Signature),
            (claim("exp", Value::Null), Reject::Signature),
            (claim("iat", json!(NOW + 31)), Reject::Time),
            (claim("jti", Value::Null), Reject::Signature),
            (header(&|header| header.typ = None), Reject::Malformed),
            (
                header(&|header| header.typ = Some("JWT".into())),
                Reject::Malformed,
            ),
            (
                header(&|header| header.typ = Some("xylem-grant".into())),
                Reject::Malformed,
            ),
            (header(&|header| header.kid = None), Reject::Malformed),
            (
                header(&|header| header.kid = Some("abcdefgh".into())),
                Reject::UnknownKey,
            ),
        ];
        let set = KeySet::new(vec![self::key(&cipher)]);
        let unknown = signed(&key, |_, _| {});
        assert_eq!(outcome(&set, &unknown), Err(Reject::UnknownKey));
        let good = signed(&key, |_, _| {});
        let unscoped = signed(&key, |_, claims| claims["scope"] = Value::Null);
        let set = KeySet::new(vec![key]);
        assert!(outcome(&set, &good).is_ok() && outcome(&set, &unscoped).is_ok());
        for (text, reject) in cases {
            assert_eq!(outcome(&set, &text), Err(reject), "{text}");
        }
    }

    #[test]
    fn neither_no_algorithm_nor_the_public_key_as_a_secret_passes() {
        let cipher = CipherKey::generate().unwrap();
        let key = key(&cipher);
        let public = key.x().to_owned();
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(key.id.to_string());
        let secret = jsonwebtoken::EncodingKey::from_secret(public.as_bytes());
        let confused = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let none = json!({"alg": "none", "typ": TYPE, "kid": key.id.to_string()});
        let none = format!("{}.{}.", encode(none), encode(claims()));
        let set = KeySet::new(vec![key]);
        for text in [confused, none] {
            assert_eq!(outcome(&set, &text), Err(Reject::Malformed), "{text}");
        }
    }

    #[test]
    fn a_header_that_brings_its_own_key_is_checked_with_ours() {
        let cipher = CipherKey::generate().unwrap();
        let (ours, theirs) = (key(&cipher), key(&cipher));
        let jwk = serde_json::to_value(theirs.published()).unwrap();
        let text = signed(&theirs, |header, _| {
            header.kid = Some(ours.id.to_string());
            header.jku = Some("https://evil.example/keys".to_owned());
            header.jwk = serde_json::from_value(jwk).ok();
        });
        assert!(text.len() > 400);
        let set = KeySet::new(vec![ours]);
        assert_eq!(outcome(&set, &text), Err(Reject::Signature));
    }
}

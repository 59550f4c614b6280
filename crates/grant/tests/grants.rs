//! What a verifier must accept and what it must refuse, and vectors that freeze the format.

use aws_lc_rs::{
    encoding::AsDer,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use std::time::Duration;
use xylem_grant::{
    Claims, GRANT_PREFIX, IssuerKey, IssuerSet, MAX_GRANT_BYTES, Reject, UnixSeconds,
    UnverifiedGrant, VerifiedGrant,
};
use xylem_ids::{Epoch, Order, Serial, TreeId, Version};

fn claims() -> Claims {
    Claims {
        tree: TreeId {
            namespace: "default".parse().expect("namespace"),
            workflow_id: "release-42".parse().expect("workflow id"),
            first_run_id: "0198c0de-0000-7000-8000-000000000001"
                .parse()
                .expect("run id"),
        },
        slot: "default".parse().expect("slot"),
        order: Order {
            epoch: Epoch(1),
            version: Version(2),
            serial: Serial(1),
        },
        issued_at: UnixSeconds(1_790_000_000),
        expires_at: UnixSeconds(1_790_000_000).plus(Duration::from_secs(3600)),
        audiences: vec!["https://api.acme.example/v1".parse().expect("audience")],
        fingerprint: "0123456789abcdef".parse().expect("fingerprint"),
        exposed: false,
        retires: Vec::new(),
    }
}

fn verify(text: &str, issuers: &IssuerSet) -> Result<VerifiedGrant, Reject> {
    UnverifiedGrant::parse(text)?.verify(issuers)
}

fn issuer() -> (IssuerKey, IssuerSet) {
    let key = IssuerKey::generate(1).expect("key");
    let issuers = IssuerSet::new([key.public().clone()]);
    (key, issuers)
}

#[test]
fn what_is_issued_verifies_and_says_the_same() {
    let (key, issuers) = issuer();
    let issued = key.issue(claims()).expect("issued");
    let verified = verify(issued.as_str(), &issuers).expect("verified");
    assert_eq!(verified, issued);
    assert_eq!(verified.claims(), &claims());
    assert!(UnverifiedGrant::is_grant(issued.as_str()));
}

#[test]
fn a_stored_key_signs_like_the_first_one() {
    let (key, issuers) = issuer();
    let again = IssuerKey::from_pkcs8(&key.to_pkcs8(), 1).expect("stored form");
    let issued = again.issue(claims()).expect("issued");
    assert!(verify(issued.as_str(), &issuers).is_ok());
}

#[test]
fn another_issuer_is_unknown_until_trusted_and_never_after_retirement() {
    let (_, mut issuers) = issuer();
    let newer = IssuerKey::generate(2).expect("key");
    let newest = IssuerKey::generate(3).expect("key");
    let text = newer.issue(claims()).expect("issued");
    assert_eq!(verify(text.as_str(), &issuers), Err(Reject::UnknownKey));
    issuers.trust(newer.public().clone());
    issuers.trust(newest.public().clone());
    assert!(verify(text.as_str(), &issuers).is_ok());
    let (newer_id, newest_id) = (&newer.public().key_id, &newest.public().key_id);
    assert!(
        !issuers.retire(newest_id, newer_id),
        "an older key retires nothing newer"
    );
    assert!(issuers.retire(newer_id, newest_id));
    issuers.trust(newer.public().clone());
    assert_eq!(verify(text.as_str(), &issuers), Err(Reject::RetiredKey));
}

/// Signs arbitrary header and payload text with a key the verifier trusts.
fn forge(header: &str, payload: &str) -> (String, IssuerSet) {
    let pair = Ed25519KeyPair::generate().expect("key");
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'static> = AsDer::as_der(&pair).expect("der");
    let key = IssuerKey::from_pkcs8(der.as_ref(), 1).expect("issuer");
    let header = header.replace("KID", key.public().key_id.as_str());
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()));
    assert_eq!(pair.public_key().as_ref().len(), 32);
    (
        format!("{GRANT_PREFIX}{signed}.{signature}"),
        IssuerSet::new([key.public().clone()]),
    )
}

const HEADER: &str = r#"{"alg":"EdDSA","typ":"xylem-grant+jwt","kid":"KID"}"#;

fn payload() -> serde_json::Value {
    serde_json::to_value(claims()).expect("claims are JSON")
}

#[test]
fn the_forger_of_these_tests_can_make_a_good_grant() {
    let (text, issuers) = forge(HEADER, &payload().to_string());
    assert_eq!(
        verify(&text, &issuers).expect("verified").claims(),
        &claims()
    );
}

#[test]
fn wrong_algorithms_are_refused() {
    for alg in ["none", "None", "HS256", "RS256", "ES256", "EdDSA2"] {
        let header = HEADER.replace("EdDSA", alg);
        let (text, issuers) = forge(&header, &payload().to_string());
        assert_eq!(
            verify(&text, &issuers),
            Err(Reject::WrongAlgorithm),
            "{alg}"
        );
    }
}

#[test]
fn headers_of_another_kind_are_refused() {
    for header in [
        r#"{"alg":"EdDSA","kid":"KID"}"#,
        r#"{"alg":"EdDSA","typ":"JWT","kid":"KID"}"#,
        r#"{"alg":"EdDSA","typ":"xylem-grant+jwt"}"#,
        r#"{"alg":"EdDSA","typ":"xylem-grant+jwt","kid":"a b"}"#,
        r#"{"alg":"EdDSA","typ":"xylem-grant+jwt","kid":"KID","crit":["b64"],"b64":false}"#,
    ] {
        let (text, issuers) = forge(header, &payload().to_string());
        assert_eq!(verify(&text, &issuers), Err(Reject::Malformed), "{header}");
    }
}

#[test]
fn keys_named_in_the_header_are_ignored() {
    let attacker = IssuerKey::generate(9).expect("key");
    let header = format!(
        r#"{{"alg":"EdDSA","typ":"xylem-grant+jwt","kid":"{}","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{}"}}}}"#,
        attacker.public().key_id,
        attacker.public().x
    );
    let (text, issuers) = forge(&header, &payload().to_string());
    assert_eq!(verify(&text, &issuers), Err(Reject::UnknownKey));
}

#[test]
fn payloads_that_break_a_rule_are_refused() {
    let mut unknown = payload();
    unknown["admin"] = true.into();
    let mut nowhere = payload();
    nowhere["audiences"] = serde_json::json!([]);
    let mut slot = payload();
    slot["slot"] = "Not A Slot".into();
    for bad in [
        unknown.to_string(),
        nowhere.to_string(),
        slot.to_string(),
        "{}".into(),
        "[]".into(),
        String::new(),
    ] {
        let (text, issuers) = forge(HEADER, &bad);
        assert_eq!(verify(&text, &issuers), Err(Reject::Malformed), "{bad}");
    }
}

#[test]
fn sizes_are_bounded() {
    let long = format!("{GRANT_PREFIX}{}", "a".repeat(MAX_GRANT_BYTES));
    assert_eq!(UnverifiedGrant::parse(&long).err(), Some(Reject::Oversized));
    let (key, _) = issuer();
    let mut many = claims();
    many.audiences = (0..400)
        .map(|n| {
            format!("https://api-{n}.acme.example/v1")
                .parse()
                .expect("audience")
        })
        .collect();
    assert!(key.issue(many).is_err());
}

#[test]
fn debug_shows_no_signature() {
    let (key, _) = issuer();
    let grant = key.issue(claims()).expect("issued");
    let shown = format!("{grant:?} {key:?}");
    assert!(!shown.contains("eyJ"), "{shown}");
    assert!(shown.contains("default@1.2.1"), "{shown}");
}

/// Frozen: a worker of any later release must verify what lies in histories today.
#[test]
fn golden_vectors_verify() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("golden.json")).expect("golden file");
    let vectors = vectors.as_array().expect("a list");
    assert_eq!(vectors.len(), 2);
    for vector in vectors {
        let issuers: IssuerSet =
            serde_json::from_value(vector["issuers"].clone()).expect("issuers");
        let grant = verify(vector["grant"].as_str().expect("text"), &issuers).expect("verifies");
        let said = serde_json::to_value(grant.claims()).expect("JSON");
        assert_eq!(said, vector["claims"]);
    }
}

proptest! {
    #[test]
    fn any_flipped_character_is_noticed(at in 0usize..400, to in "[A-Za-z0-9_.-]") {
        let (key, issuers) = issuer();
        let issued = key.issue(claims()).expect("issued");
        let at = GRANT_PREFIX.len() + at % (issued.as_str().len() - GRANT_PREFIX.len());
        let mut text = issued.as_str().to_owned();
        prop_assume!(text[at..=at] != to);
        text.replace_range(at..=at, &to);
        // The last character of a base64url part has unused bits only where the decoder is lax;
        // whatever it decodes to, content and signature must not verify as something else.
        if let Ok(verified) = verify(&text, &issuers) {
            prop_assert_eq!(verified.claims(), issued.claims());
            prop_assert!(false, "altered text verified");
        }
    }

    #[test]
    fn any_truncation_is_noticed(keep in 0usize..600) {
        let (key, issuers) = issuer();
        let issued = key.issue(claims()).expect("issued");
        prop_assume!(keep < issued.as_str().len());
        prop_assert!(verify(&issued.as_str()[..keep], &issuers).is_err());
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,300}") {
        let (_, issuers) = issuer();
        prop_assert!(verify(&text, &issuers).is_err());
        let prefixed = format!("{GRANT_PREFIX}{text}");
        prop_assert!(verify(&prefixed, &issuers).is_err());
    }
}

//! Second factors on a real database, and by more than one process.

use super::account::{
    GOOD, beside, client, entry, grant, new, now, refresh, register, settled, works,
};
use crate::house::{House, namespace};
use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xylem_audit::Kind;
use xylem_identity::{Identity, IdentityError, NoToken, SignIn, SignedIn};
use xylem_ids::{AgentId, Role, Scope};

const SHORT: &str = "x7$Lq2mw";
const STEP: Duration = Duration::from_secs(30);

/// The bytes of base32.
fn bytes(text: &str) -> Vec<u8> {
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits = text.chars().flat_map(|letter| {
        let value = letters.find(letter).unwrap();
        (0..5)
            .rev()
            .map(move |bit| u8::from((value >> bit) & 1 == 1))
    });
    let bits: Vec<u8> = bits.collect();
    let byte = |bits: &[u8]| bits.iter().fold(0, |byte, bit| (byte << 1) | bit);
    bits.chunks_exact(8).map(byte).collect()
}

/// What a device shows.
fn code(secret: &SecretString, at: SystemTime) -> String {
    let key = bytes(secret.expose_secret());
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let step = at.duration_since(UNIX_EPOCH).unwrap().as_secs() / 30;
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let tag = tag.as_ref();
    let from = usize::from(tag[19] & 15);
    let number = u32::from_be_bytes(tag[from..from + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

async fn enrol(house: &House, name: &str, password: &str) -> Result<SecretString, IdentityError> {
    let (id, password) = (name.parse().unwrap(), SecretString::from(password));
    let namespace = namespace();
    let begun = house
        .identity
        .enrol_factor(&namespace, &id, &password, None, now(house));
    let begun = begun.await?;
    let uri = begun.uri.expose_secret();
    assert!(uri.starts_with(&format!("otpauth://totp/xylem:{name}?secret=")));
    assert!(uri.contains(begun.secret.expose_secret()));
    Ok(begun.secret)
}

async fn confirm(
    house: &House,
    name: &str,
    code: &str,
) -> Result<Vec<SecretString>, IdentityError> {
    let entry = entry(house, Kind::SecondFactorEnrolled);
    let (namespace, id) = (namespace(), name.parse().unwrap());
    let confirmed = house
        .identity
        .confirm_factor(&namespace, &id, code, None, entry);
    confirmed.await
}

/// The secret and the recovery codes of an account that has a second factor from now on.
pub(super) async fn enrolled(house: &House, name: &str) -> (SecretString, Vec<SecretString>) {
    let secret = enrol(house, name, GOOD).await.unwrap();
    let codes = confirm(house, name, &code(&secret, now(house))).await;
    (secret, codes.unwrap())
}

async fn remove(house: &House, code: &str) -> Result<(), IdentityError> {
    let entry = entry(house, Kind::SecondFactorRemoved);
    let (namespace, id) = (namespace(), one());
    let removed = house
        .identity
        .remove_factor(&namespace, &id, code, None, entry);
    removed.await
}

async fn sign_in(
    house: &House,
    identity: &Identity,
    password: &str,
    code: Option<&str>,
) -> Result<SignedIn, NoToken> {
    sign_in_for(house, identity, password, code, None).await
}

async fn sign_in_for(
    house: &House,
    identity: &Identity,
    password: &str,
    code: Option<&str>,
    scope: Option<&str>,
) -> Result<SignedIn, NoToken> {
    let password = SecretString::from(password);
    let given = SignIn {
        name: "one",
        password: &password,
        code,
        client: client(),
        scope,
        device: None,
        address: Some([192, 0, 2, 1].into()),
    };
    let entry = entry(house, Kind::SignedIn);
    identity.sign_in(&namespace(), given, entry).await
}

fn one() -> AgentId {
    "one".parse().unwrap()
}

async fn count(house: &House, kind: Kind) -> usize {
    let log = house.log().await;
    let about = log.iter().filter(|record| record.entry.kind == kind);
    about.count()
}

#[tokio::test]
async fn a_step_of_a_factor_is_used_once_across_instances() {
    let house = settled().await;
    let other = beside(&house).await;
    let (secret, _) = enrolled(&house, "one").await;
    let shown = code(&secret, now(&house));
    let replayed = sign_in(&house, &other, GOOD, Some(&shown)).await;
    assert_eq!(grant(replayed), "code_wrong", "it ended enrolling");

    house.clock.advance(STEP);
    let shown = code(&secret, now(&house));
    let (here, there) = tokio::join!(
        sign_in(&house, &house.identity, GOOD, Some(&shown)),
        sign_in(&house, &other, GOOD, Some(&shown)),
    );
    assert_ne!(here.is_ok(), there.is_ok(), "one of them");
    let late = if here.is_ok() { there } else { here };
    assert_eq!(grant(late), "code_wrong");

    house.clock.advance(2 * STEP);
    let passed_over = code(&secret, now(&house) - STEP);
    let newest = code(&secret, now(&house));
    let newest = sign_in(&house, &house.identity, GOOD, Some(&newest)).await;
    assert!(newest.unwrap().access.principal.second_factor());
    let before = sign_in(&house, &other, GOOD, Some(&passed_over)).await;
    assert_eq!(grant(before), "code_wrong");
}

#[tokio::test]
async fn a_recovery_code_of_a_factor_is_used_once() {
    let house = settled().await;
    let other = beside(&house).await;
    let (_, codes) = enrolled(&house, "one").await;
    assert_eq!(codes.len(), 10);
    let first = codes[0].expose_secret();
    let typed = first.to_uppercase().replace('-', " ");
    let signed_in = sign_in(&house, &house.identity, GOOD, Some(&typed)).await;
    assert!(signed_in.unwrap().access.principal.second_factor());
    let again = sign_in(&house, &other, GOOD, Some(first)).await;
    assert_eq!(grant(again), "code_wrong");
    let second = codes[1].expose_secret();
    let (here, there) = tokio::join!(
        sign_in(&house, &house.identity, GOOD, Some(second)),
        sign_in(&house, &other, GOOD, Some(second)),
    );
    assert_ne!(here.is_ok(), there.is_ok(), "one of them");
    let log = house.log().await;
    let used = log
        .iter()
        .filter(|record| record.entry.kind == Kind::RecoveryCodeUsed);
    let used: Vec<_> = used.map(|record| record.entry.agent.clone()).collect();
    assert_eq!(used, [Some(one()), Some(one())]);
}

#[tokio::test]
async fn other_recovery_codes_end_the_ones_before_and_take_password_and_device() {
    let house = settled().await;
    let renew = async |identity: &Identity, password: &str, code: &str| {
        let password = SecretString::from(password);
        let entry = entry(&house, Kind::RecoveryCodesRenewed);
        let (namespace, id, given) = (namespace(), one(), (&password, code));
        let renewed = identity.renew_recovery_codes(&namespace, &id, given, None, entry);
        renewed.await
    };
    let none = renew(&house.identity, GOOD, "123456").await;
    assert!(matches!(none, Err(IdentityError::NotFound { .. })));
    let (secret, before) = enrolled(&house, "one").await;
    let replayed = renew(&house.identity, GOOD, &code(&secret, now(&house))).await;
    assert!(matches!(replayed, Err(IdentityError::CodeWrong)));
    let recovery = renew(&house.identity, GOOD, before[0].expose_secret()).await;
    assert!(matches!(recovery, Err(IdentityError::CodeWrong)));
    house.clock.advance(STEP);
    let shown = code(&secret, now(&house));
    let stranger = renew(&house.identity, SHORT, &shown).await;
    assert!(matches!(stranger, Err(IdentityError::PasswordWrong)));

    // As many attempts as this have to wait.
    house.clock.advance(Duration::from_secs(3600));
    let shown = code(&secret, now(&house));
    let other = beside(&house).await;
    let (here, there) = tokio::join!(
        renew(&house.identity, GOOD, &shown),
        renew(&other, GOOD, &shown),
    );
    assert_ne!(here.is_ok(), there.is_ok(), "one of them");
    let codes = here.or(there).unwrap();
    assert_eq!(codes.len(), 10);
    let old = sign_in(&house, &other, GOOD, Some(before[0].expose_secret())).await;
    assert_eq!(grant(old), "code_wrong");
    let new = sign_in(&house, &other, GOOD, Some(codes[0].expose_secret())).await;
    assert!(new.unwrap().access.principal.second_factor());
    assert_eq!(count(&house, Kind::RecoveryCodesRenewed).await, 1);
}

#[tokio::test]
async fn where_a_factor_is_enrolled_a_password_alone_is_not_enough() {
    let house = settled().await;
    let before = sign_in(&house, &house.identity, GOOD, None).await.unwrap();
    assert!(!before.access.principal.second_factor());
    let secret = enrol(&house, "one", GOOD).await.unwrap();
    let refreshed = refresh(&house, &house.identity, &before.refresh, "cli").await;
    let before = refreshed.expect("it goes on while the factor does not count");
    let shown = code(&secret, now(&house));
    confirm(&house, "one", &shown).await.unwrap();
    assert!(!works(&house, &before).await, "it has shown no code");
    let refreshed = refresh(&house, &house.identity, &before.refresh, "cli").await;
    assert_eq!(grant(refreshed), "session_over");
    assert_eq!(count(&house, Kind::SecondFactorEnrolled).await, 1);
    let alone = sign_in(&house, &house.identity, GOOD, None).await;
    assert_eq!(grant(alone), "code_missing");
    let wrong = sign_in(&house, &house.identity, GOOD, Some("no code")).await;
    assert_eq!(grant(wrong), "code_wrong");
    house.clock.advance(STEP);
    let shown = code(&secret, now(&house));
    let stranger = sign_in(&house, &house.identity, SHORT, Some(&shown)).await;
    assert_eq!(grant(stranger), "password_wrong");
    let spaced = format!("{} {}", &shown[..3], &shown[3..]);
    let signed_in = sign_in(&house, &house.identity, GOOD, Some(&spaced)).await;
    let signed_in = signed_in.expect("a wrong password uses nothing up");
    assert!(signed_in.access.principal.second_factor());
    let log = house.log().await;
    let last = log
        .iter()
        .rfind(|record| record.entry.kind == Kind::SignedIn);
    assert!(last.unwrap().entry.second_factor);
}

#[tokio::test]
async fn a_short_password_needs_the_factor_and_keeps_it() {
    let house = settled().await;
    let (secret, _) = enrolled(&house, "one").await;
    let change = async |present: &str, new: &str| {
        let (present, new) = (SecretString::from(present), SecretString::from(new));
        let entry = entry(&house, Kind::PasswordChanged);
        let identity = &house.identity;
        identity
            .change_password(&namespace(), &one(), &present, &new, None, entry)
            .await
    };
    change(GOOD, SHORT).await.unwrap();
    house.clock.advance(STEP);
    let kept = remove(&house, &code(&secret, now(&house))).await;
    assert!(matches!(kept, Err(IdentityError::Invalid(_))), "{kept:?}");
    change(SHORT, GOOD).await.unwrap();
    house.clock.advance(STEP);
    let wrong = remove(&house, "no code").await;
    assert!(matches!(wrong, Err(IdentityError::CodeWrong)), "{wrong:?}");
    house.clock.advance(STEP);
    remove(&house, &code(&secret, now(&house))).await.unwrap();
    assert_eq!(count(&house, Kind::SecondFactorRemoved).await, 1);
    assert!(sign_in(&house, &house.identity, GOOD, None).await.is_ok());

    house.clock.advance(Duration::from_secs(3600));
    enrolled(&house, "one").await;
    change(GOOD, SHORT).await.unwrap();
    house.tamper("DELETE FROM second_factors").await;
    let alone = sign_in(&house, &house.identity, SHORT, None).await;
    assert_eq!(grant(alone), "factor_gone");
}

#[tokio::test]
async fn who_lost_a_factor_loses_the_password_and_every_session_with_it() {
    let house = settled().await;
    let (_, codes) = enrolled(&house, "one").await;
    let shown = codes[0].expose_secret();
    let signed_in = sign_in(&house, &house.identity, GOOD, Some(shown)).await;
    let signed_in = signed_in.unwrap();
    assert!(works(&house, &signed_in).await);
    let reset = async || {
        let entry = entry(&house, Kind::SecondFactorReset);
        let identity = &house.identity;
        identity.reset_factor(&namespace(), &one(), entry).await
    };
    reset().await.unwrap();
    assert!(!works(&house, &signed_in).await);
    for code in [None, Some(codes[1].expose_secret())] {
        let alone = sign_in(&house, &house.identity, GOOD, code).await;
        assert_eq!(grant(alone), "password_wrong");
    }
    let again = reset().await;
    assert!(matches!(again, Err(IdentityError::NotFound { .. })));
    assert_eq!(count(&house, Kind::SecondFactorReset).await, 1);
}

#[tokio::test]
async fn a_factor_that_was_begun_counts_when_its_code_came_in_time() {
    let house = settled().await;
    let wrong = enrol(&house, "one", SHORT).await;
    assert!(matches!(wrong, Err(IdentityError::PasswordWrong)));
    let first = enrol(&house, "one", GOOD).await.unwrap();
    assert!(sign_in(&house, &house.identity, GOOD, None).await.is_ok());
    let wrong = confirm(&house, "one", "no code").await;
    assert!(matches!(wrong, Err(IdentityError::CodeWrong)));
    house.clock.advance(30 * STEP);
    let late = confirm(&house, "one", &code(&first, now(&house))).await;
    assert!(matches!(late, Err(IdentityError::NotFound { .. })));
    let second = enrol(&house, "one", GOOD).await.unwrap();
    let replaced = confirm(&house, "one", &code(&first, now(&house))).await;
    assert!(matches!(replaced, Err(IdentityError::CodeWrong)));
    let shown = code(&second, now(&house));
    confirm(&house, "one", &shown).await.unwrap();
    let another = enrol(&house, "one", GOOD).await;
    assert!(matches!(another, Err(IdentityError::Exists { .. })));
}

#[tokio::test]
async fn who_needs_a_factor_and_has_shown_none_may_only_look_after_the_account() {
    let house = settled().await;
    let before = sign_in(&house, &house.identity, GOOD, None).await.unwrap();
    assert!(before.access.principal.may(Scope::Trees));
    let strict = house
        .identity
        .clone()
        .second_factor_for([Role::User].into());
    let text = before.access.text.expose_secret();
    let narrowed = strict.authenticate(text, None, now(&house)).await.unwrap();
    let signed_in = sign_in(&house, &strict, GOOD, None).await.unwrap();
    assert_eq!(signed_in.access.scope.as_deref(), Some("account"));
    for caller in [narrowed, signed_in.access.principal] {
        assert!(caller.lacks_second_factor());
        assert!(caller.may(Scope::Account) && !caller.may(Scope::TreesRead));
    }
    let reader = sign_in_for(&house, &strict, GOOD, None, Some("trees:read")).await;
    let reader = reader.unwrap().access.principal;
    assert!(!reader.may(Scope::TreesRead) && !reader.may(Scope::Account));

    let (_, codes) = enrolled(&house, "one").await;
    let shown = codes[0].expose_secret();
    let enough = sign_in(&house, &strict, GOOD, Some(shown)).await.unwrap();
    let caller = enough.access.principal;
    assert!(!caller.lacks_second_factor() && caller.may(Scope::Trees));
}

#[tokio::test]
async fn the_secret_of_a_factor_lies_sealed_and_bound_to_its_agent() {
    let house = settled().await;
    register(&house, new("two", GOOD), true).await.unwrap();
    let (secret, codes) = enrolled(&house, "one").await;
    enrolled(&house, "two").await;
    let mut needles = vec![
        secret.expose_secret().as_bytes().to_vec(),
        bytes(secret.expose_secret()),
    ];
    for code in codes.iter().take(2) {
        let code = code.expose_secret();
        needles.push(code.as_bytes().to_vec());
        needles.push(code.replace('-', "").into_bytes());
    }
    for lying in house.at_rest().await {
        for needle in &needles {
            let found = lying.windows(needle.len()).any(|window| window == needle);
            assert!(!found);
        }
    }
    house
        .tamper(
            "UPDATE second_factors SET
                nonce = (SELECT f.nonce FROM second_factors f WHERE f.agent = 'two'),
                ciphertext = (SELECT f.ciphertext FROM second_factors f WHERE f.agent = 'two'),
                seal = (SELECT f.seal FROM second_factors f WHERE f.agent = 'two')
             WHERE agent = 'one'",
        )
        .await;
    let swapped = sign_in(&house, &house.identity, GOOD, Some("no code")).await;
    let why = swapped.unwrap_err();
    assert!(
        matches!(why, NoToken::NotNow(IdentityError::Tampered { .. })),
        "{why}"
    );
}

/// How often a code could be guessed before guessing was to wait.
async fn until_it_waits<T: std::fmt::Debug>(
    mut guess: impl AsyncFnMut() -> Result<T, IdentityError>,
) -> usize {
    for guessed in 0..20 {
        match guess().await {
            Err(IdentityError::CodeWrong) => {}
            Err(IdentityError::TooMany(_)) => return guessed,
            other => panic!("{other:?}"),
        }
    }
    panic!("twenty guesses were looked at");
}

#[tokio::test]
async fn guesses_of_a_code_wait_wherever_it_is_asked_for() {
    let house = settled().await;
    enrol(&house, "one", GOOD).await.unwrap();
    let guessed = until_it_waits(async || confirm(&house, "one", "no-code").await).await;
    assert!(guessed > 0);

    let house = settled().await;
    enrolled(&house, "one").await;
    let guessed = until_it_waits(async || remove(&house, "no-code").await).await;
    assert!(guessed > 0);
}

//! Credentials whose secret is obtained from an OAuth 2.0 provider.

use crate::common::{
    self, Stack, eventually, id,
    provider::{Manner, Provider},
    start,
    temporal::Mood,
    tree,
};
use secrecy::SecretString;
use std::time::Duration;
use xylem_client::{Client, Error, StartTree, v1};

const CLIENT: &str = "canary-client-secret";

async fn stack() -> (Stack, Client, Provider) {
    let stack = Stack::with(|settings| settings.addresses.development = true).await;
    stack.worker().await;
    stack.tool().await;
    let admin = stack.admin().await;
    (stack, admin, Provider::start().await)
}

fn new(provider: &Provider) -> v1::CreateCredentialRequest {
    v1::CreateCredentialRequest {
        name: "acme".to_owned(),
        audiences: vec![common::API.to_owned()],
        oauth: Some(v1::OAuth {
            token_url: provider.url.clone(),
            client_id: "xylem:1".to_owned(),
            scopes: vec!["deploy".to_owned(), "read".to_owned()],
            ..v1::OAuth::default()
        }),
        ..v1::CreateCredentialRequest::default()
    }
}

async fn made(admin: &Client, request: v1::CreateCredentialRequest) -> v1::Credential {
    let made = admin
        .create_credential(request, &SecretString::from(CLIENT))
        .await;
    made.expect("made")
}

async fn shown(admin: &Client) -> v1::Credential {
    admin.get_credential("acme").await.expect("shown")
}

fn reason<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    let error = answer.expect_err("refused");
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    error.reason().unwrap_or_default().to_owned()
}

/// A tree that starts with the credential.
async fn bound_tree(admin: &Client) {
    let binding = v1::BindCredentialRequest {
        name: "acme".to_owned(),
        workflow_type: "Train".to_owned(),
        ..v1::BindCredentialRequest::default()
    };
    admin.bind_credential(binding).await.expect("bound");
    let bare = StartTree {
        tokens: Vec::new(),
        ..start("train")
    };
    admin.start_tree(bare).await.expect("a tree");
}

#[tokio::test]
async fn a_token_is_obtained_renewed_and_given_to_every_tree() {
    let (stack, admin, provider) = stack().await;
    let first = made(&admin, new(&provider)).await;
    assert!(!format!("{first:?}").contains("canary"), "{first:?}");
    let form = provider.forms().pop().expect("asked");
    assert_eq!(form["grant_type"], "client_credentials");
    assert_eq!(form["scope"], "deploy read");
    let basic = provider.authorization().pop().flatten().expect("a header");
    // xylem%3A1:canary-client-secret
    assert_eq!(basic, "Basic eHlsZW0lM0ExOmNhbmFyeS1jbGllbnQtc2VjcmV0");
    bound_tree(&admin).await;
    stack.sweep().await;
    assert_eq!(provider.forms().len(), 1);
    stack.clock.advance(Duration::from_secs(2_500));
    stack.sweep().await;
    assert_eq!(provider.forms().len(), 2);
    stack.sweep().await;
    assert_eq!(provider.forms().len(), 2);
    let versions = admin
        .token_status(&tree("train"), Some(&id("default")))
        .await;
    assert_eq!(versions.expect("told").len(), 2);
    let now = shown(&admin).await;
    assert_eq!((now.versions.len(), now.trees_behind), (2, 0));
    assert_eq!(now.state(), v1::CredentialState::Ok);
}

#[tokio::test]
async fn a_rotated_refresh_token_is_used_next() {
    let (_stack, admin, provider) = stack().await;
    let mut request = new(&provider);
    request.refresh_token = "canary-refresh-0000".to_owned();
    if let Some(oauth) = &mut request.oauth {
        oauth.secret_in_form = true;
    }
    assert!(
        made(&admin, request)
            .await
            .oauth
            .is_some_and(|oauth| oauth.with_refresh_token)
    );
    admin.renew_credential("acme").await.expect("renewed");
    let forms = provider.forms();
    assert_eq!(forms[0]["refresh_token"], "canary-refresh-0000");
    assert_eq!(forms[1]["refresh_token"], "canary-refresh-0001");
    assert_eq!(forms[1]["client_secret"], CLIENT);
    assert_eq!(provider.authorization(), [None, None]);
}

#[tokio::test]
async fn a_token_that_is_given_again_is_no_new_version_and_lives_for_as_long_as_is_said() {
    let (stack, admin, provider) = stack().await;
    let mut request = new(&provider);
    request.refresh_token = "canary-refresh-0000".to_owned();
    let first = made(&admin, request).await.expires_at.expect("an end");
    bound_tree(&admin).await;
    let held = async || {
        let (tree, slot) = (tree("train"), id("default"));
        let held = admin.token_status(&tree, Some(&slot)).await;
        held.expect("told")
    };
    let before = held().await;
    stack.clock.advance(Duration::from_secs(2_500));
    provider.answers(Manner::Again(1_100));
    stack.sweep().await;
    let late = shown(&admin).await;
    assert_eq!((late.versions.len(), late.trees_behind), (1, 0));
    assert_eq!(late.not_obtained_because, "value_unchanged");
    assert_eq!(late.expires_at, Some(first));
    assert_eq!(held().await, before, "nothing cascades");

    // What came with it is asked with next.
    stack.clock.advance(Duration::from_secs(301));
    provider.answers(Manner::Again(3_600));
    stack.sweep().await;
    let asked: Vec<_> = provider
        .forms()
        .iter()
        .map(|form| form["refresh_token"].clone())
        .collect();
    assert_eq!(
        asked,
        [
            "canary-refresh-0000",
            "canary-refresh-0001",
            "canary-refresh-0002"
        ]
    );
    let longer = shown(&admin).await;
    assert_eq!((longer.versions.len(), longer.trees_behind), (1, 0));
    assert_eq!(longer.not_obtained_because, "");
    let ends = longer.expires_at.expect("an end").seconds;
    assert_eq!(ends, first.seconds + 2_801);
    let prolonged = held().await;
    assert_eq!(prolonged.len(), 1);
    let of_copy = prolonged.first().and_then(|version| version.expires_at);
    assert_eq!(of_copy.map(|at| at.seconds), Some(ends));

    provider.answers(Manner::Well);
    stack.clock.advance(Duration::from_secs(2_500));
    stack.sweep().await;
    assert_eq!(
        (shown(&admin).await.versions.len(), held().await.len()),
        (2, 2)
    );
}

#[tokio::test]
async fn a_token_that_was_revoked_is_not_taken_again() {
    let (_stack, admin, provider) = stack().await;
    made(&admin, new(&provider)).await;
    admin.renew_credential("acme").await.expect("renewed");
    let revocation = v1::RevokeCredentialRequest {
        name: "acme".to_owned(),
        version: 1,
        ..v1::RevokeCredentialRequest::default()
    };
    admin.revoke_credential(revocation).await.expect("revoked");
    provider.answers(Manner::Again(3_600));
    assert_eq!(
        reason(admin.renew_credential("acme").await),
        "value_revoked"
    );
    assert_eq!(shown(&admin).await.versions.len(), 2);
}

#[tokio::test]
async fn two_renewals_at_a_time_ask_once() {
    let (_stack, admin, provider) = stack().await;
    made(&admin, new(&provider)).await;
    let renewals = (0..16).map(|_| admin.renew_credential("acme"));
    let renewed = futures::future::join_all(renewals).await;
    let went = renewed.iter().filter(|renewed| renewed.is_ok()).count();
    assert_eq!(provider.forms().len(), 1 + went);
    for refused in renewed.into_iter().filter(Result::is_err) {
        assert_eq!(reason(refused), "renewing");
    }
}

/// While the provider holds a renewal's question, somebody gives another client secret; then it answers.
async fn rotated_meanwhile(admin: &Client, provider: &Provider, late: Manner) -> String {
    provider.answers(Manner::Well);
    provider.holds_next();
    let renewal = tokio::spawn({
        let admin = admin.clone();
        async move { admin.renew_credential("acme").await }
    });
    provider.holding().await;
    let request = v1::RotateCredentialRequest {
        name: "acme".to_owned(),
        refresh_token: "canary-refresh-next".to_owned(),
        ..v1::RotateCredentialRequest::default()
    };
    let secret = SecretString::from("canary-client-next");
    let rotated = admin.rotate_credential(request, &secret).await;
    rotated.expect("rotated");
    provider.answers(late);
    provider.lets_go();
    reason(renewal.await.expect("ended"))
}

#[tokio::test]
async fn a_secret_that_is_given_during_a_renewal_stands() {
    let (_stack, admin, provider) = stack().await;
    let mut request = new(&provider);
    request.refresh_token = "canary-refresh-0000".to_owned();
    if let Some(oauth) = &mut request.oauth {
        oauth.secret_in_form = true;
    }
    made(&admin, request).await;
    for (late, why, version) in [
        (Manner::Refuses, "provider_refused", 2),
        (Manner::Well, "other_version", 4),
    ] {
        assert_eq!(rotated_meanwhile(&admin, &provider, late).await, why);
        let now = shown(&admin).await;
        assert_eq!(now.state(), v1::CredentialState::Ok, "{late:?}");
        assert_eq!(now.versions.len(), version, "{late:?}");
        let obtained_by_rotation = provider.forms().len();
        provider.answers(Manner::Well);
        admin.renew_credential("acme").await.expect("renewed");
        let last = provider.forms().pop().expect("asked");
        assert_eq!(last["client_secret"], "canary-client-next", "{late:?}");
        let next = format!("canary-refresh-{obtained_by_rotation:04}");
        assert_eq!(last["refresh_token"], next, "{late:?}");
    }
}

#[tokio::test]
async fn whoever_goes_away_while_a_provider_is_asked_loses_nothing() {
    let (_stack, admin, provider) = stack().await;
    let mut request = new(&provider);
    request.refresh_token = "canary-refresh-0000".to_owned();
    provider.holds_next();
    let creation = tokio::spawn({
        let admin = admin.clone();
        async move {
            let secret = SecretString::from(CLIENT);
            admin.create_credential(request, &secret).await
        }
    });
    provider.holding().await;
    creation.abort();
    // Behind what says that nobody waits any more.
    assert_eq!(
        reason(admin.get_credential("acme").await),
        "not_found",
        "it is not made yet"
    );
    provider.lets_go();
    eventually("it is made", || async {
        let made = admin.get_credential("acme").await;
        made.map_err(|error| error.to_string())
    })
    .await;

    provider.holds_next();
    let renewal = tokio::spawn({
        let admin = admin.clone();
        async move { admin.renew_credential("acme").await }
    });
    provider.holding().await;
    renewal.abort();
    assert_eq!(shown(&admin).await.versions.len(), 1);
    provider.lets_go();
    eventually("it is renewed", || async {
        let versions = shown(&admin).await.versions.len();
        (versions == 2).then_some(()).ok_or(versions.to_string())
    })
    .await;
    admin.renew_credential("acme").await.expect("renewed");
    let last = provider.forms().pop().expect("asked");
    assert_eq!(last["refresh_token"], "canary-refresh-0002");
}

#[tokio::test]
async fn an_outage_is_survived_and_a_refusal_stops_and_is_told() {
    let (stack, admin, provider) = stack().await;
    made(&admin, new(&provider)).await;
    stack.clock.advance(Duration::from_secs(2_500));
    for manner in [
        Manner::Down,
        Manner::Redirects,
        Manner::Endlessly,
        Manner::Nonsense,
    ] {
        provider.answers(manner);
        let asked = provider.forms().len();
        assert_eq!(stack.sweep().await.failed, 1, "{manner:?}");
        // The next one is told that it is late, and does not ask so soon.
        assert_eq!(stack.sweep().await.failed, 1, "{manner:?}");
        assert_eq!(provider.forms().len(), asked + 1, "{manner:?}");
        let late = shown(&admin).await;
        assert_eq!(late.versions.len(), 1);
        assert_eq!(late.not_obtained_because, "provider_unavailable");
        stack.clock.advance(Duration::from_secs(300));
    }
    provider.answers(Manner::Refuses);
    stack.sweep().await;
    let asked = provider.forms().len();
    stack.sweep().await;
    assert_eq!(provider.forms().len(), asked);
    let broken = shown(&admin).await;
    assert_eq!(broken.state(), v1::CredentialState::Broken);
    assert_eq!(broken.broken_because, "invalid_grant");
    assert_eq!(stack.control.watch().await.expect("watched"), 1);
    let alerts = admin.list_alerts(v1::ListAlertsRequest::default()).await;
    let alert = alerts.expect("listed").alerts.remove(0);
    assert_eq!(
        (alert.rule.as_str(), alert.subject.as_str()),
        ("credential_broken", "credential:acme")
    );
    assert_eq!(alert.numbers["version"], 1);
    assert_eq!(
        reason(admin.renew_credential("acme").await),
        "provider_refused"
    );
    provider.answers(Manner::Well);
    let mended = admin.renew_credential("acme").await.expect("renewed");
    assert_eq!(mended.state(), v1::CredentialState::Ok);
    assert_eq!(mended.versions.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_obtained_is_not_stored() {
    let (stack, admin, provider) = stack().await;
    let secret = SecretString::from(CLIENT);
    provider.answers(Manner::Refuses);
    let refused = admin.create_credential(new(&provider), &secret).await;
    assert_eq!(reason(refused), "provider_refused");
    assert_eq!(reason(admin.get_credential("acme").await), "not_found");
    let mut plain = new(&provider);
    if let Some(oauth) = &mut plain.oauth {
        oauth.token_url = "http://canary.example/token".to_owned();
    }
    let refused = admin.create_credential(plain, &secret).await;
    assert_eq!(reason(refused), "invalid");
    let asked = provider.forms().len();
    let strict = Stack::start().await;
    let refused = strict.admin().await;
    let refused = refused.create_credential(new(&provider), &secret).await;
    assert_eq!(reason(refused), "provider_unavailable");
    assert_eq!(provider.forms().len(), asked);
    drop(stack);
}

#[tokio::test]
async fn a_probe_that_is_refused_changes_nothing_and_keeps_the_refresh_token() {
    let (stack, admin, provider) = stack().await;
    let mut request = new(&provider);
    let origin = provider.url.trim_end_matches("/token").to_owned();
    request.refresh_token = "canary-refresh-0000".to_owned();
    if let Some(oauth) = &mut request.oauth {
        oauth.probe_url = format!("{origin}/probe");
    }
    let secret = SecretString::from(CLIENT);
    let elsewhere = admin.create_credential(request.clone(), &secret).await;
    assert_eq!(reason(elsewhere), "invalid");
    assert!(provider.forms().is_empty());
    request.audiences = vec![origin];
    made(&admin, request).await;
    assert_eq!(provider.probed(), ["Bearer canary-access-0001"]);
    provider.refuses_probes(true);
    stack.clock.advance(Duration::from_secs(2_500));
    stack.sweep().await;
    let broken = shown(&admin).await;
    assert_eq!(broken.broken_because, "probe_refused");
    assert_eq!(broken.versions.len(), 1);
    provider.refuses_probes(false);
    let mended = admin.renew_credential("acme").await.expect("renewed");
    assert_eq!(
        (mended.versions.len(), mended.state()),
        (2, v1::CredentialState::Ok)
    );
    let last = provider.forms().pop().expect("asked");
    assert_eq!(last["refresh_token"], "canary-refresh-0002");
}

#[tokio::test]
async fn a_provider_is_not_asked_for_what_cannot_be_kept() {
    let (_stack, admin, provider) = stack().await;
    let secret = SecretString::from(CLIENT);
    let request = |request_id: &str| v1::CreateCredentialRequest {
        refresh_token: "canary-refresh-0000".to_owned(),
        request_id: request_id.to_owned(),
        ..new(&provider)
    };
    let long = "r".repeat(57);
    let refused = admin.create_credential(request(&long), &secret).await;
    assert_eq!(reason(refused), "invalid");
    assert!(provider.forms().is_empty());
    let first = made(&admin, request("c1")).await;
    assert_eq!(provider.forms().len(), 1);
    let taken = admin.create_credential(request("c2"), &secret).await;
    assert_eq!(reason(taken), "exists");
    assert_eq!(made(&admin, request("c1")).await, first);
    let mut other = request("c1");
    if let Some(oauth) = &mut other.oauth {
        oauth.client_id = "another".to_owned();
    }
    let reused = admin.create_credential(other, &secret).await;
    assert_eq!(reason(reused), "request_reused");
    assert_eq!(provider.forms().len(), 1);

    let rotation = |request_id: &str, if_version| v1::RotateCredentialRequest {
        name: "acme".to_owned(),
        refresh_token: "canary-refresh-given".to_owned(),
        request_id: request_id.to_owned(),
        if_version,
        ..v1::RotateCredentialRequest::default()
    };
    let late = admin.rotate_credential(rotation("r1", Some(3)), &secret);
    assert_eq!(reason(late.await), "other_version");
    let refused = admin.rotate_credential(rotation(&long, None), &secret);
    assert_eq!(reason(refused.await), "invalid");
    assert_eq!(provider.forms().len(), 1);
    for _ in 0..2 {
        let rotated = admin.rotate_credential(rotation("r2", Some(1)), &secret);
        assert_eq!(rotated.await.expect("rotated").versions.len(), 2);
        assert_eq!(provider.forms().len(), 2);
    }
    admin.renew_credential("acme").await.expect("renewed");
    let last = provider.forms().pop().expect("asked");
    assert_eq!(last["refresh_token"], "canary-refresh-0002");
}

/// A request whose credential has its old versions revoked by itself.
fn revoking_old(provider: &Provider) -> v1::CreateCredentialRequest {
    let mut request = new(provider);
    if let Some(oauth) = &mut request.oauth {
        oauth.revoke_old = true;
    }
    request
}

fn states(credential: &v1::Credential) -> Vec<(u32, v1::VersionState)> {
    let versions = credential.versions.iter();
    versions
        .map(|version| (version.version, version.state()))
        .collect()
}

#[tokio::test]
async fn no_provider_is_asked_and_no_version_retired_before_a_restore_is_confirmed() {
    let (stack, admin, provider) = stack().await;
    made(&admin, revoking_old(&provider)).await;
    let rotation = v1::RotateCredentialRequest {
        name: "acme".to_owned(),
        ..v1::RotateCredentialRequest::default()
    };
    let secret = SecretString::from("canary-client-next");
    let rotated = admin.rotate_credential(rotation, &secret).await;
    rotated.expect("rotated");
    stack.tamper("UPDATE epoch SET state = 'restored'");
    let (stack, _other) = stack.twice().await;
    let admin = stack.admin().await;
    let refused = admin.renew_credential("acme").await;
    assert_eq!(reason(refused), "restore_not_confirmed");
    let old = |state| [(2, v1::VersionState::Active), (1, state)];
    for later in [0, 2_500] {
        // First an old version could be revoked, then the next value is due as well.
        stack.clock.advance(Duration::from_secs(later));
        assert_eq!(stack.sweep().await.failed, 1);
        let held = shown(&admin).await;
        assert_eq!(states(&held), old(v1::VersionState::Superseded));
        assert_eq!(held.not_obtained_because, "", "the provider was asked");
    }
    let (namespace, by) = (common::namespace(), id("admin"));
    let settled = stack.vault.settle_restore(&namespace, &by).await;
    assert!(settled.expect("settled").is_some());
    let confirmed = stack.vault.confirm_restore(&namespace, &by, None).await;
    confirmed.expect("confirmed");
    stack.sweep().await;
    let now = shown(&admin).await;
    assert_eq!(states(&now), old(v1::VersionState::Revoked));
    // It may be asked again, but none at such an address.
    assert_eq!(now.not_obtained_because, "provider_unavailable");
}

#[tokio::test]
async fn an_old_version_is_revoked_by_itself_when_no_tree_needs_it() {
    let (stack, admin, provider) = stack().await;
    made(&admin, revoking_old(&provider)).await;
    bound_tree(&admin).await;
    stack.clock.advance(Duration::from_secs(2_500));
    // A node that does not take the next version keeps the old one alive.
    stack.temporal.mood("train", Mood::Deaf);
    stack.sweep().await;
    let behind = [
        (2, v1::VersionState::Active),
        (1, v1::VersionState::Superseded),
    ];
    assert_eq!(states(&shown(&admin).await), behind);
    stack.temporal.mood("train", Mood::Good);
    stack.clock.advance(Duration::from_secs(301));
    stack.sweep().await;
    stack.sweep().await;
    let revoked = [
        (2, v1::VersionState::Active),
        (1, v1::VersionState::Revoked),
    ];
    assert_eq!(states(&shown(&admin).await), revoked);
}

#[tokio::test]
async fn a_workflow_keeps_it_for_as_long_as_there_is_one() {
    let (stack, admin, provider) = stack().await;
    made(&admin, new(&provider)).await;
    let keepers = |stack: &Stack| {
        let starts = stack.temporal.starts().into_iter();
        let kept = starts.filter(|start| start.workflow_type.as_str() == "TokenKeeper");
        kept.map(|start| (start.workflow_id.to_string(), start.input))
            .collect::<Vec<_>>()
    };
    let input = Some(serde_json::json!("acme"));
    let expected = ("xylem-keeper/acme".to_owned(), input);
    assert_eq!(keepers(&stack).first(), Some(&expected));
}

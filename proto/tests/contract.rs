//! What the contract promises about itself.

use std::{collections::BTreeSet, fs, path::Path};
use xylem_proto::v1;

const SECRET: &str = "canary-3f1c0d9a7b";

fn sources() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("xylem/v1");
    fs::read_dir(folder)
        .expect("the contract's folder")
        .map(|entry| fs::read_to_string(entry.expect("an entry").path()).expect("a source"))
        .collect()
}

#[test]
fn a_message_with_a_secret_does_not_print_it() {
    let secret = || SECRET.to_owned();
    let printed = [
        format!(
            "{:?}",
            v1::InitialToken {
                token: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::SetTokenRequest {
                token: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::RotateTokenRequest {
                token: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::InviteAgentResponse {
                secret: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::ChangePasswordRequest {
                password: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::ChangePasswordRequest {
                new_password: secret(),
                ..Default::default()
            }
        ),
        format!("{:?}", v1::EnrolSecondFactorRequest { password: secret() }),
        format!(
            "{:?}",
            v1::EnrolSecondFactorResponse {
                secret: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::EnrolSecondFactorResponse {
                uri: secret(),
                ..Default::default()
            }
        ),
        format!("{:?}", v1::ConfirmSecondFactorRequest { code: secret() }),
        format!(
            "{:?}",
            v1::ConfirmSecondFactorResponse {
                recovery_codes: vec![secret()],
            }
        ),
        format!("{:?}", v1::RemoveSecondFactorRequest { code: secret() }),
        format!(
            "{:?}",
            v1::TakeInRequest {
                token: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::RedeemResponse {
                token: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::CreateCredentialRequest {
                refresh_token: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::CreateCredentialRequest {
                secret: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::RotateCredentialRequest {
                refresh_token: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::RotateCredentialRequest {
                secret: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::RenewRecoveryCodesRequest {
                password: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::RenewRecoveryCodesRequest {
                code: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::RenewRecoveryCodesResponse {
                recovery_codes: vec![secret()],
            }
        ),
        format!(
            "{:?}",
            v1::RevealTokenResponse {
                token: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::CreateApiKeyResponse {
                secret: secret(),
                ..Default::default()
            }
        ),
        format!(
            "{:#?}",
            v1::StartTreeRequest {
                tokens: vec![v1::InitialToken {
                    token: secret(),
                    ..Default::default()
                }],
                ..Default::default()
            }
        ),
    ];
    // One line above per message, and one for what contains them.
    assert_eq!(
        printed.len(),
        v1::SECRET_FIELDS.len() + 1,
        "{:?}",
        v1::SECRET_FIELDS
    );
    for text in printed {
        assert!(
            text.contains("[secret]") && !text.contains(SECRET),
            "{text}"
        );
    }
}

#[test]
fn every_field_named_like_a_secret_is_marked() {
    for source in sources() {
        for line in source.lines().map(str::trim) {
            let named = [
                "string token =",
                "string secret =",
                "string password =",
                "string key =",
            ];
            if named.iter().any(|name| line.contains(name)) {
                assert!(line.contains("[debug_redact = true]"), "{line}");
            }
        }
    }
}

#[test]
fn every_rpc_has_its_own_rest_form() {
    let forms: BTreeSet<_> = v1::Rpc::ALL.iter().map(|rpc| rpc.http()).collect();
    assert_eq!(forms.len(), v1::Rpc::ALL.len());
    let document: serde_json::Value =
        serde_json::from_str(xylem_proto::OPENAPI).expect("the document is JSON");
    for (verb, path) in forms {
        assert!(path.starts_with("/v1/"), "{path}");
        let operation = &document["paths"][path][verb.to_lowercase()];
        assert!(
            operation["summary"].as_str().is_some_and(|s| !s.is_empty()),
            "{verb} {path}"
        );
    }
}

/// Null is no schema and no list of parameters: generators of clients refuse the document.
#[test]
fn nothing_in_the_document_is_null() {
    fn nulls(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Null => found.push(at.to_owned()),
            serde_json::Value::Object(fields) => {
                for (name, field) in fields {
                    nulls(field, &format!("{at}/{name}"), found);
                }
            }
            serde_json::Value::Array(items) => {
                for item in items {
                    nulls(item, at, found);
                }
            }
            _ => {}
        }
    }
    let document = serde_json::from_str(xylem_proto::OPENAPI).expect("the document is JSON");
    let mut found = Vec::new();
    nulls(&document, "", &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn no_two_operations_share_an_id() {
    let document: serde_json::Value =
        serde_json::from_str(xylem_proto::OPENAPI).expect("the document is JSON");
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.values().filter_map(serde_json::Value::as_object);
    let ids: Vec<_> = operations
        .flat_map(|operations| operations.values())
        .map(|operation| operation["operationId"].as_str().expect("an id"))
        .collect();
    assert!(ids.len() > v1::Rpc::ALL.len());
    assert_eq!(
        ids.iter().collect::<BTreeSet<_>>().len(),
        ids.len(),
        "{ids:?}"
    );
}

/// `refreshToken`, as it is called in JSON.
fn json_name(field: &str) -> String {
    let mut parts = field.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let (initial, rest) = part.split_at(1);
        name + &initial.to_uppercase() + rest
    })
}

#[test]
fn the_document_marks_secrets() {
    let document: serde_json::Value =
        serde_json::from_str(xylem_proto::OPENAPI).expect("the document is JSON");
    for (message, field) in v1::SECRET_FIELDS {
        let schema = &document["components"]["schemas"][format!("xylem.v1.{message}")];
        let property = &schema["properties"][json_name(field)];
        assert_eq!(property["format"], "password", "{message}.{field}");
    }
}

#[test]
fn unknown_json_fields_are_refused_by_name() {
    let error = serde_json::from_str::<v1::StopTreeRequest>(r#"{"tree":"t","terminat":true}"#)
        .expect_err("a field of that name does not exist");
    assert!(error.to_string().contains("`terminat`"), "{error}");
}

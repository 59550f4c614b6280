//! The API over HTTP, as its users see it.

use acme_api::{AcmeApi, Behaviour, Encoding, TokenStats};
use reqwest::{Client, Method, Response, StatusCode, redirect::Policy};
use std::error::Error;

type Outcome = Result<(), Box<dyn Error>>;

async fn start() -> Result<AcmeApi, Box<dyn Error>> {
    Ok(AcmeApi::start("127.0.0.1:0".parse()?).await?)
}

async fn call(
    acme: &AcmeApi,
    secret: &str,
    method: Method,
    path: &str,
    body: Option<&str>,
) -> Result<Response, reqwest::Error> {
    let client = Client::builder().redirect(Policy::none()).build()?;
    let request = client
        .request(method, format!("{}{path}", acme.url()))
        .bearer_auth(secret);
    let request = match body {
        Some(body) => request
            .header("content-type", "application/json")
            .body(body.to_owned()),
        None => request,
    };
    request.send().await
}

#[tokio::test]
async fn only_tokens_it_issued_and_did_not_revoke_are_accepted() -> Outcome {
    let acme = start().await?;
    let token = acme.issue("v1");
    let status = |secret: String| {
        let acme = &acme;
        async move { call(acme, &secret, Method::GET, "/v1/status", None).await }
    };
    assert_eq!(status(token.clone()).await?.status(), StatusCode::OK);
    assert_eq!(
        status("acme_other".to_owned()).await?.status(),
        StatusCode::UNAUTHORIZED
    );
    assert!(acme.revoke("v1"));
    assert_eq!(status(token).await?.status(), StatusCode::UNAUTHORIZED);
    let v1 = acme.stats_of("v1");
    assert_eq!((v1.calls, v1.refusals, v1.revoked), (1, 1, true));
    assert_eq!(acme.stats_of("unknown").refusals, 1);
    Ok(())
}

#[tokio::test]
async fn operations_do_their_work() -> Outcome {
    let acme = start().await?;
    let token = acme.issue("v1");
    let deploy = r#"{"service":"web","environment":"staging"}"#;
    let answer = call(&acme, &token, Method::POST, "/v1/deploys", Some(deploy)).await?;
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert!(answer.text().await?.contains("deploy-1"));
    let answer = call(&acme, &token, Method::GET, "/v1/builds/b-7", None).await?;
    assert!(answer.text().await?.contains("b-7"));
    let tests = r#"{"suite":"smoke","build":"b-7"}"#;
    let answer = call(&acme, &token, Method::POST, "/v1/tests", Some(tests)).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    let answer = call(&acme, &token, Method::POST, "/v1/tests", Some("{}")).await?;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    Ok(())
}

#[tokio::test]
async fn it_misbehaves_as_told_and_for_as_long() -> Outcome {
    let acme = start().await?;
    let token = acme.issue("v1");
    let get = async |path: &str| call(&acme, &token, Method::GET, path, None).await;
    acme.behave_times(Some("/v1/status"), Behaviour::Refuse, 1);
    assert_eq!(get("/v1/builds/1").await?.status(), StatusCode::OK);
    assert_eq!(get("/v1/status").await?.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(get("/v1/status").await?.status(), StatusCode::OK);
    let v1 = acme.stats_of("v1");
    assert_eq!((v1.calls, v1.refusals), (2, 1));

    let retry_after = Some(7);
    acme.behave(None, Behaviour::Throttle { retry_after });
    let answer = get("/v1/status").await?;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()["retry-after"], "7");

    acme.behave(None, Behaviour::Status { status: 500 });
    assert_eq!(get("/v1/status").await?.status().as_u16(), 500);

    let location = "http://127.0.0.1:9/".to_owned();
    acme.behave(None, Behaviour::Redirect { location });
    assert_eq!(get("/v1/status").await?.status().as_u16(), 307);

    let (bytes, gzip) = (100_000, true);
    acme.behave(None, Behaviour::Large { bytes, gzip });
    assert_eq!(get("/v1/status").await?.bytes().await?.len(), bytes);

    acme.behave_well();
    assert_eq!(get("/v1/status").await?.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn an_echo_reflects_the_token() -> Outcome {
    let acme = start().await?;
    let token = acme.issue("v1");
    for encoding in Encoding::ALL {
        let status = 200;
        acme.behave(None, Behaviour::Echo { encoding, status });
        let answer = call(&acme, &token, Method::GET, "/v1/status", None).await?;
        let header = answer.headers()["x-echo-authorization"]
            .to_str()?
            .to_owned();
        assert!(header.ends_with(&token));
        let body = answer.text().await?;
        let plain = matches!(encoding, Encoding::Plain | Encoding::Gzip);
        assert_eq!(body.contains(&token), plain, "{encoding:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_admin_surface_needs_its_key() -> Outcome {
    let acme = start().await?;
    let key = acme.admin_key().to_owned();
    let label = Some(r#"{"label":"v1"}"#);
    let refused = call(&acme, "wrong", Method::POST, "/admin/tokens", label).await?;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let issued = call(&acme, &key, Method::POST, "/admin/tokens", label).await?;
    let token = issued.text().await?;

    let behaviour = Some(r#"{"do":"throttle","retry_after":2,"path":"/v1/status","times":1}"#);
    let set = call(&acme, &key, Method::PUT, "/admin/behaviour", behaviour).await?;
    assert_eq!(set.status(), StatusCode::NO_CONTENT);
    let answer = call(&acme, &token, Method::GET, "/v1/status", None).await?;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    let ended = call(&acme, &key, Method::DELETE, "/admin/behaviour", None).await?;
    assert_eq!(ended.status(), StatusCode::NO_CONTENT);

    let revoked = call(&acme, &key, Method::DELETE, "/admin/tokens/v1", None).await?;
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
    let stats = call(&acme, &key, Method::GET, "/admin/tokens", None).await?;
    let stats: Vec<TokenStats> = stats.json().await?;
    assert_eq!(stats[0].label, "v1");
    assert!(stats[0].revoked);
    Ok(())
}

//! Tokens: who is asked, how often, and what a refusal says.

use azure_core::http::{Body, Method, Request, Url};
use collect::http::Endpoint;
use secrecy::SecretString;
use serde_json::json;

use super::replay::{answer, gate};
use super::small::*;
use crate::transport::{client, send};
use crate::*;

#[tokio::test]
async fn a_token_is_fetched_once_and_used_until_it_is_about_to_end() {
    let (base, asked) = azure(|_| None).await;
    let source = source(settings(&base, &[ONE]), 3).await;
    told_of(&source).await;
    told_of(&source).await;
    let tokens = |asked: &Log| {
        let asked = asked.lock().unwrap();
        asked.iter().filter(|asked| **asked == Asked::Token).count()
    };
    assert_eq!(tokens(&asked), 1);

    // One that ends within five minutes is not used again.
    let (base, asked) = azure(|asked| {
        (*asked == Asked::Token).then(|| {
            let token = json!({"access_token": "canary-token", "expires_in": 299});
            answer(200, &token)
        })
    })
    .await;
    let source = self::source(settings(&base, &[ONE]), 3).await;
    told_of(&source).await;
    // The first, and one for each of three calls.
    assert_eq!(tokens(&asked), 4);
}

#[tokio::test]
async fn a_refused_secret_says_so_before_any_sweep_and_nothing_else_is_tried() {
    for (status, body, want) in [
        (
            401,
            json!({"error": "invalid_client", "error_description": "canary"}),
            "no usable credentials: token answered invalid_client",
        ),
        (
            400,
            json!({"error": "Canary text"}),
            "no usable credentials: token answered http_400",
        ),
        (
            200,
            json!({"token": "canary"}),
            "no usable credentials: the token answer has another shape",
        ),
        (
            200,
            json!({"access_token": "canary\n", "expires_in": 60}),
            "no usable credentials: the token is not one that a header can carry",
        ),
    ] {
        let (base, asked) = azure(move |_| Some(answer(status, &body))).await;
        let secret = Some(SecretString::from("canary-secret"));
        let refused = Azure::connect(settings(&base, &[ONE]), secret).await;
        assert_eq!(refused.unwrap_err().to_string(), want);
        assert_eq!(*asked.lock().unwrap(), [Asked::Token]);
    }
}

#[tokio::test]
async fn a_source_connects_and_shows_neither_secret_nor_token() {
    let (base, _) = azure(|_| None).await;
    let secret = Some(SecretString::from("canary-secret"));
    let source = Azure::connect(settings(&base, &[ONE]), secret).await;
    let source = source.unwrap();
    assert!(!format!("{source:?}").contains("canary"));
    assert_eq!(source.types(), TYPES.map(|(name, _)| name));
}

#[tokio::test]
async fn a_secret_over_tls_goes_to_the_directory_and_not_to_the_endpoint() {
    // An https endpoint is a gateway for the API alone: nothing is sent there for a token.
    let endpoint = Endpoint::parse("https://gate.example").unwrap();
    let tokens = Tokens::of(
        "contoso.example".to_owned(),
        APPLICATION.to_owned(),
        SecretString::from("canary-secret"),
        &endpoint,
    );
    assert!(matches!(tokens, Ok(Tokens::Credential(_))));
}

#[tokio::test]
async fn the_sdks_requests_arrive_as_they_were_made() {
    let rule = |request: &http::Request<bytes::Bytes>| {
        assert_eq!(request.method(), "POST");
        assert_eq!(request.uri(), "/t?x=1");
        assert_eq!(request.headers()["x-identity-header"], "canary");
        let mut answer = answer(418, &json!({"echo": request.body().len()}));
        let headers = answer.headers_mut();
        headers.insert("retry-after", "7".parse().unwrap());
        Some(answer)
    };
    let base = gate("http://127.0.0.1:1", Box::new(rule)).await;
    let url = Url::parse(&format!("{base}/t?x=1")).unwrap();
    let mut request = Request::new(url, Method::Post);
    request.insert_header("x-identity-header", "canary");
    request.set_body(Body::from("four"));
    let answer = send(&client().unwrap(), &request).await.unwrap();
    assert_eq!(u16::from(answer.status()), 418);
    let name = azure_core::http::headers::HeaderName::from("retry-after");
    assert_eq!(answer.headers().get_str(&name).unwrap(), "7");
    let body = answer.try_into_raw_response().await.unwrap();
    assert_eq!(body.body().as_ref(), br#"{"echo":4}"#);
}

#[tokio::test]
async fn nobody_at_a_token_address_is_an_error_of_the_transport() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let request = Request::new(Url::parse(&base).unwrap(), Method::Get);
    let error = send(&client().unwrap(), &request).await.unwrap_err();
    assert!(
        matches!(error.kind(), azure_core::error::ErrorKind::Io),
        "{error}"
    );
}

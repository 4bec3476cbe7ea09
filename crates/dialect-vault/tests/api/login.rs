//! Logging in, from both ends: the client that polls and the browser that returns.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::common::{House, house, query_of};
use super::{DENIED, UNSUPPORTED, text};

/// What htgettoken does at its first login, step by step.
#[tokio::test]
async fn first_login_of_htgettoken() {
    let house = house().await;
    let started = house.send("POST", "/v1/auth/oidc-dune/oidc/auth_url", &[], r#"{"role":"default","client_nonce":"n","redirect_uri":"https://vault.example.org:8200/v1/auth/oidc-dune/oidc/callback"}"#).await;
    assert_eq!(started.status, 200, "{}", started.text);
    let data = &started.json["data"];
    assert_eq!(data["auth_url"], "https://issuer.example.org/device");
    assert_eq!(data["user_code"], "ABCD-EFGH");
    assert_eq!(data["poll_interval"], "3", "a text that holds a number");
    let state = text(data, "/state").to_owned();

    let poll = json!({"state": state, "client_nonce": "n"});
    let pending = house
        .call("POST", "auth/oidc-dune/oidc/poll", None, poll.clone())
        .await;
    assert_eq!(
        (pending.status, pending.error()),
        (400, "authorization_pending")
    );
    house.issuer.device_done.store(true, Ordering::SeqCst);
    house.clock.pass(Duration::from_secs(10));
    let done = house
        .call("POST", "auth/oidc-dune/oidc/poll", None, poll.clone())
        .await;
    assert_eq!(done.status, 200, "{}", done.text);
    let auth = &done.json["auth"];
    assert_eq!(auth["policies"], json!(["oidc-dune_default", "tokenops"]));
    assert_eq!(auth["token_policies"], auth["policies"]);
    assert_eq!(auth["metadata"]["credkey"], "alice");
    assert_eq!(auth["metadata"]["role"], "default");
    assert!(
        text(auth, "/metadata/oauth2_refresh_token").starts_with("gkh."),
        "a handle, not a refresh token"
    );
    assert_eq!(auth["lease_duration"], 2_419_200);
    assert_eq!(
        (
            &auth["renewable"],
            &auth["orphan"],
            &auth["token_type"],
            &auth["num_uses"]
        ),
        (&json!(true), &json!(true), &json!("service"), &json!(0))
    );
    assert!(
        done.text.contains(r#""auth":{"client_token":"hvs."#),
        "{}",
        done.text
    );
    assert!(
        !done.text.contains("canary-refresh"),
        "the refresh token stays here"
    );
    let again = house
        .call("POST", "auth/oidc-dune/oidc/poll", None, poll)
        .await;
    assert_eq!(
        (again.status, again.error()),
        (400, "OpenBao login failed. Expired or missing OAuth state.")
    );

    // The login token is exchanged for a child, the handle stored with it, and the access token read.
    let login = text(auth, "/client_token");
    let child = house.call("POST", "auth/token/create", Some(login), json!({"ttl": "604800s", "renewable": "false", "policies": ["oidc-dune_default", "tokenops"]})).await;
    assert_eq!(child.status, 200, "{}", child.text);
    assert_eq!(child.json["data"], Value::Null);
    assert_eq!(child.json["auth"]["lease_duration"], 604_800);
    assert_eq!(child.json["auth"]["renewable"], false);
    assert_eq!(
        child.json["auth"]["metadata"],
        Value::Null,
        "never inherited"
    );
    let child = text(&child.json, "/auth/client_token").to_owned();
    let handle = text(auth, "/metadata/oauth2_refresh_token");
    let path = "secret/oauth/creds/dune/alice:default";
    let stored = house
        .call(
            "POST",
            path,
            Some(&child),
            json!({"server": "dune", "refresh_token": handle}),
        )
        .await;
    assert_eq!((stored.status, stored.text.as_str()), (204, ""));
    let read = house
        .get(&format!("{path}?minimum_seconds=60"), &child)
        .await;
    assert_eq!(read.status, 200, "{}", read.text);
    assert_eq!(read.json["data"]["server"], "dune");
    assert_eq!(read.json["data"]["type"], "Bearer");
    assert!(text(&read.json, "/data/access_token").starts_with("canary-access-"));
    assert_eq!(
        text(&read.json, "/data/expire_time"),
        "2026-07-31T13:13:30Z"
    );
    let keys: Vec<&str> = [
        "request_id",
        "lease_id",
        "renewable",
        "lease_duration",
        "data",
        "wrap_info",
        "warnings",
        "auth",
    ]
    .to_vec();
    let places: Vec<usize> = keys
        .iter()
        .map(|key| read.text.find(&format!("\"{key}\":")).unwrap())
        .collect();
    assert!(places.is_sorted(), "{}", read.text);
    assert_eq!(
        house
            .get(&format!("{path}?minimum_seconds=60"), &child)
            .await
            .json["data"],
        read.json["data"],
        "the same token again"
    );
    assert!(
        house.issuer.refreshed.lock().unwrap().is_empty(),
        "no refresh was needed for any of this"
    );
}

#[tokio::test]
async fn login_errors_have_their_texts() {
    let house = house().await;
    for (issuer, body, status, expected) in [
        (
            "dune",
            json!({"role": "nosuch", "client_nonce": "n"}),
            400,
            "role \"nosuch\" could not be found",
        ),
        (
            "dune",
            json!({"role": "Default"}),
            400,
            "missing client_nonce",
        ),
        (
            "cms",
            json!({"client_nonce": "n"}),
            400,
            "missing redirect_uri",
        ),
    ] {
        let answer = house
            .call(
                "PUT",
                &format!("auth/oidc-{issuer}/oidc/auth_url"),
                None,
                body,
            )
            .await;
        assert_eq!((answer.status, answer.error()), (status, expected));
    }
    let unknown = house
        .call(
            "POST",
            "auth/oidc-nosuch/oidc/auth_url",
            None,
            json!({"client_nonce": "n"}),
        )
        .await;
    assert_eq!(unknown.status, 400);
    assert!(
        unknown.error().contains("nosuch") && !unknown.text.contains(DENIED),
        "{}",
        unknown.text
    );
    let foreign = house
        .call(
            "POST",
            "auth/oidc-cms/oidc/auth_url",
            None,
            json!({"client_nonce": "n", "redirect_uri": "https://evil.example.org/"}),
        )
        .await;
    assert_eq!(
        (foreign.status, &foreign.json["data"]["auth_url"]),
        (200, &json!(""))
    );
    assert!(
        foreign.json["warnings"][0]
            .as_str()
            .unwrap()
            .contains("vault.example.org:8200"),
        "it says which address is allowed"
    );

    let started = house
        .call(
            "POST",
            "auth/oidc-dune/oidc/auth_url",
            None,
            json!({"client_nonce": "n"}),
        )
        .await;
    let state = text(&started.json, "/data/state").to_owned();
    let wrong = house
        .call(
            "POST",
            "auth/oidc-dune/oidc/poll",
            None,
            json!({"state": state, "client_nonce": "other"}),
        )
        .await;
    assert_eq!((wrong.status, wrong.error()), (400, "invalid client_nonce"));
    let gone = house
        .call(
            "POST",
            "auth/oidc-dune/oidc/poll",
            None,
            json!({"state": state, "client_nonce": "n"}),
        )
        .await;
    assert_eq!(
        (gone.status, gone.error()),
        (400, "OpenBao login failed. Expired or missing OAuth state.")
    );
    assert_eq!(
        house
            .call("GET", "auth/oidc-dune/oidc/poll", None, Value::Null)
            .await
            .error(),
        UNSUPPORTED
    );
    assert_eq!(
        house
            .call(
                "POST",
                "auth/oidc-dune/login",
                None,
                json!({"role": "default", "jwt": "x"})
            )
            .await
            .error(),
        "role with oidc role_type is not allowed"
    );
}

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

async fn begin(house: &House, issuer: &str) -> String {
    let redirect = format!("https://vault.example.org:8200/v1/auth/oidc-{issuer}/oidc/callback");
    let started = house
        .call(
            "POST",
            &format!("auth/oidc-{issuer}/oidc/auth_url"),
            None,
            json!({"client_nonce": "n", "redirect_uri": redirect}),
        )
        .await;
    assert_eq!(started.status, 200, "{}", started.text);
    query_of(text(&started.json, "/data/auth_url"))["state"].clone()
}

/// The values of the confirmation form.
fn form_of(html: &str) -> String {
    let fields = html
        .split("<input type=\"hidden\" name=\"")
        .skip(1)
        .map(|rest| {
            let (name, rest) = rest.split_once("\" value=\"").unwrap();
            format!("{name}={}", rest.split_once('"').unwrap().0)
        });
    fields.collect::<Vec<_>>().join("&")
}

#[tokio::test]
async fn a_browser_confirms_by_form() {
    let house = house().await;
    let state = begin(&house, "cms").await;
    let address = format!("/v1/auth/oidc-cms/oidc/callback?state={state}&code=the-code");
    let page = house.send("GET", &address, &[BROWSER], "").await;
    assert_eq!(page.status, 200);
    assert!(
        page.text.contains("192.0.2.7")
            && page.text.contains("cms")
            && page.text.contains("Did you start this login?"),
        "{}",
        page.text
    );
    assert_eq!(page.headers["x-frame-options"], "DENY");
    assert!(
        page.headers["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("default-src 'none'")
    );
    let poll = || {
        house.call(
            "POST",
            "auth/oidc-cms/oidc/poll",
            None,
            json!({"state": state, "client_nonce": "n"}),
        )
    };
    assert_eq!(poll().await.error(), "authorization_pending");

    let form = form_of(&page.text);
    let posted = |form: String| {
        let house = &house;
        async move {
            house
                .send(
                    "POST",
                    "/v1/auth/oidc-cms/oidc/callback",
                    &[
                        BROWSER,
                        ("content-type", "application/x-www-form-urlencoded"),
                    ],
                    form,
                )
                .await
        }
    };
    let forged = posted(form.replace("code=the-code", "code=another")).await;
    assert_eq!(forged.status, 400, "a token for another code");
    let bare = posted(format!("state={state}&code=the-code&confirmation=1")).await;
    assert!(
        bare.status == 200 && bare.text.contains("Did you start"),
        "a form without token is only asked again"
    );
    let done = posted(form.clone()).await;
    assert_eq!(done.status, 200, "{}", done.text);
    assert!(
        done.text.contains("Login complete") && done.text.contains("alice"),
        "{}",
        done.text
    );
    let logged_in = poll().await;
    assert_eq!(logged_in.status, 200, "{}", logged_in.text);
    let late = posted(form).await;
    assert_eq!(late.status, 400);
    assert!(late.text.contains("This login is over"), "{}", late.text);
    let program = house.send("GET", &address, &[], "").await;
    assert_eq!(
        (program.status, program.error()),
        (400, "OpenBao login failed. Expired or missing OAuth state.")
    );
}

#[tokio::test]
async fn the_old_confirmation_link_and_no_confirmation() {
    let house = house().await;
    let state = begin(&house, "cms").await;
    let done = house
        .send(
            "GET",
            &format!("/v1/auth/oidc-cms/oidc/callback?state={state}&code=c&confirmation=1"),
            &[BROWSER],
            "",
        )
        .await;
    assert!(done.text.contains("Login complete"), "{}", done.text);
    let state = begin(&house, "icecube").await;
    let done = house
        .send(
            "GET",
            &format!("/v1/auth/oidc-icecube/oidc/callback?state={state}&code=c"),
            &[BROWSER],
            "",
        )
        .await;
    assert!(done.text.contains("Login complete"), "{}", done.text);
    assert_eq!(
        house
            .send(
                "DELETE",
                &format!("/v1/auth/oidc-icecube/oidc/callback?state={state}"),
                &[],
                ""
            )
            .await
            .status,
        405
    );
}

#[tokio::test]
async fn a_denial_reaches_the_browser_and_the_poller() {
    let house = house().await;
    let state = begin(&house, "cms").await;
    let page = house.send("GET", &format!("/v1/auth/oidc-cms/oidc/callback?state={state}&error=access_denied&error_description=%3Cb%3Eno%3C/b%3E"), &[BROWSER], "").await;
    assert_eq!(page.status, 400);
    assert!(
        page.text.contains("Login refused") && !page.text.contains("<b>"),
        "{}",
        page.text
    );
    let poll = house
        .call(
            "POST",
            "auth/oidc-cms/oidc/poll",
            None,
            json!({"state": state, "client_nonce": "n"}),
        )
        .await;
    assert_eq!(
        (poll.status, poll.error()),
        (400, "authorization failed: access_denied")
    );
}

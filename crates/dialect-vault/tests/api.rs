//! The API as clients meet it, over a real keeper: statuses, texts and shapes they depend on.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{House, NOW, house, query_of};
use gridkeep_issuer::{IssuerError, Sent};
use serde_json::{Value, json};

const DENIED: &str = "permission denied";
const DENIED_BY_POLICY: &str = "1 error occurred:\n\t* permission denied\n\n";
const UNSUPPORTED: &str = "1 error occurred:\n\t* unsupported operation\n\n";

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no text at {pointer} in {value}"))
}

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

#[tokio::test]
async fn kerberos_lets_its_clients_go_on() {
    let house = house().await;
    let headers = [
        ("authorization", "Negotiate YIIF"),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    let answer = house
        .send("POST", "/v1/auth/kerberos-dune_default/login", &headers, "")
        .await;
    assert_eq!((answer.status, &answer.json["auth"]), (200, &Value::Null));
    assert_eq!(answer.json["warnings"].as_array().unwrap().len(), 1);
    assert!(!answer.text.contains(DENIED));
}

#[tokio::test]
async fn refusals_are_exact() {
    let house = house().await;
    let path = "secret/oauth/creds/dune/alice:default";
    let refused = |status: u16, text: &str, answer: common::Answer| {
        assert_eq!(
            (answer.status, answer.error()),
            (status, text),
            "{}",
            answer.text
        );
    };
    refused(
        403,
        DENIED,
        house.call("GET", path, None, Value::Null).await,
    );
    refused(403, DENIED, house.get(path, "hvs.guess").await);
    refused(403, DENIED, house.get("nosuch/mount", "s.guess").await);
    refused(
        403,
        DENIED,
        house.call("GET", "nosuch/mount", None, Value::Null).await,
    );
    refused(
        403,
        DENIED,
        house
            .send(
                "GET",
                "/v1/auth/token/lookup-self",
                &[("authorization", "Negotiate abc")],
                "",
            )
            .await,
    );

    let alice = house.log_in("alice").await;
    let alice = text(&alice, "/client_token");
    assert_eq!(house.get(path, alice).await.status, 200);
    assert_eq!(
        house
            .send(
                "GET",
                &format!("/v1/{path}"),
                &[("authorization", &format!("bearer {alice}"))],
                ""
            )
            .await
            .status,
        200
    );
    let both = [
        ("x-vault-token", "hvs.guess"),
        ("authorization", &format!("Bearer {alice}") as &str),
    ];
    refused(
        403,
        DENIED,
        house.send("GET", &format!("/v1/{path}"), &both, "").await,
    );
    refused(
        403,
        DENIED_BY_POLICY,
        house
            .get("secret/oauth/creds/dune/bob:default", alice)
            .await,
    );
    refused(
        403,
        DENIED_BY_POLICY,
        house
            .get("secret/oauth/creds/dune/alice2:default", alice)
            .await,
    );
    refused(
        403,
        DENIED_BY_POLICY,
        house
            .get("secret/oauth/creds/dune/alice:production", alice)
            .await,
    );
    refused(
        403,
        DENIED_BY_POLICY,
        house.get("sys/policies/acl/tokenops", alice).await,
    );
    // A name that cannot be is bad input, and never the words that delete tokens.
    for (path, part) in [
        ("secret/oauth/creds/nosuch/alice:default", "nosuch"),
        ("secret/oauth/creds/dune/alice:nosuch", "nosuch"),
    ] {
        let answer = house.get(path, alice).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(
            answer.error().contains(part) && !answer.text.contains(DENIED),
            "{}",
            answer.text
        );
    }
    let operator = house.operator().await;
    refused(
        404,
        "no handler for route \"nosuch/mount\". route entry not found.",
        house.get("nosuch/mount", &operator).await,
    );
    let absent = house
        .get("secret/oauth/creds/dune/alice/cron/host:default", alice)
        .await;
    assert_eq!(
        (absent.status, absent.text.trim_end()),
        (404, r#"{"errors":[]}"#)
    );
    refused(
        405,
        UNSUPPORTED,
        house
            .call("GET", "auth/token/create", Some(&operator), Value::Null)
            .await,
    );

    assert_eq!(
        house
            .call("POST", "auth/token/revoke-self", Some(alice), Value::Null)
            .await
            .status,
        204
    );
    refused(403, DENIED, house.get(path, alice).await);
    let bob = house.log_in("bob").await;
    house.clock.pass(Duration::from_secs(2_419_200 + 300));
    refused(
        403,
        DENIED,
        house
            .get(
                "secret/oauth/creds/dune/bob:default",
                text(&bob, "/client_token"),
            )
            .await,
    );
}

#[tokio::test]
async fn credentials_are_read_narrowed_listed_and_deleted() {
    let house = house().await;
    let auth = house.log_in("alice").await;
    let token = text(&auth, "/client_token");
    let creds = "secret/oauth/creds/dune/alice:default";
    let sts = "secret/oauth/sts/dune/alice:default";
    let wide = house.get(creds, token).await.json["data"].clone();

    // The same narrowing by either path, separated by commas, blanks or repetition, in the order given.
    let narrow = house
        .get(&format!("{sts}?scopes=b,a+c&audiences=x%20y"), token)
        .await;
    assert_eq!(narrow.status, 200, "{}", narrow.text);
    assert!(narrow.json["data"].get("server").is_none());
    assert_ne!(narrow.json["data"]["access_token"], wide["access_token"]);
    {
        let exchanges = house.issuer.exchanges.lock().unwrap();
        assert_eq!(
            (&exchanges[0].scopes[..], &exchanges[0].audiences[..]),
            (
                &["b".to_owned(), "a".into(), "c".into()][..],
                &["x".to_owned(), "y".into()][..]
            )
        );
    }
    for path in [
        format!("{creds}?scopes=b,a,c&audience=x,y"),
        format!("{creds}?scopes=b+a+c&audiences=x&audiences=y"),
        format!("{sts}?scopes=b,a,c&audiences=x,y&minimum_seconds=60"),
    ] {
        assert_eq!(
            house.get(&path, token).await.json["data"],
            narrow.json["data"],
            "{path}"
        );
    }
    for (path, audience) in [
        (format!("{creds}?audience=z"), "z"),
        (format!("{creds}?scopes=q"), ""),
    ] {
        let answer = house.get(&path, token).await;
        assert_ne!(
            answer.json["data"]["access_token"], wide["access_token"],
            "{path}: a narrowing request never gets the wide token"
        );
        assert_eq!(
            house
                .issuer
                .exchanges
                .lock()
                .unwrap()
                .last()
                .unwrap()
                .audiences
                .join(""),
            audience
        );
    }
    let warned = house
        .get(&format!("{creds}?min_seconds=5&name=x"), token)
        .await;
    assert_eq!(
        warned.json["warnings"][0],
        "Endpoint ignored these unrecognized parameters: [min_seconds]"
    );
    assert_eq!(
        house
            .get(&format!("{creds}?minimum_seconds=x"), token)
            .await
            .error()
            .split(": ")
            .next(),
        Some("Field validation failed")
    );
    assert_eq!(
        house.call("POST", sts, Some(token), json!({})).await.status,
        403,
        "the policy is asked before the operation is looked for"
    );
    let operator = house.operator().await;
    assert_eq!(
        house
            .call(
                "PUT",
                "secret/oauth/creds/dune/",
                Some(&operator),
                json!({})
            )
            .await
            .error(),
        "cannot write to a path ending in '/'"
    );

    // A robot's name for the same login.
    let robot = "secret/oauth/creds/dune/alice/cron/host.example.org:default";
    let handle = text(&auth, "/metadata/oauth2_refresh_token");
    assert_eq!(
        house
            .call(
                "PUT",
                robot,
                Some(token),
                json!({"server": "dune", "refresh_token": handle})
            )
            .await
            .status,
        204
    );
    for (body, expected) in [
        (
            json!({"refresh_token": handle}),
            "missing server (consider configuring a default server)",
        ),
        (json!({"server": "dune"}), "missing refresh_token"),
        (
            json!({"server": "dune", "refresh_token": "gkh.unknown"}),
            "the refresh token handle is unknown, belongs to another login or is older than 15 minutes; log in again",
        ),
        (
            json!({"server": "dune", "grant_type": "authorization_code", "refresh_token": "x"}),
            "unknown grant_type \"authorization_code\"; this server stores refresh tokens only",
        ),
    ] {
        let answer = house.call("POST", robot, Some(token), body).await;
        assert_eq!((answer.status, answer.error()), (400, expected));
    }
    assert_eq!(
        house
            .call(
                "POST",
                robot,
                Some(token),
                json!({"server": "cms", "refresh_token": "x"})
            )
            .await
            .error(),
        DENIED_BY_POLICY
    );

    house.log_in("bob").await;
    for (method, path) in [
        ("LIST", "secret/oauth/creds/dune"),
        ("LIST", "secret/oauth/creds/dune/"),
        ("GET", "secret/oauth/creds/dune/?list=True"),
    ] {
        let listed = house.call(method, path, Some(token), Value::Null).await;
        assert_eq!(
            listed.json["data"]["keys"],
            json!(["alice/cron/host.example.org:default", "alice:default"]),
            "{}",
            listed.text
        );
    }
    assert_eq!(
        house
            .call(
                "LIST",
                "secret/oauth/creds/dune/alice",
                Some(token),
                Value::Null
            )
            .await
            .json["data"]["keys"],
        json!(["cron/host.example.org:default"])
    );
    assert_eq!(
        house
            .call("LIST", "secret/oauth/creds/cms", Some(token), Value::Null)
            .await
            .status,
        404,
        "an empty list is nothing"
    );

    assert_eq!(
        house
            .call(
                "DELETE",
                &format!("{sts}?minimum_seconds=60&scopes=a"),
                Some(token),
                Value::Null
            )
            .await
            .status,
        204
    );
    assert_eq!(house.get(creds, token).await.status, 404);
    assert_eq!(
        house
            .call("DELETE", creds, Some(token), Value::Null)
            .await
            .status,
        204,
        "also when absent"
    );
    assert_eq!(
        house.get(robot, token).await.status,
        200,
        "the other name lives"
    );
    assert_eq!(
        house
            .call(
                "DELETE",
                "secret/oauth/sts/dune/bob:default",
                Some(token),
                Value::Null
            )
            .await
            .error(),
        DENIED_BY_POLICY
    );
}

#[tokio::test]
async fn trouble_at_the_issuer_never_sounds_final() {
    let house = house().await;
    let auth = house.log_in("alice").await;
    let token = text(&auth, "/client_token");
    let creds = "secret/oauth/creds/dune/alice:default";
    house.clock.pass(Duration::from_secs(3590));
    *house.issuer.refuse.lock().unwrap() = Some(IssuerError::Temporary {
        what: "connect: permission denied by a firewall".into(),
        sent: Sent::No,
        retry_after: None,
    });
    let down = house
        .get(&format!("{creds}?minimum_seconds=60"), token)
        .await;
    assert_eq!(down.status, 503, "{}", down.text);
    assert!(!down.text.to_lowercase().contains(DENIED), "{}", down.text);
    house.clock.pass(Duration::from_secs(600));
    *house.issuer.refuse.lock().unwrap() = Some(IssuerError::Refused {
        status: 400,
        error: "invalid_grant".into(),
        description: Some("Permission denied: token revoked".into()),
        uri: None,
    });
    let dead = house.get(creds, token).await;
    assert_eq!(dead.status, 400, "{}", dead.text);
    assert!(
        dead.error()
            .starts_with("refresh failed: server rejected request: invalid_grant"),
        "{}",
        dead.text
    );
    assert!(
        dead.error().contains("log in again") && !dead.text.to_lowercase().contains(DENIED),
        "{}",
        dead.text
    );
}

#[tokio::test]
async fn tokens_are_made_looked_up_renewed_and_revoked() {
    let house = house().await;
    let auth = house.log_in("alice").await;
    let login = text(&auth, "/client_token");
    let found = house.get("auth/token/lookup-self", login).await.json["data"].clone();
    assert_eq!(found["id"], login);
    assert_eq!(found["accessor"], auth["accessor"]);
    assert_eq!(found["path"], "auth/oidc-dune/oidc/poll");
    assert_eq!(found["display_name"], "oidc-dune-alice");
    assert_eq!(found["ttl"], 2_419_200);
    assert_eq!(found["expire_time"], "2026-08-28T12:13:24.000000000Z");
    assert_eq!(
        found["meta"],
        json!({"credkey": "alice", "role": "default"}),
        "no secret in there"
    );
    for key in [
        "creation_time",
        "creation_ttl",
        "explicit_max_ttl",
        "num_uses",
    ] {
        assert!(found[key].is_u64(), "{key}: {found}");
    }
    for (body, expected) in [
        (
            json!({"policies": "operator,tokenops"}),
            "child policies must be subset of parent",
        ),
        (
            json!({"policies": ["root"]}),
            "root tokens may not be created without parent token being root",
        ),
        (
            json!({"period": "1h"}),
            "root or sudo privileges required to create periodic token",
        ),
        (
            json!({"no_parent": true}),
            "root or sudo privileges required to create orphan token",
        ),
        (
            json!({"id": "s.mine"}),
            "root or sudo privileges required to specify token id",
        ),
    ] {
        let answer = house
            .call("POST", "auth/token/create", Some(login), body)
            .await;
        assert_eq!((answer.status, answer.error()), (400, expected));
    }
    assert!(
        house
            .call(
                "POST",
                "auth/token/create",
                Some(login),
                json!({"ttl": "soon"})
            )
            .await
            .error()
            .starts_with("Field validation failed: ")
    );
    assert_eq!(
        house
            .call("POST", "auth/token/renew-self", Some(login), json!({}))
            .await
            .error(),
        DENIED_BY_POLICY,
        "tokenops does not grant it"
    );

    let operator = house.operator().await;
    let made = house.call("POST", "auth/token/create-orphan", Some(&operator), json!({"policies": ["default"], "ttl": "1h", "meta": {"why": "test"}, "display_name": "my robot"})).await;
    assert_eq!(made.status, 200, "{}", made.text);
    let (secret, accessor) = (
        text(&made.json, "/auth/client_token"),
        text(&made.json, "/auth/accessor"),
    );
    assert_eq!(
        (&made.json["auth"]["orphan"], &made.json["auth"]["metadata"]),
        (&json!(true), &json!({"why": "test"}))
    );
    let renewed = house
        .call(
            "POST",
            "auth/token/renew-self",
            Some(secret),
            json!({"increment": "2h"}),
        )
        .await;
    assert_eq!(
        (renewed.status, &renewed.json["auth"]["lease_duration"]),
        (200, &json!(7200)),
        "{}",
        renewed.text
    );
    assert_eq!(renewed.json["auth"]["client_token"], secret);
    let by_accessor = house
        .call(
            "POST",
            "auth/token/lookup-accessor",
            Some(&operator),
            json!({"accessor": accessor}),
        )
        .await;
    assert_eq!(
        (
            &by_accessor.json["data"]["id"],
            &by_accessor.json["data"]["display_name"]
        ),
        (&json!(""), &json!("token-my-robot"))
    );
    assert!(by_accessor.json["data"]["last_renewal_time"].is_i64());
    assert_eq!(
        house
            .call(
                "POST",
                "auth/token/lookup",
                Some(&operator),
                json!({"token": secret})
            )
            .await
            .json["data"]["id"],
        secret
    );
    assert_eq!(
        house
            .call("POST", "auth/token/lookup", Some(&operator), json!({}))
            .await
            .json["data"]["id"],
        operator.as_str(),
        "empty means one's own"
    );
    let unknown = house
        .call(
            "POST",
            "auth/token/lookup",
            Some(&operator),
            json!({"token": "s.unknown"}),
        )
        .await;
    assert_eq!((unknown.status, unknown.error()), (403, "bad token"));
    let keys = house
        .call("LIST", "auth/token/accessors", Some(&operator), Value::Null)
        .await;
    assert!(
        keys.json["data"]["keys"]
            .as_array()
            .unwrap()
            .contains(&json!(accessor))
    );
    for (path, body, expected) in [
        ("auth/token/lookup-accessor", json!({}), "missing accessor"),
        (
            "auth/token/lookup-accessor",
            json!({"accessor": "nosuch"}),
            "invalid accessor",
        ),
        ("auth/token/revoke-accessor", json!({}), "missing accessor"),
        (
            "auth/token/revoke-accessor",
            json!({"accessor": "nosuch"}),
            "invalid accessor",
        ),
        ("auth/token/revoke", json!({}), "missing token ID"),
        (
            "auth/token/revoke-orphan",
            json!({"token": "s.unknown"}),
            "token to revoke not found",
        ),
        (
            "auth/token/renew",
            json!({"token": "s.unknown"}),
            "token not found",
        ),
    ] {
        let answer = house.call("PUT", path, Some(&operator), body).await;
        assert_eq!((answer.status, answer.error()), (400, expected), "{path}");
    }
    assert_eq!(
        house
            .call(
                "POST",
                "auth/token/renew-accessor",
                Some(&operator),
                json!({"accessor": accessor})
            )
            .await
            .status,
        200
    );
    assert_eq!(
        house
            .call(
                "POST",
                "auth/token/revoke",
                Some(&operator),
                json!({"token": "s.unknown"})
            )
            .await
            .status,
        204
    );
    assert_eq!(
        house
            .call(
                "POST",
                "auth/token/revoke-accessor",
                Some(&operator),
                json!({"accessor": accessor})
            )
            .await
            .status,
        204
    );
    assert_eq!(
        house.get("auth/token/lookup-self", secret).await.error(),
        DENIED
    );
    assert_eq!(
        house
            .call("POST", "auth/token/tidy", Some(&operator), json!({}))
            .await
            .status,
        202
    );

    // A child dies with its parent; the child of a token revoked alone lives on.
    let parent = house
        .call(
            "POST",
            "auth/token/create",
            Some(&operator),
            json!({"policies": ["tokenops"]}),
        )
        .await;
    let parent = text(&parent.json, "/auth/client_token").to_owned();
    let child = house
        .call("POST", "auth/token/create", Some(&parent), json!({}))
        .await;
    let child = text(&child.json, "/auth/client_token").to_owned();
    assert_eq!(
        house
            .call(
                "POST",
                "auth/token/revoke-orphan",
                Some(&operator),
                json!({"token": parent})
            )
            .await
            .status,
        204
    );
    assert_eq!(
        house.get("auth/token/lookup-self", &child).await.status,
        200
    );
    assert_eq!(
        house
            .call("POST", "auth/token/revoke-self", Some(&operator), json!({}))
            .await
            .status,
        204
    );
}

#[tokio::test]
async fn state_of_the_server_is_open() {
    let house = house().await;
    let health = house.call("GET", "sys/health", None, Value::Null).await;
    assert_eq!(health.status, 200);
    assert_eq!(health.json["initialized"], true);
    assert_eq!(health.json["sealed"], false);
    assert_eq!(health.json["standby"], false);
    assert_eq!(health.json["server_time_utc"], NOW);
    assert_eq!(health.json["version"], "0.1.0");
    assert!(text(&health.json, "/cluster_name").starts_with("vault-cluster-"));
    assert!(health.json.get("request_id").is_none(), "bare");
    for (query, status) in [
        ("standbyok", 200),
        ("standbyok=true&perfstandbyok=true", 200),
        ("activecode=202", 202),
        ("activecode=472", 400),
        ("activecode=x", 400),
        ("sealedcode=99", 400),
    ] {
        assert_eq!(
            house
                .call("GET", &format!("sys/health?{query}"), None, Value::Null)
                .await
                .status,
            status,
            "{query}"
        );
    }
    assert_eq!(
        house.send("HEAD", "/v1/sys/health", &[], "").await.status,
        200
    );
    let seal = house
        .call("GET", "sys/seal-status", None, Value::Null)
        .await;
    assert_eq!(
        (
            &seal.json["sealed"],
            &seal.json["initialized"],
            &seal.json["storage_type"]
        ),
        (&json!(false), &json!(true), &json!("file"))
    );
    assert_eq!(
        house
            .call("PUT", "sys/unseal", None, json!({"key": "00"}))
            .await
            .json["sealed"],
        false
    );
    assert_eq!(
        house
            .call("GET", "sys/leader", None, Value::Null)
            .await
            .json,
        json!({"ha_enabled": false})
    );
    assert_eq!(
        house.call("GET", "sys/init", None, Value::Null).await.json,
        json!({"initialized": true})
    );
    let init = house
        .call("PUT", "sys/init", None, json!({"secret_shares": 1}))
        .await;
    assert_eq!(
        (init.status, init.error()),
        (400, "Vault is already initialized")
    );
    assert_eq!(
        house
            .call("GET", "sys/internal/ui/mounts", None, Value::Null)
            .await
            .json["data"],
        json!({"auth": {}, "secret": {}})
    );
    assert_eq!(
        house
            .send(
                "GET",
                "/v1/sys/health",
                &[("x-vault-namespace", "other")],
                ""
            )
            .await
            .error(),
        "namespace not found"
    );
    assert_eq!(
        house
            .send(
                "GET",
                "/v1/sys/health",
                &[("x-vault-namespace", "/root/")],
                ""
            )
            .await
            .status,
        200
    );
    assert_eq!(
        house.send("GET", "/", &[], "").await.headers["location"],
        "/ui/"
    );
    assert!(
        house
            .send("GET", "/ui/", &[], "")
            .await
            .text
            .contains("gridkeep")
    );
    assert_eq!(
        house.send("GET", "/nosuch", &[], "").await.text.trim_end(),
        r#"{"errors":[]}"#
    );
}

#[tokio::test]
async fn mounts_policies_and_capabilities() {
    let house = house().await;
    let operator = house.operator().await;
    let auth = house.get("sys/auth", &operator).await;
    assert_eq!(auth.json["data"]["oidc-dune/"]["type"], "oidc");
    assert_eq!(
        auth.json["oidc-dune/"], auth.json["data"]["oidc-dune/"],
        "both forms"
    );
    assert!(text(&auth.json, "/data/oidc-dune~1/accessor").starts_with("auth_oidc_"));
    assert_eq!(
        house.get("sys/auth/oidc-dune", &operator).await.json["data"]["type"],
        "oidc"
    );
    let mounts = house.get("sys/mounts", &operator).await;
    assert_eq!(mounts.json["secret/oauth/"]["type"], "oauth");
    assert_eq!(
        house
            .call(
                "POST",
                "sys/auth/x",
                Some(&operator),
                json!({"type": "oidc"})
            )
            .await
            .status,
        405
    );

    let listed = house
        .call("LIST", "sys/policies/acl", Some(&operator), Value::Null)
        .await;
    let keys = listed.json["data"]["keys"].as_array().unwrap();
    for name in ["default", "root", "tokenops", "oidc-dune_default"] {
        assert!(keys.contains(&json!(name)), "{name}");
    }
    let rules = "path \"secret/oauth/creds/dune/robot:default\" { capabilities = [\"read\"] }";
    let folded = house
        .call(
            "PUT",
            "sys/policies/acl/Robots",
            Some(&operator),
            json!({"policy": rules}),
        )
        .await;
    assert_eq!(folded.status, 200);
    assert!(
        folded.json["warnings"][0]
            .as_str()
            .unwrap()
            .contains("robots")
    );
    use base64::Engine as _;
    assert_eq!(
        house
            .call(
                "PUT",
                "sys/policies/acl/robots",
                Some(&operator),
                json!({"policy": base64::engine::general_purpose::STANDARD.encode(rules)})
            )
            .await
            .status,
        204
    );
    let read = house.get("sys/policies/acl/robots", &operator).await;
    assert_eq!(
        (&read.json["data"]["policy"], &read.json["data"]["version"]),
        (&json!(rules), &json!(2))
    );
    assert_eq!(
        house.get("sys/policy/robots", &operator).await.json["rules"],
        rules
    );
    assert!(house.get("sys/policy", &operator).await.json["policies"].is_array());
    assert_eq!(
        house
            .call(
                "PUT",
                "sys/policy/robots",
                Some(&operator),
                json!({"rules": rules})
            )
            .await
            .status,
        204
    );
    assert_eq!(
        house
            .call("PUT", "sys/policies/acl/robots", Some(&operator), json!({}))
            .await
            .error(),
        "'policy' parameter not supplied or empty"
    );
    assert_eq!(
        house
            .call(
                "PUT",
                "sys/policies/acl/robots",
                Some(&operator),
                json!({"policy": "path {"})
            )
            .await
            .status,
        400
    );
    assert_eq!(
        house
            .call(
                "PUT",
                "sys/policies/acl/tokenops",
                Some(&operator),
                json!({"policy": rules})
            )
            .await
            .status,
        405
    );
    assert_eq!(
        house
            .call(
                "DELETE",
                "sys/policies/acl/default",
                Some(&operator),
                Value::Null
            )
            .await
            .error(),
        "cannot delete default policy"
    );
    assert_eq!(
        house
            .call(
                "DELETE",
                "sys/policies/acl/robots",
                Some(&operator),
                Value::Null
            )
            .await
            .status,
        204
    );
    assert_eq!(
        house.get("sys/policies/acl/robots", &operator).await.status,
        404
    );

    let login = house.log_in("alice").await;
    let asked = json!({"paths": ["auth/token/create", "secret/oauth/creds/dune/alice:default", "sys/mounts"], "accessor": login["accessor"], "token": login["client_token"]});
    for path in ["sys/capabilities", "sys/capabilities-accessor"] {
        let answer = house
            .call("POST", path, Some(&operator), asked.clone())
            .await;
        assert_eq!(
            answer.json["data"]["auth/token/create"],
            json!(["update"]),
            "{}",
            answer.text
        );
        assert_eq!(
            answer.json["secret/oauth/creds/dune/alice:default"],
            json!(["delete", "list", "read", "update"])
        );
        assert_eq!(answer.json["sys/mounts"], json!(["deny"]));
    }
    let own = house
        .call(
            "POST",
            "sys/capabilities-self",
            Some(&operator),
            json!({"path": "sys/mounts"}),
        )
        .await;
    assert_eq!(own.json["capabilities"], own.json["data"]["sys/mounts"]);
}

#[tokio::test]
async fn bodies_and_sizes() {
    let house = house().await;
    let login = house.log_in("alice").await;
    let token = text(&login, "/client_token");
    let form = ("content-type", "application/x-www-form-urlencoded");
    // curl -d '{"ttl":…}' declares a form and sends JSON.
    let create = |headers: Vec<(&'static str, String)>, body: String| {
        let house = &house;
        async move {
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            house
                .send("POST", "/v1/auth/token/create", &headers, body)
                .await
        }
    };
    let with = |content_type: Option<(&'static str, &str)>| {
        let mut headers = vec![("x-vault-token", token.to_owned())];
        headers.extend(content_type.map(|(name, value)| (name, value.to_owned())));
        headers
    };
    for content_type in [None, Some(form), Some(("content-type", "text/plain"))] {
        let answer = create(with(content_type), r#"{"ttl":"3600"}"#.to_owned()).await;
        assert_eq!(
            answer.json["auth"]["lease_duration"], 3600,
            "{}",
            answer.text
        );
    }
    assert_eq!(
        create(with(Some(form)), "ttl=1h&renewable=0".to_owned())
            .await
            .json["auth"]["lease_duration"],
        3600
    );
    assert!(
        create(with(None), "{".to_owned())
            .await
            .error()
            .starts_with("failed to parse JSON input: ")
    );
    assert_eq!(create(with(None), "[]".to_owned()).await.status, 400);
    let large = format!("{{\"meta\":{{\"a\":\"{}\"}}}}", "x".repeat(2 << 20));
    assert_eq!(create(with(None), large.clone()).await.status, 413);
    assert_eq!(
        house
            .send(
                "POST",
                "/v1/auth/oidc-dune/oidc/auth_url",
                &[],
                "x".repeat(65 << 10)
            )
            .await
            .status,
        413
    );
    assert_eq!(
        house
            .send(
                "POST",
                "/v1/auth/token/create",
                &[("x-vault-token", "hvs.guess")],
                large
            )
            .await
            .status,
        403,
        "not even read"
    );
    let wrapped = house
        .send(
            "POST",
            "/v1/auth/token/create",
            &[("x-vault-token", token), ("x-vault-wrap-ttl", "60s")],
            "{}",
        )
        .await;
    assert_eq!(wrapped.status, 400);
    let two = house
        .send(
            "GET",
            "/v1/auth/token/lookup-self",
            &[("x-vault-token", token), ("x-vault-token", "other")],
            "",
        )
        .await;
    assert_eq!(two.status, 400);
}

//! Access tokens and credentials, and the exact texts of refusals.

use std::time::Duration;

use gridkeep_issuer::{IssuerError, Sent};
use serde_json::{Value, json};

use super::common::{Answer, house};
use super::{DENIED, DENIED_BY_POLICY, UNSUPPORTED, text};

#[tokio::test]
async fn refusals_are_exact() {
    let house = house().await;
    let path = "secret/oauth/creds/dune/alice:default";
    let refused = |status: u16, text: &str, answer: Answer| {
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
async fn spellings_of_a_name_are_one_person_and_several_credentials() {
    let house = house().await;
    let (small, large) = (house.log_in("alice").await, house.log_in("Alice").await);
    assert_eq!(small["entity_id"], large["entity_id"]);
    let path = |name: &str| format!("secret/oauth/creds/dune/{name}:default");
    for (login, own, other) in [(&small, "alice", "Alice"), (&large, "Alice", "alice")] {
        let token = text(login, "/client_token");
        let read = house.get(&path(own), token).await;
        assert_eq!(read.status, 200, "{}", read.text);
        assert_eq!(
            house.get(&path(other), token).await.error(),
            DENIED_BY_POLICY
        );
    }
}

#[tokio::test]
async fn an_end_of_its_own_is_not_promised_to_a_credential() {
    let house = house().await;
    let login = house.log_in("alice").await;
    let token = text(&login, "/client_token");
    let path = "secret/oauth/creds/dune/alice/cron:default";
    let handle = &login["metadata"]["oauth2_refresh_token"];
    for (most, status) in [
        (json!("1h"), 400),
        (json!(3600), 400),
        (json!("soon"), 400),
        (json!(0), 204),
        (json!(""), 204),
    ] {
        let body =
            json!({"server": "dune", "refresh_token": handle, "maximum_expiry_seconds": most});
        let answer = house.call("POST", path, Some(token), body).await;
        assert_eq!(answer.status, status, "{most}: {}", answer.text);
        if status == 400 {
            assert!(
                answer.error().contains("maximum_expiry_seconds"),
                "{}",
                answer.text
            );
            assert_eq!(
                house.get(path, token).await.status,
                404,
                "nothing was stored"
            );
        }
    }
    assert_eq!(house.get(path, token).await.status, 200);
}

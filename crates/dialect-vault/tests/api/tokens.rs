//! `auth/token/*`, and how leniently and how far bodies are read.

use serde_json::{Value, json};

use super::common::house;
use super::{DENIED, DENIED_BY_POLICY, text};

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

#[tokio::test]
async fn old_names_and_old_ways_still_work() {
    let house = house().await;
    let operator = house.operator().await;
    let made = |body: Value| house.call("POST", "auth/token/create", Some(&operator), body);
    for (body, seconds) in [
        (json!({"lease": "10m"}), 600),
        (json!({"lease": "600"}), 600),
        (json!({"lease": "10m", "ttl": "5m"}), 300),
    ] {
        let answer = made(body.clone()).await;
        assert_eq!(answer.json["auth"]["lease_duration"], seconds, "{body}");
        assert_eq!(answer.json["warnings"], Value::Null, "{body}");
    }
    let login = house.log_in("alice").await;
    let token = text(&login, "/client_token");
    let found = house
        .get(&format!("auth/token/lookup?token={token}"), &operator)
        .await;
    assert_eq!(found.status, 200, "{}", found.text);
    assert_eq!(found.json["data"]["accessor"], login["accessor"]);
    assert_eq!(
        house
            .get(&format!("auth/token/lookup?token={token}"), token)
            .await
            .error(),
        DENIED_BY_POLICY
    );
    let own = house.get("auth/token/lookup", &operator).await;
    assert_eq!(own.json["data"]["id"], operator.as_str(), "{}", own.text);
}

#[tokio::test]
async fn a_life_that_was_cut_is_said_so_in_the_originals_words() {
    let house = house().await;
    let operator = house.operator().await;
    let body = json!({"ttl": "720h", "policies": ["default"]});
    let made = house
        .call("POST", "auth/token/create-orphan", Some(&operator), body)
        .await;
    assert_eq!(
        made.json["auth"]["lease_duration"], 2_419_200,
        "{}",
        made.text
    );
    // Durations as Go writes them.
    assert_eq!(
        made.json["warnings"],
        json!([
            "TTL of \"720h0m0s\" exceeded the effective max_ttl of \"672h0m0s\"; TTL value is capped accordingly"
        ])
    );
}

//! Attempts to get around the rules, one test each. None of them may succeed, whatever status they end with.

use std::time::Duration;

use serde_json::{Value, json};

use super::common::{Answer, House, house};
use super::{DENIED, DENIED_BY_POLICY, text};

async fn post(house: &House, token: &str, path: &str, body: Value) -> Answer {
    house.call("POST", path, Some(token), body).await
}

async fn token_of(house: &House, person: &str) -> String {
    text(&house.log_in(person).await, "/client_token").to_owned()
}

/// Stores what a login gave under another name of the same person.
async fn store(house: &House, login: &Value, name: &str) -> Answer {
    let body =
        json!({"server": "dune", "refresh_token": login["metadata"]["oauth2_refresh_token"]});
    post(
        house,
        text(login, "/client_token"),
        &format!("secret/oauth/creds/{name}"),
        body,
    )
    .await
}

#[tokio::test]
async fn no_spelling_of_a_path_reaches_anothers_credential() {
    let house = house().await;
    let alice = token_of(&house, "alice").await;
    let _bob = token_of(&house, "bob").await;
    for path in [
        "secret/oauth/creds/dune/alice/../bob:default",
        "secret/oauth/creds/dune/alice/%2e%2e/bob:default",
        "secret/oauth/creds/dune/alice/%2E%2E%2Fbob:default",
        "secret/oauth/creds/dune/alice/%252e%252e/bob:default",
        "secret/oauth/creds/dune/alice/..%2fbob:default",
        "secret/oauth/creds/dune/./bob:default",
        "secret/oauth/creds/dune//bob:default",
        "secret/oauth/creds//dune/bob:default",
        "secret/oauth/creds/dune/bob:default/",
        "secret/oauth/creds/dune/bob%3Adefault",
        "secret/oauth/creds/dune/%62ob:default",
        "secret/oauth/creds/dune/alice:default%2f..%2fbob:default",
        "secret/oauth/creds/dune/alice:default%00",
        "secret/oauth/creds/dune/alice:default;/bob:default",
        "secret/oauth/creds/dune/alice:x/../bob:default",
        "secret/oauth/creds/dune/+:default",
        "secret/oauth/creds/dune/*",
        "secret/oauth/creds/dune/alice2/x:default",
        "secret/oauth/creds/dune/alice",
        "secret/oauth/creds/dune/Bob:default",
        "secret/oauth/creds/dune/ALICE:default",
        "secret/oauth/creds/Dune/alice:default",
        "SECRET/oauth/creds/dune/alice:default",
        "secret/oauth/CREDS/dune/bob:default",
        "secret/oauth/sts/dune/bob:default",
        "secret/oauth/sts/dune/alice/../bob:default?scopes=a",
        "secret/oauth/creds/dune/bob:default?list=true",
        "secret/oauth/creds/dune/bob:default?help=1",
        "secret/oauth/creds/dune/bob:default?name=dune/alice:default",
        "../v1/secret/oauth/creds/dune/bob:default",
    ] {
        let answer = house.get(path, &alice).await;
        assert!(!answer.text.contains("canary"), "{path}: {}", answer.text);
        if !path.contains("help") {
            assert!(
                (400..500).contains(&answer.status),
                "{path}: {} {}",
                answer.status,
                answer.text
            );
        }
    }
    // The path decides, not a parameter of its name.
    let named = post(
        &house,
        &alice,
        "secret/oauth/creds/dune/bob:default",
        json!({"name": "dune/alice:default", "server": "dune", "refresh_token": "x"}),
    )
    .await;
    assert_eq!(named.error(), DENIED_BY_POLICY);
    for header in ["x-http-method-override", "x-original-url", "x-rewrite-url"] {
        let headers = [
            ("x-vault-token", alice.as_str()),
            (header, "/v1/secret/oauth/creds/dune/bob:default"),
        ];
        let answer = house
            .send(
                "GET",
                "/v1/secret/oauth/creds/dune/alice:default",
                &headers,
                "",
            )
            .await;
        assert_eq!(
            answer.json["data"]["server"], "dune",
            "{header}: {}",
            answer.text
        );
    }
}

#[tokio::test]
async fn an_identity_that_looks_like_a_pattern_opens_nothing() {
    let house = house().await;
    for person in [
        "*",
        "+",
        "alice/*",
        "a*",
        "..",
        "{{x}}",
        "alice:default",
        "%2a",
    ] {
        *house.issuer.person.lock().unwrap() = person.to_owned();
        house
            .issuer
            .device_done
            .store(true, std::sync::atomic::Ordering::SeqCst);
        let started = house
            .call(
                "POST",
                "auth/oidc-dune/oidc/auth_url",
                None,
                json!({"client_nonce": "n", "redirect_uri": "x"}),
            )
            .await;
        house.clock.pass(Duration::from_secs(4));
        let polled = house
            .call(
                "POST",
                "auth/oidc-dune/oidc/poll",
                None,
                json!({"state": started.json["data"]["state"], "client_nonce": "n"}),
            )
            .await;
        assert_eq!(polled.status, 400, "{person}: {}", polled.text);
        assert!(
            polled
                .error()
                .contains("cannot be used as a credential key"),
            "{}",
            polled.text
        );
    }
    // A name of one's own that holds wildcards, given to a bearer: the template must not turn into a pattern.
    let login = house.log_in("alice").await;
    let alice = text(&login, "/client_token").to_owned();
    for name in [
        "dune/alice/*:default",
        "dune/alice/+/x:default",
        "dune/alice/+:default",
    ] {
        let stored = store(&house, &login, name).await;
        if stored.status != 204 {
            continue;
        }
        let given = post(&house, &alice, &format!("delegation/{name}"), json!({})).await;
        assert_eq!(given.status, 200, "{}", given.text);
        let secret = text(&given.json, "/auth/client_token").to_owned();
        for other in [
            "dune/alice:default",
            "dune/alice/y/x:default",
            "dune/alice/z:default",
            "dune/bob:default",
        ] {
            let answer = house
                .get(&format!("secret/oauth/creds/{other}"), &secret)
                .await;
            assert_eq!(answer.error(), DENIED_BY_POLICY, "{name} {other}");
        }
    }
    // A template that an operator writes is filled literally or not at all.
    let operator = house.operator().await;
    let mount = house.get("sys/auth/oidc-dune", &operator).await;
    let accessor = text(&mount.json, "/data/accessor");
    let rules = format!(
        "path \"secret/oauth/creds/dune/{{{{identity.entity.aliases.{accessor}.metadata.nosuch}}}}*\" {{ capabilities = [\"read\"] }}"
    );
    assert_eq!(
        post(
            &house,
            &operator,
            "sys/policies/acl/open",
            json!({"policy": rules})
        )
        .await
        .status,
        204
    );
    let open = post(
        &house,
        &operator,
        "auth/token/create",
        json!({"policies": ["open"]}),
    )
    .await;
    let open = text(&open.json, "/auth/client_token").to_owned();
    assert_eq!(
        house
            .get("secret/oauth/creds/dune/alice:default", &open)
            .await
            .error(),
        DENIED_BY_POLICY
    );
}

#[tokio::test]
async fn a_login_session_is_not_swapped_between_browsers() {
    let house = house().await;
    let start = |nonce: &'static str| {
        let house = &house;
        async move {
            let body = json!({"client_nonce": nonce, "redirect_uri": "https://vault.example.org:8200/v1/auth/oidc-cms/oidc/callback"});
            let started = house
                .call("POST", "auth/oidc-cms/oidc/auth_url", None, body)
                .await;
            text(&started.json, "/data/state").to_owned()
        }
    };
    let (mine, theirs) = (start("mine").await, start("theirs").await);
    let page = house
        .send(
            "GET",
            &format!("/v1/auth/oidc-cms/oidc/callback?state={mine}&code=c1"),
            &[("accept", "text/html")],
            "",
        )
        .await;
    let form = page
        .text
        .split("name=\"form_token\" value=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let form = form
        .unwrap_or_else(|| panic!("no form: {}", page.text))
        .to_owned();
    // What was confirmed for one state and code confirms no other.
    for (issuer, state, code) in [
        ("cms", &theirs, "c1"),
        ("cms", &mine, "c2"),
        ("icecube", &mine, "c1"),
        ("dune", &mine, "c1"),
    ] {
        let body = format!("state={state}&code={code}&form_token={form}&confirmation=1");
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("accept", "text/html"),
        ];
        let answer = house
            .send(
                "POST",
                &format!("/v1/auth/oidc-{issuer}/oidc/callback"),
                &headers,
                body,
            )
            .await;
        assert_eq!(answer.status, 400, "{issuer} {code}: {}", answer.text);
    }
    let poll = |issuer: &'static str, state: String, nonce: &'static str| {
        let house = &house;
        async move {
            let body = json!({"state": state, "client_nonce": nonce});
            house
                .call("POST", &format!("auth/oidc-{issuer}/oidc/poll"), None, body)
                .await
        }
    };
    assert_eq!(
        poll("cms", theirs.clone(), "theirs").await.error(),
        "authorization_pending",
        "nothing was completed for it"
    );
    // Another's state with one's own nonce ends that login and gives nothing.
    assert_eq!(
        poll("cms", theirs.clone(), "mine").await.error(),
        "invalid client_nonce"
    );
    assert_eq!(
        poll("cms", theirs, "theirs").await.error(),
        "OpenBao login failed. Expired or missing OAuth state."
    );
    // At another issuer's mount a state is not known.
    assert_eq!(poll("icecube", mine.clone(), "mine").await.status, 400);
    assert_eq!(
        poll("cms", mine, "mine").await.error(),
        "authorization_pending"
    );
}

#[tokio::test]
async fn the_token_of_a_deleted_parent_is_dead_and_makes_nothing() {
    let house = house().await;
    let alice = token_of(&house, "alice").await;
    let child = post(&house, &alice, "auth/token/create", json!({"ttl": "1h"})).await;
    let child = text(&child.json, "/auth/client_token").to_owned();
    let grandchild = post(&house, &child, "auth/token/create", json!({})).await;
    let grandchild = text(&grandchild.json, "/auth/client_token").to_owned();
    assert_eq!(
        post(&house, &alice, "auth/token/revoke-self", json!({}))
            .await
            .status,
        204
    );
    for token in [&child, &grandchild] {
        assert_eq!(
            house
                .get("secret/oauth/creds/dune/alice:default", token)
                .await
                .error(),
            DENIED
        );
        assert_eq!(
            post(&house, token, "auth/token/create", json!({}))
                .await
                .error(),
            DENIED
        );
        assert_eq!(
            post(&house, token, "auth/token/renew-self", json!({}))
                .await
                .error(),
            DENIED
        );
        assert_eq!(
            post(&house, token, "delegation/dune/alice:default", json!({}))
                .await
                .error(),
            DENIED
        );
    }
    // Not even by cutting it loose from what is dead above it.
    let operator = house.operator().await;
    let cut = post(
        &house,
        &operator,
        "auth/token/revoke-orphan",
        json!({"token": child}),
    )
    .await;
    assert_eq!(cut.error(), "token to revoke not found");
    assert_eq!(
        house
            .get("auth/token/lookup-self", &grandchild)
            .await
            .error(),
        DENIED
    );
}

#[tokio::test]
async fn a_foreign_handle_stores_nothing() {
    let house = house().await;
    let alice = house.log_in("alice").await;
    let handle = text(&alice, "/metadata/oauth2_refresh_token").to_owned();
    let bob = token_of(&house, "bob").await;
    let operator = house.operator().await;
    let body = json!({"server": "dune", "refresh_token": handle});
    let name = "secret/oauth/creds/dune/bob/stolen:default";
    let stolen = post(&house, &bob, name, body.clone()).await;
    assert!(
        stolen.status == 400 && stolen.error().contains("belongs to another login"),
        "{}",
        stolen.text
    );
    assert_eq!(house.get(name, &bob).await.status, 404);
    assert_eq!(
        post(&house, &operator, name, body.clone()).await.error(),
        DENIED_BY_POLICY
    );
    // Nor by its own login under another's name, for another issuer, or changed.
    let own = text(&alice, "/client_token").to_owned();
    assert_eq!(
        post(
            &house,
            &own,
            "secret/oauth/creds/dune/bob:default",
            body.clone()
        )
        .await
        .error(),
        DENIED_BY_POLICY
    );
    let elsewhere = json!({"server": "cms", "refresh_token": handle});
    assert_eq!(
        post(
            &house,
            &own,
            "secret/oauth/creds/dune/alice/x:default",
            elsewhere
        )
        .await
        .error(),
        DENIED_BY_POLICY
    );
    let mut changed = handle.clone();
    changed.replace_range(10..11, if &handle[10..11] == "A" { "B" } else { "A" });
    let forged = post(
        &house,
        &own,
        "secret/oauth/creds/dune/alice/x:default",
        json!({"server": "dune", "refresh_token": changed}),
    )
    .await;
    assert_eq!(forged.status, 400, "{}", forged.text);
    assert!(
        house.issuer.refreshed.lock().unwrap().is_empty(),
        "no handle went to an issuer"
    );
}

#[tokio::test]
async fn no_request_makes_a_token_of_more_power() {
    let house = house().await;
    let alice = token_of(&house, "alice").await;
    for policies in [
        json!(["root"]),
        json!("root"),
        json!("Root"),
        json!(" root "),
        json!("tokenops,root"),
        json!("[\"root\"]"),
        json!(["tokenops", "ROOT"]),
        json!(["operator"]),
        json!("Operator"),
        json!(["tokenops", "operator", "tokenops"]),
        json!(["default"]),
        json!(["oidc-dune_production"]),
        json!(["delegated"]),
        json!(["nosuch"]),
    ] {
        let answer = post(
            &house,
            &alice,
            "auth/token/create",
            json!({"policies": policies}),
        )
        .await;
        assert_eq!(answer.status, 400, "{policies}: {}", answer.text);
    }
    for body in [
        json!({"no_parent": true}),
        json!({"no_parent": "true"}),
        json!({"no_parent": 1}),
        json!({"period": "1h"}),
        json!({"period": 1}),
        json!({"id": "hvs.mine"}),
        json!({"type": "batch"}),
        json!({"entity_alias": "bob"}),
        json!({"num_uses": -1}),
    ] {
        let answer = post(&house, &alice, "auth/token/create", body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text);
    }
    for path in [
        "auth/token/create-orphan",
        "auth/token/create%2dorphan",
        "auth/token/create/../create-orphan",
        "auth/token/create/",
        "auth/token/create/any",
        "auth/token/roles/any",
        "auth/token/revoke-orphan",
        "sys/policies/acl/mine",
        "sys/policy/mine",
    ] {
        let answer = post(
            &house,
            &alice,
            path,
            json!({"policy": "path \"*\" { capabilities = [\"sudo\"] }"}),
        )
        .await;
        assert!(
            matches!(answer.status, 400 | 403),
            "{path}: {}",
            answer.text
        );
    }
    // A policy of the configuration is not replaced under another spelling.
    let operator = house.operator().await;
    for name in [
        "tokenops",
        "TokenOps",
        "oidc-dune_default",
        "OIDC-DUNE_DEFAULT",
        "operator",
        "delegated",
        "root",
        "ROOT",
    ] {
        let answer = house
            .call(
                "PUT",
                &format!("sys/policies/acl/{name}"),
                Some(&operator),
                json!({"policy": "path \"*\" { capabilities = [\"read\"] }"}),
            )
            .await;
        assert!(answer.status >= 400, "{name}: {}", answer.text);
    }
    assert_eq!(
        house
            .get("secret/oauth/creds/dune/bob:default", &alice)
            .await
            .error(),
        DENIED_BY_POLICY
    );
}

#[tokio::test]
async fn nothing_is_renewed_beyond_its_end() {
    let house = house().await;
    let operator = house.operator().await;
    let made = post(
        &house,
        &operator,
        "auth/token/create-orphan",
        json!({"policies": ["default"], "ttl": "1h", "explicit_max_ttl": "3h"}),
    )
    .await;
    let token = text(&made.json, "/auth/client_token").to_owned();
    for (passed, left) in [(1800, 9000), (1800, 7200), (5400, 1800)] {
        house.clock.pass(Duration::from_secs(passed));
        let renewed = post(
            &house,
            &token,
            "auth/token/renew-self",
            json!({"increment": "999999h"}),
        )
        .await;
        assert_eq!(
            renewed.json["auth"]["lease_duration"], left,
            "{}",
            renewed.text
        );
    }
    house.clock.pass(Duration::from_secs(1800 + 3600));
    assert_eq!(
        post(&house, &token, "auth/token/renew-self", json!({}))
            .await
            .error(),
        DENIED
    );
    let operator = house.operator().await;
    let made = post(
        &house,
        &operator,
        "auth/token/create-orphan",
        json!({"policies": ["default"], "period": "1h", "explicit_max_ttl": "90m"}),
    )
    .await;
    let token = text(&made.json, "/auth/client_token").to_owned();
    house.clock.pass(Duration::from_secs(3000));
    assert_eq!(
        post(&house, &token, "auth/token/renew-self", json!({}))
            .await
            .json["auth"]["lease_duration"],
        2400
    );
    let made = post(
        &house,
        &operator,
        "auth/token/create-orphan",
        json!({"policies": ["default"], "ttl": "99999h", "renewable": "true"}),
    )
    .await;
    assert!(
        made.status == 403 || made.json["auth"]["lease_duration"] == 2_419_200,
        "{}",
        made.text
    );
}

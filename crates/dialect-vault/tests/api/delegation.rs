//! Credentials given to others and to robots: with narrower rules, until they end or are withdrawn.

use std::time::Duration;

use gridkeep_keeper::{RobotRule, Setup};
use serde_json::{Value, json};

use super::common::{Answer, House, house, setup};
use super::{DENIED, DENIED_BY_POLICY, text};

const ALICE: &str = "dune/alice:default";

async fn put(house: &House, token: &str, path: &str, body: Value) -> Answer {
    house.call("POST", path, Some(token), body).await
}

async fn token_of(house: &House, person: &str) -> String {
    text(&house.log_in(person).await, "/client_token").to_owned()
}

fn with_rules(house: &House, rules: &[(&str, Option<&str>)]) -> Setup {
    let rule = |(value, account): &(&str, Option<&str>)| RobotRule {
        issuer: "dune".into(),
        claim: "groups".into(),
        value: (*value).into(),
        account: account.map(str::to_owned),
    };
    Setup {
        robots: rules.iter().map(rule).collect(),
        ..setup(&house.issuer)
    }
}

async fn robot_house() -> House {
    let house = house().await;
    let rules = with_rules(
        &house,
        &[("/dune/production", Some("dunepro")), ("/dune", None)],
    );
    house.keeper.reconfigure(rules).await.unwrap();
    house
}

async fn log_in_with(house: &House, person: &str, groups: &[&str]) -> Value {
    *house.issuer.groups.lock().unwrap() = groups.iter().map(|&group| group.to_owned()).collect();
    house.log_in(person).await
}

#[tokio::test]
async fn a_credential_is_delegated_to_a_principal_with_narrower_rules() {
    let house = house().await;
    let (alice, bob, carol) = (
        token_of(&house, "alice").await,
        token_of(&house, "bob").await,
        token_of(&house, "carol").await,
    );
    let creds = format!("secret/oauth/creds/{ALICE}");
    assert_eq!(house.get(&creds, &bob).await.error(), DENIED_BY_POLICY);
    let given = put(&house, &alice, &format!("delegation/{ALICE}"), json!({
        "to": "oidc-dune/Bob", "scopes": "storage.read:/data,compute.read", "audiences": ["https://se.example"],
        "bound_cidrs": "192.0.2.0/24", "ttl": "7d", "display_name": "night shift"})).await;
    assert_eq!(given.status, 200, "{}", given.text);
    assert_eq!(
        given.json["auth"],
        Value::Null,
        "a principal uses it with its own login"
    );
    assert_eq!(given.json["data"]["expire_time"], "2026-08-07T12:13:32Z");

    // What is left open is narrowed to what was given.
    let read = house.get(&creds, &bob).await;
    assert_eq!(read.status, 200, "{}", read.text);
    assert!(
        read.json["data"].get("server").is_none(),
        "it was exchanged"
    );
    let asked = house
        .issuer
        .exchanges
        .lock()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(asked.scopes, ["storage.read:/data", "compute.read"]);
    assert_eq!(asked.audiences, ["https://se.example"]);
    let narrower = house
        .get(
            &format!("secret/oauth/sts/{ALICE}?scopes=storage.read:/data/run7"),
            &bob,
        )
        .await;
    assert_eq!(narrower.status, 200, "{}", narrower.text);
    for beyond in [
        "scopes=storage.read:/",
        "scopes=compute.modify",
        "scopes=storage.read:/data/../x",
        "audience=https://other.example",
        "resources=https://other.example",
        "scopes=wlcg.groups:/dune/production",
    ] {
        let refused = house
            .get(&format!("secret/oauth/sts/{ALICE}?{beyond}"), &bob)
            .await;
        assert_eq!(refused.status, 400, "{beyond}: {}", refused.text);
        assert!(
            refused.error().contains("beyond what was delegated"),
            "{}",
            refused.text
        );
    }
    // To nobody else, from nowhere else, and for reading only.
    assert_eq!(house.get(&creds, &carol).await.error(), DENIED_BY_POLICY);
    assert_eq!(
        house.get_from("198.51.100.1", &creds, &bob).await.error(),
        DENIED_BY_POLICY
    );
    assert_eq!(
        house
            .get("secret/oauth/creds/dune/alice:production", &bob)
            .await
            .error(),
        DENIED_BY_POLICY
    );
    assert_eq!(
        house
            .call("DELETE", &creds, Some(&bob), Value::Null)
            .await
            .error(),
        DENIED_BY_POLICY
    );
    for path in [format!("delegation/{ALICE}"), format!("robot/{ALICE}")] {
        assert_eq!(
            put(&house, &bob, &path, json!({"to": "oidc-dune/carol"}))
                .await
                .error(),
            DENIED_BY_POLICY
        );
        assert_eq!(
            house
                .call("DELETE", &format!("{path}?id=x"), Some(&bob), Value::Null)
                .await
                .error(),
            DENIED_BY_POLICY
        );
    }
    assert_eq!(
        put(
            &house,
            &bob,
            &creds,
            json!({"server": "dune", "refresh_token": "x"})
        )
        .await
        .error(),
        DENIED_BY_POLICY
    );

    // The owner sees and withdraws it, and an operator may.
    let operator = house.operator().await;
    for token in [&alice, &operator] {
        let listed = house.get(&format!("delegation/{ALICE}"), token).await;
        let listed = listed.json["data"]["delegations"]
            .as_array()
            .unwrap()
            .clone();
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (&listed[0]["to"], &listed[0]["display_name"]),
            (&json!("oidc-dune/Bob"), &json!("night-shift"))
        );
    }
    let id = text(&given.json, "/data/id");
    assert_eq!(
        house
            .call(
                "DELETE",
                &format!("delegation/{ALICE}"),
                Some(&alice),
                Value::Null
            )
            .await
            .status,
        400
    );
    assert_eq!(
        house
            .call(
                "DELETE",
                &format!("delegation/{ALICE}?id=nosuch"),
                Some(&alice),
                Value::Null
            )
            .await
            .status,
        404
    );
    assert_eq!(
        house
            .call(
                "DELETE",
                &format!("delegation/{ALICE}?id={id}"),
                Some(&alice),
                Value::Null
            )
            .await
            .status,
        204
    );
    assert_eq!(house.get(&creds, &bob).await.error(), DENIED_BY_POLICY);
    assert_eq!(
        house
            .get(&format!("delegation/{ALICE}"), &alice)
            .await
            .status,
        404
    );

    // It ends by itself; while that may be the clock's mistake, nobody hears that it is for ever.
    let path = format!("delegation/{ALICE}");
    assert_eq!(
        put(
            &house,
            &alice,
            &path,
            json!({"to": "oidc-dune/bob", "ttl": "1h"})
        )
        .await
        .status,
        200
    );
    assert_eq!(house.get(&creds, &bob).await.status, 200);
    house.clock.pass(Duration::from_secs(3600));
    assert_eq!(house.get(&creds, &bob).await.status, 503);
    house.clock.pass(Duration::from_secs(7200));
    assert_eq!(house.get(&creds, &bob).await.error(), DENIED_BY_POLICY);
}

#[tokio::test]
async fn what_cannot_be_delegated_is_refused() {
    let house = house().await;
    let alice = token_of(&house, "alice").await;
    let operator = house.operator().await;
    let path = format!("delegation/{ALICE}");
    for (body, error) in [
        (json!({"to": "bob"}), "no principal"),
        (json!({"to": "oidc-nosuch/bob"}), "no principal"),
        (json!({"to": "token/bob"}), "no principal"),
        (json!({"to": "oidc-dune/"}), "no principal"),
        (
            json!({"to": "oidc-dune/bob", "bound_cidrs": "everywhere"}),
            "not an address",
        ),
        (json!({"period": "1h"}), "gridkeep.robots"),
        (
            json!({"to": "oidc-dune/bob", "ttl": "soon"}),
            "Field validation failed",
        ),
    ] {
        let refused = put(&house, &alice, &path, body).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert!(refused.error().contains(error), "{}", refused.text);
    }
    assert_eq!(
        put(
            &house,
            &alice,
            "delegation/dune/alice/none/here:default",
            json!({"to": "oidc-dune/bob"})
        )
        .await
        .status,
        404
    );
    assert_eq!(
        put(
            &house,
            &alice,
            "delegation/dune/bob:default",
            json!({"to": "oidc-dune/alice"})
        )
        .await
        .error(),
        DENIED_BY_POLICY
    );
    assert_eq!(
        put(&house, &alice, &format!("robot/{ALICE}"), json!({}))
            .await
            .error(),
        DENIED_BY_POLICY
    );
    assert_eq!(
        put(&house, &operator, &path, json!({"to": "oidc-dune/bob"}))
            .await
            .error(),
        DENIED_BY_POLICY,
        "operators give nobody's credentials away"
    );
    let long = put(
        &house,
        &alice,
        &path,
        json!({"to": "oidc-dune/bob", "ttl": "365d"}),
    )
    .await;
    assert!(
        long.json["warnings"][0]
            .as_str()
            .unwrap()
            .contains("28 days"),
        "{}",
        long.text
    );
    for _ in 1..64 {
        assert_eq!(
            put(&house, &alice, &path, json!({"to": "oidc-dune/bob"}))
                .await
                .status,
            200
        );
    }
    assert!(
        put(&house, &alice, &path, json!({"to": "oidc-dune/bob"}))
            .await
            .error()
            .contains("at most 64")
    );
}

#[tokio::test]
async fn a_token_is_given_instead_of_a_login() {
    let house = house().await;
    let alice = token_of(&house, "alice").await;
    let given = put(
        &house,
        &alice,
        &format!("delegation/{ALICE}"),
        json!({"scopes": "compute.read", "token_bound_cidrs": ["192.0.2.7"], "ttl": "2d"}),
    )
    .await;
    assert_eq!(given.status, 200, "{}", given.text);
    let auth = &given.json["auth"];
    assert_eq!(
        (&auth["lease_duration"], &auth["renewable"], &auth["orphan"]),
        (&json!(172_800), &json!(false), &json!(true))
    );
    let secret = text(auth, "/client_token").to_owned();
    assert!(secret.starts_with("hvs."));
    let creds = format!("secret/oauth/creds/{ALICE}");
    assert_eq!(house.get(&creds, &secret).await.status, 200);
    assert_eq!(
        house
            .issuer
            .exchanges
            .lock()
            .unwrap()
            .last()
            .unwrap()
            .scopes,
        ["compute.read"]
    );
    assert_eq!(
        house
            .get(&format!("{creds}?scopes=compute.modify"), &secret)
            .await
            .status,
        400
    );
    assert_eq!(
        house.get_from("192.0.2.8", &creds, &secret).await.error(),
        DENIED
    );
    for path in [
        "secret/oauth/creds/dune/alice:production",
        "secret/oauth/creds/dune/bob:default",
        "sys/mounts",
    ] {
        assert_eq!(
            house.get(path, &secret).await.error(),
            DENIED_BY_POLICY,
            "{path}"
        );
    }
    assert_eq!(
        put(&house, &secret, "auth/token/renew-self", json!({}))
            .await
            .error(),
        "lease is not renewable"
    );

    // A child of it is no wider.
    let child = put(&house, &secret, "auth/token/create", json!({"ttl": "1h"})).await;
    let child = text(&child.json, "/auth/client_token").to_owned();
    assert_eq!(house.get(&creds, &child).await.status, 200);
    assert_eq!(
        house
            .issuer
            .exchanges
            .lock()
            .unwrap()
            .last()
            .unwrap()
            .scopes,
        ["compute.read"]
    );
    assert_eq!(
        house
            .get(&format!("{creds}?scopes=compute.modify"), &child)
            .await
            .status,
        400
    );
    assert_eq!(
        house.get_from("192.0.2.8", &creds, &child).await.error(),
        DENIED
    );
    assert!(
        put(
            &house,
            &secret,
            "auth/token/create",
            json!({"bound_cidrs": "0.0.0.0/0"})
        )
        .await
        .error()
        .contains("not within")
    );
    assert_eq!(
        put(
            &house,
            &child,
            &format!("delegation/{ALICE}"),
            json!({"to": "oidc-dune/bob"})
        )
        .await
        .error(),
        DENIED_BY_POLICY
    );

    // It lives without the token it was made with, and dies when it is withdrawn, its children with it.
    assert_eq!(
        put(&house, &alice, "auth/token/revoke-self", json!({}))
            .await
            .status,
        204
    );
    assert_eq!(house.get(&creds, &secret).await.status, 200);
    let alice = token_of(&house, "alice").await;
    let id = text(&given.json, "/data/id");
    assert_eq!(
        house
            .call(
                "DELETE",
                &format!("delegation/{ALICE}"),
                Some(&alice),
                json!({"id": id})
            )
            .await
            .status,
        400,
        "a DELETE has no body"
    );
    assert_eq!(
        house
            .call(
                "DELETE",
                &format!("delegation/{ALICE}?id={id}"),
                Some(&alice),
                Value::Null
            )
            .await
            .status,
        204
    );
    for token in [&secret, &child] {
        assert_eq!(house.get(&creds, token).await.error(), DENIED);
    }
}

#[tokio::test]
async fn those_who_care_for_a_group_account_give_its_robots_tokens_without_end() {
    let house = robot_house().await;
    let login = log_in_with(&house, "alice", &["/dune", "/dune/production"]).await;
    let alice = text(&login, "/client_token").to_owned();
    let name = "dune/dunepro/managedtokens/host.example.org:default";
    let creds = format!("secret/oauth/creds/{name}");
    let stored = put(
        &house,
        &alice,
        &creds,
        json!({"server": "dune", "refresh_token": login["metadata"]["oauth2_refresh_token"]}),
    )
    .await;
    assert_eq!(stored.status, 204, "{}", stored.text);
    let robot = put(
        &house,
        &alice,
        &format!("robot/{name}"),
        json!({"period": "14d", "bound_cidrs": "192.0.2.0/24"}),
    )
    .await;
    assert_eq!(robot.status, 200, "{}", robot.text);
    let secret = text(&robot.json, "/auth/client_token").to_owned();
    let id = text(&robot.json, "/data/id").to_owned();
    assert_eq!(
        (
            &robot.json["data"]["period"],
            &robot.json["data"]["expire_time"]
        ),
        (&json!(1_209_600), &Value::Null)
    );
    let found = house.get("auth/token/lookup-self", &secret).await.json["data"].clone();
    assert_eq!(
        (&found["period"], &found["path"]),
        (&json!(1_209_600), &json!(format!("robot/{name}")))
    );

    // Whoever is not in the group is refused, whatever they name.
    let bob = log_in_with(&house, "bob", &["/dune"]).await;
    let bob = text(&bob, "/client_token").to_owned();
    for path in [
        &creds,
        &format!("robot/{name}"),
        &format!("delegation/{name}"),
    ] {
        let body = json!({"server": "dune", "refresh_token": "x", "to": "oidc-dune/bob"});
        assert_eq!(
            put(&house, &bob, path, body).await.error(),
            DENIED_BY_POLICY,
            "{path}"
        );
        assert_eq!(
            house.get(path, &bob).await.error(),
            DENIED_BY_POLICY,
            "{path}"
        );
    }
    // But for a robot of their own.
    let own = "dune/bob/cron/host:default";
    let bobs = put(&house, &bob, &format!("robot/{own}"), json!({})).await;
    assert_eq!(bobs.status, 404, "nothing is stored there yet");

    // The robot renews itself, or somebody of the group does, for as long as anybody wants.
    for round in 0..8 {
        house.clock.pass(Duration::from_secs(1_000_000));
        let renewed = if round % 2 == 0 {
            put(&house, &secret, "auth/token/renew-self", json!({})).await
        } else {
            let login = log_in_with(&house, "carol", &["/dune/production"]).await;
            let carol = text(&login, "/client_token").to_owned();
            let renewed = put(&house, &carol, &format!("robot/{name}"), json!({"id": id})).await;
            assert_eq!(renewed.json["auth"]["client_token"], "", "not shown again");
            renewed
        };
        assert_eq!(
            renewed.json["auth"]["lease_duration"], 1_209_600,
            "{}",
            renewed.text
        );
        assert_eq!(house.get(&creds, &secret).await.status, 200);
    }
    assert_eq!(
        house
            .get_from("198.51.100.1", &creds, &secret)
            .await
            .error(),
        DENIED
    );

    // The rule ends: the people lose their right at once, the robots go on.
    let login = log_in_with(&house, "carol", &["/dune/production"]).await;
    let carol = text(&login, "/client_token").to_owned();
    assert_eq!(house.get(&creds, &carol).await.status, 200);
    let rules = with_rules(&house, &[("/dune/operations", Some("dunepro"))]);
    house.keeper.reconfigure(rules).await.unwrap();
    assert_eq!(house.get(&creds, &carol).await.error(), DENIED_BY_POLICY);
    assert_eq!(
        put(&house, &carol, &format!("robot/{name}"), json!({"id": id}))
            .await
            .error(),
        DENIED_BY_POLICY
    );
    assert_eq!(house.get(&creds, &secret).await.status, 200);

    let operator = house.operator().await;
    assert_eq!(
        put(
            &house,
            &operator,
            "sys/leases/revoke-prefix/robot/dune/dunepro",
            json!({})
        )
        .await
        .status,
        204
    );
    assert_eq!(house.get(&creds, &secret).await.error(), DENIED);
}

#[tokio::test]
async fn a_robots_token_with_an_end_is_not_renewed_beyond_it() {
    let house = robot_house().await;
    let login = log_in_with(&house, "alice", &["/dune"]).await;
    let alice = text(&login, "/client_token").to_owned();
    let robot = put(
        &house,
        &alice,
        &format!("robot/{ALICE}"),
        json!({"period": "10d", "ttl": "15d"}),
    )
    .await;
    assert_eq!(robot.status, 200, "{}", robot.text);
    let secret = text(&robot.json, "/auth/client_token").to_owned();
    house.clock.pass(Duration::from_secs(8 * 86_400));
    let renewed = put(
        &house,
        &secret,
        "auth/token/renew-self",
        json!({"increment": "99d"}),
    )
    .await;
    assert_eq!(
        renewed.json["auth"]["lease_duration"],
        7 * 86_400,
        "{}",
        renewed.text
    );
    house.clock.pass(Duration::from_secs(7 * 86_400 + 3600));
    assert_eq!(
        put(&house, &secret, "auth/token/renew-self", json!({}))
            .await
            .error(),
        DENIED
    );
    let long = put(
        &house,
        &alice,
        &format!("robot/{ALICE}"),
        json!({"period": "400d"}),
    )
    .await;
    assert_eq!(long.json["data"]["period"], 2_419_200, "{}", long.text);
}

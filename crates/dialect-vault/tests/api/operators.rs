//! What operators do by API: token roles, leases, policies with their guards, questions about the server.

use std::time::Duration;

use serde_json::{Value, json};

use super::common::{House, NOW, house};
use super::{DENIED, DENIED_BY_POLICY, UNSUPPORTED, text};

const UNSUPPORTED_PATH: &str = "1 error occurred:\n\t* unsupported path\n\n";

async fn put(house: &House, token: &str, path: &str, body: Value) -> super::common::Answer {
    house.call("POST", path, Some(token), body).await
}

#[tokio::test]
async fn a_role_lets_others_make_tokens_without_sudo() {
    let house = house().await;
    let operator = house.operator().await;
    let rules = "path \"auth/token/create/robots\" { capabilities = [\"update\"] }";
    for (name, policy) in [
        ("makers", rules),
        ("reader", "path \"x\" { capabilities = [\"read\"] }"),
    ] {
        let path = format!("sys/policies/acl/{name}");
        assert_eq!(
            put(&house, &operator, &path, json!({"policy": policy}))
                .await
                .status,
            204
        );
    }
    let role = json!({"allowed_policies": "reader", "allowed_policies_glob": ["oidc-*"], "disallowed_policies": "operator",
        "orphan": true, "token_period": "168h", "token_bound_cidrs": "192.0.2.0/24", "token_num_uses": 0, "path_suffix": "night"});
    assert_eq!(
        put(&house, &operator, "auth/token/roles/robots", role)
            .await
            .status,
        204
    );
    // What is not sent stays.
    assert_eq!(
        put(
            &house,
            &operator,
            "auth/token/roles/robots",
            json!({"renewable": "true"})
        )
        .await
        .status,
        204
    );
    let read = house.get("auth/token/roles/robots", &operator).await.json["data"].clone();
    assert_eq!(read["token_period"], 604_800);
    assert_eq!(read["allowed_policies_glob"], json!(["oidc-*"]));
    assert_eq!(
        (&read["orphan"], &read["renewable"], &read["name"]),
        (&json!(true), &json!(true), &json!("robots"))
    );
    let listed = house
        .call("LIST", "auth/token/roles", Some(&operator), Value::Null)
        .await;
    assert_eq!(listed.json["data"]["keys"], json!(["robots"]));

    let maker = put(
        &house,
        &operator,
        "auth/token/create",
        json!({"policies": ["makers"], "no_default_policy": true}),
    )
    .await;
    let maker = text(&maker.json, "/auth/client_token").to_owned();
    let made = put(
        &house,
        &maker,
        "auth/token/create/robots",
        json!({"role_name": "other"}),
    )
    .await;
    assert_eq!(made.status, 200, "{}", made.text);
    assert_eq!(
        made.json["auth"]["policies"],
        json!(["default", "reader"]),
        "not the maker's own"
    );
    assert_eq!(made.json["auth"]["orphan"], true);
    assert_eq!(made.json["auth"]["lease_duration"], 604_800);
    let secret = text(&made.json, "/auth/client_token").to_owned();
    let found = house.get("auth/token/lookup-self", &secret).await.json["data"].clone();
    assert_eq!(
        (&found["role"], &found["period"]),
        (&json!("robots"), &json!(604_800))
    );
    assert_eq!(found["bound_cidrs"], json!(["192.0.2.0/24"]));
    assert_eq!(found["path"], "auth/token/create/robots/night");

    for (body, error) in [
        (
            json!({"policies": "operator"}),
            "must be subset of the role's allowed policies",
        ),
        (
            json!({"policies": "tokenops"}),
            "must be subset of the role's allowed policies",
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
            json!({"bound_cidrs": "0.0.0.0/0"}),
            "not within those of the parent",
        ),
        (json!({"entity_alias": "bob"}), "entity_alias"),
        (
            json!({"type": "batch"}),
            "token type \"batch\" is not supported",
        ),
    ] {
        let refused = put(&house, &maker, "auth/token/create/robots", body.clone()).await;
        assert_eq!(refused.status, 400, "{body}");
        assert!(refused.error().contains(error), "{body}: {}", refused.text);
    }
    let wider = put(
        &house,
        &maker,
        "auth/token/create/robots",
        json!({"policies": "oidc-dune_default"}),
    )
    .await;
    assert_eq!(
        wider.json["auth"]["policies"],
        json!(["default", "oidc-dune_default"]),
        "{}",
        wider.text
    );
    assert_eq!(
        put(&house, &maker, "auth/token/create/other", json!({}))
            .await
            .error(),
        DENIED_BY_POLICY
    );
    assert_eq!(
        put(&house, &maker, "auth/token/create", json!({}))
            .await
            .error(),
        DENIED_BY_POLICY
    );
    assert_eq!(
        put(&house, &operator, "auth/token/create/nosuch", json!({}))
            .await
            .error(),
        "unknown role nosuch"
    );

    // Renewed for ever, far beyond the system's limit; but not once the role is gone.
    for _ in 0..6 {
        house.clock.pass(Duration::from_secs(600_000));
        let renewed = put(&house, &secret, "auth/token/renew-self", json!({})).await;
        assert_eq!(
            renewed.json["auth"]["lease_duration"], 604_800,
            "{}",
            renewed.text
        );
    }
    let operator = house.operator().await;
    assert_eq!(
        house
            .call(
                "DELETE",
                "auth/token/roles/robots",
                Some(&operator),
                Value::Null
            )
            .await
            .status,
        204
    );
    assert_eq!(
        house.get("auth/token/roles/robots", &operator).await.status,
        404
    );
    assert_eq!(
        put(&house, &secret, "auth/token/renew-self", json!({}))
            .await
            .error(),
        "original token role \"robots\" could not be found, not renewing"
    );
    for (body, error) in [
        (
            json!({"token_bound_cidrs": "192.0.2.0/33"}),
            "not an address or an address range",
        ),
        (json!({"token_type": "batch"}), "not supported"),
        (json!({"allowed_entity_aliases": "a"}), "not supported"),
        (json!({"path_suffix": "a/../b"}), "invalid characters"),
        (json!({"token_num_uses": -1}), "negative"),
    ] {
        let refused = put(&house, &operator, "auth/token/roles/bad", body).await;
        assert_eq!(refused.status, 400);
        assert!(refused.error().contains(error), "{}", refused.text);
    }
    assert_eq!(
        put(&house, &operator, "auth/token/roles/a%20b", json!({}))
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn all_logins_of_an_issuer_are_ended_by_their_path() {
    let house = house().await;
    let operator = house.operator().await;
    let (alice, bob) = (house.log_in("alice").await, house.log_in("bob").await);
    let (alice, bob) = (text(&alice, "/client_token"), text(&bob, "/client_token"));
    let child = put(&house, alice, "auth/token/create", json!({"ttl": "1h"})).await;
    let child = text(&child.json, "/auth/client_token").to_owned();
    let list = |path: &str| {
        let (house, operator, path) = (&house, operator.clone(), path.to_owned());
        async move {
            house
                .call("LIST", &path, Some(&operator), Value::Null)
                .await
        }
    };
    assert_eq!(
        list("sys/leases/lookup").await.json["data"]["keys"],
        json!(["auth/"])
    );
    let keys = list("sys/leases/lookup/auth").await.json["data"]["keys"].clone();
    assert_eq!(keys, json!(["oidc-dune/", "operator/", "token/"]));
    let leases = list("sys/leases/lookup/auth/oidc-dune/oidc/poll").await;
    let leases = leases.json["data"]["keys"].as_array().unwrap().clone();
    assert_eq!(leases.len(), 2);
    let lease = format!("auth/oidc-dune/oidc/poll/{}", leases[0].as_str().unwrap());
    let found = put(
        &house,
        &operator,
        "sys/leases/lookup",
        json!({"lease_id": lease}),
    )
    .await;
    assert_eq!(found.json["data"]["id"], lease.as_str(), "{}", found.text);
    assert!(found.json["data"]["ttl"].as_u64().unwrap() > 2_400_000);
    assert!(
        put(
            &house,
            &operator,
            "sys/leases/renew",
            json!({"lease_id": lease})
        )
        .await
        .error()
        .contains("does not correspond to a secret")
    );
    for wrong in [
        "auth/oidc-dune/h00",
        "x",
        "auth/token/create/h00000000000000000000000000000000",
    ] {
        assert_eq!(
            put(
                &house,
                &operator,
                "sys/leases/lookup",
                json!({"lease_id": wrong})
            )
            .await
            .error(),
            "invalid lease ID"
        );
        assert_eq!(
            put(
                &house,
                &operator,
                "sys/leases/revoke",
                json!({"lease_id": wrong})
            )
            .await
            .status,
            204
        );
    }
    assert_eq!(
        put(
            &house,
            alice,
            "sys/leases/revoke-prefix/auth/oidc-dune",
            json!({})
        )
        .await
        .error(),
        DENIED_BY_POLICY
    );

    // A name that only begins alike is another mount.
    assert_eq!(
        put(
            &house,
            &operator,
            "sys/leases/revoke-prefix/auth/oidc-dun",
            json!({})
        )
        .await
        .status,
        204
    );
    assert_eq!(house.get("auth/token/lookup-self", alice).await.status, 200);
    assert_eq!(
        put(
            &house,
            &operator,
            "sys/leases/revoke-prefix/auth/oidc-dune",
            json!({})
        )
        .await
        .status,
        204
    );
    for token in [alice, bob, &child] {
        assert_eq!(
            house.get("auth/token/lookup-self", token).await.error(),
            DENIED
        );
    }
    assert_eq!(
        house.get("auth/token/lookup-self", &operator).await.status,
        200
    );
    assert_eq!(list("sys/leases/lookup/auth/oidc-dune").await.status, 404);

    let again = house.log_in("alice").await;
    let again = text(&again, "/client_token");
    let lease = list("sys/leases/lookup/auth/oidc-dune/oidc/poll")
        .await
        .json["data"]["keys"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("sys/leases/revoke/auth/oidc-dune/oidc/poll/{lease}");
    assert_eq!(put(&house, &operator, &path, json!({})).await.status, 204);
    assert_eq!(
        house.get("auth/token/lookup-self", again).await.error(),
        DENIED
    );
}

#[tokio::test]
async fn a_policy_is_guarded_by_its_version_and_may_end() {
    let house = house().await;
    let operator = house.operator().await;
    let rules = "path \"sys/mounts\" { capabilities = [\"read\"] }";
    let path = "sys/policies/acl/short";
    let with = |more: Value| {
        let mut body = json!({"policy": rules});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    assert_eq!(
        put(&house, &operator, path, with(json!({"cas": 3})))
            .await
            .error(),
        "check-and-set parameter did not match the current version"
    );
    assert_eq!(
        put(
            &house,
            &operator,
            path,
            with(json!({"cas": -1, "cas_required": true, "ttl": "1h"}))
        )
        .await
        .status,
        204
    );
    assert_eq!(
        put(&house, &operator, path, with(json!({}))).await.error(),
        "check-and-set parameter required for this call"
    );
    assert_eq!(
        put(&house, &operator, path, with(json!({"cas": -1})))
            .await
            .status,
        400
    );
    let read = house.get(path, &operator).await.json["data"].clone();
    assert_eq!(
        (&read["version"], &read["cas_required"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(read["expiration"], "2026-07-31T13:13:20Z");
    let reader = put(
        &house,
        &operator,
        "auth/token/create-orphan",
        json!({"policies": ["short"], "ttl": "10h"}),
    )
    .await;
    let reader = text(&reader.json, "/auth/client_token").to_owned();
    assert_eq!(house.get("sys/mounts", &reader).await.status, 200);
    // At its end no clock is exact enough to refuse for good.
    house.clock.pass(Duration::from_secs(3600));
    let now = house.get("sys/mounts", &reader).await;
    assert_eq!(now.status, 503, "{}", now.text);
    assert!(
        now.error()
            .contains("the policy that allows this has ended")
    );
    house.clock.pass(Duration::from_secs(61));
    assert_eq!(
        house.get("sys/mounts", &reader).await.error(),
        DENIED_BY_POLICY
    );
    // While the clock is in doubt it is no proof.
    house.clock.jump_to(NOW + 5 * 86_400);
    let doubtful = house.get("sys/mounts", &reader).await;
    assert_eq!(doubtful.status, 503, "{}", doubtful.text);
    assert!(!doubtful.text.contains("permission denied"));
    house.clock.jump_to(NOW + 3661);
    house.keeper.confirm_clock();
    let operator = house.operator().await;
    assert_eq!(house.get(path, &operator).await.status, 404);
    assert!(
        !house
            .call("LIST", "sys/policies/acl", Some(&operator), Value::Null)
            .await
            .text
            .contains("\"short\"")
    );
    assert!(
        put(
            &house,
            &operator,
            path,
            with(json!({"expiration": "2020-01-01T00:00:00Z"}))
        )
        .await
        .error()
        .contains("past")
    );
    assert_eq!(
        put(
            &house,
            &operator,
            path,
            with(json!({"expiration": "2026-07-31T16:13:20Z"}))
        )
        .await
        .status,
        204
    );
    assert_eq!(house.get("sys/mounts", &reader).await.status, 200);
}

#[tokio::test]
async fn questions_about_the_server_are_answered() {
    let house = house().await;
    let operator = house.operator().await;
    let alice = house.log_in("alice").await;
    let alice = text(&alice, "/client_token").to_owned();
    let tune = house.get("sys/auth/oidc-dune/tune", &operator).await;
    assert_eq!(
        tune.json["data"]["max_lease_ttl"], 2_419_200,
        "{}",
        tune.text
    );
    assert_eq!(
        house
            .get("sys/mounts/secret/oauth/tune", &operator)
            .await
            .json["force_no_cache"],
        false
    );
    let plugin = house.get("sys/plugins/catalog/auth/oidc", &operator).await;
    assert_eq!(plugin.json["data"]["builtin"], true);
    assert_eq!(
        put(
            &house,
            &operator,
            "sys/plugins/catalog/auth/oidc",
            json!({})
        )
        .await
        .status,
        405
    );
    assert_eq!(
        house
            .get("sys/plugins/catalog/auth/nosuch", &operator)
            .await
            .status,
        404
    );
    assert!(
        house
            .call(
                "LIST",
                "sys/plugins/catalog/secret",
                Some(&operator),
                Value::Null
            )
            .await
            .text
            .contains("oauth")
    );
    assert_eq!(
        put(
            &house,
            &operator,
            "sys/plugins/reload/backend",
            json!({"plugin": "x"})
        )
        .await
        .status,
        204
    );
    assert!(
        house.get("sys/host-info", &operator).await.json["data"]["memory"]["total"]
            .as_u64()
            .unwrap()
            > 0
    );
    assert_eq!(
        house.get("sys/audit", &operator).await.json["data"],
        json!({}),
        "no file in this test"
    );
    assert!(
        put(&house, &operator, "sys/audit/file", json!({"type": "file"}))
            .await
            .error()
            .starts_with("cannot enable audit device via API")
    );

    // The mount of a path, for those who may use something there.
    let mount = house
        .get("sys/internal/ui/mounts/secret/oauth/creds/dune", &alice)
        .await;
    assert_eq!(
        (&mount.json["data"]["type"], &mount.json["data"]["path"]),
        (&json!("oauth"), &json!("secret/oauth/")),
        "{}",
        mount.text
    );
    for (path, shown) in [("sys", "sys/"), ("nosuch/x", "nosuch/x/")] {
        let refused = house
            .get(&format!("sys/internal/ui/mounts/{path}"), &alice)
            .await;
        assert_eq!(refused.status, 403);
        assert_eq!(
            refused.error(),
            format!(
                "preflight capability check returned 403, please ensure client's policies grant access to path \"{shown}\""
            )
        );
    }
    assert_eq!(
        house
            .call("GET", "sys/internal/ui/mounts/sys", None, Value::Null)
            .await
            .error(),
        DENIED
    );

    // Help needs a token and no policy, and does nothing.
    let help = house
        .get("secret/oauth/creds/dune/alice:default?help=1", &alice)
        .await;
    assert!(text(&help.json, "/help").contains("minimum_seconds"));
    assert!(house.get("sys/seal-status?help=1", &alice).await.json["help"].is_string());
    assert!(
        house
            .get("auth/oidc-dune/oidc/poll?help=1", &alice)
            .await
            .json["help"]
            .is_string()
    );
    assert_eq!(
        house
            .call("GET", "sys/health?help=1", None, Value::Null)
            .await
            .error(),
        DENIED
    );
    let line = house
        .audit
        .drain()
        .into_iter()
        .rev()
        .find(|line| line["request"]["operation"] == "help");
    assert!(line.is_some());

    for (path, error) in [
        ("sys/wrapping/lookupx", UNSUPPORTED_PATH),
        ("secret/oauth/self/x", UNSUPPORTED_PATH),
        ("auth/token/nosuch", UNSUPPORTED_PATH),
        (
            "kv/data/x",
            "no handler for route \"kv/data/x\". route entry not found.",
        ),
    ] {
        let answer = house.get(path, &operator).await;
        assert_eq!((answer.status, answer.error()), (404, error), "{path}");
        assert_eq!(
            house.get(path, &alice).await.error(),
            DENIED_BY_POLICY,
            "no token learns what there is"
        );
    }
    assert_eq!(
        house
            .call("DELETE", "sys/host-info", Some(&operator), Value::Null)
            .await
            .error(),
        UNSUPPORTED
    );
}

//! `sys/*`.

use serde_json::{Value, json};

use super::common::{NOW, house, setup};
use super::text;

/// What `Sys().Health()` of the Go library asks, with every code that is data to it.
pub(super) const GO_HEALTH: &str = "sys/health?drsecondarycode=299&haunhealthycode=299&performancestandbycode=299&removedcode=299&sealedcode=299&standbycode=299&uninitcode=299";

#[tokio::test]
async fn the_go_library_may_name_its_own_codes() {
    let house = house().await;
    let health = house.call("GET", GO_HEALTH, None, Value::Null).await;
    assert_eq!(health.status, 200, "{}", health.text);
    for (code, status) in [
        ("299", 299),
        ("200", 200),
        ("218", 218),
        ("503", 503),
        ("300", 300),
        ("100", 400),
        ("199", 400),
        ("472", 400),
        ("600", 400),
        ("999", 400),
        ("1000", 400),
        ("-299", 400),
        ("0x12b", 400),
        ("", 400),
    ] {
        let path = format!("sys/health?activecode={code}");
        let answer = house.call("GET", &path, None, Value::Null).await;
        assert_eq!(answer.status, status, "{code}");
    }
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
async fn a_removed_issuer_is_explained_and_its_mount_gone() {
    let house = house().await;
    let login = house.log_in("alice").await;
    let token = text(&login, "/client_token");
    let creds = "secret/oauth/creds/dune/alice:default";
    assert_eq!(house.get(creds, token).await.status, 200);
    let mut without = setup(&house.issuer);
    without.issuers.retain(|issuer| issuer.name != "dune");
    house.keeper.reconfigure(without).await.unwrap();
    for answer in [
        house.get(creds, token).await,
        house
            .call(
                "POST",
                "auth/oidc-dune/oidc/auth_url",
                None,
                json!({"client_nonce": "n"}),
            )
            .await,
    ] {
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert!(answer.error().contains("dune"), "{}", answer.text);
        assert!(
            !answer.text.contains("permission denied"),
            "{}",
            answer.text
        );
        assert!(answer.headers.contains_key("retry-after"));
    }
    let operator = house.operator().await;
    let mounts = house.get("sys/auth", &operator).await;
    assert!(mounts.json["data"].get("oidc-dune/").is_none());
    house
        .keeper
        .reconfigure(setup(&house.issuer))
        .await
        .unwrap();
    assert_eq!(house.get(creds, token).await.status, 200);
    let lines = house.audit.drain();
    assert_eq!(lines.last().unwrap()["request"]["mount_type"], "oauth");
}

//! What follows from the configuration files: shown as the original shows it, and written there only.

use gridkeep_keeper::{BoundClaim, ClaimName, LoginTerms, Seconds};
use serde_json::{Value, json};

use super::common::{house, setup};

#[tokio::test]
async fn issuers_roles_and_servers_are_shown_without_secrets() {
    let house = house().await;
    let mut configured = setup(&house.issuer);
    configured.issuers[1].roles[1].name = "Production".into();
    configured.issuers[1].roles[1].terms = LoginTerms {
        ttl: Some(Seconds(3600)),
        bound_cidrs: vec!["192.0.2.0/24".parse().unwrap()],
        bound_claims: vec![BoundClaim {
            claim: ClaimName::parse("groups"),
            values: vec!["/prod".into()],
        }],
        ..LoginTerms::default()
    };
    house.keeper.reconfigure(configured).await.unwrap();
    let operator = house.operator().await;
    let data = async |path: &str| house.get(path, &operator).await.json["data"].clone();
    let config = data("auth/oidc-cms/config").await;
    assert_eq!(
        (
            &config["oidc_discovery_url"],
            &config["oidc_client_id"],
            &config["default_role"]
        ),
        (
            &json!("https://issuer.example.org"),
            &json!("client"),
            &json!("default")
        )
    );
    assert!(config.get("oidc_client_secret").is_none());
    let role = data("auth/oidc-cms/role/production").await;
    for (field, value) in [
        ("role_type", json!("oidc")),
        ("user_claim", json!("wlcg.credkey")),
        ("claim_mappings", json!({"wlcg.credkey": "credkey"})),
        ("groups_claim", json!("")),
        ("oauth2_metadata", json!(["refresh_token"])),
        ("oidc_scopes", json!(["storage.create:/"])),
        ("callback_mode", json!("direct")),
        ("oidc_disable_confirmation", json!(false)),
        ("poll_interval", json!(3)),
        (
            "allowed_redirect_uris",
            json!(["https://vault.example.org:8200/v1/auth/oidc-cms/oidc/callback"]),
        ),
        ("token_policies", json!(["oidc-cms_production", "tokenops"])),
        ("token_no_default_policy", json!(true)),
        ("token_ttl", json!(3600)),
        ("token_bound_cidrs", json!(["192.0.2.0/24"])),
        ("bound_claims", json!({"groups": ["/prod"]})),
    ] {
        assert_eq!(role[field], value, "{field}");
    }
    assert_eq!(
        data("auth/oidc-dune/role/default").await["callback_mode"],
        "device"
    );
    assert_eq!(
        data("auth/oidc-icecube/role/default").await["oidc_disable_confirmation"],
        true
    );
    assert_eq!(
        data("secret/oauth/servers/cms").await,
        json!({"client_id": "client", "auth_url_params": null, "provider": "oidc", "provider_version": 1, "provider_options": {"issuer_url": "https://issuer.example.org"}})
    );
    assert_eq!(
        data("secret/oauth/config").await["default_server"],
        "legacy"
    );
    let token = Some(operator.as_str());
    for (path, keys) in [
        ("auth/oidc-cms/role", json!(["default", "production"])),
        ("secret/oauth/servers", json!(["cms", "dune", "icecube"])),
    ] {
        let listed = house.call("LIST", path, token, Value::Null).await;
        assert_eq!(listed.json["data"]["keys"], keys, "{path}");
    }
    for path in [
        "auth/oidc-nosuch/config",
        "auth/oidc-cms/role/nosuch",
        "secret/oauth/servers/nosuch",
    ] {
        assert_eq!(house.get(path, &operator).await.status, 404, "{path}");
    }
    let alice = house.log_in("alice").await;
    let alice = alice["client_token"].as_str().unwrap();
    assert_eq!(house.get("auth/oidc-dune/config", alice).await.status, 403);
}

#[tokio::test]
async fn what_is_shown_has_no_secret() {
    let house = crate::kerberos::with_tickets().await;
    let operator = house.operator().await;
    let data = async |path: &str| house.get(path, &operator).await.json["data"].clone();
    assert_eq!(
        data("auth/kerberos-dune_default/config").await,
        json!({"service_account": "host/tokens.lab.example", "add_group_aliases": false, "remove_instance_name": false, "decode_pac": true}),
    );
    let ldap = data("auth/kerberos-dune_production/config/ldap").await;
    assert_eq!(
        ldap["token_policies"],
        json!(["kerberos-dune_production", "tokenops"])
    );
    assert_eq!(ldap["token_no_default_policy"], true);
    assert_eq!(ldap["url"], "");
    let config = data("auth/oidc-dune/config").await;
    assert_eq!(config["oidc_discovery_url"], "https://issuer.example.org");
    for path in [
        "auth/kerberos-dune_default/groups/physics",
        "auth/kerberos-dune_nosuch/config",
        "auth/kerberos-cms_default/config",
        "auth/kerberos-cms_default/config/ldap",
    ] {
        assert_eq!(house.get(path, &operator).await.status, 404, "{path}");
    }
    let token = Some(operator.as_str());
    let groups = "auth/kerberos-dune_default/groups";
    assert_eq!(
        house.call("LIST", groups, token, Value::Null).await.status,
        404
    );
    for (path, why) in [
        (
            "auth/kerberos-dune_default/config",
            "change kerberos there and reload",
        ),
        (
            "auth/kerberos-dune_default/config/ldap",
            "change kerberos there and reload",
        ),
        (
            "auth/kerberos-dune_default/groups/physics",
            "have no groups here",
        ),
    ] {
        let body = json!({"keytab": "BQIAAAA=", "policies": "x"});
        let answer = house.call("POST", path, token, body).await;
        assert_eq!(answer.status, 405, "{path}: {}", answer.text);
        assert!(answer.error().contains(why), "{path}: {}", answer.text);
    }
    let alice = house.log_in("alice").await;
    let alice = alice["client_token"].as_str().unwrap();
    for path in ["auth/kerberos-dune_default/config", groups] {
        assert_eq!(house.get(path, alice).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn writing_them_is_refused_with_the_key_to_change() {
    let house = crate::kerberos::with_tickets().await;
    let operator = house.operator().await;
    for (path, key) in [
        ("auth/oidc-dune/config", "issuers[dune]"),
        ("auth/oidc-dune/role/pilot", "issuers[dune].roles[pilot]"),
        ("secret/oauth/servers/dune", "issuers[dune]"),
        ("secret/oauth/config", "issuers"),
        ("sys/auth/oidc-dune", "issuers"),
        ("sys/auth/oidc-dune/tune", "issuers"),
        ("sys/auth/kerberos-dune_default", "kerberos"),
        ("sys/mounts/secret/oauth", "issuers"),
    ] {
        for (method, body) in [("POST", json!({"type": "oidc"})), ("DELETE", Value::Null)] {
            let answer = house.call(method, path, Some(&operator), body).await;
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text);
            let wanted = format!("cannot be changed by API; change {key} there and reload");
            assert!(answer.error().contains(&wanted), "{path}: {}", answer.text);
        }
    }
    // What is not there does not follow from the files.
    for path in [
        "sys/auth/userpass",
        "sys/auth/oidc-new",
        "sys/auth/kerberos-dune_nosuch",
        "sys/auth/ssh",
        "sys/mounts/kv",
    ] {
        for (method, body) in [
            ("POST", json!({"type": "userpass"})),
            ("DELETE", Value::Null),
        ] {
            let answer = house.call(method, path, Some(&operator), body).await;
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text);
            let name = path.rsplit('/').next().unwrap();
            let wanted = format!("there is no mount \"{name}/\" on this server");
            assert!(answer.error().contains(&wanted), "{path}: {}", answer.text);
        }
    }
    for path in ["sys/auth/token", "sys/mounts/delegation/tune"] {
        let answer = house
            .call("POST", path, Some(&operator), json!({"description": "x"}))
            .await;
        assert_eq!(answer.status, 405, "{path}: {}", answer.text);
        assert!(
            answer.error().contains("is built in"),
            "{path}: {}",
            answer.text
        );
    }
    for (name, wanted) in [
        ("tokenops", "is built in"),
        ("operator", "is built in"),
        ("oidc-dune_default", "configuration files of this server"),
    ] {
        let path = format!("sys/policies/acl/{name}");
        let answer = house
            .call(
                "POST",
                &path,
                Some(&operator),
                json!({"policy": "path \"x\" { capabilities = [\"read\"] }"}),
            )
            .await;
        assert_eq!(answer.status, 405, "{name}");
        assert!(answer.error().contains(wanted), "{}", answer.text);
    }
}

#[tokio::test]
async fn in_a_cluster_the_node_is_named_whose_files_they_are() {
    let house = house().await;
    let operator = house.operator().await;
    let mut setup = (*house.keeper.setup()).clone();
    setup.published_by = Some("gk1.example.org".to_owned());
    house.keeper.reconfigure(setup).await.unwrap();
    for path in [
        "auth/oidc-dune/config",
        "sys/auth/oidc-dune/tune",
        "sys/policies/acl/oidc-dune_default",
    ] {
        let body = json!({"policy": "path \"x\" { capabilities = [\"read\"] }"});
        let answer = house.call("POST", path, Some(&operator), body).await;
        assert_eq!(answer.status, 405, "{path}: {}", answer.text);
        let wanted = "configuration files of node gk1.example.org and cannot be changed by API";
        assert!(answer.error().contains(wanted), "{path}: {}", answer.text);
    }
}

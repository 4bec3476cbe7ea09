//! Rate limits: who is counted with whom, what is told, what operators read and write.

use std::time::Duration;

use gridkeep_keeper::{CountedBy, RateLimit, Setup};
use serde_json::{Value, json};

use super::common::{Answer, House, house, setup};

fn limit(name: &str, path: &str, rate: u64, block: u64, per: CountedBy) -> RateLimit {
    RateLimit {
        name: name.into(),
        path: path.into(),
        rate,
        interval: Duration::from_secs(60),
        block_interval: Duration::from_secs(block),
        per,
    }
}

async fn limited(limits: Vec<RateLimit>) -> House {
    let house = house().await;
    configure(&house, limits).await;
    house
}

async fn configure(house: &House, rate_limits: Vec<RateLimit>) {
    let setup = Setup {
        rate_limits,
        ..setup(&house.issuer)
    };
    house.keeper.reconfigure(setup).await.unwrap();
}

async fn from(house: &House, address: &str, path: &str, token: Option<&str>) -> Answer {
    let headers: Vec<_> = token
        .map(|token| ("x-vault-token", token))
        .into_iter()
        .collect();
    house
        .send_from(
            format!("{address}:40000").parse().unwrap(),
            "GET",
            &format!("/v1/{path}"),
            &headers,
            "",
        )
        .await
}

#[tokio::test]
async fn an_address_that_sends_too_much_is_told_so_and_shut_out() {
    let house = limited(vec![limit("all", "", 3, 120, CountedBy::Address)]).await;
    let path = "sys/internal/ui/mounts";
    for _ in 0..3 {
        assert_eq!(from(&house, "192.0.2.7", path, None).await.status, 200);
    }
    house.audit.drain();
    let refused = from(&house, "192.0.2.7", path, None).await;
    assert_eq!(refused.status, 429);
    assert_eq!(
        refused.error(),
        "request path \"sys/internal/ui/mounts\": rate limit quota exceeded"
    );
    assert_eq!(refused.headers["retry-after"], "120");
    assert!(!refused.headers.contains_key("x-ratelimit-limit"));
    assert!(
        house.audit.drain().is_empty(),
        "a flood does not fill the log"
    );
    // Another address, and what is always exempt.
    assert_eq!(from(&house, "192.0.2.8", path, None).await.status, 200);
    for exempt in ["sys/health", "sys/seal-status"] {
        assert_eq!(from(&house, "192.0.2.7", exempt, None).await.status, 200);
    }
    assert_eq!(
        from(&house, "192.0.2.7", "sys/leader", None).await.status,
        429
    );
    house.clock.pass(Duration::from_secs(119));
    let refused = from(&house, "192.0.2.7", path, None).await;
    assert_eq!(
        (refused.status, &refused.headers["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    house.clock.pass(Duration::from_secs(1));
    assert_eq!(from(&house, "192.0.2.7", path, None).await.status, 200);
}

#[tokio::test]
async fn one_network_of_ipv6_is_one_address() {
    let house = limited(vec![limit("all", "", 1, 0, CountedBy::Address)]).await;
    let path = "sys/internal/ui/mounts";
    assert_eq!(
        from(&house, "[2001:db8:0:1::1]", path, None).await.status,
        200
    );
    assert_eq!(
        from(&house, "[2001:db8:0:1:9::2]", path, None).await.status,
        429
    );
    assert_eq!(
        from(&house, "[2001:db8:0:2::1]", path, None).await.status,
        200
    );
}

#[tokio::test]
async fn the_most_specific_limit_alone_decides() {
    let house = limited(vec![
        limit("all", "", 1, 0, CountedBy::Address),
        limit("dune", "auth/oidc-dune", 3, 0, CountedBy::Address),
        limit("reads", "secret/oauth/creds/*", 2, 0, CountedBy::Address),
    ])
    .await;
    let login = async |mount: &str| {
        let path = format!("auth/{mount}/oidc/auth_url");
        let body = json!({"role": "default", "client_nonce": "n", "redirect_uri": "x"});
        house.call("POST", &path, None, body).await.status
    };
    assert_eq!(
        [
            login("oidc-dune").await,
            login("oidc-dune").await,
            login("oidc-dune").await,
            login("oidc-dune").await
        ],
        [200, 200, 200, 429]
    );
    assert_eq!(
        [login("oidc-cms").await, login("oidc-cms").await],
        [200, 429]
    );
    let reads = async || {
        house
            .get("secret/oauth/creds/dune/alice:default", "x")
            .await
            .status
    };
    assert_eq!(
        [reads().await, reads().await, reads().await],
        [403, 403, 429]
    );
}

#[tokio::test]
async fn per_user_a_shared_host_is_not_held_back_and_a_busy_user_is_everywhere() {
    let house = limited(vec![]).await;
    let mut tokens = Vec::new();
    for person in ["alice", "bob"] {
        let auth = house.log_in(person).await;
        tokens.push(auth["client_token"].as_str().unwrap().to_owned());
    }
    let child = house
        .call(
            "POST",
            "auth/token/create",
            Some(&tokens[0]),
            json!({"ttl": "1h"}),
        )
        .await;
    let child = child.json["auth"]["client_token"]
        .as_str()
        .unwrap()
        .to_owned();
    configure(&house, vec![limit("all", "", 2, 0, CountedBy::User)]).await;
    let look = async |address: &str, token: &str| {
        from(&house, address, "auth/token/lookup-self", Some(token))
            .await
            .status
    };
    assert_eq!(look("192.0.2.7", &tokens[0]).await, 200);
    assert_eq!(look("192.0.2.7", &child).await, 200);
    assert_eq!(
        look("192.0.2.7", &tokens[1]).await,
        200,
        "the same host, another user"
    );
    assert_eq!(
        look("192.0.2.99", &tokens[0]).await,
        429,
        "the same user, another host"
    );
    assert_eq!(look("192.0.2.99", &child).await, 429);
    // Who shows no live token counts by address.
    assert_eq!(
        [
            look("192.0.2.50", "guess").await,
            look("192.0.2.50", "other").await,
            look("192.0.2.50", "third").await
        ],
        [403, 403, 429]
    );
    let mounts = "sys/internal/ui/mounts";
    assert_eq!(
        from(&house, "192.0.2.50", mounts, Some(&tokens[1]))
            .await
            .status,
        429
    );
    assert_eq!(
        look("192.0.2.50", &tokens[1]).await,
        200,
        "the person behind that address is not held back"
    );
}

#[tokio::test]
async fn a_changed_configuration_keeps_the_counts_of_limits_that_stay_as_they_are() {
    let dune = limit("dune", "auth/oidc-dune", 1, 0, CountedBy::Address);
    let all = limit("all", "", 1, 0, CountedBy::Address);
    let house = limited(vec![all.clone(), dune.clone()]).await;
    let path = "sys/internal/ui/mounts";
    let status = async || from(&house, "192.0.2.7", path, None).await.status;
    assert_eq!([status().await, status().await], [200, 429]);
    configure(&house, vec![all.clone()]).await;
    assert_eq!(status().await, 429);
    configure(&house, vec![RateLimit { rate: 2, ..all }]).await;
    assert_eq!(status().await, 200, "a changed limit counts anew");
    configure(&house, vec![]).await;
    for _ in 0..5 {
        assert_eq!(status().await, 200);
    }
}

#[tokio::test]
async fn operators_read_all_limits_and_write_their_own() {
    let house = limited(vec![limit("everything", "", 1000, 120, CountedBy::Address)]).await;
    let operator = house.operator().await;
    let token = Some(operator.as_str());
    let base = "sys/quotas/rate-limit";
    let put = async |name: &str, body: Value| {
        house
            .call("POST", &format!("{base}/{name}"), token, body)
            .await
    };
    for (name, body, text) in [
        ("a", json!({"rate": 0}), "'rate' is invalid"),
        ("a", json!({"rate": "x"}), "'rate' is invalid"),
        ("a", json!({}), "'rate' is invalid"),
        (
            "a",
            json!({"rate": 1, "path": "nosuch"}),
            "invalid mount path \"nosuch\"",
        ),
        (
            "a",
            json!({"rate": 1, "path": "auth/oidc-dunes/x"}),
            "invalid mount path \"auth/oidc-dunes/x\"",
        ),
        (
            "a",
            json!({"rate": 1}),
            "quota rule with similar properties exists under the name \"everything\"",
        ),
    ] {
        let answer = put(name, body).await;
        assert_eq!((answer.status, answer.error()), (400, text));
    }
    let made = put(
        "mine",
        json!({"rate": "2.6", "path": "auth/oidc-dune/", "interval": "1m", "block_interval": 30}),
    )
    .await;
    assert_eq!((made.status, made.text.as_str()), (204, ""));
    let read = house.get(&format!("{base}/mine"), &operator).await;
    assert_eq!(
        read.json["data"],
        json!({"type": "rate-limit", "name": "mine", "path": "auth/oidc-dune/", "role": "", "rate": 3, "interval": 60, "block_interval": 30, "inheritable": false, "per": "address"})
    );
    let listed = house.call("LIST", base, token, Value::Null).await;
    assert_eq!(listed.json["data"]["keys"], json!(["everything", "mine"]));
    assert_eq!(
        house
            .get(&format!("{base}/everything"), &operator)
            .await
            .json["data"]["rate"],
        1000
    );
    assert_eq!(
        house.get(&format!("{base}/nosuch"), &operator).await.status,
        404
    );
    let path = "auth/oidc-dune/login";
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(house.call("POST", path, None, json!({})).await.status);
    }
    assert_eq!(statuses, [400, 400, 400, 429]);
    for (method, body) in [("POST", json!({"rate": 5})), ("DELETE", Value::Null)] {
        let answer = house
            .call(method, &format!("{base}/everything"), token, body)
            .await;
        assert_eq!(answer.status, 405);
        assert!(
            answer
                .error()
                .contains("change ratelimits[everything] there"),
            "{}",
            answer.text
        );
    }
    assert_eq!(
        house
            .call("DELETE", &format!("{base}/mine"), token, Value::Null)
            .await
            .status,
        204
    );
    assert_eq!(
        house
            .call("DELETE", &format!("{base}/mine"), token, Value::Null)
            .await
            .status,
        204
    );
    assert_eq!(house.call("POST", path, None, json!({})).await.status, 400);
    // Users may not.
    let alice = house.log_in("alice").await;
    let alice = alice["client_token"].as_str().unwrap();
    assert_eq!(
        house
            .call(
                "POST",
                &format!("{base}/b"),
                Some(alice),
                json!({"rate": 1})
            )
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn what_was_written_outlives_the_keeper_and_reaches_other_nodes() {
    let house = limited(vec![]).await;
    let operator = house.operator().await;
    let other = house.second_node().await;
    let answer = house
        .call(
            "POST",
            "sys/quotas/rate-limit/mine",
            Some(&operator),
            json!({"rate": 7, "per": "user"}),
        )
        .await;
    assert_eq!(answer.status, 204, "{}", answer.text);
    tokio::time::timeout(Duration::from_secs(20), async {
        while other.rate_limits().get("mine").is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let later = house.second_node().await;
    assert_eq!(
        later.rate_limits().get("mine").unwrap().per,
        CountedBy::User
    );
}

#[tokio::test]
async fn answers_tell_the_limit_and_refusals_are_audited_where_operators_want_that() {
    let house = limited(vec![limit("all", "", 100, 0, CountedBy::Address)]).await;
    let operator = house.operator().await;
    let token = Some(operator.as_str());
    let config = "sys/quotas/config";
    let wanted = json!({"enable_rate_limit_response_headers": true, "enable_rate_limit_audit_logging": "true", "rate_limit_exempt_paths": ["sys/leader", "auth/oidc-*"]});
    assert_eq!(house.call("POST", config, token, wanted).await.status, 204);
    configure(&house, vec![limit("all", "", 2, 0, CountedBy::Address)]).await;
    let read = house.get(config, &operator).await;
    assert_eq!(
        read.json["data"],
        json!({"enable_rate_limit_response_headers": true, "enable_rate_limit_audit_logging": true, "rate_limit_exempt_paths": ["sys/leader", "auth/oidc-*"]})
    );
    let told = |answer: &Answer, name: &str| answer.headers[name].to_str().unwrap().to_owned();
    assert_eq!(
        [
            told(&read, "x-ratelimit-limit"),
            told(&read, "x-ratelimit-remaining")
        ],
        ["2", "1"]
    );
    assert_eq!(
        told(&read, "x-ratelimit-reset"),
        "Fri, 31 Jul 2026 12:14:20 UTC"
    );
    house.get(config, &operator).await;
    house.audit.drain();
    let refused = house.get(config, &operator).await;
    assert_eq!(
        (refused.status, told(&refused, "x-ratelimit-remaining")),
        (429, "0".into())
    );
    let lines = house.audit.drain();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[1]["error"],
        "request path \"sys/quotas/config\": rate limit quota exceeded"
    );
    assert_eq!(lines[1]["request"]["remote_address"], "192.0.2.7");
    assert_eq!(
        house
            .call("GET", "sys/leader", None, Value::Null)
            .await
            .status,
        200
    );
    assert_eq!(
        house
            .call("POST", "auth/oidc-dune/login", None, json!({}))
            .await
            .status,
        400
    );
    // Switching one off keeps the others.
    house.clock.pass(Duration::from_secs(61));
    let off = json!({"enable_rate_limit_response_headers": false});
    assert_eq!(house.call("POST", config, token, off).await.status, 204);
    let read = house.get(config, &operator).await;
    assert_eq!(read.json["data"]["enable_rate_limit_audit_logging"], true);
    assert!(!read.headers.contains_key("x-ratelimit-limit"));
}

#[tokio::test]
async fn a_limit_for_one_role_is_refused_with_what_to_do_instead() {
    let house = house().await;
    let operator = house.operator().await;
    let path = "sys/quotas/rate-limit/mine";
    for (role, status) in [("default", 400), ("", 204)] {
        let body = json!({"path": "auth/oidc-dune", "rate": 5, "role": role});
        let answer = house.call("POST", path, Some(&operator), body).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        if status == 400 {
            assert!(answer.error().contains("limit the path of its login"));
            assert_eq!(house.get(path, &operator).await.status, 404);
        }
    }
}

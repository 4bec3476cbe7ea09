//! Whose address counts behind a front server: in the audit log, for limits, for tokens bound to addresses.

use std::time::Duration;

use gridkeep_keeper::{CountedBy, LoginTerms, RateLimit, Setup};
use serde_json::{Value, json};

use super::common::{Answer, House, house, setup};

const PROXY: &str = "192.0.2.7:40000";
const STRANGER: &str = "203.0.113.66:40000";

async fn from(house: &House, peer: &str, forwarded: &str, token: Option<&str>) -> Answer {
    let mut headers = vec![("x-forwarded-for", forwarded)];
    headers.extend(token.map(|token| ("x-vault-token", token)));
    let path = if token.is_some() {
        "/v1/auth/token/lookup-self"
    } else {
        "/v1/sys/internal/ui/mounts"
    };
    house
        .send_from(peer.parse().unwrap(), "GET", path, &headers, "")
        .await
}

fn addresses(house: &House) -> Vec<Value> {
    house
        .audit
        .drain()
        .into_iter()
        .filter(|line| line["type"] == "request")
        .map(|line| line["request"]["remote_address"].clone())
        .collect()
}

#[tokio::test]
async fn a_forged_x_forwarded_for_is_ignored() {
    let house = house().await;
    let limit = RateLimit {
        name: "all".into(),
        path: String::new(),
        rate: 1,
        interval: Duration::from_secs(60),
        block_interval: Duration::ZERO,
        per: CountedBy::Address,
    };
    let limited = Setup {
        rate_limits: vec![limit],
        ..setup(&house.issuer)
    };
    house.keeper.reconfigure(limited).await.unwrap();
    let statuses = async |peer: &str, forwarded: [&str; 3]| {
        let mut statuses = Vec::new();
        for address in forwarded {
            statuses.push(from(&house, peer, address, None).await.status);
        }
        statuses
    };
    // Without trusted front servers nobody is believed, the later front server included.
    for peer in [PROXY, STRANGER] {
        let told = ["10.0.0.1", "10.0.0.2", "nonsense"];
        assert_eq!(statuses(peer, told).await, [200, 429, 429], "{peer}");
    }
    assert_eq!(addresses(&house), ["192.0.2.7", "203.0.113.66"]);
    house.clock.pass(Duration::from_secs(61));
    house.proxies.set(vec!["192.0.2.0/28".parse().unwrap()]);
    assert_eq!(
        statuses(STRANGER, ["10.0.0.1", "10.0.0.2", "192.0.2.7"]).await,
        [200, 429, 429]
    );
    // Through the front server each client has its own count, and cannot change who it is.
    assert_eq!(
        statuses(PROXY, ["10.0.0.1", "10.0.0.2", "10.9.9.9, 10.0.0.2"]).await,
        [200, 200, 429]
    );
    assert_eq!(addresses(&house), ["203.0.113.66", "10.0.0.1", "10.0.0.2"]);
    let broken = from(&house, PROXY, "unknown", None).await;
    assert_eq!(broken.status, 400);
    assert!(broken.error().contains("X-Forwarded-For"));
    assert_eq!(
        from(&house, PROXY, "2001:db8:0:1::1", None).await.status,
        200
    );
    assert_eq!(
        from(&house, PROXY, "2001:db8:0:1::2", None).await.status,
        429
    );
}

#[tokio::test]
async fn a_bound_token_works_for_its_addresses_through_a_front_server_and_forged_headers_open_nothing()
 {
    let house = house().await;
    let mut bound = setup(&house.issuer);
    bound.issuers[0].roles[0].terms = LoginTerms {
        // Where the tests' logins come from.
        bound_cidrs: vec![
            "192.0.2.7".parse().unwrap(),
            "198.51.100.0/24".parse().unwrap(),
        ],
        ..LoginTerms::default()
    };
    house.keeper.reconfigure(bound).await.unwrap();
    let auth = house.log_in("alice").await;
    let token = auth["client_token"].as_str();
    assert_eq!(
        from(&house, STRANGER, "198.51.100.5", token).await.status,
        403,
        "a forged header"
    );
    house.proxies.set(vec!["192.0.2.7".parse().unwrap()]);
    assert_eq!(from(&house, PROXY, "198.51.100.5", token).await.status, 200);
    let forged = "198.51.100.5, 203.0.113.66";
    assert_eq!(from(&house, PROXY, forged, token).await.status, 403);
    assert_eq!(
        from(&house, STRANGER, "198.51.100.5", token).await.status,
        403
    );
    // A login that begins elsewhere is told why it cannot.
    let body = json!({"role": "default", "client_nonce": "n", "redirect_uri": "x"}).to_string();
    let refused = house
        .send_from(
            STRANGER.parse().unwrap(),
            "POST",
            "/v1/auth/oidc-dune/oidc/auth_url",
            &[],
            body,
        )
        .await;
    assert_eq!(refused.status, 400);
    assert!(refused.error().contains("203.0.113.66"), "{}", refused.text);
}

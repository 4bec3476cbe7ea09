//! What people see and end of their own: `auth/token/mine`, and the facts in lists of credentials.

use serde_json::{Value, json};

use super::common::house;
use super::{DENIED_BY_POLICY, UNSUPPORTED, text};

#[tokio::test]
async fn people_see_and_end_their_own_tokens_only() {
    let house = house().await;
    let alice = house.log_in("alice").await;
    let second = house.log_in("alice").await;
    let bob = house.log_in("bob").await;
    let (token, other) = (text(&alice, "/client_token"), text(&bob, "/client_token"));
    let listed = house.get("auth/token/mine?list=true", token).await;
    assert_eq!(listed.status, 200, "{}", listed.text);
    let mut own = vec![text(&alice, "/accessor"), text(&second, "/accessor")];
    own.sort_unstable();
    assert_eq!(listed.json["data"]["keys"], json!(own));
    assert!(!listed.text.contains("hvs."));
    let path = format!("auth/token/mine/{}", text(&second, "/accessor"));
    let shown = house.get(&path, token).await;
    assert_eq!(shown.json["data"]["display_name"], "oidc-dune-alice");
    for method in ["GET", "DELETE"] {
        let foreign = house.call(method, &path, Some(other), Value::Null).await;
        assert_eq!(
            (foreign.status, foreign.text.trim()),
            (404, "{\"errors\":[]}"),
            "{method}"
        );
    }
    let gone = house.call("DELETE", &path, Some(token), Value::Null).await;
    assert_eq!(gone.status, 204, "{}", gone.text);
    assert_eq!(house.get(&path, token).await.status, 404);
    let dead = house
        .get("auth/token/lookup-self", text(&second, "/client_token"))
        .await;
    assert_eq!(dead.status, 403);
    let write = house.call("POST", &path, Some(token), json!({})).await;
    assert_eq!((write.status, write.error()), (403, DENIED_BY_POLICY));
    let operator = house.operator().await;
    let wrong = house.get("auth/token/mine", &operator).await;
    assert_eq!((wrong.status, wrong.error()), (405, UNSUPPORTED));
}

#[tokio::test]
async fn a_list_of_credentials_says_how_long_they_live() {
    let house = house().await;
    let alice = house.log_in("alice").await;
    let listed = house
        .get(
            "secret/oauth/creds/dune?list=true",
            text(&alice, "/client_token"),
        )
        .await;
    assert_eq!(listed.json["data"]["keys"], json!(["alice:default"]));
    let facts = &listed.json["data"]["key_info"]["alice:default"];
    assert_eq!(facts["name"], "dune/alice:default");
    assert_eq!(facts["trouble"], Value::Null);
    assert_eq!(facts["login"]["refreshable"], true);
    assert_eq!(facts["login"]["ends"], Value::Null);
    assert!(facts["login"]["idle_end"].is_string());
    assert!(!listed.text.contains("canary"));
}

//! A server without keys: what it says of itself, and what it refuses.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use gridkeep_dialect_vault::DialectLimits;
use gridkeep_dialect_vault::sealed::{
    Initialised, SealKind, SealStatus, SealTrouble, SealedService, Unsealing,
};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use zeroize::Zeroizing;

use super::common::{House, house};
use super::system::GO_HEALTH;

/// A server that waits for its shares.
struct Waiting {
    initialised: bool,
    shared: bool,
}

#[async_trait]
impl Unsealing for Waiting {
    async fn status(&self) -> SealStatus {
        SealStatus {
            initialised: self.initialised,
            sealed: true,
            kind: SealKind::Shamir {
                threshold: 2,
                count: 3,
            },
            shared: self.shared,
            progress: 1,
            nonce: "n".to_owned(),
        }
    }
    async fn initialise(&self, _: u8, _: u8) -> Result<Initialised, SealTrouble> {
        Err(SealTrouble::Bad("not in this test".to_owned()))
    }
    async fn unseal(&self, _: Zeroizing<Vec<u8>>) -> Result<(), SealTrouble> {
        Err(SealTrouble::Bad("not in this test".to_owned()))
    }
    fn reset(&self) {}
}

async fn ask(waiting: Waiting, method: &str, path: &str) -> (u16, Value) {
    let limits = DialectLimits::default();
    let service = SealedService::new(Arc::new(waiting), "0.1.0", "2026-08-18T10:00:00Z", limits);
    let request = Request::builder()
        .method(method)
        .uri(format!("/v1/{path}"))
        .body(Full::<bytes::Bytes>::default())
        .unwrap();
    let (parts, body) = service.handle(request, House::peer()).await.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (
        parts.status.as_u16(),
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

fn waiting(initialised: bool) -> Waiting {
    Waiting {
        initialised,
        shared: false,
    }
}

fn keys(object: &Value) -> BTreeSet<&str> {
    let object = object.as_object().unwrap();
    object.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn the_go_library_hears_its_own_code() {
    for initialised in [true, false] {
        let (status, health) = ask(waiting(initialised), "GET", GO_HEALTH).await;
        assert_eq!(status, 299, "{health}");
        assert_eq!(
            (&health["sealed"], &health["initialized"]),
            (&Value::Bool(true), &Value::Bool(initialised))
        );
    }
    for (query, status) in [
        ("", 503),
        ("?sealedcode=200", 200),
        ("?sealedcode=210", 210),
        ("?sealedcode=473", 400),
        ("?sealedcode=199", 400),
    ] {
        let path = format!("sys/health{query}");
        assert_eq!(ask(waiting(true), "GET", &path).await.0, status, "{query}");
    }
}

#[tokio::test]
async fn seal_status_has_all_members_open_and_sealed() {
    let sealed = BTreeSet::from([
        "build_date",
        "commit_date",
        "initialized",
        "migration",
        "n",
        "nonce",
        "progress",
        "recovery_seal",
        "sealed",
        "storage_type",
        "t",
        "type",
        "version",
    ]);
    let (status, told) = ask(waiting(true), "GET", "sys/seal-status").await;
    assert_eq!((status, keys(&told)), (200, sealed.clone()));
    let house = house().await;
    let open = house
        .call("GET", "sys/seal-status", None, Value::Null)
        .await;
    let mut expected = sealed;
    expected.extend(["cluster_id", "cluster_name"]);
    assert_eq!((open.status, keys(&open.json)), (200, expected));
}

#[tokio::test]
async fn a_sealed_node_of_a_cluster_has_the_storage_that_scripts_test_for() {
    for (shared, storage) in [(true, "raft"), (false, "file")] {
        let waiting = Waiting {
            initialised: true,
            shared,
        };
        let (_, told) = ask(waiting, "GET", "sys/seal-status").await;
        assert_eq!(told["storage_type"], storage);
    }
}

#[tokio::test]
async fn how_a_node_joins_is_told_also_before_there_are_keys() {
    let (status, told) = ask(waiting(false), "POST", "sys/storage/raft/join").await;
    assert_eq!(status, 405);
    assert!(
        told["errors"][0]
            .as_str()
            .unwrap()
            .contains("gridkeep.store.etcd"),
        "{told}"
    );
    for path in ["sys/storage/raft/configuration", "sys/step-down"] {
        let (status, told) = ask(waiting(true), "GET", path).await;
        assert_eq!(
            (status, &told["errors"][0]),
            (503, &Value::from("Vault is sealed"))
        );
    }
}

//! Records that cannot be read: what hangs on them is not refused for ever.

use gridkeep_store::Kind;
use gridkeep_store::engine::{Engine as _, RawPut, RawTransaction};
use serde_json::json;

use super::issuer::Rotation;
use super::support::*;
use crate::database::{Change, name};
use crate::records::{DELEGATION, POLICY};
use crate::*;

/// Turns a bit of the only record of `kind` as it lies in the engine.
async fn damage(house: &House, kind: Kind) {
    let engine = house.engine.lock().unwrap().clone().unwrap();
    let mut found = engine.scan(&[], None, 10_000).await.unwrap().entries;
    // What a key begins with says that it is one of a record, and of which kind.
    found.retain(|entry| entry.key.get(1..3) == Some(kind.0.to_be_bytes().as_slice()));
    assert_eq!(found.len(), 1);
    let mut entry = found.remove(0);
    *entry.value.last_mut().unwrap() ^= 1;
    let put = RawPut {
        key: entry.key,
        value: entry.value,
        expires_at: entry.expires_at,
        keep_version: true,
    };
    let transaction = RawTransaction {
        puts: vec![put],
        ..RawTransaction::default()
    };
    engine.commit(transaction).await.unwrap();
}

const RULES: &str = "path \"sys/x\" { capabilities = [\"read\"] }";

/// Somebody whose rights come from the policy `night`.
async fn holder(keeper: &Keeper) -> Bearer {
    keeper.put_policy("night", &written(RULES)).await.unwrap();
    let operator = operator(keeper).await;
    let request = CreateToken {
        policies: Some(vec!["night".into()]),
        ..CreateToken::default()
    };
    let issued = keeper.create_token(&operator, request, true).await.unwrap();
    let by = bearer(keeper, &issued.secret).await;
    asks(keeper, &by, "sys/x").unwrap();
    by
}

fn asks(keeper: &Keeper, by: &Bearer, path: &str) -> Result<Granted, Failure> {
    keeper.authorize(by, Operation::Read, path, &serde_json::Map::new())
}

async fn reload(keeper: &Keeper) {
    keeper
        .inner
        .policies
        .reload(&keeper.inner.db)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_a_newer_program_is_no_refusal() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = holder(&keeper).await;
    let alice = login(&house, &keeper, "alice").await;
    let alice = bearer(&keeper, &alice.issued.secret).await;
    for record in [
        json!({"text": "nothing we know", "version": 2, "modified": START}),
        json!({"text": {"of": "another form"}}),
    ] {
        let mut change = Change::new();
        change.put(name(POLICY, &["night"]), &record, None).unwrap();
        keeper.inner.db.commit(change).await.unwrap();
        reload(&keeper).await;
        // It may deny what another policy of the token allows.
        for path in ["sys/x", "sys/y", "auth/token/lookup-self"] {
            assert_eq!(kind(asks(&keeper, &by, path)), LaterKind::Store, "{path}");
        }
        assert_eq!(kind(keeper.policy("night").await), LaterKind::Store);
        assert!(keeper.policies().await.unwrap().contains(&"night".into()));
        assert!(matches!(
            refused(asks(&keeper, &alice, "sys/x")),
            Refused::Policy { .. }
        ));
    }
    // Taken away, it is gone for certain.
    keeper.delete_policy("night").await.unwrap();
    assert!(matches!(
        refused(asks(&keeper, &by, "sys/x")),
        Refused::Policy { .. }
    ));
    keeper.put_policy("night", &written(RULES)).await.unwrap();
    asks(&keeper, &by, "sys/x").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_damaged_policy_is_no_refusal() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = holder(&keeper).await;
    let alice = login(&house, &keeper, "alice").await;
    let alice = bearer(&keeper, &alice.issued.secret).await;
    damage(&house, POLICY).await;
    reload(&keeper).await;
    // Which one it is cannot be told: anybody's that is not at hand.
    assert_eq!(kind(asks(&keeper, &by, "sys/x")), LaterKind::Store);
    assert!(matches!(
        refused(asks(&keeper, &alice, "sys/x")),
        Refused::Policy { .. }
    ));
    keeper.delete_policy("night").await.unwrap();
    assert!(matches!(
        refused(asks(&keeper, &by, "sys/x")),
        Refused::Policy { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_delegation_is_no_refusal() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let alice = login(&house, &keeper, "alice").await;
    let alice = bearer(&keeper, &alice.issued.secret).await;
    let bob = login(&house, &keeper, "bob").await;
    let bob = bearer(&keeper, &bob.issued.secret).await;
    let (hers, his) = (cred("dune/alice:default"), cred("dune/bob:default"));
    let request = Delegate {
        to: Some("oidc-dune/bob".into()),
        ..Delegate::default()
    };
    keeper.delegate(&alice, &hers, request).await.unwrap();
    assert!(keeper.delegated(&bob, &hers).await.unwrap().is_some());
    damage(&house, DELEGATION).await;
    assert_eq!(kind(keeper.delegated(&bob, &hers).await), LaterKind::Store);
    // Of other credentials it is known that nothing was given.
    assert!(keeper.delegated(&alice, &his).await.unwrap().is_none());
}

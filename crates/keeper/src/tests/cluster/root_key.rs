//! What nodes know of each other's root keys, and what becomes of one that does not know the key in force.

use super::*;
use crate::cluster::WithoutKey;

fn new_key(nodes: &Nodes, name: &str) -> RootKey {
    RootKey::generate_file(&nodes.house.dir.path().join(name)).unwrap()
}

async fn expect(nodes: &Nodes, index: usize, key: &RootKey) -> bool {
    let keeper = nodes[index].keeper.clone();
    let key = RootKey::from_text(key.to_text().as_bytes()).unwrap();
    let expecting = tokio::spawn(async move { keeper.expect_root_key(&key).await });
    nodes.moving(expecting).await.unwrap()
}

/// The other live nodes that do not know the key, as the first one finds.
async fn without(nodes: &Nodes, key: &RootKey) -> Vec<String> {
    let without = nodes[0].keeper.nodes_without(key).await.unwrap();
    assert!(without.iter().all(|node| node.says));
    without
        .into_iter()
        .map(|WithoutKey { name, .. }| name)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn live_nodes_that_do_not_know_a_root_key_are_named() {
    let nodes = Nodes::new(Rotation::Never, 3).await;
    let key = new_key(&nodes, "new.key");
    assert_eq!(without(&nodes, &key).await, ["node2", "node3"]);
    assert!(expect(&nodes, 1, &key).await);
    assert_eq!(without(&nodes, &key).await, ["node3"], "at once");
    // One that is gone keeps nobody waiting, and cannot say that it expects a key.
    nodes[2].way.set_cut(true);
    nodes.live(Duration::from_secs(8)).await;
    assert_eq!(without(&nodes, &key).await, [""; 0]);
    assert!(!expect(&nodes, 2, &key).await);
    // Who hears nobody takes nobody for gone that beats.
    nodes[0].way.set_held(true);
    nodes.live(Duration::from_secs(8)).await;
    let other = new_key(&nodes, "other.key");
    assert_eq!(without(&nodes, &other).await, ["node2"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_the_key_in_force_is_told_from_one_that_is_down() {
    let nodes = Nodes::new(Rotation::Never, 2).await;
    let key = new_key(&nodes, "new.key");
    let old = nodes[1].keeper.key_status().root_key_id;
    nodes[0]
        .keeper
        .replace_root_key(&key, "test")
        .await
        .unwrap();
    nodes.live(Duration::from_secs(8)).await;
    let seen = nodes[0].keeper.cluster_status();
    assert_eq!(seen.root_keys.in_force, key.id());
    assert_eq!(seen.heartbeat_trouble, None);
    assert_eq!(seen.nodes[1].state, NodeState::Silent);
    assert_eq!(seen.nodes[1].root_keys, [old]);
    let own = nodes[1].keeper.cluster_status();
    assert_eq!(own.root_keys.lacking, Some(key.id()));
    assert!(own.heartbeat_trouble.is_some() && !own.store);
    assert!(own.answered.is_some_and(|since| since > SECOND * 5));
    assert!(!nodes[1].keeper.serves());
    assert_eq!(
        own.nodes[0].state,
        NodeState::Live,
        "it sees the others all the time"
    );

    assert!(expect(&nodes, 1, &key).await);
    nodes.settle().await;
    let own = nodes[1].keeper.cluster_status();
    assert_eq!((own.root_keys.lacking, own.heartbeat_trouble), (None, None));
    assert!(nodes[1].keeper.serves());
}

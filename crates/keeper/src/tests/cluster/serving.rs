//! What all nodes see, and what a node does without its store or with a wrong clock.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_token_of_one_node_works_on_all_and_its_revocation_holds_on_all_within_a_second() {
    let nodes = Nodes::new(Rotation::Never, 3).await;
    let login = login(&nodes.house, &nodes[0].keeper, "alice").await;
    for node in &nodes.nodes {
        let by = bearer(&node.keeper, &login.issued.secret).await;
        access(&node.keeper, &by, ALICE).await.unwrap();
    }
    nodes.settle().await;
    let by = bearer(&nodes[1].keeper, &login.issued.secret).await;
    access(&nodes[1].keeper, &by, ALICE).await.unwrap();
    // From memory now: no way to the store is needed.
    let before = nodes[1].way.reads();
    for _ in 0..100 {
        let by = bearer(&nodes[1].keeper, &login.issued.secret).await;
        access(&nodes[1].keeper, &by, ALICE).await.unwrap();
    }
    assert_eq!(nodes[1].way.reads(), before);

    nodes[0]
        .keeper
        .revoke(&login.issued.token.id)
        .await
        .unwrap();
    assert_eq!(
        refused(
            nodes[0]
                .keeper
                .authenticate(&login.issued.secret, None)
                .await
        ),
        Refused::TokenRevoked,
        "on the node itself at once"
    );
    nodes.live(SECOND).await;
    for node in &nodes.nodes {
        assert_eq!(
            refused(node.keeper.authenticate(&login.issued.secret, None).await),
            Refused::TokenRevoked
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_clock_most_others_call_wrong_refuses_nobody_and_passes_on() {
    let nodes = Nodes::new(Rotation::Never, 3).await;
    let login = login(&nodes.house, &nodes[0].keeper, "alice").await;
    let child = child(
        &nodes[0].keeper,
        &bearer(&nodes[0].keeper, &login.issued.secret).await,
    )
    .await;
    for node in &nodes.nodes {
        node.clock.set_synchronised(Some(true));
    }
    nodes.live(SECOND).await;
    assert!(nodes.nodes.iter().all(|node| node.keeper.serves()));
    let right = nodes[0].keeper.now().0;
    // Its kernel says that it is right, forty days ahead, where the token has expired long ago.
    nodes[2].clock.jump_to(right + 40 * 86_400);
    nodes.live(SECOND).await;
    assert!(!nodes[2].keeper.serves() && nodes[2].keeper.clock_doubtful());
    assert!(nodes[2].keeper.has_store());
    assert_eq!(
        kind(nodes[2].keeper.authenticate(&child.secret, None).await),
        LaterKind::ClockDoubtful
    );
    for node in &nodes.nodes[..2] {
        assert!(node.keeper.serves() && !node.keeper.clock_doubtful());
        bearer(&node.keeper, &child.secret).await;
        let status = node.keeper.cluster_status();
        let ahead: Vec<_> = status.nodes.iter().map(|node| node.ahead).collect();
        assert!(
            ahead[2].is_some_and(|ahead| (ahead - 40 * 86_400).abs() < 5),
            "{ahead:?}"
        );
    }
    // Without the store, and when it is back, it is still wrong.
    nodes[2].way.set_cut(true);
    nodes.live(SECOND * 8).await;
    nodes[2].way.set_cut(false);
    for _ in 0..8 {
        nodes.live(Duration::from_millis(250)).await;
        assert!(!nodes[2].keeper.serves() && nodes[2].keeper.clock_doubtful());
    }
    nodes[2].clock.jump_to(nodes[0].keeper.now().0);
    nodes.live(SECOND * 2).await;
    assert!(nodes[2].keeper.serves() && !nodes[2].keeper.clock_doubtful());
    bearer(&nodes[2].keeper, &child.secret).await;
}

#[tokio::test(start_paused = true)]
async fn without_its_heartbeat_on_the_watch_a_node_asks_the_store_and_without_the_store_it_says_later()
 {
    let nodes = Nodes::new(Rotation::Never, 2).await;
    let login = login(&nodes.house, &nodes[0].keeper, "alice").await;
    let child = child(
        &nodes[0].keeper,
        &bearer(&nodes[0].keeper, &login.issued.secret).await,
    )
    .await;
    bearer(&nodes[1].keeper, &child.secret).await;
    nodes.settle().await;
    bearer(&nodes[1].keeper, &child.secret).await;

    // The watch of the second node stands still, while everything else works: what it has in memory is old.
    nodes[1].way.set_held(true);
    nodes[0]
        .keeper
        .revoke(&login.issued.token.id)
        .await
        .unwrap();
    nodes.live(Duration::from_millis(750)).await;
    assert!(!nodes[1].keeper.fresh());
    assert_eq!(
        refused(nodes[1].keeper.authenticate(&child.secret, None).await),
        Refused::TokenRevoked,
        "the store was asked"
    );
    nodes[1].way.set_held(false);
    nodes.settle().await;

    let other = login_at(&nodes[0].keeper, "dune").await;
    bearer(&nodes[1].keeper, &other.issued.secret).await;
    nodes[1].way.set_cut(true);
    // For as long as memory counts it serves; then it says that it cannot know.
    bearer(&nodes[1].keeper, &other.issued.secret).await;
    nodes.live(Duration::from_millis(1500)).await;
    assert_eq!(
        kind(
            nodes[1]
                .keeper
                .authenticate(&other.issued.secret, None)
                .await
        ),
        LaterKind::Store
    );
    assert!(!nodes[1].keeper.has_store());
    assert!(nodes[0].keeper.has_store());
    assert_eq!(nodes[1].keeper.peers()[0].address, "node1.example:8200");
    nodes[0]
        .keeper
        .revoke(&other.issued.token.id)
        .await
        .unwrap();
    assert_eq!(
        kind(
            nodes[1]
                .keeper
                .authenticate(&other.issued.secret, None)
                .await
        ),
        LaterKind::Store
    );
    nodes[1].way.set_cut(false);
    nodes.settle().await;
    assert!(nodes[1].keeper.has_store());
    assert_eq!(
        refused(
            nodes[1]
                .keeper
                .authenticate(&other.issued.secret, None)
                .await
        ),
        Refused::TokenRevoked
    );
}

#[tokio::test(start_paused = true)]
async fn policies_written_on_one_node_count_on_the_others() {
    let nodes = Nodes::new(Rotation::Never, 2).await;
    let root = root(&nodes[0].keeper).await;
    let wanted = CreateToken {
        policies: Some(vec!["readers".into()]),
        ..CreateToken::default()
    };
    let issued = nodes[0]
        .keeper
        .create_token(&root, wanted, true)
        .await
        .unwrap();
    let may = async |node: &Node| {
        let by = bearer(&node.keeper, &issued.secret).await;
        node.keeper
            .authorize(
                &by,
                Operation::Read,
                "secret/oauth/creds/dune/alice:default",
                &serde_json::Map::new(),
            )
            .is_ok()
    };
    assert!(!may(&nodes[1]).await);
    let write = PolicyWrite {
        text: "path \"secret/oauth/creds/dune/*\" { capabilities = [\"read\"] }".into(),
        ..PolicyWrite::default()
    };
    nodes[0].keeper.put_policy("readers", &write).await.unwrap();
    assert!(may(&nodes[0]).await);
    nodes.live(SECOND).await;
    assert!(may(&nodes[1]).await);
    // And taken away, while the other's watch stands still: the store is asked.
    nodes[1].way.set_held(true);
    nodes[0].keeper.delete_policy("readers").await.unwrap();
    nodes.live(SECOND).await;
    assert!(!may(&nodes[1]).await);
}

#[tokio::test(start_paused = true)]
async fn rate_limits_that_could_not_be_read_at_once_are_read_later() {
    let nodes = Nodes::new(Rotation::Never, 2).await;
    let limits = |node: usize| nodes[node].keeper.rate_limits().iter().count();
    nodes[1].way.set_refusing(true);
    let limit = RateLimit {
        name: "all".into(),
        path: String::new(),
        rate: 10,
        interval: SECOND,
        block_interval: Duration::ZERO,
        per: CountedBy::Address,
    };
    nodes[0].keeper.put_rate_limit(limit).await.unwrap();
    nodes.live(SECOND).await;
    assert_eq!((limits(0), limits(1)), (1, 0));
    nodes[1].way.set_refusing(false);
    nodes.live(3 * SECOND).await;
    assert_eq!(limits(1), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_only_answers_questions_for_a_while_is_not_away() {
    let nodes = Nodes::new(Rotation::Never, 2).await;
    let login = login(&nodes.house, &nodes[0].keeper, "alice").await;
    nodes.settle().await;
    nodes.house.hang(Hangs::Commits);
    for _ in 0..20 {
        nodes.live(Duration::from_millis(250)).await;
        for node in &nodes.nodes {
            assert!(node.keeper.has_store());
        }
    }
    let by = bearer(&nodes[1].keeper, &login.issued.secret).await;
    access(&nodes[1].keeper, &by, ALICE).await.unwrap();
    nodes.house.hang(Hangs::Everything);
    nodes.live(Duration::from_secs(3)).await;
    for node in &nodes.nodes {
        assert!(!node.keeper.has_store());
    }
    nodes.house.hang(Hangs::Nothing);
    nodes.settle().await;
}

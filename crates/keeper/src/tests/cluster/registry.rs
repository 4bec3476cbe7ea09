//! Who is there: levels of records, names, the configuration of all.

use gridkeep_store::{RootKey, Shares};

use super::*;

#[tokio::test(start_paused = true)]
async fn the_level_of_records_rises_when_every_node_can_read_it() {
    let mut nodes = Nodes::new(Rotation::Never, 0).await;
    nodes.add("old", 1).await.unwrap();
    nodes.add("new1", 2).await.unwrap();
    nodes.add("new2", 2).await.unwrap();
    nodes.live(Duration::from_secs(5)).await;
    let level = |node: &Node| node.keeper.cluster_status().level;
    assert_eq!(level(&nodes[1]), 1, "the old one could not read more");
    let login = login(&nodes.house, &nodes[1].keeper, "alice").await;
    bearer(&nodes[0].keeper, &login.issued.secret).await;
    // It is stopped, and remembered for as long as its restart may take.
    nodes[0].keeper.drain(SECOND).await;
    let old = nodes.nodes.remove(0);
    nodes.pass(Duration::from_secs(60)).await;
    nodes.live(Duration::from_secs(2)).await;
    assert_eq!(level(&nodes[0]), 1);
    nodes.pass(Duration::from_secs(600)).await;
    nodes.settle().await;
    nodes.live(Duration::from_secs(2)).await;
    assert_eq!((level(&nodes[0]), level(&nodes[1])), (2, 2));
    // What is written now says so, and an old program does not misread it but says why it cannot.
    let later = login_at(&nodes[0].keeper, "dune").await;
    let entry = nodes[1]
        .keeper
        .store()
        .get(&crate::tokens::token_name(&later.issued.token.id))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(entry.record.schema, 2);
    let Failure::Later(refused) = nodes.add("old", 1).await.unwrap_err() else {
        panic!()
    };
    assert!(refused.what.contains("level 2"), "{}", refused.what);
    assert_eq!(
        kind(old.keeper.authenticate(&later.issued.secret, None).await),
        LaterKind::Store
    );
    nodes.add("old", 2).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_processes_of_one_name_do_not_run_side_by_side() {
    let mut nodes = Nodes::new(Rotation::Never, 1).await;
    let Failure::Later(refused) = nodes.add("node1", 1).await.unwrap_err() else {
        panic!()
    };
    assert!(refused.what.contains("cluster.myname"), "{}", refused.what);
    // One that is cut off is taken for dead; when it is back it gives way.
    nodes[0].way.set_cut(true);
    nodes.live(Duration::from_secs(2)).await;
    let old = nodes.nodes.remove(0);
    nodes.add("node1", 1).await.unwrap();
    old.way.set_cut(false);
    let gone = tokio::spawn({
        let keeper = old.keeper.clone();
        async move { keeper.superseded().await }
    });
    nodes.nodes.push(old);
    let gone_too = nodes.moving(gone).await;
    gone_too.unwrap();
    assert!(!nodes[1].keeper.fresh());
    nodes.nodes.remove(1);
    // Whoever is left is fresh again.
    nodes.settle().await;
}

#[tokio::test(start_paused = true)]
async fn the_configuration_of_all_is_counted_and_seen_by_all() {
    let nodes = Nodes::new(Rotation::Never, 2).await;
    let store = nodes[0].keeper.store().clone();
    assert!(StoredConfiguration::read(&store).await.unwrap().is_none());
    let publish = async |over, text: &str| {
        StoredConfiguration::publish(&store, over, "digest", text, "node1", UnixSeconds(START))
            .await
    };
    assert_eq!(publish(Some(0), "issuers: []").await, Ok(Some(1)));
    assert_eq!(
        publish(Some(0), "late").await,
        Ok(None),
        "somebody was quicker"
    );
    assert_eq!(publish(None, "issuers: [a]").await, Ok(Some(2)));
    let mut versions = nodes[1].keeper.configuration_versions();
    nodes.live(SECOND).await;
    assert_eq!(*versions.borrow_and_update(), 2);
    let found = StoredConfiguration::read(nodes[1].keeper.store())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.version, found.text.as_str(), found.by.as_str()),
        (2, "issuers: [a]", "node1")
    );
    assert!(matches!(
        publish(None, &"x".repeat(800_000)).await,
        Err(Failure::BadInput(_))
    ));
    nodes[0].keeper.report(crate::cluster::NodeReport {
        files: Some("other".into()),
        configuration: 2,
        drift: true,
        trouble: None,
        without_effect: vec!["ssh (/etc/a.yaml:3)".into()],
    });
    nodes.live(SECOND).await;
    let seen = &nodes[1].keeper.cluster_status().nodes[0];
    assert!(seen.report.drift && seen.report.configuration == 2);
    assert_eq!(seen.report.without_effect, ["ssh (/etc/a.yaml:3)"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hears_nobody_does_not_take_itself_for_alone() {
    let nodes = Nodes::new(Rotation::Never, 2).await;
    let shares = Shares {
        count: 3,
        threshold: 2,
    };
    let (key, _) = RootKey::generate_shared(shares).unwrap();
    nodes[0]
        .keeper
        .replace_root_key(&key, "test")
        .await
        .unwrap();
    let Err(Failure::BadInput(BadInput::Rekey(RekeyRefused::OtherNodes(names)))) =
        nodes[0].keeper.begin_rekey(shares, false).await
    else {
        panic!("the other node would not learn of the key");
    };
    assert_eq!(names, "node2");
    // It hears of no heartbeat any more, for longer than after which a node counts as silent.
    nodes[0].way.set_held(true);
    nodes.live(Duration::from_secs(8)).await;
    assert_eq!(
        kind(nodes[0].keeper.begin_rekey(shares, false).await),
        LaterKind::Store
    );
}

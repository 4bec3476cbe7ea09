//! What nodes ask issuers: once for all of them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_login_begun_on_one_node_ends_on_others() {
    let nodes = Nodes::new(Rotation::Never, 3).await;
    nodes.house.issuer.books().person = claims("alice");
    let started = nodes[0].keeper.login_start(start("dune")).await.unwrap();
    nodes[1]
        .keeper
        .callback(callback("dune", &started.state))
        .await
        .unwrap();
    let PollOutcome::LoggedIn(login) = nodes[2]
        .keeper
        .login_poll(poll("dune", &started.state))
        .await
        .unwrap()
    else {
        panic!("pending")
    };
    for node in &nodes.nodes {
        let by = bearer(&node.keeper, &login.issued.secret).await;
        access(&node.keeper, &by, ALICE).await.unwrap();
    }
    assert_eq!(
        bad(nodes[0]
            .keeper
            .login_poll(poll("dune", &started.state))
            .await),
        BadInput::LoginExpired,
        "once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_device_login_asks_the_issuer_at_its_pace_whichever_nodes_are_polled() {
    let nodes = Nodes::new(Rotation::Never, 3).await;
    let mut setup = nodes.house.setup();
    setup.issuers[0].callback_mode = CallbackMode::Device;
    for node in &nodes.nodes {
        node.keeper.reconfigure(setup.clone()).await.unwrap();
    }
    let started = nodes[0].keeper.login_start(start("dune")).await.unwrap();
    let polls = || nodes.house.issuer.books().device_polls;
    let poll_all = async || {
        for node in &nodes.nodes {
            assert!(matches!(
                node.keeper
                    .login_poll(poll("dune", &started.state))
                    .await
                    .unwrap(),
                PollOutcome::Pending
            ));
        }
    };
    nodes.live(Duration::from_secs(5)).await;
    poll_all().await;
    assert_eq!(polls(), 1);
    nodes.house.issuer.books().slow_down = true;
    nodes.live(Duration::from_secs(5)).await;
    poll_all().await;
    assert_eq!(polls(), 2, "and is told to slow down");
    nodes.live(Duration::from_secs(5)).await;
    poll_all().await;
    assert_eq!(polls(), 2, "which all of them do");
    nodes.house.issuer.books().device = Some(Ok(claims("alice")));
    // The node that is asked now counts from when it saw what the others did.
    let mut outcome = PollOutcome::Pending;
    for _ in 0..4 {
        nodes.live(Duration::from_secs(5)).await;
        outcome = nodes[2]
            .keeper
            .login_poll(poll("dune", &started.state))
            .await
            .unwrap();
        if !matches!(outcome, PollOutcome::Pending) {
            break;
        }
    }
    assert!(matches!(outcome, PollOutcome::LoggedIn(_)));
}

#[tokio::test(start_paused = true)]
async fn the_limits_of_logins_hold_for_all_nodes_together() {
    let nodes = Nodes::new(Rotation::Never, 2).await;
    let mut setup = nodes.house.setup();
    setup.limits.login_sessions_per_address = 4;
    for node in &nodes.nodes {
        node.keeper.reconfigure(setup.clone()).await.unwrap();
    }
    let from = |address: &str| LoginStart {
        from: Some(address.parse().unwrap()),
        ..start("dune")
    };
    for _ in 0..4 {
        nodes[0]
            .keeper
            .login_start(from("192.0.2.7"))
            .await
            .unwrap();
    }
    nodes.live(SECOND).await;
    assert_eq!(
        kind(nodes[1].keeper.login_start(from("192.0.2.7")).await),
        LaterKind::TooManyLogins
    );
    let other = nodes[1]
        .keeper
        .login_start(from("192.0.2.8"))
        .await
        .unwrap();
    // One that ends makes room everywhere.
    nodes[0]
        .keeper
        .callback(callback("dune", &other.state))
        .await
        .unwrap();
    nodes.pass(Duration::from_secs(601)).await;
    nodes.settle().await;
    nodes[1]
        .keeper
        .login_start(from("192.0.2.7"))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn thirty_readers_on_three_nodes_cause_one_refresh() {
    let nodes = Nodes::new(Rotation::Immediate, 3).await;
    let login = login(&nodes.house, &nodes[0].keeper, "alice").await;
    nodes.live(SECOND).await;
    for node in &nodes.nodes {
        node.clock.pass(Duration::from_secs(3600));
    }
    nodes.settle().await;
    nodes.house.issuer.close_gate();
    let mut readers = Vec::new();
    for number in 0..30 {
        let keeper = nodes[number % 3].keeper.clone();
        let by = bearer(&keeper, &login.issued.secret).await;
        readers.push(tokio::spawn(
            async move { access(&keeper, &by, ALICE).await },
        ));
    }
    until("it is sent", || nodes.house.issuer.refreshes() == 1).await;
    nodes.live(Duration::from_secs(2)).await;
    nodes.house.issuer.open_gate();
    for reader in readers {
        assert_eq!(nodes.moving(reader).await.unwrap().unwrap(), "at-2");
    }
    assert_eq!(nodes.house.issuer.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_all_nodes_used_is_refreshed_ahead_once() {
    let nodes = Nodes::new(Rotation::Immediate, 3).await;
    let login = login(&nodes.house, &nodes[0].keeper, "alice").await;
    for node in &nodes.nodes {
        let by = bearer(&node.keeper, &login.issued.secret).await;
        access(&node.keeper, &by, ALICE).await.unwrap();
    }
    for node in &nodes.nodes {
        node.clock.pass(Duration::from_secs(2701));
    }
    for node in &nodes.nodes {
        node.keeper.refresh_ahead().await.unwrap();
    }
    assert_eq!(nodes.house.issuer.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_takes_no_refresh_over() {
    let nodes = Nodes::new(Rotation::Immediate, 2).await;
    let login = login(&nodes.house, &nodes[0].keeper, "alice").await;
    for node in &nodes.nodes {
        node.clock.pass(Duration::from_secs(3600));
    }
    nodes.settle().await;
    // The second node's wall clock is half an hour ahead of everybody's.
    nodes[1].clock.jump_to(START + 3600 + 1800);
    nodes.house.issuer.close_gate();
    let flight = nodes[0]
        .keeper
        .flight(&grant_of(&nodes[0].keeper, ALICE).await.id, None);
    until("it is sent", || nodes.house.issuer.refreshes() == 1).await;
    let by = bearer(&nodes[1].keeper, &login.issued.secret).await;
    let keeper = nodes[1].keeper.clone();
    let reader = tokio::spawn(async move { access(&keeper, &by, ALICE).await });
    nodes.live(Duration::from_secs(5)).await;
    assert_eq!(
        nodes.house.issuer.refreshes(),
        1,
        "it waits for the first node"
    );
    nodes.house.issuer.open_gate();
    assert_eq!(nodes.moving(reader).await.unwrap().unwrap(), "at-2");
    drop(flight);
    assert_eq!(nodes.house.issuer.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_moved_to_another_host_sends_nothing_that_its_old_host_may_be_sending() {
    let mut nodes = Nodes::new(Rotation::Immediate, 1).await;
    login(&nodes.house, &nodes[0].keeper, "alice").await;
    nodes[0].clock.pass(Duration::from_secs(3600));
    nodes.settle().await;
    nodes.house.issuer.close_gate();
    let grant = grant_of(&nodes[0].keeper, ALICE).await.id;
    let _flight = nodes[0].keeper.flight(&grant, None);
    until("it is sent", || nodes.house.issuer.refreshes() == 1).await;
    // The old host loses the store, not its way to the issuer; its name comes up elsewhere, with a data directory of its own.
    nodes[0].way.set_cut(true);
    let mut options = nodes.options("node1", crate::cluster::LEVEL);
    options.spool = nodes.house.dir.path().join("elsewhere");
    nodes.join(options).await.unwrap();
    nodes.live(Duration::from_secs(50)).await;
    assert_eq!(nodes.house.issuer.refreshes(), 1);
    // What nobody ended in the time that a refresh may take is tried.
    nodes.live(Duration::from_secs(30)).await;
    let _flight = nodes[1].keeper.flight(&grant, None);
    until("it is sent", || nodes.house.issuer.refreshes() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn the_budget_of_an_issuer_is_divided_by_live_nodes() {
    let nodes = Nodes::new(Rotation::Never, 3).await;
    nodes.live(SECOND).await;
    let last = || nodes.house.issuer.books().shares.last().copied();
    assert_eq!(last(), Some(3));
    nodes[2].way.set_cut(true);
    nodes.live(Duration::from_secs(7)).await;
    let status = nodes[0].keeper.cluster_status();
    let states: Vec<NodeState> = status.nodes.iter().map(|node| node.state).collect();
    assert_eq!(
        states,
        [NodeState::Live, NodeState::Live, NodeState::Silent]
    );
    assert_eq!(last(), Some(2));
    nodes[1].keeper.drain(SECOND).await;
    nodes.live(SECOND).await;
    assert_eq!(
        nodes[0].keeper.cluster_status().nodes[1].state,
        NodeState::Stopped
    );
}

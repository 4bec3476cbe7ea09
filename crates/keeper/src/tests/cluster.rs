//! Several nodes on one store: what is shared, what holds everywhere and from when on, and what becomes of a node that is cut off.

use std::sync::Arc;
use std::time::Duration;

use gridkeep_store::testing::{CuttableEngine, Hangs};
use gridkeep_store::{RootKey, Store};

use super::issuer::{Rotation, claims};
use super::support::*;
use crate::clock::ManualClock;
use crate::cluster::{ClusterOptions, NodeState, StoredConfiguration};
use crate::*;

const ALICE: &str = "dune/alice:default";
const SECOND: Duration = Duration::from_secs(1);
/// Turns of all tasks in which none of them waits for a commit, after which none has anything to do.
const TURNS: u32 = 50;

/// A node with its own way to the shared store, and its own clock.
pub(super) struct Node {
    pub keeper: Keeper,
    pub way: Arc<CuttableEngine>,
    clock: Arc<ManualClock>,
}

pub(super) struct Nodes {
    house: House,
    pub nodes: Vec<Node>,
}

impl std::ops::Index<usize> for Nodes {
    type Output = Node;
    fn index(&self, index: usize) -> &Node {
        &self.nodes[index]
    }
}

impl Nodes {
    pub async fn new(rotation: Rotation, count: usize) -> Nodes {
        let mut nodes = Nodes {
            house: House::new(rotation),
            nodes: Vec::new(),
        };
        for number in 1..=count {
            nodes
                .add(&format!("node{number}"), crate::cluster::LEVEL)
                .await
                .unwrap();
        }
        nodes
    }

    fn options(&self, name: &str, level: u16) -> KeeperOptions {
        let mut options =
            KeeperOptions::new(name, self.house.dir.path().join(format!("spool-{name}")));
        options.cluster = Some(ClusterOptions::new(format!("{name}.example:8200"), "1.2.3"));
        options.level = level;
        options
    }

    async fn way(&self) -> (Arc<CuttableEngine>, Store) {
        self.house.store();
        let engine = self.house.engine.lock().unwrap().clone().unwrap();
        let way = CuttableEngine::new(engine);
        let key = RootKey::load_or_generate(
            &self.house.dir.path().join("root.key"),
            &self.house.dir.path().join("data"),
        )
        .unwrap();
        let store = Store::assemble(way.clone(), &key, false).await.unwrap();
        (way, store)
    }

    async fn add(&mut self, name: &str, level: u16) -> Result<(), Failure> {
        self.join(self.options(name, level)).await?;
        self.settle().await;
        Ok(())
    }

    async fn join(&mut self, options: KeeperOptions) -> Result<(), Failure> {
        let (way, store) = self.way().await;
        let now = self.nodes.first().map_or(START, |node| node.keeper.now().0);
        let clock = Arc::new(ManualClock::at(now));
        let opening = tokio::spawn(Keeper::open(
            store,
            self.house.setup(),
            clock.clone(),
            options,
        ));
        let keeper = self.moving(opening).await.unwrap()?;
        self.nodes.push(Node { keeper, way, clock });
        Ok(())
    }

    /// Lets time pass until `task` is done.
    pub async fn moving<T: Send + 'static>(
        &self,
        task: tokio::task::JoinHandle<T>,
    ) -> Result<T, tokio::task::JoinError> {
        let begun = std::time::Instant::now();
        while !task.is_finished() {
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "it does not end"
            );
            self.pass(Duration::from_millis(50)).await;
        }
        task.await
    }

    /// Time passes for everybody, and everybody has a moment of it.
    async fn pass(&self, by: Duration) {
        for node in &self.nodes {
            node.clock.pass(by);
        }
        tokio::time::advance(by).await;
        self.quiet().await;
    }

    /// All have done what they can do without more time. The store commits on a thread of its own, which may have to wait for a
    /// processor: that is not to count as a slow store.
    async fn quiet(&self) {
        let engine = self.house.engine.lock().unwrap().clone().unwrap();
        let begun = std::time::Instant::now();
        let mut turns = 0;
        while turns < TURNS {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "a commit does not end"
            );
            tokio::task::yield_now().await;
            turns += 1;
            if engine.committing() > 0 {
                std::thread::yield_now();
                turns = 0;
            }
        }
    }

    /// Heartbeats go on until everybody who is not cut off has seen his own and heard of the others.
    pub async fn settle(&self) {
        let begun = std::time::Instant::now();
        loop {
            // As much as a heartbeat needs.
            self.pass(Duration::from_millis(250)).await;
            let pause = std::time::Instant::now();
            while pause.elapsed() < Duration::from_millis(200) {
                if self.nodes.iter().all(|node| node.keeper.fresh()) {
                    return;
                }
                tokio::task::yield_now().await;
            }
            let states: Vec<_> = self
                .nodes
                .iter()
                .map(|node| node.keeper.cluster_status())
                .collect();
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "nobody settles: {states:#?}"
            );
        }
    }

    /// Time passes in steps of a heartbeat, in which the nodes' tasks have their turn.
    pub async fn live(&self, mut by: Duration) {
        let step = Duration::from_millis(250);
        while by > Duration::ZERO {
            self.pass(step.min(by)).await;
            by = by.saturating_sub(step);
        }
    }
}

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

//! Several nodes on one store: what is shared, what holds everywhere and from when on, and what becomes of a node that is cut off.

mod issuers;
mod registry;
mod root_key;
mod serving;

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

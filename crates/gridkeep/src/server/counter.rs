//! What answers on the port while the store is not open: a sealed server, or a node that has not reached its store.

use std::time::Duration;

use gridkeep_dialect_vault::listener::{HttpService, TrustedProxies};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::port::Port;

/// How long answers under way may take to go out.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Who answers in the meantime.
pub(super) struct Counter {
    /// Where, for people.
    pub(super) addresses: String,
    /// All that ends with it.
    pub(super) tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Counter {
    /// Has `service` answer on `port`, also to what comes by way of `proxies`.
    pub(super) fn open(
        service: &impl HttpService,
        proxies: TrustedProxies,
        port: &Port,
    ) -> anyhow::Result<Counter> {
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        port.serve(service, proxies, &mut tasks, &stopping)?;
        Ok(Counter {
            addresses: port.addresses()?.join(" "),
            tasks,
            stop,
        })
    }

    /// Turns true when it closes.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// By which it is told to let nobody in any more and to end open connections after the answers under way.
    pub(super) fn end(&self) -> watch::Sender<bool> {
        self.stop.clone()
    }

    /// Lets the answers under way go out.
    pub(super) async fn close(mut self) {
        // The receivers live in the tasks; without one there is nobody to tell.
        let _ = self.stop.send(true);
        let done = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_ANSWERS, done).await;
    }
}

//! What is counted, and what gauges say: alerts go by both.

use std::time::Duration;

use gridkeep_issuer::BreakerState;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::faults::received_into_a_broken_store;
use super::issuer::{Next, Rotation};
use super::support::*;
use crate::*;

const ALICE: &str = "dune/alice:default";
const DAY: u64 = 86_400;

/// What this thread counts from now on, and thereby all tasks of a test.
pub(super) struct Counted {
    handle: PrometheusHandle,
    _here: metrics::LocalRecorderGuard<'static>,
}

impl Counted {
    pub(super) fn new() -> Counted {
        // For the rest of the process, which is that of the tests.
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        Counted {
            handle: recorder.handle(),
            _here: metrics::set_default_local_recorder(recorder),
        }
    }

    /// The value of a series, named as in Prometheus' text.
    pub(super) fn value(&self, series: &str) -> Option<f64> {
        let text = self.handle.render();
        let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        lines
            .find(|(name, _)| *name == series)
            .map(|(_, value)| value.parse().unwrap())
    }

    /// How many logins by `method` came to each step that any came to.
    pub(super) fn logins(&self, method: &str) -> Vec<(&'static str, u64)> {
        let steps = [
            "started",
            "polled",
            "completed",
            "denied",
            "failed",
            "expired",
        ];
        let count = |step| {
            let series = format!(
                "gridkeep_logins_total{{issuer=\"dune\",method=\"{method}\",step=\"{step}\"}}"
            );
            self.value(&series).unwrap_or(0.0) as u64
        };
        let counted = steps.map(|step| (step, count(step)));
        counted.into_iter().filter(|(_, n)| *n > 0).collect()
    }

    fn refreshes(&self, outcome: &str) -> u64 {
        let series = format!("gridkeep_refreshes_total{{issuer=\"dune\",outcome=\"{outcome}\"}}");
        self.value(&series).unwrap_or(0.0) as u64
    }
}

/// A gauge as it is set now, `None` if it is not.
fn gauge(keeper: &Keeper, series: &str) -> Option<f64> {
    let counted = Counted::new();
    keeper.measure();
    counted.value(series)
}

async fn oldest_life(keeper: &Keeper) -> Option<u64> {
    keeper.count().await.unwrap();
    let series = "gridkeep_oldest_grant_life_seconds{issuer=\"dune\"}";
    gauge(keeper, series).map(|life| life as u64)
}

fn in_device_mode(house: &House) -> Setup {
    let mut setup = house.setup();
    setup.issuers[0].callback_mode = CallbackMode::Device;
    setup
}

#[tokio::test(start_paused = true)]
async fn logins_that_cannot_begin_have_failed() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let counted = Counted::new();
    house.issuer.books().next.push_back(Next::Unsent);
    kind(keeper.login_start(start("dune")).await);
    assert_eq!(counted.logins("code"), [("failed", 1)]);
    keeper.reconfigure(in_device_mode(&house)).await.unwrap();
    let refusal = Next::Refuse("invalid_client");
    house.issuer.books().next.push_back(refusal);
    bad(keeper.login_start(start("dune")).await);
    assert_eq!(counted.logins("device"), [("failed", 1)]);
    keeper.login_start(start("dune")).await.unwrap();
    assert_eq!(counted.logins("device"), [("started", 1), ("failed", 1)]);
}

#[tokio::test(start_paused = true)]
async fn logins_with_a_browser_are_counted_by_how_far_they_came() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let counted = Counted::new();
    login(&house, &keeper, "alice").await;
    let done = [("started", 1), ("polled", 1), ("completed", 1)];
    assert_eq!(counted.logins("code"), done);
    // Nobody comes back from the issuer.
    keeper.login_start(start("dune")).await.unwrap();
    house.clock.pass(Duration::from_secs(601));
    keeper.note_time_and_sweep().await.unwrap();
    keeper.note_time_and_sweep().await.unwrap();
    // The issuer does not answer when the code is redeemed.
    let state = keeper.login_start(start("dune")).await.unwrap().state;
    house.issuer.books().next.push_back(Next::LoseAnswer);
    let _ = keeper.callback(callback("dune", &state)).await;
    let steps = [
        ("started", 3),
        ("polled", 1),
        ("completed", 1),
        ("failed", 1),
        ("expired", 1),
    ];
    assert_eq!(counted.logins("code"), steps);
}

#[tokio::test(start_paused = true)]
async fn who_lacks_a_claim_is_denied_and_the_issuer_is_not_blamed() {
    let house = House::new(Rotation::Never);
    let mut setup = house.setup();
    setup.issuers[0].roles[0].terms.bound_claims = vec![BoundClaim {
        claim: ClaimName::parse("groups"),
        values: vec!["/lab".to_owned()],
    }];
    let keeper = house.open_with(setup).await;
    let counted = Counted::new();
    let state = keeper.login_start(start("dune")).await.unwrap().state;
    let shown = keeper.callback(callback("dune", &state)).await.unwrap();
    assert!(
        matches!(&shown, CallbackOutcome::Denied { error } if error == "access_denied"),
        "{shown:?}"
    );
    assert_eq!(counted.logins("code"), [("started", 1), ("denied", 1)]);
    // A token without the claim that names people is a fault of the configuration.
    house.issuer.books().person.remove("wlcg.credkey");
    let state = keeper.login_start(start("dune")).await.unwrap().state;
    let _ = keeper.callback(callback("dune", &state)).await;
    let steps = [("started", 2), ("denied", 1), ("failed", 1)];
    assert_eq!(counted.logins("code"), steps);
}

#[tokio::test(start_paused = true)]
async fn refreshes_are_counted_by_what_they_came_to() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    let counted = Counted::new();
    for (next, outcome) in [
        (Some(Next::Unsent), "unreachable"),
        (Some(Next::HoldBack), "held_back"),
        (Some(Next::Refuse("invalid_client")), "failed"),
        (None, "renewed"),
        (Some(Next::LoseAnswer), "no_answer"),
        // The refresh token was used up by the answer that was lost.
        (None, "dead"),
    ] {
        house.clock.pass(Duration::from_secs(3600));
        house.issuer.books().next.extend(next);
        let _ = access(&keeper, &by, ALICE).await;
        assert_eq!(counted.refreshes(outcome), 1, "{outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_the_store_does_not_take_until_the_stop_is_not_stored() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let counted = Counted::new();
    received_into_a_broken_store(&house, &keeper).await;
    assert_eq!(gauge(&keeper, "gridkeep_spooled_refresh_tokens"), Some(1.0));
    keeper.drain(Duration::from_secs(5)).await;
    assert_eq!(counted.refreshes("not_stored"), 1);
    assert_eq!(counted.refreshes("renewed"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_grant_ages_is_renewed_and_is_no_more_once_nobody_keeps_it_alive() {
    let house = House::new(Rotation::Never);
    let mut setup = house.setup();
    setup.keep_alive.limit = Seconds(10 * DAY);
    let keeper = house.open_with(setup).await;
    assert_eq!(oldest_life(&keeper).await, None, "there is none");
    login(&house, &keeper, "alice").await;
    assert_eq!(oldest_life(&keeper).await, Some(30 * DAY));
    house.clock.pass(Duration::from_secs(8 * DAY));
    assert_eq!(oldest_life(&keeper).await, Some(22 * DAY));
    keeper.keep_alive().await.unwrap();
    assert_eq!(oldest_life(&keeper).await, Some(30 * DAY));
    // Unused for longer than the limit: that nobody refreshes it any more is as it should be, and no reason to alarm anybody.
    house.clock.pass(Duration::from_secs(8 * DAY));
    keeper.keep_alive().await.unwrap();
    assert_eq!(oldest_life(&keeper).await, None);
    // Its owner comes back.
    let by = operator(&keeper).await;
    access(&keeper, &by, ALICE).await.unwrap();
    assert_eq!(oldest_life(&keeper).await, Some(30 * DAY));
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_forgets_sooner_is_asked_sooner() {
    for (life, refreshed_on) in [
        (30, vec![7, 14, 21, 28]),
        (10, vec![3, 6, 9, 12, 15, 18, 21, 24, 27]),
        // No more than once a day.
        (2, (1..=28).collect()),
    ] {
        let house = House::new(Rotation::Never);
        let mut setup = house.setup();
        setup.issuers[0].refresh_token_life = Some(Seconds(life * DAY));
        let keeper = house.open_with(setup).await;
        let stated = "gridkeep_refresh_token_life_seconds{issuer=\"dune\"}";
        assert_eq!(gauge(&keeper, stated), Some((life * DAY) as f64));
        login(&house, &keeper, "alice").await;
        let mut days = Vec::new();
        for day in 1..=28 {
            house.clock.pass(Duration::from_secs(DAY));
            let before = house.issuer.refreshes();
            keeper.keep_alive().await.unwrap();
            keeper.keep_alive().await.unwrap();
            let count = house.issuer.refreshes() - before;
            days.extend(std::iter::repeat_n(day, count));
        }
        assert_eq!(days, refreshed_on, "kept for {life} days");
    }
}

#[tokio::test(start_paused = true)]
async fn the_breaker_goes_back_to_0() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let state = "gridkeep_issuer_breaker_state{issuer=\"dune\"}";
    for (breaker, value) in [
        (BreakerState::Open(Duration::from_secs(4)), 2.0),
        (BreakerState::HalfOpen, 1.0),
        (BreakerState::Closed, 0.0),
    ] {
        house.issuer.books().breaker = Some(breaker);
        assert_eq!(gauge(&keeper, state), Some(value), "{breaker:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_refused_shows() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let refused = "gridkeep_issuer_client_refused{issuer=\"dune\"}";
    for (words, value) in [(Some("invalid_client"), 1.0), (None, 0.0)] {
        house.issuer.books().client_refused = words.map(str::to_owned);
        assert_eq!(gauge(&keeper, refused), Some(value), "{words:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_alone_is_a_cluster_of_one_that_serves() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    for (series, value) in [
        ("gridkeep_cluster_nodes{state=\"live\"}", 1.0),
        ("gridkeep_cluster_nodes{state=\"silent\"}", 0.0),
        ("gridkeep_cluster_nodes{state=\"stopped\"}", 0.0),
        ("gridkeep_serves", 1.0),
        ("gridkeep_configuration_drift", 0.0),
        ("gridkeep_configuration_unusable", 0.0),
    ] {
        assert_eq!(gauge(&keeper, series), Some(value), "{series}");
    }
    assert_eq!(gauge(&keeper, "gridkeep_store_limit_bytes"), None);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_is_silent_to_the_others_and_does_not_serve() {
    let mut nodes = super::cluster::Nodes::new(Rotation::Never, 3).await;
    let live = "gridkeep_cluster_nodes{state=\"live\"}";
    let silent = "gridkeep_cluster_nodes{state=\"silent\"}";
    let stopped = "gridkeep_cluster_nodes{state=\"stopped\"}";
    assert_eq!(gauge(&nodes[0].keeper, live), Some(3.0));
    nodes[2].way.set_cut(true);
    nodes.live(Duration::from_secs(8)).await;
    assert_eq!(gauge(&nodes[0].keeper, live), Some(2.0));
    assert_eq!(gauge(&nodes[0].keeper, silent), Some(1.0));
    assert_eq!(gauge(&nodes[0].keeper, "gridkeep_serves"), Some(1.0));
    assert_eq!(gauge(&nodes[2].keeper, "gridkeep_serves"), Some(0.0));
    nodes[2].way.set_cut(false);
    nodes.settle().await;
    nodes.live(Duration::from_secs(1)).await;
    assert_eq!(gauge(&nodes[0].keeper, live), Some(3.0));
    let last = nodes.nodes.pop().unwrap();
    let ending = tokio::spawn(async move { last.keeper.drain(Duration::from_secs(5)).await });
    nodes.moving(ending).await.unwrap();
    nodes.live(Duration::from_secs(1)).await;
    assert_eq!(gauge(&nodes[0].keeper, stopped), Some(1.0));
    assert_eq!(gauge(&nodes[0].keeper, silent), Some(0.0));
    nodes[0].keeper.report(cluster::NodeReport {
        drift: true,
        trouble: Some("a newer version wrote it".into()),
        ..cluster::NodeReport::default()
    });
    for about in ["drift", "unusable"] {
        let series = format!("gridkeep_configuration_{about}");
        assert_eq!(gauge(&nodes[0].keeper, &series), Some(1.0));
    }
}

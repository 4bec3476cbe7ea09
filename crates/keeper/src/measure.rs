//! What the keeper counts, and the gauges that are set when somebody asks ([`Keeper::measure`]).
//!
//! Labels are names of the configuration and words of this file, never a person, a path or a token.

use std::time::Duration;

use gridkeep_issuer::{BreakerState, IssuerError, Sent};
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::cluster::NodeState;
use crate::keeper::Keeper;
use crate::setup::{CallbackMode, IssuerSetup, Setup};

const LOGINS: &str = "gridkeep_logins_total";
const REFRESHES: &str = "gridkeep_refreshes_total";
const REFRESH_SECONDS: &str = "gridkeep_refresh_duration_seconds";

/// The method of logins with a ticket; of those with a browser see [`method`].
pub(crate) const KERBEROS: &str = "kerberos";
/// The same with an ssh key.
pub(crate) const SSH: &str = "ssh";

const STEPS: [&str; 6] = [
    "started",
    "polled",
    "completed",
    "denied",
    "failed",
    "expired",
];
const OUTCOMES: [&str; 7] = [
    "renewed",
    "dead",
    "held_back",
    "unreachable",
    "no_answer",
    "failed",
    "not_stored",
];

/// Says what the metrics of this crate mean.
pub fn describe_metrics() {
    describe_counter!(
        LOGINS,
        "Logins by how far they came: started, polled at least once, completed, denied by the person, failed, expired"
    );
    describe_counter!(
        REFRESHES,
        "Refreshes of grants by outcome; dead: the issuer refuses the grant for good and its owner has to log in again"
    );
    describe_histogram!(
        REFRESH_SECONDS,
        Unit::Seconds,
        "Time of a refresh from sending it until its answer is stored"
    );
    for (name, help) in [
        (
            "gridkeep_logins_under_way",
            "Logins that have not ended, those that other nodes started included",
        ),
        (
            "gridkeep_refreshes_under_way",
            "Refreshes that this node waits for",
        ),
        (
            "gridkeep_spooled_refresh_tokens",
            "Received refresh tokens that the store could not take yet",
        ),
        (
            "gridkeep_clock_doubtful",
            "1 while the wall clock is not believed: nothing is deleted or called expired for ever",
        ),
        (
            "gridkeep_issuer_breaker_state",
            "Whether requests go out to the issuer: 0 yes, 1 one as a probe, 2 none for a while",
        ),
        (
            "gridkeep_issuer_consecutive_failures",
            "Failures since the issuer last gave an answer that made sense",
        ),
        (
            "gridkeep_issuer_client_refused",
            "1 while the issuer refuses this server as its client: client id or secret are wrong, or its registration is",
        ),
        (
            "gridkeep_issuer_budget_left",
            "Requests that could go out to the issuer at once",
        ),
        (
            "gridkeep_issuer_last_success_timestamp_seconds",
            "When the issuer last gave an answer that made sense, seconds since 1970",
        ),
        (
            "gridkeep_store_entries",
            "Records in the store, where the engine knows",
        ),
        (
            "gridkeep_store_bytes",
            "Bytes on disk; in etcd, of its largest member's file",
        ),
        (
            "gridkeep_store_limit_bytes",
            "Bytes that the store may grow to, which is etcd's quota; on a disk of its own there is no such limit",
        ),
        (
            "gridkeep_store_commit_sequence",
            "Number of the newest commit",
        ),
        (
            "gridkeep_store_refusing_writes",
            "1 while the store refuses writes, because its disk is full for example",
        ),
        ("gridkeep_credentials", "Credentials, as last counted"),
        (
            "gridkeep_grants",
            "Logins at issuers, as last counted: live, or dead and waiting for their owner to log in again",
        ),
        (
            "gridkeep_tokens_live",
            "Vault tokens neither expired nor revoked themselves, as last counted",
        ),
        (
            "gridkeep_oldest_grant_life_seconds",
            "Remaining life of the grant that was not refreshed for longest, if its issuer keeps an unused refresh token for as long as is configured",
        ),
        (
            "gridkeep_refresh_token_life_seconds",
            "How long the issuer keeps a refresh token that nobody uses, as configured",
        ),
        (
            "gridkeep_cluster_nodes",
            "Nodes that this one knows of: live, silent (not heard of for some seconds), or stopped in order",
        ),
        (
            "gridkeep_serves",
            "1 while this node answers requests itself; 0 while it passes them to other nodes, is sealed or starts",
        ),
        (
            "gridkeep_configuration_drift",
            "1 while this node's own files are not the configuration that all nodes share",
        ),
        (
            "gridkeep_configuration_unusable",
            "1 while the configuration that all nodes share cannot be used on this node",
        ),
        (
            "gridkeep_census_timestamp_seconds",
            "When credentials, grants and tokens were last counted, seconds since 1970",
        ),
    ] {
        describe_gauge!(name, help);
    }
}

/// Makes the counters of every configured issuer appear, so that what has not happened reads as 0 and not as unknown.
pub(crate) fn appear(setup: &Setup) {
    for issuer in &setup.issuers {
        let tickets = setup
            .kerberos
            .contains_key(&issuer.name)
            .then_some(KERBEROS);
        let keys = setup.ssh.is_some().then_some(SSH);
        for method in tickets.into_iter().chain(keys).chain([method(issuer)]) {
            for step in STEPS {
                counter!(LOGINS, "issuer" => issuer.name.clone(), "method" => method, "step" => step).increment(0);
            }
        }
        for outcome in OUTCOMES {
            counter!(REFRESHES, "issuer" => issuer.name.clone(), "outcome" => outcome).increment(0);
        }
    }
}

/// How people log in at an issuer with a browser.
pub(crate) fn method(issuer: &IssuerSetup) -> &'static str {
    match issuer.callback_mode {
        CallbackMode::Device => "device",
        CallbackMode::Direct | CallbackMode::NoConfirm => "code",
    }
}

/// A login came to `step`, one of the words of this file.
pub(crate) fn login(issuer: &str, method: &'static str, step: &'static str) {
    debug_assert!(STEPS.contains(&step), "{step}");
    counter!(LOGINS, "issuer" => issuer.to_owned(), "method" => method, "step" => step)
        .increment(1);
}

/// A login ended without success, for the reason with this code of RFC 6749 or RFC 8628.
pub(crate) fn login_refused(issuer: &str, method: &'static str, code: &str) {
    let step = match code {
        "access_denied" | "consent_required" | "interaction_required" => "denied",
        "expired_token" => "expired",
        _ => "failed",
    };
    login(issuer, method, step);
}

/// A refresh ended.
pub(crate) fn refresh(issuer: &str, outcome: &'static str, took: Duration) {
    debug_assert!(OUTCOMES.contains(&outcome), "{outcome}");
    counter!(REFRESHES, "issuer" => issuer.to_owned(), "outcome" => outcome).increment(1);
    histogram!(REFRESH_SECONDS, "issuer" => issuer.to_owned()).record(took);
}

/// The word for a refresh that brought nothing, but did not end the grant.
pub(crate) fn fruitless(error: &IssuerError) -> &'static str {
    match error {
        IssuerError::Throttled { .. } => "held_back",
        IssuerError::Temporary { sent: Sent::No, .. } => "unreachable",
        IssuerError::Temporary {
            sent: Sent::Maybe, ..
        } => "no_answer",
        _ => "failed",
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "numbers of this size are exact in floating point, or near enough for a graph"
)]
impl Keeper {
    /// Sets all gauges. Reads memory and one directory; asks neither the store nor an issuer.
    pub fn measure(&self) {
        gauge!("gridkeep_clock_doubtful").set(f64::from(u8::from(self.clock_doubtful())));
        gauge!("gridkeep_logins_under_way").set(self.inner.logins.count() as f64);
        gauge!("gridkeep_refreshes_under_way").set(self.inner.flights.count() as f64);
        gauge!("gridkeep_spooled_refresh_tokens").set(self.inner.spool.count() as f64);
        for (issuer, status) in self.issuer_status() {
            let set = |name: &'static str, value: f64| {
                gauge!(name, "issuer" => issuer.clone()).set(value)
            };
            set(
                "gridkeep_issuer_breaker_state",
                match status.breaker {
                    BreakerState::Closed => 0.0,
                    BreakerState::HalfOpen => 1.0,
                    BreakerState::Open(_) => 2.0,
                },
            );
            set(
                "gridkeep_issuer_consecutive_failures",
                f64::from(status.consecutive_failures),
            );
            set(
                "gridkeep_issuer_client_refused",
                f64::from(u8::from(status.client_refused.is_some())),
            );
            set("gridkeep_issuer_budget_left", status.budget_left);
            if let Some(at) = status.last_success {
                set("gridkeep_issuer_last_success_timestamp_seconds", at as f64);
            }
        }
        let store = self.store_status();
        gauge!("gridkeep_store_bytes").set(store.bytes as f64);
        if let Some(limit) = store.limit {
            gauge!("gridkeep_store_limit_bytes").set(limit as f64);
        }
        gauge!("gridkeep_store_commit_sequence").set(store.commit_sequence as f64);
        if let Some(entries) = store.entries {
            gauge!("gridkeep_store_entries").set(entries as f64);
        }
        gauge!("gridkeep_store_refusing_writes")
            .set(f64::from(u8::from(store.refusing_writes.is_some())));
        self.measure_cluster();
        let setup = self.setup();
        for issuer in &setup.issuers {
            gauge!("gridkeep_refresh_token_life_seconds", "issuer" => issuer.name.clone())
                .set(setup.refresh_token_life(issuer).0 as f64);
        }
        self.measure_census();
    }

    fn measure_cluster(&self) {
        let status = self.cluster_status();
        // One that is alone with its store is a cluster of one, without a registry.
        let alone = u32::from(!status.shared);
        for (label, state) in [
            ("live", NodeState::Live),
            ("silent", NodeState::Silent),
            ("stopped", NodeState::Stopped),
        ] {
            let nodes = status.nodes.iter().filter(|node| node.state == state);
            let alone = if state == NodeState::Live { alone } else { 0 };
            gauge!("gridkeep_cluster_nodes", "state" => label)
                .set(f64::from(alone) + nodes.count() as f64);
        }
        let report = self.reported();
        for (name, is) in [
            ("gridkeep_serves", self.serves()),
            ("gridkeep_configuration_drift", report.drift),
            ("gridkeep_configuration_unusable", report.trouble.is_some()),
        ] {
            gauge!(name).set(f64::from(u8::from(is)));
        }
    }

    fn measure_census(&self) {
        let Some(census) = self.inner.census.last() else {
            return;
        };
        let setup = self.setup();
        gauge!("gridkeep_census_timestamp_seconds").set(census.at.0 as f64);
        gauge!("gridkeep_tokens_live").set(census.tokens as f64);
        for issuer in &setup.issuers {
            let of = |name: &'static str| gauge!(name, "issuer" => issuer.name.clone());
            let counted = census
                .issuers
                .get(&issuer.name)
                .cloned()
                .unwrap_or_default();
            of("gridkeep_credentials").set(counted.credentials as f64);
            for (state, count) in [("live", counted.live), ("dead", counted.dead)] {
                gauge!("gridkeep_grants", "issuer" => issuer.name.clone(), "state" => state)
                    .set(count as f64);
            }
            if let Some(oldest) = counted.oldest {
                let end = crate::tokens::later(oldest, setup.refresh_token_life(issuer));
                of("gridkeep_oldest_grant_life_seconds").set((end.0 - self.now().0) as f64);
            }
        }
    }
}

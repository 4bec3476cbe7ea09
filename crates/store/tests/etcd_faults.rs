//! The etcd engine while etcd, or the way to it, fails: no answer is untrue, every call ends, and it recovers by itself.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its verdict")]

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gridkeep_store::conformance::under_faults;
use gridkeep_store::testing::XorShift;
use gridkeep_store::testing::etcd::EtcdCluster;
use gridkeep_store::{
    CommitError, Etcd, EtcdSettings, EtcdUpkeep, Initialise, Outcome, Store, StoreError,
    Transaction, Watch, WatchEvent,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

mod support;
use support::{KIND, get, name, put, record, try_put};

/// Longer than any call may take.
const BOUND: Duration = Duration::from_secs(12);
/// For what comes in the end, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

fn settings(endpoints: Vec<String>) -> EtcdSettings {
    EtcdSettings::new(endpoints, "faults/")
}

async fn open(settings: EtcdSettings, key: &Path) -> Store {
    let etcd = Etcd::new(settings).unwrap();
    let key = etcd.load_or_generate(key).await.unwrap();
    etcd.open(key, Initialise::WhenEmpty).await.unwrap()
}

/// Tries until it succeeds; panics on an error that is not temporary, or when it takes too long.
async fn put_in_the_end(store: &Store, part: &str, body: &[u8]) {
    let start = Instant::now();
    while let Err(error) = try_put(store, part, body).await {
        assert!(
            matches!(&error, CommitError::Store(error) if error.is_temporary()),
            "{error}"
        );
        assert!(start.elapsed() < PATIENCE, "{error}");
        // Nothing is waited for where it is refused at once.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A way to etcd that breaks at any moment while it is told to.
struct Way {
    address: String,
    failing: Arc<AtomicBool>,
    broken: Arc<AtomicU64>,
    /// Nothing gets through.
    cut: Arc<AtomicBool>,
}

impl Way {
    async fn to(endpoint: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let there = endpoint.strip_prefix("http://").unwrap().to_owned();
        let (failing, broken) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let random = Arc::new(Mutex::new(XorShift::new(seed)));
        let cut = Arc::new(AtomicBool::new(false));
        let state = (failing.clone(), broken.clone(), cut.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if state.2.load(Ordering::Relaxed) {
                    continue;
                }
                let (there, state, random) = (there.clone(), state.clone(), random.clone());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(there).await else {
                        return;
                    };
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    let roll = || {
                        let unlucky =
                            state.0.load(Ordering::Relaxed) && random.lock().unwrap().below(5) == 0;
                        state.1.fetch_add(u64::from(unlucky), Ordering::Relaxed);
                        unlucky || state.2.load(Ordering::Relaxed)
                    };
                    // Whichever side breaks, both end.
                    tokio::select! {
                        () = pass(near_in, far_out, &roll) => {}
                        () = pass(far_in, near_out, &roll) => {}
                    }
                });
            }
        });
        Self {
            address,
            failing,
            broken,
            cut,
        }
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    breaks: &impl Fn() -> bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if breaks() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_breaks_makes_no_answer_untrue() {
    let scratch = tempfile::tempdir().unwrap();
    let cluster = EtcdCluster::start(1, &[]).unwrap();
    let seeds: u64 = std::env::var("GRIDKEEP_SOAK")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let mut broken = 0;
    for seed in 1..=seeds {
        let way = Way::to(&cluster.endpoints()[0], seed).await;
        let mut settings = settings(vec![way.address.clone()]);
        settings.prefix = format!("seed{seed}/");
        let store = open(settings, &scratch.path().join(format!("{seed}.key"))).await;
        let failing = |on| way.failing.store(on, Ordering::Relaxed);
        under_faults(&store, &failing, seed, 50).await;
        broken += way.broken.load(Ordering::Relaxed);
    }
    assert!(
        broken > 20,
        "the way broke {broken} times: the test does not test"
    );
}

async fn seen(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(PATIENCE, watch.next())
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_was_cut_off_goes_on_or_says_what_it_missed() {
    let scratch = tempfile::tempdir().unwrap();
    let key = scratch.path().join("key");
    let cluster = EtcdCluster::start(1, &[]).unwrap();
    let way = Way::to(&cluster.endpoints()[0], 1).await;
    let store = open(settings(vec![way.address.clone()]), &key).await;
    let other = open(settings(cluster.endpoints()), &key).await;
    let mut watch = store.watch(KIND, &[]);
    for (round, compacted) in [false, true].into_iter().enumerate() {
        way.cut.store(true, Ordering::Relaxed);
        while seen(&mut watch).await != WatchEvent::Gap {}
        let part = |n: usize| format!("{round}-{n}");
        for n in 0..5 {
            put(&other, &part(n), b"1").await;
        }
        if compacted {
            let status = cluster
                .etcdctl(&["endpoint", "status", "-w", "json"])
                .unwrap();
            let revision = status.split("\"revision\":").nth(1).unwrap();
            let revision: String = revision.chars().take_while(char::is_ascii_digit).collect();
            cluster.etcdctl(&["compact", &revision]).unwrap();
        }
        way.cut.store(false, Ordering::Relaxed);
        let mut missed: Vec<usize> = (0..5).collect();
        let mut gap = false;
        while !missed.is_empty() && !gap {
            match seen(&mut watch).await {
                WatchEvent::Gap => gap = true,
                WatchEvent::Change(change) => missed.retain(|n| change.name != name(&part(*n))),
            }
        }
        assert!(
            gap || !compacted,
            "what etcd has compacted away can not be told"
        );
        put_in_the_end(&other, "after", &[round as u8]).await;
        loop {
            match seen(&mut watch).await {
                // It may begin anew only now.
                WatchEvent::Gap => put(&other, "after", &[round as u8]).await,
                WatchEvent::Change(change) if change.name == name("after") => break,
                WatchEvent::Change(_) => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_etcd_comes_back_and_so_does_the_store() {
    let scratch = tempfile::tempdir().unwrap();
    let mut cluster = EtcdCluster::start(1, &[]).unwrap();
    let store = open(settings(cluster.endpoints()), &scratch.path().join("key")).await;
    put(&store, "a", b"1").await;
    let mut watch = store.watch(KIND, &[]);
    cluster.kill(0);
    let start = Instant::now();
    let Err(CommitError::Store(StoreError::Unavailable { .. })) = try_put(&store, "a", b"2").await
    else {
        panic!("nobody is there");
    };
    let error = store.get(&name("a")).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    assert!(
        error
            .to_string()
            .contains(&format!("etcd at {}", cluster.endpoints()[0])),
        "says where: {error}"
    );
    assert!(start.elapsed() < BOUND);
    cluster.restart(0).unwrap();
    let found = get(&store, "a").await.unwrap();
    assert!(found == b"1" || found == b"2", "{found:?}");
    put_in_the_end(&store, "b", b"3").await;
    assert_eq!(get(&store, "b").await.as_deref(), Some(&b"3"[..]));
    // The watch has told of a gap, and goes on.
    let mut gap = false;
    loop {
        match seen(&mut watch).await {
            WatchEvent::Gap => gap = true,
            WatchEvent::Change(change) if change.name == name("c") => break,
            WatchEvent::Change(_) => {}
        }
        if gap {
            put(&store, "c", b"4").await;
        }
    }
    assert!(gap);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_etcd_is_said_to_be_away_and_what_was_sent_does_not_arrive_late() {
    let scratch = tempfile::tempdir().unwrap();
    let mut cluster = EtcdCluster::start(1, &[]).unwrap();
    let store = open(settings(cluster.endpoints()), &scratch.path().join("key")).await;
    put(&store, "a", b"0").await;
    for round in 1..=2u8 {
        cluster.stop(0);
        let start = Instant::now();
        let error = try_put(&store, "a", &[round]).await.unwrap_err();
        assert!(
            matches!(
                &error,
                CommitError::Store(StoreError::Unavailable {
                    outcome: Outcome::Unknown,
                    ..
                })
            ),
            "{error:?}"
        );
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
        cluster.resume(0);
        let found = store.get(&name("a")).await.unwrap().unwrap();
        // What was found first stays: nothing arrives after it.
        for _ in 0..50 {
            assert_eq!(
                store.get(&name("a")).await.unwrap().unwrap().version,
                found.version,
                "round {round}"
            );
        }
        let guarded = Transaction::new()
            .guard(gridkeep_store::Guard::unchanged(&name("a"), Some(&found)))
            .put(name("a"), record(b"after"));
        store.commit(guarded).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_who_waits_for_a_silent_etcd_is_told_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let mut cluster = EtcdCluster::start(1, &[]).unwrap();
    let store = open(settings(cluster.endpoints()), &scratch.path().join("key")).await;
    put(&store, "a", b"0").await;
    cluster.stop(0);
    try_put(&store, "a", b"1").await.unwrap_err();
    // What became of that has to be found out before anything is read, for all of them by one attempt.
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = store.clone();
        readers.spawn(async move { store.get(&name("a")).await });
    }
    let told = tokio::time::timeout(BOUND, readers.join_all()).await;
    for found in told.unwrap() {
        assert!(found.unwrap_err().is_temporary());
    }
    cluster.resume(0);
    assert!(get(&store, "a").await.is_some());
}

/// The members of a cluster, one that does not lead first.
fn follower_first(cluster: &EtcdCluster) -> (usize, Vec<String>) {
    let mut endpoints = cluster.endpoints();
    let status = ["endpoint", "status", "-w", "json"];
    let status = cluster.etcdctl(&status).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let leads = |member: &serde_json::Value| {
        member["Status"]["header"]["member_id"] == member["Status"]["leader"]
    };
    let follower = status.as_array().unwrap().iter().position(|m| !leads(m));
    let follower = follower.unwrap();
    endpoints.rotate_left(follower);
    (follower, endpoints)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_its_silent_member_did_not_pass_on_is_sent_to_the_next() {
    let scratch = tempfile::tempdir().unwrap();
    let mut cluster = EtcdCluster::start(3, &[]).unwrap();
    let (asked, endpoints) = follower_first(&cluster);
    let store = open(settings(endpoints), &scratch.path().join("key")).await;
    put(&store, "a", b"0").await;
    cluster.stop(asked);
    try_put(&store, "a", b"1").await.unwrap();
    assert_eq!(get(&store, "a").await.as_deref(), Some(&b"1"[..]));
    cluster.resume(asked);
    assert_eq!(get(&store, "a").await.as_deref(), Some(&b"1"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_members_may_go() {
    let scratch = tempfile::tempdir().unwrap();
    let mut cluster = EtcdCluster::start(3, &[]).unwrap();
    let store = open(settings(cluster.endpoints()), &scratch.path().join("key")).await;
    put(&store, "a", b"0").await;
    let mut n = 0u32;
    for member in 0..3 {
        for kill in [true, false] {
            if kill {
                cluster.kill(member);
            } else {
                cluster.stop(member);
            }
            for _ in 0..3 {
                n += 1;
                put_in_the_end(&store, "a", n.to_string().as_bytes()).await;
                let found = get(&store, "a").await.unwrap();
                assert_eq!(found, n.to_string().as_bytes());
            }
            if kill {
                cluster.restart(member).unwrap();
            } else {
                cluster.resume(member);
            }
        }
    }
    // Without a majority nothing is acknowledged and nothing is read.
    cluster.kill(0);
    cluster.kill(1);
    let start = Instant::now();
    let error = try_put(&store, "a", b"minority").await.unwrap_err();
    assert!(
        matches!(&error, CommitError::Store(error) if error.is_temporary()),
        "{error}"
    );
    let error = store.get(&name("a")).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    assert!(start.elapsed() < 2 * BOUND, "{:?}", start.elapsed());
    cluster.spawn(0).unwrap();
    cluster.restart(1).unwrap();
    put_in_the_end(&store, "b", b"again").await;
    let found = get(&store, "a").await.unwrap();
    assert!(found == n.to_string().as_bytes() || found == b"minority");
}

const QUOTA: u64 = 24 * 1024 * 1024;

fn small(act: bool) -> (EtcdCluster, EtcdSettings) {
    let cluster = EtcdCluster::start(1, &["--quota-backend-bytes", &QUOTA.to_string()]).unwrap();
    let mut settings = settings(cluster.endpoints());
    settings.upkeep = EtcdUpkeep {
        act,
        quota_bytes: QUOTA,
        every: Duration::from_millis(10),
    };
    (cluster, settings)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_refuses_what_needs_room_and_takes_it_again_once_it_has_some() {
    let scratch = tempfile::tempdir().unwrap();
    let (cluster, settings) = small(false);
    let store = open(settings, &scratch.path().join("key")).await;
    put(&store, "old", b"1").await;
    let large = vec![7; 50_000];
    let mut n = 0;
    let refused = loop {
        // In small steps towards the end, so that who looks how full etcd is, which etcd tells late, comes before the last room is used
        // up.
        let near = n * large.len() as u64 > QUOTA / 3 * 2;
        match try_put(
            &store,
            &n.to_string(),
            if near { &large[..5_000] } else { &large },
        )
        .await
        {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
        assert!(n < 4000, "it never fills");
    };
    assert!(
        matches!(
            &refused,
            CommitError::Store(StoreError::QuotaReached { .. })
        ),
        "{refused}"
    );
    assert!(n > 100, "{n}");
    let status = store.status();
    assert!(matches!(
        status.refusing_writes,
        Some(StoreError::QuotaReached { .. })
    ));
    assert_eq!(status.limit, Some(QUOTA));
    // What must not be lost has some room left, deletions always; when that is used up too, etcd refuses.
    store
        .commit_critical(Transaction::new().put(name("critical"), record(b"token")))
        .await
        .unwrap();
    let mut m = 0;
    let refused = loop {
        let transaction = Transaction::new().put(name(&format!("critical{m}")), record(&large));
        match store.commit_critical(transaction).await {
            Ok(_) => m += 1,
            Err(error) => break error,
        }
        assert!(m < 500, "it never fills");
    };
    assert!(
        matches!(
            &refused,
            CommitError::Store(StoreError::QuotaReached { .. })
        ),
        "{refused}"
    );
    assert_eq!(
        get(&store, "critical").await.as_deref(),
        Some(&b"token"[..])
    );
    for part in 0..n {
        store
            .commit(Transaction::new().delete(name(&part.to_string())))
            .await
            .unwrap();
    }
    assert!(try_put(&store, "refused", b"x").await.is_err());

    // An operator ends it by hand.
    let status = cluster
        .etcdctl(&["endpoint", "status", "-w", "json"])
        .unwrap();
    let revision = status.split("\"revision\":").nth(1).unwrap();
    let revision: String = revision.chars().take_while(char::is_ascii_digit).collect();
    cluster
        .etcdctl(&["compact", &revision, "--physical"])
        .unwrap();
    cluster.etcdctl(&["defrag"]).unwrap();
    cluster.etcdctl(&["alarm", "disarm"]).unwrap();
    put_in_the_end(&store, "after", b"1").await;
    let start = Instant::now();
    while store.status().refusing_writes.is_some() {
        assert!(start.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    assert_eq!(get(&store, "old").await.as_deref(), Some(&b"1"[..]));
}

/// Overwrites one record until etcd itself refuses.
async fn fill_with_old_revisions(store: &Store) {
    let large = vec![7; 500_000];
    for _ in 0..400 {
        let transaction = Transaction::new().put(name("often"), record(&large));
        match store.commit_critical(transaction).await {
            Ok(_) => {}
            Err(CommitError::Store(StoreError::QuotaReached { .. })) => return,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it never fills");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep_ends_the_alarm_of_an_etcd_that_is_full_of_old_revisions() {
    let scratch = tempfile::tempdir().unwrap();
    let key = scratch.path().join("key");
    let (cluster, mut settings) = small(false);
    let idle = open(settings.clone(), &key).await;
    fill_with_old_revisions(&idle).await;
    assert!(
        cluster
            .etcdctl(&["alarm", "list"])
            .unwrap()
            .contains("NOSPACE")
    );
    // A node that starts now can not write a lease; it helps nevertheless.
    settings.upkeep.act = true;
    let store = open(settings, &key).await;
    put_in_the_end(&store, "after", b"1").await;
    assert_eq!(cluster.etcdctl(&["alarm", "list"]).unwrap(), "");
    put_in_the_end(&idle, "after", b"2").await;
    // From then on it does not come to that: far more than the quota is written.
    for _ in 0..100 {
        put_in_the_end(&store, "often", &[8; 500_000]).await;
    }
    let status = store.status();
    assert!(status.bytes <= QUOTA, "{status:?}");
}

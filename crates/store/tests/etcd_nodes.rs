//! Several processes on one etcd, and what is found under a prefix when a store is opened.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its verdict")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gridkeep_store::testing::ManualBootClock;
use gridkeep_store::testing::etcd::{EtcdCluster, TlsFiles};
use gridkeep_store::{
    Change, Etcd, EtcdSettings, EtcdTls, Initialise, RootKey, Store, StoreError, Transaction,
    WatchEvent,
};
use tempfile::TempDir;

mod support;
use support::{KIND, get, name, put, try_put};

struct Place {
    cluster: EtcdCluster,
    scratch: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            cluster: EtcdCluster::start(1, &[]).unwrap(),
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    fn settings(&self) -> EtcdSettings {
        EtcdSettings::new(self.cluster.endpoints(), "nodes/")
    }

    fn etcd(&self) -> Etcd {
        Etcd::new(self.settings()).unwrap()
    }

    fn key(&self) -> PathBuf {
        self.scratch.path().join("key")
    }

    async fn open(&self) -> Result<Store, StoreError> {
        self.open_with(self.settings(), &self.key()).await
    }

    async fn open_with(&self, settings: EtcdSettings, key: &Path) -> Result<Store, StoreError> {
        let etcd = Etcd::new(settings)?;
        let key = etcd.load_or_generate(key).await?;
        etcd.open(key, Initialise::WhenEmpty).await
    }
}

const TTL: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_see_each_other() {
    let place = Place::new();
    let (one, two) = (place.open().await.unwrap(), place.open().await.unwrap());
    assert_eq!(one.status().store_id, two.status().store_id);
    assert_eq!(two.status().epoch, one.status().epoch + 1);
    let mut watch = two.watch(KIND, &[]);
    put(&one, "a", b"1").await;
    assert_eq!(get(&two, "a").await.as_deref(), Some(&b"1"[..]));
    let seen = watch.next().await.unwrap();
    assert!(
        matches!(&seen, WatchEvent::Change(Change { name: changed, deleted: false, .. }) if *changed == name("a"))
    );
    // Rotated by one, read and written by the other, sealed anew by one: versions stay, guards hold.
    one.rotate_keyring().await.unwrap();
    put(&one, "b", b"2").await;
    assert_eq!(get(&two, "b").await.as_deref(), Some(&b"2"[..]));
    put(&two, "c", b"3").await;
    let before = two.get(&name("a")).await.unwrap().unwrap();
    one.reseal_all().await.unwrap();
    assert_eq!(one.status().key_generations, 1);
    let guarded = |store: &Store| {
        let guard = gridkeep_store::Guard::At(name("a"), before.version);
        let transaction = Transaction::new().guard(guard);
        let store = store.clone();
        async move { store.commit(transaction).await }
    };
    guarded(&two).await.unwrap();
    let third = place.open().await.unwrap();
    guarded(&third).await.unwrap();
    put(&two, "a", b"4").await;
    assert!(guarded(&third).await.is_err());
    assert!(guarded(&one).await.is_err());
    // One's end is not the others'.
    one.close().await.unwrap();
    put(&two, "d", b"5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_has_one_holder_among_nodes_and_every_node_its_own_clock() {
    let place = Place::new();
    let mut clocks = Vec::new();
    let mut stores = Vec::new();
    for _ in 0..3 {
        let clock = Arc::new(ManualBootClock::default());
        // Clocks since the start of a host have nothing in common.
        clock.advance(Duration::from_secs(1000 * clocks.len() as u64));
        let mut settings = place.settings();
        settings.clock = clock.clone();
        stores.push(place.open_with(settings, &place.key()).await.unwrap());
        clocks.push(clock);
    }
    let first = stores[0].lease("l", "zero", TTL).await.unwrap().unwrap();
    for store in &stores[1..] {
        assert!(store.lease("l", "other", TTL).await.unwrap().is_none());
    }
    // A clock that is ahead does not end the lease of somebody who renews it.
    clocks[1].advance(TTL / 2);
    assert!(first.renew().await.unwrap());
    // The renewal is seen on the watch, without being asked for.
    let renewed = stores[1].lease("l", "other", TTL).await.unwrap();
    assert!(renewed.is_none());
    clocks[1].advance(TTL * 3 / 4);
    assert!(stores[1].lease("l", "one", TTL).await.unwrap().is_none());
    clocks[1].advance(TTL / 2);
    let second = stores[1].lease("l", "one", TTL).await.unwrap().unwrap();
    assert!(second.fence() > first.fence());
    assert!(!first.renew().await.unwrap(), "it was taken over");
    assert!(stores[2].lease("l", "two", TTL).await.unwrap().is_none());
    second.release().await.unwrap();
    assert!(stores[2].lease("l", "two", TTL).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_etcd_learns_no_names() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let lease = store.lease("work-canary", "holder-canary", TTL).await;
    let _lease = lease.unwrap().unwrap();
    put(&store, "part-canary", b"body-canary").await;
    let shown = place.cluster.etcdctl(&["get", "nodes/", "--prefix"]);
    let shown = shown.unwrap();
    assert!(shown.lines().any(|line| line.starts_with("nodes/")));
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_at_once_make_one_store() {
    let place = Place::new();
    // With the same key, as from the service manager.
    let key = place.key();
    RootKey::generate_file(&key).unwrap();
    let starts = (0..6).map(|_| {
        let (etcd, key) = (place.etcd(), RootKey::from_file(&key).unwrap());
        tokio::spawn(etcd.open(key, Initialise::WithGivenKey))
    });
    let mut ids = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        let store = start.await.unwrap().unwrap();
        put(&store, &ids.len().to_string(), b"1").await;
        ids.push(store.status().store_id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let store = place.open().await.unwrap();
    for n in 0..6 {
        assert!(get(&store, &n.to_string()).await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_nodes_that_make_keys_at_once_one_remains() {
    let place = Place::new();
    let mut starts = Vec::new();
    for n in 0..4 {
        let key = place.scratch.path().join(format!("{n}.key"));
        let etcd = place.etcd();
        starts.push(tokio::spawn(async move {
            let root = etcd.load_or_generate(&key).await?;
            etcd.open(root, Initialise::WhenEmpty).await.map(drop)
        }));
    }
    let mut made = 0;
    for (n, start) in starts.into_iter().enumerate() {
        let key = place.scratch.path().join(format!("{n}.key"));
        match start.await.unwrap() {
            Ok(()) => {
                made += 1;
                assert!(key.exists());
                place.open_with(place.settings(), &key).await.unwrap();
            }
            Err(error) => {
                assert!(
                    matches!(&error, StoreError::DataWithoutKey { .. }),
                    "{error}"
                );
                assert!(!key.exists(), "the key that protects nothing is gone");
            }
        }
    }
    assert_eq!(made, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_or_not_there_is_refused() {
    let place = Place::new();
    // A key, but no data.
    RootKey::generate_file(&place.key()).unwrap();
    let error = place.open().await.unwrap_err();
    assert!(
        matches!(&error, StoreError::KeyWithoutData { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("prefix nodes/"), "{error}");
    let never = place
        .etcd()
        .open(RootKey::from_file(&place.key()).unwrap(), Initialise::Never)
        .await;
    assert!(never.is_err());
    assert!(!place.etcd().holds_data().await.unwrap());
    std::fs::remove_file(place.key()).unwrap();
    // Somebody else's keys.
    place
        .cluster
        .etcdctl(&["put", "nodes/elsewhere", "x"])
        .unwrap();
    let error = place.open().await.unwrap_err();
    assert!(matches!(&error, StoreError::ForeignData { .. }), "{error}");
    assert!(!place.key().exists());
    place.cluster.etcdctl(&["del", "nodes/elsewhere"]).unwrap();
    // A first start that was interrupted after the key was made is taken up again.
    place.etcd().load_or_generate(&place.key()).await.unwrap();
    let store = place.open().await.unwrap();
    put(&store, "a", b"1").await;
    store.close().await.unwrap();
    // Data, but no key; and another key.
    let other = place.scratch.path().join("other");
    let error = place.open_with(place.settings(), &other).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::DataWithoutKey { .. }),
        "{error}"
    );
    assert!(!other.exists());
    RootKey::generate_file(&other).unwrap();
    let error = place.open_with(place.settings(), &other).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::ForeignRootKey { .. }),
        "{error}"
    );
    // A part of it is gone.
    let keyring = ["del", "nodes/dm/keyring"];
    assert_eq!(place.cluster.etcdctl(&keyring).unwrap().trim(), "1");
    let error = place.open().await.unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { .. }), "{error}");
    // A newer version's.
    let layout = r#"{"gridkeep_etcd_layout":2,"something":[]}"#;
    place
        .cluster
        .etcdctl(&["put", "nodes/mlayout", layout])
        .unwrap();
    let error = place.open().await.unwrap_err();
    assert!(
        matches!(&error, StoreError::NewerFormat { found: 2, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn what_can_not_be_tried_is_said_before_anybody_is_asked() {
    for (endpoints, prefix) in [
        (vec![], "p/"),
        (vec!["etcd1:2379"], "p/"),
        (vec!["ftp://etcd1:2379"], "p/"),
        (vec!["http://etcd1:2379/path"], "p/"),
        (vec!["https://etcd1:2379"], "p/"),
        (vec!["http://etcd1:2379"], "p"),
        (vec!["http://etcd1:2379"], ""),
    ] {
        let endpoints = endpoints.into_iter().map(str::to_owned).collect();
        let refused = Etcd::new(EtcdSettings::new(endpoints, prefix)).map(drop);
        assert!(
            matches!(refused, Err(StoreError::Connection { .. })),
            "{refused:?}"
        );
    }
    // Nobody listens: temporary, and it ends.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let etcd = Etcd::new(EtcdSettings::new(vec![address], "p/")).unwrap();
    let error = etcd.holds_data().await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
}

/// An authority, and a certificate of it for this host as server and client.
fn certificates(directory: &Path) -> TlsFiles {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa,
        KeyPair,
    };
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let mut params =
        CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        ca: write("ca.pem", issuer.pem()),
        certificate: write("cert.pem", certificate.pem()),
        key: write("key.pem", key.serialize_pem()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_asked_over_tls_with_a_certificate_of_our_own() {
    let scratch = tempfile::tempdir().unwrap();
    let files = certificates(scratch.path());
    let cluster = EtcdCluster::start_with_tls(1, &[], files.clone()).unwrap();
    let settings = |tls: EtcdTls| EtcdSettings {
        tls: Some(tls),
        ..EtcdSettings::new(cluster.endpoints(), "tls/")
    };
    let ours = EtcdTls {
        ca: files.ca.clone(),
        identity: Some((files.certificate.clone(), files.key.clone())),
    };
    let etcd = Etcd::new(settings(ours.clone())).unwrap();
    let key = scratch.path().join("root.key");
    let root = etcd.load_or_generate(&key).await.unwrap();
    let store = etcd.open(root, Initialise::WhenEmpty).await.unwrap();
    put(&store, "a", b"1").await;
    assert_eq!(get(&store, "a").await.as_deref(), Some(&b"1"[..]));
    assert!(try_put(&store, "b", b"1").await.is_ok());
    // Without a certificate, or with a server of another authority, nobody is asked anything.
    let elsewhere = scratch.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let foreign = certificates(&elsewhere);
    let without = EtcdTls {
        identity: None,
        ..ours.clone()
    };
    for (tls, says) in [
        (
            without.clone(),
            "does etcd want a client certificate (gridkeep.store.etcd.tls.certificate and tls.key)?",
        ),
        (
            EtcdTls {
                ca: foreign.ca.clone(),
                ..ours.clone()
            },
            "is the authority that has signed it in gridkeep.store.etcd.tls.ca",
        ),
        (
            EtcdTls {
                identity: Some((foreign.certificate.clone(), foreign.key.clone())),
                ..ours.clone()
            },
            "does it trust whoever signed gridkeep.store.etcd.tls.certificate?",
        ),
    ] {
        let error = Etcd::new(settings(tls))
            .unwrap()
            .holds_data()
            .await
            .unwrap_err();
        assert!(error.is_temporary(), "{error}");
        let error = error.to_string();
        assert!(error.contains(says), "{error}");
        assert!(error.contains("does not pass by itself"), "{error}");
        assert!(!error.contains("kernel log"), "{error}");
    }
    let members = gridkeep_store::health(&settings(without)).await.unwrap();
    let why = members[0].state.clone().unwrap_err();
    assert!(why.contains("does etcd want a client certificate"), "{why}");
    assert!(
        !why.contains("https://"),
        "the address is told beside it: {why}"
    );
    // Files that are none are named, with what is not in them.
    let problem = |tls: EtcdTls| Etcd::new(settings(tls)).map(drop).unwrap_err().to_string();
    let error = problem(EtcdTls {
        ca: key.clone(),
        ..ours.clone()
    });
    assert!(error.contains("root.key"), "{error}");
    let error = problem(EtcdTls {
        identity: Some((files.certificate.clone(), files.certificate.clone())),
        ..ours.clone()
    });
    assert!(
        error.contains("cert.pem can not be used: there is no private key in it"),
        "{error}"
    );
    let error = problem(EtcdTls {
        identity: Some((files.certificate.clone(), foreign.key.clone())),
        ..ours
    });
    assert!(error.contains("it does not fit the key in"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_without_a_leader_is_said_to_have_lost_a_majority() {
    let mut cluster = EtcdCluster::start(3, &[]).unwrap();
    let settings = EtcdSettings::new(cluster.endpoints(), "p/");
    cluster.kill(0);
    cluster.kill(1);
    let begun = std::time::Instant::now();
    let said = loop {
        assert!(begun.elapsed() < Duration::from_secs(120), "never said");
        let etcd = Etcd::new(settings.clone()).unwrap();
        // Until it has noticed that the others are gone, the one that is left is merely late.
        let Err(error) = etcd.holds_data().await else {
            continue;
        };
        if error.to_string().contains("no leader") {
            break error.to_string();
        }
    };
    assert!(said.contains("a majority of its members is away"), "{said}");
    let members = gridkeep_store::health(&settings).await.unwrap();
    assert!(members[0].state.is_err() && members[1].state.is_err());
    assert!(!members[2].state.as_ref().unwrap().has_leader);
}

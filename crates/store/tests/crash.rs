//! Kills (-9) at random moments under load: every acknowledged write is there, none is torn, and the next start takes no time.
//!
//! The child is this test's own program. `GRIDKEEP_SOAK` sets the number of kills.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its verdict")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gridkeep_store::testing::XorShift;
use gridkeep_store::{Name, Record, RootKey, Store, StoreError, Transaction, open};
use nix::time::{ClockId, clock_gettime};
use support::{KIND, Place};
use zeroize::Zeroizing;

const DIRECTORY: &str = "GRIDKEEP_CRASH_TEST_DIRECTORY";
const WRITERS: u64 = 8;

fn names(writer: u64) -> [Name; 2] {
    [
        Name::new(KIND, &[writer.to_string(), "a".to_owned()]),
        Name::new(KIND, &[writer.to_string(), "b".to_owned()]),
    ]
}

/// A body that tells its number in every part, of a length that varies.
fn body(n: u64) -> Vec<u8> {
    n.to_be_bytes()
        .repeat(1 + usize::try_from(n * 37 % 300).unwrap())
}

fn number(body: &[u8]) -> u64 {
    u64::from_be_bytes(body[..8].try_into().unwrap())
}

/// How long this thread has worked so far. What it waits for, the disk or a processor, says nothing of how much there is to do.
fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

/// Opens the store in the directory of a test run by another process.
fn open_in(directory: &std::path::Path) -> Result<Store, StoreError> {
    let key = RootKey::load_or_generate(&directory.join("root.key"), &directory.join("data"))?;
    open(gridkeep_store::OpenOptions {
        reserve_bytes: 65536,
        ..gridkeep_store::OpenOptions::new(&directory.join("data"), key)
    })
}

/// Of the many records of [`opening_after_a_kill_takes_no_time`]: how many the child writes.
const FILL: &str = "GRIDKEEP_CRASH_TEST_FILL";

/// Writes many records and waits to be killed.
async fn fill(store: Store, count: u64) {
    let record = Record {
        schema: 1,
        body: Zeroizing::new(vec![7; 200]),
        expires_at: Some(1_000_000),
    };
    for first in (0..count).step_by(100) {
        let puts = (first..first + 100)
            .map(|n| (Name::new(KIND, &[n.to_string()]), record.clone()))
            .collect();
        store
            .commit(Transaction {
                puts,
                ..Transaction::new()
            })
            .await
            .unwrap();
    }
    std::io::stderr().write_all(b"full\n").unwrap();
    std::future::pending::<()>().await;
}

/// Not a test by itself: the program that is killed.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open_in(directory.as_ref()).unwrap();
        if let Ok(count) = std::env::var(FILL) {
            return fill(store, count.parse().unwrap()).await;
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    let names = names(writer);
                    let found = store.get(&names[0]).await.unwrap();
                    for n in found.map_or(1, |entry| number(&entry.record.body) + 1).. {
                        let record = Record {
                            schema: 1,
                            body: Zeroizing::new(body(n)),
                            expires_at: Some(i64::try_from(n).unwrap() * 100),
                        };
                        let pair = Transaction::new()
                            .put(names[0].clone(), record.clone())
                            .put(names[1].clone(), record);
                        store.commit(pair).await.unwrap();
                        // One write call, so that lines are whole or not there.
                        let line = format!("ack {writer} {n}\n");
                        std::io::stderr().write_all(line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

#[test]
fn killed_at_random_moments() {
    let kills: u64 = std::env::var("GRIDKEEP_SOAK")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(8);
    let seed = u64::from(std::process::id());
    let mut random = XorShift::new(seed);
    let place = Place::new();
    let directory = place.key().parent().unwrap().to_owned();
    let mut acknowledged = [0; WRITERS as usize];
    let mut slowest = Duration::ZERO;
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, &directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // The first kills may hit the making of the store.
        let wanted = if kill < 2 { 0 } else { 1 + random.below(120) };
        let mut note = |line: String| {
            let mut words = line.split(' ');
            assert_eq!(words.next(), Some("ack"), "the child says: {line}");
            let writer: usize = words.next().unwrap().parse().unwrap();
            acknowledged[writer] =
                acknowledged[writer].max(words.next().unwrap().parse::<u64>().unwrap());
        };
        for _ in 0..wanted {
            note(lines.next().unwrap().unwrap());
        }
        // Somewhere within the commit that is going on.
        let until = Instant::now() + Duration::from_micros(random.below(4000));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines.map_while(Result::ok).for_each(note);

        let before = worked();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let store = open_in(&directory)
            .unwrap_or_else(|error| panic!("kill {kill} (seed {seed}): {error}"));
        slowest = slowest.max(worked() - before);
        for (writer, acknowledged) in acknowledged.iter_mut().enumerate() {
            let found = runtime
                .block_on(store.get_many(&names(writer as u64)))
                .unwrap();
            let context =
                format!("kill {kill} (seed {seed}), writer {writer}, acknowledged {acknowledged}");
            match (&found[0], &found[1]) {
                (None, None) => assert_eq!(*acknowledged, 0, "{context}: nothing is there"),
                (Some(a), Some(b)) => {
                    let n = number(&a.record.body);
                    assert!(n >= *acknowledged, "{context}: {n} is there");
                    assert!(n <= *acknowledged + 1, "{context}: {n} was never asked for");
                    assert_eq!(*a.record.body, body(n), "{context}: torn");
                    assert_eq!(
                        (a.version, &a.record),
                        (b.version, &b.record),
                        "{context}: half a transaction"
                    );
                    // What was seen once is there for good.
                    *acknowledged = n;
                }
                _ => panic!("{context}: half a transaction"),
            }
        }
        runtime.block_on(store.close()).unwrap();
    }
    assert!(acknowledged.iter().sum::<u64>() > 0);
    assert!(
        slowest < Duration::from_secs(5),
        "opening after a kill took {slowest:?}"
    );
}

#[test]
fn opening_after_a_kill_takes_no_time() {
    let count: u64 = if std::env::var_os("GRIDKEEP_SOAK").is_some() {
        1_000_000
    } else {
        10_000
    };
    // A debug build of the engine checks every page when it opens.
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 1 });
    let place = Place::new();
    let directory = place.key().parent().unwrap().to_owned();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, &directory)
        .env(FILL, count.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(line, "full\n");
    let before = worked();
    let store = open_in(&directory).unwrap();
    let took = worked() - before;
    assert!(took < limit, "opening {count} records took {took:?}");
    assert_eq!(store.status().entries, Some(count + 2));
}

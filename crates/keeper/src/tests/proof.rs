//! Refused only on proof: what may heal by itself is never called final (decisions 6 and 11).

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::issuer::Rotation;
use super::support::*;
use crate::database::Change;
use crate::tokens::token_name;
use crate::*;

const MONTH: u64 = 2_419_200;

#[tokio::test(start_paused = true)]
async fn a_guess_dies_and_a_missing_record_does_not_prove_anything() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let issued = login(&house, &keeper, "alice").await.issued;
    for guess in [
        "",
        "hvs.",
        "hvs.AAAA",
        "s.6Qb2h0dYw8sK3mVt1RzXcN7e",
        "gkh.x",
    ] {
        let secret = SecretString::from(guess);
        assert_eq!(
            refused(keeper.authenticate(&secret, None).await),
            Refused::UnknownToken
        );
    }
    let mut change = Change::new();
    change.delete(token_name(&issued.token.id));
    keeper.inner.db.commit(change).await.unwrap();
    assert_eq!(
        kind(keeper.authenticate(&issued.secret, None).await),
        LaterKind::TokenRecordMissing
    );
    assert_eq!(
        kind(keeper.lookup(&issued.secret).await),
        LaterKind::TokenRecordMissing
    );
}

#[tokio::test(start_paused = true)]
async fn a_child_of_a_missing_parent_is_not_called_dead() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let issued = login(&house, &keeper, "alice").await.issued;
    let child = child(&keeper, &bearer(&keeper, &issued.secret).await).await;
    let mut change = Change::new();
    change.delete(token_name(&issued.token.id));
    keeper.inner.db.commit(change).await.unwrap();
    assert_eq!(
        kind(keeper.authenticate(&child.secret, None).await),
        LaterKind::TokenRecordMissing
    );
}

#[tokio::test(start_paused = true)]
async fn expiry_is_proof_only_beyond_the_tolerance() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let secret = login(&house, &keeper, "alice").await.issued.secret;
    house.clock.pass(Duration::from_secs(MONTH - 1));
    keeper.authenticate(&secret, None).await.unwrap();
    for within in [1, 30, 30] {
        house.clock.pass(Duration::from_secs(within));
        assert_eq!(
            kind(keeper.authenticate(&secret, None).await),
            LaterKind::ClockDoubtful
        );
    }
    house.clock.pass(Duration::from_secs(1));
    assert_eq!(
        refused(keeper.authenticate(&secret, None).await),
        Refused::TokenExpired
    );
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_proves_nothing_until_it_is_trusted() {
    for by_kernel in [true, false] {
        let house = House::new(Rotation::Never);
        let keeper = house.open().await;
        let secret = login(&house, &keeper, "alice").await.issued.secret;
        let jumped = START + 90 * 86_400;
        house.clock.jump_to(jumped);
        assert_eq!(
            kind(keeper.authenticate(&secret, None).await),
            LaterKind::ClockDoubtful
        );
        house.clock.pass(Duration::from_secs(86_400));
        assert_eq!(
            kind(keeper.authenticate(&secret, None).await),
            LaterKind::ClockDoubtful,
            "time alone does not heal it"
        );
        if by_kernel {
            house.clock.set_synchronised(Some(true));
        } else {
            keeper.confirm_clock();
        }
        assert_eq!(
            refused(keeper.authenticate(&secret, None).await),
            Refused::TokenExpired
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_back_and_forth_costs_nobody_a_token() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let secret = login(&house, &keeper, "alice").await.issued.secret;
    house.clock.jump_to(START - 5 * 86_400);
    keeper.authenticate(&secret, None).await.unwrap();
    assert!(keeper.clock_doubtful());
    house.clock.jump_to(START + 300 * 86_400);
    assert_eq!(
        kind(keeper.authenticate(&secret, None).await),
        LaterKind::ClockDoubtful
    );
    house.clock.jump_to(START + 60);
    house.clock.set_synchronised(Some(true));
    keeper.authenticate(&secret, None).await.unwrap();
    assert!(!keeper.clock_doubtful());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_at_the_start_is_not_believed() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let secret = login(&house, &keeper, "alice").await.issued.secret;
    house.clock.pass(Duration::from_secs(100_000));
    keeper.note_time_and_sweep().await.unwrap();
    keeper.drain(Duration::from_secs(1)).await;
    // Far ahead, as after a dead battery.
    house.clock.jump_to(START + 400 * 86_400);
    let keeper = house.open().await;
    assert_eq!(
        kind(keeper.authenticate(&secret, None).await),
        LaterKind::ClockDoubtful
    );
    keeper.drain(Duration::from_secs(1)).await;
    // And far behind the latest time that was seen.
    house.clock.jump_to(START);
    let keeper = house.open().await;
    assert!(keeper.clock_doubtful());
    keeper.drain(Duration::from_secs(1)).await;
    house.clock.jump_to(START + 100_060);
    let keeper = house.open().await;
    assert!(!keeper.clock_doubtful(), "a minute's stop is no jump");
    keeper.authenticate(&secret, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_mark_set_by_a_wrong_clock_is_taken_back() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    house.clock.jump_to(START + 400 * 86_400);
    keeper.confirm_clock();
    keeper.note_time_and_sweep().await.unwrap();
    house.clock.jump_to(START + 5);
    keeper.confirm_clock();
    keeper.note_time_and_sweep().await.unwrap();
    keeper.drain(Duration::from_secs(1)).await;
    assert!(!house.open().await.clock_doubtful());
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_ended_by_a_clock_in_doubt_refuses_nobody_for_good() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let root = root(&keeper).await;
    let write = |capability: &str, end: Option<i64>| PolicyWrite {
        expires_at: end.map(UnixSeconds),
        ..written(&format!(
            "path \"secret/oauth/creds/dune/*\" {{ capabilities = [\"{capability}\"] }}"
        ))
    };
    let end = START + 1000;
    let put = async |name: &str, write: &PolicyWrite| keeper.put_policy(name, write).await.unwrap();
    put("reads", &write("read", Some(end))).await;
    put("denies", &write("deny", Some(end))).await;
    put("never", &write("deny", None)).await;
    let holder = async |policies: &[&str]| {
        let request = CreateToken {
            policies: Some(policies.iter().map(|name| (*name).to_owned()).collect()),
            ttl: Some(Seconds(300 * 86_400)),
            ..CreateToken::default()
        };
        let issued = keeper.create_token(&root, request, false).await.unwrap();
        bearer(&keeper, &issued.secret).await
    };
    let reader = holder(&["reads"]).await;
    let torn = holder(&["reads", "denies"]).await;
    let denied = holder(&["reads", "never"]).await;
    let other = holder(&["tokenops"]).await;
    let ask = |by: &Bearer, operation| {
        keeper.authorize(
            by,
            operation,
            "secret/oauth/creds/dune/alice:default",
            &serde_json::Map::new(),
        )
    };
    let final_for =
        |by: &Bearer, operation| matches!(refused(ask(by, operation)), Refused::Policy { .. });
    ask(&reader, Operation::Read).unwrap();
    assert!(final_for(&torn, Operation::Read));
    // Within the tolerance for clocks nobody is refused for good, after it everybody.
    house.clock.pass(Duration::from_secs(1000));
    assert_eq!(
        kind(ask(&reader, Operation::Read)),
        LaterKind::ClockDoubtful
    );
    house.clock.pass(Duration::from_secs(3600));
    assert!(final_for(&reader, Operation::Read));
    // While the clock is in doubt that is no proof, for as long as the doubt lasts.
    house.clock.jump_to(START + 5 * 86_400);
    assert_eq!(
        kind(ask(&reader, Operation::Read)),
        LaterKind::ClockDoubtful
    );
    assert_eq!(kind(ask(&torn, Operation::Read)), LaterKind::ClockDoubtful);
    // What no policy allowed, or one without an end denies, is refused as ever.
    for (by, operation) in [
        (&reader, Operation::Update),
        (&denied, Operation::Read),
        (&other, Operation::Read),
    ] {
        assert!(final_for(by, operation));
    }
    keeper.confirm_clock();
    assert!(final_for(&reader, Operation::Read));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_swept_while_the_clock_is_in_doubt() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let issued = login(&house, &keeper, "alice").await.issued;
    let there = async || {
        keeper
            .inner
            .db
            .get::<KeeperToken>(&token_name(&issued.token.id))
            .await
            .unwrap()
            .is_some()
    };
    house.clock.jump_to(START + 400 * 86_400);
    keeper.note_time_and_sweep().await.unwrap();
    assert!(there().await);
    keeper.confirm_clock();
    keeper.note_time_and_sweep().await.unwrap();
    assert!(!there().await);
}

#[tokio::test(start_paused = true)]
async fn a_dead_token_stays_provably_dead_for_forty_days() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let issued = login(&house, &keeper, "alice").await.issued;
    keeper.revoke(&issued.token.id).await.unwrap();
    for _ in 0..MONTH / 86_400 + 39 {
        house.clock.pass(Duration::from_secs(86_400));
        keeper.note_time_and_sweep().await.unwrap();
    }
    assert_eq!(
        refused(keeper.authenticate(&issued.secret, None).await),
        Refused::TokenRevoked
    );
}

#[tokio::test(start_paused = true)]
async fn policy_refuses_only_what_exists() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    let may = |path: &str| keeper.authorize(&by, Operation::Read, path, &serde_json::Map::new());
    assert!(may("secret/oauth/creds/dune/alice:default").is_ok());
    assert!(may("secret/oauth/sts/dune/alice/cron/host:production").is_ok());
    assert!(matches!(
        refused(may("secret/oauth/creds/dune/bob:default")),
        Refused::Policy { .. }
    ));
    assert!(matches!(
        refused(may("secret/oauth/creds/dune/alice2/x:default")),
        Refused::Policy { .. }
    ));
    assert_eq!(
        bad(may("secret/oauth/creds/nowhere/alice:default")),
        BadInput::UnknownIssuer {
            issuer: "nowhere".into()
        }
    );
    assert_eq!(
        bad(may("secret/oauth/creds/dune/alice:nothing")),
        BadInput::UnknownRole {
            role: "nothing".into()
        }
    );
    assert!(matches!(refused(may("sys/seal")), Refused::Policy { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_bound_token_is_refused_from_elsewhere_and_so_are_its_children() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let issued = login(&house, &keeper, "alice").await.issued;
    let mut token = issued.token.as_ref().clone();
    token.bound_cidrs = vec!["192.0.2.0/24".into()];
    let mut change = Change::new();
    change.put(token_name(&token.id), &token, None).unwrap();
    keeper.inner.db.commit(change).await.unwrap();
    let here = Some("192.0.2.9".parse().unwrap());
    let by = keeper.authenticate(&issued.secret, here).await.unwrap();
    let child = child(&keeper, &by).await;
    for from in [None, Some("198.51.100.1".parse().unwrap())] {
        assert_eq!(
            refused(keeper.authenticate(&child.secret, from).await),
            Refused::WrongAddress
        );
    }
    keeper.authenticate(&child.secret, here).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_shows_no_secret() {
    let house = House::new(Rotation::Grace);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let handle = login.handle.expose_secret().to_owned();
    let token = login.issued.secret.expose_secret().to_owned();
    let shown = format!(
        "{:?} {:?}",
        login,
        keeper.lookup(&login.issued.secret).await
    );
    keeper.drain(Duration::from_secs(1)).await;
    house.close_store().await;
    let mut bytes = Vec::new();
    for entry in walk(house.dir.path()) {
        bytes.extend(std::fs::read(entry).unwrap());
    }
    for secret in ["rt-1", "at-1", "alice", &handle, &token] {
        assert!(
            !bytes
                .windows(secret.len())
                .any(|part| part == secret.as_bytes()),
            "{secret}"
        );
    }
    for secret in ["rt-1", "at-1", &handle, &token] {
        assert!(!shown.contains(secret), "{secret}");
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir)
        .unwrap()
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

//! Reading access tokens: from the cache, refreshed, shared, refused.

use std::time::Duration;

use super::issuer::{Next, Rotation};
use super::support::*;
use futures_util::FutureExt as _;

use crate::database::{Change, name};
use crate::records::{GRANT, GrantRecord, KeeperToken};
use crate::tokens::token_name;
use crate::*;

const ALICE: &str = "dune/alice:default";

async fn alice(house: &House, keeper: &Keeper) -> Bearer {
    bearer(keeper, &login(house, keeper, "alice").await.issued.secret).await
}

#[tokio::test(start_paused = true)]
async fn a_token_comes_from_the_cache_without_a_write_until_it_is_too_short() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    let before = keeper.store_status().commit_sequence;
    for _ in 0..50 {
        assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-1");
    }
    assert_eq!(keeper.store_status().commit_sequence, before);
    let full = keeper.read(&by, &cred(ALICE), &least(60)).await.unwrap();
    assert_eq!(
        (
            full.token_type.as_str(),
            full.server.as_str(),
            full.expires_at
        ),
        ("Bearer", "dune", Some(UnixSeconds(START + 3600)))
    );
    house.clock.pass(Duration::from_secs(3540));
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-1");
    house.clock.pass(Duration::from_secs(1));
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-2");
    assert_eq!(house.issuer.refreshes(), 1);
    assert_eq!(
        keeper
            .read(&by, &cred("dune/alice:production"), &least(0))
            .await
            .unwrap_err(),
        Failure::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_in_memory_counts_until_it_is_written_whoever_waits_for_the_write() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let secret = login(&house, &keeper, "alice").await.issued.secret;
    let kept = keeper.kept().unwrap();
    let token = token_name(&keeper.parse_secret(&secret).unwrap());
    // What is asked for once only is not worth keeping.
    for asked in 0..2 {
        assert!(kept.tokens.get(&token).is_none(), "asked {asked} times");
        let by = bearer(&keeper, &secret).await;
        access(&keeper, &by, ALICE).await.unwrap();
    }
    assert!(kept.tokens.get(&token).is_some());
    let credential = kept.credentials.get(&cred(ALICE).key()).unwrap();
    let grant = name(GRANT, &[&credential.value.grant]);
    assert!(kept.grants.get(&grant).is_some());

    let db = &keeper.inner.db;
    let mut stored = db.get::<KeeperToken>(&token).await.unwrap().unwrap();
    stored.value.revoked = Some(crate::records::Revoked {
        at: keeper.now(),
        children_survive: false,
    });
    let mut change = Change::new();
    change.put(token.clone(), &stored.value, None).unwrap();
    // The client goes away while its request is on the way to the disk, unless the disk is quicker.
    drop(db.commit(change).now_or_never());
    until("it is written", || kept.tokens.get(&token).is_none()).await;
    assert_eq!(
        keeper.authenticate(&secret, None).await.unwrap_err(),
        Failure::Refused(Refused::TokenRevoked)
    );
}

#[tokio::test(start_paused = true)]
async fn the_least_life_is_ten_seconds_whatever_is_asked() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    house.clock.pass(Duration::from_secs(3590));
    assert_eq!(read(&keeper, &by, ALICE, least(0)).await.unwrap().0, "at-1");
    house.clock.pass(Duration::from_secs(1));
    assert_eq!(read(&keeper, &by, ALICE, least(0)).await.unwrap().0, "at-2");
}

#[tokio::test(start_paused = true)]
async fn a_minimum_beyond_the_issuers_life_gets_a_fresh_token_with_a_warning() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    // 3500 s of 3600 s left: nothing longer is to be had for a wish of 7200 s …
    house.clock.pass(Duration::from_secs(100));
    let (token, warnings) = read(&keeper, &by, ALICE, least(7200)).await.unwrap();
    assert_eq!((token.as_str(), warnings.len()), ("at-1", 1));
    // … but for one of 3550 s it is.
    let (token, warnings) = read(&keeper, &by, ALICE, least(3550)).await.unwrap();
    assert_eq!((token.as_str(), warnings.len()), ("at-2", 0));
    // Not fresh any more: refreshed for the long wish too.
    house.clock.pass(Duration::from_secs(400));
    let (token, warnings) = read(&keeper, &by, ALICE, least(7200)).await.unwrap();
    assert_eq!((token.as_str(), warnings.len()), ("at-3", 1));
    house.issuer.books().life = Some(9);
    house.clock.pass(Duration::from_secs(3600));
    assert!(
        bad(access(&keeper, &by, ALICE).await)
            .to_string()
            .starts_with("token expired")
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_without_an_end_is_always_good() {
    let house = House::new(Rotation::Never);
    house.issuer.books().life = None;
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    house.clock.pass(Duration::from_secs(20 * 86_400));
    let read = keeper
        .read(&by, &cred(ALICE), &least(86_400))
        .await
        .unwrap();
    assert_eq!(read.expires_at, None);
    assert_eq!(house.issuer.refreshes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_readers_of_an_expired_credential_cause_one_refresh() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    house.clock.pass(Duration::from_secs(3600));
    let readers: Vec<_> = (0..1000)
        .map(|_| {
            let (keeper, by) = (keeper.clone(), by.clone());
            tokio::spawn(async move { access(&keeper, &by, ALICE).await })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap(), "at-2");
    }
    assert_eq!(house.issuer.refreshes(), 1);
    assert_eq!(
        house.issuer.books().issued.len(),
        2,
        "one login, one refresh"
    );
}

#[test]
fn readers_on_many_threads_cause_one_refresh_too() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let house = House::new(Rotation::Immediate);
        // Here time passes by itself, and how long anybody waits is not what this is about.
        let mut options = KeeperOptions::new("node1", house.spool());
        options.waiter = Duration::from_secs(3600);
        let clock = house.clock.clone();
        let opening = Keeper::open(house.store(), house.setup(), clock, options);
        let keeper = opening.await.unwrap();
        let by = alice(&house, &keeper).await;
        for round in 1..=10 {
            house.clock.pass(Duration::from_secs(3600));
            let readers: Vec<_> = (0..100)
                .map(|_| {
                    let (keeper, by) = (keeper.clone(), by.clone());
                    tokio::spawn(async move { access(&keeper, &by, ALICE).await })
                })
                .collect();
            for reader in readers {
                reader.await.unwrap().unwrap();
            }
            assert_eq!(house.issuer.refreshes(), round);
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_looked_before_the_landing_does_not_refresh_again() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    house.clock.pass(Duration::from_secs(3600));
    let grant = grant_of(&keeper, ALICE).await;
    access(&keeper, &by, ALICE).await.unwrap();
    // What a reader does who read the grant before that and goes on after it.
    let late = keeper.refreshed(&grant.id, grant.generation).await.unwrap();
    assert_eq!(late.token, "at-2");
    assert_eq!(house.issuer.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_leaves_and_the_flight_lands() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    house.clock.pass(Duration::from_secs(3600));
    house.issuer.close_gate();
    let reader = tokio::spawn({
        let (keeper, by) = (keeper.clone(), by.clone());
        async move { access(&keeper, &by, ALICE).await }
    });
    until("it is sent", || house.issuer.refreshes() == 1).await;
    // One that is dropped ends nothing either.
    let dropped = tokio::spawn({
        let (keeper, by) = (keeper.clone(), by.clone());
        async move { access(&keeper, &by, ALICE).await }
    });
    dropped.abort();
    tokio::time::advance(Duration::from_secs(9)).await;
    let failure = reader.await.unwrap();
    assert!(matches!(&failure, Err(Failure::Later(later)) if later.retry_after.is_some()));
    assert_eq!(kind(failure), LaterKind::IssuerSlow);
    house.issuer.open_gate();
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-2");
    assert_eq!(house.issuer.refreshes(), 1);
    assert_eq!(
        secrets_of(&keeper, ALICE).await.refresh_token.as_deref(),
        Some("rt-2")
    );
}

#[tokio::test(start_paused = true)]
async fn while_the_issuer_is_down_what_is_cached_is_served() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    house.issuer.books().down = true;
    house.clock.pass(Duration::from_secs(3000));
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-1");
    house.clock.pass(Duration::from_secs(600));
    for _ in 0..3 {
        assert_eq!(
            kind(access(&keeper, &by, ALICE).await),
            LaterKind::IssuerDown
        );
    }
    house.issuer.books().down = false;
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn a_dead_grant_serves_its_last_token_with_a_warning_and_then_says_why() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    house.issuer.forget_all();
    house.clock.pass(Duration::from_secs(1800));
    let Refused::GrantDead {
        error,
        description,
        cause,
    } = refused(read(&keeper, &by, ALICE, least(2400)).await)
    else {
        panic!()
    };
    assert_eq!(
        (error.as_str(), description.as_deref()),
        ("invalid_grant", Some("as told"))
    );
    assert_eq!(
        cause,
        "the refresh token is expired, was revoked, or was used elsewhere"
    );
    let (token, warnings) = read(&keeper, &by, ALICE, least(60)).await.unwrap();
    assert_eq!(token, "at-1");
    assert!(warnings[0].starts_with("token will expire: refresh failed: invalid_grant"));
    house.clock.pass(Duration::from_secs(1800));
    let sent = house.issuer.refreshes();
    assert!(matches!(
        refused(access(&keeper, &by, ALICE).await),
        Refused::GrantDead { .. }
    ));
    assert_eq!(
        house.issuer.refreshes(),
        sent,
        "the issuer is not asked again"
    );
    let listed = keeper
        .credentials_in_detail(Some("dune"), 10, |_| true)
        .await
        .unwrap();
    assert!(
        listed.found[0]
            .trouble
            .as_deref()
            .unwrap()
            .starts_with("login needed: invalid_grant")
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_not_of_the_grant_does_not_kill_it() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    house.clock.pass(Duration::from_secs(3600));
    house
        .issuer
        .books()
        .next
        .push_back(Next::Refuse("invalid_client"));
    let failure = bad(access(&keeper, &by, ALICE).await);
    assert_eq!(
        failure.to_string(),
        "refresh failed: server rejected request: invalid_client: as told"
    );
    house
        .issuer
        .books()
        .next
        .push_back(Next::Refuse("server_error"));
    assert_eq!(
        kind(access(&keeper, &by, ALICE).await),
        LaterKind::IssuerDown
    );
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn a_token_dated_by_a_wrong_clock_is_not_served_when_the_clock_is_right_again() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    house.clock.jump_to(START + 3 * 86_400);
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-2");
    house.clock.jump_to(START + 7200);
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-3");
}

#[tokio::test(start_paused = true)]
async fn what_a_child_of_a_login_does_is_told_under_the_name_of_the_login() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    let kept = child(&keeper, &by).await;
    assert_eq!(kept.token.display_name, "token", "as Vault calls it");
    let by = bearer(&keeper, &kept.secret).await;
    put(&keeper, &by, ALICE, &login.handle).await.unwrap();
    let listed = keeper
        .credentials_in_detail(None, 10, |_| true)
        .await
        .unwrap();
    assert_eq!(listed.found[0].bound_by, "oidc-dune-alice");
    assert_eq!(kept.token.credkey(), Some("alice"));
    let request = CreateToken {
        orphan_path: true,
        meta: [("credkey".to_owned(), "bob".to_owned())].into(),
        ..CreateToken::default()
    };
    let alone = keeper.create_token(&by, request, true).await.unwrap();
    assert_eq!(alone.token.credkey(), Some("alice"), "not what it claims");
    assert_eq!(keeper.name_of_user(&alone.token).await.unwrap(), "alice");
}

#[tokio::test(start_paused = true)]
async fn listing_shows_what_is_visible_and_no_secret() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    for n in 0..3 {
        put(
            &keeper,
            &by,
            &format!("dune/alice/cron/h{n}:default"),
            &login.handle,
        )
        .await
        .unwrap();
    }
    let listed = keeper
        .credentials_in_detail(None, 10, |name| name.owner != "alice/cron/h1")
        .await
        .unwrap();
    let names: Vec<String> = listed
        .found
        .iter()
        .map(|summary| summary.name.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "dune/alice/cron/h0:default",
            "dune/alice/cron/h2:default",
            ALICE
        ]
    );
    assert_eq!(listed.found[0].bound_by, "oidc-dune-alice");
    assert!(listed.found.iter().all(|details| details.trouble.is_none()));
    let grant = listed.found[0].grant.as_ref().unwrap();
    assert_eq!(grant.names.len(), 4);
    // The refresh tokens of this issuer do not say when they end; what nobody uses is kept alive for the stated time.
    let limit = i64::try_from(KeepAlive::default().limit.0).unwrap();
    assert!(grant.refreshable && grant.ends_at.is_none() && grant.access_until.is_some());
    assert_eq!(grant.idle_end, Some(UnixSeconds(grant.used_at.0 + limit)));
    assert!(!listed.found[0].ends_soon(keeper.now()));
    assert!(listed.found[0].ends_soon(UnixSeconds(grant.used_at.0 + limit - 86_400)));
    let cut = keeper
        .credentials_in_detail(Some("dune"), 2, |_| true)
        .await
        .unwrap();
    assert!(cut.more && cut.found.len() == 2);
    let none = keeper
        .credentials_in_detail(Some("cms"), 10, |_| true)
        .await
        .unwrap();
    assert!(none.found.is_empty() && !none.more);
    assert!(!format!("{listed:?}").contains("rt-"));
}

#[tokio::test(start_paused = true)]
async fn listing_opens_no_secret_and_tells_the_same() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    let list = async || {
        let found = keeper
            .credentials_in_detail(None, 10, |_| true)
            .await
            .unwrap()
            .found;
        found.into_iter().next().unwrap()
    };
    let grant = grant_of(&keeper, ALICE).await;
    let put = async |record: &GrantRecord| {
        let mut change = Change::new();
        change.put(name(GRANT, &[&grant.id]), record, None).unwrap();
        keeper.inner.db.commit(change).await.unwrap();
    };
    let told = list().await;
    let details = told.grant.clone().unwrap();
    assert!(details.refreshable && details.access_until.is_some());
    // With secrets that nobody can open it tells the same.
    let mut closed = grant.clone();
    closed.sealed = "AAAA".to_owned();
    put(&closed).await;
    assert_eq!(list().await, told);
    // As it does of a record from before the ends were noted.
    let mut old = grant.clone();
    old.ends = None;
    put(&old).await;
    assert_eq!(list().await, told);
    // What is sealed for somebody else shows.
    let mut foreign = grant.clone();
    foreign.slots[0].wrapped = "AAAA".to_owned();
    put(&foreign).await;
    assert!(list().await.trouble.unwrap().contains("is damaged"));
    // A refresh notes the new ends.
    put(&old).await;
    house.clock.pass(Duration::from_secs(3600));
    access(&keeper, &by, ALICE).await.unwrap();
    let refreshed = grant_of(&keeper, ALICE).await;
    assert!(refreshed.ends.unwrap().access > details.access_until);
}

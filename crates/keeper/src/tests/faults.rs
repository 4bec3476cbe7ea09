//! A store that fails at the worst moment: what an issuer gave is kept, and shown only once it is.

use std::time::Duration;

use gridkeep_store::testing::{DiskOperation, Hangs};

use super::issuer::Rotation;
use super::support::*;
use crate::refresh::land::SPOOL_AFTER;
use crate::spool::Received;
use crate::*;

const ALICE: &str = "dune/alice:default";

/// Everything the disk does fails until it is healed.
pub(super) fn break_disk(house: &House) {
    for operation in [
        DiskOperation::Write,
        DiskOperation::Sync,
        DiskOperation::SetLen,
    ] {
        house.disk.fail(operation, 0, u64::MAX);
    }
}

pub(super) fn heal_disk(house: &House) {
    for operation in [
        DiskOperation::Write,
        DiskOperation::Sync,
        DiskOperation::SetLen,
    ] {
        house.disk.fail(operation, 0, 0);
    }
}

/// A refresh whose answer meets a store that takes nothing.
pub(super) async fn received_into_a_broken_store(house: &House, keeper: &Keeper) -> Bearer {
    let by = bearer(keeper, &login(house, keeper, "alice").await.issued.secret).await;
    house.clock.pass(Duration::from_secs(3600));
    house.issuer.close_gate();
    let reader = tokio::spawn({
        let (keeper, by) = (keeper.clone(), by.clone());
        async move { access(&keeper, &by, ALICE).await }
    });
    until("it is sent", || house.issuer.refreshes() == 1).await;
    break_disk(house);
    house.issuer.open_gate();
    until("it is spooled", || house.spooled() == 1).await;
    assert!(
        !reader.is_finished(),
        "nobody sees the token before it is stored"
    );
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(kind(reader.await.unwrap()), LaterKind::IssuerSlow);
    by
}

#[tokio::test(start_paused = true)]
async fn a_received_token_waits_sealed_until_the_store_is_back() {
    use std::os::unix::fs::PermissionsExt as _;
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = received_into_a_broken_store(&house, &keeper).await;
    let file = std::fs::read_dir(house.spool())
        .unwrap()
        .map(Result::unwrap)
        .find(|entry| entry.path().extension().is_some_and(|it| it == "sealed"))
        .unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mode = std::fs::metadata(house.spool())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert!(!text.contains("rt-2") && !text.contains("at-2") && !text.contains("rt-1"));
    // While it waits nobody sends the token from before it.
    let (again, name) = (keeper.clone(), by.clone());
    let again = tokio::spawn(async move { access(&again, &name, ALICE).await });
    heal_disk(&house);
    // Time passes until it is stored. How much that takes depends on how far others got meanwhile; whoever waits may give up.
    until_async("the spool is empty", || async {
        tokio::time::advance(Duration::from_millis(300)).await;
        again.is_finished() && house.spooled() == 0
    })
    .await;
    match again.await.unwrap() {
        Ok(token) => assert_eq!(token, "at-2"),
        gave_up => assert_eq!(kind(gave_up), LaterKind::IssuerSlow),
    }
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-2");
    assert_eq!(house.issuer.refreshes(), 1);
    assert_eq!(
        secrets_of(&keeper, ALICE).await.refresh_token.as_deref(),
        Some("rt-2")
    );
}

#[tokio::test(start_paused = true)]
async fn a_received_token_is_on_the_disk_while_the_store_does_not_even_refuse_it() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    house.clock.pass(Duration::from_secs(3600));
    house.issuer.close_gate();
    let grant = grant_of(&keeper, ALICE).await.id;
    let _flight = keeper.flight(&grant, None);
    until("it is sent", || house.issuer.refreshes() == 1).await;
    house.hang(Hangs::Everything);
    house.issuer.open_gate();
    until("it is delivered", || {
        !house.issuer.books().delivered.is_empty()
    })
    .await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(SPOOL_AFTER).await;
    until("it is spooled", || house.spooled() == 1).await;
    keeper.crash().await;
    house.hang(Hangs::Nothing);
    let keeper = house.open().await;
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-2");
    until("the spool is empty", || house.spooled() == 0).await;
    assert_eq!(house.issuer.books().refreshed_with, ["rt-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_login_outlasts_a_store_that_does_not_take_what_it_came_to() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let (state, browser) = code_on_its_way(&house, &keeper).await;
    break_disk(&house);
    house.issuer.open_gate();
    tokio::time::advance(Duration::from_secs(9)).await;
    let _ = browser.await.unwrap();
    heal_disk(&house);
    // An attempt that the broken disk has failed may be heard of only now, and the next one waits for time to pass.
    until_async("the login is ready", async || {
        tokio::time::advance(Duration::from_millis(300)).await;
        !pending(&keeper, &state).await
    })
    .await;
    assert!(credential(&keeper, ALICE).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_not_filled_with_pieces_of_the_spool() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = received_into_a_broken_store(&house, &keeper).await;
    keeper.crash().await;
    heal_disk(&house);
    // As after a crash in the middle of writing.
    std::fs::write(house.spool().join("x.new"), "AAAA").unwrap();
    let keeper = house.open().await;
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-2");
    let left = || {
        let found = std::fs::read_dir(house.spool()).unwrap().flatten();
        let names = found.map(|entry| entry.file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    until("only the list of processes is left", || {
        left() == ["processes"]
    })
    .await;
    // What cannot be written whole is taken away again: this name is too long for its end, not for its beginning.
    let longest = 255 - "-.new".len() - crate::secret::random_id().len();
    let received = Received {
        grant: "g".repeat(longest),
        generation: 1,
        sent: String::new(),
        refresh_token: None,
        access: secrets_of(&keeper, ALICE).await.access.clone().unwrap(),
    };
    assert!(keeper.inner.spool.keep(&received).is_err());
    assert_eq!(left(), ["processes"]);
}

#[tokio::test(start_paused = true)]
async fn a_spooled_token_is_taken_up_by_the_next_start() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = received_into_a_broken_store(&house, &keeper).await;
    keeper.crash().await;
    heal_disk(&house);
    house.close_store().await;
    let keeper = house.open().await;
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-2");
    until("the spool is empty", || house.spooled() == 0).await;
    assert_eq!(house.issuer.books().refreshed_with, ["rt-1"]);
    house.clock.pass(Duration::from_secs(3600));
    access(&keeper, &by, ALICE).await.unwrap();
    assert_eq!(house.issuer.books().refreshed_with, ["rt-1", "rt-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_store_when_the_spool_has_the_token() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = received_into_a_broken_store(&house, &keeper).await;
    keeper.drain(Duration::from_secs(3600)).await;
    assert_eq!(house.spooled(), 1);
    heal_disk(&house);
    let keeper = house.open().await;
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_belongs_to_nothing_or_is_torn_stops_no_start() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = received_into_a_broken_store(&house, &keeper).await;
    keeper.crash().await;
    heal_disk(&house);
    std::fs::write(house.spool().join("torn.sealed"), "AAAA").unwrap();
    std::fs::create_dir(house.spool().join("dir.sealed")).unwrap();
    let keeper = house.open().await;
    let id = grant_of(&keeper, ALICE).await.id;
    keeper.crash().await;
    if house.spooled() == 3 {
        let mut change = crate::database::Change::new();
        change.delete(crate::database::name(crate::records::GRANT, &[&id]));
        keeper.inner.db.commit(change).await.unwrap();
    }
    let keeper = house.open().await;
    until("what was of use is taken up", || house.spooled() == 2).await;
    assert!(!matches!(
        access(&keeper, &by, ALICE).await,
        Err(Failure::Later(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_not_begun_that_could_not_be_noted() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    house.clock.pass(Duration::from_secs(3600));
    break_disk(&house);
    assert_eq!(kind(access(&keeper, &by, ALICE).await), LaterKind::Store);
    assert_eq!(house.issuer.refreshes(), 0);
    heal_disk(&house);
    access(&keeper, &by, ALICE).await.unwrap();
}

fn large_policy() -> String {
    format!(
        "# {}\npath \"x\" {{ capabilities = [\"read\"] }}",
        "x".repeat(16_000)
    )
}

/// Writes policies until the disk takes no more.
async fn fill(house: &House, keeper: &Keeper) {
    house
        .disk
        .set_capacity(Some(house.disk.used() + 256 * 1024));
    let text = large_policy();
    for n in 0..1000 {
        match keeper.put_policy(&format!("p{n}"), &written(&text)).await {
            Ok(()) => {}
            Err(Failure::Later(later)) => {
                assert_eq!(later.kind, LaterKind::StoreFull);
                return;
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the disk never fills");
}

#[tokio::test(start_paused = true)]
async fn on_a_full_disk_reads_go_on_and_a_token_on_its_way_is_saved() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let alice = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &alice.issued.secret).await;
    let bob = login(&house, &keeper, "bob").await;
    let bob_by = bearer(&keeper, &bob.issued.secret).await;
    house.clock.pass(Duration::from_secs(3000));
    house.issuer.close_gate();
    let mut flight = keeper.flight(&grant_of(&keeper, ALICE).await.id, None);
    until("it is sent", || house.issuer.refreshes() == 1).await;
    fill(&house, &keeper).await;
    house.issuer.open_gate();
    let landed = flight
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    assert_eq!(landed.unwrap().token, "at-3");
    assert_eq!(house.spooled(), 0, "the space set aside was enough");
    // What the landing left free inside the file is taken first, so that the disk is full again.
    fill(&house, &keeper).await;
    assert_eq!(
        secrets_of(&keeper, ALICE).await.refresh_token.as_deref(),
        Some("rt-3")
    );

    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-3");
    assert_eq!(
        access(&keeper, &bob_by, "dune/bob:default").await.unwrap(),
        "at-2"
    );
    // A narrowed token is handed out though it cannot be cached.
    let narrow = Want {
        audiences: vec!["x".into()],
        ..Want::default()
    };
    read(&keeper, &by, ALICE, narrow).await.unwrap();
    // Revoking and deleting are not put off.
    assert!(
        keeper
            .delete(&bob_by, &cred("dune/bob:default"))
            .await
            .unwrap()
    );
    keeper.revoke(&bob.issued.token.id).await.unwrap();
    // Tokens go on being refreshed from the space set aside.
    let before = house.issuer.refreshes();
    house.clock.pass(Duration::from_secs(4000));
    access(&keeper, &by, ALICE).await.unwrap();
    assert_eq!(house.issuer.refreshes(), before + 1);
    house.disk.set_capacity(None);
    keeper
        .put_policy("large", &written(&large_policy()))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_failure_of_the_store_is_ever_final_for_a_client() {
    let house = House::new(Rotation::Grace);
    let keeper = house.open().await;
    let secret = login(&house, &keeper, "alice").await.issued.secret;
    let by = bearer(&keeper, &secret).await;
    for seed in 0..4 {
        house.disk.fail_randomly(Some((4, seed)));
        for _ in 0..15 {
            house.clock.pass(Duration::from_secs(3600));
            for outcome in [
                keeper.authenticate(&secret, None).await.map(|_| ()),
                access(&keeper, &by, ALICE).await.map(|_| ()),
            ] {
                assert!(
                    matches!(outcome, Ok(()) | Err(Failure::Later(_))),
                    "{outcome:?}"
                );
            }
        }
        house.disk.fail_randomly(None);
    }
}

#[tokio::test(start_paused = true)]
async fn commits_whose_answers_are_lost_lose_no_refresh_token() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    let engine = house.engine.lock().unwrap().clone().unwrap();
    for _ in 0..60 {
        house.clock.pass(Duration::from_secs(3600));
        engine.set_active(true);
        let reader = tokio::spawn({
            let (keeper, by) = (keeper.clone(), by.clone());
            async move { access(&keeper, &by, ALICE).await }
        });
        until_async("the reader has an answer", async || {
            tokio::time::advance(Duration::from_millis(100)).await;
            reader.is_finished()
        })
        .await;
        let outcome = reader.await.unwrap();
        assert!(
            matches!(outcome, Ok(_) | Err(Failure::Later(_))),
            "{outcome:?}"
        );
        engine.set_active(false);
        until_async("the flight has ended", async || {
            tokio::time::advance(Duration::from_millis(100)).await;
            keeper.inner.flights.is_empty()
        })
        .await;
        access(&keeper, &by, ALICE).await.unwrap();
    }
    assert!(engine.injected() > 10, "{}", engine.injected());
    assert_eq!(house.spooled(), 0);
    let secrets = secrets_of(&keeper, ALICE).await;
    let books = house.issuer.books();
    assert!(
        books
            .accepted
            .contains(secrets.refresh_token.as_ref().unwrap())
    );
    assert_eq!(books.delivered, books.issued);
}

#[test]
fn a_spool_file_without_the_token_that_was_sent_is_still_read() {
    let text = r#"{"grant":"g","generation":3,"refresh_token":"r","access":{"token":"a","token_type":"Bearer","issued_at":1,"expires_at":2}}"#;
    let received: crate::spool::Received = serde_json::from_str(text).unwrap();
    assert_eq!((received.sent.as_str(), received.generation), ("", 3));
}

//! Strangers who start logins: they keep nobody else from logging in, and leave nothing behind.

use std::time::Duration;

use super::issuer::Rotation;
use super::support::*;
use crate::records::LOGIN;
use crate::*;

fn from(address: &str) -> LoginStart {
    LoginStart {
        from: Some(address.parse().unwrap()),
        ..start("dune")
    }
}

#[tokio::test(start_paused = true)]
async fn one_customers_network_does_not_take_all_places_for_logins() {
    let house = House::new(Rotation::Never);
    let mut setup = house.setup();
    setup.limits = Limits {
        login_sessions_total: 40,
        login_sessions_per_address: 2,
    };
    let keeper = house.open_with(setup).await;
    // A tenth of all, however many networks of 64 bits it has.
    for n in 0..4 {
        let address = format!("2001:db8:1:{n:x}00::1");
        keeper.login_start(from(&address)).await.unwrap();
    }
    let refused = keeper.login_start(from("2001:db8:1:ff00::1")).await;
    assert_eq!(kind(refused), LaterKind::TooManyLogins);
    for other in ["2001:db8:2::1", "192.0.2.1", "192.0.2.2"] {
        keeper.login_start(from(other)).await.unwrap();
    }
    // Those that finish give their places back.
    let started = keeper.login_start(from("2001:db8:2::2")).await.unwrap();
    for count in 1..3 {
        let address = format!("2001:db8:2:{count}00::1");
        keeper.login_start(from(&address)).await.unwrap();
    }
    let late = || from("2001:db8:2:ff00::1");
    assert_eq!(
        kind(keeper.login_start(late()).await),
        LaterKind::TooManyLogins
    );
    let back = callback("dune", &started.state);
    keeper.callback(back).await.unwrap();
    let outcome = keeper.login_poll(poll("dune", &started.state)).await;
    assert!(matches!(outcome, Ok(PollOutcome::LoggedIn(_))));
    keeper.login_start(late()).await.unwrap();
}

async fn stored(keeper: &Keeper) -> usize {
    let mut count = 0;
    keeper
        .inner
        .db
        .each::<serde_json::Value>(LOGIN, &[], |_| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        })
        .await
        .unwrap();
    count
}

#[tokio::test(start_paused = true)]
async fn logins_that_are_over_are_not_kept_for_a_week() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    for _ in 0..3 {
        keeper.login_start(start("dune")).await.unwrap();
    }
    // One moves on, and is written again.
    let started = keeper.login_start(start("dune")).await.unwrap();
    keeper
        .callback(callback("dune", &started.state))
        .await
        .unwrap();
    for (pass, left) in [(599, 4), (300, 4), (2, 0)] {
        house.clock.pass(Duration::from_secs(pass));
        keeper.note_time_and_sweep().await.unwrap();
        assert_eq!(stored(&keeper).await, left, "after {pass} more");
    }
}

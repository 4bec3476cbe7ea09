//! Splitting the root key anew on a store that fails: whatever happens, somebody was told shares that open it.

use gridkeep_store::shamir::Share;
use gridkeep_store::{RootKey, Shares};

use super::issuer::Rotation;
use super::support::*;
use crate::*;

const SPLIT: Shares = Shares {
    count: 3,
    threshold: 2,
};

/// A keeper on a store whose root key is in these shares.
async fn with_shares(house: &House) -> (Keeper, Vec<Share>) {
    let keeper = house.open().await;
    let (key, shares) = RootKey::generate_shared(SPLIT).unwrap();
    keeper.replace_root_key(&key, "test").await.unwrap();
    (keeper, shares)
}

async fn begun(keeper: &Keeper, verify: bool) -> String {
    keeper.begin_rekey(SPLIT, verify).await.unwrap();
    let status = keeper.rekey_status().await.unwrap();
    status.attempt.unwrap().nonce
}

fn id_of(shares: &[Share]) -> String {
    RootKey::from_shares(SPLIT, &shares[..2]).unwrap().id()
}

fn refusal<T>(outcome: Result<T, Failure>) -> RekeyRefused {
    match outcome {
        Err(Failure::BadInput(BadInput::Rekey(why))) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_the_store_does_told_shares_open_it() {
    let house = House::new(Rotation::Immediate);
    let (keeper, mut present) = with_shares(&house).await;
    let engine = house.engine.lock().unwrap().clone().unwrap();
    let (mut later, mut cancelled, mut replaced) = (0, 0, 0);
    for _ in 0..40 {
        let mut nonce = begun(&keeper, false).await;
        let new = loop {
            engine.set_active(true);
            let none = keeper.give_share(&nonce, present[0].clone(), "test").await;
            let last = keeper.give_share(&nonce, present[2].clone(), "test").await;
            engine.set_active(false);
            assert!(none.unwrap().is_none());
            match last {
                Ok(new) => break new.unwrap().shares,
                Err(Failure::Later(_)) => later += 1,
                Err(other) => panic!("{other}"),
            }
            // Who gives up may do so only while the shares that were told before count.
            let sealed_under = keeper.store().seal_state().await.unwrap().root_key_id;
            if sealed_under == id_of(&present) {
                cancelled += 1;
                keeper.cancel_rekey().await.unwrap();
                nonce = begun(&keeper, false).await;
            } else {
                replaced += 1;
                assert_eq!(refusal(keeper.cancel_rekey().await), RekeyRefused::Replaced);
            }
        };
        // The answer may have been lost: the shares from before tell them again.
        let none = keeper.give_share(&nonce, present[2].clone(), "test").await;
        assert!(none.unwrap().is_none());
        let progress = keeper.rekey_status().await.unwrap().attempt.unwrap();
        assert_eq!((progress.nonce, progress.progress), (nonce.clone(), 1));
        let again = keeper.give_share(&nonce, present[1].clone(), "test").await;
        assert!(again.unwrap().unwrap().shares == new);
        present = new;
        let state = keeper.store().seal_state().await.unwrap();
        assert_eq!(
            (state.root_key_id, state.shares),
            (id_of(&present), Some(SPLIT))
        );
        assert_eq!(keeper.rekey_status().await.unwrap().attempt, None);
    }
    assert!(
        later > 5 && cancelled > 0 && replaced > 0,
        "{later} {cancelled} {replaced}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_cancels_afterwards_forgets_the_new_shares() {
    let house = House::new(Rotation::Immediate);
    let (keeper, present) = with_shares(&house).await;
    let nonce = begun(&keeper, false).await;
    let mut told = None;
    for share in &present[..2] {
        let given = keeper.give_share(&nonce, share.clone(), "test").await;
        told = given.unwrap();
    }
    let new = told.unwrap().shares;
    keeper.cancel_rekey().await.unwrap();
    assert_eq!(
        refusal(keeper.give_share(&nonce, present[0].clone(), "test").await),
        RekeyRefused::NotUnderWay
    );
    let state = keeper.store().seal_state().await.unwrap();
    assert_eq!(state.root_key_id, id_of(&new));
}

#[tokio::test(start_paused = true)]
async fn unverified_shares_change_nothing() {
    let house = House::new(Rotation::Immediate);
    let (keeper, present) = with_shares(&house).await;
    let sealed_under = || async { keeper.store().seal_state().await.unwrap().root_key_id };
    let nonce = begun(&keeper, true).await;
    keeper
        .give_share(&nonce, present[1].clone(), "test")
        .await
        .unwrap();
    let told = keeper.give_share(&nonce, present[0].clone(), "test").await;
    let told = told.unwrap().unwrap();
    let verification = told.verification.unwrap();
    assert_eq!(sealed_under().await, id_of(&present));
    assert_eq!(
        refusal(keeper.give_share(&nonce, present[0].clone(), "test").await),
        RekeyRefused::UnderWay
    );
    for share in [&told.shares[0], &present[1]] {
        let given = keeper
            .give_share_back(&verification, share.clone(), "test")
            .await;
        if *share == present[1] {
            assert_eq!(refusal(given), RekeyRefused::NotVerified);
        } else {
            assert_eq!(given.unwrap(), None);
        }
    }
    assert_eq!(sealed_under().await, id_of(&present));
    keeper.cancel_rekey().await.unwrap();
    assert_eq!(sealed_under().await, id_of(&present));
    assert_eq!(
        refusal(keeper.restart_verification().await),
        RekeyRefused::NothingToVerify
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_held_whole_has_no_shares() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    assert_eq!(
        refusal(keeper.begin_rekey(SPLIT, false).await),
        RekeyRefused::NoShares
    );
    assert_eq!(refusal(keeper.rekey_status().await), RekeyRefused::NoShares);
}

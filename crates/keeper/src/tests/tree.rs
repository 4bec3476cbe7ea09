//! Parents and children: one write ends a tree, and nothing brings one back.

use std::sync::Arc;

use super::issuer::Rotation;
use super::support::*;
use crate::*;

async fn family(house: &House, keeper: &Keeper) -> Vec<Issued> {
    let login = login(house, keeper, "alice").await;
    let mut family = vec![login.issued];
    for _ in 0..3 {
        let by = bearer(keeper, &family.last().unwrap().secret).await;
        family.push(child(keeper, &by).await);
    }
    family
}

async fn alive(keeper: &Keeper, token: &Issued) -> bool {
    match keeper.authenticate(&token.secret, None).await {
        Ok(_) => true,
        Err(Failure::Refused(Refused::TokenRevoked)) => false,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn revoking_a_token_ends_its_descendants_in_one_write() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let family = family(&house, &keeper).await;
    let before = keeper.store_status().commit_sequence;
    keeper.revoke(&family[1].token.id).await.unwrap();
    assert_eq!(keeper.store_status().commit_sequence, before + 1);
    let mut living = Vec::new();
    for token in &family {
        living.push(alive(&keeper, token).await);
    }
    assert_eq!(living, [true, false, false, false]);
    keeper.revoke(&family[1].token.id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn revoke_orphan_spares_the_children() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let family = family(&house, &keeper).await;
    keeper.revoke_orphan(&family[1].token.id).await.unwrap();
    assert!(!alive(&keeper, &family[1]).await);
    // The first one below is an orphan now and shown as such; nothing above it concerns it any more.
    let orphan = keeper.lookup(&family[2].secret).await.unwrap();
    assert!(orphan.orphan && orphan.parent.is_none() && orphan.ancestors.is_empty());
    keeper.revoke(&family[0].token.id).await.unwrap();
    assert!(alive(&keeper, &family[2]).await && alive(&keeper, &family[3]).await);
    keeper.revoke(&family[2].token.id).await.unwrap();
    assert!(!alive(&keeper, &family[3]).await);
    assert_eq!(
        bad(keeper.revoke_orphan(&family[1].token.id).await).to_string(),
        "token to revoke not found"
    );
}

#[tokio::test(start_paused = true)]
async fn revoke_orphan_brings_nobody_back() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let family = family(&house, &keeper).await;
    keeper.revoke(&family[0].token.id).await.unwrap();
    assert_eq!(
        bad(keeper.revoke_orphan(&family[1].token.id).await),
        BadInput::RevokeTargetNotFound
    );
    assert!(!alive(&keeper, &family[2]).await, "it died with the tree");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_makes_no_child_that_outlives_it() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let family = family(&house, &keeper).await;
    let by = bearer(&keeper, &family[1].secret).await;
    // Authenticated before, revoked between, used after.
    keeper.revoke_orphan(&family[1].token.id).await.unwrap();
    assert_eq!(
        refused(keeper.create_token(&by, CreateToken::default(), true).await),
        Refused::TokenRevoked
    );
}

#[tokio::test(start_paused = true)]
async fn a_periodic_orphan_does_not_hang_on_the_tombstone_of_its_parent() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    let request = CreateToken {
        period: Seconds(604_800),
        ..CreateToken::default()
    };
    let periodic = keeper.create_token(&by, request, true).await.unwrap();
    keeper.revoke_orphan(&by.token.id).await.unwrap();
    house.clock.set_synchronised(Some(true));
    for _ in 0..15 {
        house.clock.pass(std::time::Duration::from_secs(6 * 86_400));
        keeper.note_time_and_sweep().await.unwrap();
        keeper.renew(&periodic.token.id, None).await.unwrap();
    }
    let gone = keeper
        .inner
        .db
        .get::<KeeperToken>(&crate::tokens::token_name(&by.token.id))
        .await
        .unwrap();
    assert!(gone.is_none(), "the tombstone was swept");
    assert!(alive(&keeper, &periodic).await);
}

#[tokio::test(start_paused = true)]
async fn children_die_with_an_expired_parent() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    let short = CreateToken {
        ttl: Some(Seconds(1000)),
        ..CreateToken::default()
    };
    let parent = keeper.create_token(&by, short, false).await.unwrap();
    let long = child(&keeper, &bearer(&keeper, &parent.secret).await).await;
    house.clock.pass(std::time::Duration::from_secs(1061));
    assert_eq!(
        refused(keeper.authenticate(&long.secret, None).await),
        Refused::TokenExpired
    );
}

#[tokio::test(start_paused = true)]
async fn trees_have_a_depth_and_many_children_may_be_made_at_once() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = Arc::new(bearer(&keeper, &login.issued.secret).await);
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (keeper, by) = (keeper.clone(), by.clone());
            tokio::spawn(async move {
                keeper
                    .create_token(&by, CreateToken::default(), false)
                    .await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let mut deepest = by.as_ref().clone();
    for _ in 0..32 {
        let next = child(&keeper, &deepest).await;
        deepest = bearer(&keeper, &next.secret).await;
    }
    assert_eq!(
        bad(keeper
            .create_token(&deepest, CreateToken::default(), false)
            .await),
        BadInput::TooDeep { limit: 32 }
    );
}

#[tokio::test(start_paused = true)]
async fn only_what_lives_with_all_its_ancestors_is_shown_as_alive() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let family = family(&house, &keeper).await;
    let mine = |token: &KeeperToken| token.entity == family[0].token.entity;
    let alive = async || keeper.live_tokens(10, mine).await.unwrap().found.len();
    assert_eq!(alive().await, 4);
    keeper.revoke(&family[1].token.id).await.unwrap();
    assert_eq!(alive().await, 1);
    let cut = keeper.live_tokens(1, |_| true).await.unwrap();
    assert_eq!((cut.found.len(), cut.more), (1, false));
}

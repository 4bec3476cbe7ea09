//! `auth/token/create` rule by rule, lifetimes, renewal, uses.

use std::collections::BTreeMap;
use std::time::Duration;

use super::issuer::Rotation;
use super::support::*;
use crate::*;

async fn made(keeper: &Keeper, by: &Bearer, request: CreateToken, sudo: bool) -> Issued {
    keeper.create_token(by, request, sudo).await.unwrap()
}

fn policies(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

#[tokio::test(start_paused = true)]
async fn a_child_is_what_its_parent_is_unless_told() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    assert_eq!(by.token.policies, ["oidc-dune_default", "tokenops"]);
    assert!(by.token.orphan && by.token.renewable);
    assert_eq!(by.token.creation_ttl, Seconds(2_419_200));
    let request = CreateToken {
        ttl: Some(Seconds(604_800)),
        renewable: false,
        ..CreateToken::default()
    };
    let child = made(&keeper, &by, request, false).await;
    let token = &child.token;
    assert_eq!(token.policies, by.token.policies, "no default is added");
    assert!(token.meta.is_empty(), "meta is never inherited");
    assert_eq!(token.identity, by.token.identity);
    assert_eq!(token.entity, by.token.entity);
    assert_eq!((token.parent, token.orphan), (Some(by.token.id), false));
    assert_eq!(token.ttl(keeper.now()), Seconds(604_800));
    assert_eq!(token.display_name, "token");
    assert!(!token.renewable && child.warnings.is_empty());
    let empty = CreateToken {
        policies: policies(&[]),
        id: Some(String::new()),
        meta: BTreeMap::from([("a".into(), "b".into())]),
        display_name: Some("my token/1".into()),
        ..CreateToken::default()
    };
    let token = made(&keeper, &by, empty, false).await.token;
    assert_eq!(token.policies, by.token.policies);
    assert_eq!(token.display_name, "token-my-token-1");
    assert_eq!(token.meta["a"], "b");
}

#[tokio::test(start_paused = true)]
async fn what_needs_sudo_is_refused_without() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    let base = CreateToken::default;
    for (request, text) in [
        (
            CreateToken {
                id: Some("x".into()),
                ..base()
            },
            "root or sudo privileges required to specify token id",
        ),
        (
            CreateToken {
                no_parent: true,
                ..base()
            },
            "root or sudo privileges required to create orphan token",
        ),
        (
            CreateToken {
                period: Seconds(60),
                ..base()
            },
            "root or sudo privileges required to create periodic token",
        ),
        (
            CreateToken {
                policies: policies(&["tokenops", "operator"]),
                ..base()
            },
            "child policies must be subset of parent",
        ),
        (
            CreateToken {
                policies: policies(&["root"]),
                ..base()
            },
            "root tokens may not be created without parent token being root",
        ),
        (
            CreateToken {
                num_uses: -1,
                ..base()
            },
            "number of uses cannot be negative",
        ),
        (
            CreateToken {
                token_type: Some("batch".into()),
                ..base()
            },
            "token type \"batch\" is not supported: use type service",
        ),
    ] {
        let refused = bad(keeper.create_token(&by, request.clone(), false).await);
        assert_eq!(refused.to_string(), text, "{request:?}");
    }
    // The path create-orphan needs no sudo: its permission is the permission.
    let orphan = CreateToken {
        orphan_path: true,
        ..base()
    };
    let orphan = made(&keeper, &by, orphan, false).await.token;
    assert!(orphan.orphan && orphan.parent.is_none() && orphan.ancestors.is_empty());
    assert_eq!(orphan.path, "auth/token/create-orphan");
}

#[tokio::test(start_paused = true)]
async fn policies_are_a_subset_sorted_and_default_only_where_it_was() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    let some = CreateToken {
        policies: policies(&["TokenOps", "tokenops", " oidc-dune_default "]),
        ..CreateToken::default()
    };
    let token = made(&keeper, &by, some, false).await.token;
    assert_eq!(token.policies, ["oidc-dune_default", "tokenops"]);

    let sudo = CreateToken {
        policies: policies(&["nowhere"]),
        ..CreateToken::default()
    };
    let made_with_sudo = made(&keeper, &by, sudo.clone(), true).await;
    assert_eq!(made_with_sudo.token.policies, ["default", "nowhere"]);
    assert_eq!(
        made_with_sudo.warnings,
        ["Policy \"nowhere\" does not exist"]
    );
    let bare = CreateToken {
        no_default_policy: true,
        ..sudo
    };
    let bare = made(&keeper, &by, bare, true).await;
    assert_eq!(bare.token.policies, ["nowhere"]);
    assert!(
        bad(keeper
            .create_token(
                &by,
                CreateToken {
                    policies: policies(&["root"]),
                    ..CreateToken::default()
                },
                true
            )
            .await)
        .to_string()
        .contains("parent token being root")
    );

    let with_default = bearer(&keeper, &made_with_sudo.secret).await;
    let kept = CreateToken {
        policies: policies(&["nowhere"]),
        ..CreateToken::default()
    };
    let kept = made(&keeper, &with_default, kept, false).await.token;
    assert_eq!(kept.policies, ["default", "nowhere"], "the parent has it");
}

#[tokio::test(start_paused = true)]
async fn only_root_makes_root_and_root_has_no_end() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let root = root(&keeper).await;
    let token = child(&keeper, &root).await.token;
    assert_eq!(token.policies, ["root"]);
    assert_eq!(
        (token.expires_at, token.ttl(keeper.now())),
        (None, Seconds(0))
    );
    let short = CreateToken {
        ttl: Some(Seconds(60)),
        ..CreateToken::default()
    };
    let short = made(&keeper, &root, short, false).await.token;
    assert_eq!(short.ttl(keeper.now()), Seconds(60));
    assert_eq!(
        bad(keeper.renew(&token.id, None).await),
        BadInput::NotRenewable
    );
}

#[tokio::test(start_paused = true)]
async fn lives_are_cut_to_their_limits_with_a_warning() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    let max = 2_419_200;
    for (ttl, explicit, period, got, warned) in [
        (None, 0, 0, max, false),
        (Some(0), 0, 0, max, false),
        (Some(60), 0, 0, 60, false),
        (Some(max), 0, 0, max, false),
        (Some(max + 1), 0, 0, max, true),
        (Some(u64::MAX), 0, 0, max, true),
        (None, 3600, 0, 3600, false),
        (Some(7200), 3600, 0, 3600, true),
        (None, 0, 604_800, 604_800, false),
        (Some(5), 0, max * 2, max, true),
        (None, 3600, 604_800, 3600, true),
    ] {
        let request = CreateToken {
            ttl: ttl.map(Seconds),
            explicit_max_ttl: Seconds(explicit),
            period: Seconds(period),
            ..CreateToken::default()
        };
        let issued = made(&keeper, &by, request, true).await;
        assert_eq!(
            (issued.token.creation_ttl, !issued.warnings.is_empty()),
            (Seconds(got), warned),
            "{ttl:?} {explicit} {period} {:?}",
            issued.warnings
        );
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_counts_from_now_and_ends_at_the_maximum() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    let day = 86_400;
    let request = CreateToken {
        ttl: Some(Seconds(day)),
        explicit_max_ttl: Seconds(3 * day),
        ..CreateToken::default()
    };
    let token = made(&keeper, &by, request, false).await;
    let id = token.token.id;
    house.clock.pass(Duration::from_secs(day / 2));
    let renewed = keeper.renew(&id, Some(Seconds(day))).await.unwrap();
    assert_eq!((renewed.ttl, renewed.warnings.len()), (Seconds(day), 0));
    assert_eq!(renewed.token.last_renewal, Some(keeper.now()));
    house.clock.pass(Duration::from_secs(day - 10));
    let renewed = keeper.renew(&id, Some(Seconds(10 * day))).await.unwrap();
    assert_eq!(renewed.ttl, Seconds(3 * day - day / 2 - day + 10));
    assert_eq!(renewed.warnings.len(), 1);
    keeper.authenticate(&token.secret, None).await.unwrap();

    let fixed = CreateToken {
        renewable: false,
        ..CreateToken::default()
    };
    let fixed = made(&keeper, &by, fixed, false).await.token.id;
    assert_eq!(
        bad(keeper.renew(&fixed, None).await).to_string(),
        "lease is not renewable"
    );
    keeper.revoke(&id).await.unwrap();
    assert_eq!(
        bad(keeper.renew(&id, None).await).to_string(),
        "token not found"
    );
}

#[tokio::test(start_paused = true)]
async fn a_periodic_token_lives_as_long_as_it_is_renewed() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = operator(&keeper).await;
    let request = |explicit| CreateToken {
        no_parent: true,
        period: Seconds(604_800),
        explicit_max_ttl: Seconds(explicit),
        policies: policies(&["default"]),
        ..CreateToken::default()
    };
    let endless = made(&keeper, &by, request(0), true).await;
    let ended = made(&keeper, &by, request(20 * 86_400), true).await;
    for week in 0..10 {
        house.clock.pass(Duration::from_secs(6 * 86_400));
        let renewed = keeper.renew(&endless.token.id, Some(Seconds(5))).await;
        assert_eq!(renewed.unwrap().ttl, Seconds(604_800), "week {week}");
        if week < 2 {
            keeper.renew(&ended.token.id, None).await.unwrap();
        }
        if week == 2 {
            let last = keeper.renew(&ended.token.id, None).await.unwrap();
            assert_eq!(last.ttl, Seconds(2 * 86_400), "the explicit maximum");
        }
    }
    keeper.authenticate(&endless.secret, None).await.unwrap();
    assert_eq!(
        refused(keeper.authenticate(&ended.secret, None).await),
        Refused::TokenExpired
    );
}

#[tokio::test(start_paused = true)]
async fn uses_are_counted_exactly_however_many_come_at_once() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    let request = CreateToken {
        num_uses: 5,
        ..CreateToken::default()
    };
    let counted = made(&keeper, &by, request, false).await;
    let tries = (0..20).map(|_| {
        let (keeper, secret) = (keeper.clone(), counted.secret.clone());
        tokio::spawn(async move { keeper.authenticate(&secret, None).await })
    });
    let mut worked = Vec::new();
    for task in tries.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(bearer) => worked.push(bearer),
            Err(failure) => assert_eq!(failure, Refused::TokenRevoked.into()),
        }
    }
    assert_eq!(worked.len(), 5);
    for bearer in &worked {
        assert_eq!(
            bad(keeper
                .create_token(bearer, CreateToken::default(), true)
                .await),
            BadInput::RestrictedUse
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_accessor_finds_its_token_and_gives_no_power() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let token = &login.issued.token;
    let found = keeper.lookup_accessor(&token.accessor).await.unwrap();
    assert_eq!(found.id, token.id);
    assert!(
        keeper
            .list_accessors()
            .await
            .unwrap()
            .contains(&token.accessor)
    );
    let accessor = secrecy::SecretString::from(token.accessor.clone());
    assert_eq!(
        refused(keeper.authenticate(&accessor, None).await),
        Refused::UnknownToken
    );
    assert_eq!(
        bad(keeper.lookup_accessor("").await),
        BadInput::MissingAccessor
    );
    assert_eq!(
        bad(keeper.lookup_accessor("nonsense").await),
        BadInput::InvalidAccessor
    );
    keeper.revoke(&token.id).await.unwrap();
    assert_eq!(
        bad(keeper.lookup_accessor(&token.accessor).await),
        BadInput::InvalidAccessor
    );
    assert!(
        !keeper
            .list_accessors()
            .await
            .unwrap()
            .contains(&token.accessor)
    );
    assert_eq!(
        refused(keeper.lookup(&login.issued.secret).await),
        Refused::BadTokenForLookup
    );
}

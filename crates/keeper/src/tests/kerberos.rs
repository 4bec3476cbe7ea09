//! Logins with Kerberos tickets: what they may use, and that a proof works once wherever it is shown.

use std::sync::Arc;

use gridkeep_identity::kerberos::{AcceptError, AcceptTickets, Principal, Proven};

use super::faults::{break_disk, heal_disk};
use super::issuer::Rotation;
use super::measure::Counted;
use super::support::*;
use crate::*;

pub(super) const MOUNT: &str = "kerberos-dune_default";

/// Believes any token of the form `name@REALM number`, but those of one realm.
#[derive(Debug)]
struct Believer;

impl AcceptTickets for Believer {
    fn accept(&self, bytes: &[u8]) -> Result<Proven, AcceptError> {
        let text = std::str::from_utf8(bytes).unwrap();
        let (principal, _) = text.split_once(' ').unwrap();
        let (name, realm) = principal.split_once('@').unwrap();
        match realm {
            "EVIL" => return Err(AcceptError::Rejected("not from there".into())),
            "BROKEN" => return Err(AcceptError::Unusable("there is no keytab".into())),
            "PANIC" => panic!("in the library"),
            _ => {}
        }
        let mut authenticator = [0; 32];
        authenticator[..bytes.len()].copy_from_slice(bytes);
        Ok(Proven {
            principal: Principal {
                name: name.into(),
                realm: realm.into(),
            },
            authenticator,
        })
    }
}

pub(super) fn with_tickets(mut setup: Setup, issuer: &str, domain: Option<&str>) -> Setup {
    setup.kerberos.insert(
        issuer.to_owned(),
        KerberosSetup {
            acceptor: Arc::new(Believer),
            service_account: "host/tokens.lab.example".into(),
            policy_domain: domain.map(str::to_owned),
        },
    );
    setup
}

async fn ticket(keeper: &Keeper, mount: &str, token: &str) -> TicketLogin {
    keeper
        .ticket_login(mount, token.as_bytes().to_vec(), None)
        .await
        .unwrap()
}

pub(super) async fn ticket_bearer(keeper: &Keeper, mount: &str, token: &str) -> Bearer {
    match ticket(keeper, mount, token).await {
        TicketLogin::LoggedIn(issued) => bearer(keeper, &issued.secret).await,
        TicketLogin::NotAccepted(why) => panic!("{why}"),
    }
}

async fn declined(keeper: &Keeper, mount: &str, token: &str) -> String {
    match ticket(keeper, mount, token).await {
        TicketLogin::NotAccepted(why) => why,
        TicketLogin::LoggedIn(issued) => panic!("{issued:?}"),
    }
}

/// Whether the token may do this to the credential, by its policies.
fn may(keeper: &Keeper, by: &Bearer, operation: Operation, name: &str) -> bool {
    let path = format!("secret/oauth/creds/{name}");
    keeper
        .authorize(by, operation, &path, &serde_json::Map::new())
        .is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_ticket_opens_what_stands_under_its_name_and_stores_nothing() {
    let house = House::new(Rotation::Never);
    let keeper = house
        .open_with(with_tickets(house.setup(), "dune", None))
        .await;
    login(&house, &keeper, "alice").await;
    let by = ticket_bearer(&keeper, MOUNT, "alice@LAB 1").await;
    assert_eq!(by.token.policies, ["kerberos-dune_default", "tokenops"]);
    assert_eq!(by.token.creation_ttl, Seconds(2_419_200));
    assert!(!by.token.renewable);
    assert_eq!(by.token.display_name, "kerberos-dune_default-alice");
    let meta = |key: &str| by.token.meta[key].as_str();
    assert_eq!(
        [meta("user"), meta("domain"), meta("credkey")],
        ["alice", "LAB", "alice"]
    );
    for (operation, name, allowed) in [
        (Operation::Read, "dune/alice:default", true),
        (Operation::Delete, "dune/alice:default", true),
        (Operation::Update, "dune/alice:default", false),
        (Operation::Read, "dune/alice:production", false),
        (Operation::Read, "dune/alice/cron/host:default", false),
        (Operation::Read, "dune/alice2:default", false),
        (Operation::Read, "dune/bob:default", false),
    ] {
        assert_eq!(
            may(&keeper, &by, operation, name),
            allowed,
            "{operation:?} {name}"
        );
    }
    assert!(access(&keeper, &by, "dune/alice:default").await.is_ok());
    // A child has the same rights and no more.
    let issued = child(&keeper, &by).await;
    let by = bearer(&keeper, &issued.secret).await;
    assert!(may(&keeper, &by, Operation::Read, "dune/alice:default"));
    assert!(!may(&keeper, &by, Operation::Update, "dune/alice:default"));
}

#[tokio::test(start_paused = true)]
async fn a_robot_opens_what_was_stored_below_its_owners_name() {
    let house = House::new(Rotation::Never);
    let keeper = house
        .open_with(with_tickets(house.setup(), "dune", Some("@lab.example")))
        .await;
    let owner = login(&house, &keeper, "dunepro").await;
    let by = bearer(&keeper, &owner.issued.secret).await;
    put(
        &keeper,
        &by,
        "dune/dunepro/cron/host:default",
        &owner.handle,
    )
    .await
    .unwrap();
    let robot = ticket_bearer(&keeper, MOUNT, "dunepro/cron/host@LAB 1").await;
    assert_eq!(robot.token.meta["credkey"], "dunepro/cron/host");
    assert!(
        access(&keeper, &robot, "dune/dunepro/cron/host:default")
            .await
            .is_ok()
    );
    for other in [
        "dune/dunepro:default",
        "dune/dunepro/cron:default",
        "dune/dunepro/cron/other:default",
        "dune/dunepro/cron/host:production",
    ] {
        assert!(!may(&keeper, &robot, Operation::Read, other), "{other}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_policy_domain_the_login_says_which_name_to_use() {
    let house = House::new(Rotation::Never);
    let keeper = house
        .open_with(with_tickets(house.setup(), "dune", Some("@lab.example")))
        .await;
    let credkey = async |token: &str| {
        let by = ticket_bearer(&keeper, MOUNT, token).await;
        for owner in ["alice", "alice@lab.example"] {
            assert!(may(
                &keeper,
                &by,
                Operation::Read,
                &format!("dune/{owner}:default")
            ));
        }
        assert!(!may(
            &keeper,
            &by,
            Operation::Read,
            "dune/alice@other:default"
        ));
        by.token.meta["credkey"].clone()
    };
    assert_eq!(credkey("alice@LAB 1").await, "alice@lab.example");
    login(&house, &keeper, "alice").await;
    assert_eq!(credkey("alice@LAB 2").await, "alice");
    login(&house, &keeper, "alice@lab.example").await;
    assert_eq!(credkey("alice@LAB 3").await, "alice@lab.example");
}

#[tokio::test(start_paused = true)]
async fn a_proof_works_once_on_all_nodes_together() {
    let house = House::new(Rotation::Never);
    let setup = || with_tickets(house.setup(), "dune", None);
    let nodes = [
        house.open_with(setup()).await,
        house.open_with(setup()).await,
    ];
    ticket_bearer(&nodes[0], MOUNT, "alice@LAB 1").await;
    for node in &nodes {
        let why = declined(node, MOUNT, "alice@LAB 1").await;
        assert!(why.contains("used before"), "{why}");
        // Neither is another mount a way around.
        let why = declined(node, "kerberos-dune_production", "alice@LAB 1").await;
        assert!(why.contains("used before"), "{why}");
    }
    // At the same moment.
    let at_once = (0..8).map(|index| ticket(&nodes[index % 2], MOUNT, "alice@LAB 2"));
    let outcomes = futures_util::future::join_all(at_once).await;
    let logged_in = |outcome: &&TicketLogin| matches!(outcome, TicketLogin::LoggedIn(_));
    assert_eq!(outcomes.iter().filter(logged_in).count(), 1);
    // After a restart, and as long as any clock lets a proof live.
    house.pass(600).await;
    let node = house.open_with(setup()).await;
    assert!(
        declined(&node, MOUNT, "alice@LAB 2")
            .await
            .contains("used before")
    );
    ticket_bearer(&node, MOUNT, "alice@LAB 3").await;
}

#[tokio::test(start_paused = true)]
async fn names_that_look_alike_when_joined_give_no_rights() {
    let house = House::new(Rotation::Never);
    let named = |issuer: &str, role: &str| {
        let mut setup = house.setup();
        let mut one = house.issuer_setup(issuer, &house.issuer);
        one.roles.truncate(1);
        one.roles[0].name = role.to_owned();
        setup.issuers = vec![one];
        with_tickets(setup, issuer, None)
    };
    let keeper = house.open_with(named("a", "b_c")).await;
    let by = ticket_bearer(&keeper, "kerberos-a_b_c", "alice@LAB 1").await;
    assert!(may(&keeper, &by, Operation::Read, "a/alice:b_c"));
    let mounts = |keeper: &Keeper| {
        let mounts = keeper.mounts().into_iter();
        let mount = mounts
            .filter(|mount| mount.kind == "kerberos")
            .collect::<Vec<_>>();
        assert_eq!(mount.len(), 1);
        assert_eq!(mount[0].path, "auth/kerberos-a_b_c/");
        mount[0].accessor.clone()
    };
    let before = mounts(&keeper);
    keeper.reconfigure(named("a_b", "c")).await.unwrap();
    assert_ne!(mounts(&keeper), before);
    assert!(!may(&keeper, &by, Operation::Read, "a_b/alice:c"));
    let new = ticket_bearer(&keeper, "kerberos-a_b_c", "alice@LAB 2").await;
    assert!(may(&keeper, &new, Operation::Read, "a_b/alice:c"));
}

#[tokio::test(start_paused = true)]
async fn a_removed_service_takes_its_rights_along() {
    let house = House::new(Rotation::Never);
    let setup = with_tickets(house.setup(), "dune", None);
    let keeper = house.open_with(setup).await;
    let by = ticket_bearer(&keeper, MOUNT, "alice@LAB 1").await;
    assert!(may(&keeper, &by, Operation::Read, "dune/alice:default"));
    keeper.reconfigure(house.setup()).await.unwrap();
    assert!(!may(&keeper, &by, Operation::Read, "dune/alice:default"));
    assert!(!keeper.has_ticket_login(MOUNT));
    let why = declined(&keeper, MOUNT, "alice@LAB 2").await;
    assert!(why.contains("no Kerberos login at"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_accepted_leaves_other_ways_open() {
    let house = House::new(Rotation::Never);
    let keeper = house
        .open_with(with_tickets(house.setup(), "dune", None))
        .await;
    assert!(keeper.has_ticket_login(MOUNT) && !keeper.has_ticket_login("kerberos-dune_x"));
    let why = declined(&keeper, MOUNT, "alice@EVIL 1").await;
    assert!(why.contains("is not accepted: not from there"), "{why}");
    let why = declined(&keeper, MOUNT, "alice@BROKEN 1").await;
    assert_eq!(
        why, "Kerberos logins do not work on this server at present; tell its operators",
        "what is wrong with the host is not told to strangers"
    );
    declined(&keeper, "kerberos-none_default", "alice@LAB 1").await;
    let broken = keeper
        .ticket_login(MOUNT, b"alice@PANIC 1".to_vec(), None)
        .await;
    assert_eq!(kind(broken), LaterKind::TooManyLogins);
}

#[tokio::test(start_paused = true)]
async fn trouble_of_the_store_spends_no_proof_and_refuses_nobody() {
    let house = House::new(Rotation::Never);
    let keeper = house
        .open_with(with_tickets(house.setup(), "dune", None))
        .await;
    let attempt = || keeper.ticket_login(MOUNT, b"alice@LAB 1".to_vec(), None);
    break_disk(&house);
    assert_eq!(kind(attempt().await), LaterKind::Store);
    heal_disk(&house);
    until_async("the store is back", async || attempt().await.is_ok()).await;
    assert!(
        declined(&keeper, MOUNT, "alice@LAB 1")
            .await
            .contains("used before")
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_server_cannot_judge_has_failed_and_what_it_does_not_accept_is_denied() {
    let house = House::new(Rotation::Never);
    let keeper = house
        .open_with(with_tickets(house.setup(), "dune", None))
        .await;
    let counted = Counted::new();
    ticket_bearer(&keeper, MOUNT, "alice@LAB 1").await;
    declined(&keeper, MOUNT, "alice@LAB 1").await;
    declined(&keeper, MOUNT, "alice@EVIL 1").await;
    let steps = [("started", 3), ("completed", 1), ("denied", 2)];
    assert_eq!(counted.logins("kerberos"), steps);
    declined(&keeper, MOUNT, "alice@BROKEN 1").await;
    let attempt = |token: &[u8]| keeper.ticket_login(MOUNT, token.to_vec(), None);
    kind(attempt(b"alice@PANIC 1").await);
    break_disk(&house);
    kind(attempt(b"alice@LAB 2").await);
    let steps = [
        ("started", 6),
        ("completed", 1),
        ("denied", 2),
        ("failed", 3),
    ];
    assert_eq!(counted.logins("kerberos"), steps);
}

#[tokio::test(start_paused = true)]
async fn the_terms_of_a_role_hold_for_logins_with_a_ticket() {
    let house = House::new(Rotation::Never);
    let mut setup = with_tickets(house.setup(), "dune", None);
    setup.issuers[0].roles[0].terms = LoginTerms {
        ttl: Some(Seconds(3600)),
        bound_cidrs: vec!["192.0.2.0/28".parse().unwrap()],
        ..LoginTerms::default()
    };
    let keeper = house.open_with(setup.clone()).await;
    let log_in = async |token: &str, from: Option<&str>| {
        let from = from.map(|from| from.parse().unwrap());
        keeper
            .ticket_login(MOUNT, token.as_bytes().to_vec(), from)
            .await
            .unwrap()
    };
    for stranger in [Some("192.0.2.16"), None] {
        match log_in("alice@LAB 1", stranger).await {
            TicketLogin::NotAccepted(why) => assert!(why.contains("address"), "{why}"),
            TicketLogin::LoggedIn(issued) => panic!("{stranger:?}: {issued:?}"),
        }
    }
    let TicketLogin::LoggedIn(issued) = log_in("alice@LAB 1", Some("192.0.2.9")).await else {
        panic!("the proof was not used by the refusals")
    };
    assert_eq!(issued.token.creation_ttl, Seconds(3600));
    let inside = Some("192.0.2.5".parse().unwrap());
    assert!(keeper.authenticate(&issued.secret, inside).await.is_ok());
    let outside = Some("192.0.2.16".parse().unwrap());
    assert_eq!(
        refused(keeper.authenticate(&issued.secret, outside).await),
        Refused::WrongAddress
    );
    house.pass(3600 + 61).await;
    assert_eq!(
        refused(keeper.authenticate(&issued.secret, inside).await),
        Refused::TokenExpired
    );

    for (terms, life) in [
        (
            LoginTerms {
                max_ttl: Some(Seconds(1800)),
                ..LoginTerms::default()
            },
            1800,
        ),
        (
            LoginTerms {
                period: Some(Seconds(600)),
                ..LoginTerms::default()
            },
            600,
        ),
    ] {
        setup.issuers[0].roles[0].terms = terms;
        keeper.reconfigure(setup.clone()).await.unwrap();
        let TicketLogin::LoggedIn(issued) = log_in(&format!("alice@LAB {life}"), None).await else {
            panic!("{life}")
        };
        assert_eq!(issued.token.creation_ttl, Seconds(life));
    }
}

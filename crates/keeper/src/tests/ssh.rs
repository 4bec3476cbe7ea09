//! Logging in with ssh keys: whose key opens what, for how long, and what cannot be brought in through the back.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, json};

use super::issuer::{FakeIssuer, Rotation};
use super::support::*;
use crate::*;

/// The key of somebody's agent.
pub(super) struct AgentKey(Ed25519KeyPair);

impl AgentKey {
    pub(super) fn new() -> AgentKey {
        AgentKey(Ed25519KeyPair::generate().unwrap())
    }

    pub(super) fn line(&self) -> String {
        let mut blob = Vec::new();
        for part in [b"ssh-ed25519".as_slice(), self.0.public_key().as_ref()] {
            blob.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            blob.extend_from_slice(part);
        }
        format!("ssh-ed25519 {} key1", STANDARD.encode(blob))
    }

    fn sign(&self, nonce: &str) -> Vec<u8> {
        self.0.sign(nonce.as_bytes()).as_ref().to_vec()
    }
}

pub(super) fn setup(house: &House) -> Setup {
    let mut setup = house.setup();
    setup.self_registration = true;
    setup.ssh = Some(SshSetup {
        cross_issuer: false,
        authorized_keys: None,
        rsa_sha1: true,
        domains: BTreeMap::new(),
    });
    setup
}

/// The same with a second issuer, `cms`.
pub(super) fn setup_of_two(house: &House) -> (Setup, Arc<FakeIssuer>) {
    let mut setup = setup(house);
    let cms = FakeIssuer::new(Rotation::Never);
    setup.issuers.push(house.issuer_setup("cms", &cms));
    (setup, cms)
}

/// Registers `keys` under `name` with everything that the policies of `by` allow.
pub(super) async fn register(
    keeper: &Keeper,
    by: &Bearer,
    name: &str,
    keys: &[&AgentKey],
    issuers: &[&str],
) -> Result<Vec<String>, Failure> {
    let lines: Vec<String> = keys.iter().map(|key| key.line()).collect();
    let mut parameters = Map::from_iter([("public_keys".to_owned(), json!(lines))]);
    if !issuers.is_empty() {
        parameters.insert("issuers".to_owned(), json!(issuers));
    }
    let path = format!("auth/ssh/role/{name}");
    let granted = keeper.authorize(by, Operation::Update, &path, &parameters)?;
    let request = RegisterSshKeys {
        name: name.to_owned(),
        keys: lines,
        issuers: issuers.iter().map(|issuer| (*issuer).to_owned()).collect(),
    };
    keeper.register_ssh_keys(by, &granted, request).await
}

async fn nonce(keeper: &Keeper) -> String {
    keeper.ssh_challenge(None).await.unwrap().nonce
}

async fn log_in_with(
    keeper: &Keeper,
    key: &AgentKey,
    role: &str,
    issuer: &str,
    nonce: &str,
    signature: &[u8],
) -> Result<Issued, Failure> {
    keeper
        .ssh_login(SshLogin {
            role: role.to_owned(),
            public_key: key.line(),
            signature,
            form: SshSignatureForm::Bare,
            nonce: nonce.to_owned(),
            metadata: BTreeMap::from([
                ("issuer".to_owned(), issuer.to_owned()),
                ("group".to_owned(), "default".to_owned()),
            ]),
            from: None,
        })
        .await
}

pub(super) async fn log_in(
    keeper: &Keeper,
    key: &AgentKey,
    role: &str,
    issuer: &str,
) -> Result<Issued, Failure> {
    let nonce = nonce(keeper).await;
    let signature = key.sign(&nonce);
    log_in_with(keeper, key, role, issuer, &nonce, &signature).await
}

async fn may(keeper: &Keeper, by: &Issued, operation: Operation, path: &str) -> bool {
    let by = bearer(keeper, &by.secret).await;
    match keeper.authorize(&by, operation, path, &Map::new()) {
        Ok(_) => true,
        Err(Failure::Refused(Refused::Policy { .. })) => false,
        Err(other) => panic!("{path}: {other}"),
    }
}

async fn reads(keeper: &Keeper, by: &Issued, name: &str) -> bool {
    may(
        keeper,
        by,
        Operation::Read,
        &format!("secret/oauth/creds/{name}"),
    )
    .await
}

/// A house with two issuers, where alice has logged in at dune and registered a key.
pub(super) async fn alice_registered(house: &House) -> (Keeper, AgentKey) {
    let (setup, cms) = setup_of_two(house);
    cms.books().person = super::issuer::claims("alice");
    let keeper = house.open_with(setup).await;
    let login = login(house, &keeper, "alice").await;
    let alice = bearer(&keeper, &login.issued.secret).await;
    let key = AgentKey::new();
    register(&keeper, &alice, "alice", &[&key], &[])
        .await
        .unwrap();
    (keeper, key)
}

#[tokio::test(start_paused = true)]
async fn a_registered_key_opens_the_credential_of_its_issuer_and_owner_alone() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    let issued = log_in(&keeper, &key, "alice", "dune").await.unwrap();
    let token = &issued.token;
    assert_eq!(token.policies, ["default", "ssh", "tokenops"]);
    assert_eq!(token.display_name, "ssh-alice");
    assert_eq!(token.path, "auth/ssh/login");
    assert!(token.orphan && token.renewable && token.creation_ttl == Seconds(2_419_200));
    let meta: Vec<(&str, &str)> = token
        .meta
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        meta,
        [("group", "default"), ("issuer", "dune"), ("role", "alice")]
    );
    let by = bearer(&keeper, &issued.secret).await;
    access(&keeper, &by, "dune/alice:default").await.unwrap();
    let child = child(&keeper, &by).await;
    for token in [&issued, &child] {
        assert!(reads(&keeper, token, "dune/alice:default").await);
        for other in [
            "dune/alice:production",
            "dune/bob:default",
            "dune/alice/robot/host:default",
            "cms/alice:default",
        ] {
            assert!(!reads(&keeper, token, other).await, "{other}");
        }
        assert!(
            !may(
                &keeper,
                token,
                Operation::Update,
                "secret/oauth/creds/dune/alice:default"
            )
            .await
        );
        assert!(!may(&keeper, token, Operation::Update, "auth/ssh/role/alice").await);
    }
}

#[tokio::test(start_paused = true)]
async fn bypass_a_key_registered_at_one_issuer_opens_nothing_at_another() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    assert_eq!(
        refused(log_in(&keeper, &key, "alice", "cms").await),
        Refused::SshKey
    );
    // A login of the same key for dune, made beside it, gives nothing at cms either.
    let issued = log_in(&keeper, &key, "alice", "dune").await.unwrap();
    assert!(!reads(&keeper, &issued, "cms/alice:default").await);
    // Registered for both, it opens both, and neither login touches the other's token.
    let alice = bearer(&keeper, &login_at(&keeper, "cms").await.issued.secret).await;
    register(&keeper, &alice, "alice", &[&key], &[])
        .await
        .unwrap();
    let at_cms = log_in(&keeper, &key, "alice", "cms").await.unwrap();
    assert!(reads(&keeper, &at_cms, "cms/alice:default").await);
    assert!(!reads(&keeper, &at_cms, "dune/alice:default").await);
    assert!(reads(&keeper, &issued, "dune/alice:default").await);
    assert!(!reads(&keeper, &issued, "cms/alice:default").await);

    // Two issuers' alice are two people, also where something is delegated to one of them.
    assert_ne!(issued.token.entity, at_cms.token.entity);
    let (of_dune, of_cms) = (
        bearer(&keeper, &issued.secret).await,
        bearer(&keeper, &at_cms.secret).await,
    );
    let request = Delegate {
        to: Some("ssh/alice".to_owned()),
        limits: UseLimits::default(),
        bound_cidrs: Vec::new(),
        ttl: None,
        period: Seconds(0),
        note: String::new(),
        lasting: false,
    };
    let credential = cred("dune/alice:default");
    keeper
        .delegate(&of_dune, &credential, request)
        .await
        .unwrap();
    assert!(
        keeper
            .delegated(&of_dune, &credential)
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        keeper
            .delegated(&of_cms, &credential)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_let_keys_open_every_issuer_as_the_original_does() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    let (mut setup, _) = setup_of_two(&house);
    setup.ssh.as_mut().unwrap().cross_issuer = true;
    keeper.reconfigure(setup).await.unwrap();
    let issued = log_in(&keeper, &key, "alice", "cms").await.unwrap();
    assert!(reads(&keeper, &issued, "cms/alice:default").await);
}

#[tokio::test(start_paused = true)]
async fn bypass_a_replayed_nonce_logs_nobody_in() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    let nonce = nonce(&keeper).await;
    let signature = key.sign(&nonce);
    let again = || log_in_with(&keeper, &key, "alice", "dune", &nonce, &signature);
    // Several at the same moment, as two nodes would have them: one succeeds.
    let all = futures_util::future::join_all((0..5).map(|_| again())).await;
    let (good, not): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!(good.len(), 1);
    for outcome in not {
        assert_eq!(bad(outcome), BadInput::SshNonce);
    }
    assert_eq!(bad(again().await), BadInput::SshNonce);
    // Another node, or this one after a restart, knows it as well.
    keeper.drain(std::time::Duration::from_secs(1)).await;
    let other = house.open_with(setup_of_two(&house).0).await;
    let late = log_in_with(&other, &key, "alice", "dune", &nonce, &signature).await;
    assert_eq!(bad(late), BadInput::SshNonce);
}

#[tokio::test(start_paused = true)]
async fn a_nonce_lives_thirty_seconds_on_every_node() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    let nonce = nonce(&keeper).await;
    let signature = key.sign(&nonce);
    // A failed attempt does not spend it: it is the next key's turn.
    let wrong = log_in_with(&keeper, &key, "alice", "dune", &nonce, &[0; 64]).await;
    assert_eq!(bad(wrong).to_string(), "ssh: signature did not verify");
    house.pass(29).await;
    let other = house.open_with(setup_of_two(&house).0).await;
    log_in_with(&other, &key, "alice", "dune", &nonce, &signature)
        .await
        .unwrap();
    let late = self::nonce(&keeper).await;
    let signature = key.sign(&late);
    house.pass(30).await;
    let outcome = log_in_with(&keeper, &key, "alice", "dune", &late, &signature).await;
    assert_eq!(bad(outcome), BadInput::SshNonce);
}

#[tokio::test(start_paused = true)]
async fn bypass_what_was_not_signed_for_this_login_proves_nothing() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    // A signature over another nonce.
    let (one, two) = (nonce(&keeper).await, nonce(&keeper).await);
    let outcome = log_in_with(&keeper, &key, "alice", "dune", &one, &key.sign(&two)).await;
    assert_eq!(bad(outcome).to_string(), "ssh: signature did not verify");
    // Nonces that we did not make, and other secrets of ours in their place.
    for text in ["", "sn_", "7d0d6f1e-3a52-1b7c-9f1f-5a3c0d3f1b42", &one[3..]] {
        let outcome = log_in_with(&keeper, &key, "alice", "dune", text, &key.sign(text)).await;
        assert_eq!(bad(outcome), BadInput::SshNonce, "{text}");
    }
    let state = keeper.login_start(start("dune")).await.unwrap().state;
    let disguised = state.replacen("st_", "sn_", 1);
    let outcome = log_in_with(
        &keeper,
        &key,
        "alice",
        "dune",
        &disguised,
        &key.sign(&disguised),
    )
    .await;
    assert_eq!(bad(outcome), BadInput::SshNonce);
    // Somebody else's key.
    let foreign = AgentKey::new();
    assert_eq!(
        refused(log_in(&keeper, &foreign, "alice", "dune").await),
        Refused::SshKey
    );
    // The registered key shown, the foreign one used.
    let nonce = nonce(&keeper).await;
    let signature = foreign.sign(&nonce);
    let outcome = log_in_with(&keeper, &key, "alice", "dune", &nonce, &signature).await;
    assert_eq!(bad(outcome).to_string(), "ssh: signature did not verify");
}

#[tokio::test(start_paused = true)]
async fn bypass_nobody_registers_a_key_for_somebody_else() {
    let house = House::new(Rotation::Never);
    let (keeper, alices) = alice_registered(&house).await;
    let login = login(&house, &keeper, "mallory").await;
    let mallory = bearer(&keeper, &login.issued.secret).await;
    let key = AgentKey::new();
    assert!(matches!(
        refused(register(&keeper, &mallory, "alice", &[&key], &[]).await),
        Refused::Policy { .. }
    ));
    // Nor for an issuer of his choice.
    assert!(matches!(
        refused(register(&keeper, &mallory, "mallory", &[&key], &["cms"]).await),
        Refused::Policy { .. }
    ));
    // Nor with the token that stays on the disk, from which the right to register was dropped.
    let policies = vec!["oidc-dune_default".to_owned(), "tokenops".to_owned()];
    let request = CreateToken {
        policies: Some(policies),
        ..CreateToken::default()
    };
    let kept = keeper.create_token(&mallory, request, false).await.unwrap();
    let kept = bearer(&keeper, &kept.secret).await;
    assert!(
        register(&keeper, &kept, "mallory", &[&key], &[])
            .await
            .is_err()
    );
    // Nor with a token of an ssh login.
    let issued = log_in(&keeper, &alices, "alice", "dune").await.unwrap();
    let by = bearer(&keeper, &issued.secret).await;
    assert!(register(&keeper, &by, "alice", &[&key], &[]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn bypass_the_issuer_and_role_of_a_login_are_names_and_nothing_more() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    for issuer in ["*", "+", "dune/..", "dune/bob:default", ""] {
        let outcome = log_in(&keeper, &key, "alice", issuer).await;
        assert!(matches!(outcome, Err(Failure::BadInput(_))), "{issuer}");
    }
    for role in [
        "*",
        "alice/robot/host",
        "../alice",
        ".",
        "",
        "al ice",
        "alice\n",
    ] {
        let unknown = BadInput::UnknownRole {
            role: role.to_owned(),
        };
        assert_eq!(bad(log_in(&keeper, &key, role, "dune").await), unknown);
    }
    // What a client notes with its login does not become a fact for policies.
    let nonce = nonce(&keeper).await;
    let signature = key.sign(&nonce);
    let issued = keeper
        .ssh_login(SshLogin {
            role: "alice".into(),
            public_key: key.line(),
            signature: &signature,
            form: SshSignatureForm::Bare,
            nonce,
            metadata: [
                ("issuer", "dune"),
                ("group", "Default"),
                ("role", "bob"),
                ("domain", "@evil"),
                ("operator_rule", "dune groups=admins"),
                ("host", "laptop"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            from: None,
        })
        .await
        .unwrap();
    let identity = issued.token.identity.clone().unwrap();
    let facts: Vec<(String, String)> = identity.metadata.into_iter().collect();
    let fact = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(facts, [fact("group", "default"), fact("issuer", "dune")]);
    assert_eq!(identity.alias, "alice");
    assert_eq!(issued.token.meta["role"], "alice");
    assert_eq!(issued.token.meta["host"], "laptop");
    assert!(!reads(&keeper, &issued, "dune/alice@evil:default").await);
}

#[tokio::test(start_paused = true)]
async fn names_are_compared_without_case_and_kept_with_it() {
    let house = House::new(Rotation::Never);
    let keeper = house.open_with(setup(&house)).await;
    let login = login(&house, &keeper, "Alice.B@Lab").await;
    let alice = bearer(&keeper, &login.issued.secret).await;
    let key = AgentKey::new();
    register(&keeper, &alice, "Alice.B@Lab", &[&key], &[])
        .await
        .unwrap();
    assert_eq!(keeper.ssh_key_names().await.unwrap(), ["alice.b@lab"]);
    for role in ["Alice.B@Lab", "alice.b@lab"] {
        let issued = log_in(&keeper, &key, role, "dune").await.unwrap();
        assert!(reads(&keeper, &issued, "dune/Alice.B@Lab:default").await);
        assert!(!reads(&keeper, &issued, "dune/alice.b@lab:default").await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_machine_adds_its_keys_and_many_keys_lock_nobody_out() {
    let house = House::new(Rotation::Never);
    let (keeper, first) = alice_registered(&house).await;
    let login = login(&house, &keeper, "alice").await;
    let alice = bearer(&keeper, &login.issued.secret).await;
    let second = AgentKey::new();
    register(&keeper, &alice, "alice", &[&second], &[])
        .await
        .unwrap();
    for _ in 0..30 {
        let stranger = AgentKey::new();
        assert_eq!(
            refused(log_in(&keeper, &stranger, "alice", "dune").await),
            Refused::SshKey
        );
    }
    for key in [&first, &second] {
        log_in(&keeper, key, "alice", "dune").await.unwrap();
    }
    assert_eq!(keeper.ssh_keys("alice", None).await.unwrap().len(), 2);
    // An agent's keys that cannot be used here do not keep the others out.
    let request = RegisterSshKeys {
        name: "alice".into(),
        keys: vec![
            second.line(),
            "ssh-dss AAAAB3NzaC1kc3MAAAABBwAAAAEHAAAAAQcAAAABBw== old".into(),
        ],
        issuers: Vec::new(),
    };
    let parameters = Map::from_iter([("public_keys".to_owned(), json!([]))]);
    let granted = keeper
        .authorize(
            &alice,
            Operation::Update,
            "auth/ssh/role/alice",
            &parameters,
        )
        .unwrap();
    let left_out = keeper
        .register_ssh_keys(&alice, &granted, request)
        .await
        .unwrap();
    assert!(left_out[0].contains("ssh-dss"), "{left_out:?}");
    assert_eq!(keeper.ssh_keys("alice", None).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn owners_see_end_and_remove_their_own_keys() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    let issued = log_in(&keeper, &key, "alice", "dune").await.unwrap();
    let by = bearer(&keeper, &issued.secret).await;
    let path = "auth/ssh/keys/dune/alice";
    let granted = keeper
        .authorize(&by, Operation::Delete, path, &Map::new())
        .unwrap();
    for other in ["auth/ssh/keys/dune/bob", "auth/ssh/keys/cms/alice"] {
        for operation in [Operation::Read, Operation::Update, Operation::Delete] {
            assert!(!may(&keeper, &issued, operation, other).await, "{other}");
        }
    }
    let shown = &keeper.ssh_keys("alice", Some("dune")).await.unwrap()[0];
    assert_eq!(shown.used_at, Some(keeper.now()));
    assert_eq!(shown.issuer.as_deref(), Some("dune"));
    let print = shown.fingerprint.clone();
    assert_eq!(
        keeper.ssh_keys("alice", Some("cms")).await,
        Err(Failure::NotFound)
    );
    // An end can be brought nearer, not put off.
    let now = keeper.now();
    for (at, shown) in [(100, 100), (50, 50), (70, 50)] {
        keeper
            .expire_ssh_key(
                &by,
                &granted,
                "alice",
                "dune",
                &print,
                UnixSeconds(now.0 + at),
            )
            .await
            .unwrap();
        let end = keeper.ssh_keys("alice", Some("dune")).await.unwrap()[0].expires_at;
        assert_eq!(end, Some(UnixSeconds(now.0 + shown)));
    }
    house.pass(49).await;
    log_in(&keeper, &key, "alice", "dune").await.unwrap();
    house.pass(1).await;
    assert_eq!(
        refused(log_in(&keeper, &key, "alice", "dune").await),
        Refused::SshKey
    );
    let remove = async |fingerprint: &str| {
        keeper
            .remove_ssh_keys(&by, &granted, "alice", Some("dune"), Some(fingerprint))
            .await
    };
    assert_eq!(remove("SHA256:nothing").await, Err(Failure::NotFound));
    remove(&print).await.unwrap();
    assert_eq!(
        bad(log_in(&keeper, &key, "alice", "dune").await).to_string(),
        "role \"alice\" could not be found"
    );
}

#[tokio::test(start_paused = true)]
async fn an_administrators_keys_replace_all_and_name_issuers() {
    let house = House::new(Rotation::Never);
    let (keeper, old) = alice_registered(&house).await;
    let operator = operator(&keeper).await;
    let (one, all) = (AgentKey::new(), AgentKey::new());
    register(&keeper, &operator, "alice", &[&one], &["cms"])
        .await
        .unwrap();
    assert!(log_in(&keeper, &one, "alice", "cms").await.is_ok());
    for (key, issuer) in [(&one, "dune"), (&old, "dune")] {
        assert_eq!(
            refused(log_in(&keeper, key, "alice", issuer).await),
            Refused::SshKey
        );
    }
    register(&keeper, &operator, "alice", &[&all], &[])
        .await
        .unwrap();
    for issuer in ["dune", "cms"] {
        assert!(log_in(&keeper, &all, "alice", issuer).await.is_ok());
    }
    // Its owner cannot take away at one issuer what was given for all.
    let issued = log_in(&keeper, &all, "alice", "dune").await.unwrap();
    let by = bearer(&keeper, &issued.secret).await;
    let path = "auth/ssh/keys/dune/alice";
    let granted = keeper
        .authorize(&by, Operation::Delete, path, &Map::new())
        .unwrap();
    let outcome = keeper
        .remove_ssh_keys(&by, &granted, "alice", Some("dune"), None)
        .await;
    assert!(bad(outcome).to_string().contains("administrator"));
    let error = register(&keeper, &operator, "alice", &[&all], &["nowhere"]).await;
    assert!(matches!(bad(error), BadInput::UnknownIssuer { .. }));
    let error = register(&keeper, &operator, "alice/robot", &[&all], &[]).await;
    assert!(bad(error).to_string().contains("robots"));
}

#[tokio::test(start_paused = true)]
async fn keys_in_files_count_as_they_stand_there() {
    let house = House::new(Rotation::Never);
    let (mut setup, _) = setup_of_two(&house);
    let files = house.dir.path().join("keys");
    setup.ssh.as_mut().unwrap().authorized_keys = Some(files.clone());
    let keeper = house.open_with(setup).await;
    let (all, one, ended) = (AgentKey::new(), AgentKey::new(), AgentKey::new());
    std::fs::create_dir_all(files.join("dune")).unwrap();
    let write = |name: &str, text: String| {
        let path = files.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    };
    write("alice", format!("# laptop\n{}\n", all.line()));
    write(
        "dune/alice",
        format!(
            "restrict {}\nexpiry-time=\"20200101Z\" {}\n",
            one.line(),
            ended.line()
        ),
    );
    for issuer in ["dune", "cms"] {
        assert!(log_in(&keeper, &all, "alice", issuer).await.is_ok());
    }
    assert!(log_in(&keeper, &one, "alice", "dune").await.is_ok());
    for (key, issuer) in [(&one, "cms"), (&ended, "dune")] {
        assert_eq!(
            refused(log_in(&keeper, key, "alice", issuer).await),
            Refused::SshKey
        );
    }
    // A file is what says who they belong to, to the letter, and where they are taken away.
    assert!(matches!(
        bad(log_in(&keeper, &all, "Alice", "dune").await),
        BadInput::UnknownRole { .. }
    ));
    let operator = operator(&keeper).await;
    let granted = keeper
        .authorize(
            &operator,
            Operation::Delete,
            "auth/ssh/keys/dune/alice",
            &Map::new(),
        )
        .unwrap();
    let outcome = keeper
        .remove_ssh_keys(&operator, &granted, "alice", Some("dune"), None)
        .await;
    assert!(matches!(bad(outcome), BadInput::SshKeyInFile { .. }));
    assert_eq!(
        keeper.ssh_keys("alice", Some("dune")).await.unwrap().len(),
        3
    );
    // A file that others can write is not used, and that is no proof against anybody.
    std::fs::set_permissions(files.join("alice"), std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(
        kind(log_in(&keeper, &all, "alice", "cms").await),
        LaterKind::Store
    );
    // Another change of it counts at once.
    write("alice", "# nobody\n".into());
    assert!(matches!(
        bad(log_in(&keeper, &all, "alice", "cms").await),
        BadInput::UnknownRole { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_probe_names_the_first_key_that_would_do_and_nobody_else() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    let own = keeper.ssh_keys("alice", None).await.unwrap()[0]
        .fingerprint
        .clone();
    drop(key);
    let probe = async |role: &str, issuer: &str, prints: &[&str]| {
        let probe = SshProbe {
            role: role.to_owned(),
            issuer: issuer.to_owned(),
            fingerprints: prints.iter().map(|print| (*print).to_owned()).collect(),
        };
        keeper.ssh_challenge(Some(probe)).await.unwrap().acceptable
    };
    assert_eq!(
        probe("alice", "dune", &["SHA256:x", &own]).await,
        Some(own.clone())
    );
    for (role, issuer) in [
        ("alice", "cms"),
        ("bob", "dune"),
        ("a/b", "dune"),
        ("alice", "*"),
    ] {
        assert_eq!(probe(role, issuer, &[&own]).await, None, "{role} {issuer}");
    }
    assert_eq!(probe("alice", "dune", &["SHA256:x"]).await, None);
}

#[tokio::test(start_paused = true)]
async fn switched_off_for_less_than_a_week_keys_come_back() {
    for (days, back) in [(6, true), (7, false)] {
        let house = House::new(Rotation::Never);
        let (keeper, key) = alice_registered(&house).await;
        let off = Setup {
            ssh: None,
            ..setup_of_two(&house).0
        };
        keeper.reconfigure(off.clone()).await.unwrap();
        assert_eq!(
            bad(keeper.ssh_challenge(None).await),
            BadInput::SshNotConfigured
        );
        house
            .clock
            .pass(std::time::Duration::from_secs(days * 86_400));
        keeper.reconfigure(off).await.unwrap();
        keeper.reconfigure(setup_of_two(&house).0).await.unwrap();
        let outcome = log_in(&keeper, &key, "alice", "dune").await;
        assert_eq!(outcome.is_ok(), back, "{days} days: {outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn switched_off_by_an_error_keys_are_kept() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    let mut broken = Setup {
        ssh: None,
        ..setup_of_two(&house).0
    };
    broken.left_out.ssh = true;
    keeper.reconfigure(broken.clone()).await.unwrap();
    house
        .clock
        .pass(std::time::Duration::from_secs(30 * 86_400));
    keeper.reconfigure(broken).await.unwrap();
    keeper.reconfigure(setup_of_two(&house).0).await.unwrap();
    log_in(&keeper, &key, "alice", "dune").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_domain_may_follow_the_credkey_at_the_issuer_that_has_one() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    let (mut setup, _) = setup_of_two(&house);
    setup.ssh.as_mut().unwrap().domains =
        BTreeMap::from([("dune".to_owned(), "@lab.example".to_owned())]);
    keeper.reconfigure(setup).await.unwrap();
    let issued = log_in(&keeper, &key, "alice", "dune").await.unwrap();
    assert!(reads(&keeper, &issued, "dune/alice@lab.example:default").await);
    assert!(!reads(&keeper, &issued, "dune/alice@lab.example:production").await);
    assert!(reads(&keeper, &issued, "dune/alice:default").await);
}

#[tokio::test(start_paused = true)]
async fn keys_in_files_outlive_what_is_deleted_and_the_answer_names_the_file() {
    let house = House::new(Rotation::Never);
    let (mut setup, _) = setup_of_two(&house);
    let files = house.dir.path().join("keys");
    setup.ssh.as_mut().unwrap().authorized_keys = Some(files.clone());
    let keeper = house.open_with(setup).await;
    let (in_file, registered) = (AgentKey::new(), AgentKey::new());
    std::fs::create_dir_all(files.join("cms")).unwrap();
    let path = files.join("cms/alice");
    std::fs::write(&path, in_file.line()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let operator = operator(&keeper).await;
    let delete = async || {
        let path = "auth/ssh/role/alice";
        let granted = keeper
            .authorize(&operator, Operation::Delete, path, &Map::new())
            .unwrap();
        keeper
            .remove_ssh_keys(&operator, &granted, "alice", None, None)
            .await
    };
    let named = path.display().to_string();
    assert!(matches!(bad(delete().await), BadInput::SshKeyInFile { file } if file == named));
    // Registering replaces what is registered, and no file.
    let told = register(&keeper, &operator, "alice", &[&registered], &[])
        .await
        .unwrap();
    assert!(told.len() == 1 && told[0].contains(&named), "{told:?}");
    let told = delete().await.unwrap();
    assert!(told.len() == 1 && told[0].contains(&named), "{told:?}");
    assert!(log_in(&keeper, &in_file, "alice", "cms").await.is_ok());
    assert_eq!(
        refused(log_in(&keeper, &registered, "alice", "cms").await),
        Refused::SshKey
    );
    std::fs::remove_file(&path).unwrap();
    let told = register(&keeper, &operator, "alice", &[&registered], &[]).await;
    assert!(told.unwrap().is_empty());
    assert!(delete().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn switched_off_keys_are_kept_as_long_as_what_is_taken_out() {
    for (hours, back) in [(47, true), (48, false)] {
        let house = House::new(Rotation::Never);
        let (keeper, key) = alice_registered(&house).await;
        let mut on = setup_of_two(&house).0;
        on.keep_removed = Some(Seconds(48 * 3600));
        let off = Setup {
            ssh: None,
            ..on.clone()
        };
        keeper.reconfigure(off).await.unwrap();
        house
            .clock
            .pass(std::time::Duration::from_secs(hours * 3600));
        keeper.reconfigure(on).await.unwrap();
        let outcome = log_in(&keeper, &key, "alice", "dune").await;
        assert_eq!(outcome.is_ok(), back, "{hours} hours: {outcome:?}");
    }
}

/// A login from an address.
async fn log_in_from(keeper: &Keeper, key: &AgentKey, from: &str) -> Result<Issued, Failure> {
    let nonce = nonce(keeper).await;
    keeper
        .ssh_login(SshLogin {
            role: "alice".to_owned(),
            public_key: key.line(),
            signature: &key.sign(&nonce),
            form: SshSignatureForm::Bare,
            nonce,
            metadata: BTreeMap::from([
                ("issuer".to_owned(), "dune".to_owned()),
                ("group".to_owned(), "default".to_owned()),
            ]),
            from: Some(from.parse().unwrap()),
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn the_terms_of_a_role_hold_for_logins_with_a_key() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    let mut setup = setup_of_two(&house).0;
    setup.issuers[0].roles[0].terms = LoginTerms {
        ttl: Some(Seconds(3600)),
        max_ttl: Some(Seconds(5400)),
        bound_cidrs: vec!["192.0.2.0/28".parse().unwrap()],
        ..LoginTerms::default()
    };
    keeper.reconfigure(setup.clone()).await.unwrap();
    assert!(matches!(
        bad(log_in_from(&keeper, &key, "192.0.2.16").await),
        BadInput::AddressNotAllowed { .. }
    ));
    let issued = log_in_from(&keeper, &key, "192.0.2.9").await.unwrap();
    assert_eq!(issued.token.creation_ttl, Seconds(3600));
    let inside = Some("192.0.2.5".parse().unwrap());
    assert!(keeper.authenticate(&issued.secret, inside).await.is_ok());
    let outside = Some("192.0.2.16".parse().unwrap());
    assert_eq!(
        refused(keeper.authenticate(&issued.secret, outside).await),
        Refused::WrongAddress
    );
    house.clock.pass(std::time::Duration::from_secs(3000));
    let renewed = keeper.renew(&issued.token.id, Some(Seconds(3600)));
    assert_eq!(renewed.await.unwrap().ttl, Seconds(2400));

    setup.issuers[0].roles[0].terms = LoginTerms {
        period: Some(Seconds(600)),
        ..LoginTerms::default()
    };
    keeper.reconfigure(setup).await.unwrap();
    let issued = log_in(&keeper, &key, "alice", "dune").await.unwrap();
    assert_eq!(issued.token.creation_ttl, Seconds(600));
    for _ in 0..100 {
        house.clock.pass(std::time::Duration::from_secs(599));
        let renewed = keeper.renew(&issued.token.id, None).await.unwrap();
        assert_eq!(renewed.ttl, Seconds(600));
    }
}

#[tokio::test(start_paused = true)]
async fn people_of_one_name_at_two_issuers_have_a_quota_each() {
    let house = House::new(Rotation::Never);
    let (setup, cms) = setup_of_two(&house);
    cms.books().person = super::issuer::claims("alice");
    let keeper = house.open_with(setup).await;
    let dune = login(&house, &keeper, "alice").await;
    let dune = bearer(&keeper, &dune.issued.secret).await;
    let cms = bearer(&keeper, &login_at(&keeper, "cms").await.issued.secret).await;
    let keys: Vec<AgentKey> = (0..101).map(|_| AgentKey::new()).collect();
    let hundred: Vec<&AgentKey> = keys[..100].iter().collect();
    register(&keeper, &cms, "alice", &hundred, &[])
        .await
        .unwrap();
    register(&keeper, &dune, "alice", &[&keys[100]], &[])
        .await
        .unwrap();
    log_in(&keeper, &keys[100], "alice", "dune").await.unwrap();
    let more = bad(register(&keeper, &cms, "alice", &[&keys[100]], &[]).await);
    assert!(more.to_string().contains("at most 100"), "{more}");
    // Nor do long comments fill what they share.
    let request = RegisterSshKeys {
        name: "alice".into(),
        keys: vec![format!("{} {}", keys[0].line(), "x".repeat(4096))],
        issuers: Vec::new(),
    };
    let granted = keeper
        .authorize(
            &dune,
            Operation::Update,
            "auth/ssh/role/alice",
            &Map::from_iter([("public_keys".to_owned(), json!([]))]),
        )
        .unwrap();
    let long = bad(keeper.register_ssh_keys(&dune, &granted, request).await);
    assert!(long.to_string().contains("longer than 4 KiB"), "{long}");
}

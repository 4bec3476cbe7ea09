//! Logging in with a key: what opens what, for how long, and what cannot be brought in through the back.

use super::*;

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

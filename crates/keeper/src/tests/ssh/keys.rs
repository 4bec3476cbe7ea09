//! Whose key is whose: registering, listing, ending, removing, and those in files.

use gridkeep_identity::ssh::Key;

use super::*;

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
    // Nor is it when a client asks first which of its keys would do.
    let print = |key: &AgentKey| Key::parse(&key.line()).unwrap().fingerprint().to_owned();
    let probe = async |prints: Vec<String>, issuer: &str| {
        let probe = SshProbe {
            role: "alice".to_owned(),
            issuer: issuer.to_owned(),
            fingerprints: prints,
        };
        keeper.ssh_challenge(Some(probe)).await
    };
    let outcome = probe(vec![print(&all)], "dune").await;
    assert_eq!(kind(outcome), LaterKind::Store);
    let acceptable = probe(vec![print(&all), print(&one)], "dune").await.unwrap();
    assert_eq!(
        acceptable.acceptable,
        Some(print(&one)),
        "one that is known"
    );
    // Another change of it counts at once.
    write("alice", "# nobody\n".into());
    assert!(matches!(
        bad(log_in(&keeper, &all, "alice", "cms").await),
        BadInput::UnknownRole { .. }
    ));
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

#[tokio::test(start_paused = true)]
async fn people_of_one_name_at_two_issuers_have_a_quota_each() {
    let house = House::new(Rotation::Never);
    let (setup, cms) = setup_of_two(&house);
    cms.books().person = crate::tests::issuer::claims("alice");
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

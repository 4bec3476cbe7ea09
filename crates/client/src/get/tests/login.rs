//! The login in a browser.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::mock::{Machine, Ran, errors};
use crate::testserver::Act;

#[test]
fn first_login_and_the_run_after_it() {
    let machine = Machine::new().terminal();
    let ran = machine.run(&["-i", "dune"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let port = machine.server.address.port();
    assert_eq!(
        machine.lines(),
        [
            "POST /v1/auth/oidc-dune/oidc/auth_url",
            "POST /v1/auth/oidc-dune/oidc/poll",
            "POST /v1/auth/token/create",
            "POST /v1/secret/oauth/creds/dune/alice:default",
            "GET /v1/secret/oauth/creds/dune/alice:default?minimum_seconds=60",
        ]
    );
    let seen = machine.server.seen();
    assert!(seen[0].body.contains(&format!(
        r#""redirect_uri":"https://vault.example.org:{port}/v1/auth/oidc-dune/oidc/callback""#
    )));
    assert_eq!(
        seen[3].body,
        r#"{"refresh_token":"gkh.secret","server":"dune"}"#
    );
    assert_eq!(seen[3].headers["x-vault-token"], "hvs.secret2");
    assert!(seen.iter().all(|seen| seen.connection == 1));
    let uid = machine.environment.euid;
    let tmp = machine.environment.tmp.display();
    let config = machine.home().join(".config/htgettoken");
    assert_eq!(
        ran.out,
        format!(
            "Attempting OIDC authentication with https://vault.example.org:{port}\n\
             \n\
             Complete the authentication at:\n    https://idp.example.org/device?code=1\n\
             No web open command defined, please open the above in any web browser\n\
             Waiting for response in web browser\n\
             Storing vault token in {tmp}/vt_u{uid}\n\
             Saving credkey to {}/credkey-dune-default\n\
             Saving refresh token ... done\n\
             Attempting to get token from https://vault.example.org:{port} ... succeeded\n\
             Storing bearer token in {tmp}/bt_u{uid}\n",
            config.display()
        )
    );
    assert_eq!(ran.err, "");
    let credkey = config.join("credkey-dune-default");
    assert_eq!(machine.read(&credkey), "alice\n");
    assert_eq!(fs::metadata(&credkey).unwrap().mode() & 0o777, 0o600);
    let ran = machine.run(&["-i", "dune", "-q"]);
    assert_eq!((ran.code, machine.lines().len()), (0, 6));
}

#[test]
fn alias_and_credkey_are_used() {
    let machine = Machine::new().terminal();
    let ran = machine.run(&[
        "--vaultalias=cluster",
        "--credkey=bob/robot/host",
        "--vaulttokenttl=5d",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let seen = machine.server.seen();
    assert!(
        seen[0]
            .body
            .contains("https://cluster:8200/v1/auth/oidc-default/oidc/callback")
    );
    assert_eq!(seen[2].body, r#"{"renewable":"false","ttl":"432000s"}"#);
    assert_eq!(
        seen[3].path,
        "/v1/secret/oauth/creds/default/bob/robot/host:default"
    );
    assert!(
        !machine
            .home()
            .join(".config/htgettoken/credkey-default-default")
            .exists()
    );
}

#[test]
fn whoever_logs_in_counts_not_who_is_remembered() {
    let machine = Machine::warm().terminal();
    machine.state().tokens.clear();
    let file = machine
        .home()
        .join(".config/htgettoken/credkey-default-default");
    fs::write(&file, "former\n").unwrap();
    let ran = machine.run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(machine.read(&file), "alice\n");
    assert!(machine.lines().last().unwrap().contains("/alice:default"));
    assert_eq!(machine.run(&["-q"]).code, 0);
}

#[test]
fn which_vault_token_is_kept() {
    // Short enough and without powers over keys: the login's own.
    let machine = Machine::new().terminal();
    machine.state().lease = Some(604_800);
    assert_eq!(machine.run(&[]).code, 0);
    assert_eq!(machine.read(&machine.vault_token_file()), "hvs.secret1\n");
    // With powers over keys: a child with the other policies.
    let machine = Machine::new().terminal();
    machine.state().lease = Some(604_800);
    machine.state().policies = ["oidc-x", "sshregister-x", "tokenops"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(machine.run(&[]).code, 0);
    assert_eq!(machine.read(&machine.vault_token_file()), "hvs.secret2\n");
    assert_eq!(
        machine.server.seen()[2].body,
        r#"{"policies":["oidc-x","tokenops"],"renewable":"false","ttl":"604800s"}"#
    );
}

#[test]
fn prompt_is_shown_in_quiet_mode_and_on_standard_error_when_asked() {
    let machine = Machine::new().terminal();
    machine.state().user_code = Some("ABCD-EFGH".to_owned());
    let prompt = "\nComplete the authentication at:\n    https://idp.example.org/device?code=1\nand enter the code ABCD-EFGH\n";
    let ran = machine.run(&["-q"]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, prompt, "")
    );
    machine.state().tokens.clear();
    let ran = machine.run(&["-q", "--showbearerurl"]);
    let url = format!(
        "{}/v1/secret/oauth/creds/default/alice:default\n",
        machine.url()
    );
    assert_eq!((ran.code, ran.out, ran.err.as_str()), (0, url, prompt));
}

#[test]
fn without_terminal_nobody_is_asked() {
    let machine = Machine::new();
    let ran = machine.run(&[]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("there is no terminal") && ran.err.contains("no credkey is known"),
        "{ran:?}"
    );
    assert!(machine.lines().is_empty());
}

#[test]
fn pending_slow_down_and_trouble_on_the_way() {
    let mut machine = Machine::new().terminal();
    // The time for a login is not what this is about.
    machine.environment.timing.login_seconds = 60_000;
    machine.state().finished = false;
    machine.state().slow_down = 1;
    let state = std::sync::Arc::clone(&machine.state);
    let finisher = std::thread::spawn(move || {
        // Polls go on until the person is done; then it counts.
        loop {
            let mut state = state.lock().unwrap();
            if state.slow_down == 0 {
                state.instead.push((
                    "POST /v1/auth/oidc-default/oidc/poll".to_owned(),
                    errors(503, "busy"),
                ));
                break;
            }
            drop(state);
            std::thread::yield_now();
        }
        loop {
            let mut state = state.lock().unwrap();
            if state.logins == 1 {
                state.instead.clear();
                state.finished = true;
                break;
            }
        }
    });
    let ran = machine.run(&[]);
    finisher.join().unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn login_finished_late() {
    let machine = Machine::new().terminal();
    machine.state().finished = false;
    let ran = machine.run(&[]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.err,
        "htgettoken: Polling for response took longer than 2 minutes\n"
    );
    assert!(
        ran.out.ends_with("Waiting for response in web browser\n\n"),
        "{ran:?}"
    );
    machine.state().finished = true;
    let ran = machine.run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(machine.state().logins, 1);
    assert!(!ran.out.contains("Complete the authentication"));
    // It is gone then.
    machine.state().tokens.clear();
    assert_eq!(machine.run(&[]).code, 0);
    assert_eq!(machine.state().logins, 2);
}

#[test]
fn what_kept_a_login_from_ending_is_told() {
    let machine = Machine::new().terminal();
    let why = "the token issuer cannot be used at the moment";
    machine.instead("POST /v1/auth/oidc-default/oidc/poll", errors(503, why));
    let ran = machine.run(&[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let words =
        "htgettoken: Polling for response took longer than 2 minutes; the server last said: ";
    assert!(ran.err.starts_with(words), "{ran:?}");
    assert!(
        ran.err
            .ends_with(&format!("503 Service Unavailable: {why}\n")),
        "{ran:?}"
    );
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    assert!(!ran.out.contains(why), "{ran:?}");
}

#[test]
fn unfinished_login_is_private_and_forgotten_after_ten_minutes() {
    let mut machine = Machine::new().terminal();
    machine.state().finished = false;
    assert_eq!(machine.run(&["-q"]).err, "");
    let directory = machine.home().join(".config/htgettoken/gridkeep");
    let file = fs::read_dir(&directory)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
    machine.environment.now = std::sync::Arc::new(|| 1_800_000_600);
    machine.state().finished = true;
    assert_eq!(machine.run(&[]).code, 0);
    assert_eq!(machine.state().logins, 2);
}

#[test]
fn longer_wait_by_environment() {
    let mut machine = Machine::new().terminal();
    machine.state().finished = false;
    machine
        .environment
        .vars
        .insert("GRIDKEEP_LOGIN_TIMEOUT".into(), "3m".into());
    let ran = machine.run(&[]);
    assert_eq!(
        ran.err,
        "htgettoken: Polling for response took longer than 3 minutes\n"
    );
}

#[test]
fn logins_that_cannot_work() {
    let run = |prepare: &dyn Fn(&Machine), words: &[&str]| -> Ran {
        let machine = Machine::new().terminal();
        prepare(&machine);
        let ran = machine.run(words);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(!machine.bearer_file().exists());
        ran
    };
    let ran = run(
        &|machine| machine.state().auth_url = Some(String::new()),
        &[],
    );
    assert!(ran.err.contains("gave no URL"), "{ran:?}");
    for nonsense in ["[]", "7", "\"data\"", "null", r#"{"data":[]}"#] {
        let ran = run(
            &|machine| {
                machine.instead(
                    "POST /v1/auth/oidc-default/oidc/auth_url",
                    Act::json(200, nonsense),
                )
            },
            &[],
        );
        assert!(ran.err.contains("it has no data"), "{ran:?}");
    }
    let ran = run(
        &|machine| machine.state().refresh_token = Some(String::new()),
        &[],
    );
    assert!(ran.err.contains("no refresh token"), "{ran:?}");
    let ran = run(
        &|machine| {
            machine.instead(
                "POST /v1/auth/oidc-default/oidc/poll",
                errors(400, "authorization failed: access_denied"),
            )
        },
        &[],
    );
    assert!(
        ran.err.contains("authorization failed: access_denied"),
        "{ran:?}"
    );
    let ran = run(
        &|machine| {
            machine.instead(
                "POST /v1/auth/oidc-default/oidc/poll",
                Act::json(200, r#"{"auth":{"client_token":"t","lease_duration":5}}"#),
            )
        },
        &[],
    );
    assert!(ran.err.contains("no metadata"), "{ran:?}");
    let ran = run(
        &|machine| machine.instead("POST /v1/secret", errors(400, "refresh failed")),
        &[],
    );
    assert!(
        ran.err.contains("storing the refresh token at")
            && ran.err.contains("400 Bad Request: refresh failed"),
        "{ran:?}"
    );
    assert!(
        ran.out.ends_with("Saving refresh token ... failed\n\n"),
        "{ran:?}"
    );
}

#[test]
fn no_bearer_token_wanted() {
    let machine = Machine::warm().terminal();
    // Always a new vault token, and what the login gave is kept.
    let ran = machine.run(&["--nobearertoken"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(machine.state().logins, 1);
    assert_eq!(
        machine.state().stored["secret/oauth/creds/default/alice:default"],
        "gkh.secret"
    );
    assert!(!machine.bearer_file().exists());
    assert_ne!(machine.read(&machine.vault_token_file()), "hvs.secret\n");
    // With the URL: no request when there is a vault token, or none may be had.
    let before = machine.lines().len();
    let url = format!(
        "{}/v1/secret/oauth/creds/default/alice:default\n",
        machine.url()
    );
    let ran = machine.run(&["--nobearertoken", "--showbearerurl"]);
    assert_eq!((ran.code, &ran.out), (0, &url));
    fs::remove_file(machine.vault_token_file()).unwrap();
    fs::remove_dir_all(machine.home().join(".config/htgettoken/run")).unwrap();
    let ran = machine.run(&["--nobearertoken", "--showbearerurl", "--novaulttoken"]);
    assert_eq!((ran.code, &ran.out), (0, &url));
    assert_eq!(machine.lines().len(), before);
    let ran = machine.run(&["--nobearertoken", "--showbearerurl"]);
    assert_eq!((ran.code, &ran.out), (0, &url));
    assert_eq!(machine.state().logins, 2);
    // Without credkey there is no URL.
    let ran = machine.run(&["--nobearertoken", "--showbearerurl", "-i", "cms"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no credkey is known"), "{ran:?}");
}

#[test]
fn browser_is_started_with_the_url() {
    let mut machine = Machine::new().terminal();
    // What it writes is looked at, so that it is waited for until it ends.
    machine.environment.timing.browser = std::time::Duration::from_secs(60);
    let script = machine.directory.path().join("browser");
    fs::write(
        &script,
        "#!/bin/sh\necho noise\nprintf '%s' \"$#:$1:$BROWSER\" > \"$HOME/url\"\n",
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = machine.run(&["--web-open-command", script.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        machine.read(&machine.home().join("url")),
        "1:https://idp.example.org/device?code=1:no-browser"
    );
    assert!(!ran.out.contains("noise"));
    machine.state().tokens.clear();
    let ran = machine.run(&["-q", "--web-open-command", "/no/such/program"]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.out
            .contains("Could not open a browser (cannot run /no/such/program"),
        "{ran:?}"
    );
}

#[test]
fn fifty_runs_with_an_expired_vault_token() {
    let mut machine = Machine::warm().terminal();
    machine.environment.timing.lock = std::time::Duration::from_secs(60);
    machine.state().tokens.clear();
    machine.put(&machine.bearer_file(), "old\n");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let ran: Vec<Ran> = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let token = fs::read_to_string(machine.bearer_file()).unwrap();
                assert!(
                    token == "old\n" || token.ends_with("alice:default\n"),
                    "{token:?}"
                );
                std::thread::yield_now();
            }
        });
        let runs: Vec<_> = (0..50).map(|_| scope.spawn(|| machine.run(&[]))).collect();
        let ran: Vec<_> = runs
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap();
        ran.into_iter().map(Result::unwrap).collect()
    });
    for ran in ran {
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    assert!(machine.state().logins <= 3, "{}", machine.state().logins);
    let left = fs::read_dir(&machine.environment.tmp).unwrap();
    assert!(left.flatten().all(|entry| {
        !entry
            .file_name()
            .to_string_lossy()
            .starts_with(".htgettoken")
    }));
}

#[test]
fn nobody_is_sent_to_a_browser_to_register_keys_that_are_not_there() {
    let machine = Machine::warm().terminal();
    let ran = machine.run(&["--registerssh"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("$SSH_AUTH_SOCK names none"), "{ran:?}");
    let mut machine = Machine::warm().terminal();
    let nowhere = machine.environment.tmp.join("agent");
    machine
        .environment
        .vars
        .insert("SSH_AUTH_SOCK".into(), nowhere.into());
    let ran = machine.run(&["--registerssh"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no ssh-agent answers on"), "{ran:?}");
    assert!(machine.lines().is_empty());
}

#[test]
fn old_servers_without_state() {
    let mut machine = Machine::warm().terminal();
    // The whole login is one request, which a busy machine may answer late.
    machine.environment.timing.login_seconds = 60_000;
    machine.state().tokens.clear();
    machine.instead(
        "POST /v1/auth/oidc-default/oidc/auth_url",
        Act::json(
            200,
            r#"{"data":{"auth_url":"https://x/","device_code":"d"}}"#,
        ),
    );
    machine.instead(
        "POST /v1/auth/oidc-default/oidc/device_wait",
        errors(400, "authorization failed: expired_token"),
    );
    let ran = machine.run(&[]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("expired_token"), "{ran:?}");
    let body = machine.server.seen().pop().unwrap().body;
    assert!(
        body.contains(r#""role":"default""#) && body.contains(r#""device_code":"d""#),
        "{body}"
    );
}

//! Existing vault tokens: which are used, and what their refusal means.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::mock::{Machine, errors};
use crate::testserver::{AUTHORITY, Act, Server, fresh_ip, listener};

const READ: &str = "GET /v1/secret/oauth/creds/default/alice:default?minimum_seconds=60";
const LOOKUP: &str = "GET /v1/auth/token/lookup-self";

#[test]
fn warm_run_is_one_request() {
    let machine = Machine::warm();
    let ran = machine.run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(machine.lines(), [READ]);
    assert_eq!(
        machine.read(&machine.bearer_file()),
        "bearer.secret1.secret/oauth/creds/default/alice:default\n"
    );
    assert_eq!(
        fs::metadata(machine.bearer_file()).unwrap().mode() & 0o777,
        0o600
    );
    assert_eq!(machine.read(&machine.vault_token_file()), "hvs.secret\n");
}

#[test]
fn minimum_seconds_is_forwarded() {
    let machine = Machine::warm();
    machine.run(&[]);
    machine.run(&["--minsecs=900"]);
    assert!(machine.read(&machine.bearer_file()).contains("secret1"));
    machine.run(&["--minsecs=0x1000"]);
    assert!(machine.read(&machine.bearer_file()).contains("secret2"));
    assert!(machine.lines()[2].ends_with("minimum_seconds=4096"));
}

#[test]
fn reduced_tokens() {
    let machine = Machine::warm();
    let ran = machine.run(&["--scope", "storage.read:/,compute.read", "--audience=a b"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        machine.lines(),
        [
            "GET /v1/secret/oauth/sts/default/alice:default?minimum_seconds=60&scopes=storage.read%3A%2F%2Ccompute.read&audiences=a%2Cb"
        ]
    );
}

#[test]
fn minimum_life_of_the_vault_token() {
    // Conformance check 3: the token lives one day; two days are too much for it.
    let machine = Machine::warm().terminal();
    machine
        .state()
        .tokens
        .insert("hvs.secret".to_owned(), 86_400);
    let ran = machine.run(&["--vaulttokenttl=3d", "--vaulttokenminttl=2d"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(machine.lines()[0], LOOKUP);
    let new = machine.read(&machine.vault_token_file());
    assert_ne!(new, "hvs.secret\n");
    let before = machine.lines().len();
    assert_eq!(
        machine
            .run(&["--vaulttokenttl=3d", "--vaulttokenminttl=2d"])
            .code,
        0
    );
    assert_eq!(machine.read(&machine.vault_token_file()), new);
    assert_eq!(machine.lines()[before..], [LOOKUP, READ]);
    assert_eq!(machine.state().logins, 1);
}

#[test]
fn refused_vault_token_and_no_other_way() {
    let machine = Machine::warm();
    machine.state().tokens.clear();
    let ran = machine.run(&["--nooidc"]);
    assert_eq!(ran.code, 1);
    // What managed-tokens looks for, on one line.
    let line = ran.err.lines().last().unwrap();
    assert!(
        line.starts_with(&format!(
            "htgettoken: Failure getting token from {}: ",
            machine.url()
        )),
        "{line}"
    );
    assert!(
        line.contains("/v1/secret/oauth/creds/default/alice:default failed: HTTPError: 403 Forbidden: permission denied"),
        "{line}"
    );
    assert!(
        line.contains("no Kerberos ticket to use: there is no ticket") && line.contains("--nooidc")
    );
    assert_eq!(ran.err.lines().count(), 1);
    assert!(!machine.bearer_file().exists());
}

#[test]
fn temporary_trouble_sends_nobody_to_the_browser() {
    for (act, text) in [
        (
            errors(500, "internal"),
            "HTTPError: 500 Internal Server Error: internal",
        ),
        (
            errors(503, "Vault is sealed"),
            "HTTPError: 503 Service Unavailable: Vault is sealed",
        ),
        (errors(429, "quota"), "rate limited"),
        (Act::Drop, "no answer from"),
        (
            Act::Answer(
                307,
                vec![("location", "https://x/v1/".to_owned())],
                String::new(),
            ),
            "redirects to",
        ),
    ] {
        let machine = Machine::warm().terminal();
        machine.instead("GET /v1/secret", act);
        let ran = machine.run(&[]);
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains(text), "{ran:?}");
        assert!(!ran.err.contains("Kerberos"));
        assert_eq!(machine.state().logins, 0);
    }
}

#[test]
fn only_a_login_mends_a_missing_refresh_token() {
    for act in [
        errors(400, "refresh failed: invalid_grant"),
        Act::json(404, r#"{"errors":[]}"#),
    ] {
        let machine = Machine::warm().terminal();
        machine.instead("GET /v1/secret", act);
        let ran = machine.run(&["-v"]);
        assert_eq!(ran.code, 1);
        assert_eq!(machine.state().logins, 1);
        assert!(!ran.out.contains("Kerberos"), "{ran:?}");
    }
}

#[test]
fn no_login_mends_a_server_that_its_issuer_refuses() {
    for (error, mends) in [
        ("invalid_client: client authentication failed", false),
        ("unauthorized_client", false),
        ("invalid_grant: gone; log in again", true),
        ("invalid_grant: of another invalid_client", true),
    ] {
        let machine = Machine::warm();
        let text = format!("refresh failed: server rejected request: {error}");
        machine.instead("GET /v1/secret", errors(400, &text));
        let ran = machine.run(&["--nooidc"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(&text), "{ran:?}");
        assert_eq!(ran.err.contains("a new login is needed"), mends, "{ran:?}");
        let operators = ran.err.contains("the server's operators have to mend that");
        assert_eq!(operators, !mends, "{ran:?}");
    }
}

#[test]
fn strange_answers() {
    for (act, text) in [
        (Act::json(200, "<html>"), "the answer is not JSON"),
        (Act::json(200, "{}"), "it has no data.access_token"),
        (Act::json(202, "{}"), "HTTPError: 202 Accepted"),
    ] {
        let machine = Machine::warm();
        machine.instead("GET /v1/secret", act);
        let ran = machine.run(&[]);
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains(text), "{ran:?}");
    }
}

#[test]
fn exchange_mode() {
    let mut machine = Machine::warm();
    machine.input = " hvs.secret\n".to_owned();
    let file = machine.directory.path().join("vt");
    let file_option = format!("--vaulttokenfile={}", file.display());
    let words = [
        "--vaulttokeninfile=/dev/stdin",
        file_option.as_str(),
        "--showbearerurl",
        "-q",
        "--novaulttoken",
    ];
    let ran = machine.run(&words);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(machine.lines(), ["POST /v1/auth/token/create", READ]);
    assert_eq!(
        machine.server.seen()[0].headers["x-vault-token"],
        "hvs.secret"
    );
    assert_eq!(
        machine.server.seen()[0].body,
        r#"{"renewable":"false","ttl":"604800s"}"#
    );
    assert_eq!(machine.read(&file), "hvs.secret1\n");
    assert_eq!(
        ran.out,
        format!(
            "{}/v1/secret/oauth/creds/default/alice:default\n",
            machine.url()
        )
    );
    assert_eq!(ran.err, "");

    // The vault token is stored even if the bearer token cannot be read; with --nobearertoken it is not tried.
    fs::remove_file(&file).unwrap();
    machine.state().stored.clear();
    assert_eq!(machine.run(&words).code, 1);
    assert!(file.exists());
    let before = machine.lines().len();
    let ran = machine.run(&[
        "--vaulttokeninfile=/dev/stdin",
        &file_option,
        "--nobearertoken",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(machine.lines().len(), before + 1);

    // Nothing to exchange, and a token that is refused.
    machine.input = "\n".to_owned();
    let ran = machine.run(&words[..2]);
    assert_eq!(
        (
            ran.code,
            ran.err.contains("no vault token came from /dev/stdin")
        ),
        (1, true)
    );
    machine.input = "hvs.other".to_owned();
    let ran = machine.run(&words[..2]);
    assert!(
        ran.err.contains("creating a vault token at") && ran.err.contains("403"),
        "{ran:?}"
    );
}

#[test]
fn files_that_are_as_good_as_none() {
    let machine = Machine::warm();
    let empty = machine.directory.path().join("empty");
    machine.put(&empty, "\n");
    for file in ["", empty.to_str().unwrap(), "/no/such/file", "/"] {
        let ran = machine.run(&["--vaulttokeninfile", file]);
        assert_eq!(ran.code, 1);
        assert!(
            ran.err
                .contains("there is no vault token that could be used"),
            "{ran:?}"
        );
    }
    assert!(machine.lines().is_empty());
}

#[test]
fn managed_vault_token() {
    // Pushed by managed-tokens: mode 0400, named on the command line, replaced by nobody.
    let machine = Machine::warm();
    let file = machine.directory.path().join("vt");
    machine.put(&file, "hvs.secret");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    let ran = machine.run(&["--vaulttokenfile", file.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o400);
}

#[test]
fn doubtful_files_in_the_shared_directory_are_ignored() {
    let machine = Machine::warm();
    fs::set_permissions(
        machine.vault_token_file(),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let ran = machine.run(&[]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.out
            .contains(machine.vault_token_file().to_str().unwrap()),
        "{ran:?}"
    );
    assert!(machine.lines().is_empty());
    // The same file, named, is used with a note.
    let ran = machine.run(&[
        "-v",
        "--vaulttokeninfile",
        machine.vault_token_file().to_str().unwrap(),
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("note on"));
}

#[test]
fn token_of_the_storer_is_found_and_private_copy_preferred() {
    let machine = Machine::warm();
    machine.store("dune", "alice");
    fs::remove_file(machine.vault_token_file()).unwrap();
    let storers = machine
        .environment
        .tmp
        .join(format!("vt_u{}-dune", machine.environment.euid));
    machine.put(&storers, "hvs.secret");
    let ran = machine.run(&["-i", "dune", "--credkey", "alice"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = machine.run(&["-i", "dune", "-r", "x", "--credkey", "alice"]);
    assert_eq!(ran.code, 1, "{ran:?}");
}

#[test]
fn switching_between_issuers_logs_in_once_each() {
    let machine = Machine::warm().terminal();
    for round in 0..2 {
        for issuer in ["dune", "cms"] {
            let path = format!("secret/oauth/creds/{issuer}/alice:default");
            // The other issuer's vault token is refused here, as the real policies do.
            let ran = machine.run(&["-i", issuer]);
            assert_eq!(ran.code, 0, "{round} {ran:?}");
            assert!(machine.state().stored.contains_key(&path));
        }
    }
    assert_eq!(machine.state().logins, 2);
    let copies = crate::files::private_vault_tokens(
        &machine.environment,
        Some(&machine.home().join(".config/htgettoken")),
    );
    assert_eq!(copies.len(), 2);
    for copy in copies {
        assert_eq!(fs::metadata(copy).unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn somebody_elses_file_in_the_way() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let machine = Machine::warm().terminal();
    std::os::unix::fs::chown(machine.vault_token_file(), Some(12_345), None).unwrap();
    // Root may replace it all the same, so only reading is looked at: the token in it is not used.
    let ran = machine.run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        machine.lines()[0],
        "POST /v1/auth/oidc-default/oidc/auth_url"
    );
}

#[test]
fn default_file_cannot_be_written() {
    let machine = Machine::warm().terminal();
    fs::remove_file(machine.vault_token_file()).unwrap();
    fs::create_dir(machine.vault_token_file()).unwrap();
    let ran = machine.run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("it is kept in"), "{ran:?}");
    assert_eq!(machine.run(&[]).code, 0);
    assert_eq!(machine.state().logins, 1);
}

#[test]
fn three_addresses() {
    let mut machine = Machine::warm();
    let black_hole = listener(fresh_ip(), machine.server.address.port()).unwrap();
    let addresses = [
        fresh_ip(),
        black_hole.local_addr().unwrap().ip(),
        machine.server.address.ip(),
    ];
    machine.addresses(&addresses);
    // Whoever waited for the one that is silent would run into the limit of what needs no person.
    machine.environment.timing.read = std::time::Duration::from_secs(86_400);
    assert_eq!(machine.run(&[]).code, 0);
}

#[test]
fn options_from_a_server() {
    let machine = Machine::warm();
    let url = machine.url();
    let text = format!("-a {url} --credkey=nobody # a comment\n-i 'default' --minsecs 61");
    let web = Server::start_at(
        listener(fresh_ip(), 0).unwrap(),
        &AUTHORITY,
        move |seen| match seen.path.as_str() {
            "/htgettokenopts.txt" => Act::Answer(200, Vec::new(), text.clone()),
            "/quote" => Act::Answer(200, Vec::new(), "-i 'x".to_owned()),
            _ => Act::Answer(404, Vec::new(), "no such file".to_owned()),
        },
    );
    let host = web.address.to_string();
    let ca = crate::testserver::ca_file(machine.directory.path());
    let run = |server: &str| {
        machine.run_bare(&[
            "-s",
            server,
            "--cafile",
            ca.to_str().unwrap(),
            "--credkey=alice",
            "--optserver-cache",
        ])
    };
    let ran = run(&host);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(machine.lines()[0].ends_with("alice:default?minimum_seconds=61"));
    let ran = run(&format!("https://{host}/other"));
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("HTTPError: 404 Not Found: no such file"),
        "{ran:?}"
    );
    let ran = run(&format!("https://{host}/quote"));
    assert_eq!(ran.code, 2);
    assert!(
        ran.err
            .contains("a quotation (') is opened and never closed"),
        "{ran:?}"
    );
    assert_eq!(run(&format!("http://{host}/x")).code, 2);
    // The copy helps when the server is away.
    drop(web);
    let ran = run(&host);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn a_file_of_httokensh_is_used_only_if_nobody_else_can_have_put_it_there() {
    let machine = Machine::warm();
    let (tmp, euid) = (&machine.environment.tmp, machine.environment.euid);
    let planted = tmp.join(format!("vt_u{euid}.sh-0123456789abcdef0123456789abcdef"));
    machine.put(&planted, "hvs.secret");
    for option in ["--vaulttokenfile", "--vaulttokeninfile"] {
        let before = machine.lines().len();
        let mode = |mode| fs::set_permissions(&planted, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let ran = machine.run(&[option, planted.to_str().unwrap()]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert_eq!(
            machine.lines().len(),
            before,
            "its token is shown to nobody"
        );
        mode(0o600);
        let ran = machine.run(&[option, planted.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
}

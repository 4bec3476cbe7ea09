use super::testing::Server;
use super::*;
use gridkeep_token::jws::{Algorithm, SigningKey};
use gridkeep_token::time::Seconds;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const LIMIT: Duration = Duration::from_secs(20);
const NOW: UnixSeconds = UnixSeconds(1_900_000_000);

struct Case {
    server: Server,
    directory: tempfile::TempDir,
    environment: Environment,
}

impl Case {
    fn new() -> Case {
        let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
        let mut environment = Environment::current();
        environment.vars.clear();
        environment
            .vars
            .insert("HOME".into(), directory.path().into());
        let case = Case {
            server,
            directory,
            environment,
        };
        case.publish(&["k1"]);
        case
    }

    fn publish(&self, kids: &[&str]) {
        let url = self.server.url();
        self.server.answer(
            "/.well-known/openid-configuration",
            200,
            json!({"issuer": url, "jwks_uri": format!("{url}/jwks")}),
        );
        let keys = kids
            .iter()
            .map(|kid| {
                SigningKey::generate(Algorithm::Es256, kid)
                    .unwrap()
                    .public_jwk()
            })
            .collect();
        self.server
            .answer("/jwks", 200, JwkSet::new(keys).to_json());
    }

    fn trust(&self) -> TrustSources {
        TrustSources {
            bundle: Some(self.server.cafile(self.directory.path())),
            directory: None,
        }
    }

    /// Asks as a new process would: nothing is shared but the file.
    fn ask(&self, kid: &str, after: Seconds) -> Result<Vec<String>, String> {
        let keys = FetchedKeys::new(&self.environment, self.trust());
        let set = keys
            .keys(&self.server.url(), Some(kid), NOW.plus(after))
            .map_err(|error| error.to_string())?;
        Ok(set
            .keys()
            .iter()
            .map(|key| key.kid().unwrap().to_owned())
            .collect())
    }

    fn requests(&self) -> usize {
        self.server.seen().len()
    }

    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let directory = self.directory.path().join(".cache/gridkeep/jwks");
        let files = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path());
        files
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == Path::new(ending).as_os_str())
            })
            .collect()
    }
}

#[test]
fn keys_are_fetched_once_and_kept_for_six_hours() {
    let case = Case::new();
    assert_eq!(case.ask("k1", Seconds(0)).unwrap(), ["k1"]);
    assert_eq!(
        case.server.lines(),
        ["GET /.well-known/openid-configuration", "GET /jwks"]
    );
    assert_eq!(case.ask("k1", Seconds(6 * 3600 - 1)).unwrap(), ["k1"]);
    assert_eq!(case.requests(), 0);
    assert_eq!(case.ask("k1", Seconds::hours(6)).unwrap(), ["k1"]);
    assert_eq!(case.requests(), 2);
    let files = case.files("json");
    assert_eq!(files.len(), 1);
    assert_eq!(
        fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(files[0].parent().unwrap())
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
}

#[test]
fn an_outage_of_two_days_does_no_harm_and_a_longer_one_does() {
    let case = Case::new();
    case.ask("k1", Seconds(0)).unwrap();
    case.server.answer("/jwks", 503, "{}");
    assert_eq!(case.ask("k1", Seconds::hours(47)).unwrap(), ["k1"]);
    let error = case.ask("k1", Seconds::hours(49)).unwrap_err();
    assert!(
        error.contains("/jwks cannot be read") && error.contains("503"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_is_looked_for_once_a_minute_across_processes() {
    let case = Case::new();
    case.ask("k1", Seconds(0)).unwrap();
    case.requests();
    assert_eq!(case.ask("k9", Seconds(59)).unwrap(), ["k1"]);
    assert_eq!(
        case.requests(),
        0,
        "the fetch a minute ago was asking already"
    );
    assert_eq!(case.ask("k9", Seconds(120)).unwrap(), ["k1"]);
    assert_eq!(case.requests(), 2);
    assert_eq!(case.ask("k9", Seconds(150)).unwrap(), ["k1"]);
    assert_eq!(case.requests(), 0);
    case.publish(&["k1", "k9"]);
    assert_eq!(case.ask("k9", Seconds(180)).unwrap(), ["k1", "k9"]);
    case.requests();
    case.server.answer("/jwks", 500, "{}");
    assert_eq!(case.ask("k8", Seconds(300)).unwrap(), ["k1", "k9"]);
    case.requests();
    assert_eq!(case.ask("k8", Seconds(330)).unwrap(), ["k1", "k9"]);
    assert_eq!(case.requests(), 0, "a failed attempt counts too");
}

#[test]
fn a_file_that_others_could_have_written_is_not_believed() {
    let case = Case::new();
    case.ask("k1", Seconds(0)).unwrap();
    case.requests();
    let file = case.files("json").remove(0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    case.ask("k1", Seconds(1)).unwrap();
    assert_eq!(case.requests(), 2);
    for text in [
        "",
        "{",
        "{}",
        r#"{"issuer":"https://other.example.org","attempted":1,"keys":{}}"#,
    ] {
        fs::write(&file, text).unwrap();
        case.ask("k1", Seconds(2)).unwrap();
        assert_eq!(case.requests(), 2, "{text:?}");
    }
}

#[test]
fn keys_vouched_for_by_other_authorities_are_not_shared() {
    let case = Case::new();
    case.ask("k1", Seconds(0)).unwrap();
    let nobody = case.directory.path().join("nobody.pem");
    fs::write(&nobody, "").unwrap();
    let trust = TrustSources {
        bundle: Some(nobody),
        directory: None,
    };
    let keys = FetchedKeys::new(&case.environment, trust);
    assert!(keys.keys(&case.server.url(), Some("k1"), NOW).is_err());
    assert_eq!(case.files("json").len(), 1);
}

#[test]
fn without_a_place_for_files_keys_still_come() {
    let mut case = Case::new();
    case.environment
        .vars
        .insert("XDG_CACHE_HOME".into(), "/dev/null/nowhere".into());
    assert_eq!(case.ask("k1", Seconds(0)).unwrap(), ["k1"]);
    assert_eq!(case.requests(), 2);
}

#[test]
fn the_fallback_addresses_are_tried_when_the_server_says_no() {
    let case = Case::new();
    let issuer = format!("{}/t/1", case.server.url());
    let document = json!({"issuer": issuer, "jwks_uri": format!("{}/jwks", case.server.url())});
    case.server
        .answer("/.well-known/oauth-authorization-server/t/1", 200, document);
    assert!(fetch(&issuer, &case.trust(), &case.environment, LIMIT).is_ok());
    assert_eq!(
        case.server.lines(),
        [
            "GET /t/1/.well-known/openid-configuration",
            "GET /.well-known/openid-configuration/t/1",
            "GET /.well-known/oauth-authorization-server/t/1",
            "GET /jwks"
        ]
    );
    let nothing = fetch(
        &format!("{}/u", case.server.url()),
        &case.trust(),
        &case.environment,
        LIMIT,
    )
    .unwrap_err();
    assert!(
        nothing
            .to_string()
            .contains("/u/.well-known/openid-configuration cannot be read"),
        "{nothing}"
    );
}

#[test]
fn an_issuer_that_is_not_there_is_named() {
    let case = Case::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = fetch(&issuer, &case.trust(), &case.environment, LIMIT).unwrap_err();
    assert!(matches!(error, FetchError::Unreachable { .. }));
    assert!(error.to_string().contains(&issuer), "{error}");
}

#[test]
fn a_usable_copy_does_not_wait_for_another_command() {
    let case = Case::new();
    case.ask("k1", Seconds(0)).unwrap();
    case.requests();
    let other = gridkeep_token::file::lock(&case.files("lock")[0], Duration::ZERO).unwrap();
    assert_eq!(case.ask("k1", Seconds::hours(7)).unwrap(), ["k1"]);
    assert_eq!(case.requests(), 0);
    drop(other);
    case.ask("k1", Seconds::hours(7)).unwrap();
    assert_eq!(case.requests(), 2);
}

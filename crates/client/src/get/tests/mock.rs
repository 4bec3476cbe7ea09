//! A Vault-like server with one issuer, and a user's machine to run `htgettoken` on.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::environment::{Environment, Streams};
use crate::testserver::{Act, NAME, Names, Seen, Server, ca_file, environment};

/// What the server knows and is told to do.
#[derive(Default)]
pub(super) struct State {
    /// Vault tokens and how long they still live.
    pub(super) tokens: HashMap<String, u64>,
    /// What is stored, by path below `/v1/`.
    pub(super) stored: HashMap<String, String>,
    /// How long the cached bearer token lives, seconds.
    pub(super) cached_life: u64,
    pub(super) bearers: u32,
    pub(super) logins: u32,
    /// Whether the person has finished.
    pub(super) finished: bool,
    pub(super) slow_down: u32,
    /// Answers to give instead, by the beginning of `METHOD /path`.
    pub(super) instead: Vec<(String, Act)>,
    pub(super) lease: Option<u64>,
    pub(super) policies: Vec<String>,
    pub(super) refresh_token: Option<String>,
    pub(super) auth_url: Option<String>,
    pub(super) user_code: Option<String>,
    next: u32,
}

impl State {
    fn mint(&mut self, life: u64) -> String {
        self.next += 1;
        let token = format!("hvs.secret{}", self.next);
        self.tokens.insert(token.clone(), life);
        token
    }

    fn answer(&mut self, seen: &Seen) -> Act {
        let line = format!("{} {}", seen.method, seen.path);
        if let Some((_, act)) = self
            .instead
            .iter()
            .find(|(start, _)| line.starts_with(start))
        {
            return act.clone();
        }
        let path = seen.path.strip_prefix("/v1/").unwrap_or_default();
        if path.ends_with("/oidc/auth_url") {
            return self.begin(&parse(seen));
        }
        if path.ends_with("/oidc/poll") {
            return self.poll(&parse(seen));
        }
        let token = seen
            .headers
            .get("x-vault-token")
            .cloned()
            .unwrap_or_default();
        let Some(life) = self.tokens.get(&token).copied() else {
            return errors(403, "permission denied");
        };
        match (seen.method.as_str(), path) {
            ("GET", "auth/token/lookup-self") => Act::json(200, json!({"data": {"ttl": life}})),
            ("POST", "auth/token/create") => {
                let body = parse(seen);
                assert_eq!(body["renewable"], "false");
                let ttl = body["ttl"]
                    .as_str()
                    .unwrap()
                    .strip_suffix('s')
                    .unwrap()
                    .parse()
                    .unwrap();
                let child = self.mint(ttl);
                let auth = json!({"client_token": child, "lease_duration": ttl, "policies": body["policies"]});
                Act::json(200, json!({"auth": auth}))
            }
            ("POST", path) => {
                let body = parse(seen);
                assert!(path.contains(&format!("/{}/", body["server"].as_str().unwrap())));
                let refresh_token = body["refresh_token"].as_str().unwrap().to_owned();
                self.stored.insert(path.to_owned(), refresh_token);
                Act::Answer(204, Vec::new(), String::new())
            }
            ("GET", path) => self.bearer(path, &seen.query),
            _ => errors(405, "unsupported operation"),
        }
    }

    fn bearer(&mut self, path: &str, query: &str) -> Act {
        if !self
            .stored
            .contains_key(&path.replacen("/sts/", "/creds/", 1))
        {
            return Act::json(404, json!({"errors": []}));
        }
        let minimum: u64 = query
            .strip_prefix("minimum_seconds=")
            .and_then(|rest| rest.split('&').next())
            .unwrap()
            .parse()
            .unwrap();
        if self.bearers == 0 || minimum > self.cached_life {
            self.bearers += 1;
        }
        let token = format!("bearer.secret{}.{path}", self.bearers);
        Act::json(
            200,
            json!({"data": {"access_token": token, "type": "Bearer"}}),
        )
    }

    fn begin(&mut self, body: &Value) -> Act {
        assert_eq!(body["client_nonce"].as_str().unwrap().len(), 43);
        self.logins += 1;
        let mut data = json!({
            "auth_url": self.auth_url.clone().unwrap_or_else(|| "https://idp.example.org/device?code=1".to_owned()),
            "state": format!("st_secret-{}", self.logins),
            "poll_interval": "3",
            "extra": {"sent": "back"},
        });
        if let Some(code) = &self.user_code {
            data["user_code"] = json!(code);
        }
        Act::json(200, json!({"data": data}))
    }

    fn poll(&mut self, body: &Value) -> Act {
        if body["extra"]["sent"] != "back"
            || body["client_nonce"].as_str().map(str::len) != Some(43)
            || !body["state"].as_str().unwrap().starts_with("st_secret-")
        {
            return errors(400, "invalid client_nonce");
        }
        if self.slow_down > 0 {
            self.slow_down -= 1;
            return errors(400, "slow_down");
        }
        if !self.finished {
            return errors(400, "authorization_pending");
        }
        let lease = self.lease.unwrap_or(2_419_200);
        let client_token = self.mint(lease);
        Act::json(
            200,
            json!({"auth": {
                "client_token": client_token,
                "lease_duration": lease,
                "policies": self.policies,
                "metadata": {
                    "credkey": "alice",
                    "oauth2_refresh_token": self.refresh_token.as_deref().unwrap_or("gkh.secret"),
                },
            }}),
        )
    }
}

fn parse(seen: &Seen) -> Value {
    serde_json::from_str(&seen.body).unwrap()
}

pub(super) fn errors(status: u16, text: &str) -> Act {
    Act::json(status, json!({"errors": [text]}))
}

/// Where `htgettoken` runs, and the server it talks to.
pub(super) struct Machine {
    pub(super) directory: tempfile::TempDir,
    pub(super) environment: Environment,
    pub(super) server: Server,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) input: String,
}

/// What a run left.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Machine {
    /// A server where nobody has logged in yet.
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(Mutex::new(State {
            cached_life: 3600,
            finished: true,
            policies: vec!["oidc-default_default".to_owned(), "tokenops".to_owned()],
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let server = Server::start(move |seen| shared.lock().unwrap().answer(seen));
        let mut environment = environment(directory.path());
        ca_file(directory.path());
        environment.resolver = Arc::new(Names::of(&[server.address.ip()]));
        Self {
            directory,
            environment,
            server,
            state,
            input: String::new(),
        }
    }

    /// The same, with a credential stored for alice, her credkey remembered and a vault token in the usual place.
    pub(super) fn warm() -> Self {
        let machine = Self::new();
        machine.store("default", "alice");
        machine
            .state()
            .tokens
            .insert("hvs.secret".to_owned(), 600_000);
        let config = machine.home().join(".config/htgettoken");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("credkey-default-default"), "alice\n").unwrap();
        machine.put(&machine.vault_token_file(), "hvs.secret\n");
        machine
    }

    pub(super) fn store(&self, issuer: &str, credkey: &str) {
        let path = format!("secret/oauth/creds/{issuer}/{credkey}:default");
        self.state()
            .stored
            .insert(path, "refresh.secret".to_owned());
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn instead(&self, start: &str, act: Act) {
        self.state().instead.push((start.to_owned(), act));
    }

    pub(super) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub(super) fn url(&self) -> String {
        format!("https://{NAME}:{}", self.server.address.port())
    }

    pub(super) fn vault_token_file(&self) -> PathBuf {
        self.environment
            .tmp
            .join(format!("vt_u{}", self.environment.euid))
    }

    pub(super) fn bearer_file(&self) -> PathBuf {
        self.environment
            .tmp
            .join(format!("bt_u{}", self.environment.euid))
    }

    pub(super) fn read(&self, path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    /// A file with mode 0600.
    pub(super) fn put(&self, path: &Path, content: &str) {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .unwrap();
        file.write_all(content.as_bytes()).unwrap();
    }

    pub(super) fn terminal(mut self) -> Self {
        self.environment.terminals.stderr = true;
        self
    }

    pub(super) fn addresses(&mut self, addresses: &[IpAddr]) {
        self.environment.resolver = Arc::new(Names::of(addresses));
    }

    /// Runs with the server, the authority and no browser given, and further words.
    pub(super) fn run(&self, words: &[&str]) -> Ran {
        let url = self.url();
        let ca = ca_file(self.directory.path());
        let mut all = vec![
            "-a",
            url.as_str(),
            "--cafile",
            ca.to_str().unwrap(),
            "--web-open-command=",
        ];
        all.extend(words);
        self.run_bare(&all)
    }

    pub(super) fn run_bare(&self, words: &[&str]) -> Ran {
        let args: Vec<std::ffi::OsString> = words.iter().map(Into::into).collect();
        let mut input = self.input.as_bytes();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = super::super::run(
            &args,
            &self.environment,
            &mut Streams {
                input: &mut input,
                out: &mut out,
                err: &mut err,
            },
        );
        Ran {
            code,
            out: String::from_utf8(out).unwrap(),
            err: String::from_utf8(err).unwrap(),
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.server.lines()
    }
}

//! htdestroytoken: removes the tokens on this machine and, where asked, the refresh token on the server.
//!
//! Owns the order (first the server, then the files, so that a failure loses nothing) and its exit codes. The path on the server
//! comes from htgettoken, which is given to it; it refuses to work one out itself. A further thing to destroy is one more step in `run_with`.

use crate::environment::{Environment, Streams};
use crate::files::{self, Keep};
use crate::get::settings::VAULT_PORT;
use crate::http::{Client, NoLog, ServerUrl, Target, TrustSources};
use crate::options::{self, Key, Options, Parsed};
use crate::sh::{Get, canonical, htgettoken};
use crate::vault::Vault;
use gridkeep_token::file::{ReadPolicy, read_secret};
use secrecy::SecretString;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

const USAGE: &str = "\
Usage: htdestroytoken [-h] [-q] [-f [htgettoken options]]
                      [--revoke-vault-token [htgettoken options]]

Removes the bearer token and the vault token of this machine.
  -h   show this text
  -q   say nothing but errors
  -f   first delete the refresh token on the server, with the vault token. The
       options of htgettoken that name server, issuer and role follow, or stand
       in $HTGETTOKENOPTS
  --revoke-vault-token
       end the vault token on the server too, so that copies of it are worthless
The bearer token is the file $BEARER_TOKEN_FILE, else
${XDG_RUNTIME_DIR:-/tmp}/bt_u<uid>; the vault token is $VAULT_TOKEN_FILE, else
/tmp/vt_u<uid>.
";

/// Limit of each request to the server.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

const USAGE_CODE: i32 = 2;
const SERVER_CODE: i32 = 3;

/// The command's own options, and the words meant for htgettoken.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words {
    quiet: bool,
    refresh: bool,
    revoke: bool,
    rest: Vec<OsString>,
}

impl Words {
    fn parse(args: &[OsString]) -> Option<Words> {
        let mut words = Words::default();
        for arg in args {
            match arg.to_str() {
                Some("-f") => words.refresh = true,
                Some("--revoke-vault-token") => words.revoke = true,
                Some("-q") => words.quiet = true,
                Some("-h") => return None,
                _ if words.refresh || words.revoke => words.rest.push(arg.clone()),
                _ => return None,
            }
        }
        Some(words)
    }
}

/// Why the server was not made to forget.
#[derive(Debug)]
enum Failure {
    /// A message for in front of the usage; exit code 2.
    Usage(String),
    /// The options of htgettoken are wrong; exit code 2.
    Options(options::UsageError),
    /// The server, or the way to it; exit code 3.
    Server(String),
}

/// Runs htdestroytoken; `args` are the words after the program's name, the answer its exit code as of [`run_with`].
#[must_use]
pub fn run(args: &[OsString], environment: &Environment, streams: &mut Streams<'_>) -> i32 {
    run_with(args, environment, streams, &htgettoken())
}

/// Runs htdestroytoken with `get` as htgettoken; `args` are the words after the program's name.
///
/// The answer is the exit code: 0 done, 1 a file could not be removed, 2 usage, 3 the server could not be made to forget (then
/// no file was removed).
pub fn run_with(
    args: &[OsString],
    environment: &Environment,
    streams: &mut Streams<'_>,
    get: &Get,
) -> i32 {
    let Some(words) = Words::parse(args) else {
        let _ = streams.err.write_all(USAGE.as_bytes());
        return USAGE_CODE;
    };
    let files = Files::of(environment);
    if words.refresh || words.revoke {
        if files.may_hold_vault_token(environment) {
            if let Err(failure) = forget(&words, &files, environment, streams, get) {
                return refuse(failure, streams);
            }
        } else {
            let _ = writeln!(
                streams.err,
                "htdestroytoken: nothing was deleted on the server: there is no vault token in {} to do it with",
                files.vault.display()
            );
        }
    }
    let mut code = 0;
    for file in files.all(&words, environment) {
        if let Err(error) = remove(&file, words.quiet, streams) {
            let _ = writeln!(
                streams.err,
                "htdestroytoken: {} cannot be removed: {error}",
                file.display()
            );
            code = 1;
        }
    }
    code
}

fn refuse(failure: Failure, streams: &mut Streams<'_>) -> i32 {
    match failure {
        Failure::Usage(text) => {
            let _ = writeln!(streams.err, "htdestroytoken: {text}");
            let _ = streams.err.write_all(USAGE.as_bytes());
            USAGE_CODE
        }
        Failure::Options(error) => {
            let _ = error.write(streams.err);
            USAGE_CODE
        }
        Failure::Server(text) => {
            let _ = writeln!(streams.err, "htdestroytoken: {text}");
            SERVER_CODE
        }
    }
}

fn remove(file: &Path, quiet: bool, streams: &mut Streams<'_>) -> io::Result<()> {
    if !fs::metadata(file).is_ok_and(|meta| meta.is_file()) {
        return Ok(());
    }
    if !quiet {
        let _ = writeln!(streams.out, "Removing {}", file.display());
    }
    match fs::remove_file(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The places of the tokens.
struct Files {
    bearer: PathBuf,
    vault: PathBuf,
    /// The vault token's name as the user gave it.
    vault_given: Option<OsString>,
}

impl Files {
    fn of(environment: &Environment) -> Files {
        let uid = environment.euid.to_string();
        let given = |name: &str| environment.var_os(name).filter(|value| !value.is_empty());
        let bearer = match given("BEARER_TOKEN_FILE") {
            Some(name) => name.to_str().map_or_else(
                || name.into(),
                |name| PathBuf::from(name.replace("%uid", &uid)),
            ),
            None => given("XDG_RUNTIME_DIR")
                .map_or_else(|| environment.tmp.clone(), PathBuf::from)
                .join(format!("bt_u{uid}")),
        };
        let vault_given = given("VAULT_TOKEN_FILE").map(OsString::from);
        let vault = vault_given
            .as_ref()
            .map_or_else(|| environment.tmp.join(format!("vt_u{uid}")), PathBuf::from);
        Files {
            bearer: environment.absolute(&bearer),
            vault: environment.absolute(&vault),
            vault_given,
        }
    }

    /// Whether there is anything to talk to the server with.
    fn may_hold_vault_token(&self, environment: &Environment) -> bool {
        let private = || {
            files::private_vault_tokens(
                environment,
                files::config_dir(None, environment).as_deref(),
            )
        };
        fs::metadata(&self.vault).is_ok_and(|meta| meta.is_file())
            || (self.vault_given.is_none() && !private().is_empty())
    }

    /// The vault tokens for `url`, the likeliest first: the default file holds the last one obtained, perhaps for another role.
    fn vault_tokens(
        &self,
        url: &str,
        options: &Options,
        environment: &Environment,
    ) -> Result<Vec<SecretString>, Failure> {
        let mut places = Vec::new();
        if self.vault_given.is_some() {
            places.push((self.vault.clone(), ReadPolicy::Named));
        } else {
            let server = split_url(url).map_or("", |(server, _)| server);
            let config_dir = files::config_dir(options.configdir.as_deref(), environment);
            let keep = Keep::new(
                config_dir,
                server,
                &options.issuer,
                &options.role,
                environment,
            );
            let credkey = options
                .credkey
                .clone()
                .or_else(|| keep.credkey().map(|(credkey, _)| credkey));
            places.extend(
                credkey
                    .and_then(|credkey| keep.private_vault_token(&credkey))
                    .map(|path| (path, ReadPolicy::DefaultLocation)),
            );
            places.push((self.vault.clone(), ReadPolicy::DefaultLocation));
        }
        let (mut tokens, mut reason) = (
            Vec::new(),
            format!("there is no vault token in {}", self.vault.display()),
        );
        for (path, policy) in places {
            match read_secret(&path, policy) {
                Ok(token) => tokens.extend(token),
                Err(error) => reason = error.to_string(),
            }
        }
        if tokens.is_empty() {
            Err(Failure::Server(reason))
        } else {
            Ok(tokens)
        }
    }

    /// Everything to remove: also the private copies of vault tokens, else the next htgettoken would find one of them.
    fn all(&self, words: &Words, environment: &Environment) -> Vec<PathBuf> {
        let options = match options::words(&words.rest, environment)
            .and_then(|words| options::parse(&words))
        {
            Ok(Parsed::Run(options)) => *options,
            _ => Options::default(),
        };
        let mut all = vec![self.bearer.clone(), self.vault.clone()];
        all.extend(files::private_vault_tokens(
            environment,
            files::config_dir(options.configdir.as_deref(), environment).as_deref(),
        ));
        all
    }
}

/// Makes the server forget what was asked for.
fn forget(
    words: &Words,
    files: &Files,
    environment: &Environment,
    streams: &mut Streams<'_>,
    get: &Get,
) -> Result<(), Failure> {
    let mut given = options::words(&words.rest, environment).map_err(Failure::Options)?;
    if given.is_empty() {
        return Err(Failure::Usage("no htgettoken options were given".into()));
    }
    if let Some(name) = &files.vault_given {
        given.push(format!("--vaulttokenfile={}", name.to_string_lossy()));
    }
    let Parsed::Run(parsed) = options::parse(&given).map_err(Failure::Options)? else {
        return Err(Failure::Usage(
            "--help and --version of htgettoken make no sense here".into(),
        ));
    };
    let url = bearer_url(&given, words.quiet, environment, streams, get)?;
    let tokens = files.vault_tokens(&url, &parsed, environment)?;
    if words.refresh {
        if !words.quiet {
            let _ = writeln!(streams.out, "Deleting refresh token\n  at path {url}");
            let _ = streams.out.flush();
        }
        on_server(&url, &parsed, environment, async |vault, path| {
            let mut refused = None;
            for token in &tokens {
                match vault.delete(path, token, &mut NoLog).await {
                    // The token may be for another role; the next one may be the right one.
                    Err(error) if error.error.status() == Some(403) => refused = Some(error),
                    answer => return answer,
                }
            }
            refused.map_or(Ok(()), Err)
        })
        .map_err(|why| Failure::Server(format!("Unable to delete refresh token: {why}")))?;
    }
    if words.revoke {
        if !words.quiet {
            let _ = writeln!(streams.out, "Revoking vault token");
            let _ = streams.out.flush();
        }
        on_server(&url, &parsed, environment, async |vault, _| {
            let (mut revoked, mut refused) = (false, None);
            for token in &tokens {
                match vault.revoke_self(token, &mut NoLog).await {
                    Ok(()) => revoked = true,
                    Err(error) => refused = Some(error),
                }
            }
            // One that the server does not know any more needs no end.
            refused.filter(|_| !revoked).map_or(Ok(()), Err)
        })
        .map_err(|why| Failure::Server(format!("Unable to revoke vault token: {why}")))?;
    }
    Ok(())
}

/// Asks htgettoken for the path of the refresh token on the server.
fn bearer_url(
    given: &[String],
    quiet: bool,
    environment: &Environment,
    streams: &mut Streams<'_>,
    get: &Get,
) -> Result<String, Failure> {
    // With scopes or audience the path would be one where nothing can be deleted.
    let mut args = canonical(given, |key| !matches!(key, Key::Scopes | Key::Audience));
    args.extend(["--novaulttoken", "--nobearertoken", "--showbearerurl"].map(OsString::from));
    if quiet {
        args.push("-q".into());
    }
    let mut environment = environment.clone();
    // Its words stand at the head of the arguments already.
    environment
        .vars
        .remove("HTGETTOKENOPTS".as_ref() as &std::ffi::OsStr);
    let mut out = Vec::new();
    let code = get(
        &args,
        &environment,
        &mut Streams {
            input: &mut io::empty(),
            out: &mut out,
            err: &mut *streams.err,
        },
    );
    let text = String::from_utf8_lossy(&out);
    let url = text.lines().rev().find(|line| line.starts_with("https://"));
    match url {
        Some(url) if code == 0 => Ok(url.to_owned()),
        _ => Err(Failure::Server(
            "Unable to obtain vault URL to remove refresh token".into(),
        )),
    }
}

/// `https://host:port`, and the path below `/v1/`.
fn split_url(url: &str) -> Option<(&str, &str)> {
    let start = url
        .strip_prefix("https://")
        .map(|rest| url.len() - rest.len())?;
    let slash = url[start..].find('/')? + start;
    let (server, path) = url.split_at(slash);
    Some((server, path.strip_prefix("/v1/")?))
}

/// Lets `ask` talk to the server of `url`, within the limit.
fn on_server<E: ToString>(
    url: &str,
    options: &Options,
    environment: &Environment,
    ask: impl AsyncFnOnce(&mut Vault, &str) -> Result<(), E>,
) -> Result<(), String> {
    let (server, path) = split_url(url).ok_or_else(|| format!("{url} is not usable"))?;
    let parse = |text: &str| ServerUrl::parse(text, VAULT_PORT).map_err(|error| error.to_string());
    let target = Target {
        server: parse(server)?,
        alias: options
            .vaultalias
            .as_deref()
            .filter(|alias| !alias.is_empty())
            .map(parse)
            .transpose()?,
        certificate_name: options
            .vaultcertname
            .clone()
            .filter(|name| !name.is_empty()),
        trust: TrustSources::choose(
            options.cafile.as_deref(),
            options.capath.as_deref(),
            environment,
        ),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let answer = runtime.block_on(async {
        let mut client = Client::new(target, environment).map_err(|error| error.to_string())?;
        client.limit(Some(REQUEST_LIMIT));
        ask(&mut Vault::new(client), path)
            .await
            .map_err(|error| error.to_string())
    });
    // A lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    answer
}

#[cfg(test)]
mod tests;

//! From options and environment to places, names and addresses. Owns every default that depends on more than one option.

use std::path::{Path, PathBuf};

use gridkeep_token::file::{Descriptor, ReadPolicy, is_device_name};

use crate::environment::Environment;
use crate::files::{self, Keep, LONGEST_ON_DISK};
use crate::http::{ServerUrl, TrustSources};
use crate::options::{Options, UsageError, lifetime};

/// The port of a server that names none.
pub const VAULT_PORT: u16 = 8200;

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file, replaced.
    File(PathBuf),
    /// A descriptor that is open already, written to as it is.
    Descriptor(i32),
}

impl Place {
    /// Reads an option whose placeholders are expanded.
    fn new(text: &str, environment: &Environment) -> Self {
        let linked = text
            .strip_prefix("/proc/self/fd/")
            .map(|number| format!("/dev/fd/{number}"));
        match Descriptor::from_name(linked.as_deref().unwrap_or(text)) {
            Some(Descriptor(number)) => Self::Descriptor(number),
            None => Self::File(environment.absolute(&expand_home(text, environment))),
        }
    }
}

/// Where an existing vault token is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultTokenIn {
    /// Nowhere.
    None,
    /// In a file that was named.
    Named(PathBuf),
    /// In a pipe, to be exchanged for a new one.
    Device(String),
    /// In the usual places.
    Usual,
}

/// What a run works with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server.
    pub server: ServerUrl,
    /// The service it belongs to.
    pub alias: ServerUrl,
    /// The name its certificate must have, if not the server's host.
    pub certificate_name: Option<String>,
    /// Which authorities are believed.
    pub trust: TrustSources,
    /// Directory of credkeys; none without a home directory.
    pub config_dir: Option<PathBuf>,
    /// Life of a new vault token, seconds.
    pub ttl: u64,
    /// What an existing vault token must still live, seconds.
    pub min_ttl: u64,
    /// Where a new vault token goes.
    pub vault_out: Place,
    /// What the user calls that place.
    pub vault_out_name: String,
    /// Where an existing one is.
    pub vault_in: VaultTokenIn,
    /// Whether private copies are used: not when either file was named.
    pub private_copies: bool,
    /// Where the bearer token goes.
    pub bearer_out: Place,
    /// What the user calls that place.
    pub bearer_out_name: String,
    /// Server path of the browser login.
    pub oidc_path: String,
    /// Whether standard output carries data, so that all else goes to standard error.
    pub log_to_stderr: bool,
}

/// Why the options make no run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// Exit code 2, with the help text.
    Usage(UsageError),
    /// Exit code 1.
    Fatal(String),
}

impl Settings {
    /// Where an existing vault token is looked for, in order, with what each place is. Nowhere when it comes from a pipe.
    pub fn vault_token_places(
        &self,
        keep: &Keep,
        credkey: Option<&str>,
        options: &Options,
        environment: &Environment,
    ) -> Vec<(PathBuf, ReadPolicy, &'static str)> {
        match &self.vault_in {
            VaultTokenIn::None | VaultTokenIn::Device(_) => return Vec::new(),
            // The name was made by httokensh, not by somebody who knows what lies there, and anybody can foresee it.
            VaultTokenIn::Named(path) if is_of_session(path, environment) => {
                return vec![(
                    path.clone(),
                    ReadPolicy::DefaultLocation,
                    "file of httokensh",
                )];
            }
            VaultTokenIn::Named(path) => {
                return vec![(path.clone(), ReadPolicy::Named, "named by an option")];
            }
            VaultTokenIn::Usual => {}
        }
        let mut places = Vec::new();
        if let Some(path) = credkey.and_then(|credkey| keep.private_vault_token(credkey)) {
            places.push((
                path,
                "private copy for this server, issuer, role and credkey",
            ));
        }
        if let Place::File(path) = &self.vault_out {
            places.push((path.clone(), "default file"));
        }
        let (uid, issuer, role) = (environment.euid, &options.issuer, &options.role);
        if !issuer.contains('/') && !role.contains('/') {
            let role = if role == "default" {
                String::new()
            } else {
                format!("_{role}")
            };
            places.push((
                environment.tmp.join(format!("vt_u{uid}-{issuer}{role}")),
                "file of HTCondor for this service",
            ));
        }
        places
            .into_iter()
            .map(|(path, what)| (path, ReadPolicy::DefaultLocation, what))
            .collect()
    }

    /// Works everything out; no file is touched but those of the machine's certificates.
    ///
    /// # Errors
    /// No usable server, or a life that cannot be.
    pub fn new(options: &Options, environment: &Environment) -> Result<Self, SettingsError> {
        let server = options
            .vaultserver
            .as_deref()
            .filter(|server| !server.is_empty())
            .ok_or_else(|| usage("no server: --vaultserver (-a) is required".to_owned()))?;
        let server = address("--vaultserver", server)?;
        let alias = match options
            .vaultalias
            .as_deref()
            .filter(|alias| !alias.is_empty())
        {
            Some(alias) => address("--vaultalias", alias)?,
            None => server.clone(),
        };
        let ttl = options.vaulttokenttl.as_deref().unwrap_or("7d");
        let ttl = lifetime("--vaulttokenttl", ttl).map_err(SettingsError::Fatal)?;
        let min_ttl = options.vaulttokenminttl.as_deref().unwrap_or("0s");
        let min_ttl = lifetime("--vaulttokenminttl", min_ttl).map_err(SettingsError::Fatal)?;
        if min_ttl >= ttl {
            return Err(SettingsError::Fatal(format!(
                "--vaulttokenminttl ({min_ttl} s) must be less than --vaulttokenttl ({ttl} s), or no vault token would ever do"
            )));
        }
        let vault_out = vault_out(options, ttl, environment)?;
        let vault_out_name = expand_uid(&vault_out, environment);
        let vault_in = vault_in(options, &vault_out, environment);
        let bearer_out_name = bearer_out(options, environment);
        let vault_out_place = Place::new(&vault_out_name, environment);
        let bearer_out = Place::new(&bearer_out_name, environment);
        Ok(Self {
            certificate_name: options
                .vaultcertname
                .clone()
                .filter(|name| !name.is_empty()),
            trust: TrustSources::choose(
                options.cafile.as_deref(),
                options.capath.as_deref(),
                environment,
            ),
            config_dir: files::config_dir(options.configdir.as_deref(), environment),
            ttl,
            min_ttl,
            private_copies: vault_in == VaultTokenIn::Usual,
            vault_in,
            oidc_path: options.oidcpath.replace("%issuer", &options.issuer),
            log_to_stderr: options.showbearerurl
                || vault_out_place == Place::Descriptor(1)
                || bearer_out == Place::Descriptor(1),
            vault_out: vault_out_place,
            vault_out_name,
            bearer_out,
            bearer_out_name,
            server,
            alias,
        })
    }

    /// The server path of the stored credential, for writing and deleting.
    #[must_use]
    pub fn credential_path(options: &Options, credkey: &str) -> String {
        expand(
            &options.secretpath,
            &[
                ("%issuer", &options.issuer),
                ("%role", &options.role),
                ("%credkey", credkey),
            ],
        )
    }

    /// The server path a bearer token is read from: another one if it is to be reduced.
    #[must_use]
    pub fn bearer_path(options: &Options, credkey: &str) -> String {
        let path = Self::credential_path(options, credkey);
        if scopes(options).is_some() || audience(options).is_some() {
            path.replacen("/creds/", "/sts/", 1)
        } else {
            path
        }
    }
}

/// `--scopes` unless empty.
pub(super) fn scopes(options: &Options) -> Option<&str> {
    options.scopes.as_deref().filter(|list| !list.is_empty())
}

/// `--audience` unless empty.
pub(super) fn audience(options: &Options) -> Option<&str> {
    options.audience.as_deref().filter(|list| !list.is_empty())
}

fn usage(text: String) -> SettingsError {
    SettingsError::Usage(UsageError::Meaning(text))
}

fn address(option: &str, text: &str) -> Result<ServerUrl, SettingsError> {
    ServerUrl::parse(text, VAULT_PORT).map_err(|error| usage(format!("{option}: {error}")))
}

/// The raw value: whether it is a device is judged by its spelling, as callers expect.
fn vault_out(
    options: &Options,
    ttl: u64,
    environment: &Environment,
) -> Result<String, SettingsError> {
    let long = ttl > LONGEST_ON_DISK;
    match options.vaulttokenfile.as_deref() {
        Some(path) if long && !is_device_name(path) => Err(SettingsError::Fatal(format!(
            "a vault token that lives longer than {LONGEST_ON_DISK} s must not lie on disk: \
             --vaulttokenfile must begin with /dev/std or /dev/fd, or --vaulttokenttl be shorter"
        ))),
        Some("") => Err(SettingsError::Fatal(
            "--vaulttokenfile is empty; name a file, or leave the option out".to_owned(),
        )),
        Some(path) if is_device_name(path) && Descriptor::from_name(path).is_none() => {
            Err(SettingsError::Fatal(format!(
                "--vaulttokenfile {path} names no stream; write /dev/stdout, /dev/stderr or /dev/fd/N"
            )))
        }
        Some(path) => Ok(path.to_owned()),
        None if long => Ok("/dev/stdout".to_owned()),
        None => Ok(format!("{}/vt_u%uid", environment.tmp.display())),
    }
}

fn vault_in(options: &Options, vault_out: &str, environment: &Environment) -> VaultTokenIn {
    match options.vaulttokeninfile.as_deref() {
        // Reading from the stream one writes to would wait for ever.
        None if is_device_name(vault_out) => VaultTokenIn::None,
        None if options.vaulttokenfile.is_none() => VaultTokenIn::Usual,
        None => VaultTokenIn::Named(named(vault_out, environment)),
        Some("") => VaultTokenIn::None,
        Some(path) if is_device_name(path) => VaultTokenIn::Device(path.to_owned()),
        Some(path) => {
            let path = path.replace("%vaulttokenfile", vault_out);
            if is_device_name(&path) {
                VaultTokenIn::None
            } else {
                VaultTokenIn::Named(named(&path, environment))
            }
        }
    }
}

/// Whether `path` is one that httokensh gives the vault tokens of its sessions, ours or the original's.
fn is_of_session(path: &Path, environment: &Environment) -> bool {
    let start = format!("vt_u{}.sh-", environment.euid);
    path.parent() == Some(&environment.tmp)
        && path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix(&start))
            .is_some_and(|hash| {
                hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
}

fn named(text: &str, environment: &Environment) -> PathBuf {
    environment.absolute(&environment.expand_tilde(&expand_uid(text, environment)))
}

fn bearer_out(options: &Options, environment: &Environment) -> String {
    let text = match options.outfile.as_deref().filter(|path| !path.is_empty()) {
        Some(path) => path.to_owned(),
        None => match (
            environment.var("BEARER_TOKEN_FILE"),
            environment.var("XDG_RUNTIME_DIR"),
        ) {
            (Some(path), _) => path.to_owned(),
            (None, Some(directory)) => format!("{directory}/bt_u%uid"),
            (None, None) => format!("{}/bt_u%uid", environment.tmp.display()),
        },
    };
    expand_uid(&text, environment)
}

fn expand_uid(text: &str, environment: &Environment) -> String {
    text.replace("%uid", &environment.euid.to_string())
}

/// A shell expands `~` in `--outfile ~/x` but not in `--outfile=~/x`.
fn expand_home(text: &str, environment: &Environment) -> PathBuf {
    if text == "~" || text.starts_with("~/") {
        environment.expand_tilde(text)
    } else {
        Path::new(text).to_path_buf()
    }
}

/// Replaces placeholders in one pass, so that a credkey that looks like one stays what it is.
fn expand(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        match values.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                text.push_str(value);
                rest = &rest[name.len()..];
            }
            None => {
                text.push('%');
                rest = &rest[1..];
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests;

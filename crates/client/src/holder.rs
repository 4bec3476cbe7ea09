//! A user who holds a vault token: the server of htgettoken's options, and the vault tokens on this machine that are for it.
//!
//! Owns finding them and going on to the next when one is refused. Refuses to know what is asked of the server. For commands that work
//! with what a login left behind and never log in themselves.

use gridkeep_token::file::read_secret;
use secrecy::SecretString;

use crate::environment::Environment;
use crate::files::Keep;
use crate::get::settings::{Settings, SettingsError};
use crate::http::{Client, Target};
use crate::options::{Options, UsageError};
use crate::vault::{Vault, VaultError};

/// Why there is nobody to ask the server as.
#[derive(Debug, PartialEq, Eq)]
pub enum NoHolder {
    /// The options are wrong; exit code 2.
    Usage(UsageError),
    /// Anything else; exit code 1.
    Failed(String),
}

/// A server and what shows it who asks.
#[derive(Debug)]
pub struct Holder {
    /// The credkey of the last login, or of `--credkey`.
    pub credkey: Option<String>,
    vault: Vault,
    /// The likeliest token.
    first: SecretString,
    others: Vec<SecretString>,
}

impl Holder {
    /// Reads the vault tokens that htgettoken would use with `options`.
    ///
    /// # Errors
    /// [`NoHolder`]: no server is named, or there is no vault token.
    pub fn of(options: &Options, environment: &Environment) -> Result<Holder, NoHolder> {
        let settings = Settings::new(options, environment).map_err(|error| match error {
            SettingsError::Usage(error) => NoHolder::Usage(error),
            SettingsError::Fatal(text) => NoHolder::Failed(text),
        })?;
        let keep = Keep::new(
            settings.config_dir.clone(),
            &settings.server.to_string(),
            &options.issuer,
            &options.role,
            environment,
        );
        let credkey = options
            .credkey
            .clone()
            .filter(|credkey| !credkey.is_empty())
            .or_else(|| keep.credkey().map(|(credkey, _)| credkey));
        let mut tokens = Vec::new();
        let mut reason =
            "there is no vault token on this machine; log in first (htgettoken)".to_owned();
        for (path, policy, _) in
            settings.vault_token_places(&keep, credkey.as_deref(), options, environment)
        {
            match read_secret(&path, policy) {
                Ok(token) => tokens.extend(token),
                Err(error) => reason = error.to_string(),
            }
        }
        let mut tokens = tokens.into_iter();
        let Some(first) = tokens.next() else {
            return Err(NoHolder::Failed(reason));
        };
        let target = Target {
            server: settings.server,
            alias: Some(settings.alias),
            certificate_name: settings.certificate_name,
            trust: settings.trust,
        };
        let mut client = Client::new(target, environment)
            .map_err(|error| NoHolder::Failed(error.to_string()))?;
        client.limit(Some(environment.timing.unattended));
        Ok(Holder {
            credkey,
            vault: Vault::new(client),
            first,
            others: tokens.collect(),
        })
    }

    /// Asks with one token after the other until one is not refused.
    ///
    /// # Errors
    /// What the server said to the last one.
    pub async fn ask<T>(
        &mut self,
        question: impl AsyncFn(&mut Vault, &SecretString) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let mut others = self.others.iter();
        let mut token = &self.first;
        loop {
            match (question(&mut self.vault, token).await, others.next()) {
                // It may be for another issuer or role, or dead; the next one may be the right one.
                (Err(error), Some(next)) if error.error.status() == Some(403) => token = next,
                (answer, _) => return answer,
            }
        }
    }
}

/// Runs `work` to its end, on this thread.
///
/// # Errors
/// The system gives no event loop.
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let answer = runtime.block_on(work);
    // A lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    Ok(answer)
}

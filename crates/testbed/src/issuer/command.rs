//! The subcommand `issuer`: starts one issuer, says where it is, runs until it is told to end, leaves no file behind.

use std::io::{Read as _, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use gridkeep_token::file::{ReplaceOptions, replace};
use nix::sys::stat::{SFlag, fstat};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::{Character, Options, Rotation, TestIssuer};

/// Arguments of `gridkeep-testbed issuer`.
#[derive(Debug, clap::Args)]
pub struct IssuerArgs {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Host name in the issuer's URLs, instead of the address.
    #[arg(long)]
    host: Option<String>,
    /// Address of the administration interface (plain HTTP).
    #[arg(long, default_value = "127.0.0.1:0")]
    admin_listen: SocketAddr,
    /// Whose manner to imitate.
    #[arg(long, value_enum)]
    character: Option<Character>,
    /// What becomes of a used refresh token; without it, the character's own habit.
    #[arg(long, value_enum)]
    rotation: Option<Rotation>,
    /// Life of a replaced refresh token with --rotation grace, seconds.
    #[arg(long)]
    grace_seconds: Option<i64>,
    /// Life of access tokens, seconds.
    #[arg(long)]
    access_token_seconds: Option<i64>,
    /// A user for whom every login and device request is approved at once.
    #[arg(long, value_name = "USER")]
    auto_login: Option<String>,
    /// Users, clients and settings (JSON, or YAML when the name ends in .yaml or .yml); the options above win over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Written when the issuer is ready: JSON with url, ca, admin_url, pid. Removed at the end.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Where to put the authority's certificate; beside the ready file when absent. Removed at the end.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl IssuerArgs {
    fn options(&self) -> Result<Options> {
        let mut options = match &self.config {
            Some(path) => Options::from_file(path)?,
            None => Options::default(),
        };
        options.listen = self.listen.unwrap_or(options.listen);
        options.character = self.character.unwrap_or(options.character);
        options.rotation = self.rotation.or(options.rotation);
        options.host = self.host.clone().or(options.host);
        options.grace_seconds = self.grace_seconds.unwrap_or(options.grace_seconds);
        options.access_token_seconds = self
            .access_token_seconds
            .unwrap_or(options.access_token_seconds);
        options.auto_login = self.auto_login.clone().or(options.auto_login);
        options.admin_listen = Some(self.admin_listen);
        Ok(options)
    }
}

/// A file that goes when the issuer goes.
struct Passing(PathBuf);

impl Passing {
    fn write(path: &Path, content: &[u8]) -> Result<Self> {
        replace(path, content, &ReplaceOptions::default())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // Whoever removed it first did what was to be done.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs an issuer until SIGTERM, SIGINT, or the end of standard input where that is a pipe or a socket.
///
/// # Errors
/// When the configuration does not fit, the issuer cannot start, or a file cannot be written.
pub fn run(args: &IssuerArgs, out: &mut dyn Write) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let issuer = TestIssuer::start(args.options()?).await?;
        let ca_path = args.ca_file.clone().or_else(|| Some(args.ready_file.as_ref()?.with_extension("ca.pem")));
        let ca_file = ca_path.as_deref().map(|path| Passing::write(path, issuer.ca_pem().as_bytes())).transpose()?;
        let ready = json!({
            "url": issuer.url(),
            "base_url": issuer.base_url(),
            "ca": ca_file.as_ref().map(|file| std::path::absolute(&file.0).unwrap_or_else(|_| file.0.clone())),
            "admin_url": issuer.admin_url(),
            "pid": std::process::id(),
        });
        let text = format!("{ready}\n");
        let ready_file = args.ready_file.as_deref().map(|path| Passing::write(path, text.as_bytes())).transpose()?;
        out.write_all(text.as_bytes())?;
        out.flush()?;
        let input = input_ended();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = input => {}
        }
        drop((ready_file, ca_file));
        issuer.stop().await;
        Ok(())
    })
}

/// Waits for the end of standard input; for ever where that is a terminal, a file or /dev/null.
async fn input_ended() {
    let kind = fstat(std::io::stdin())
        .map(|s| SFlag::from_bits_truncate(s.st_mode & SFlag::S_IFMT.bits()));
    if !matches!(kind, Ok(SFlag::S_IFIFO | SFlag::S_IFSOCK)) {
        return std::future::pending().await;
    }
    let (ended, wait) = oneshot::channel();
    // A plain thread: a blocked read of Tokio's would hold up the end of the runtime.
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while matches!(std::io::stdin().read(&mut buffer), Ok(n) if n > 0) {}
        // Nobody waits any more when a signal came first.
        let _ = ended.send(());
    });
    // An error means that the thread is gone, which is an end as well.
    let _ = wait.await;
}

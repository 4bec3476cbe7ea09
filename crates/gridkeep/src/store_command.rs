//! `gridkeep store`: what is done with a store while no server uses it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use gridkeep_store::StorePlace;

use crate::config::{self, Severity, Surroundings};

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Copy a store to another place: from the data directory to etcd, or back
    ///
    /// Stop every server that uses the store first. Nothing is written over; both stores are read again and compared. The root key stays
    /// the same and is not needed.
    Copy {
        /// Configuration (file or config.d directory) of a server whose store is copied
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
        /// Configuration that says where it is copied to
        #[arg(long, value_name = "PATH")]
        to: PathBuf,
    },
}

/// Does what was asked.
///
/// # Errors
/// In words for the operator.
pub fn perform(command: StoreCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    let StoreCommand::Copy { from, to } = command;
    let (source, target) = (place(&from)?, place(&to)?);
    if source.to_string() == target.to_string() {
        anyhow::bail!(
            "{} and {} name the same store ({source}); nothing is to be copied",
            from.display(),
            to.display()
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the system did not give the threads that are needed")?;
    let said = (source.to_string(), target.to_string());
    let copied = runtime.block_on(gridkeep_store::copy(source, target))?;
    writeln!(
        out,
        "{} records ({} bytes) copied from {} to {}; both were read again and are the same",
        copied.records, copied.bytes, said.0, said.1
    )?;
    Ok(())
}

/// Where the store of a server with this configuration is.
fn place(path: &Path) -> anyhow::Result<StorePlace> {
    let host = Surroundings {
        look_at_files: false,
        ..Surroundings::of_this_host()
    };
    let loaded = config::load(&[path.to_owned()], &host);
    let Some(config) = loaded.config else {
        let faults: Vec<String> = loaded
            .findings
            .iter()
            .filter(|finding| finding.severity >= Severity::Error)
            .map(ToString::to_string)
            .collect();
        anyhow::bail!(
            "the configuration {} cannot be used: {}",
            path.display(),
            faults.join("; ")
        );
    };
    Ok(match &config.gridkeep.etcd {
        Some(etcd) => StorePlace::Etcd(etcd.settings()),
        None => StorePlace::Directory(config.gridkeep.data.value.join("store")),
    })
}

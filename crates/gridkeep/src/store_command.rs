//! `gridkeep store`: what is done with a store while no server uses it.

use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use gridkeep_store::StorePlace;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchown, fchownat};

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
    let directory = match &target {
        StorePlace::Directory(store) => Some(store.clone()),
        StorePlace::Etcd(_) => None,
    };
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
    match directory {
        Some(store) => hand_over(&store, out),
        None => Ok(()),
    }
}

/// Gives the copy, which root has made, to whom the data directory belongs: the server could not open it otherwise.
fn hand_over(store: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let (Some(data), true) = (store.parent(), nix::unistd::geteuid().is_root()) else {
        return Ok(());
    };
    let shown = data.display();
    let by_hand = format!("chown -R <user of the server>: {shown}");
    let owner = std::fs::metadata(data)?;
    if owner.uid() == 0 {
        writeln!(
            out,
            "{shown} belongs to root; if the server runs as another user, give it to that one before the start: {by_hand}"
        )?;
        return Ok(());
    }
    give(store, owner.uid(), owner.gid()).with_context(|| {
        format!(
            "the copy is complete, but could not be given to user id {}, to whom {shown} belongs; before the server is started: {by_hand}",
            owner.uid()
        )
    })?;
    writeln!(
        out,
        "the copy was given to user id {}, to whom {shown} belongs",
        owner.uid()
    )?;
    Ok(())
}

/// Changes the owner of a directory and the files in it. Links are not followed: the directory is in another user's hands.
fn give(store: &Path, user: u32, group: u32) -> anyhow::Result<()> {
    let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut directory = Dir::open(store, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in directory.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    for name in &names {
        fchownat(
            &directory,
            name.as_c_str(),
            user,
            group,
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
    }
    fchown(&directory, user, group)?;
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

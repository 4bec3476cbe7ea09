//! A request whose path and method were understood, and the mounts it may lie in.

use std::net::SocketAddr;
use std::sync::Arc;

use gridkeep_keeper::{Granted, Keeper, KeeperToken, Operation, Setup};
use http::HeaderMap;
use secrecy::SecretString;
use tokio::time::Instant;

use super::Call;
use crate::audit::{Exchange, Mount};
use crate::fields::Fields;
use crate::measure::Asked;
use crate::params::Params;
use crate::route::Route;

/// The mounts of one configuration.
pub(super) struct MountTable {
    pub setup: Arc<Setup>,
    pub mounts: Vec<Mount>,
}

/// What is known of a request before anything of it is read.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    /// The name we give it.
    pub id: &'a str,
    /// Who sent it, through whichever front servers and nodes.
    pub peer: SocketAddr,
    pub asked: &'a Asked,
    /// When whoever sent it is told that it takes too long.
    pub until: Instant,
}

/// A request whose path and method were understood.
pub(super) struct Received<'a> {
    pub id: &'a str,
    pub operation: Operation,
    pub path: &'a str,
    pub route: Route<'a>,
    pub writes: bool,
    pub headers: &'a HeaderMap,
    pub peer: SocketAddr,
    /// Whether only help on the path is wanted.
    pub help: bool,
    /// When whoever sent it is told that it takes too long.
    pub until: Instant,
}

impl<'a> Received<'a> {
    /// The request as the audit log is told of it.
    pub(super) fn exchange<'e, 'm>(
        &self,
        mounts: &'m MountTable,
        secret: Option<&'e SecretString>,
        params: &'e Params,
        shown: Option<(&'e KeeperToken, Option<&'e Granted>)>,
    ) -> Exchange<'e, 'm>
    where
        'a: 'e,
    {
        Exchange {
            id: self.id,
            operation: if self.help {
                "help"
            } else {
                self.operation.word()
            },
            path: self.path,
            mount: mounts.find(self.path),
            secret,
            params,
            peer: self.peer,
            token: shown.map(|(token, _)| token),
            granted: shown.and_then(|(_, granted)| granted),
        }
    }

    /// The request as an endpoint gets it.
    pub(super) fn call(&self, params: Params) -> Call<'a> {
        Call {
            operation: self.operation,
            path: self.path,
            headers: self.headers,
            peer: self.peer,
            fields: Fields::new(params),
        }
    }
}

impl MountTable {
    pub(super) fn of(keeper: &Keeper) -> Self {
        let setup = keeper.setup();
        let mounts = keeper
            .mounts()
            .into_iter()
            .map(|mount| Mount {
                class: if mount.path.starts_with("auth/") {
                    "auth"
                } else if mount.path.starts_with("sys/") {
                    "system"
                } else {
                    "secret"
                },
                point: mount.path,
                kind: mount.kind.to_owned(),
                accessor: mount.accessor,
            })
            .collect();
        MountTable { setup, mounts }
    }

    pub(super) fn find(&self, path: &str) -> Option<&Mount> {
        self.mounts
            .iter()
            .find(|mount| path.starts_with(&mount.point))
    }
}

//! One member of etcd: the connection to it, and what the end of that connection or an error of the member means.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Status};

use super::connect::{Connector, Tls};
use super::trouble::{Cause, Tells, Trouble};
use crate::StoreError;

/// etcd refuses more frequent pings than one in 5 s as abuse.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
const WINDOW: u32 = 4 * 1024 * 1024;
/// How long a failed connection is not tried again: those who ask meanwhile learn of it at once.
const REST: Duration = Duration::from_millis(100);

/// A member and the connection to it.
pub(crate) struct Member {
    pub(crate) name: String,
    endpoint: Endpoint,
    connector: Connector,
    slot: Mutex<Slot>,
}

/// The connection to a member. One task makes it while the others wait, and one that has let somebody wait in vain is given up: after
/// the network was away a new one works at once, an old one only when the kernel tries it again.
#[derive(Default)]
struct Slot {
    channel: Option<Channel>,
    number: u64,
    failed: Option<(Instant, Cause)>,
}

impl Member {
    /// Connects to nobody yet.
    pub(crate) fn new(name: &str, tls: Option<Arc<Tls>>) -> Result<Self, StoreError> {
        let connector = Connector::new(name, tls)?;
        // The connector does TLS: to the library it is a plain connection.
        let endpoint = Endpoint::from_shared(format!("http://{}", connector.authority()))
            .map_err(|error| StoreError::Connection {
                problem: format!("the endpoint {name:?} is no address ({error})"),
            })?
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        Ok(Self {
            name: name.to_owned(),
            endpoint,
            connector,
            slot: Mutex::default(),
        })
    }

    pub(crate) async fn channel(&self) -> Result<(u64, Channel), Cause> {
        let mut slot = self.slot.lock().await;
        if let Some(channel) = &slot.channel {
            return Ok((slot.number, channel.clone()));
        }
        if let Some((at, cause)) = &slot.failed
            && at.elapsed() < REST
        {
            return Err(cause.clone());
        }
        match self
            .endpoint
            .connect_with_connector(self.connector.clone())
            .await
        {
            Ok(channel) => {
                slot.number += 1;
                slot.failed = None;
                slot.channel = Some(channel.clone());
                Ok((slot.number, channel))
            }
            Err(error) => {
                let cause = self.broke(&error);
                slot.failed = Some((Instant::now(), cause.clone()));
                Err(cause)
            }
        }
    }

    /// What ended a connection.
    pub(crate) fn broke(&self, error: &(dyn std::error::Error + 'static)) -> Cause {
        self.fault().unwrap_or_else(|| {
            let what = causes(error);
            let tells = if is_late(error) {
                Tells::Late
            } else if what.contains("operation was canceled") {
                Tells::Cancelled
            } else {
                Tells::Unreachable
            };
            Cause::new(&self.name, tells, what)
        })
    }

    /// What was wrong with TLS when a connection was last tried, where it was that.
    fn fault(&self) -> Option<Cause> {
        let fault = self.connector.fault()?;
        Some(Cause::new(&self.name, Tells::Tls, fault))
    }

    /// Gives a connection up; who holds the slot at this moment makes another anyway.
    pub(crate) fn forget(&self, number: u64) {
        if let Ok(mut slot) = self.slot.try_lock()
            && slot.number == number
        {
            slot.channel = None;
        }
    }
    /// What an error of the transport or of etcd means, and whether the connection is to be given up. The texts are those of etcd's
    /// rpctypes, which are the same from 3.4 on.
    pub(crate) fn judge(&self, status: &Status) -> (Trouble, bool) {
        let mut source = std::error::Error::source(status);
        let from_transport = source.is_some();
        while let Some(error) = source {
            // The library connects anew by itself where a connection has ended.
            if error.is::<ConnectError>() {
                return (Trouble::NotDone(self.broke(error)), true);
            }
            source = error.source();
        }
        let text = status.message();
        if from_transport {
            return (Trouble::Lost(self.broke(status)), true);
        }
        let said = |tells| Cause::new(&self.name, tells, text);
        let trouble = match status.code() {
            Code::ResourceExhausted if text.contains("database space exceeded") => Trouble::NoSpace,
            Code::ResourceExhausted if text.contains("too many requests") => {
                Trouble::NotDone(said(Tells::Answer))
            }
            Code::OutOfRange if text.contains("compacted") => Trouble::Compacted,
            Code::Unavailable if text.contains("no leader") => {
                Trouble::NotDone(said(Tells::NoLeader))
            }
            Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented => Trouble::Refused(said(Tells::Answer)),
            Code::Cancelled => Trouble::Lost(said(Tells::Cancelled)),
            _ => Trouble::Lost(said(Tells::Answer)),
        };
        (trouble, false)
    }
}

/// An error and what brought it about, as one text without repetitions.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut deeper = error.source();
    while let Some(error) = deeper {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        deeper = error.source();
    }
    text
}

/// Whether time was over somewhere below this error.
fn is_late(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut deeper = Some(error);
    while let Some(error) = deeper {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut) {
            return true;
        }
        deeper = error.source();
    }
    false
}

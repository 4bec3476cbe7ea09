//! Calling etcd: which member is asked, how long it is waited for, and what its silence or refusal means.
//!
//! Knows messages as bytes of a type; what they are about is for the modules beside it. Every call is bounded in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use super::connect::Tls;
use super::member::Member;
use super::trouble::{Cause, Tells, Trouble};
use crate::StoreError;

/// How long answers are waited for.
#[derive(Clone, Copy, Debug)]
struct Waits {
    /// For one member.
    one: Duration,
    /// For all members together.
    all: Duration,
    /// Before what may be carried out twice goes to the next member as well, and after which one that nobody waits for any longer is
    /// left.
    late: Duration,
}

const WAITS: Waits = Waits {
    one: Duration::from_secs(2),
    all: Duration::from_secs(5),
    late: Duration::from_millis(500),
};

/// When a request goes out once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Only where it certainly was not carried out.
    Never,
    /// Also where it is not known whether it was: it may be carried out twice.
    WhenLost,
    /// Also while the answer is merely late: it changes nothing, or nothing more when it is carried out twice at any time. A member that
    /// the network has lost, or whose process stands still, costs a reader half a second.
    WhenLate,
}

impl Repeat {
    fn goes_on_after(self, trouble: &Trouble) -> bool {
        match trouble {
            Trouble::NotDone(_) => true,
            Trouble::Lost(_) => self != Self::Never,
            Trouble::NoSpace | Trouble::Compacted | Trouble::Refused(_) => false,
        }
    }
}

/// Between two rounds over the members.
const PAUSE: Duration = Duration::from_millis(100);
/// Rounds, where nobody even takes a connection.
const ROUNDS_UNCONNECTED: usize = 3;

/// The members of an etcd cluster, of which one is asked until it fails.
pub(crate) struct Rpc {
    members: Vec<Member>,
    current: AtomicUsize,
    waits: Waits,
}

impl Rpc {
    /// Connects to nobody yet.
    pub(crate) fn new(endpoints: &[String], tls: Option<Arc<Tls>>) -> Result<Self, StoreError> {
        let members = endpoints
            .iter()
            .map(|name| Member::new(name, tls.clone()))
            .collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Self {
            members,
            current: AtomicUsize::new(0),
            waits: WAITS,
        })
    }

    /// How many members are known.
    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    /// Asks until somebody answers or the time is over.
    pub(crate) async fn call<Q, A>(
        &self,
        path: &'static str,
        request: &Q,
        repeat: Repeat,
    ) -> Result<A, Trouble>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let deadline = Instant::now() + self.waits.all;
        let mut round = 0;
        let mut failed = Asked {
            trouble: Trouble::NotDone(Cause::nobody()),
            connected: false,
        };
        loop {
            failed = match self.ask_all(path, request, repeat, deadline, failed).await {
                Ok(answer) => return Ok(answer),
                Err(asked) => asked,
            };
            let Asked { trouble, connected } = &failed;
            round += 1;
            let in_vain = !connected && round >= ROUNDS_UNCONNECTED;
            if !repeat.goes_on_after(trouble) || in_vain || Instant::now() + PAUSE >= deadline {
                return Err(failed.trouble);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks each member at most once, the next when one has failed or, where that may be, is late. Answers the first answer, or the most
    /// telling of what they `failed` by, here and in earlier rounds, and whether any was connected in this one.
    async fn ask_all<Q, A>(
        &self,
        path: &'static str,
        request: &Q,
        repeat: Repeat,
        deadline: Instant,
        mut failed: Asked,
    ) -> Result<A, Asked>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        failed.connected = false;
        let count = self.members.len();
        let first = self.current.load(Ordering::Relaxed);
        let mut untried = (0..count).map(|turn| first.wrapping_add(turn) % count);
        let mut answers = FuturesUnordered::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let next = untried.next().filter(|_| !left.is_zero());
            if let Some(index) = next {
                let wait = left.min(self.waits.one);
                answers.push(async move { (index, self.ask(index, path, request, wait).await) });
            }
            let patience = match repeat {
                Repeat::WhenLate if next.is_some() => self.waits.late,
                _ => Duration::MAX,
            };
            match timeout(patience, answers.next()).await {
                Ok(Some((_, Ok(answer)))) => return Ok(answer),
                Ok(Some((index, Err(asked)))) => {
                    failed.connected |= asked.connected;
                    if matches!(asked.trouble, Trouble::NotDone(_) | Trouble::Lost(_)) {
                        self.leave(index);
                    }
                    let goes_on = repeat.goes_on_after(&asked.trouble);
                    failed.trouble = asked.trouble.after(failed.trouble);
                    if !goes_on {
                        return Err(failed);
                    }
                }
                Ok(None) => return Err(failed),
                Err(_) => next.into_iter().for_each(|index| self.leave(index)),
            }
        }
    }

    /// Asks one member, by its place in the list of endpoints.
    pub(crate) async fn call_member<Q, A>(
        &self,
        index: usize,
        path: &'static str,
        request: &Q,
        wait: Duration,
    ) -> Result<A, Trouble>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.ask(index, path, request, wait)
            .await
            .map_err(|asked| asked.trouble)
    }

    /// Opens a stream of requests and answers with the member that is asked at present; also answers over which connection.
    pub(crate) async fn stream<Q, A>(
        &self,
        path: &'static str,
        requests: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<(Connection, Streaming<A>), Trouble>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let index = self.current.load(Ordering::Relaxed) % self.members.len().max(1);
        let Some(member) = self.members.get(index) else {
            return Err(Trouble::NotDone(Cause::nobody()));
        };
        let opening = async {
            let (number, channel) = member.channel().await.map_err(Trouble::NotDone)?;
            let mut grpc = grpc(channel);
            grpc.ready()
                .await
                .map_err(|error| Trouble::NotDone(member.broke(&error)))?;
            let answers = grpc
                .streaming(
                    with_leader(Request::new(requests)),
                    PathAndQuery::from_static(path),
                    ProstCodec::default(),
                )
                .await
                .map_err(|status| member.judge(&status).0)?;
            Ok((Connection { index, number }, answers.into_inner()))
        };
        timeout(self.waits.one, opening)
            .await
            .unwrap_or_else(|_| {
                let cause = Cause::new(&member.name, Tells::Late, "it did not answer");
                Err(Trouble::Lost(cause))
            })
            .inspect_err(|_| self.leave(index))
    }

    /// Gives up a connection that has fallen silent.
    pub(crate) fn abandon(&self, connection: Connection) {
        self.leave(connection.index);
        if let Some(member) = self.members.get(connection.index) {
            member.forget(connection.number);
        }
    }

    /// Asks another member from now on, unless somebody has decided so already.
    fn leave(&self, index: usize) {
        let next = (index + 1) % self.members.len().max(1);
        let _ = self
            .current
            .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn ask<Q, A>(
        &self,
        index: usize,
        path: &'static str,
        request: &Q,
        wait: Duration,
    ) -> Result<A, Asked>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let unconnected = |trouble| Asked {
            trouble,
            connected: false,
        };
        let Some(member) = self.members.get(index) else {
            return Err(unconnected(Trouble::NotDone(Cause::nobody())));
        };
        let start = Instant::now();
        let (number, channel) = match timeout(wait, member.channel()).await {
            Ok(Ok(found)) => found,
            Ok(Err(cause)) => return Err(unconnected(Trouble::NotDone(cause))),
            Err(_) => {
                let cause = Cause::new(&member.name, Tells::Late, "no connection came about");
                return Err(unconnected(Trouble::NotDone(cause)));
            }
        };
        let asking = async {
            let mut grpc = grpc(channel);
            grpc.ready()
                .await
                .map_err(|error| (Trouble::NotDone(member.broke(&error)), true))?;
            grpc.unary(
                with_leader(Request::new(request.clone())),
                PathAndQuery::from_static(path),
                ProstCodec::default(),
            )
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| member.judge(&status))
        };
        let mut patience = Patience {
            rpc: self,
            index,
            number,
            start,
            over: false,
        };
        let told = timeout(wait.saturating_sub(start.elapsed()), asking).await;
        patience.over = true;
        let (trouble, broken) = match told {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(judged)) => judged,
            Err(_) => {
                let waited = start.elapsed().as_millis();
                let what = format!("it did not answer within {waited} ms");
                let cause = Cause::new(&member.name, Tells::Late, what);
                (Trouble::Lost(cause), true)
            }
        };
        if broken {
            member.forget(number);
        }
        Err(Asked {
            trouble,
            connected: true,
        })
    }
}

/// Somebody waits for a member. One that is late when nobody waits any longer is left, and its connection given up.
struct Patience<'a> {
    rpc: &'a Rpc,
    index: usize,
    number: u64,
    start: Instant,
    over: bool,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if !self.over && self.start.elapsed() >= self.rpc.waits.late {
            self.rpc.abandon(Connection {
                index: self.index,
                number: self.number,
            });
        }
    }
}

/// One connection to one member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    index: usize,
    number: u64,
}

struct Asked {
    trouble: Trouble,
    connected: bool,
}

fn grpc(channel: Channel) -> Grpc<Channel> {
    // Answers are as large as what was asked for, which is bounded there.
    Grpc::new(channel).max_decoding_message_size(usize::MAX)
}

/// A member that has lost its leader says so instead of letting the request wait.
fn with_leader<T>(mut request: Request<T>) -> Request<T> {
    request
        .metadata_mut()
        .insert("hasleader", MetadataValue::from_static("true"));
    request
}

#[cfg(test)]
mod tests {
    use super::super::proto::{RANGE, RangeRequest, RangeResponse};
    use super::*;
    use crate::testing::etcd::EtcdCluster;

    /// Silence of a member would last for hours.
    const PATIENT: Waits = Waits {
        one: Duration::from_secs(10_000),
        all: Duration::from_secs(20_000),
        late: Duration::from_millis(20),
    };

    #[tokio::test]
    async fn what_only_reads_does_not_wait_for_a_member_that_is_silent() {
        let cluster = EtcdCluster::start(1, &[]).unwrap();
        // The kernel takes the connection, and nobody ever answers on it.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = format!("http://{}", silent.local_addr().unwrap());
        let endpoints = [silent, cluster.endpoints()[0].clone()];
        let mut rpc = Rpc::new(&endpoints, None).unwrap();
        rpc.waits = PATIENT;
        let request = RangeRequest::one(b"k".to_vec());
        let ask = rpc.call::<_, RangeResponse>(RANGE, &request, Repeat::WhenLate);
        assert!(ask.await.unwrap().kvs.is_empty());
        // From now on the other one is asked first, also for what is sent once.
        let ask = rpc.call::<_, RangeResponse>(RANGE, &request, Repeat::Never);
        assert!(ask.await.is_ok());
    }
}

//! The operators' socket with a desk in place of the server.

use tokio::sync::Notify;

use super::*;

/// Finishes a status only once something was revoked, and never tells the state of the cluster.
#[derive(Default)]
struct Slow {
    begun: Notify,
    revoked: Notify,
}

#[async_trait::async_trait]
impl Desk for Slow {
    async fn obey(&self, _: u32, order: &Order, _: Option<&str>) -> anyhow::Result<String> {
        match order {
            Order::Status => {
                self.begun.notify_one();
                self.revoked.notified().await;
                Ok("the state".to_owned())
            }
            Order::Revoke { .. } => {
                self.revoked.notify_one();
                Ok("revoked".to_owned())
            }
            Order::ClusterStatus => std::future::pending().await,
            _ => Err(sealed()),
        }
    }
}

async fn asked(directory: &Path, order: Order) -> anyhow::Result<String> {
    let directory = directory.to_owned();
    tokio::task::spawn_blocking(move || ask(&directory, &order))
        .await
        .unwrap()
}

fn revoke() -> Order {
    Order::Revoke {
        which: "dune/alice:default".to_owned(),
    }
}

#[tokio::test]
async fn a_long_order_holds_up_no_other_and_a_stop_answers_what_was_begun() {
    let directory = tempfile::tempdir().unwrap();
    let socket = Socket::bind(directory.path()).unwrap();
    let desk = Arc::new(Slow::default());
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(socket.serve(desk.clone(), stopping));
    let path = directory.path().to_owned();
    let long = tokio::spawn(async move { asked(&path, Order::Status).await });
    desk.begun.notified().await;
    let refused = asked(directory.path(), Order::Token).await.unwrap_err();
    assert_eq!(reason_of(&refused), Reason::Sealed, "{refused:#}");
    assert_eq!(asked(directory.path(), revoke()).await.unwrap(), "revoked");
    assert_eq!(long.await.unwrap().unwrap(), "the state");

    let path = directory.path().to_owned();
    let long = tokio::spawn(async move { asked(&path, Order::Status).await });
    desk.begun.notified().await;
    stop.send(true).unwrap();
    desk.revoked.notify_one();
    assert_eq!(long.await.unwrap().unwrap(), "the state");
    serving.await.unwrap();
    assert!(!answers(directory.path()));
}

#[tokio::test(start_paused = true)]
async fn what_takes_too_long_is_told_as_not_known() {
    let line = serde_json::to_string(&Order::ClusterStatus).unwrap();
    let refused = obey(0, &line, &Slow::default()).await.unwrap_err();
    assert_eq!(reason_of(&refused), Reason::TooLong);
    let text = refused.to_string();
    assert!(
        text.starts_with(
            "no answer within 10 s; whether it was done is not known: look at the server's log"
        ),
        "{text}"
    );
}

#[tokio::test]
async fn a_stranger_is_refused_unheard() {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let far = tokio::net::UnixStream::from_std(far).unwrap();
    let (_stop, stopping) = watch::channel(false);
    let told = tokio::task::spawn_blocking(move || {
        let mut near = near;
        near.write_all(b"not even an order\n").unwrap();
        let mut answer = String::new();
        BufReader::new(near).read_line(&mut answer).unwrap();
        answer
    });
    refuse(far, 4711, stopping).await.unwrap();
    let reply: Reply = serde_json::from_str(&told.await.unwrap()).unwrap();
    assert_eq!(reply.reason, Some(Reason::NotAllowed));
    assert!(
        reply
            .error
            .unwrap()
            .contains("user id 4711 may not do this")
    );
}

#[test]
fn a_token_is_not_shown_by_mistake() {
    let answer = TokenAnswer {
        token: "hvs.canary".to_owned(),
        accessor: "name".to_owned(),
        ttl: 900,
    };
    let shown = format!("{answer:?}");
    assert!(
        shown.contains("name") && !shown.contains("canary"),
        "{shown}"
    );
}

//! A replica's connection to the leader.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{
    body::{Body, Bytes},
    http::{
        Request,
        header::{AUTHORIZATION, HOST},
    },
};
use evermesh_model::ObjectRef;
use futures::StreamExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;

use super::{PeerReport, SILENCE_TIMEOUT};
use crate::{
    effect::{ack_count::AckCount, key::ReplicaKey},
    throttle::LogThrottle,
};

/// Lines that may wait to be sent; a connection with more is closed. Enough for the first report of 100,000 objects.
const QUEUED_LINES: usize = 512;
/// Objects per line.
const OBJECTS_PER_LINE: usize = 256;

/// The connection to the leader, if there is one.
pub(in crate::effect) struct PeerClient {
    /// The leader's identity, and the sender of the lines that become the request body.
    connection: Option<(String, mpsc::Sender<Bytes>)>,
    failure_log: Arc<LogThrottle>,
}

impl Default for PeerClient {
    fn default() -> Self {
        Self {
            connection: None,
            failure_log: Arc::new(LogThrottle::once_a_minute()),
        }
    }
}

impl PeerClient {
    pub(in crate::effect) fn is_connected_to(&self, leader: &str) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|(name, lines)| name == leader && !lines.is_closed())
    }

    /// Opens a request to the leader as replica `identity`.
    pub(in crate::effect) fn connect(
        &mut self,
        leader: &str,
        address: SocketAddr,
        (identity, key): (&str, &ReplicaKey),
    ) {
        let (lines, body) = mpsc::channel(QUEUED_LINES);
        self.connection = Some((leader.to_owned(), lines));
        let path = format!("/replicas/{leader}/{identity}");
        let key = key.clone();
        let failure_log = Arc::clone(&self.failure_log);
        tokio::spawn(async move {
            if let Err(error) = post(address, &path, &key, body).await
                && let Some(suppressed) = failure_log.pass()
            {
                tracing::warn!(%address, %error, suppressed, "cannot report ACK counts to the leader; trying again");
            }
        });
    }

    /// Sends counts; an empty list is a heartbeat. Disconnects if the leader does not keep up, so that the next
    /// connection begins with a full report.
    pub(in crate::effect) fn send<'a>(
        &mut self,
        counts: impl Iterator<Item = (&'a ObjectRef, Option<&'a AckCount>)>,
    ) {
        let Some((_, lines)) = &self.connection else {
            return;
        };
        let reports: Vec<PeerReport> = counts
            .map(|(object, count)| PeerReport {
                object: object.to_string(),
                count: count.cloned(),
            })
            .collect();
        let heartbeat: &[PeerReport] = &[];
        let chunks = reports.chunks(OBJECTS_PER_LINE);
        let mut chunks = chunks.chain(reports.is_empty().then_some(heartbeat));
        let is_queued = chunks.all(|reports| {
            let line = serde_json::to_vec(reports).map(|mut line| {
                line.push(b'\n');
                Bytes::from(line)
            });
            line.is_ok_and(|line| lines.try_send(line).is_ok())
        });
        if !is_queued {
            self.disconnect();
        }
    }

    pub(in crate::effect) fn disconnect(&mut self) {
        self.connection = None;
    }
}

/// Sends one request whose body is the lines, and returns when it is answered.
async fn post(
    address: SocketAddr,
    path: &str,
    key: &ReplicaKey,
    lines: mpsc::Receiver<Bytes>,
) -> anyhow::Result<()> {
    let stream = time::timeout(SILENCE_TIMEOUT, TcpStream::connect(address)).await??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let body = Body::from_stream(ReceiverStream::new(lines).map(Ok::<_, Infallible>));
    let request = Request::post(path)
        .header(HOST, address.to_string())
        .header(AUTHORIZATION, format!("Bearer {}", key.secret()))
        .body(body)?;
    let (answer, connection) = tokio::join!(sender.send_request(request), connection);
    connection?;
    let status = answer?.status();
    anyhow::ensure!(status.is_success(), "the leader answered {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use evermesh_testkit::{port::reserve_addresses, wait::eventually};

    use super::*;
    use crate::effect::test_log::TestLog;

    #[tokio::test]
    async fn leader_that_cannot_be_reached_is_logged_once_a_minute() {
        let log = TestLog::start();
        let [nobody] = reserve_addresses().unwrap();
        let mut client = PeerClient::default();
        for _ in 0..3 {
            client.connect("a", nobody, ("b", &ReplicaKey::new().unwrap()));
            let limit = Duration::from_secs(30);
            let ended = async || !client.is_connected_to("a");
            eventually("the end of the attempt", limit, ended).await;
        }
        let lines: Vec<usize> = log.lines_by_cause().into_values().collect();
        assert_eq!(lines, [1]);
    }

    #[test]
    fn report_without_a_leader_reads_no_count() {
        let mut client = PeerClient::default();
        let unread = std::iter::repeat_with(|| panic!("a count was read"));
        client.send(unread.take(1));
    }
}

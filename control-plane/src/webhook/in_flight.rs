//! The memory of admission requests that are being read or answered.
//!
//! Every caller that reaches the port can send requests. Bytes are counted as they arrive, and what the objects take
//! once they are parsed is counted before they are. A request that does not fit is answered with 503, and the API server
//! tells the user to try again.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::StatusCode,
};
use futures::StreamExt;
use tokio::time::timeout;

/// Limit of a body in bytes. The API server accepts objects of up to 3 MiB, and an update contains two.
pub(super) const BODY_LIMIT: usize = 7 << 20;

/// Bytes of all requests that are in memory.
const IN_FLIGHT_LIMIT: usize = 64 << 20;

/// Longest time from the head of a request to the end of its body.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The bytes that all requests take.
#[derive(Debug, Default)]
pub(super) struct InFlightBytes(AtomicUsize);

/// The bytes that one request takes, given back when it is dropped.
#[derive(Debug)]
pub(super) struct RequestRoom {
    all: Arc<InFlightBytes>,
    bytes: usize,
}

/// The reason why a body was not read, with the HTTP status of the answer.
pub(super) type UnreadBody = (StatusCode, &'static str);

const FULL: UnreadBody = (
    StatusCode::SERVICE_UNAVAILABLE,
    "too many admission requests are open; try again later\n",
);

impl InFlightBytes {
    /// Reads a body of at most [`BODY_LIMIT`] within [`BODY_TIME`].
    pub(super) async fn read(
        self: &Arc<Self>,
        body: Body,
    ) -> Result<(Vec<u8>, RequestRoom), UnreadBody> {
        let too_large = (
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body has more than 7 MiB, the limit of an admission request\n",
        );
        if body.size_hint().lower() > BODY_LIMIT as u64 {
            return Err(too_large);
        }
        let reading = async {
            let mut room = RequestRoom {
                all: Arc::clone(self),
                bytes: 0,
            };
            let mut bytes = Vec::new();
            let mut chunks = pin!(body.into_data_stream());
            while let Some(chunk) = chunks.next().await {
                let broken = |_| (StatusCode::BAD_REQUEST, "the body is not complete\n");
                let chunk = chunk.map_err(broken)?;
                if bytes.len() + chunk.len() > BODY_LIMIT {
                    return Err(too_large);
                }
                room.grow(chunk.len())?;
                bytes.extend_from_slice(&chunk);
            }
            Ok((bytes, room))
        };
        let late = |_| {
            (
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive within 10 s\n",
            )
        };
        timeout(BODY_TIME, reading).await.map_err(late)?
    }
}

impl RequestRoom {
    /// Takes more room.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), UnreadBody> {
        self.bytes += bytes;
        let before = self.all.0.fetch_add(bytes, Relaxed);
        if before + bytes > IN_FLIGHT_LIMIT {
            return Err(FULL);
        }
        Ok(())
    }
}

impl Drop for RequestRoom {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use futures::stream;

    use super::*;

    fn body(chunks: usize) -> Body {
        let chunk = Bytes::from(vec![b' '; 1 << 20]);
        let chunks = (0..chunks).map(move |_| Ok::<_, std::io::Error>(chunk.clone()));
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn requests_share_a_limit_and_give_their_room_back() {
        let all = Arc::<InFlightBytes>::default();
        let mut open = Vec::new();
        for _ in 0..9 {
            open.push(all.read(body(7)).await.unwrap());
        }
        assert_eq!(all.read(body(2)).await.unwrap_err(), FULL);
        open.pop();
        all.read(body(7)).await.unwrap();
        open.clear();
        assert_eq!(all.0.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn body_without_a_length_is_read_up_to_the_limit() {
        let all = Arc::<InFlightBytes>::default();
        let (status, _) = all.read(body(8)).await.unwrap_err();
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(all.0.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_body_is_given_up_after_ten_seconds() {
        let all = Arc::<InFlightBytes>::default();
        let half = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
        let body = Body::from_stream(half.chain(stream::pending()));
        let begin = tokio::time::Instant::now();
        let (status, _) = all.read(body).await.unwrap_err();
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(begin.elapsed().as_secs(), 10);
        assert_eq!(all.0.load(Relaxed), 0);
    }
}

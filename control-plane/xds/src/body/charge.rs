//! Counts what one stream makes the server hold, as a part of its connection.

use std::sync::Arc;

use bytes::Bytes;
use http::request;

use crate::fair_share::Holding;

/// Bytes that every stream takes.
const STREAM_BYTES: usize = 8 << 10;

/// The bytes of a stream, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    /// Absent without a connection that is limited.
    connection: Option<Arc<Holding>>,
    incomplete_request: usize,
    subscriptions: usize,
}

/// A response that is counted until HTTP/2 has sent it.
struct UnsentResponse {
    bytes: Bytes,
    connection: Arc<Holding>,
}

impl Charge {
    /// The charge of a new stream.
    pub(crate) fn of(parts: &request::Parts) -> Self {
        Self::new(parts.extensions.get().cloned())
    }

    fn new(connection: Option<Arc<Holding>>) -> Self {
        if let Some(connection) = &connection {
            connection.change(0, STREAM_BYTES);
        }
        Self {
            connection,
            incomplete_request: 0,
            subscriptions: 0,
        }
    }

    /// Counts the bytes of a request that has not arrived completely.
    pub(super) fn incomplete_request(&mut self, bytes: usize) {
        self.change(self.incomplete_request, bytes);
        self.incomplete_request = bytes;
    }

    /// Counts what the stream keeps of its requests.
    pub(super) fn subscriptions(&mut self, bytes: usize) {
        self.change(self.subscriptions, bytes);
        self.subscriptions = bytes;
    }

    /// Counts a response until it is dropped.
    pub(super) fn until_sent(&self, bytes: Bytes) -> Bytes {
        match &self.connection {
            Some(connection) => {
                connection.change(0, bytes.len());
                let connection = Arc::clone(connection);
                Bytes::from_owner(UnsentResponse { bytes, connection })
            }
            None => bytes,
        }
    }

    fn change(&self, before: usize, after: usize) {
        if let Some(connection) = &self.connection {
            connection.change(before, after);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.change(
            STREAM_BYTES + self.incomplete_request + self.subscriptions,
            0,
        );
    }
}

impl AsRef<[u8]> for UnsentResponse {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for UnsentResponse {
    fn drop(&mut self) {
        self.connection.change(self.bytes.len(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fair_share::FairShare;

    #[test]
    fn everything_that_a_stream_holds_is_counted_until_it_is_dropped() {
        let all = FairShare::new("bytes", 1 << 20);
        let connection = Arc::new(all.enter(None, 100, &Arc::default()));
        let mut charge = Charge::new(Some(connection));
        assert_eq!(all.total(), 100 + STREAM_BYTES);
        charge.incomplete_request(50);
        charge.incomplete_request(20);
        charge.subscriptions(1_000);
        assert_eq!(all.total(), 100 + STREAM_BYTES + 1_020);
        let response = charge.until_sent(Bytes::from_static(&[7; 300]));
        assert_eq!(response, [7; 300].as_slice());
        let rest = response.slice(100..);
        drop(response);
        assert_eq!(all.total(), 100 + STREAM_BYTES + 1_320);
        drop(rest);
        assert_eq!(all.total(), 100 + STREAM_BYTES + 1_020);
        drop(charge);
        assert_eq!(all.total(), 0);
    }
}

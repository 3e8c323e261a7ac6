//! Requests of more than [`XdsLimits::opening_bytes`]: the room that they take while they are read, and what may be
//! decoded of them.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use evermesh_proto::core;
use prost::Message as _;
use tokio::time::{self, Sleep};
use tonic::Status;

use crate::{
    connection::DiscoveryProtocol,
    limits::{AVERAGE_NAME_BYTES, XdsLimits},
    wire,
};

/// The bytes of large requests that are being read, over all streams of a server.
#[derive(Debug, Default)]
pub(crate) struct LargeRequests(AtomicUsize);

/// A large request that is being read. Dropping it makes room.
#[derive(Debug)]
pub(crate) struct LargeRequest {
    all: Arc<LargeRequests>,
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl LargeRequests {
    /// Reserves room for a request of this size.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        bytes: usize,
        limits: &XdsLimits,
    ) -> Result<LargeRequest, Status> {
        let before = self.0.fetch_add(bytes, Relaxed);
        let request = LargeRequest {
            all: Arc::clone(self),
            bytes,
            deadline: Box::pin(time::sleep(limits.request_time)),
        };
        let limit = limits.large_request_bytes;
        if before.saturating_add(bytes) > limit {
            return Err(Status::resource_exhausted(format!(
                "the request has {bytes} bytes, and large requests of {before} bytes are being read, of at most {limit} bytes: connect again later"
            )));
        }
        Ok(request)
    }
}

impl LargeRequest {
    /// Ready once the request must have been complete.
    pub(crate) fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.deadline.as_mut().poll(context)
    }
}

impl Drop for LargeRequest {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Relaxed);
    }
}

/// The node at the start of a first request of which only the start has arrived.
pub(crate) fn node_at_start<P: DiscoveryProtocol>(start: &[u8]) -> Result<core::Node, Status> {
    let node = wire::fields(start).find(|field| field.number == P::NODE_FIELD);
    let Some(node) = node else {
        return Err(Status::resource_exhausted(format!(
            "the first {} bytes of the first request do not contain a complete `node`: send `node` before the resource names",
            start.len()
        )));
    };
    core::Node::decode(node.value).map_err(|error| undecodable(&error))
}

/// Refuses a request that [`check`] would refuse whatever it contains, before it is read.
pub(crate) fn check_length(
    length: usize,
    limits: &XdsLimits,
    name_limit: usize,
) -> Result<(), Status> {
    let (_, name_bytes) = names_of_a_request(name_limit);
    let limit = name_bytes.saturating_add(limits.opening_bytes);
    if length > limit {
        return Err(Status::resource_exhausted(format!(
            "the request has {length} bytes, which exceeds the limit of {limit} bytes for the configuration of the proxy: subscribe to fewer names, or restart the proxy"
        )));
    }
    Ok(())
}

/// Largest number of names of a request, and of their bytes: an incremental request can subscribe to names, unsubscribe
/// from others and tell versions.
fn names_of_a_request(name_limit: usize) -> (usize, usize) {
    let names = name_limit.saturating_mul(3);
    (names, names.saturating_mul(AVERAGE_NAME_BYTES))
}

/// Checks what decoding a request would allocate: a decoded message can be many times larger than its bytes.
pub(crate) fn check<P: DiscoveryProtocol>(
    request: &[u8],
    limits: &XdsLimits,
    name_limit: usize,
) -> Result<(), Status> {
    let (mut names, mut name_bytes, mut other) = (0_usize, 0_usize, 0_usize);
    for field in wire::fields(request) {
        if P::NAME_FIELDS.contains(&field.number) {
            names += 1;
            name_bytes += field.size;
        } else {
            other += field.size;
        }
    }
    let limit = limits.opening_bytes;
    if other > limit {
        return Err(Status::resource_exhausted(format!(
            "the request has {other} bytes besides resource names, which exceeds the limit of {limit} bytes: shorten the node and the error message"
        )));
    }
    let (limit, byte_limit) = names_of_a_request(name_limit);
    if names > limit || name_bytes > byte_limit {
        return Err(Status::resource_exhausted(format!(
            "the request lists {names} names of {name_bytes} bytes, which exceeds the limit of {limit} names, or of {AVERAGE_NAME_BYTES} bytes for each of so many, for the configuration of the proxy: subscribe to fewer names, or restart the proxy"
        )));
    }
    Ok(())
}

/// The status for a request that is not a valid message.
pub(crate) fn undecodable(error: &prost::DecodeError) -> Status {
    Status::invalid_argument(format!("cannot decode the discovery request: {error}"))
}

#[cfg(test)]
mod tests {
    use evermesh_proto::{discovery::DeltaDiscoveryRequest, pb::google::rpc};
    use tonic::Code;

    use super::*;
    use crate::Delta;

    #[tokio::test]
    async fn room_is_limited_and_comes_back() {
        let limits = XdsLimits {
            large_request_bytes: 100,
            ..XdsLimits::default()
        };
        let all = Arc::<LargeRequests>::default();
        let first = all.reserve(60, &limits).unwrap();
        let _second = all.reserve(40, &limits).unwrap();
        let refused = all.reserve(1, &limits).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        drop(first);
        let _third = all.reserve(60, &limits).unwrap();
    }

    #[test]
    fn names_and_everything_else_are_limited_before_decoding() {
        let limits = XdsLimits {
            opening_bytes: 100,
            ..XdsLimits::default()
        };
        let check = |request: &DeltaDiscoveryRequest| {
            let checked = check::<Delta>(&request.encode_to_vec(), &limits, 2);
            checked.map_err(|status| status.code())
        };
        let names = |count, length| DeltaDiscoveryRequest {
            resource_names_subscribe: vec!["x".repeat(length); count],
            ..DeltaDiscoveryRequest::default()
        };
        assert_eq!(check(&names(6, 200)), Ok(()));
        assert_eq!(check(&names(7, 200)), Err(Code::ResourceExhausted));
        assert_eq!(check(&names(1, 1_500)), Ok(()));
        assert_eq!(check(&names(6, 256)), Err(Code::ResourceExhausted));
        let words = |length| DeltaDiscoveryRequest {
            error_detail: Some(rpc::Status {
                message: "x".repeat(length),
                ..rpc::Status::default()
            }),
            ..DeltaDiscoveryRequest::default()
        };
        assert_eq!(check(&words(90)), Ok(()));
        assert_eq!(check(&words(100)), Err(Code::ResourceExhausted));
        let largest = 6 * AVERAGE_NAME_BYTES + 100;
        check_length(largest, &limits, 2).unwrap();
        check_length(largest + 1, &limits, 2).unwrap_err();
    }
}

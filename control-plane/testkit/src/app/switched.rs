//! Answers that a test switches while the server runs: the status for a path, and the state of the gRPC health service.
//!
//! ```text
//! GET /test-app/switch?path=/ready&status=503      from now on, requests for /ready get 503
//! ```
//!
//! The process has one state for all its ports.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use super::ResponseBody;

/// The path that switches the status for another path.
pub const SWITCH: &str = "/test-app/switch";

/// The path of the gRPC health service (`grpc.health.v1`). It reports `NOT_SERVING` if its status is not 200.
pub const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

static STATUSES: LazyLock<Mutex<BTreeMap<String, StatusCode>>> = LazyLock::new(Mutex::default);

pub(super) fn switch(path: &str, status: StatusCode) {
    let mut statuses = STATUSES.lock().unwrap_or_else(PoisonError::into_inner);
    statuses.insert(path.to_owned(), status);
}

/// The status for a path, if it was switched.
pub(super) fn status(path: &str) -> Option<StatusCode> {
    let statuses = STATUSES.lock().unwrap_or_else(PoisonError::into_inner);
    statuses.get(path).copied()
}

/// The answer of the gRPC health service.
pub(super) fn grpc_health() -> Response<ResponseBody> {
    let is_serving = status(GRPC_HEALTH).is_none_or(|status| status == StatusCode::OK);
    // A frame that is not compressed and has two bytes: field 1 of `HealthCheckResponse`, SERVING (1) or NOT_SERVING (2).
    let message = [0, 0, 0, 0, 2, 0x08, if is_serving { 1 } else { 2 }];
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [
        Ok(Frame::data(Bytes::copy_from_slice(&message))),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    let content_type = HeaderValue::from_static("application/grpc");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

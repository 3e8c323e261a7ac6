//! The client of the Kubernetes API server, and wrappers of it.
//!
//! [`connect`] makes the only client of the process. Each of its requests has a deadline, so a slow or silent API server
//! costs a failed request and never stops a task. Callers repeat requests, with the pauses of
//! [`RetryPauses`](crate::retry::RetryPauses).
//!
//! | request | deadline |
//! |---|---|
//! | TCP and TLS handshake | [`CONNECT_DEADLINE`] |
//! | list | [`LIST_DEADLINE`], for each page |
//! | watch | [`DEADLINE`] until it starts; afterwards kube restarts a watch that was silent for 295 s |
//! | any other | [`DEADLINE`], for the whole response |

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tokio::time::timeout;
use tower::service_fn;

use crate::{server_clock::ServerClock, throttle::Throttle};

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(5);
/// Deadline of a list: the 99th percentile that Kubernetes aims at for lists of a whole cluster.
const LIST_DEADLINE: Duration = Duration::from_secs(30);

/// Interval of requests about one kind. It limits also what no pause does, such as watches that the API server ends as
/// soon as they have begun.
const REQUEST_INTERVAL: Duration = Duration::from_millis(500);

/// Creates a client whose requests have deadlines, and whose responses set the clock.
pub(crate) fn connect(mut config: Config, clock: &Arc<ServerClock>) -> kube::Result<Client> {
    config.connect_timeout = Some(CONNECT_DEADLINE);
    // Without this, the client repeats requests up to 15 times before the caller learns of a failure.
    config.default_retry = false;
    let client = ClientBuilder::try_from(config)?.build();
    Ok(with_deadlines(&with_clock(&client, clock)))
}

/// Adds deadlines to a client.
pub(crate) fn with_deadlines(client: &Client) -> Client {
    wrapped(client, |client, request| async move {
        let query = request.uri().query().unwrap_or_default();
        let has = |parameter: &str| query.split('&').any(|it| it.starts_with(parameter));
        let is_watch = has("watch=true");
        let deadline = if has("limit=") {
            LIST_DEADLINE
        } else {
            DEADLINE
        };
        let answer = async {
            let response = client.send(request).await?;
            if is_watch {
                return Ok(response);
            }
            let (head, body) = response.into_parts();
            let body = Body::from(body.collect_bytes().await?);
            Ok(Response::from_parts(head, body))
        };
        timeout(deadline, answer).await.unwrap_or_else(|_elapsed| {
            let message = format!("the API server did not answer within {deadline:?}");
            Err(kube::Error::Service(message.into()))
        })
    })
}

/// Sets the clock by the date of each response.
pub(crate) fn with_clock(client: &Client, clock: &Arc<ServerClock>) -> Client {
    let clock = Arc::clone(clock);
    wrapped(client, move |client, request| {
        let clock = Arc::clone(&clock);
        async move {
            let response = client.send(request).await?;
            clock.set(response.headers());
            Ok(response)
        }
    })
}

/// A client that sends `burst` requests at once and then one per [`REQUEST_INTERVAL`]. Further pages of a list do not
/// count.
pub(crate) fn throttled(client: &Client, burst: u32) -> Client {
    let throttle = Arc::new(Throttle::new(REQUEST_INTERVAL, burst));
    wrapped(client, move |client, request| {
        let throttle = Arc::clone(&throttle);
        async move {
            let query = request.uri().query().unwrap_or_default();
            if !query.contains("&continue=") {
                throttle.acquire().await;
            }
            client.send(request).await
        }
    })
}

/// A client that lets `send` pass each request to `client`.
pub(crate) fn wrapped<Sending>(
    client: &Client,
    send: impl Fn(Client, Request<Body>) -> Sending + Send + 'static,
) -> Client
where
    Sending: Future<Output = kube::Result<Response<Body>>> + Send + 'static,
{
    let inner = client.clone();
    let service = service_fn(move |request| send(inner.clone(), request));
    Client::new(service, client.default_namespace())
}

#[cfg(test)]
mod tests;

//! Scripted answers: a request tells the server how to answer each of its attempts.
//!
//! ```text
//! x-script: 503 reset 200          answer to the first, second and every later attempt
//! x-script-key: retries-1          requests with the same key are attempts of one request
//! ```
//!
//! The script is in headers, because they survive rewrites of the path and gRPC. All ports of the process share the keys,
//! so that attempts count also if they reach different targets.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use http::{HeaderMap, StatusCode};
use tokio::sync::watch;

/// The header with the answers, separated by spaces.
pub const SCRIPT: &str = "x-script";

/// The header with the key.
pub const KEY: &str = "x-script-key";

/// The path that answers with the number of attempts for a key: `/test-app/attempts?key=KEY`.
pub const ATTEMPTS: &str = "/test-app/attempts";

/// The path that ends [`Answer::Hold`] and [`Answer::Stall`] for a key: `/test-app/release?key=KEY`.
pub const RELEASE: &str = "/test-app/release";

/// The answer of the server to one attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// `503`: this status.
    Status(StatusCode),
    /// `grpc-14`: status 200 and this `grpc-status` in the headers.
    Grpc(u16),
    /// `reset`: HTTP/2 resets the stream, HTTP/1.1 closes the connection, both without a response.
    Reset,
    /// `refuse`: HTTP/2 resets the stream with `REFUSED_STREAM`, HTTP/1.1 closes the connection.
    Refuse,
    /// `hold`: no response until [`RELEASE`].
    Hold,
    /// `stall`: the headers and a part of the body; the rest after [`RELEASE`].
    Stall,
}

impl Answer {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "reset" => Self::Reset,
            "refuse" => Self::Refuse,
            "hold" => Self::Hold,
            "stall" => Self::Stall,
            other => match other.strip_prefix("grpc-") {
                Some(code) => Self::Grpc(code.parse().context("a gRPC status is a number")?),
                None => Self::Status(other.parse().context("an HTTP status is a number")?),
            },
        })
    }
}

/// The part of a script that concerns one attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The number of the attempt, from 1.
    pub(super) number: usize,
    pub(super) answer: Answer,
    /// Whether the key was released.
    pub(super) released: watch::Receiver<bool>,
}

struct Attempts {
    count: usize,
    released: watch::Sender<bool>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            count: 0,
            released: watch::Sender::new(false),
        }
    }
}

static KEYS: LazyLock<Mutex<BTreeMap<String, Attempts>>> = LazyLock::new(Mutex::default);

fn with<T>(key: &str, f: impl FnOnce(&mut Attempts) -> T) -> T {
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    f(keys.entry(key.to_owned()).or_default())
}

/// Counts the attempt that has these headers; `None` if they contain no script.
pub(super) fn attempt(headers: &HeaderMap) -> Result<Option<Attempt>> {
    let Some(script) = headers.get(SCRIPT) else {
        return Ok(None);
    };
    let key = headers.get(KEY).context("the script has no key")?;
    let (number, released) = with(key.to_str()?, |attempts| {
        attempts.count += 1;
        (attempts.count, attempts.released.subscribe())
    });
    let answers: Vec<&str> = script.to_str()?.split_whitespace().collect();
    let answer = answers.get(number - 1).or(answers.last());
    Ok(Some(Attempt {
        number,
        answer: Answer::parse(answer.context("the script is empty")?)?,
        released,
    }))
}

/// The number of attempts for a key.
pub(super) fn attempts(key: &str) -> usize {
    with(key, |attempts| attempts.count)
}

/// Ends the held and stalled answers for a key, also later ones.
pub(super) fn release(key: &str) {
    with(key, |attempts| attempts.released.send_replace(true));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(script: &str, key: &str) -> HeaderMap {
        [(SCRIPT, script), (KEY, key)]
            .into_iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn attempts_of_a_key_get_the_answers_in_order_and_then_the_last_one() {
        let headers = headers("503 grpc-14 reset 200", "in-order");
        for expected in [
            (1, Answer::Status(StatusCode::SERVICE_UNAVAILABLE)),
            (2, Answer::Grpc(14)),
            (3, Answer::Reset),
            (4, Answer::Status(StatusCode::OK)),
            (5, Answer::Status(StatusCode::OK)),
        ] {
            let attempt = attempt(&headers).unwrap().unwrap();
            assert_eq!((attempt.number, attempt.answer), expected);
        }
        assert_eq!((attempts("in-order"), attempts("other")), (5, 0));
    }

    #[test]
    fn released_key_stays_released() {
        let headers = headers("hold", "released");
        let first = attempt(&headers).unwrap().unwrap();
        assert!(!*first.released.borrow());
        release("released");
        assert!(*first.released.borrow());
        let second = attempt(&headers).unwrap().unwrap();
        assert!(*second.released.borrow());
    }

    #[test]
    fn requests_without_a_script_are_not_counted() {
        let mut headers = headers("nonsense", "bad");
        attempt(&headers).expect_err("the script has an unknown word");
        headers.remove(SCRIPT);
        assert!(attempt(&headers).unwrap().is_none());
        assert_eq!(attempts("bad"), 1);
    }
}

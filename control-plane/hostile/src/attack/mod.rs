//! The attacks. Each is a crowd of visitors that do the same again and again until the attack is stopped.

mod http;
mod reviews;
mod xds;

use std::{
    fmt, fs,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use evermesh_testkit::fake_api_server::ApiServerBehaviour;
use futures::future::{BoxFuture, join_all};
use tokio::{
    runtime::Builder,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Form,
    target::{self, Ports, Target},
};

/// Number of addresses from which an attacker connects.
const ADDRESSES: usize = 8;

/// Longest time until each visitor has done its work once.
const ROUND: Duration = Duration::from_mins(5);

/// Pause of a visitor before it comes again.
const PAUSE: Duration = Duration::from_millis(20);

/// Priority of the attacker's thread. It runs on the cores of its target, which a real attacker does not.
const NICE: i32 = 10;

/// Bytes that an attack may add to the log.
const LOG_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// Admission requests of 6.9 MB that become very many JSON values, or very deep ones
    LargeReviews,
    /// Admission requests whose bodies never end
    HalfReviews,
    /// Admission requests with line ends, control characters and megabytes where the log quotes them
    HostileTexts,
    /// First messages on the xDS port that never end, on every connection and stream
    HalfMessages,
    /// As many connections with as many streams as possible, each with every cluster
    Streams,
    /// Subscriptions to 1,800,000 names, and on many streams to as many of the longest names as are allowed
    Names,
    /// Rejections of every resource with long messages, and long fields of the node
    Words,
    /// The same subscription again and again
    Repetitions,
    /// Streams that never read a response
    SlowReaders,
    /// HTTP/2 frames that make the server reset streams, and resets of streams that were just opened
    Resets,
    /// Floods of PING, SETTINGS and CONTINUATION frames
    Floods,
    /// Tokens that the API server rejects
    FakeTokens,
    /// Handshakes with the TLS of xDS and of the webhooks that never end
    Handshakes,
    /// Silent connections to every port
    Connections,
    /// Requests to the pages whose heads and bodies arrive byte by byte
    SlowRequests,
}

impl Attack {
    pub(crate) fn needs_tls(self) -> bool {
        self == Self::Handshakes
    }

    fn crowd(self, form: Form) -> Crowd {
        match self {
            Self::LargeReviews => reviews::large(form),
            Self::HalfReviews => reviews::half(form),
            Self::HostileTexts => reviews::hostile_texts(),
            Self::HalfMessages => xds::half_messages(form),
            Self::Streams => xds::streams(form),
            Self::Names => xds::names(form),
            Self::Words => xds::words(form),
            Self::Repetitions => xds::repetitions(form),
            Self::SlowReaders => xds::slow_readers(form),
            Self::Resets => xds::resets(form),
            Self::Floods => xds::floods(form),
            Self::FakeTokens => xds::fake_tokens(form),
            Self::Handshakes => http::handshakes(form),
            Self::Connections => http::connections(form),
            Self::SlowRequests => http::slow_requests(form),
        }
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value();
        f.write_str(name.as_ref().map_or("", |name| name.get_name()))
    }
}

type Work = Arc<dyn Fn(Visitor) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// Visitors that do the same at the same time.
struct Crowd {
    size: usize,
    work: Work,
}

impl Crowd {
    fn new<F>(size: usize, work: impl Fn(Visitor) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let work: Work = Arc::new(move |visitor| Box::pin(work(visitor)));
        Self { size, work }
    }
}

/// One client of the attacker.
#[derive(Clone)]
struct Visitor {
    number: usize,
    ports: Ports,
    /// Visitors that have not done their work yet.
    missing: Arc<AtomicUsize>,
    is_done: Arc<AtomicUsize>,
    rounds: Arc<watch::Sender<bool>>,
}

impl Visitor {
    /// The address from which the visitor connects.
    fn address(&self) -> Ipv4Addr {
        let last = u8::try_from(self.number % ADDRESSES).unwrap_or_default();
        Ipv4Addr::new(127, 0, 1, 1 + last)
    }

    /// Tells that the visitor has done its work, and only holds what it has.
    fn done(&self) {
        if self.is_done.swap(1, Relaxed) == 0 && self.missing.fetch_sub(1, Relaxed) == 1 {
            self.rounds.send_replace(true);
        }
    }

    async fn visit(self, work: Work) {
        loop {
            // An error is how the server ends what goes too far.
            let _ = work(self.clone()).await;
            self.done();
            sleep(PAUSE).await;
        }
    }
}

/// The connections of all addresses together that fill the share of the xDS port, and some more.
fn all_connections(form: Form) -> usize {
    part_of_descriptors(form, 10)
}

/// The same for the port of the webhooks, and for that of the pages.
fn all_requests(form: Form) -> usize {
    part_of_descriptors(form, 2)
}

fn part_of_descriptors(form: Form, sixteenths: usize) -> usize {
    usize::try_from(target::descriptors(form)).unwrap_or_default() / 16 * sixteenths
}

/// An attack that goes on until this is dropped.
pub(crate) struct Running {
    attack: Attack,
    rounds: watch::Receiver<bool>,
    log_bytes: u64,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(attack: Attack, form: Form, target: &Target) -> Result<Self> {
        if attack == Attack::FakeTokens {
            let slow = ApiServerBehaviour::Slow(target::REVIEW_TIME);
            target.api.switch_for("/apis/authentication.k8s.io/", slow);
        }
        let (sender, rounds) = watch::channel(false);
        let Crowd { size, work } = attack.crowd(form);
        let visitor = Visitor {
            number: 0,
            ports: target.ports.clone(),
            missing: Arc::new(AtomicUsize::new(size)),
            is_done: Arc::default(),
            rounds: Arc::new(sender),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().spawn(move || {
            // Without the right to a lower priority the attack is only harder.
            let _ = rustix::process::nice(NICE);
            let visitors = (0..size).map(|number| Visitor {
                number,
                is_done: Arc::default(),
                ..visitor.clone()
            });
            let visits = visitors.map(|visitor| visitor.visit(Arc::clone(&work)));
            runtime.block_on(stopped.run_until_cancelled(join_all(visits)));
        })?;
        Ok(Self {
            attack,
            rounds,
            log_bytes: log_bytes(target)?,
            stop,
            thread: Some(thread),
        })
    }

    /// Waits until each visitor has done its work once.
    pub(crate) async fn has_done_a_round(&self) -> Result<()> {
        let mut rounds = self.rounds.clone();
        let done = timeout(ROUND, rounds.wait_for(|is_done| *is_done)).await;
        done.with_context(|| {
            format!("`{}` did not finish a round within {ROUND:?}", self.attack)
        })??;
        Ok(())
    }

    /// Bounds of the log that the attack broke.
    pub(crate) fn findings(&self, target: &Target) -> Vec<String> {
        let mut findings = Vec::new();
        let grown = log_bytes(target)
            .unwrap_or(u64::MAX)
            .saturating_sub(self.log_bytes);
        if grown > LOG_BYTES {
            findings.push(format!("{grown} bytes of log, more than {LOG_BYTES}"));
        }
        let log = fs::read(target.control_plane.log_file()).unwrap_or_default();
        if log.contains(&b'\x1b') || String::from_utf8_lossy(&log).contains(reviews::FORGED_LINE) {
            findings.push("a line of the log that the attacker wrote".to_owned());
        }
        findings
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        // A visitor that panics is a visitor less.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn log_bytes(target: &Target) -> Result<u64> {
    Ok(fs::metadata(target.control_plane.log_file())?.len())
}

//! Divides a limit among the addresses of clients.
//!
//! Each connection takes an amount, such as one place or the bytes that its client makes the server hold. Nothing is
//! refused while there is room. Once all connections together take more than the limit, the address that takes most
//! loses connections, the largest first, until the rest fits. So a client loses nothing to one that takes more, however
//! many connections the other one opens; a client without an advantage over the others is the one that came last.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tracing::warn;

/// Least time between two log lines.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// A limit of the connections of a listener together.
#[derive(Debug)]
pub(crate) struct FairShare {
    /// The divided quantity, for the log.
    what: &'static str,
    limit: usize,
    shares: Mutex<Shares>,
}

#[derive(Debug, Default)]
struct Shares {
    total: usize,
    last_number: u64,
    /// Connections that had to end, and the last log line about it.
    ended: u64,
    last_warning: Option<Instant>,
    /// Clients of a Unix socket have no address and count as one.
    by_address: HashMap<Option<IpAddr>, AddressShare>,
}

#[derive(Debug, Default)]
struct AddressShare {
    total: usize,
    /// The key is a number that increases with each connection.
    connections: BTreeMap<u64, ConnectionShare>,
}

#[derive(Debug)]
struct ConnectionShare {
    amount: usize,
    end: Arc<ConnectionEnd>,
}

/// The amount of one connection, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Holding {
    all: Arc<FairShare>,
    address: Option<IpAddr>,
    number: u64,
}

/// Tells a connection that it has to end.
#[derive(Debug, Default)]
pub(crate) struct ConnectionEnd {
    is_due: AtomicBool,
    waker: AtomicWaker,
}

impl FairShare {
    pub(crate) fn new(what: &'static str, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            what,
            limit,
            shares: Mutex::default(),
        })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    #[cfg(test)]
    pub(crate) fn total(&self) -> usize {
        self.shares.lock().total
    }

    /// Adds a connection. It may have to end at once.
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        amount: usize,
        end: &Arc<ConnectionEnd>,
    ) -> Holding {
        let mut shares = self.shares.lock();
        shares.last_number += 1;
        let number = shares.last_number;
        let share = shares.by_address.entry(address).or_default();
        let end = Arc::clone(end);
        share.total += amount;
        share
            .connections
            .insert(number, ConnectionShare { amount, end });
        shares.total += amount;
        shares.shrink(self);
        Holding {
            all: Arc::clone(self),
            address,
            number,
        }
    }
}

impl Shares {
    /// Ends connections until the rest fits. O(addresses) for each.
    fn shrink(&mut self, all: &FairShare) {
        while self.total > all.limit {
            let addresses = self.by_address.iter();
            let heaviest = addresses.max_by_key(|(_, share)| (share.total, share.last_number()));
            let Some((&address, share)) = heaviest else {
                return;
            };
            let connections = share.connections.iter();
            let largest = connections.max_by_key(|(number, it)| (it.amount, **number));
            let Some((&number, _)) = largest else {
                return;
            };
            if let Some(end) = self.remove(address, number) {
                end.is_due.store(true, Relaxed);
                end.waker.wake();
                self.warn(all, address);
            }
        }
    }

    fn warn(&mut self, all: &FairShare, address: Option<IpAddr>) {
        self.ended += 1;
        let last = self.last_warning;
        if last.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL) {
            self.last_warning = Some(Instant::now());
            let (what, limit, ended) = (all.what, all.limit, self.ended);
            warn!(
                what,
                limit,
                ?address,
                ended,
                "closing connections of the addresses that take most, because all clients together take more than the limit; raise the limit of memory or of open files, or add replicas"
            );
        }
    }

    /// Removes a connection, unless that was done before.
    fn remove(&mut self, address: Option<IpAddr>, number: u64) -> Option<Arc<ConnectionEnd>> {
        let share = self.by_address.get_mut(&address)?;
        let removed = share.connections.remove(&number)?;
        share.total -= removed.amount;
        self.total -= removed.amount;
        if share.connections.is_empty() {
            self.by_address.remove(&address);
        }
        Some(removed.end)
    }
}

impl AddressShare {
    fn last_number(&self) -> Option<u64> {
        self.connections.keys().next_back().copied()
    }
}

impl Holding {
    /// Replaces a part of the amount. Has no effect once the connection has to end.
    pub(crate) fn change(&self, before: usize, after: usize) {
        if before == after {
            return;
        }
        let mut shares = self.all.shares.lock();
        let Some(share) = shares.by_address.get_mut(&self.address) else {
            return;
        };
        let Some(connection) = share.connections.get_mut(&self.number) else {
            return;
        };
        connection.amount = connection.amount - before + after;
        share.total = share.total - before + after;
        shares.total = shares.total - before + after;
        shares.shrink(&self.all);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.all.shares.lock().remove(self.address, self.number);
    }
}

impl ConnectionEnd {
    /// Ready with an error once the connection has to end.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<io::Error> {
        self.waker.register(context.waker());
        match self.check() {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    /// Fails once the connection has to end.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_due.load(Relaxed) {
            let message = "the connection takes more than its share";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Client {
        holding: Holding,
        end: Arc<ConnectionEnd>,
    }

    impl Client {
        fn enter(all: &Arc<FairShare>, address: u8, amount: usize) -> Self {
            let end = Arc::default();
            let address = Some(IpAddr::from([10, 0, 0, address]));
            let holding = all.enter(address, amount, &end);
            Self { holding, end }
        }

        fn is_open(&self) -> bool {
            self.end.check().is_ok()
        }
    }

    #[test]
    fn newest_connection_of_the_address_with_most_connections_ends() {
        let all = FairShare::new("places", 4);
        let first: Vec<_> = (0..4).map(|_| Client::enter(&all, 1, 1)).collect();
        assert!(
            first.iter().all(Client::is_open),
            "no other client needs room"
        );
        let second = [Client::enter(&all, 2, 1), Client::enter(&all, 2, 1)];
        let open: Vec<bool> = first.iter().map(Client::is_open).collect();
        assert_eq!(open, [true, true, false, false]);
        let third = Client::enter(&all, 2, 1);
        assert!(!third.is_open(), "its address would take most");
        let fourth = Client::enter(&all, 3, 1);
        assert!(fourth.is_open());
        assert!(
            !second[1].is_open(),
            "of two addresses with as many, the newer one"
        );
        drop((first, second, third, fourth));
        assert_eq!(all.total(), 0);
        assert!(all.shares.lock().by_address.is_empty());
    }

    #[test]
    fn largest_connection_of_the_largest_address_ends_once_all_take_too_much() {
        let all = FairShare::new("bytes", 100);
        let small = Client::enter(&all, 1, 10);
        let large = [Client::enter(&all, 2, 20), Client::enter(&all, 2, 30)];
        large[0].holding.change(0, 15);
        assert!(large.iter().all(Client::is_open));
        small.holding.change(0, 30);
        assert!(!large[0].is_open());
        assert!(large[1].is_open() && small.is_open());
        large[0].holding.change(15, 1_000);
        assert_eq!(all.total(), 70);
        small.holding.change(30, 0);
        drop(large);
        assert_eq!(all.total(), 10);
    }
}

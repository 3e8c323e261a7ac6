//! Lets the connections of a listener read in turns.
//!
//! One read can cause much work, such as 64 new streams with a response each, and a client can have thousands of
//! connections. So a connection that has something to read waits for its turn, and the next turn begins once the tasks
//! that the last one woke have run. The turn goes to the address whose turns took least time, so a client waits for one
//! turn of others, whatever they send. Connections that ended give their memory back before new work takes more.
//!
//! Without others that wait, a turn comes at once. Turns limit no rate: the next one begins as soon as the runtime has
//! nothing else to do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future, io, mem,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    task,
};
use tonic::transport::server::Connected;

/// Addresses without a waiting connection that are remembered for the time of their turns.
const IDLE_ADDRESSES: usize = 256;

/// The turns of the connections of a listener.
#[derive(Debug, Default)]
pub(crate) struct ReadTurns(Mutex<TurnQueue>);

#[derive(Debug, Default)]
struct TurnQueue {
    /// Whether a task gives turns. It ends once no connection waits.
    is_giving: bool,
    last_number: u64,
    /// The time of turns at which the last turn began. An address that did not wait begins here, not with what it saved.
    clock: Duration,
    /// Clients of a Unix socket have no address and count as one.
    by_address: HashMap<Option<IpAddr>, AddressTurns>,
    /// The addresses with waiting connections: the time of their turns, and the number of the first connection.
    order: BTreeSet<(Duration, u64, Option<IpAddr>)>,
}

#[derive(Debug, Default)]
struct AddressTurns {
    time: Duration,
    /// The key is a number that increases with each wait.
    waiting: BTreeMap<u64, Arc<Turn>>,
}

/// The turn for which a connection waits.
#[derive(Debug, Default)]
struct Turn {
    is_given: AtomicBool,
    waker: AtomicWaker,
}

impl ReadTurns {
    fn wait(self: &Arc<Self>, address: Option<IpAddr>) -> (u64, Arc<Turn>) {
        let mut queue = self.0.lock();
        let waiting = queue.wait(address);
        if !queue.is_giving {
            queue.is_giving = true;
            task::spawn(Arc::clone(self).give());
        }
        waiting
    }

    async fn give(self: Arc<Self>) {
        loop {
            let next = self.0.lock().next();
            let Some((address, turn)) = next else {
                return;
            };
            let began = Instant::now();
            turn.is_given.store(true, Relaxed);
            turn.waker.wake();
            // The task that reads, then the tasks that it wakes, such as those of new streams.
            behind_ready_tasks().await;
            behind_ready_tasks().await;
            // Sockets that became ready meanwhile, which the runtime otherwise looks at after 61 tasks.
            task::yield_now().await;
            self.0.lock().took(address, began.elapsed());
        }
    }
}

/// Resumes after all tasks that are ready now. [`task::yield_now`] resumes before most of them if there are many.
async fn behind_ready_tasks() {
    let mut is_behind = false;
    future::poll_fn(|context| {
        if mem::replace(&mut is_behind, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl TurnQueue {
    fn wait(&mut self, address: Option<IpAddr>) -> (u64, Arc<Turn>) {
        self.last_number += 1;
        let number = self.last_number;
        let of_address = self.by_address.entry(address).or_default();
        if of_address.waiting.is_empty() {
            of_address.time = of_address.time.max(self.clock);
            self.order.insert((of_address.time, number, address));
        }
        let turn = Arc::<Turn>::default();
        of_address.waiting.insert(number, Arc::clone(&turn));
        (number, turn)
    }

    /// The next turn, and the address that has it.
    fn next(&mut self) -> Option<(Option<IpAddr>, Arc<Turn>)> {
        let Some((time, number, address)) = self.order.pop_first() else {
            *self = Self {
                last_number: self.last_number,
                ..Self::default()
            };
            return None;
        };
        self.clock = time;
        let of_address = self.by_address.get_mut(&address)?;
        let turn = of_address.waiting.remove(&number)?;
        self.enter(address);
        Some((address, turn))
    }

    /// Adds the time of a turn of an address.
    fn took(&mut self, address: Option<IpAddr>, time: Duration) {
        self.leave(address);
        if let Some(of_address) = self.by_address.get_mut(&address) {
            of_address.time += time;
        }
        self.enter(address);
        if self.by_address.len() > self.order.len() + IDLE_ADDRESSES {
            let clock = self.clock;
            self.by_address
                .retain(|_, it| !it.waiting.is_empty() || it.time > clock);
        }
    }

    fn cancel(&mut self, address: Option<IpAddr>, number: u64) {
        self.leave(address);
        if let Some(of_address) = self.by_address.get_mut(&address) {
            of_address.waiting.remove(&number);
        }
        self.enter(address);
    }

    fn leave(&mut self, address: Option<IpAddr>) {
        if let Some(place) = self.place(address) {
            self.order.remove(&place);
        }
    }

    fn enter(&mut self, address: Option<IpAddr>) {
        if let Some(place) = self.place(address) {
            self.order.insert(place);
        }
    }

    /// The place of an address in the order, if a connection of it waits.
    fn place(&self, address: Option<IpAddr>) -> Option<(Duration, u64, Option<IpAddr>)> {
        let of_address = self.by_address.get(&address)?;
        let (&number, _) = of_address.waiting.first_key_value()?;
        Some((of_address.time, number, address))
    }
}

/// A socket that tells whether it has something to read.
pub trait ReadReadiness {
    /// Ready once a read would not wait, or would fail.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl ReadReadiness for TcpStream {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(context)
    }
}

impl ReadReadiness for UnixStream {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(context)
    }
}

/// A socket that is read in turns.
#[derive(Debug)]
pub struct TurnStream<S> {
    socket: S,
    address: Option<IpAddr>,
    turns: Arc<ReadTurns>,
    waiting: Option<(u64, Arc<Turn>)>,
}

impl<S> TurnStream<S> {
    pub(crate) fn new(socket: S, address: Option<IpAddr>, turns: &Arc<ReadTurns>) -> Self {
        Self {
            socket,
            address,
            turns: Arc::clone(turns),
            waiting: None,
        }
    }
}

impl<S: AsyncRead + ReadReadiness + Unpin> AsyncRead for TurnStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.waiting.is_none() {
            ready!(this.socket.poll_readable(context))?;
            this.waiting = Some(this.turns.wait(this.address));
        }
        if let Some((_, turn)) = &this.waiting {
            turn.waker.register(context.waker());
            if !turn.is_given.load(Relaxed) {
                return Poll::Pending;
            }
        }
        this.waiting = None;
        Pin::new(&mut this.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TurnStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for TurnStream<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.socket.connect_info()
    }
}

impl<S> Drop for TurnStream<S> {
    fn drop(&mut self) {
        if let Some((number, _)) = self.waiting.take() {
            self.turns.0.lock().cancel(self.address, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[allow(clippy::unnecessary_wraps)] // as the queue has it
    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn turn_goes_to_the_address_whose_turns_took_least_time() {
        let mut queue = TurnQueue::default();
        for _ in 0..10 {
            queue.wait(address(1));
        }
        let mut order = Vec::new();
        while let Some((address, _)) = queue.next() {
            order.push(address);
            queue.took(address, MILLISECOND);
            if order.len() == 3 {
                // A new address begins where the others are, and goes first once.
                queue.wait(self::address(2));
                queue.wait(self::address(2));
                queue.wait(self::address(2));
            }
        }
        let of = |last, count| vec![address(last); count];
        let expected = [of(1, 3), of(2, 1), of(1, 1), of(2, 1), of(1, 1), of(2, 1)];
        assert_eq!(order[..8], expected.concat());
        assert_eq!(order.len(), 13);
        assert!(queue.by_address.is_empty() && queue.order.is_empty());
    }

    #[test]
    fn expensive_turns_of_one_address_leave_many_cheap_ones_to_another() {
        let mut queue = TurnQueue::default();
        for _ in 0..100 {
            queue.wait(address(1));
            queue.wait(address(2));
        }
        let mut cheap = 0;
        for _ in 0..22 {
            let (next, _) = queue.next().unwrap();
            let is_cheap = next == address(2);
            cheap += usize::from(is_cheap);
            queue.took(next, MILLISECOND * if is_cheap { 1 } else { 10 });
        }
        assert!(cheap >= 19, "{cheap}");
    }

    #[test]
    fn connection_that_ends_leaves_its_place() {
        let mut queue = TurnQueue::default();
        let (first, _) = queue.wait(address(1));
        let (_, second) = queue.wait(address(1));
        queue.cancel(address(1), first);
        let (_, turn) = queue.next().unwrap();
        assert!(Arc::ptr_eq(&turn, &second));
        queue.took(address(1), MILLISECOND);
        assert!(queue.next().is_none());
    }

    #[tokio::test]
    async fn connections_of_one_address_do_not_read_all_before_another() {
        let turns = Arc::<ReadTurns>::default();
        let mut streams = Vec::new();
        for client in [1, 1, 1, 2] {
            let (server, mut peer) = UnixStream::pair().unwrap();
            peer.write_all(&[client]).await.unwrap();
            server.readable().await.unwrap();
            let stream = TurnStream::new(server, address(client), &turns);
            streams.push((stream, peer));
        }
        let order = Arc::<Mutex<Vec<u8>>>::default();
        let readers = streams.into_iter().map(|(mut stream, _peer)| {
            let order = Arc::clone(&order);
            async move {
                let read = stream.read_u8().await.unwrap();
                order.lock().push(read);
            }
        });
        readers.collect::<task::JoinSet<_>>().join_all().await;
        assert_eq!(*order.lock(), [1, 2, 1, 1]);
    }
}

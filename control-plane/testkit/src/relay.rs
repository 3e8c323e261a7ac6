//! TCP forwarders on loopback.
//!
//! [`PortForward`] leads to a server inside a lab. [`Relay`] leads to one of several targets; a test can change the
//! targets and cut the connections.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{broadcast, watch},
    task::JoinHandle,
};

use crate::http::Address;

/// A loopback port that forwards to a server inside a lab until it is dropped.
#[derive(Debug)]
pub struct PortForward {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl PortForward {
    pub async fn open(server: Address) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    client.set_nodelay(true)?;
                    // Dropping both streams tells both peers of an error.
                    copy_bidirectional(&mut client, &mut server.connect().await?).await
                });
            }
        });
        Ok(Self { address, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A relay on loopback; it stops with the tokio runtime that it was started on.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    targets: watch::Sender<Vec<SocketAddr>>,
    cut: broadcast::Sender<()>,
    count: Arc<AtomicUsize>,
}

impl Relay {
    /// Starts a relay that connects to the first of these targets that accepts.
    pub async fn start(targets: &[SocketAddr]) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let relay = Self {
            address: listener.local_addr()?,
            targets: watch::Sender::new(targets.to_vec()),
            cut: broadcast::channel(1).0,
            count: Arc::default(),
        };
        let (targets, cut) = (relay.targets.subscribe(), relay.cut.clone());
        tokio::spawn(accept(listener, targets, cut, Arc::clone(&relay.count)));
        Ok(relay)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the targets and cuts every open connection.
    pub fn switch(&self, targets: &[SocketAddr]) {
        self.targets.send_replace(targets.to_vec());
        self.cut();
    }

    /// Adds a target for new connections that no earlier target accepts.
    pub fn add(&self, target: SocketAddr) {
        self.targets.send_modify(|targets| targets.push(target));
    }

    /// Cuts every open connection.
    pub fn cut(&self) {
        // Fails only if no connection is open.
        let _ = self.cut.send(());
    }

    /// Number of connections that were cut so far.
    pub fn cuts(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    targets: watch::Receiver<Vec<SocketAddr>>,
    cut: broadcast::Sender<()>,
    count: Arc<AtomicUsize>,
) {
    while let Ok((mut client, _)) = listener.accept().await {
        let mut cut = cut.subscribe();
        let count = Arc::clone(&count);
        let targets = targets.borrow().clone();
        tokio::spawn(async move {
            let relayed = async {
                let mut server = TcpStream::connect(&*targets).await?;
                server.set_nodelay(true)?;
                client.set_nodelay(true)?;
                copy_bidirectional(&mut client, &mut server).await
            };
            tokio::select! {
                // Dropping both streams tells both peers of the end.
                _ = relayed => {}
                _ = cut.recv() => {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
}

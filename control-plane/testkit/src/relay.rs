//! TCP relays on loopback: one whose connections a test can cut and whose target it can change, and a plain one that
//! leads into a lab.

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

/// A port of loopback that leads to a server inside a lab, until it is dropped.
#[derive(Debug)]
pub struct PortForward {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl PortForward {
    /// Opens one; each connection is relayed to the server.
    pub async fn open(server: Address) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    client.set_nodelay(true)?;
                    // Both are told by the end of the streams, whoever hung up.
                    copy_bidirectional(&mut client, &mut server.connect().await?).await
                });
            }
        });
        Ok(Self { address, task })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A relay on loopback; it lives as long as the runtime that it was started on.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    targets: watch::Sender<Vec<SocketAddr>>,
    cut: broadcast::Sender<()>,
    count: Arc<AtomicUsize>,
}

impl Relay {
    /// Relays to the first of these targets that takes the connection.
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to these targets, and cuts those that there are.
    pub fn switch(&self, targets: &[SocketAddr]) {
        self.targets.send_replace(targets.to_vec());
        self.cut();
    }

    /// Leads new connections to this target too, where those before it do not take them.
    pub fn add(&self, target: SocketAddr) {
        self.targets.send_modify(|targets| targets.push(target));
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        // Without connections there is nothing to cut.
        let _ = self.cut.send(());
    }

    /// How many connections were cut.
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
                // Whoever hung up first, both are told by the end of the streams.
                _ = relayed => {}
                _ = cut.recv() => {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
}

//! A port of loopback that stays ours while no server listens on it.
//!
//! Must not listen itself: a connection to it is refused unless the server runs.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use tokio::net::TcpSocket;

/// A bound socket that does not listen; the kernel gives its port to nobody else, but to a server of the same user
/// that shares ports (`SO_REUSEPORT`).
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Port {
    /// Takes a free port.
    pub fn take() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseport(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self {
            address: socket.local_addr()?,
            _socket: socket,
        })
    }

    /// Where the server is to listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

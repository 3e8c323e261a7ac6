//! Reserved ports: loopback ports that no other process gets between choosing the number and starting the server.
//!
//! A reservation is a socket that is bound and never listens, so connections are refused until the server runs.
//! The kernel gives the port neither to `bind` with port 0 nor to an outgoing connection of another process.
//! A server can bind the port while it is reserved if its socket has `SO_REUSEADDR`, as tokio's and Python's listeners
//! have, or `SO_REUSEPORT` and the same user.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use tokio::net::TcpSocket;

/// A loopback port that stays reserved until this is dropped.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl ReservedPort {
    /// Reserves a free port.
    pub fn reserve() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self {
            address: socket.local_addr()?,
            _socket: socket,
        })
    }

    /// The address for the server to listen on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Reserves several ports until this process ends.
///
/// For servers that a caller starts and stops at the same address; a port is one file descriptor.
pub fn reserve_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let port = ReservedPort::reserve()?;
        *address = port.address();
        std::mem::forget(port);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn reserved_port_refuses_until_a_server_listens_on_it() {
        let port = ReservedPort::reserve().expect("loopback has a free port");
        TcpStream::connect(port.address()).expect_err("nothing listens yet");
        let _server = TcpListener::bind(port.address()).expect("the port is free for a server");
        TcpStream::connect(port.address()).expect("the server listens");
    }

    #[tokio::test]
    async fn reserved_ports_are_given_to_nobody_else() {
        let reserved = reserve_addresses::<50>().expect("loopback has free ports");
        let reserved: BTreeSet<_> = reserved.into_iter().collect();
        assert_eq!(reserved.len(), 50);
        let others: Vec<_> = (0..500)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"))
            .collect();
        for other in others {
            let address = other.local_addr().expect("a listener has an address");
            assert!(!reserved.contains(&address), "{address}");
        }
    }
}

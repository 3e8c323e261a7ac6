//! The connection that carries a stream.

use std::net::SocketAddr;

use http::{Extensions, request};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};

use crate::accept::LimitedConnectInfo;

/// The connection that carries a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transport {
    /// The client's IP address and port; absent on a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// Whether the client alone can read what is sent: TLS or a Unix socket.
    pub(super) is_private: bool,
}

impl Transport {
    pub(crate) fn of(parts: &request::Parts) -> Self {
        let tcp = parts.extensions.get::<TcpConnectInfo>();
        let tls = parts.extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
        let is_unix = parts.extensions.get::<UdsConnectInfo>().is_some();
        let info = tcp.or_else(|| tls.map(TlsConnectInfo::get_ref));
        Self {
            address: info.and_then(TcpConnectInfo::remote_addr),
            is_private: tls.is_some() || is_unix,
        }
    }
}

/// Replaces the extension of a [`LimitedConnection`](crate::LimitedConnection) by those of which it consists.
pub(crate) fn unwrap_transport(extensions: &mut Extensions) {
    unwrap::<TcpConnectInfo>(extensions);
    unwrap::<TlsConnectInfo<TcpConnectInfo>>(extensions);
    unwrap::<UdsConnectInfo>(extensions);
}

fn unwrap<I: Clone + Send + Sync + 'static>(extensions: &mut Extensions) {
    if let Some(info) = extensions.remove::<LimitedConnectInfo<I>>() {
        extensions.insert(info.transport);
        extensions.insert(info.held);
    }
}

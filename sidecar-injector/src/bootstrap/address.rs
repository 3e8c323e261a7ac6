//! Addresses of the form `HOST:PORT`.

use std::{fmt, str::FromStr};

/// A host name or an IP address with a port, such as `evermesh.evermesh-system:18000` or `[::1]:18000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The name or address. IPv6 addresses have no brackets here.
    pub host: String,
    /// The port, from 1 to 65535.
    pub port: u16,
}

/// The error for a text that is not of the form `HOST:PORT`; contains the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form HOST:PORT")]
pub struct InvalidHostPort(pub String);

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let bracketed = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'));
            let is_host = bracketed.is_some() || !host.contains(':');
            let host = bracketed.unwrap_or(host);
            let port = port.parse().ok().filter(|port| *port != 0)?;
            (is_host && !host.is_empty()).then(|| Self {
                host: host.to_owned(),
                port,
            })
        };
        parse().ok_or_else(|| InvalidHostPort(text.to_owned()))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

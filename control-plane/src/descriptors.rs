//! Divides the file descriptors of the process among its listeners, so that no client of one can exhaust another, and
//! gives a part of its memory to the clients of the xDS listeners.

use std::sync::Arc;

use evermesh_xds::ConnectionLimit;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::memory;

/// File descriptors that are assumed if the process has no limit.
const UNLIMITED: u64 = 1 << 20;

/// Sixteenths of the memory that the clients of the xDS port, and of the Unix socket, can take.
const XDS_MEMORY: usize = 4;
const SOCKET_MEMORY: usize = 1;

/// The places for connections of each listener. One sixteenth of the descriptors is left for files and for connections
/// that the process opens.
#[derive(Debug)]
pub(crate) struct ListenerShares {
    pub(crate) xds: Arc<ConnectionLimit>,
    pub(crate) socket: Arc<ConnectionLimit>,
    pub(crate) webhooks: Arc<ConnectionLimit>,
    pub(crate) metrics: Arc<ConnectionLimit>,
    pub(crate) admin: Arc<ConnectionLimit>,
}

impl ListenerShares {
    /// Raises the limit of file descriptors as far as the process may, and divides it.
    pub(crate) fn of_process() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        let descriptors = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => maximum,
            Err(_) => current,
        };
        Self::of(descriptors.unwrap_or(UNLIMITED), memory::limit_of_process())
    }

    fn of(descriptors: u64, memory: u64) -> Self {
        let number = |number| usize::try_from(number).unwrap_or(usize::MAX);
        let (descriptors, memory) = (number(descriptors), number(memory));
        let part = |sixteenths: usize| descriptors / 16 * sixteenths;
        Self {
            xds: ConnectionLimit::with_bytes(part(9), memory / 16 * XDS_MEMORY),
            socket: ConnectionLimit::with_bytes(part(3), memory / 16 * SOCKET_MEMORY),
            webhooks: ConnectionLimit::new(part(1)),
            metrics: ConnectionLimit::new(part(1)),
            admin: ConnectionLimit::new(part(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_leave_descriptors_for_everything_else() {
        let shares = ListenerShares::of(1024, 0);
        let ListenerShares {
            xds,
            socket,
            webhooks,
            metrics,
            admin,
        } = &shares;
        let limits = [xds, socket, webhooks, metrics, admin].map(|share| share.limit());
        assert_eq!(limits, [576, 192, 64, 64, 64]);
        assert_eq!(limits.iter().sum::<usize>(), 1024 - 64);
    }
}

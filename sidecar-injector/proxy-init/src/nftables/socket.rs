//! Sends messages to the kernel and reads its replies.

use std::time::Duration;

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::{NETFILTER, SocketAddrNetlink},
        recv, sendto, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::message::NftBatch;

/// Limit for a reply. The kernel may load modules before it replies.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// The type of replies, for errors and acknowledgements (`linux/netlink.h`).
const NLMSG_ERROR: u16 = 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    #[error(
        "the process is not permitted to change nftables rules: add the capability NET_ADMIN to the container (securityContext.capabilities.add: [NET_ADMIN])"
    )]
    NotPermitted,
    #[error(
        "the kernel does not support nftables with redirection: {object}: {errno}; load the modules nf_tables, nft_chain_nat, nft_redir and nft_fib, or use `--backend iptables` in an image with iptables"
    )]
    Unsupported { object: String, errno: Errno },
    #[error("the kernel rejected {object}: {errno}")]
    Rejected { object: String, errno: Errno },
}

impl NetlinkError {
    fn new(errno: Errno, object: &str) -> Self {
        let object = object.to_owned();
        match errno {
            Errno::PERM | Errno::ACCESS => Self::NotPermitted,
            Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => {
                Self::Unsupported { object, errno }
            }
            _ => Self::Rejected { object, errno },
        }
    }
}

/// Sends a batch and waits until the kernel has carried it out.
#[expect(clippy::needless_pass_by_value, reason = "a batch is sent once")]
pub(super) fn send(batch: NftBatch) -> Result<(), NetlinkError> {
    let failed = |errno| NetlinkError::new(errno, "a netlink socket");
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(NETFILTER),
    )
    .map_err(failed)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(REPLY_TIMEOUT)).map_err(failed)?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, batch.as_bytes(), SendFlags::empty(), &kernel).map_err(failed)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (read, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty()).map_err(failed)?;
        for (sequence, result) in KernelReplies(&buffer[..read]) {
            let object = batch.objects.get(sequence).map_or("", String::as_str);
            result.map_err(|errno| NetlinkError::new(errno, object))?;
            if sequence == batch.last_command() {
                return Ok(());
            }
        }
    }
}

/// The replies in a datagram: the sequence number of the message, and its result.
struct KernelReplies<'a>(&'a [u8]);

impl Iterator for KernelReplies<'_> {
    type Item = (usize, Result<(), Errno>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let header = self.0.first_chunk::<16>()?;
            let number = |at: usize| {
                u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
            };
            let length = usize::try_from(number(0)).ok()?;
            let sequence = usize::try_from(number(8)).ok()?;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let message = self.0.get(..length)?;
            self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
            if kind == NLMSG_ERROR {
                let code = message.get(16..)?.first_chunk::<4>()?;
                let code = i32::from_ne_bytes(*code);
                let result = match code {
                    0 => Ok(()),
                    _ => Err(Errno::from_raw_os_error(-code)),
                };
                return Some((sequence, result));
            }
            if message.is_empty() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(kind: u16, sequence: u32, code: i32) -> Vec<u8> {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(code.to_ne_bytes());
        bytes
    }

    #[test]
    fn replies_are_parsed_and_truncated_ones_ignored() {
        let bytes = [
            reply(NLMSG_ERROR, 3, -1),
            reply(9, 0, 0),
            reply(NLMSG_ERROR, 4, 0),
        ]
        .concat();
        let replies: Vec<_> = KernelReplies(&bytes).collect();
        assert_eq!(replies, [(3, Err(Errno::PERM)), (4, Ok(()))]);
        for length in 0..bytes.len() {
            let _ = KernelReplies(&bytes[..length]).count();
        }
        assert_eq!(KernelReplies(&[0; 16]).count(), 0);
    }

    #[test]
    fn errors_name_the_missing_capability_or_module() {
        let error = NetlinkError::new(Errno::PERM, "the table (IPv4)").to_string();
        assert!(error.contains("NET_ADMIN"), "{error}");
        let error = NetlinkError::new(Errno::NOENT, "APPMESH_EGRESS (IPv4)").to_string();
        assert!(error.contains("nft_chain_nat"), "{error}");
    }
}

//! Hands messages to the kernel, and reads what it makes of them.

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

use super::message::Batch;

/// Loading modules takes the kernel a moment.
const PATIENCE: Duration = Duration::from_secs(20);

/// `NLMSG_ERROR`: the kind of the kernel's answer, also of a good one.
const ANSWER: u16 = 2;

/// The kernel did not take the rules.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// A right is missing.
    #[error(
        "the kernel does not let this process change rules: it needs the capability NET_ADMIN (securityContext.capabilities.add: [NET_ADMIN])"
    )]
    NotPermitted,
    /// There is no nftables, or none that translates addresses.
    #[error(
        "the kernel has no nftables that can redirect, for {about}: {errno}; it needs the modules nf_tables, nft_chain_nat, nft_redir and nft_fib, or iptables and --backend iptables"
    )]
    Unsupported {
        /// What was asked of it.
        about: String,
        /// What it said.
        errno: Errno,
    },
    /// Anything else.
    #[error("the kernel refuses {about}: {errno}")]
    Other {
        /// What was asked of it.
        about: String,
        /// What it said.
        errno: Errno,
    },
}

impl Refusal {
    fn of(errno: Errno, about: &str) -> Self {
        let about = about.to_owned();
        match errno {
            Errno::PERM | Errno::ACCESS => Self::NotPermitted,
            Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => {
                Self::Unsupported { about, errno }
            }
            _ => Self::Other { about, errno },
        }
    }
}

/// Has the kernel carry it out.
#[expect(clippy::needless_pass_by_value, reason = "a batch is sent once")]
pub(super) fn send(batch: Batch) -> Result<(), Refusal> {
    let failed = |errno| Refusal::of(errno, "a netlink socket");
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(NETFILTER),
    )
    .map_err(failed)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).map_err(failed)?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, batch.as_bytes(), SendFlags::empty(), &kernel).map_err(failed)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (read, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty()).map_err(failed)?;
        for (sequence, result) in Answers(&buffer[..read]) {
            let about = batch.about.get(sequence).map_or("", String::as_str);
            result.map_err(|errno| Refusal::of(errno, about))?;
            if sequence == batch.last() {
                return Ok(());
            }
        }
    }
}

/// The answers in what was read: to which message, and what.
struct Answers<'a>(&'a [u8]);

impl Iterator for Answers<'_> {
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
            if kind == ANSWER {
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

    fn answer(kind: u16, sequence: u32, code: i32) -> Vec<u8> {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(code.to_ne_bytes());
        bytes
    }

    #[test]
    fn reads_answers() {
        let bytes = [answer(ANSWER, 3, -1), answer(9, 0, 0), answer(ANSWER, 4, 0)].concat();
        let answers: Vec<_> = Answers(&bytes).collect();
        assert_eq!(answers, [(3, Err(Errno::PERM)), (4, Ok(()))]);
        for length in 0..bytes.len() {
            let _ = Answers(&bytes[..length]).count();
        }
        assert_eq!(Answers(&[0; 16]).count(), 0);
    }

    #[test]
    fn says_what_is_missing() {
        let refusal = Refusal::of(Errno::PERM, "the table (IPv4)").to_string();
        assert!(refusal.contains("NET_ADMIN"), "{refusal}");
        let refusal = Refusal::of(Errno::NOENT, "APPMESH_EGRESS (IPv4)").to_string();
        assert!(refusal.contains("nft_chain_nat"), "{refusal}");
    }
}

//! Netlink messages that make and remove a table (`linux/netlink.h`, `linux/netfilter/nf_tables.h`). Pure.
//!
//! A message is a header and attributes; an attribute is a length, a type and bytes, or attributes again. Numbers are
//! in network order but for headers and for what a rule compares with.

use ipnet::IpNet;

use super::{PRIORITY, TABLE, sets};
use crate::{
    plan::Exempt,
    rules::{Chain, Family, Hook, Match, Rule, Verdict},
};

/// What a message does: it is `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_…`, but for a batch's ends.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0x0a00;
const DELETE_TABLE: u16 = 0x0a02;
const NEW_CHAIN: u16 = 0x0a03;
const NEW_RULE: u16 = 0x0a06;
const NEW_SET: u16 = 0x0a09;
const NEW_ELEMENTS: u16 = 0x0a0c;

/// `NFNL_SUBSYS_NFTABLES`: what a batch is of.
const NFTABLES: u16 = 10;

/// Flags of a message.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
/// New rules go to the end.
const APPEND: u16 = 0x800;

/// An attribute holds attributes.
const NESTED: u16 = 0x8000;

/// The type of what is in a list, of a value in data and of a verdict in data.
const ELEMENT: u16 = 1;
const VALUE: u16 = 1;
const VERDICT: u16 = 2;

/// The register in which an expression leaves what the next one reads.
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

/// `type inet_service` as `nft` numbers it.
const INET_SERVICE: u32 = 13;

/// Elements of a set in one message: the length of an attribute has 16 bits, an element takes 16 bytes.
const ELEMENTS: usize = 2048;

/// `IPPROTO_TCP`
const TCP: u8 = 6;

/// `RTN_LOCAL`: the type of an address of this host.
const LOCAL: u32 = 2;

/// Messages that take effect together or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// What each message is about, in order of their sequence numbers, which count from 0.
    pub(super) about: Vec<String>,
    /// Where the newest message and its flags begin.
    newest: usize,
}

/// Replaces the table of each family.
pub(super) fn replace(families: &[(Family, Vec<Chain>)]) -> Batch {
    let mut batch = Batch::begin();
    for (family, chains) in families {
        batch.remove_table(*family);
        batch.table(*family);
        for (name, ports) in sets(chains) {
            batch.set(*family, name, &ports.collect::<Vec<u16>>());
        }
        for chain in chains {
            batch.chain(*family, chain);
        }
    }
    batch.end()
}

/// Removes the table of a family, if there is one.
pub(super) fn remove(family: Family) -> Batch {
    let mut batch = Batch::begin();
    batch.remove_table(family);
    batch.end()
}

impl Batch {
    fn begin() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            about: Vec::new(),
            newest: 0,
        };
        batch.message(BATCH_BEGIN, 0, 0, NFTABLES, "the batch", |_| {});
        batch
    }

    /// The kernel is to answer the last message that it carries out.
    fn end(mut self) -> Self {
        let flags = self.newest + 6;
        let asked = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]) | ACK;
        self.bytes[flags..flags + 2].copy_from_slice(&asked.to_ne_bytes());
        self.message(BATCH_END, 0, 0, NFTABLES, "the batch", |_| {});
        self
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The sequence number that the kernel answers when all is done.
    pub(super) fn last(&self) -> usize {
        self.about.len() - 2
    }

    fn remove_table(&mut self, family: Family) {
        self.table(family);
        self.of(family, DELETE_TABLE, 0, "the table", |it| {
            it.string(1, TABLE);
        });
    }

    fn table(&mut self, family: Family) {
        self.of(family, NEW_TABLE, CREATE, "the table", |it| {
            it.string(1, TABLE);
            it.number(2, 0);
        });
    }

    fn set(&mut self, family: Family, name: &str, ports: &[u16]) {
        self.of(family, NEW_SET, CREATE, name, |it| {
            it.string(1, TABLE);
            it.string(2, name);
            it.number(3, 0);
            it.number(4, INET_SERVICE);
            it.number(5, 2);
            // A number of its own within the batch; nothing refers to it.
            it.number(10, 1);
        });
        for ports in ports.chunks(ELEMENTS) {
            self.of(family, NEW_ELEMENTS, CREATE, name, |it| {
                it.string(1, TABLE);
                it.string(2, name);
                it.nested(3, |it| {
                    for port in ports {
                        it.nested(ELEMENT, |it| it.value(1, &port.to_be_bytes()));
                    }
                });
            });
        }
    }

    fn chain(&mut self, family: Family, chain: &Chain) {
        let (hook, end) = match chain.hook {
            Hook::Prerouting => (0, 1),
            Hook::Output => (3, 2),
        };
        self.of(family, NEW_CHAIN, CREATE, chain.name, |it| {
            it.string(1, TABLE);
            it.string(3, chain.name);
            it.nested(4, |it| {
                it.number(1, hook);
                it.bytes(2, &PRIORITY.to_be_bytes());
            });
            // NF_ACCEPT
            it.number(5, 1);
            it.string(7, "nat");
        });
        self.rule(family, chain.name, |it| {
            it.expression("fib", |it| {
                it.number(1, REGISTER);
                // NFT_FIB_RESULT_ADDRTYPE of the source or the destination.
                it.number(2, 3);
                it.number(3, end);
            });
            it.compare(&LOCAL.to_ne_bytes());
            it.verdict(Verdict::Return);
        });
        for rule in &chain.rules {
            self.rule(family, chain.name, |it| it.rule_of(rule));
        }
    }

    fn rule(&mut self, family: Family, chain: &str, write: impl FnOnce(&mut Self)) {
        self.of(family, NEW_RULE, CREATE | APPEND, chain, |it| {
            it.string(1, TABLE);
            it.string(2, chain);
            it.nested(4, write);
        });
    }

    fn rule_of(&mut self, rule: &Rule) {
        match &rule.matches {
            Match::Any => self.tcp(),
            Match::Ports(set, _) => {
                self.tcp();
                // Of the transport header (2), from the third byte, two.
                self.payload(2, 2, 2);
                self.expression("lookup", |it| {
                    it.string(1, set);
                    it.number(2, REGISTER);
                });
            }
            Match::Network(network) => self.destination(*network),
            // NFT_META_SKUID, NFT_META_SKGID, NFT_META_MARK
            Match::Of(Exempt::Uid(uid)) => self.meta(10, &uid.to_ne_bytes()),
            Match::Of(Exempt::Gid(gid)) => self.meta(11, &gid.to_ne_bytes()),
            Match::Of(Exempt::Mark(mark)) => self.meta(3, &mark.to_ne_bytes()),
        }
        self.verdict(rule.verdict);
    }

    fn tcp(&mut self) {
        // NFT_META_L4PROTO
        self.meta(16, &[TCP]);
    }

    fn meta(&mut self, key: u32, value: &[u8]) {
        self.expression("meta", |it| {
            it.number(1, REGISTER);
            it.number(2, key);
        });
        self.compare(value);
    }

    /// The destination address is in this network.
    fn destination(&mut self, network: IpNet) {
        match network {
            IpNet::V4(network) => {
                self.payload(1, 16, 4);
                self.masked(&network.netmask().octets(), &network.network().octets());
            }
            IpNet::V6(network) => {
                self.payload(1, 24, 16);
                self.masked(&network.netmask().octets(), &network.network().octets());
            }
        }
    }

    fn masked<const N: usize>(&mut self, mask: &[u8; N], value: &[u8; N]) {
        if mask.iter().any(|byte| *byte != 0xff) {
            self.expression("bitwise", |it| {
                it.number(1, REGISTER);
                it.number(2, REGISTER);
                it.number(3, u32::try_from(N).unwrap_or_default());
                it.value(4, mask);
                it.value(5, &[0; N]);
            });
        }
        self.compare(value);
    }

    fn payload(&mut self, header: u32, offset: u32, length: u32) {
        self.expression("payload", |it| {
            it.number(1, REGISTER);
            it.number(2, header);
            it.number(3, offset);
            it.number(4, length);
        });
    }

    /// What was loaded is this.
    fn compare(&mut self, value: &[u8]) {
        self.expression("cmp", |it| {
            it.number(1, REGISTER);
            // NFT_CMP_EQ
            it.number(2, 0);
            it.value(3, value);
        });
    }

    fn verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Return => self.expression("immediate", |it| {
                it.number(1, VERDICT_REGISTER);
                it.nested(2, |it| {
                    // NFT_RETURN
                    it.nested(VERDICT, |it| it.bytes(1, &(-5_i32).to_be_bytes()));
                });
            }),
            Verdict::Redirect(port) => {
                self.expression("immediate", |it| {
                    it.number(1, REGISTER);
                    it.value(2, &port.to_be_bytes());
                });
                self.expression("redir", |it| {
                    it.number(1, REGISTER);
                    // NF_NAT_RANGE_PROTO_SPECIFIED
                    it.number(3, 2);
                });
            }
        }
    }

    fn expression(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.nested(ELEMENT, |it| {
            it.string(1, name);
            it.nested(2, write);
        });
    }

    /// A message about a table of this family.
    fn of(
        &mut self,
        family: Family,
        kind: u16,
        flags: u16,
        about: &str,
        write: impl FnOnce(&mut Self),
    ) {
        // NFPROTO_IPV4, NFPROTO_IPV6
        let (family, name) = match family {
            Family::V4 => (2, "IPv4"),
            Family::V6 => (10, "IPv6"),
        };
        let about = format!("{about} ({name})");
        self.message(kind, flags, family, 0, &about, write);
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        about: &str,
        write: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        let sequence = u32::try_from(self.about.len()).unwrap_or(u32::MAX);
        self.newest = start;
        self.about.push(about.to_owned());
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        write(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        write(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Data that is a value.
    fn value(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |it| it.bytes(VALUE, value));
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.bytes(kind, &number.to_be_bytes());
    }

    fn string(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// An attribute of these bytes, filled up to a multiple of four.
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

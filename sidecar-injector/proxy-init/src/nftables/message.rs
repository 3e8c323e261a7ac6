//! Netlink messages that create and remove a table (`linux/netlink.h`, `linux/netfilter/nfnetlink.h`,
//! `linux/netfilter/nf_tables.h`). Constants have the kernel's names.
//!
//! A message is a header and attributes. An attribute is a length, a type and either bytes or further attributes.
//! Numbers are in network byte order, except those of headers and the values that a rule compares with.
//!
//! No I/O: [`super::socket`] sends the batch.

use ipnet::IpNet;

use super::{PRIORITY, TABLE, sets};
use crate::{
    plan::Exempt,
    rules::{Chain, Hook, Match, NetfilterFamily, Rule, RuleVerdict},
};

/// Types of messages: `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_…`, except at the ends of a batch.
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWTABLE: u16 = 0x0a00;
const NFT_MSG_DELTABLE: u16 = 0x0a02;
const NFT_MSG_NEWCHAIN: u16 = 0x0a03;
const NFT_MSG_NEWRULE: u16 = 0x0a06;
const NFT_MSG_NEWSET: u16 = 0x0a09;
const NFT_MSG_NEWSETELEM: u16 = 0x0a0c;

/// The subsystem of a batch, in the `res_id` of its ends.
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// Address families of messages.
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// Flags of messages.
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// Offset of the flags in a message, in bytes: they follow the length and the type.
const FLAGS_OFFSET: usize = 6;

/// Flag in the type of an attribute that contains attributes.
const NLA_F_NESTED: u16 = 0x8000;

/// `enum nft_list_attributes`
const NFTA_LIST_ELEM: u16 = 1;

/// `enum nft_data_attributes`, `enum nft_verdict_attributes`
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;

/// `enum nft_table_attributes`
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;

/// `enum nft_set_attributes`
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_ID: u16 = 10;

/// `enum nft_set_elem_list_attributes`, `enum nft_set_elem_attributes`
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;

/// `enum nft_chain_attributes`, `enum nft_hook_attributes`
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;

/// `enum nf_inet_hooks`
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_OUT: u32 = 3;

/// Verdicts of chains and rules.
const NF_ACCEPT: u32 = 1;
const NFT_RETURN: i32 = -5;

/// `enum nft_rule_attributes`, `enum nft_expr_attributes`
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

/// `enum nft_registers`: expressions pass values through register 1; register 0 holds the verdict.
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;

/// `enum nft_fib_attributes`, `enum nft_fib_result`, `enum nft_fib_flags`
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_SADDR: u32 = 1;
const NFTA_FIB_F_DADDR: u32 = 2;

/// `enum nft_lookup_attributes`
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;

/// `enum nft_meta_attributes`, `enum nft_meta_keys`
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFT_META_MARK: u32 = 3;
const NFT_META_SKUID: u32 = 10;
const NFT_META_SKGID: u32 = 11;
const NFT_META_L4PROTO: u32 = 16;

/// `enum nft_payload_attributes`, `enum nft_payload_bases`
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;

/// `enum nft_bitwise_attributes`
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;

/// `enum nft_cmp_attributes`, `enum nft_cmp_ops`
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFT_CMP_EQ: u32 = 0;

/// `enum nft_immediate_attributes`
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;

/// `enum nft_redir_attributes`; the flag is of `linux/netfilter/nf_nat.h`.
const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
const NFTA_REDIR_FLAGS: u16 = 3;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;

/// The number of the type `inet_service`, as `nft` stores it with a set.
const INET_SERVICE: u32 = 13;

/// Length of a port, in bytes.
const PORT_LENGTH: u32 = 2;

/// Offset of the destination port in a TCP header, in bytes.
const TCP_DESTINATION_PORT: u32 = 2;

/// Offset of the destination address in an IPv4 and an IPv6 header, in bytes.
const IPV4_DESTINATION: u32 = 16;
const IPV6_DESTINATION: u32 = 24;

/// Limit for the elements in one message: an attribute has at most 65,535 bytes, and an element takes 16.
const ELEMENTS_PER_MESSAGE: usize = 2048;

/// `linux/in.h`
const IPPROTO_TCP: u8 = 6;

/// `linux/rtnetlink.h`: the type of an address of this host.
const RTN_LOCAL: u32 = 2;

/// Messages that the kernel carries out together or not at all.
#[derive(Debug)]
pub(super) struct NftBatch {
    bytes: Vec<u8>,
    /// The object of each message, for errors. A message's sequence number is its index.
    pub(super) objects: Vec<String>,
    /// Offset of the last message.
    last_message: usize,
}

/// The batch that replaces the table of each family.
pub(super) fn replace(families: &[(NetfilterFamily, Vec<Chain>)]) -> NftBatch {
    let mut batch = NftBatch::begin();
    for (family, chains) in families {
        batch.remove_table(*family);
        batch.add_table(*family);
        for (name, ports) in sets(chains) {
            batch.add_set(*family, name, &ports.collect::<Vec<u16>>());
        }
        for chain in chains {
            batch.add_chain(*family, chain);
        }
    }
    batch.end()
}

/// The batch that removes the table of a family, if it exists.
pub(super) fn remove(family: NetfilterFamily) -> NftBatch {
    let mut batch = NftBatch::begin();
    batch.remove_table(family);
    batch.end()
}

impl NftBatch {
    fn begin() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            objects: Vec::new(),
            last_message: 0,
        };
        batch.batch_end(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    /// Completes the batch and asks the kernel to acknowledge its last command.
    fn end(mut self) -> Self {
        let flags = self.last_message + FLAGS_OFFSET;
        let with_ack = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]) | NLM_F_ACK;
        self.bytes[flags..flags + 2].copy_from_slice(&with_ack.to_ne_bytes());
        self.batch_end(NFNL_MSG_BATCH_END);
        self
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The sequence number of the last command, which the kernel acknowledges when everything is done. The end of the
    /// batch follows it.
    pub(super) fn last_command(&self) -> usize {
        self.objects.len() - 2
    }

    fn remove_table(&mut self, family: NetfilterFamily) {
        // Deleting a table that does not exist is an error.
        self.add_table(family);
        self.command(family, NFT_MSG_DELTABLE, 0, "the table", |it| {
            it.string(NFTA_TABLE_NAME, TABLE);
        });
    }

    fn add_table(&mut self, family: NetfilterFamily) {
        self.command(family, NFT_MSG_NEWTABLE, NLM_F_CREATE, "the table", |it| {
            it.string(NFTA_TABLE_NAME, TABLE);
            it.number(NFTA_TABLE_FLAGS, 0);
        });
    }

    fn add_set(&mut self, family: NetfilterFamily, name: &str, ports: &[u16]) {
        self.command(family, NFT_MSG_NEWSET, NLM_F_CREATE, name, |it| {
            it.string(NFTA_SET_TABLE, TABLE);
            it.string(NFTA_SET_NAME, name);
            it.number(NFTA_SET_FLAGS, 0);
            it.number(NFTA_SET_KEY_TYPE, INET_SERVICE);
            it.number(NFTA_SET_KEY_LEN, PORT_LENGTH);
            // The kernel requires an ID; rules refer to the set by name.
            it.number(NFTA_SET_ID, 1);
        });
        for ports in ports.chunks(ELEMENTS_PER_MESSAGE) {
            self.command(family, NFT_MSG_NEWSETELEM, NLM_F_CREATE, name, |it| {
                it.string(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                it.string(NFTA_SET_ELEM_LIST_SET, name);
                it.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |it| {
                    for port in ports {
                        it.nested(NFTA_LIST_ELEM, |it| {
                            it.value(NFTA_SET_ELEM_KEY, &port.to_be_bytes());
                        });
                    }
                });
            });
        }
    }

    fn add_chain(&mut self, family: NetfilterFamily, chain: &Chain) {
        let (hook, remote_address) = match chain.hook {
            Hook::Prerouting => (NF_INET_PRE_ROUTING, NFTA_FIB_F_SADDR),
            Hook::Output => (NF_INET_LOCAL_OUT, NFTA_FIB_F_DADDR),
        };
        self.command(family, NFT_MSG_NEWCHAIN, NLM_F_CREATE, chain.name, |it| {
            it.string(NFTA_CHAIN_TABLE, TABLE);
            it.string(NFTA_CHAIN_NAME, chain.name);
            it.nested(NFTA_CHAIN_HOOK, |it| {
                it.number(NFTA_HOOK_HOOKNUM, hook);
                it.bytes(NFTA_HOOK_PRIORITY, &PRIORITY.to_be_bytes());
            });
            it.number(NFTA_CHAIN_POLICY, NF_ACCEPT);
            it.string(NFTA_CHAIN_TYPE, "nat");
        });
        // Connections that stay on this host are not intercepted.
        self.add_rule(family, chain.name, |it| {
            it.expression("fib", |it| {
                it.number(NFTA_FIB_DREG, NFT_REG_1);
                it.number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                it.number(NFTA_FIB_FLAGS, remote_address);
            });
            it.equals(&RTN_LOCAL.to_ne_bytes());
            it.verdict(RuleVerdict::Return);
        });
        for rule in &chain.rules {
            self.add_rule(family, chain.name, |it| it.expressions(rule));
        }
    }

    fn add_rule(&mut self, family: NetfilterFamily, chain: &str, write: impl FnOnce(&mut Self)) {
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        self.command(family, NFT_MSG_NEWRULE, flags, chain, |it| {
            it.string(NFTA_RULE_TABLE, TABLE);
            it.string(NFTA_RULE_CHAIN, chain);
            it.nested(NFTA_RULE_EXPRESSIONS, write);
        });
    }

    fn expressions(&mut self, rule: &Rule) {
        match &rule.matches {
            Match::Any => self.is_tcp(),
            Match::Ports(set, _) => {
                self.is_tcp();
                self.payload(
                    NFT_PAYLOAD_TRANSPORT_HEADER,
                    TCP_DESTINATION_PORT,
                    PORT_LENGTH,
                );
                self.expression("lookup", |it| {
                    it.string(NFTA_LOOKUP_SET, set);
                    it.number(NFTA_LOOKUP_SREG, NFT_REG_1);
                });
            }
            Match::Network(network) => self.has_destination(*network),
            Match::Of(Exempt::Uid(uid)) => self.meta_equals(NFT_META_SKUID, &uid.to_ne_bytes()),
            Match::Of(Exempt::Gid(gid)) => self.meta_equals(NFT_META_SKGID, &gid.to_ne_bytes()),
            Match::Of(Exempt::Mark(mark)) => self.meta_equals(NFT_META_MARK, &mark.to_ne_bytes()),
        }
        self.verdict(rule.verdict);
    }

    fn is_tcp(&mut self) {
        self.meta_equals(NFT_META_L4PROTO, &[IPPROTO_TCP]);
    }

    fn meta_equals(&mut self, key: u32, value: &[u8]) {
        self.expression("meta", |it| {
            it.number(NFTA_META_DREG, NFT_REG_1);
            it.number(NFTA_META_KEY, key);
        });
        self.equals(value);
    }

    fn has_destination(&mut self, network: IpNet) {
        match network {
            IpNet::V4(network) => {
                self.payload(NFT_PAYLOAD_NETWORK_HEADER, IPV4_DESTINATION, 4);
                self.masked_equals(&network.netmask().octets(), &network.network().octets());
            }
            IpNet::V6(network) => {
                self.payload(NFT_PAYLOAD_NETWORK_HEADER, IPV6_DESTINATION, 16);
                self.masked_equals(&network.netmask().octets(), &network.network().octets());
            }
        }
    }

    fn masked_equals<const N: usize>(&mut self, mask: &[u8; N], value: &[u8; N]) {
        if mask.iter().any(|byte| *byte != 0xff) {
            self.expression("bitwise", |it| {
                it.number(NFTA_BITWISE_SREG, NFT_REG_1);
                it.number(NFTA_BITWISE_DREG, NFT_REG_1);
                it.number(NFTA_BITWISE_LEN, u32::try_from(N).unwrap_or_default());
                it.value(NFTA_BITWISE_MASK, mask);
                it.value(NFTA_BITWISE_XOR, &[0; N]);
            });
        }
        self.equals(value);
    }

    /// Loads bytes of a header.
    fn payload(&mut self, header: u32, offset: u32, length: u32) {
        self.expression("payload", |it| {
            it.number(NFTA_PAYLOAD_DREG, NFT_REG_1);
            it.number(NFTA_PAYLOAD_BASE, header);
            it.number(NFTA_PAYLOAD_OFFSET, offset);
            it.number(NFTA_PAYLOAD_LEN, length);
        });
    }

    /// Ends the rule unless the loaded value equals this one.
    fn equals(&mut self, value: &[u8]) {
        self.expression("cmp", |it| {
            it.number(NFTA_CMP_SREG, NFT_REG_1);
            it.number(NFTA_CMP_OP, NFT_CMP_EQ);
            it.value(NFTA_CMP_DATA, value);
        });
    }

    fn verdict(&mut self, verdict: RuleVerdict) {
        match verdict {
            RuleVerdict::Return => self.expression("immediate", |it| {
                it.number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
                it.nested(NFTA_IMMEDIATE_DATA, |it| {
                    it.nested(NFTA_DATA_VERDICT, |it| {
                        it.bytes(NFTA_VERDICT_CODE, &NFT_RETURN.to_be_bytes());
                    });
                });
            }),
            RuleVerdict::Redirect(port) => {
                self.expression("immediate", |it| {
                    it.number(NFTA_IMMEDIATE_DREG, NFT_REG_1);
                    it.value(NFTA_IMMEDIATE_DATA, &port.to_be_bytes());
                });
                self.expression("redir", |it| {
                    it.number(NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1);
                    it.number(NFTA_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
                });
            }
        }
    }

    fn expression(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.nested(NFTA_LIST_ELEM, |it| {
            it.string(NFTA_EXPR_NAME, name);
            it.nested(NFTA_EXPR_DATA, write);
        });
    }

    /// Adds a message about an object in the table of this family.
    fn command(
        &mut self,
        family: NetfilterFamily,
        kind: u16,
        flags: u16,
        object: &str,
        write: impl FnOnce(&mut Self),
    ) {
        let (family, name) = match family {
            NetfilterFamily::V4 => (NFPROTO_IPV4, "IPv4"),
            NetfilterFamily::V6 => (NFPROTO_IPV6, "IPv6"),
        };
        let object = format!("{object} ({name})");
        self.message(kind, flags, family, 0, object, write);
    }

    /// Adds the message at either end of the batch.
    fn batch_end(&mut self, kind: u16) {
        let object = "the batch".to_owned();
        self.message(
            kind,
            0,
            NFPROTO_UNSPEC,
            NFNL_SUBSYS_NFTABLES,
            object,
            |_| {},
        );
    }

    /// Adds a message: a `struct nlmsghdr`, a `struct nfgenmsg` and the attributes that `write` adds.
    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        object: String,
        write: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        let sequence = u32::try_from(self.objects.len()).unwrap_or(u32::MAX);
        self.last_message = start;
        self.objects.push(object);
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        write(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds an attribute that contains the attributes that `write` adds.
    fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NLA_F_NESTED).to_ne_bytes());
        write(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn value(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |it| it.bytes(NFTA_DATA_VALUE, value));
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.bytes(kind, &number.to_be_bytes());
    }

    fn string(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// Adds an attribute with these bytes, padded to a multiple of four.
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

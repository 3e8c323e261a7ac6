//! A small DNS server, for Envoys that resolve the names of a Kubernetes cluster.
//!
//! The server answers queries for addresses (types A and AAAA) from a fixed table; names that are not in the table do not
//! exist. Names are compared without case, and addresses are in the order of the table.
//! Messages follow RFC 1035, sections 4.1 and 4.2.1 (UDP, at most 512 bytes), and RFC 3596.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

/// Short, so that Envoy soon resolves a changed name again.
const TTL_SECONDS: u32 = 1;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// A running server; it stops with the tokio runtime that it was started on.
#[derive(Clone, Copy, Debug)]
pub struct DnsServer {
    address: SocketAddr,
}

/// The addresses of each name.
type DnsTable = BTreeMap<String, Vec<IpAddr>>;

impl DnsServer {
    /// Starts a server with these names on loopback.
    pub async fn start(names: &[(&str, Ipv4Addr)]) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let server = Self {
            address: socket.local_addr()?,
        };
        let names = names
            .iter()
            .map(|(name, address)| ((*name).to_owned(), IpAddr::from(*address)));
        tokio::spawn(answer(socket, table(names)));
        Ok(server)
    }

    /// The bootstrap (YAML or JSON) with this server as the DNS resolver, as JSON.
    pub fn bootstrap_with_resolver(&self, bootstrap: &str) -> Result<String> {
        let mut bootstrap: Value =
            serde_saphyr::from_str(bootstrap).context("parsing a bootstrap")?;
        bootstrap["typed_dns_resolver_config"] = json!({
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [{"socket_address": {
                    "address": self.address.ip().to_string(),
                    "port_value": self.address.port(),
                }}],
                "dns_resolver_options": {"no_default_search_domain": true},
            },
        });
        Ok(bootstrap.to_string())
    }
}

/// Runs a server at this address. A name may occur several times.
pub async fn serve(
    listen: SocketAddr,
    names: impl IntoIterator<Item = (String, IpAddr)>,
) -> Result<()> {
    answer(UdpSocket::bind(listen).await?, table(names)).await;
    Ok(())
}

fn table(names: impl IntoIterator<Item = (String, IpAddr)>) -> DnsTable {
    let mut table = DnsTable::new();
    for (name, address) in names {
        let addresses = table.entry(name.to_ascii_lowercase()).or_default();
        addresses.push(address);
    }
    table
}

async fn answer(socket: UdpSocket, names: DnsTable) {
    let mut query = [0; 512];
    while let Ok((length, peer)) = socket.recv_from(&mut query).await {
        if let Some(response) = respond(&query[..length], &names) {
            // A resolver repeats a query that was not answered.
            let _ = socket.send_to(&response, peer).await;
        }
    }
}

/// The response to a query for one name, or `None` if the message is malformed.
fn respond(query: &[u8], names: &DnsTable) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let question = query.get(HEADER..at + 4)?;
    let record_type = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let known = names.get(&labels.join("."));
    let records: Vec<Vec<u8>> = known
        .into_iter()
        .flatten()
        .filter_map(|address| match (address, record_type) {
            (IpAddr::V4(address), TYPE_A) => Some(address.octets().to_vec()),
            (IpAddr::V6(address), TYPE_AAAA) => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();

    let mut response = query.get(..2)?.to_vec();
    // Flags: a response, recursion desired and available. The last four bits are NOERROR or NXDOMAIN.
    response.extend([0x81, if known.is_some() { 0x80 } else { 0x83 }]);
    response.extend([0, 1, 0, u8::try_from(records.len()).ok()?, 0, 0, 0, 0]);
    response.extend(question);
    for record in records {
        // A pointer to the name in the question, the type of the question, class IN.
        response.extend([0xc0, 0x0c]);
        response.extend(record_type.to_be_bytes());
        response.extend([0, 1]);
        response.extend(TTL_SECONDS.to_be_bytes());
        response.extend(u16::try_from(record.len()).ok()?.to_be_bytes());
        response.extend(record);
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn query(name: &str, record_type: u16) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).expect("a label is short"));
            query.extend(label.as_bytes());
        }
        query.push(0);
        query.extend(record_type.to_be_bytes());
        query.extend([0, 1]);
        query
    }

    fn names() -> DnsTable {
        table(
            [
                ("color.demo.svc", "10.0.0.7"),
                ("both.demo.svc", "10.0.0.8"),
                ("both.demo.svc", "fd00::8"),
                ("both.demo.svc", "10.0.0.9"),
            ]
            .map(|(name, address)| (name.to_owned(), address.parse().expect("an address"))),
        )
    }

    #[test]
    fn known_name_has_its_address() {
        let query = query("color.demo.svc", TYPE_A);
        let response = respond(&query, &names()).expect("a whole query");
        let header = [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        assert_eq!(response[..12], header);
        assert_eq!(response[12..query.len()], query[12..]);
        let record = [0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 10, 0, 0, 7];
        assert_eq!(response[query.len()..], record);
    }

    #[test]
    fn known_name_has_no_ipv6_address_but_exists() {
        let query = query("color.demo.svc", TYPE_AAAA);
        let response = respond(&query, &names()).expect("a whole query");
        assert_eq!(response[2..8], [0x81, 0x80, 0, 1, 0, 0]);
        assert_eq!(response.len(), query.len());
    }

    #[test]
    fn addresses_of_a_name_are_in_order_and_by_type() {
        let query = query("Both.demo.SVC", TYPE_A);
        let response = respond(&query, &names()).expect("a whole query");
        let record = |last| [0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 10, 0, 0, last];
        assert_eq!(response[query.len()..], [record(8), record(9)].concat());

        let query = self::query("both.demo.svc", TYPE_AAAA);
        let response = respond(&query, &names()).expect("a whole query");
        assert_eq!(response[4..8], [0, 1, 0, 1]);
        let address: Ipv6Addr = "fd00::8".parse().expect("an address");
        assert_eq!(response[response.len() - 16..], address.octets());
    }

    #[test]
    fn unknown_name_does_not_exist() {
        let query = query("colour.demo.svc", TYPE_A);
        let response = respond(&query, &names()).expect("a whole query");
        assert_eq!(response[2..8], [0x81, 0x83, 0, 1, 0, 0]);
    }

    #[test]
    fn malformed_query_is_not_answered() {
        let whole = query("color.demo.svc", TYPE_A);
        for length in 0..whole.len() {
            assert_eq!(respond(&whole[..length], &names()), None, "{length} bytes");
        }
    }
}

//! A small DNS server on loopback, for Envoys that resolve the names of a Kubernetes cluster.
//!
//! The server answers queries for IPv4 addresses (type A) from a fixed table; names that are not in the table do not
//! exist. Messages follow RFC 1035, sections 4.1 and 4.2.1 (UDP, at most 512 bytes).

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

/// Short, so that Envoy soon resolves a changed name again.
const TTL_SECONDS: u32 = 1;

/// A running server; it stops with the tokio runtime that it was started on.
#[derive(Clone, Copy, Debug)]
pub struct DnsServer {
    address: SocketAddr,
}

impl DnsServer {
    /// Starts a server with these names.
    pub async fn start(names: &[(&str, Ipv4Addr)]) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let server = Self {
            address: socket.local_addr()?,
        };
        let names: BTreeMap<String, Ipv4Addr> = names
            .iter()
            .map(|(name, address)| ((*name).to_owned(), *address))
            .collect();
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut query).await {
                if let Some(response) = respond(&query[..length], &names) {
                    // A resolver repeats a query that was not answered.
                    let _ = socket.send_to(&response, peer).await;
                }
            }
        });
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

/// The response to a query for one name, or `None` if the message is malformed.
fn respond(query: &[u8], names: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).into_owned());
        at += length;
    }
    let question = query.get(HEADER..at + 4)?;
    let is_type_a = query.get(at..at + 2)? == [0, 1];
    let known = names.get(&labels.join("."));
    let address = known.filter(|_| is_type_a);

    let mut response = query.get(..2)?.to_vec();
    // Flags: a response, recursion desired and available. The last four bits are NOERROR or NXDOMAIN.
    response.extend([0x81, if known.is_some() { 0x80 } else { 0x83 }]);
    response.extend([0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    response.extend(question);
    if let Some(address) = address {
        // A pointer to the name in the question, type A, class IN.
        response.extend([0xc0, 0x0c, 0, 1, 0, 1]);
        response.extend(TTL_SECONDS.to_be_bytes());
        response.extend([0, 4]);
        response.extend(address.octets());
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u8 = 1;
    const AAAA: u8 = 28;

    fn query(name: &str, record_type: u8) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).expect("a label is short"));
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, record_type, 0, 1]);
        query
    }

    fn names() -> BTreeMap<String, Ipv4Addr> {
        [("color.demo.svc".to_owned(), Ipv4Addr::new(10, 0, 0, 7))].into()
    }

    #[test]
    fn known_name_has_its_address() {
        let query = query("color.demo.svc", A);
        let response = respond(&query, &names()).expect("a whole query");
        let header = [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        assert_eq!(response[..12], header);
        assert_eq!(response[12..query.len()], query[12..]);
        let record = [0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 10, 0, 0, 7];
        assert_eq!(response[query.len()..], record);
    }

    #[test]
    fn known_name_has_no_ipv6_address_but_exists() {
        let query = query("color.demo.svc", AAAA);
        let response = respond(&query, &names()).expect("a whole query");
        assert_eq!(response[2..8], [0x81, 0x80, 0, 1, 0, 0]);
        assert_eq!(response.len(), query.len());
    }

    #[test]
    fn unknown_name_does_not_exist() {
        let query = query("colour.demo.svc", A);
        let response = respond(&query, &names()).expect("a whole query");
        assert_eq!(response[2..8], [0x81, 0x83, 0, 1, 0, 0]);
    }

    #[test]
    fn malformed_query_is_not_answered() {
        let whole = query("color.demo.svc", A);
        for length in 0..whole.len() {
            assert_eq!(respond(&whole[..length], &names()), None, "{length} bytes");
        }
    }
}

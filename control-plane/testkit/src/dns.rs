//! A small DNS server for the names of a cluster, and an Envoy that asks it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

/// Short, so that a name that changes is asked for again.
const TTL_SECONDS: u32 = 1;

/// A DNS server on loopback; it lives as long as the runtime that it was started on.
#[derive(Clone, Copy, Debug)]
pub struct DnsServer {
    address: SocketAddr,
}

impl DnsServer {
    /// Answers for these names; others do not exist.
    pub async fn start(names: &[(&str, Ipv4Addr)]) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let dns = Self {
            address: socket.local_addr()?,
        };
        let names: BTreeMap<String, Ipv4Addr> = names
            .iter()
            .map(|(name, address)| ((*name).to_owned(), *address))
            .collect();
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut query).await {
                if let Some(answer) = answer(&query[..length], &names) {
                    // Whoever asked asks again.
                    let _ = socket.send_to(&answer, peer).await;
                }
            }
        });
        Ok(dns)
    }

    /// A bootstrap, YAML or JSON, whose Envoy asks this server.
    pub fn bootstrap_with_resolver(&self, bootstrap: &str) -> Result<String> {
        let mut bootstrap: Value = serde_saphyr::from_str(bootstrap).context("a bootstrap")?;
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

/// The answer to a query for one name; none if it is no such query.
fn answer(query: &[u8], names: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let mut name = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        name.push(String::from_utf8_lossy(query.get(at..at + length)?).into_owned());
        at += length;
    }
    let question = query.get(HEADER..at + 4)?;
    let is_for_ipv4 = query.get(at..at + 2)? == [0, 1];
    let found = names.get(&name.join("."));
    let address = found.filter(|_| is_for_ipv4);

    let mut answer = query.get(..2)?.to_vec();
    // A response, recursion desired and available; the last four bits: no error, or no such name.
    answer.extend([0x81, if found.is_some() { 0x80 } else { 0x83 }]);
    answer.extend([0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(address) = address {
        // The name of the question, type A, class IN.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1]);
        answer.extend(TTL_SECONDS.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

//! Attacks on listeners: connections that stay silent or speak slowly.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use super::{Crowd, all_connections, all_requests};
use crate::{Form, client};

/// Pause between two bytes of a slow request.
const BYTE_PAUSE: Duration = Duration::from_millis(500);

/// The record header of a TLS handshake message and its first bytes (RFC 8446, section 5.1).
const HALF_HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252];

pub(super) fn handshakes(form: Form) -> Crowd {
    let webhooks = all_requests(form);
    Crowd::new(
        all_connections(form) + webhooks,
        move |visitor| async move {
            let ports = &visitor.ports;
            let server = if visitor.number < webhooks {
                ports.webhooks
            } else {
                ports.xds
            };
            let mut stream = client::connect(server, visitor.address()).await?;
            if visitor.number % 2 == 0 {
                stream.write_all(HALF_HELLO).await?;
            }
            visitor.done();
            stream.read_u8().await?;
            Ok(())
        },
    )
}

/// A third of the silent connections sends half of the preface, and a third a whole one and nothing more.
pub(super) fn connections(form: Form) -> Crowd {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    let each = all_requests(form);
    Crowd::new(
        all_connections(form) + 2 * each,
        move |visitor| async move {
            let ports = &visitor.ports;
            let server = match visitor.number / each {
                0 => ports.webhooks,
                1 => ports.metrics,
                _ => ports.xds,
            };
            let mut stream = client::connect(server, visitor.address()).await?;
            match visitor.number % 3 {
                0 => {}
                1 => stream.write_all(&PREFACE[..12]).await?,
                _ => stream.write_all(PREFACE).await?,
            }
            visitor.done();
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).await? > 0 {}
            Ok(())
        },
    )
}

pub(super) fn slow_requests(form: Form) -> Crowd {
    Crowd::new(all_requests(form), |visitor| async move {
        let mut stream = client::connect(visitor.ports.metrics, visitor.address()).await?;
        let head: &[u8] = match visitor.number % 3 {
            0 => b"GET /metrics HTTP/1.1\r\nhost: a\r\nx: ",
            1 => b"POST /replicas/a/b HTTP/1.1\r\nhost: a\r\ncontent-length: 16000000\r\n\r\n",
            _ => b"POST /replicas/a/b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nffffff\r\n",
        };
        stream.write_all(head).await?;
        visitor.done();
        let (mut reader, mut writer) = stream.into_split();
        let writing = async {
            while writer.write_all(b"x").await.is_ok() {
                sleep(BYTE_PAUSE).await;
            }
        };
        tokio::select! {
            read = reader.read_u8() => read.map(drop)?,
            () = writing => {}
        }
        Ok(())
    })
}

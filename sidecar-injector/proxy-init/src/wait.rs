//! Waits until a URL answers 200.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use crate::settings::WaitArgs;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(1);

/// `http://HOST:PORT/PATH`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    authority: String,
    path: String,
}

/// It did not answer 200 in time.
#[derive(Debug, thiserror::Error)]
#[error("http://{authority}{path} did not answer 200 within {timeout:?}: {last}", authority = .target.authority, path = .target.path)]
pub(crate) struct NotReady {
    target: Target,
    timeout: Duration,
    last: String,
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "http://HOST:PORT/PATH is needed";
        let rest = text.strip_prefix("http://").ok_or(SHAPE)?;
        let (authority, path) = rest
            .find('/')
            .map_or((rest, "/"), |slash| rest.split_at(slash));
        let port = authority.rsplit_once(':').map(|(_, port)| port);
        port.and_then(|port| port.parse::<u16>().ok())
            .ok_or(SHAPE)?;
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SHAPE);
        }
        Ok(Self {
            authority: authority.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// Asks until the answer is 200, or it has been too long.
pub(crate) fn run(args: &WaitArgs) -> Result<(), NotReady> {
    let end = Instant::now() + args.timeout;
    loop {
        let last = match status(&args.url) {
            Ok(line) if line.split(' ').nth(1) == Some("200") => return Ok(()),
            Ok(line) => line,
            Err(error) => error.to_string(),
        };
        if Instant::now() + PAUSE >= end {
            return Err(NotReady {
                target: args.url.clone(),
                timeout: args.timeout,
                last,
            });
        }
        thread::sleep(PAUSE);
    }
}

/// The first line of the answer.
fn status(target: &Target) -> io::Result<String> {
    let Target { authority, path } = target;
    let nowhere = || io::Error::other(format!("{authority} has no address"));
    let address = authority.to_socket_addrs()?.next().ok_or_else(nowhere)?;
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    // A status line is shorter than this.
    let mut answer = [0; 256];
    let length = stream.read(&mut answer)?;
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    #[test]
    fn reads_urls() {
        let target = "http://[::1]:9901/ready".parse::<Target>().unwrap();
        assert_eq!(
            (&*target.authority, &*target.path),
            ("[::1]:9901", "/ready")
        );
        for bad in [
            "",
            "https://a:1/",
            "http://a/",
            "http://a:b/",
            "http://a:1/ b",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn waits_until_it_is_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/ready", listener.local_addr().unwrap());
        let answering = thread::spawn(move || {
            for status in ["503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 256];
                assert!(stream.read(&mut request).unwrap() > 0);
                write!(stream, "HTTP/1.1 {status}\r\n\r\n").unwrap();
            }
        });
        let args = WaitArgs {
            url: url.parse().unwrap(),
            timeout: Duration::from_secs(10),
        };
        run(&args).unwrap();
        answering.join().unwrap();
        let error = run(&WaitArgs {
            timeout: Duration::ZERO,
            ..args
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("did not answer 200"), "{error}");
    }
}

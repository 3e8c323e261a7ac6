//! The command `wait`: requests a URL until the answer has status 200.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::{TcpStream, ToSocketAddrs},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use crate::settings::WaitArgs;

/// Pause between two requests.
const PAUSE: Duration = Duration::from_millis(100);

/// Limit for connecting, and for the rest of a request up to the end of the status line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Limit for a status line, in bytes. Envoy's are shorter than 40.
const STATUS_LINE_LIMIT: u64 = 256;

/// A URL of the form `http://HOST:PORT/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WaitUrl {
    authority: String,
    path: String,
}

#[derive(Debug, thiserror::Error)]
#[error("http://{authority}{path} did not answer with status 200 within {timeout:?}; last answer: {last}", authority = .url.authority, path = .url.path)]
pub(crate) struct NotReady {
    url: WaitUrl,
    timeout: Duration,
    /// The last status line or error.
    last: String,
}

impl FromStr for WaitUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "the URL must have the form http://HOST:PORT/PATH";
        let rest = text.strip_prefix("http://").ok_or(FORM)?;
        let (authority, path) = rest
            .find('/')
            .map_or((rest, "/"), |slash| rest.split_at(slash));
        let port = authority.rsplit_once(':').map(|(_, port)| port);
        port.and_then(|port| port.parse::<u16>().ok()).ok_or(FORM)?;
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(FORM);
        }
        Ok(Self {
            authority: authority.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// Requests the URL until the answer has status 200 or the timeout has passed.
pub(crate) fn run(args: &WaitArgs) -> Result<(), NotReady> {
    let end = Instant::now() + args.timeout;
    loop {
        let last = match request(&args.url) {
            Ok(line) if line.split(' ').nth(1) == Some("200") => return Ok(()),
            Ok(line) => line,
            Err(error) => error.to_string(),
        };
        if Instant::now() + PAUSE >= end {
            return Err(NotReady {
                url: args.url.clone(),
                timeout: args.timeout,
                last,
            });
        }
        thread::sleep(PAUSE);
    }
}

/// Sends one request and returns the status line of the answer.
fn request(url: &WaitUrl) -> io::Result<String> {
    let WaitUrl { authority, path } = url;
    let no_address = || io::Error::other(format!("{authority} has no address"));
    let address = authority.to_socket_addrs()?.next().ok_or_else(no_address)?;
    let mut stream = TcpStream::connect_timeout(&address, REQUEST_TIMEOUT)?;
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    status_line(DeadlineReader { stream, deadline })
}

/// Reads up to the end of the first line, which may arrive in any number of segments.
fn status_line(answer: impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    BufReader::new(answer)
        .take(STATUS_LINE_LIMIT)
        .read_until(b'\n', &mut line)?;
    let text = String::from_utf8_lossy(&line);
    text.strip_suffix('\n')
        .map(|line| line.trim_end().to_owned())
        .ok_or_else(|| io::Error::other(format!("`{text}` is not a complete status line")))
}

/// Reads from a connection until a deadline.
struct DeadlineReader {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for DeadlineReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(remaining))?;
        self.stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, net::TcpListener, thread};

    use super::*;

    /// A connection from which each read returns one segment.
    struct Segments(VecDeque<&'static [u8]>);

    impl Read for Segments {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let segment = self.0.pop_front().unwrap_or_default();
            buffer[..segment.len()].copy_from_slice(segment);
            Ok(segment.len())
        }
    }

    fn segments(segments: impl IntoIterator<Item = &'static [u8]>) -> Segments {
        Segments(segments.into_iter().collect())
    }

    #[test]
    fn urls_need_http_a_host_and_a_port() {
        let url = "http://[::1]:9901/ready".parse::<WaitUrl>().unwrap();
        assert_eq!((&*url.authority, &*url.path), ("[::1]:9901", "/ready"));
        for bad in [
            "",
            "https://a:1/",
            "http://a/",
            "http://a:b/",
            "http://a:1/ b",
        ] {
            assert!(bad.parse::<WaitUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn status_line_is_read_from_any_number_of_segments() {
        const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nserver: envoy\r\n\r\nLIVE";
        for answer in [
            segments([ANSWER]),
            segments(ANSWER.split_inclusive(|byte| *byte == b' ')),
            segments([&ANSWER[..10], &ANSWER[10..16], &ANSWER[16..]]),
            segments(ANSWER.chunks(1)),
        ] {
            assert_eq!(status_line(answer).unwrap(), "HTTP/1.1 200 OK");
        }
    }

    #[test]
    fn incomplete_or_endless_status_line_is_an_error() {
        let cut = status_line(segments([&b"HTTP/1.1 "[..], b"200"]));
        let cut = cut.unwrap_err().to_string();
        assert_eq!(cut, "`HTTP/1.1 200` is not a complete status line");
        let endless = status_line(io::repeat(b'x')).unwrap_err().to_string();
        assert!(endless.contains("xxx"), "{endless}");
    }

    /// Answers a request one byte at a time. The client may give up on a slow machine and then tries again.
    fn answer(mut stream: TcpStream, status: impl Fn(&str) -> &'static str) -> io::Result<()> {
        let lines = BufReader::new(stream.try_clone()?).lines();
        let request: Vec<String> = lines
            .take_while(|line| line.as_ref().is_ok_and(|it| !it.is_empty()))
            .collect::<io::Result<_>>()?;
        let request_line = request.first().map_or("", String::as_str);
        stream.set_nodelay(true)?;
        let status_line = format!("HTTP/1.1 {}\r\n", status(request_line));
        status_line
            .bytes()
            .try_for_each(|byte| stream.write_all(&[byte]))
    }

    #[test]
    fn waits_until_the_status_is_200() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // The thread ends with the process.
        thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let _ = answer(stream.unwrap(), |request_line| match request_line {
                    "GET /ready HTTP/1.1" if index > 0 => "200 OK",
                    _ => "503 Service Unavailable",
                });
            }
        });
        let wait = |path: &str, timeout| {
            run(&WaitArgs {
                url: format!("http://{address}/{path}").parse().unwrap(),
                timeout,
            })
        };
        wait("ready", Duration::from_mins(1)).unwrap();
        let error = wait("other", Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("did not answer with status 200"), "{error}");
    }
}

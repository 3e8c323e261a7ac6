//! The grammar of Envoy's command operators (`%REQ(X-ID):8%`) in access-log formats.
//!
//! Envoy refuses a listener with a format that it cannot parse. [`mistake`] accepts exactly the formats that the oldest
//! supported Envoy, 1.36, accepts, except for `CEL`, whose expressions are not parsed here. The test `access_log_formats`
//! of the crate `evermesh` compares the verdicts with those of real Envoys.

/// Returns the first mistake of a format: the operator and what is wrong with it.
pub(super) fn mistake(format: &str) -> Option<String> {
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        rest = &rest[start..];
        if let Some(escaped) = rest.strip_prefix("%%") {
            rest = escaped;
            continue;
        }
        let Some(operator) = Operator::parse(rest) else {
            return Some(format!(
                "`{}` does not begin with a command operator such as `%RESPONSE_CODE%`; write `%%` for a percent sign",
                excerpt(rest)
            ));
        };
        if let Err(why) = operator.check() {
            return Some(format!("`{}` {why}", excerpt(operator.text)));
        }
        rest = &rest[operator.text.len()..];
    }
    None
}

/// The beginning of a text for a message.
fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 64;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

/// `%COMMAND%`, `%COMMAND(ARGUMENT)%` or `%COMMAND(ARGUMENT):LENGTH%`.
#[derive(Debug)]
struct Operator<'a> {
    /// The whole operator with both percent signs.
    text: &'a str,
    command: &'a str,
    /// Empty if absent.
    argument: &'a str,
    has_length: bool,
}

impl<'a> Operator<'a> {
    /// Parses the operator at the beginning of `text`, which starts with a percent sign.
    ///
    /// An argument ends at the first `)` after which the operator ends, so it may contain `)` and `%`. It contains no
    /// line feed.
    fn parse(text: &'a str) -> Option<Self> {
        let body = &text[1..];
        let is_command = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let after = body.trim_start_matches(is_command);
        let command = &body[..body.len() - after.len()];
        let (argument, (length, rest)) = match after.strip_prefix('(') {
            Some(open) => {
                let line = open.split('\n').next().unwrap_or_default();
                line.match_indices(')')
                    .find_map(|(at, _)| Some((&open[..at], end(&open[at + 1..])?)))?
            }
            None => ("", end(after)?),
        };
        if length.is_some_and(|length| length.parse::<u64>().is_err()) {
            return None;
        }
        Some(Self {
            text: &text[..text.len() - rest.len()],
            command,
            argument,
            has_length: length.is_some(),
        })
    }

    /// Checks that Envoy knows the command and accepts its argument and length.
    fn check(&self) -> Result<(), String> {
        let syntax = syntax(self.command).ok_or("is not a command operator of Envoy 1.36")?;
        let Self {
            text: _,
            command,
            argument,
            has_length,
        } = *self;
        if has_length && !syntax.allows_length() {
            return Err("must not have a length; remove `:` and the number".to_owned());
        }
        match syntax {
            Syntax::Bare if !argument.is_empty() => {
                Err(format!("must not have an argument; write `%{command}%`"))
            }
            Syntax::Header | Syntax::Duration | Syntax::FilterState | Syntax::Text { .. }
                if argument.is_empty() =>
            {
                Err(format!(
                    "requires an argument; write `%{command}({})%`",
                    syntax.example()
                ))
            }
            _ if syntax.accepts(argument) => Ok(()),
            Syntax::Cel => {
                Err("is not supported, because Evermesh does not check CEL expressions".to_owned())
            }
            _ => Err(format!(
                "has an argument that Envoy refuses; an example of a valid one is `%{command}({})%`",
                syntax.example()
            )),
        }
    }
}

/// Parses the optional length and the percent sign at the end of an operator. Returns the length and the text after the
/// operator.
fn end(text: &str) -> Option<(Option<&str>, &str)> {
    let Some(number) = text.strip_prefix(':') else {
        return Some((None, text.strip_prefix('%')?));
    };
    let after = number.trim_start_matches(|c: char| c.is_ascii_digit());
    let length = &number[..number.len() - after.len()];
    let rest = after.strip_prefix('%')?;
    (!length.is_empty()).then_some((Some(length), rest))
}

/// The argument and length that a command accepts.
#[derive(Debug, Clone, Copy)]
enum Syntax {
    /// Neither argument nor length.
    Bare,
    /// An optional argument that Envoy does not check.
    Optional,
    /// An optional format of `strftime` that adds no line feed.
    Time,
    /// A header and an optional alternative: `X-ID?:PATH`.
    Header,
    /// Two points in time and an optional unit: `DS_RX_BEG:US_TX_END:ms`.
    Duration,
    /// A key, and optionally its form: `key:PLAIN`, `key:FIELD:name`.
    FilterState,
    /// A source of metadata, and optionally a path: `ROUTE:namespace:key`.
    Metadata,
    /// Optionally with or without the query, and which path: `NQ:ORIG`.
    Path,
    /// Optionally the form of the gRPC status.
    GrpcStatus,
    /// A required argument that Envoy does not check.
    Text { allows_length: bool },
    /// A required CEL expression.
    Cel,
}

impl Syntax {
    const fn allows_length(self) -> bool {
        match self {
            Self::Header | Self::FilterState | Self::Metadata | Self::Path | Self::Cel => true,
            Self::Text { allows_length } => allows_length,
            Self::Bare | Self::Optional | Self::Time | Self::Duration | Self::GrpcStatus => false,
        }
    }

    /// A valid argument.
    const fn example(self) -> &'static str {
        match self {
            Self::Bare | Self::Optional | Self::Cel => "",
            Self::Time => "%H:%M:%S",
            Self::Header => "X-REQUEST-ID?:AUTHORITY",
            Self::Duration => "DS_RX_BEG:DS_TX_END:ms",
            Self::FilterState => "KEY:PLAIN",
            Self::Metadata => "ROUTE:NAMESPACE:KEY",
            Self::Path => "NQ:ORIG",
            Self::GrpcStatus => "SNAKE_STRING",
            Self::Text { .. } => "NAME",
        }
    }

    /// Returns whether Envoy accepts the argument.
    fn accepts(self, argument: &str) -> bool {
        let mut parts = argument.split(':');
        let mut next = || parts.next().unwrap_or_default();
        match self {
            Self::Bare | Self::Optional | Self::Text { .. } => true,
            Self::Time => !adds_line_feed(argument),
            Self::Header => {
                let names: Vec<&str> = argument.split('?').collect();
                names.len() <= 2 && names.into_iter().all(is_header)
            }
            Self::Duration => match argument.split(':').collect::<Vec<_>>()[..] {
                [_, _] => true,
                [_, _, unit] => ["ms", "us", "ns"].contains(&unit),
                _ => false,
            },
            Self::FilterState => {
                let (key, form, field) = (next(), next(), next());
                !key.is_empty()
                    && match form {
                        "FIELD" => !field.is_empty(),
                        "" | "PLAIN" | "TYPED" => field.is_empty(),
                        _ => false,
                    }
            }
            Self::Metadata => matches!(
                next(),
                "CLUSTER" | "DYNAMIC" | "LISTENER" | "ROUTE" | "UPSTREAM_HOST" | "VIRTUAL_HOST"
            ),
            Self::Path => {
                matches!(next(), "" | "NQ" | "WQ")
                    && matches!(next(), "" | "ORIG" | "ORIG_OR_PATH" | "PATH")
            }
            Self::GrpcStatus => {
                matches!(argument, "" | "CAMEL_STRING" | "SNAKE_STRING" | "NUMBER")
            }
            Self::Cel => false,
        }
    }
}

/// Returns whether the text is empty or the name of a header or pseudo-header.
fn is_header(text: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let name = text.strip_prefix(':').unwrap_or(text);
    (!name.is_empty() || text.is_empty()) && name.bytes().all(is_token)
}

/// Returns whether a format of `strftime` contains the conversion `%n`, with or without flags, width and modifier.
fn adds_line_feed(format: &str) -> bool {
    format.match_indices('%').any(|(at, _)| {
        let conversion = format[at + 1..]
            .trim_start_matches(['-', '_', '0', '^', '#'])
            .trim_start_matches(|c: char| matches!(c, '1'..='9'));
        let conversion = conversion.strip_prefix(['E', 'O']).unwrap_or(conversion);
        conversion.starts_with('n')
    })
}

/// The commands of Envoy 1.36 without argument and length.
const BARE: [&str; 110] = [
    "ACCESS_LOG_TYPE",
    "BYTES_RECEIVED",
    "BYTES_RETRANSMITTED",
    "BYTES_SENT",
    "CONNECTION_ID",
    "CONNECTION_TERMINATION_DETAILS",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_DIRECT_LOCAL_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_PORT",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DURATION",
    "FILTER_CHAIN_NAME",
    "GRPC_STATUS_NUMBER",
    "HOSTNAME",
    "LOCAL_REPLY_BODY",
    "PACKETS_RETRANSMITTED",
    "PROTOCOL",
    "REQUESTED_SERVER_NAME",
    "REQUEST_DURATION",
    "REQUEST_HEADERS_BYTES",
    "REQUEST_TX_DURATION",
    "RESPONSE_CODE",
    "RESPONSE_DURATION",
    "RESPONSE_FLAGS",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "RESPONSE_TX_DURATION",
    "ROUNDTRIP_DURATION",
    "ROUTE_NAME",
    "STREAM_ID",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "TRACE_ID",
    "UNIQUE_ID",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_CLUSTER_RAW",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HOST",
    "UPSTREAM_HOST_NAME",
    "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_IP_SAN",
    "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_IP_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PEER_URI_SAN",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_REMOTE_PORT",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
    "VIRTUAL_CLUSTER_NAME",
];

/// The syntax of a command of Envoy 1.36.
fn syntax(command: &str) -> Option<Syntax> {
    Some(match command {
        _ if BARE.contains(&command) => Syntax::Bare,
        "RESPONSE_CODE_DETAILS" => Syntax::Optional,
        "DOWNSTREAM_PEER_CERT_V_END"
        | "DOWNSTREAM_PEER_CERT_V_START"
        | "EMIT_TIME"
        | "EMIT_TIME_LOCAL"
        | "START_TIME"
        | "START_TIME_LOCAL"
        | "UPSTREAM_PEER_CERT_V_END"
        | "UPSTREAM_PEER_CERT_V_START" => Syntax::Time,
        "REQ" | "RESP" | "STREAM_INFO_REQ" | "TRAILER" => Syntax::Header,
        "COMMON_DURATION" => Syntax::Duration,
        "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => Syntax::FilterState,
        "METADATA" => Syntax::Metadata,
        "PATH" => Syntax::Path,
        "GRPC_STATUS" => Syntax::GrpcStatus,
        "CLUSTER_METADATA" | "DYNAMIC_METADATA" | "UPSTREAM_METADATA" => Syntax::Text {
            allows_length: false,
        },
        "ENVIRONMENT" | "QUERY_PARAM" => Syntax::Text {
            allows_length: true,
        },
        "CEL" => Syntax::Cel,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_formats_have_no_mistake() {
        for format in [
            "100%%",
            "%%%PROTOCOL%%%",
            "%PROTOCOL%%PROTOCOL%",
            "%PROTOCOL()%",
            "%RESPONSE_CODE_DETAILS%",
            "%RESPONSE_CODE_DETAILS(x)%",
            "%REQ(a):0%",
            "%REQ(a):18446744073709551615%",
            "%REQ(:PATH?:AUTHORITY):7%",
            "%REQ(?)%",
            "%REQ(!#$%&'*+-.^_`|~09)%",
            "%ENVIRONMENT(a)b):5%",
            "%ENVIRONMENT(a):5)%",
            "%DYNAMIC_METADATA(a)%",
            "%START_TIME%",
            "%START_TIME(%Y-%m-%dT%H:%M:%E3S%z)%",
            "%START_TIME(n)%",
            "%COMMON_DURATION(a:b)%",
            "%COMMON_DURATION(a:b:ns)%",
            "%FILTER_STATE(a)%",
            "%FILTER_STATE(a:TYPED:):4%",
            "%FILTER_STATE(a:FIELD:b)%",
            "%METADATA(ROUTE:a):5%",
            "%PATH%",
            "%PATH(WQ:PATH):5%",
            "%PATH(:ORIG_OR_PATH)%",
            "%GRPC_STATUS%",
            "%GRPC_STATUS(SNAKE_STRING)%",
        ] {
            assert_eq!(mistake(format), None, "{format}");
        }
    }

    #[test]
    fn refused_formats_have_a_mistake() {
        for format in [
            "100%",
            "%%%",
            "%PROTOCOL",
            "%PROTOCOL% %PROTOCOL% %",
            "%protocol%",
            "%NOT_A_COMMAND%",
            "%PROTOCOL(X)%",
            "%PROTOCOL:5%",
            "%RESPONSE_CODE_DETAILS:5%",
            "%REQ%",
            "%REQ()%",
            "%REQ(a",
            "%REQ(a\nb)%",
            "%REQ(a):%",
            "%REQ(a):5x%",
            "%REQ(a):18446744073709551616%",
            "%REQ(:)%",
            "%REQ(a?b?c)%",
            "%REQ(a b)%",
            "%ENVIRONMENT%",
            "%ENVIRONMENT(a\nb)%",
            "%DYNAMIC_METADATA(a):5%",
            "%START_TIME(%n)%",
            "%START_TIME(%-_0^#12En)%",
            "%START_TIME(%On)%",
            "%START_TIME:5%",
            "%COMMON_DURATION%",
            "%COMMON_DURATION(a)%",
            "%COMMON_DURATION(a:b:s)%",
            "%COMMON_DURATION(a:b:ms:)%",
            "%COMMON_DURATION(a:b):5%",
            "%FILTER_STATE%",
            "%FILTER_STATE(:PLAIN)%",
            "%FILTER_STATE(a:PLAIN:b)%",
            "%FILTER_STATE(a:FIELD)%",
            "%FILTER_STATE(a:b)%",
            "%METADATA%",
            "%METADATA(NODE:a)%",
            "%PATH(wq)%",
            "%PATH(WQ:x)%",
            "%GRPC_STATUS(number)%",
            "%GRPC_STATUS:5%",
            "%CEL(request.path)%",
        ] {
            assert!(mistake(format).is_some(), "{format}");
        }
    }
}

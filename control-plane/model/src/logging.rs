//! Access logs of proxies.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

/// App Mesh `logging.accessLog.file`: the file to which a proxy writes a line for each request, or for each connection
/// that it does not parse, inbound and outbound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessLogFile {
    /// The path in the container of the proxy, such as `/dev/stdout`.
    pub path: Arc<str>,
    /// The format of a line; Envoy's default format if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<AccessLogFormat>,
}

/// The format of a line. The texts may contain Envoy's command operators (`%RESPONSE_CODE%`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum AccessLogFormat {
    /// The whole line, with its line break
    Text(Arc<str>),
    /// A JSON object: values by key
    Json(BTreeMap<Arc<str>, Arc<str>>),
}

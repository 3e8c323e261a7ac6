//! Access logs of connection managers and TCP proxies.

use std::collections::BTreeMap;

use evermesh_model::{AccessLogFile, AccessLogFormat};
use evermesh_proto::{
    core::{
        DataSource, SubstitutionFormatString, data_source::Specifier,
        substitution_format_string::Format,
    },
    pack,
    pb::envoy::{
        config::accesslog::v3::{AccessLog, access_log::ConfigType},
        extensions::access_loggers::file::v3::{
            FileAccessLog, file_access_log::AccessLogFormat as FileFormat,
        },
    },
    protobuf::{Struct, Value, value::Kind},
};

/// The access logs of a filter: one if the node or gateway has `logging.accessLog`, else none.
pub(crate) fn access_logs(file: Option<&AccessLogFile>) -> Vec<AccessLog> {
    file.map(to_proto).into_iter().collect()
}

fn to_proto(AccessLogFile { path, format }: &AccessLogFile) -> AccessLog {
    let format = format.as_ref().map(|format| match format {
        AccessLogFormat::Text(text) => Format::TextFormatSource(DataSource {
            specifier: Some(Specifier::InlineString(text.to_string())),
            ..Default::default()
        }),
        AccessLogFormat::Json(values) => Format::JsonFormat(Struct {
            fields: values
                .iter()
                .map(|(key, value)| (key.to_string(), string(value)))
                .collect::<BTreeMap<_, _>>(),
        }),
    });
    let config = FileAccessLog {
        path: path.to_string(),
        access_log_format: format.map(|format| {
            FileFormat::LogFormat(SubstitutionFormatString {
                format: Some(format),
                ..Default::default()
            })
        }),
    };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(&config))),
        ..Default::default()
    }
}

fn string(value: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    }
}

//! `spec.logging` of nodes and gateways → [`AccessLogFile`].

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use evermesh_crds::v1beta2;
use evermesh_model::{AccessLogFile, AccessLogFormat, Reason, problem::FieldPath};

use crate::stage::Problems;

/// Parses `spec.logging`. A format that is not usable is reported, and Envoy's default format takes its place.
pub(crate) fn read(
    logging: Option<&v1beta2::Logging>,
    problems: &mut Problems<'_>,
) -> Option<AccessLogFile> {
    let v1beta2::Logging { access_log } = logging?;
    let v1beta2::AccessLog { file } = access_log.as_ref()?;
    let field = FieldPath::spec().field("logging.accessLog");
    let Some(v1beta2::FileAccessLog { path, format }) = file else {
        problems.add(
            field,
            Reason::InvalidUnion,
            "file is not set, so no access log is written; set file, or remove accessLog",
        );
        return None;
    };
    Some(AccessLogFile {
        path: path.as_str().into(),
        format: format
            .as_ref()
            .and_then(|format| read_format(format, &field.field("file.format"), problems)),
    })
}

fn read_format(
    format: &v1beta2::LoggingFormat,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<AccessLogFormat> {
    let v1beta2::LoggingFormat { json, text } = format;
    match (json, text) {
        (None, Some(text)) => Some(AccessLogFormat::Text(text.as_str().into())),
        (Some(json), None) => Some(AccessLogFormat::Json(read_json(
            json,
            &field.field("json"),
            problems,
        ))),
        (Some(_), Some(_)) | (None, None) => {
            problems.add(
                field.clone(),
                Reason::InvalidUnion,
                "not exactly one of json and text is set, so Envoy's default format applies; set one of the two",
            );
            None
        }
    }
}

fn read_json(
    fields: &[v1beta2::JsonField],
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> BTreeMap<Arc<str>, Arc<str>> {
    let mut values = BTreeMap::new();
    for (index, v1beta2::JsonField { key, value }) in fields.iter().enumerate() {
        match values.entry(Arc::from(key.as_str())) {
            Entry::Vacant(entry) => {
                entry.insert(value.as_str().into());
            }
            Entry::Occupied(_) => problems.add(
                field.index(index).field("key"),
                Reason::InvalidValue,
                format!("the key `{key}` is already used, so this value is not logged; choose another key"),
            ),
        }
    }
    values
}

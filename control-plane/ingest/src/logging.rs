//! `spec.logging` of nodes and gateways → [`AccessLogFile`].

mod operators;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use evermesh_crds::v1beta2;
use evermesh_model::{AccessLogFile, AccessLogFormat, Reason, Severity, problem::FieldPath};

use crate::stage::Problems;

/// The lengths that the AWS API accepted, in characters. Envoy has no such limits.
const MAX_JSON_CHARS: usize = 100;
const MAX_TEXT_CHARS: usize = 1000;

/// Parses `spec.logging`. A format that Envoy refuses is reported, and Envoy's default format takes its place.
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
    let field = field.field("file");
    let format = format
        .as_ref()
        .and_then(|format| read_format(format, &field.field("format"), problems));
    read_path(path, &field.field("path"), problems).map(|path| AccessLogFile { path, format })
}

/// Validates the path. Envoy refuses a listener whose log file it cannot open.
fn read_path(path: &str, field: &FieldPath, problems: &mut Problems<'_>) -> Option<Arc<str>> {
    let is_folder = matches!(path.rsplit('/').next(), None | Some("" | "." | ".."));
    if is_folder || path.contains(char::is_control) {
        problems.add(
            field.clone(),
            Reason::InvalidValue,
            format!(
                "`{}` is not the path of a file, so no access log is written; use a path such as `/dev/stdout`",
                path.escape_debug()
            ),
        );
        return None;
    }
    if !path.starts_with('/') {
        problems.add_with_severity(
            field.clone(),
            Reason::InvalidValue,
            Severity::Warning,
            format!(
                "`{path}` is relative, so the file is below the folder in which Envoy was started; use an absolute path such as `/dev/stdout`"
            ),
        );
    }
    Some(path.into())
}

fn read_format(
    format: &v1beta2::LoggingFormat,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<AccessLogFormat> {
    let v1beta2::LoggingFormat { json, text } = format;
    match (json, text) {
        (None, Some(text)) => read_text(text, &field.field("text"), problems),
        (Some(json), None) => read_json(json, &field.field("json"), problems),
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

fn read_text(
    text: &str,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<AccessLogFormat> {
    let mistake = if text.is_empty() {
        Some("the text is empty".to_owned())
    } else {
        operators::mistake(text)
    };
    if let Some(mistake) = mistake {
        problems.add(
            field.clone(),
            Reason::InvalidValue,
            format!("{mistake}; until this is corrected, Envoy's default format applies"),
        );
        return None;
    }
    warn_if_long(text, MAX_TEXT_CHARS, field, problems);
    Some(AccessLogFormat::Text(text.into()))
}

fn read_json(
    fields: &[v1beta2::JsonField],
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<AccessLogFormat> {
    let mut values = BTreeMap::new();
    for (index, v1beta2::JsonField { key, value }) in fields.iter().enumerate() {
        let item = field.index(index);
        if let Some(mistake) = operators::mistake(value) {
            problems.add(
                item.field("value"),
                Reason::InvalidValue,
                format!("{mistake}; until this is corrected, the key `{key}` is left out"),
            );
            continue;
        }
        match values.entry(Arc::from(key.as_str())) {
            Entry::Vacant(entry) => {
                entry.insert(value.as_str().into());
                warn_if_long(key, MAX_JSON_CHARS, &item.field("key"), problems);
                warn_if_long(value, MAX_JSON_CHARS, &item.field("value"), problems);
            }
            Entry::Occupied(_) => problems.add(
                item.field("key"),
                Reason::InvalidValue,
                format!("the key `{key}` is already used, so this value is not logged; choose another key"),
            ),
        }
    }
    if values.is_empty() {
        problems.add(
            field.clone(),
            Reason::InvalidValue,
            "no key is left to be logged, so Envoy's default format applies; add one with a valid value",
        );
        return None;
    }
    Some(AccessLogFormat::Json(values))
}

/// Reports a text that the AWS API refused because of its length.
fn warn_if_long(text: &str, limit: usize, field: &FieldPath, problems: &mut Problems<'_>) {
    let length = text.chars().count();
    if length > limit {
        problems.add_with_severity(
            field.clone(),
            Reason::InvalidValue,
            Severity::Warning,
            format!("the text has {length} characters and is used nevertheless; App Mesh accepts at most {limit}, so shorten it to stay compatible"),
        );
    }
}

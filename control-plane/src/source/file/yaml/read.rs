//! Composes a value from the events of a YAML parser.

use std::{
    collections::{BTreeSet, HashMap},
    ops::RangeInclusive,
    str::Chars,
};

use evermesh_model::FieldPath;
use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, StructureStyle, Tag};
use serde_json::{Map, Value};

use super::{
    ReadDocument, ReadError,
    fault::{PathStep, TextFault, TextFaultKind, TextFaults, field_path},
    places::{DocumentPlaces, TextSpan},
    scalar::{self, Scalar},
    strict,
};

/// YAML nodes per document, with aliases expanded. A dump of 5,000 App Mesh objects has half a million.
const MAX_NODES: usize = 2_000_000;
/// YAML nodes that aliases may add to one document.
const MAX_ALIASED_NODES: usize = 100_000;
/// Bytes of text that anchors and aliases of one document may copy, as many as a file may have.
const MAX_COPIED_BYTES: usize = 32 * 1024 * 1024;
/// Nesting of a document with aliases expanded. Later stages have recursive functions.
const MAX_DEPTH: usize = 512;

/// Reads the document that begins after `lines_before` lines of its file.
pub(in super::super) fn read_yaml(
    text: &str,
    lines_before: u64,
) -> Result<ReadDocument, ReadError> {
    compose(text, lines_before, None).map(|(read, _)| read)
}

/// Reads a document, and adds the places of its nodes if `places` is given.
pub(super) fn compose(
    text: &str,
    lines_before: u64,
    places: Option<DocumentPlaces>,
) -> Result<(ReadDocument, Option<DocumentPlaces>), ReadError> {
    strict::check_characters(text, lines_before)?;
    strict::check_start(text, lines_before)?;
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_anchor_events: true,
        emit_comments: false,
    };
    let mut composer = Composer {
        text,
        lines_before,
        places,
        open: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        faults: TextFaults::default(),
        nodes: 0,
        aliased: 0,
        anchored: 0,
        copied_bytes: 0,
        flows: 0,
        continued: Vec::new(),
    };
    for event in Parser::<StrInput<'_>>::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| ReadError {
            line: error.marker().line() as u64 + lines_before,
            column: error.marker().col() + 1,
            message: error.info(),
            is_limit: false,
        })?;
        composer.take(event, span)?;
    }
    strict::check_tabs(text, lines_before, &composer.continued)?;
    let read = ReadDocument {
        value: composer.root.map_or(Value::Null, |node| node.value),
        faults: composer.faults.0,
    };
    Ok((read, composer.places))
}

/// A complete value and what an alias of it costs.
#[derive(Clone)]
struct Node {
    value: Value,
    /// Nodes, with keys and with aliases expanded, and the bytes of their texts.
    size: usize,
    bytes: usize,
    depth: usize,
    /// Whether it is a mapping with a key that was not text, or a list with such a mapping.
    has_typed_key: bool,
}

impl Node {
    fn scalar(value: Value) -> Self {
        Self {
            bytes: value.as_str().map_or(0, str::len),
            value,
            size: 1,
            depth: 0,
            has_typed_key: false,
        }
    }
}

/// A collection whose end was not reached yet.
struct Open {
    content: Content,
    /// The first line, of the document, of a flow collection.
    flow_line: Option<usize>,
    anchor: usize,
    /// Properties of the items so far; see [`Node`].
    size: usize,
    bytes: usize,
    depth: usize,
    has_typed_key: bool,
}

enum Content {
    List(Vec<Value>),
    Mapping(Mapping),
}

#[derive(Default)]
struct Mapping {
    fields: Map<String, Value>,
    /// The key whose value follows.
    pending: Option<PendingKey>,
    /// Keys that only a merged mapping gave so far.
    merged: BTreeSet<String>,
    has_merge: bool,
    has_typed_key: bool,
}

enum PendingKey {
    Text {
        key: String,
        line: u64,
    },
    /// `<<`.
    Merge {
        line: u64,
    },
}

struct Composer<'a> {
    text: &'a str,
    lines_before: u64,
    places: Option<DocumentPlaces>,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    faults: TextFaults,
    /// Nodes read so far, with those of aliases; and only those of aliases.
    nodes: usize,
    aliased: usize,
    /// Nodes that have an anchor, with those inside of them.
    anchored: usize,
    /// Bytes of text that anchors and aliases copied.
    copied_bytes: usize,
    /// Flow collections that are open.
    flows: usize,
    /// Lines, of the document, that continue a scalar or a flow collection.
    continued: Vec<RangeInclusive<usize>>,
}

impl<'a> Composer<'a> {
    fn take(&mut self, event: Event<'a>, span: Span) -> Result<(), ReadError> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => Err(self.error(
                span,
                "kubectl ignores what follows a line `...`; begin the next document with a line `---`",
            )),
            Event::Scalar(text, style, anchor, tag) => {
                self.count(span)?;
                self.scalar(&text, style, anchor, tag.as_deref(), span)
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.count(span)?;
                self.check_tag(tag.as_deref(), "seq", span);
                self.begin(Content::List(Vec::new()), style, anchor, span)
            }
            Event::MappingStart(style, anchor, tag) => {
                self.count(span)?;
                self.check_tag(tag.as_deref(), "map", span);
                self.begin(Content::Mapping(Mapping::default()), style, anchor, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Anchor(_, name) => strict::check_anchor(&name, self.after(span))
                .map_err(|message| self.error(span, message)),
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::UnresolvedAlias(_) => Err(self.error(span, "the alias has no anchor")),
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        span: Span,
    ) -> Result<(), ReadError> {
        let is_plain = style == ScalarStyle::Plain;
        let checked = match style {
            ScalarStyle::DoubleQuoted => {
                strict::check_escapes(span.slice(self.text).unwrap_or_default())
            }
            ScalarStyle::Plain if self.flows > 0 => {
                strict::check_plain_in_flow(text, self.after(span))
            }
            _ => Ok(()),
        };
        checked.map_err(|message| self.error(span, message))?;
        if !is_plain && span.end.line() > span.start.line() {
            self.continued.push(span.start.line() + 1..=span.end.line());
        }
        let value = match tag {
            None if is_plain => scalar::resolve(text),
            None => Scalar::Text,
            Some(tag) => tagged(tag, text).unwrap_or_else(|| {
                self.fault(span, TextFaultKind::Tag);
                Scalar::Null
            }),
        };
        let is_resolved = is_plain && tag.is_none();
        if self.expects_key() {
            if anchor != 0 {
                return Err(self.error(span, "a key cannot have an anchor; remove the anchor"));
            }
            if span.start.line() != span.end.line() {
                return Err(self.error(span, "a key must be on one line; join its lines"));
            }
            self.key(text, value, is_resolved, span);
            return Ok(());
        }
        self.place(span, false);
        if value == Scalar::NotFinite {
            self.fault(span, TextFaultKind::NotFinite);
        } else if is_resolved && value != scalar::resolve_core(text) {
            let text = text.to_owned();
            self.fault(span, TextFaultKind::Ambiguous { text });
        }
        self.put(Node::scalar(value.value(text)), anchor, false, span)
    }

    fn key(&mut self, text: &str, value: Scalar, is_resolved: bool, span: Span) {
        let line = self.line(span);
        let is_merge = is_resolved && text == "<<";
        let key = match value {
            Scalar::Integer(value) => value.to_string(),
            Scalar::Bool(value) => value.to_string(),
            Scalar::Text | Scalar::Null | Scalar::Float(_) | Scalar::NotFinite => text.to_owned(),
        };
        // A float without a fraction is an integer only as a value.
        let is_number = is_resolved && scalar::is_float(text);
        let is_refused =
            matches!(value, Scalar::Null | Scalar::Float(_) | Scalar::NotFinite) || is_number;
        if let Some(open) = self.open.last_mut() {
            open.bytes += key.len();
        }
        if let Some(mapping) = self.mapping() {
            mapping.has_typed_key |= value != Scalar::Text;
            mapping.pending = Some(if is_merge {
                PendingKey::Merge { line }
            } else {
                PendingKey::Text {
                    key: key.clone(),
                    line,
                }
            });
        }
        self.place(span, true);
        if is_refused {
            self.fault(span, TextFaultKind::KeyNotText);
        } else if key != text {
            let text = text.to_owned();
            self.fault(span, TextFaultKind::AmbiguousKey { text, key });
        }
    }

    fn begin(
        &mut self,
        content: Content,
        style: StructureStyle,
        anchor: usize,
        span: Span,
    ) -> Result<(), ReadError> {
        if self.expects_key() {
            return Err(self.error(span, "a key must be text, not a list or a mapping"));
        }
        if matches!(
            self.open.last(),
            Some(Open {
                content: Content::List(_),
                ..
            })
        ) {
            self.place(Span::new(span.start, span.start), false);
        }
        let is_flow = style == StructureStyle::Flow;
        self.flows += usize::from(is_flow);
        self.open.push(Open {
            content,
            flow_line: is_flow.then(|| span.start.line()),
            anchor,
            size: 1,
            bytes: 0,
            depth: 0,
            has_typed_key: false,
        });
        Ok(())
    }

    fn end(&mut self, span: Span) -> Result<(), ReadError> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        if let Some(line) = open.flow_line {
            self.flows -= 1;
            if self.flows == 0 {
                self.continued.push(line + 1..=span.end.line());
            }
        }
        let (value, has_typed_key) = match open.content {
            Content::List(items) => (items.into(), open.has_typed_key),
            Content::Mapping(mapping) => {
                if mapping.has_merge && mapping.has_typed_key {
                    self.fault(span, TextFaultKind::MergeOfTypedKeys);
                }
                (Value::Object(mapping.fields), mapping.has_typed_key)
            }
        };
        let node = Node {
            value,
            size: open.size,
            bytes: open.bytes,
            depth: open.depth + 1,
            has_typed_key,
        };
        self.put(node, open.anchor, false, span)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), ReadError> {
        if self.expects_key() {
            return Err(self.error(span, "a key cannot be an alias; write the key itself"));
        }
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(self.error(span, "the value of the anchor contains its own alias"));
        };
        let size = node.size;
        self.nodes += size + 1;
        self.aliased += size;
        self.copied_bytes += node.bytes;
        let is_long = self.copied_bytes > MAX_COPIED_BYTES;
        if is_long
            || self.aliased > MAX_ALIASED_NODES
            || self.nodes > MAX_NODES
            || self.is_mostly_aliases()
        {
            return Err(self.too_large(span));
        }
        let node = node.clone();
        self.put(node, 0, true, span)
    }

    /// `kubectl` refuses a document of more than 1,000 nodes of which more than 99% come from aliases.
    fn is_mostly_aliases(&self) -> bool {
        self.aliased > 100 && self.nodes > 1_000 && self.aliased > self.nodes / 100 * 99
    }

    fn count(&mut self, span: Span) -> Result<(), ReadError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.too_large(span));
        }
        Ok(())
    }

    /// Adds a complete node to the collection that contains it.
    fn put(
        &mut self,
        node: Node,
        anchor: usize,
        is_alias: bool,
        span: Span,
    ) -> Result<(), ReadError> {
        if node.depth > MAX_DEPTH {
            return Err(self.too_large(span));
        }
        if anchor != 0 {
            self.anchored += node.size;
            self.copied_bytes += node.bytes;
            if self.anchored > MAX_NODES || self.copied_bytes > MAX_COPIED_BYTES {
                return Err(self.too_large(span));
            }
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.size += node.size;
        open.bytes += node.bytes;
        open.depth = open.depth.max(node.depth);
        match &mut open.content {
            Content::List(items) => {
                open.has_typed_key |= node.has_typed_key;
                items.push(node.value);
            }
            Content::Mapping(mapping) => match mapping.pending.take() {
                Some(PendingKey::Text { key, line }) => {
                    let was_merged = mapping.merged.remove(&key);
                    let is_known = mapping.fields.insert(key.clone(), node.value).is_some();
                    if is_known && !was_merged {
                        self.fault_of_key(key, line, TextFaultKind::DuplicateKey);
                    }
                }
                Some(PendingKey::Merge { line }) => return self.merge(node, is_alias, line, span),
                None => {}
            },
        }
        Ok(())
    }

    /// Adds the fields of the mapping, or of a list's mappings, that `<<` names.
    fn merge(
        &mut self,
        node: Node,
        is_alias: bool,
        line: u64,
        span: Span,
    ) -> Result<(), ReadError> {
        let sources: Vec<_> = match node.value {
            Value::Object(fields) => vec![fields],
            Value::Array(items) if !is_alias => {
                // Earlier mappings take precedence.
                let items = items.into_iter().rev().map(|item| match item {
                    Value::Object(fields) => Some(fields),
                    _ => None,
                });
                items
                    .collect::<Option<_>>()
                    .ok_or_else(|| self.not_mergeable(span))?
            }
            _ => return Err(self.not_mergeable(span)),
        };
        let mut overridden = Vec::new();
        if let Some(mapping) = self.mapping() {
            mapping.has_merge = true;
            mapping.has_typed_key |= node.has_typed_key;
            for (key, value) in sources.into_iter().flatten() {
                let is_merged = mapping.merged.contains(&key);
                if mapping.fields.contains_key(&key) && !is_merged {
                    overridden.push(key.clone());
                } else if !is_merged {
                    mapping.merged.insert(key.clone());
                }
                mapping.fields.insert(key, value);
            }
        }
        for key in overridden {
            self.fault_of_key(key, line, TextFaultKind::OverriddenByMerge);
        }
        Ok(())
    }

    fn not_mergeable(&self, span: Span) -> ReadError {
        self.error(
            span,
            "`<<` takes a mapping or a list of mappings; correct its value",
        )
    }

    fn mapping(&mut self) -> Option<&mut Mapping> {
        match self.open.last_mut() {
            Some(Open {
                content: Content::Mapping(mapping),
                ..
            }) => Some(mapping),
            _ => None,
        }
    }

    fn expects_key(&mut self) -> bool {
        self.mapping()
            .is_some_and(|mapping| mapping.pending.is_none())
    }

    /// The text after a token.
    fn after(&self, span: Span) -> Chars<'a> {
        let end = span.byte_range().map_or(self.text.len(), |range| range.end);
        self.text.get(end..).unwrap_or_default().chars()
    }

    /// Adds a fault for a tag of a collection that is not the one of its kind.
    fn check_tag(&mut self, tag: Option<&Tag>, kind: &str, span: Span) {
        if tag.is_some_and(|tag| tag.core_suffix() != Some(kind)) {
            self.fault(span, TextFaultKind::Tag);
        }
    }

    fn fault(&mut self, span: Span, kind: TextFaultKind) {
        let (path, line) = (self.path(), Some(self.line(span)));
        self.faults.add(TextFault { path, line, kind });
    }

    /// Adds a fault of a key of the innermost mapping, whose value is complete.
    fn fault_of_key(&mut self, key: String, line: u64, kind: TextFaultKind) {
        let (mut path, line) = (self.path(), Some(line));
        path.push(PathStep::Field(key));
        self.faults.add(TextFault { path, line, kind });
    }

    /// Records the place of the node that is read, or of its key.
    fn place(&mut self, span: Span, is_key: bool) {
        let path = match &self.places {
            Some(_) => self.path(),
            None => return,
        };
        let source = span.slice(self.text).unwrap_or_default();
        let found = TextSpan {
            line: self.line(span),
            column: span.start.col() + 1,
            width: source
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .count()
                .max(1),
        };
        if let Some(places) = &mut self.places {
            // Problems have keys that are not identifiers in either notation.
            let dotted = path
                .iter()
                .fold(FieldPath::root(), |above, step| match step {
                    PathStep::Field(name) => above.field(name),
                    PathStep::Index(index) => above.index(*index),
                });
            for field in [field_path(&path), dotted] {
                if is_key {
                    places.add_key(field.to_string(), found);
                } else {
                    places.add_value(field.to_string(), found);
                }
            }
        }
    }

    /// The way to the node that is read.
    fn path(&self) -> Vec<PathStep> {
        let steps = self.open.iter().filter_map(|open| match &open.content {
            Content::List(items) => Some(PathStep::Index(items.len())),
            Content::Mapping(mapping) => match mapping.pending.as_ref()? {
                PendingKey::Text { key, .. } => Some(PathStep::Field(key.clone())),
                PendingKey::Merge { .. } => Some(PathStep::Field("<<".to_owned())),
            },
        });
        steps.collect()
    }

    fn line(&self, span: Span) -> u64 {
        span.start.line() as u64 + self.lines_before
    }

    fn error(&self, span: Span, message: &str) -> ReadError {
        ReadError {
            line: self.line(span),
            column: span.start.col() + 1,
            message: message.to_owned(),
            is_limit: false,
        }
    }

    fn too_large(&self, span: Span) -> ReadError {
        ReadError {
            is_limit: true,
            ..self.error(span, "the limit is reached")
        }
    }
}

/// The value of a scalar with a tag; `None` for a tag that does not fit or is not one of YAML's own for scalars.
fn tagged(tag: &Tag, text: &str) -> Option<Scalar> {
    if tag.core_suffix() == Some("str") {
        return Some(Scalar::Text);
    }
    let value = scalar::resolve(text);
    let fits = match (tag.core_suffix()?, value) {
        ("int", Scalar::Integer(_)) => !scalar::is_float(text),
        ("float", Scalar::Integer(_) | Scalar::Float(_))
        | ("bool", Scalar::Bool(_))
        | ("null", Scalar::Null) => true,
        _ => false,
    };
    fits.then_some(value)
}

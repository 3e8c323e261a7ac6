//! A running file source, and what the engine would know from its batches.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use evermesh::source::{ChangeBatch, SourceChange, SourceName, file};
use evermesh_model::{Problem, Reason};
use tokio::{
    sync::mpsc::{self, Receiver},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::common::DEADLINE;

/// File and virtual service that [`FileSource::reports_nothing`] writes and removes.
pub(crate) const MARKER: (&str, &str) = ("marker.yaml", "marker");

/// A running file source, and what the engine would know from its batches.
pub(crate) struct FileSource {
    batches: Receiver<ChangeBatch>,
    /// The `Debug` output of each object, by `Kind/namespace/name`.
    pub(crate) objects: BTreeMap<String, String>,
    /// `FILE#DOCUMENT` of each object.
    pub(crate) origins: BTreeMap<String, Arc<str>>,
    /// Problems by file.
    pub(crate) problems: BTreeMap<Arc<str>, Vec<Problem>>,
    /// Every change of an object since the first full read, oldest first: `+` (added or changed) or `-` (removed) and
    /// the object.
    pub(crate) history: Vec<String>,
    pub(crate) is_synced: bool,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl FileSource {
    /// Starts the source and waits for its first full read.
    pub(crate) async fn start(folder: &Path) -> Self {
        let mut source = Self::spawn(folder);
        source
            .until("the first full read", |source| source.is_synced)
            .await;
        source.history.clear();
        source
    }

    /// Starts the source.
    pub(crate) fn spawn(folder: &Path) -> Self {
        let (changes, batches) = mpsc::channel(16);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(file::run(folder.to_owned(), changes, shutdown.clone()));
        Self {
            batches,
            objects: BTreeMap::new(),
            origins: BTreeMap::new(),
            problems: BTreeMap::new(),
            history: Vec::new(),
            is_synced: false,
            shutdown,
            task,
        }
    }

    fn apply(&mut self, batch: ChangeBatch) {
        for change in batch.changes {
            match change {
                SourceChange::Object {
                    object,
                    origin,
                    value,
                } => {
                    let name = object.to_string();
                    let sign = if value.is_some() { '+' } else { '-' };
                    self.history.push(format!("{sign}{name}"));
                    match origin {
                        Some(origin) => self.origins.insert(name.clone(), origin),
                        None => self.origins.remove(&name),
                    };
                    match value {
                        Some(value) => self.objects.insert(name, format!("{value:?}")),
                        None => self.objects.remove(&name),
                    };
                }
                SourceChange::Problems { origin, problems } if problems.is_empty() => {
                    self.problems.remove(&origin);
                }
                SourceChange::Problems { origin, problems } => {
                    self.problems.insert(origin, problems);
                }
                SourceChange::Synced(SourceName::Files) => self.is_synced = true,
                other @ (SourceChange::CloudMap { .. } | SourceChange::Synced(_)) => {
                    panic!("a file source reported {other:?}")
                }
            }
        }
    }

    /// Waits for one batch.
    pub(crate) async fn next(&mut self) {
        let batch = timeout(DEADLINE, self.batches.recv()).await;
        self.apply(batch.expect("a batch").expect("the source runs"));
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&mut self, event: &str, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            let left = DEADLINE.saturating_sub(start.elapsed());
            match timeout(left, self.batches.recv()).await {
                Ok(batch) => self.apply(batch.expect("the source runs")),
                Err(elapsed) => panic!(
                    "{event} did not happen: {elapsed}: {:?} {:?}",
                    self.objects, self.problems
                ),
            }
        }
    }

    /// Waits until this version of a virtual service is reported.
    pub(crate) async fn until_version(&mut self, service: &str, version: &str) {
        self.until(&format!("{version} of {service}"), |source| {
            source.has(service, version)
        })
        .await;
    }

    /// Waits until a virtual service is reported as removed.
    pub(crate) async fn until_removed(&mut self, service: &str) {
        self.until(&format!("the removal of {service}"), |source| {
            !source.objects.contains_key(&name(service))
        })
        .await;
    }

    /// Waits until the file source has handled every earlier event below `root`, and checks that it reported nothing.
    ///
    /// Writes a file and removes it again. The source handles events in the order in which they become due, and nothing
    /// becomes due later after its event than the removal of a file.
    pub(crate) async fn reports_nothing(&mut self, root: &Path) {
        let (file, service_name) = MARKER;
        let (history, problems) = (self.history.clone(), self.problems.clone());
        let path = write(root, file, service(service_name, "v1"));
        self.until_version(service_name, "v1").await;
        fs::remove_file(path).unwrap();
        self.until_removed(service_name).await;
        let events = self.history.split_off(history.len());
        let marker = name(service_name);
        assert_eq!(events, [format!("+{marker}"), format!("-{marker}")]);
        assert_eq!(self.problems, problems);
    }

    /// The names of all objects.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.objects.keys().map(String::as_str).collect()
    }

    /// Whether a virtual service exists with this version.
    pub(crate) fn has(&self, service: &str, version: &str) -> bool {
        let content = self.objects.get(&name(service));
        content.is_some_and(|content| content.contains(&format!("{version}.example")))
    }

    /// The first problem of a file.
    pub(crate) fn problem(&self, file: &str) -> Option<&Problem> {
        self.problems.get(file)?.first()
    }

    /// Origin and reason of every problem.
    pub(crate) fn reasons(&self) -> Vec<(String, Reason)> {
        let problems = self.problems.values().flatten();
        let origin = |problem: &Problem| problem.origin.as_deref().unwrap_or_default().to_owned();
        problems
            .map(|problem| (origin(problem), problem.reason))
            .collect()
    }

    /// Stops the source and waits for its end.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// A virtual service whose content shows `version`.
pub(crate) fn service(name: &str, version: &str) -> String {
    format!(
        "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualService\nmetadata: {{ name: {name}, namespace: shop }}\nspec: {{ awsName: {version}.example }}\n"
    )
}

/// `Kind/namespace/name` of a virtual service.
pub(crate) fn name(service: &str) -> String {
    format!("VirtualService/shop/{service}")
}

/// Writes a file below `folder`, with the folders above it; returns its path.
pub(crate) fn write(folder: &Path, file: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

//! A running source, and what an engine would know from it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use evermesh::source::{Batch, Change, SourceName, file};
use evermesh_model::{Problem, Reason};
use tempfile::TempDir;
use tokio::{
    sync::mpsc::{self, Receiver},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Longer than any change may take on a busy machine; nothing waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Shorter than it takes to find what the kernel did not tell.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(3);
/// Longer than the source takes to believe that something is unfinished or gone.
pub(crate) const SETTLED: Duration = Duration::from_millis(600);

/// A running source, and what an engine would know from it.
pub(crate) struct Source {
    batches: Receiver<Batch>,
    /// The objects, as text that shows their content.
    pub(crate) objects: BTreeMap<String, String>,
    /// Where each was read.
    pub(crate) origins: BTreeMap<String, Arc<str>>,
    pub(crate) problems: BTreeMap<Arc<str>, Vec<Problem>>,
    /// Every object change in order: `+` or `-` and the name.
    pub(crate) history: Vec<String>,
    pub(crate) is_synced: bool,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Source {
    /// Starts and waits for the first full read.
    pub(crate) async fn start(folder: &Path) -> Self {
        let mut source = Self::spawn(folder);
        source.until("synced", |source| source.is_synced).await;
        source.history.clear();
        source
    }

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

    pub(crate) fn apply(&mut self, batch: Batch) {
        for change in batch.changes {
            match change {
                Change::Object {
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
                Change::Problems { origin, problems } if problems.is_empty() => {
                    self.problems.remove(&origin);
                }
                Change::Problems { origin, problems } => {
                    self.problems.insert(origin, problems);
                }
                Change::Synced(SourceName::Files) => self.is_synced = true,
                other @ (Change::CloudMap { .. } | Change::Synced(_)) => {
                    panic!("files know nothing of this: {other:?}")
                }
            }
        }
    }

    /// Waits for the next batch.
    pub(crate) async fn next(&mut self) -> Instant {
        let batch = timeout(PATIENCE, self.batches.recv()).await;
        let batch = batch
            .expect("a change is told in time")
            .expect("the source runs");
        let noticed = batch.noticed;
        self.apply(batch);
        noticed
    }

    pub(crate) async fn until(&mut self, what: &str, is_done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.batches.recv()).await {
                Ok(batch) => self.apply(batch.expect("the source runs")),
                Err(late) => panic!("not {what}, {late}: {:?} {:?}", self.objects, self.problems),
            }
        }
    }

    /// Checks that nothing is told for longer than anything is waited for.
    pub(crate) async fn is_silent(&mut self) {
        if let Ok(batch) = timeout(SETTLED, self.batches.recv()).await {
            panic!("told {batch:?}");
        }
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.objects.keys().map(String::as_str).collect()
    }

    pub(crate) fn problem(&self, origin: &str) -> Option<&Problem> {
        self.problems.get(origin)?.first()
    }

    pub(crate) fn reasons(&self) -> Vec<(String, Reason)> {
        let problems = self.problems.values().flatten();
        let place = |problem: &Problem| problem.origin.as_deref().unwrap_or_default().to_owned();
        problems
            .map(|problem| (place(problem), problem.reason))
            .collect()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A virtual service that shows `version` in its content.
pub(crate) fn service(name: &str, version: &str) -> String {
    format!(
        "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualService\nmetadata: {{ name: {name}, namespace: shop }}\nspec: {{ awsName: {version}.example }}\n"
    )
}

pub(crate) fn name(service: &str) -> String {
    format!("VirtualService/shop/{service}")
}

pub(crate) fn write(folder: &Path, file: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

pub(crate) fn has(source: &Source, service: &str, version: &str) -> bool {
    let content = source.objects.get(&name(service));
    content.is_some_and(|content| content.contains(&format!("{version}.example")))
}

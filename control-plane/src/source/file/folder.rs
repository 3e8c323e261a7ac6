//! The folder on disk: which manifests there are, and what is in them.
//!
//! In: paths to look at. Out: a [`Catalog`] that is up to date with them.
//! A file's time, size and inode tell a sweep whether to read it; its content tells whether anything changed.
//!
//! Must not wait for anything: when to look is decided by the watch.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, Metadata},
    io::{self, ErrorKind, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use evermesh_model::Reason;

use super::{
    catalog::Catalog,
    document::{Format, Manifest, ManifestError, fingerprint},
};
use crate::source::SourceChange;

/// How deep folders may lie in one another: links among them could go in circles.
const MAX_DEPTH: usize = 32;

/// A folder of manifests.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    max_file_size: u64,
    files: BTreeMap<PathBuf, Known>,
    /// Folders that could not be listed, with their names in the catalog.
    unreadable: BTreeMap<PathBuf, Arc<str>>,
    catalog: Catalog,
}

/// A file that was read.
#[derive(Debug)]
struct Known {
    /// Its path below the root, as problems name it.
    name: Arc<str>,
    stamp: Option<Stamp>,
    /// The fingerprint of its bytes; none if it could not be read.
    content: Option<u64>,
}

/// What differs when a file was written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
}

/// What was found below a folder.
#[derive(Debug, Default)]
pub(super) struct FolderListing {
    files: BTreeMap<PathBuf, Stamp>,
    /// Folders that could not be listed: what lies below them is not gone.
    unreadable: BTreeMap<PathBuf, io::Error>,
}

/// What was read of a file, before anyone believes it.
#[derive(Debug)]
pub(super) struct FileContents {
    pub(super) path: PathBuf,
    stamp: Option<Stamp>,
    bytes: io::Result<Vec<u8>>,
}

impl Folder {
    pub(super) fn new(root: PathBuf, max_file_size: u64) -> Self {
        Self {
            root,
            max_file_size,
            files: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            catalog: Catalog::default(),
        }
    }

    /// What the engine is to be told now.
    pub(super) fn changes(&mut self) -> Vec<SourceChange> {
        self.catalog.changes()
    }

    /// Reads every manifest at or below a path.
    pub(super) fn read_all(&mut self, path: &Path) {
        let listing = self.list(path, &mut |_| ());
        for file in self.differing(&listing) {
            let reading = self.read(file);
            self.apply(reading);
        }
    }

    /// Lists the manifests at or below a path. `on_folder` is called with each folder before it is listed, so
    /// that a watch set there misses nothing.
    pub(super) fn list(&mut self, path: &Path, on_folder: &mut dyn FnMut(&Path)) -> FolderListing {
        let mut listing = FolderListing::default();
        list(path, MAX_DEPTH, on_folder, &mut listing);
        let mended: Vec<_> = self
            .unreadable
            .extract_if(path.to_owned().., |known, _| {
                known.starts_with(path) && !listing.unreadable.contains_key(known)
            })
            .collect();
        for (_, name) in mended {
            self.catalog.remove(&name);
        }
        for (folder, error) in &listing.unreadable {
            self.refuse_folder(folder, error);
        }
        listing
    }

    /// A folder cannot be listed; what it held stays.
    pub(super) fn refuse_folder(&mut self, folder: &Path, error: &io::Error) {
        let name = self.name(folder);
        let message = format!("the folder cannot be listed: {error}; what it held stays in force");
        self.catalog
            .refuse(&name, ManifestError::new(Reason::Unreadable, message));
        self.unreadable.insert(folder.to_owned(), name);
    }

    /// The files of a listing that differ from what was read of them.
    pub(super) fn differing(&self, listing: &FolderListing) -> Vec<PathBuf> {
        let files = listing.files.iter().filter(|(path, stamp)| {
            let known = self.files.get(*path).and_then(|known| known.stamp.as_ref());
            known != Some(*stamp)
        });
        files.map(|(path, _)| path.clone()).collect()
    }

    /// The known files at or below a path that a listing of it lacks.
    pub(super) fn missing(&self, path: &Path, listing: &FolderListing) -> Vec<PathBuf> {
        let is_hidden_from_us = |file: &PathBuf| {
            file.ancestors()
                .any(|above| listing.unreadable.contains_key(above))
        };
        self.below(path)
            .filter(|file| !listing.files.contains_key(*file) && !is_hidden_from_us(file))
            .cloned()
            .collect()
    }

    /// The known files at or below a path.
    pub(super) fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a PathBuf> {
        self.files
            .range(path.to_owned()..)
            .map(|(known, _)| known)
            .take_while(move |known| known.starts_with(path))
    }

    /// Reads a file, without believing it yet.
    pub(super) fn read(&self, path: PathBuf) -> FileContents {
        let (stamp, bytes) = match read(&path, self.max_file_size) {
            Ok((stamp, bytes)) => (Some(stamp), Ok(bytes)),
            Err(error) => (None, Err(error)),
        };
        FileContents { path, stamp, bytes }
    }

    /// Believes what was read.
    pub(super) fn apply(&mut self, reading: FileContents) {
        let FileContents { path, stamp, bytes } = reading;
        if is_absent(&bytes) {
            if let Some(known) = self.files.remove(&path) {
                self.catalog.remove(&known.name);
            }
            return;
        }
        let name = self.name(&path);
        let known = self.files.entry(path).or_insert_with_key(|_| Known {
            name: Arc::clone(&name),
            stamp: None,
            content: None,
        });
        known.stamp = stamp;
        let content = bytes.as_deref().ok().map(fingerprint);
        if content.is_some() && content == known.content {
            return;
        }
        known.content = content;
        let manifest = bytes
            .map_err(|error| refusal(&error, self.max_file_size))
            .and_then(|bytes| {
                let nothing = Manifest::default();
                let previous = self.catalog.manifest(&name).unwrap_or(&nothing);
                Manifest::read(
                    format_of(Path::new(&*name)).unwrap_or(Format::Yaml),
                    &bytes,
                    previous,
                )
            });
        match manifest {
            Ok(manifest) => self.catalog.put(&name, manifest),
            Err(refusal) => self.catalog.refuse(&name, refusal),
        }
    }

    /// The path as problems name it: below the root, or the root itself.
    fn name(&self, path: &Path) -> Arc<str> {
        match path.strip_prefix(&self.root) {
            Ok(below) if below != Path::new("") => below.to_string_lossy().into(),
            _ => path.to_string_lossy().into(),
        }
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            size: metadata.len(),
            inode: metadata.ino(),
        }
    }
}

/// Whether a manifest may have this name.
pub(super) fn format_of(path: &Path) -> Option<Format> {
    if is_hidden(path.file_name()?) {
        return None;
    }
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

/// Editors and the kubelet keep things of their own under such names: the kubelet's `..data` leads to files that
/// visible links lead to as well.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn list(path: &Path, depth: usize, on_folder: &mut dyn FnMut(&Path), listing: &mut FolderListing) {
    let Ok(metadata) = fs::metadata(path) else {
        return; // Gone since it was named, or a link that leads nowhere.
    };
    if metadata.is_file() {
        if format_of(path).is_some() {
            listing.files.insert(path.to_owned(), Stamp::of(&metadata));
        }
        return;
    }
    if !metadata.is_dir() || depth == 0 {
        return;
    }
    on_folder(path);
    let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    match entries {
        Ok(entries) => {
            for entry in entries {
                if !is_hidden(&entry.file_name()) {
                    list(&entry.path(), depth - 1, on_folder, listing);
                }
            }
        }
        Err(error) if is_absence(&error) => {}
        Err(error) => {
            listing.unreadable.insert(path.to_owned(), error);
        }
    }
}

fn read(path: &Path, max_size: u64) -> io::Result<(Stamp, Vec<u8>)> {
    // A pipe of that name would block for ever when opened.
    if !fs::metadata(path)?.is_file() {
        return Err(ErrorKind::NotFound.into());
    }
    let mut file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    if stamp.size <= max_size {
        bytes.reserve(usize::try_from(stamp.size).unwrap_or_default());
        file.by_ref().take(max_size + 1).read_to_end(&mut bytes)?;
    }
    if max_size < stamp.size.max(bytes.len() as u64) {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok((stamp, bytes))
}

fn refusal(error: &io::Error, max_size: u64) -> ManifestError {
    if error.kind() == ErrorKind::FileTooLarge {
        let message = format!("the file is over {max_size} bytes; split it");
        return ManifestError::new(Reason::TooLarge, message);
    }
    let message = format!("the file cannot be read: {error}; what it held stays in force");
    ManifestError::new(Reason::Unreadable, message)
}

fn is_absent<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(is_absence)
}

/// A folder on the way may have become a file.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

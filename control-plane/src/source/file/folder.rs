//! Lists and reads the folder, and keeps a [`Catalog`] up to date with it.
//!
//! Input: paths to read, from the watcher. Output: the changes of the catalog. A sweep compares modification time, size
//! and inode to find the files to read; a hash of the content then decides whether the file is parsed.
//!
//! Functions in this module never wait; the watcher decides when a path is read.

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
    links::LinkedFolders,
};
use crate::source::SourceChange;

/// Deepest nesting of folders.
const MAX_DEPTH: usize = 32;

/// A folder of manifests.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    max_file_size: u64,
    files: BTreeMap<PathBuf, KnownFile>,
    /// Folders that could not be listed, with their names in the catalog.
    unreadable: BTreeMap<PathBuf, Arc<str>>,
    linked: LinkedFolders,
    catalog: Catalog,
}

/// A file that was read.
#[derive(Debug)]
struct KnownFile {
    /// Path below the root, as problems show it.
    name: Arc<str>,
    stamp: Option<Stamp>,
    /// Fingerprint of the bytes; `None` if the file could not be read.
    content: Option<u64>,
}

/// File attributes of which at least one changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
}

/// The files below a path.
#[derive(Debug, Default)]
pub(super) struct FolderListing {
    files: BTreeMap<PathBuf, Stamp>,
    /// Folders that could not be listed. Known files below them do not count as removed.
    unreadable: BTreeMap<PathBuf, io::Error>,
}

/// The bytes of a file, not applied to the catalog yet.
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
            linked: LinkedFolders::default(),
            catalog: Catalog::default(),
        }
    }

    /// Changes since the last call.
    pub(super) fn changes(&mut self) -> Vec<SourceChange> {
        self.catalog.changes()
    }

    /// Reads every manifest at or below a path.
    pub(super) fn read_all(&mut self, path: &Path) {
        let listing = self.list(path, &mut |_| ());
        for file in self.differing(&listing) {
            let contents = self.read(file);
            self.apply(contents);
        }
    }

    /// The bytes of every manifest at or below a path that can be read, by its name in problems.
    pub(super) fn contents(&mut self, path: &Path) -> Vec<(Arc<str>, Vec<u8>)> {
        let listing = self.list(path, &mut |_| ());
        let files = listing.files.into_keys().map(|file| self.read(file));
        files
            .filter_map(|file| Some((self.name(&file.path), file.bytes.ok()?)))
            .collect()
    }

    /// Lists the manifests at or below a path. Calls `on_folder` with each folder before listing it, so that a watch set
    /// there misses no event.
    pub(super) fn list(&mut self, path: &Path, on_folder: &mut dyn FnMut(&Path)) -> FolderListing {
        let mut lister = Lister {
            root: &self.root,
            linked: &mut self.linked,
            on_folder,
            listing: FolderListing::default(),
        };
        lister.list(path, MAX_DEPTH);
        let listing = lister.listing;
        let readable_again: Vec<_> = self
            .unreadable
            .extract_if(path.to_owned().., |known, _| {
                known.starts_with(path) && !listing.unreadable.contains_key(known)
            })
            .collect();
        for (_, name) in readable_again {
            self.catalog.remove(&name);
        }
        for (folder, error) in &listing.unreadable {
            self.reject_folder(folder, error);
        }
        listing
    }

    /// Records that a folder cannot be listed. Its known files stay.
    pub(super) fn reject_folder(&mut self, folder: &Path, error: &io::Error) {
        let name = self.name(folder);
        let message =
            format!("cannot list the folder: {error}; its last known objects stay in force");
        self.catalog
            .reject(&name, ManifestError::new(Reason::Unreadable, message));
        self.unreadable.insert(folder.to_owned(), name);
    }

    /// The files of a listing that were not read yet or have changed since.
    pub(super) fn differing(&self, listing: &FolderListing) -> Vec<PathBuf> {
        let files = listing.files.iter().filter(|(path, stamp)| {
            let known = self.files.get(*path).and_then(|known| known.stamp.as_ref());
            known != Some(*stamp)
        });
        files.map(|(path, _)| path.clone()).collect()
    }

    /// The known files at or below a path that a listing of the path does not contain.
    pub(super) fn missing(&self, path: &Path, listing: &FolderListing) -> Vec<PathBuf> {
        let is_below_unreadable = |file: &PathBuf| {
            file.ancestors()
                .any(|above| listing.unreadable.contains_key(above))
        };
        self.below(path)
            .filter(|file| !listing.files.contains_key(*file) && !is_below_unreadable(file))
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

    /// Reads a file without applying its contents.
    pub(super) fn read(&self, path: PathBuf) -> FileContents {
        let (stamp, bytes) = match read(&path, self.max_file_size) {
            Ok((stamp, bytes)) => (Some(stamp), Ok(bytes)),
            Err(error) => (None, Err(error)),
        };
        FileContents { path, stamp, bytes }
    }

    /// Applies the contents of a file to the catalog.
    pub(super) fn apply(&mut self, contents: FileContents) {
        let FileContents { path, stamp, bytes } = contents;
        if is_absent(&bytes) {
            if let Some(known) = self.files.remove(&path) {
                self.catalog.remove(&known.name);
            }
            return;
        }
        let name = self.name(&path);
        let known = self.files.entry(path).or_insert_with_key(|_| KnownFile {
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
            .map_err(|error| read_error(&error, self.max_file_size))
            .and_then(|bytes| {
                let empty = Manifest::default();
                let previous = self.catalog.manifest(&name).unwrap_or(&empty);
                Manifest::parse(
                    format_of(Path::new(&*name)).unwrap_or(Format::Yaml),
                    &bytes,
                    previous,
                )
            });
        match manifest {
            Ok(manifest) => self.catalog.put(&name, manifest),
            Err(error) => self.catalog.reject(&name, error),
        }
    }

    /// The path as problems show it: relative to the root, or the root itself.
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

/// The format of a file by its name; `None` if the file is not a manifest.
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

/// Whether a name begins with a dot. Editors keep temporary files under such names, and the kubelet its `..data` folder,
/// whose files are also reachable by visible links.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

struct Lister<'a> {
    root: &'a Path,
    linked: &'a mut LinkedFolders,
    on_folder: &'a mut dyn FnMut(&Path),
    listing: FolderListing,
}

impl Lister<'_> {
    fn list(&mut self, path: &Path, depth: usize) {
        let Ok(metadata) = fs::metadata(path) else {
            return; // The path was removed meanwhile, or is a dangling link.
        };
        if metadata.is_file() {
            if format_of(path).is_some() {
                let files = &mut self.listing.files;
                files.insert(path.to_owned(), Stamp::of(&metadata));
            }
            return;
        }
        let is_read = metadata.is_dir()
            && depth != 0
            && (path == self.root || !path.is_symlink() || self.linked.follows(self.root, path));
        if !is_read {
            return;
        }
        (self.on_folder)(path);
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        match entries {
            Ok(mut entries) => {
                entries.retain(|entry| !is_hidden(&entry.file_name()));
                // The first of several links to one folder is followed.
                entries.sort_by_key(fs::DirEntry::file_name);
                for entry in entries {
                    self.list(&entry.path(), depth - 1);
                }
            }
            Err(error) if is_absence(&error) => {}
            Err(error) => {
                self.listing.unreadable.insert(path.to_owned(), error);
            }
        }
    }
}

fn read(path: &Path, max_size: u64) -> io::Result<(Stamp, Vec<u8>)> {
    // Opening a named pipe would block.
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

fn read_error(error: &io::Error, max_size: u64) -> ManifestError {
    if error.kind() == ErrorKind::FileTooLarge {
        let message = format!("the file is larger than {max_size} bytes; split it");
        return ManifestError::new(Reason::TooLarge, message);
    }
    let message = format!("cannot read the file: {error}; its last known objects stay in force");
    ManifestError::new(Reason::Unreadable, message)
}

fn is_absent<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(is_absence)
}

/// Whether an error means that the path does not exist; a parent folder may have become a file.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

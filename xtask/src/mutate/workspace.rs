//! A copy of the workspace whose sources contain every mutation, and its test executables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use serde::Deserialize;

use super::{
    find,
    site::{MutatedText, MutationSite},
};
use crate::files;

/// The crates with mutations: package and folder.
pub(crate) const CRATES: [(&str, &str); 2] = [
    ("evermesh-translate", "control-plane/translate"),
    ("evermesh-ingest", "control-plane/ingest"),
];

/// The number of cases of a property test.
static CASES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"with_cases\(\d+\)").expect("the pattern is a constant, and a test compiles it")
});

/// The test that takes longer than all others together. Its inputs are those of golden cases with changed fields.
const LEFT_OUT: &str = "fields";

/// The module `mutation` of each crate.
const SELECTION: &str = include_str!("selection.txt");

/// A mutation that compiles, if it is not dropped.
#[derive(Debug)]
pub(crate) struct Mutation {
    pub(crate) path: String,
    pub(crate) site: MutationSite,
}

impl Mutation {
    /// `PATH:LINE:COLUMN KIND`.
    pub(crate) fn name(&self) -> String {
        let (line, column) = self.site.place;
        format!("{}:{line}:{column} {}", self.path, self.site.kind)
    }
}

/// An executable with tests, and the folder in which it runs.
#[derive(Debug)]
pub(crate) struct TestProgram {
    pub(crate) executable: PathBuf,
    pub(crate) folder: PathBuf,
}

impl TestProgram {
    /// Whether the program is that of a test target.
    fn is(&self, target: &str) -> bool {
        let name = self.executable.file_stem().and_then(|name| name.to_str());
        name.and_then(|name| name.rsplit_once('-'))
            .is_some_and(|(name, _)| name == target)
    }
}

pub(crate) struct MutatedWorkspace {
    pub(crate) root: PathBuf,
    /// The mutation with number N is at index N.
    pub(crate) mutations: Vec<Mutation>,
    /// Numbers of mutations that do not compile.
    pub(crate) dropped: BTreeSet<usize>,
    sources: BTreeMap<String, String>,
}

impl MutatedWorkspace {
    /// Copies what git tracks or would add into the folder, and searches the sources for mutations.
    ///
    /// # Errors
    ///
    /// If a file cannot be copied or parsed.
    pub(crate) fn copy(folder: &Path) -> Result<Self> {
        let root = folder.join("workspace");
        let paths = files::paths()?;
        remove_others(&root, &root, &paths)?;
        for path in &paths {
            let content = fs::read(files::root().join(path))?;
            let content = if path.contains("/tests/") {
                with_few_cases(content)
            } else {
                content
            };
            update(&root.join(path), &content)?;
        }
        let mut workspace = Self {
            root,
            mutations: Vec::new(),
            dropped: BTreeSet::new(),
            sources: BTreeMap::new(),
        };
        for (_, folder) in CRATES {
            workspace.read_crate(folder, &paths)?;
        }
        let known = fs::read_to_string(workspace.dropped_list()).unwrap_or_default();
        let known: BTreeSet<&str> = known.lines().collect();
        for number in 0..workspace.mutations.len() {
            if known.contains(workspace.versioned_name(number).as_str()) {
                workspace.dropped.insert(number);
            }
        }
        Ok(workspace)
    }

    /// The mutations that did not compile in the last run, so that this one does not try again.
    fn dropped_list(&self) -> PathBuf {
        self.root.with_file_name("dropped.txt")
    }

    /// The name of a mutation with a hash of its file.
    fn versioned_name(&self, number: usize) -> String {
        let mutation = &self.mutations[number];
        let mut hasher = DefaultHasher::new();
        self.sources[&mutation.path].hash(&mut hasher);
        format!("{:x} {}", hasher.finish(), mutation.name())
    }

    fn read_crate(&mut self, folder: &str, paths: &BTreeSet<String>) -> Result<()> {
        let prefix = format!("{folder}/src/");
        let is_source = |path: &&String| {
            path.starts_with(&prefix) && Path::new(path).extension().is_some_and(|it| it == "rs")
        };
        let mut found = BTreeMap::new();
        let mut tests = Vec::new();
        for path in paths.iter().filter(is_source) {
            let source = fs::read_to_string(files::root().join(path))?;
            let (sites, modules) = find::mutations(&source).with_context(|| path.clone())?;
            let parent = module_folder(path);
            tests.extend(modules.iter().map(|module| format!("{parent}{module}.rs")));
            tests.extend(modules.iter().map(|module| format!("{parent}{module}/")));
            found.insert(path, (source, sites));
        }
        for (path, (source, sites)) in found {
            if tests.iter().any(|test| path.starts_with(test)) {
                continue;
            }
            self.sources.insert(path.clone(), source);
            let path = path.clone();
            self.mutations
                .extend(sites.into_iter().map(|site| Mutation {
                    path: path.clone(),
                    site,
                }));
        }
        Ok(())
    }

    /// Writes the mutated sources and builds the tests, without the mutations that do not compile.
    ///
    /// # Errors
    ///
    /// If an error of the compiler has no mutation as its cause.
    pub(crate) fn build(&mut self) -> Result<Vec<TestProgram>> {
        loop {
            let texts = self.write()?;
            let messages = self.compile()?;
            let errors: Vec<&Diagnostic> = messages.iter().filter_map(Message::error).collect();
            if errors.is_empty() {
                let programs = messages.into_iter().filter_map(Message::program);
                return Ok(programs.filter(|program| !program.is(LEFT_OUT)).collect());
            }
            let dropped = self.dropped.len();
            for error in &errors {
                self.dropped.extend(guilty(error, &texts));
            }
            let rendered = errors.first().and_then(|error| error.rendered.as_deref());
            let names = self
                .dropped
                .iter()
                .map(|it| self.versioned_name(*it) + "\n");
            fs::write(self.dropped_list(), names.collect::<String>())?;
            if self.dropped.len() == dropped {
                bail!("no mutation causes {}", rendered.unwrap_or_default());
            }
            eprintln!("{} mutations do not compile", self.dropped.len());
        }
    }

    fn write(&self) -> Result<BTreeMap<String, MutatedText>> {
        let mut sites: BTreeMap<&str, Vec<(usize, &MutationSite)>> = self
            .sources
            .keys()
            .map(|path| (path.as_str(), Vec::new()))
            .collect();
        for (number, Mutation { path, site }) in self.mutations.iter().enumerate() {
            let sites = sites.entry(path).or_default();
            if !self.dropped.contains(&number) {
                sites.push((number, site));
            }
        }
        let mut texts = BTreeMap::new();
        for (path, sites) in sites {
            let mut mutated = MutatedText::new(&self.sources[path], &sites);
            if CRATES
                .iter()
                .any(|(_, folder)| path.strip_prefix(folder) == Some("/src/lib.rs"))
            {
                mutated.text.push_str("\nmod mutation;\n");
            }
            update(&self.root.join(path), mutated.text.as_bytes())?;
            texts.insert(path.to_owned(), mutated);
        }
        let selection = SELECTION.replace("COUNT", &self.mutations.len().to_string());
        for (_, folder) in CRATES {
            let path = self.root.join(folder).join("src/mutation.rs");
            update(&path, selection.as_bytes())?;
        }
        Ok(texts)
    }

    fn compile(&self) -> Result<Vec<Message>> {
        let mut command = Command::new("cargo");
        command
            .args(["test", "--locked", "--no-run", "--message-format=json"])
            .args(
                CRATES
                    .iter()
                    .flat_map(|(package, _)| ["--package", package]),
            )
            // Not the folder of the workspace itself, because cargo gives both the same files.
            .arg("--target-dir")
            .arg(self.root.with_file_name("target"))
            .current_dir(&self.root);
        let output = command.stderr(std::process::Stdio::inherit()).output()?;
        let messages: Vec<Message> = output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()
            .context("cargo's messages")?;
        let is_explained =
            output.status.success() || messages.iter().any(|it| it.error().is_some());
        ensure!(
            is_explained,
            "cargo failed without an error of the compiler"
        );
        Ok(messages)
    }
}

/// Numbers of the mutations that caused an error.
fn guilty(error: &Diagnostic, texts: &BTreeMap<String, MutatedText>) -> Vec<usize> {
    let primary = error.spans.iter().filter(|span| span.is_primary);
    primary
        .filter_map(|span| {
            let text = texts.get(&span.file_name)?;
            Some(text.guilty(&(span.byte_start..span.byte_end)))
        })
        .flatten()
        .collect()
}

/// A message of cargo.
#[derive(Debug, Deserialize)]
#[serde(tag = "reason")]
enum Message {
    #[serde(rename = "compiler-message")]
    Compiler { message: Diagnostic },
    #[serde(rename = "compiler-artifact")]
    Artifact {
        manifest_path: PathBuf,
        executable: Option<PathBuf>,
    },
    #[serde(other)]
    Other,
}

impl Message {
    fn error(&self) -> Option<&Diagnostic> {
        match self {
            Self::Compiler { message } => {
                (message.level == "error" && !message.spans.is_empty()).then_some(message)
            }
            Self::Artifact { .. } | Self::Other => None,
        }
    }

    fn program(self) -> Option<TestProgram> {
        match self {
            Self::Artifact {
                manifest_path,
                executable: Some(executable),
            } => Some(TestProgram {
                executable,
                folder: manifest_path.parent()?.to_owned(),
            }),
            _ => None,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Diagnostic {
    level: String,
    spans: Vec<DiagnosticSpan>,
    rendered: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DiagnosticSpan {
    file_name: String,
    byte_start: usize,
    byte_end: usize,
    is_primary: bool,
}

/// Makes property tests that set their number of cases quick.
fn with_few_cases(content: Vec<u8>) -> Vec<u8> {
    match String::from_utf8(content) {
        Ok(text) => CASES
            .replace_all(&text, "with_cases(32)")
            .into_owned()
            .into_bytes(),
        Err(error) => error.into_bytes(),
    }
}

/// The folder, with a slash at its end, of the modules that a file declares.
fn module_folder(path: &str) -> String {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let folder = ["mod", "lib", "main"]
        .iter()
        .find_map(|name| stem.strip_suffix(name).filter(|rest| rest.ends_with('/')));
    folder.map_or_else(|| format!("{stem}/"), str::to_owned)
}

/// Writes a file if its content differs, so that cargo does not compile it again otherwise.
fn update(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content).with_context(|| path.display().to_string())
}

/// Removes the files below the folder that are not listed.
fn remove_others(root: &Path, folder: &Path, listed: &BTreeSet<String>) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(root, &path, listed)?;
        } else if !path
            .strip_prefix(root)?
            .to_str()
            .is_some_and(|it| listed.contains(it))
        {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn property_tests_have_few_cases() {
        let content = with_few_cases(b"with_cases(300) a".to_vec());
        assert_eq!(content, b"with_cases(32) a");
    }

    #[test]
    fn modules_of_a_file_are_below_its_name() {
        assert_eq!(module_folder("a/src/lib.rs"), "a/src/");
        assert_eq!(module_folder("a/src/b/mod.rs"), "a/src/b/");
        assert_eq!(module_folder("a/src/b.rs"), "a/src/b/");
        assert_eq!(module_folder("a/src/model.rs"), "a/src/model/");
    }
}

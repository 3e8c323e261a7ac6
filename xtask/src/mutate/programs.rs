//! The tests: what they reach, and whether they fail with a mutation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{outcome::Outcome, pairs::try_each, workspace::TestProgram};

/// Kills a test that a mutation lets run forever or use ever more memory: the arguments are seconds and the command.
const LIMITED: &str = "ulimit -v 4000000; exec timeout --signal=KILL \"$0\" \"$@\"";

/// Seconds that a run may take at least.
const LEAST_LIMIT: u64 = 20;

/// A test of one of the programs.
#[derive(Debug)]
pub(crate) struct MutatedTest {
    program: usize,
    name: String,
    /// Numbers of the mutations that the test reaches.
    pub(crate) reached: BTreeSet<usize>,
    duration: Duration,
}

/// The programs and all their tests, those that reach the fewest mutations first.
#[derive(Debug)]
pub(crate) struct MutatedTests {
    programs: Vec<TestProgram>,
    root: PathBuf,
    pub(crate) tests: Vec<MutatedTest>,
}

impl MutatedTests {
    /// Runs each test alone, without a mutation.
    ///
    /// # Errors
    ///
    /// If a test fails.
    pub(crate) fn list(programs: Vec<TestProgram>, root: &Path) -> Result<Self> {
        let mut list = Self {
            programs,
            root: root.to_owned(),
            tests: Vec::new(),
        };
        let mut names = Vec::new();
        for program in 0..list.programs.len() {
            let output = list.command(program, LEAST_LIMIT).arg("--list").output()?;
            let lines = std::str::from_utf8(&output.stdout)?.lines();
            let tests = lines.filter_map(|line| line.strip_suffix(": test"));
            names.extend(tests.map(|name| (program, name.to_owned())));
        }
        let plain = |index: usize| list.plain(index, names[index].0, &names[index].1);
        let mut tests = Vec::new();
        try_each(0..names.len(), plain, |_, test| {
            tests.push(test);
            Ok(())
        })?;
        list.tests = tests;
        list.tests.sort_by(|one, other| {
            let key = |test: &MutatedTest| (test.reached.len(), test.program);
            (key(one), &one.name).cmp(&(key(other), &other.name))
        });
        Ok(list)
    }

    /// A command that runs a program with limits.
    fn command(&self, program: usize, seconds: u64) -> Command {
        let TestProgram { executable, folder } = &self.programs[program];
        let mut command = Command::new("sh");
        command
            .args(["-c", LIMITED, &seconds.to_string()])
            .arg(executable)
            .current_dir(folder)
            .env("CARGO_MANIFEST_DIR", folder)
            .env("INSTA_OUTPUT", "none")
            .env("INSTA_UPDATE", "no")
            .env("INSTA_WORKSPACE_ROOT", &self.root)
            .env("PROPTEST_CASES", "32")
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .env("PROPTEST_RNG_SEED", "1")
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null());
        command
    }

    fn plain(&self, index: usize, program: usize, name: &str) -> Result<MutatedTest> {
        let path = self.root.with_file_name(format!("reached-{index}.txt"));
        fs::write(&path, "")?;
        let start = Instant::now();
        let output = self
            .command(program, 600)
            .args(["--exact", name, "--test-threads=1"])
            .env("EVERMESH_MUTATION_REACHED", &path)
            .output()?;
        let duration = start.elapsed();
        let Output { status, stdout, .. } = output;
        ensure!(
            status.success(),
            "the test {name} fails without a mutation:\n{}",
            String::from_utf8_lossy(&stdout)
        );
        let reached = fs::read_to_string(&path)?;
        fs::remove_file(&path)?;
        let reached = reached.lines().map(str::parse).collect::<Result<_, _>>();
        Ok(MutatedTest {
            program,
            name: name.to_owned(),
            reached: reached.context("reached mutations")?,
            duration,
        })
    }

    /// Runs the tests that reach the mutation until one fails: first eight, then four times as many in each run. A
    /// program with golden tests takes as long to start as to run eight of them.
    ///
    /// # Errors
    ///
    /// If a program cannot be started.
    pub(crate) fn outcome(&self, mutation: usize) -> Result<Outcome> {
        let reaching = self
            .tests
            .iter()
            .filter(|test| test.reached.contains(&mutation));
        let mut reaching = reaching.peekable();
        if reaching.peek().is_none() {
            return Ok(Outcome::Unreached);
        }
        let mut size = 8;
        while reaching.peek().is_some() {
            let mut chosen = BTreeMap::<usize, Vec<&MutatedTest>>::new();
            for test in reaching.by_ref().take(size) {
                chosen.entry(test.program).or_default().push(test);
            }
            for (program, tests) in chosen {
                if !self.pass(program, &tests, mutation)? {
                    return Ok(Outcome::Caught);
                }
            }
            size *= 4;
        }
        Ok(Outcome::Survived)
    }

    fn pass(&self, program: usize, chosen: &[&MutatedTest], mutation: usize) -> Result<bool> {
        let plain: Duration = chosen.iter().map(|test| test.duration).sum();
        let mut command = self.command(program, LEAST_LIMIT.max(20 * plain.as_secs()));
        command.args(["--exact", "--test-threads=1"]);
        if let [test] = chosen {
            command.arg(&test.name);
        } else {
            // The programs of golden tests take one name to run, but any number of names to skip.
            let names: BTreeSet<&str> = chosen.iter().map(|test| test.name.as_str()).collect();
            let others = self.tests.iter().filter(|test| test.program == program);
            for test in others.filter(|test| !names.contains(test.name.as_str())) {
                command.args(["--skip", &test.name]);
            }
        }
        command.env("EVERMESH_MUTATION", mutation.to_string());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.status()?.success())
    }
}

//! The commands of an example's README and what they print.
//!
//! ````text
//! ```console
//! front$ curl -s http://color.shop/          runs where `front` runs
//! color-v1                                   the expected output; `...` stands for any text within a line
//! $ sed -i s/v1/v2/ examples/shop/mesh.yaml  runs next to the control plane, in the folder that contains `examples`
//! ```
//! ````
//!
//! In a block that begins with ```` ```console eventually ````, a command is repeated until it prints what is expected.

/// A command and its expected output.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadmeStep {
    /// The line of the README, counted from 1.
    pub line: usize,
    /// The host in the prompt; `None` for the control plane's.
    pub host: Option<String>,
    pub command: String,
    pub expected: Vec<String>,
    /// Whether the command is repeated until it prints what is expected.
    pub is_repeated: bool,
}

impl ReadmeStep {
    /// Whether the command printed what is expected.
    pub fn expects(&self, output: &str) -> bool {
        let lines: Vec<&str> = output.trim_end().lines().map(str::trim_end).collect();
        let expected = self.expected.iter();
        lines.len() == expected.len() && expected.zip(lines).all(|(line, other)| fits(line, other))
    }
}

/// The commands of all blocks, in order. An error is the number and text of a line.
pub fn steps(readme: &str) -> Result<Vec<ReadmeStep>, String> {
    let mut steps: Vec<ReadmeStep> = Vec::new();
    // Within a block: whether its commands are repeated.
    let mut block = None;
    for (line, text) in (1..).zip(readme.lines()) {
        match (block, text.strip_prefix("```")) {
            (None, Some("console")) => block = Some(false),
            (None, Some("console eventually")) => block = Some(true),
            (Some(_), Some("")) => block = None,
            (Some(is_repeated), None) => match prompt(text) {
                Some((host, command)) => steps.push(ReadmeStep {
                    line,
                    host: (!host.is_empty()).then(|| host.to_owned()),
                    command: command.to_owned(),
                    expected: Vec::new(),
                    is_repeated,
                }),
                None => match steps.last_mut() {
                    Some(step) => step.expected.push(text.to_owned()),
                    None => return Err(format!("line {line} has no prompt: {text}")),
                },
            },
            _ => {}
        }
    }
    Ok(steps)
}

/// Splits `front$ command` into host and command.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (host, command) = line.split_once("$ ")?;
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    host.bytes().all(is_name).then_some((host, command))
}

/// Whether a line is the expected one.
fn fits(expected: &str, line: &str) -> bool {
    let Some((start, rest)) = expected.split_once("...") else {
        return expected == line;
    };
    let Some(mut line) = line.strip_prefix(start) else {
        return false;
    };
    let (middle, end) = rest.rsplit_once("...").unwrap_or(("", rest));
    for part in middle.split("...") {
        match line.split_once(part) {
            Some((_, after)) => line = after,
            None => return false,
        }
    }
    line.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "# Example

    $ not a step

```console
front$ curl a | grep '$ b'
one
two ... four
$ ls
```
```console eventually
color-v1$ true
```
";

    #[test]
    fn blocks_are_commands_with_their_output() {
        let step =
            |line, host: Option<&str>, command: &str, expected: &[&str], is_repeated| ReadmeStep {
                line,
                host: host.map(str::to_owned),
                command: command.to_owned(),
                expected: expected.iter().map(|&line| line.to_owned()).collect(),
                is_repeated,
            };
        let expected = vec![
            step(
                6,
                Some("front"),
                "curl a | grep '$ b'",
                &["one", "two ... four"],
                false,
            ),
            step(9, None, "ls", &[], false),
            step(12, Some("color-v1"), "true", &[], true),
        ];
        assert_eq!(steps(README), Ok(expected));
    }

    #[test]
    fn output_without_a_command_is_an_error() {
        let wrong = steps("```console\nno prompt\n```\n");
        assert_eq!(wrong, Err("line 2 has no prompt: no prompt".to_owned()));
    }

    #[test]
    fn output_is_compared_line_by_line() {
        let steps = steps(README).unwrap();
        assert!(steps[0].expects("one\ntwo three four\n\n"));
        for wrong in [
            "one\n",
            "one\ntwo four",
            "one\ntwo three",
            "two three four\none",
            "one\ntwo 3 four\n5",
        ] {
            assert!(!steps[0].expects(wrong), "{wrong}");
        }
        assert!(steps[1].expects("") && !steps[1].expects("a"));
    }

    #[test]
    fn dots_stand_for_any_text() {
        for (line, is_expected) in [
            ("a1b2c", true),
            ("abc", true),
            ("a1c", false),
            ("a1b2", false),
        ] {
            assert_eq!(fits("a...b...c", line), is_expected, "{line}");
        }
    }
}

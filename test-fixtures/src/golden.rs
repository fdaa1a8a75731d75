//! Text compared with a file beside the test. `UPDATE=1` writes the file anew: the change is then read in review.

use std::fs;
use std::path::Path;

/// Panics unless `actual` is what the file says.
#[track_caller]
pub fn assert_matches(file: impl AsRef<Path>, actual: &str) {
    let file = file.as_ref();
    if std::env::var("UPDATE").is_ok_and(|value| value == "1") {
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory).expect("the golden files' directory can be made");
        }
        fs::write(file, actual)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
        return;
    }
    let expected = fs::read_to_string(file).unwrap_or_else(|error| {
        panic!(
            "cannot read {}: {error} (UPDATE=1 writes it)",
            file.display()
        )
    });
    if expected != actual {
        panic!(
            "{} says otherwise (UPDATE=1 rewrites it):\n{}",
            file.display(),
            difference(&expected, actual)
        );
    }
}

/// The lines between the common beginning and the common end, with two lines around.
fn difference(expected: &str, actual: &str) -> String {
    let expected: Vec<_> = expected.split('\n').collect();
    let actual: Vec<_> = actual.split('\n').collect();
    let same = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| {
        pairs.take_while(|(left, right)| left == right).count()
    };
    let head = same(&mut expected.iter().zip(&actual));
    let tail = same(
        &mut expected[head..]
            .iter()
            .rev()
            .zip(actual[head..].iter().rev()),
    );
    let context = |line: &&str| format!("  {line}");
    let mut lines: Vec<_> = expected[head.saturating_sub(2)..head]
        .iter()
        .map(context)
        .collect();
    lines.extend(
        expected[head..expected.len() - tail]
            .iter()
            .map(|line| format!("- {line}")),
    );
    lines.extend(
        actual[head..actual.len() - tail]
            .iter()
            .map(|line| format!("+ {line}")),
    );
    lines.extend(actual[actual.len() - tail..].iter().take(2).map(context));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown() {
        assert_eq!(
            difference("a\nb\nc\nd\ne\n", "a\nb\nc\nX\nY\ne\n"),
            "  b\n  c\n- d\n+ X\n+ Y\n  e\n  "
        );
        assert_eq!(difference("a\na\n", "a\n"), "  a\n- a\n  ");
    }
}

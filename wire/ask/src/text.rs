//! How answers for people look.

use std::fmt::{self, Write as _};

/// A table with its heads, an empty line before it, columns as wide as they must be; those from `right` on are numbers.
/// Nothing without rows.
///
/// # Errors
/// That of what is written to.
pub fn section<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    heads: [&str; N],
    right: usize,
    rows: impl Iterator<Item = [String; N]>,
) -> fmt::Result {
    let heads = heads.map(str::to_owned);
    let rows: Vec<_> = std::iter::once(heads).chain(rows).collect();
    if rows.len() == 1 {
        return Ok(());
    }
    writeln!(f)?;
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = match column < right {
                true => write!(line, "{cell:width$}  "),
                false => write!(line, "{cell:>width$}  "),
            };
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Shown(Vec<[String; 3]>);

    impl fmt::Display for Shown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            section(f, ["name", "", "now"], 2, self.0.iter().cloned())
        }
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let rows = vec![row(["a", "größer", "1"]), row(["longer", "", "1000"])];
        let expected = "\nname             now\na       größer     1\nlonger          1000\n";
        assert_eq!(Shown(rows).to_string(), expected);
        assert_eq!(Shown(Vec::new()).to_string(), "");
    }
}

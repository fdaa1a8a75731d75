//! Medians of what was measured, contender beside contender.

use std::collections::BTreeMap;
use std::fmt;

/// All samples.
pub(crate) struct Table {
    contenders: Vec<String>,
    /// In the order of their first sample.
    rows: Vec<(u32, String)>,
    samples: BTreeMap<(u32, String, usize), Vec<f64>>,
}

impl Table {
    /// Nothing measured yet.
    pub(crate) fn new(contenders: Vec<String>) -> Self {
        Self {
            contenders,
            rows: Vec::new(),
            samples: BTreeMap::new(),
        }
    }

    /// One sample of one contender.
    pub(crate) fn add(&mut self, contender: usize, mtu: u32, what: impl Into<String>, value: f64) {
        let what = what.into();
        if !self.rows.iter().any(|row| row.0 == mtu && row.1 == what) {
            self.rows.push((mtu, what.clone()));
        }
        self.samples
            .entry((mtu, what, contender))
            .or_default()
            .push(value);
    }

    fn median(&self, row: &(u32, String), contender: usize) -> Option<f64> {
        let mut values = self
            .samples
            .get(&(row.0, row.1.clone(), contender))?
            .clone();
        values.sort_by(f64::total_cmp);
        let upper = values.get(values.len() / 2)?;
        let lower = values.get((values.len() - 1) / 2)?;
        Some(f64::midpoint(*upper, *lower))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<6} {:<44}", "MTU", "median of rounds")?;
        for name in &self.contenders {
            write!(f, " {name:>13}")?;
        }
        for name in self.contenders.iter().skip(1) {
            write!(f, " {:>9}", format!("x {name}"))?;
        }
        let direct = self.contenders.iter().position(|name| name == "direct");
        let shares = |place: usize| direct.is_some_and(|direct| direct != place);
        for name in (0..).zip(&self.contenders).filter(|c| shares(c.0)) {
            write!(f, " {:>13}", format!("{}/direct", name.1))?;
        }
        for row in &self.rows {
            write!(f, "\n{:<6} {:<44}", row.0, row.1)?;
            let values: Vec<_> = (0..self.contenders.len())
                .map(|place| self.median(row, place))
                .collect();
            for value in &values {
                match value {
                    Some(value) => write!(f, " {value:>13.3}")?,
                    None => write!(f, " {:>13}", "-")?,
                }
            }
            let reference = values.first().copied().flatten();
            for value in values.iter().skip(1) {
                match reference.zip(*value) {
                    Some((reference, value)) if reference != 0.0 => {
                        write!(f, " {:>9.2}", value / reference)?;
                    }
                    _ => write!(f, " {:>9}", "-")?,
                }
            }
            let limit = direct.and_then(|place| values.get(place).copied().flatten());
            for (_, value) in (0..).zip(&values).filter(|value| shares(value.0)) {
                match limit.zip(*value) {
                    Some((limit, value)) if limit != 0.0 => write!(f, " {:>13.2}", value / limit)?,
                    _ => write!(f, " {:>13}", "-")?,
                }
            }
        }
        Ok(())
    }
}

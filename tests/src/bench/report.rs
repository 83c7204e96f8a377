//! The figures of a run.

use std::{fmt, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use super::targets::Target;

/// Figures, in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

#[derive(Debug)]
struct Figure {
    name: String,
    unit: &'static str,
    /// The median.
    value: f64,
    /// The least and the greatest, if there was more than one.
    spread: Option<(f64, f64)>,
}

impl Report {
    /// Adds a figure that was measured once. Its name says what it is, its unit last: `restore_20m_s`.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.add_all(name, &[value], unit);
    }

    /// Adds a figure that was measured several times: the median counts, and least and greatest stand beside it.
    pub fn add_all(&mut self, name: impl Into<String>, values: &[f64], unit: &'static str) {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let spread = match sorted[..] {
            [first, .., last] => Some((first, last)),
            _ => None,
        };
        self.figures.push(Figure { name: name.into(), unit, value: median(&sorted), spread });
    }

    /// A figure of this run.
    ///
    /// # Errors
    /// It was not measured.
    pub fn get(&self, name: &str) -> Result<f64> {
        let found = self.figures.iter().find(|f| f.name == name);
        found.map(|f| f.value).with_context(|| format!("{name} was not measured"))
    }

    /// All figures as one flat object, by name.
    ///
    /// # Errors
    /// A name stands twice, or a value is no number.
    pub fn json(&self) -> Result<Map<String, Value>> {
        let mut all = Map::new();
        for figure in &self.figures {
            ensure!(figure.value.is_finite(), "{} is no number", figure.name);
            let before = all.insert(figure.name.clone(), figure.value.into());
            ensure!(before.is_none(), "{} was measured twice", figure.name);
        }
        Ok(all)
    }

    /// Writes the flat object, over what `file` holds already: the figures of other parts stay.
    ///
    /// # Errors
    /// As [`Report::json`]; or the file can not be read or written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let mut all = read(file)?;
        all.extend(self.json()?);
        let text = serde_json::to_string_pretty(&all)? + "\n";
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }
}

/// A flat object of figures; empty if there is no such file.
///
/// # Errors
/// The file holds something else.
pub fn read(file: &Path) -> Result<Map<String, Value>> {
    if !file.exists() {
        return Ok(Map::new());
    }
    let all: Map<String, Value> = serde_json::from_slice(&std::fs::read(file)?)
        .with_context(|| format!("read the figures of {}", file.display()))?;
    ensure!(all.values().all(Value::is_number), "{} is not flat", file.display());
    Ok(all)
}

/// The middle of sorted values; 0 of none.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted {
        [] => 0.0,
        _ if sorted.len().is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// The table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.figures.iter().map(|f| f.name.len()).max().unwrap_or(0).max("figure".len());
        writeln!(
            f,
            "| {:width$} | {:>11} | {:8} | {:>23} | target",
            "figure", "median", "unit", "least to greatest"
        )?;
        writeln!(f, "|-{:-<width$}-|-{:-<11}:|-{:-<8}-|-{:-<23}:|-------", "", "", "", "")?;
        for Figure { name, unit, value, spread } in &self.figures {
            let spread = spread.map(|(least, most)| format!("{} to {}", number(least), number(most)));
            let (value_text, spread) = (number(*value), spread.unwrap_or_default());
            write!(f, "| {name:width$} | {value_text:>11} | {unit:8} | {spread:>23} |")?;
            if let Some(target) = Target::of(name) {
                let sign = if matches!(target, Target::AtLeast(_)) { "≥" } else { "≤" };
                write!(f, " {sign} {}: ", number(target.bound()))?;
                match target.reached(*value) {
                    share if share >= 1.0 => write!(f, "reached")?,
                    share => write!(f, "{:.0} % of it", 100.0 * share)?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A number as people read it: three digits at least, thousands apart.
fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.*}", if value.abs() < 10.0 { 2 } else { 1 });
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_counts_and_the_object_is_flat() {
        let mut report = Report::default();
        report.add_all("b_keys_per_s", &[3.0, 1.0, 9.0], "keys/s");
        report.add_all("a_ms", &[4.0, 2.0], "ms");
        let json = serde_json::to_string(&report.json().unwrap()).unwrap();
        assert_eq!(json, r#"{"a_ms":3.0,"b_keys_per_s":3.0}"#);
        assert!(report.get("a_ms").unwrap() == 3.0 && report.get("c").is_err());

        report.add("a_ms", 1.0, "ms");
        assert!(report.json().is_err());
        let mut report = Report::default();
        report.add("ratio", f64::NAN, "");
        assert!(report.json().is_err());
    }

    #[test]
    fn targets_say_how_much_of_them_is_reached() {
        let mut report = Report::default();
        report.add("restore_20m_s", 30.0, "s");
        report.add_all("end_to_end_keys_per_s_4", &[1_234_567.0, 250_000.0, 300_000.0], "keys/s");
        report.add("other", 0.5, "");
        let text = report.to_string();
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert!(lines[0].contains("| ≤ 15.0: 50 % of it"), "{text}");
        assert!(
            lines[1].ends_with("300,000 | keys/s   |    250,000 to 1,234,567 | ≥ 250,000: reached"),
            "{text}"
        );
        assert!(!lines[2].contains(['≥', '≤']), "{text}");
    }

    #[test]
    fn figures_of_other_parts_stay() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("summary.json");
        for (name, value) in [("a", 1.0), ("b", 2.0), ("a", 3.0)] {
            let mut report = Report::default();
            report.add(name, value, "");
            report.write(&file).unwrap();
        }
        assert_eq!(serde_json::to_string(&read(&file).unwrap()).unwrap(), r#"{"a":3.0,"b":2.0}"#);
        std::fs::write(&file, r#"{"a": {"b": 1}}"#).unwrap();
        assert!(read(&file).is_err());
    }
}

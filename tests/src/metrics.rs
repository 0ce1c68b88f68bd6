//! The Prometheus text format, as far as tests look into it.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub text: String,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Panics at the first line that is not in the format.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let parse = |line| sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}"));
        Self { text: text.to_owned(), samples: lines.map(parse).collect() }
    }

    /// Sum of all samples of this name whose labels include these.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        };
        self.samples.iter().filter(fits).map(|sample| sample.value).sum()
    }

    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }

    /// Names that are announced with help and type.
    pub fn families(&self) -> Vec<String> {
        let typed = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        typed.filter_map(|rest| rest.split(' ').next()).map(str::to_owned).collect()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some(Sample { name: series.to_owned(), labels: BTreeMap::new(), value });
    };
    let mut rest = labels.strip_suffix('}')?;
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let (text, after) = quoted(after)?;
        labels.insert(key.to_owned(), text);
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Up to the quote that ends it, with what was escaped.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let metrics = Metrics::parse("# TYPE a gauge\na{x=\"1\",y=\"q\\\"\"} 2\na{x=\"2\"} 3.5\nb 1\n");
        assert_eq!(metrics.sum("a", &[]), 5.5);
        assert_eq!(metrics.sum("a", &[("y", "q\"")]), 2.0);
        assert_eq!(metrics.families(), ["a"]);
        assert!(metrics.has("b") && !metrics.has("c"));
    }
}

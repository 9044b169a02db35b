//! The text of the metrics page, in the format of TensorFlow Serving (`docs/spec/observability.md` §3) or as
//! `OpenMetrics`.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

pub use servable_model::distribution::Distribution;

/// The kind of a metric, as in its `# TYPE` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Counter, Self::Gauge, Self::Histogram].into_iter().find(|kind| kind.name() == name)
    }
}

/// The format of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus.
    Prometheus,
    /// The text format of `OpenMetrics`. Names are the same as for Prometheus. Counters of TensorFlow Serving lack the
    /// suffix that `OpenMetrics` requires, so they have the type `unknown`.
    OpenMetrics,
}

/// The suffix that `OpenMetrics` requires for counters.
const TOTAL: &str = "_total";

impl Format {
    /// The media type of the page.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The name and the type of a metric before its points.
    fn declaration(self, name: &str, kind: Kind) -> (&str, &'static str) {
        match (self, kind, name.strip_suffix(TOTAL)) {
            (Self::OpenMetrics, Kind::Counter, Some(name)) => (name, kind.name()),
            (Self::OpenMetrics, Kind::Counter, None) => (name, "unknown"),
            _ => (name, kind.name()),
        }
    }

    /// The limit of a bucket.
    fn limit(self, limit: f64) -> String {
        let digits = six_digits(limit);
        let is_whole = digits.bytes().all(|byte| byte.is_ascii_digit());
        if self == Self::OpenMetrics && is_whole { digits + ".0" } else { digits }
    }
}

/// A metric with all its points.
#[derive(Clone, Debug)]
pub struct Family {
    /// The internal name, such as `/tensorflow/serving/request_count`.
    pub name: Cow<'static, str>,
    /// What it is.
    pub kind: Kind,
    /// The help text. Metrics of TensorFlow Serving have none.
    pub help: Cow<'static, str>,
    /// The names of the labels.
    pub labels: Vec<Cow<'static, str>>,
    /// The values of the labels, each with the measured value, in any order.
    pub points: Vec<(Vec<String>, Value)>,
}

/// A measured value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Integer(u64),
    /// A number that may have a fraction, for metrics that TensorFlow Serving does not have.
    Float(f64),
    /// A histogram.
    Distribution(Distribution),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Integer(count)
    }
}

impl From<Duration> for Value {
    fn from(time: Duration) -> Self {
        Self::Float(time.as_secs_f64())
    }
}

impl From<Distribution> for Value {
    fn from(distribution: Distribution) -> Self {
        Self::Distribution(distribution)
    }
}

impl Family {
    /// A counter without points.
    pub fn counter(name: &'static str, labels: &[&'static str]) -> Self {
        Self::new(name, Kind::Counter, labels)
    }

    /// A gauge without points.
    pub fn gauge(name: &'static str, labels: &[&'static str]) -> Self {
        Self::new(name, Kind::Gauge, labels)
    }

    /// A histogram without points.
    pub fn histogram(name: &'static str, labels: &[&'static str]) -> Self {
        Self::new(name, Kind::Histogram, labels)
    }

    fn new(name: &'static str, kind: Kind, labels: &[&'static str]) -> Self {
        let labels = labels.iter().copied().map(Cow::Borrowed).collect();
        Self { name: name.into(), kind, help: "".into(), labels, points: Vec::new() }
    }

    /// Sets the help text.
    #[must_use]
    pub fn with_help(self, help: &'static str) -> Self {
        Self { help: help.into(), ..self }
    }

    /// Adds a point.
    pub fn add(&mut self, labels: &[&str], value: impl Into<Value>) {
        self.points.push((labels.iter().map(|&label| label.to_owned()).collect(), value.into()));
    }

    /// The integer of the first point, or 0 if there is none. A reload reports the change of such metrics.
    pub fn first_integer(&self) -> u64 {
        let first = self.points.iter().min_by(|(one, _), (other, _)| one.cmp(other));
        match first {
            Some((_, Value::Integer(count))) => *count,
            Some((_, Value::Float(_) | Value::Distribution(_))) | None => 0,
        }
    }
}

/// The page of these families, sorted by name.
pub fn text(mut families: Vec<Family>, format: Format) -> String {
    families.sort_by(|one, other| one.name.cmp(&other.name));
    let mut page = String::new();
    for family in &mut families {
        family.points.sort_by(|(one, _), (other, _)| one.cmp(other));
        write_family(&mut page, family, format);
    }
    if format == Format::OpenMetrics {
        line(&mut page, format_args!("# EOF"));
    }
    if page.is_empty() {
        page.push('\n');
    }
    page
}

fn write_family(page: &mut String, family: &Family, format: Format) {
    let name = metric_name(&family.name);
    let (declared, kind) = format.declaration(&name, family.kind);
    if !family.help.is_empty() {
        line(page, format_args!("# HELP {declared} {}", family.help));
    }
    line(page, format_args!("# TYPE {declared} {kind}"));
    let names: Vec<String> = family.labels.iter().map(|name| label_name(name)).collect();
    for (values, value) in &family.points {
        let pairs = names.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        let labels = pairs.collect::<Vec<_>>().join(",");
        match value {
            Value::Integer(count) => line(page, format_args!("{name}{{{labels}}} {count}")),
            Value::Float(number) => line(page, format_args!("{name}{{{labels}}} {number}")),
            Value::Distribution(distribution) => write_distribution(page, &name, &labels, distribution, format),
        }
    }
}

fn write_distribution(page: &mut String, name: &str, labels: &str, distribution: &Distribution, format: Format) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut below = 0;
    for (limit, count) in distribution.limits.iter().zip(&distribution.counts) {
        below += count;
        let limit = format.limit(*limit);
        line(page, format_args!("{name}_bucket{{{labels}{comma}le=\"{limit}\"}} {below}"));
    }
    let count = distribution.count();
    line(page, format_args!("{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}"));
    line(page, format_args!("{name}_sum{{{labels}}} {}", six_digits(distribution.sum)));
    line(page, format_args!("{name}_count{{{labels}}} {count}"));
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("a string that grows");
}

fn metric_name(name: &str) -> String {
    replaced(name, ':', |letter| letter.is_ascii_alphanumeric() || letter == '_')
}

fn label_name(name: &str) -> String {
    replaced(name, '_', |letter| letter.is_ascii_alphanumeric())
}

fn replaced(name: &str, by: char, is_kept: impl Fn(char) -> bool) -> String {
    let kept = name.chars().map(|letter| if is_kept(letter) { letter } else { by });
    let prefix = name.starts_with(|first: char| first.is_ascii_digit()).then_some('_');
    prefix.into_iter().chain(kept).collect()
}

/// The escaped value of a label. TensorFlow Serving does not escape line breaks, which makes its page unparsable.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A number as C's `%g` prints it.
fn six_digits(number: f64) -> String {
    let scientific = format!("{number:.5e}");
    let (digits, exponent) = scientific.split_once('e').expect("it was asked for");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", without_zeros(digits), exponent.abs());
    }
    without_zeros(&format!("{number:.*}", (5 - exponent) as usize)).to_owned()
}

fn without_zeros(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::runs::LATENCY;

    #[test]
    fn limits_are_printed_with_six_digits() {
        // docs/spec/observability.md §7, B1
        let expected = "10, 18, 32.4, 58.32, 104.976, 188.957, 340.122, 612.22, 1102, 1983.59, 3570.47, 6426.84, \
                        11568.3, 20823, 37481.3, 67466.4, 121440, 218591, 393464, 708235, 1.27482e+06, 2.29468e+06, \
                        4.13043e+06, 7.43477e+06, 1.33826e+07, 2.40887e+07, 4.33596e+07, 7.80473e+07, 1.40485e+08, \
                        2.52873e+08, 4.55172e+08, 8.19309e+08, 1.47476e+09";
        assert_eq!(LATENCY.map(six_digits).join(", "), expected);
        for (number, text) in [(0.0, "0"), (0.5, "0.5"), (0.00001, "1e-05"), (999_999.5, "1e+06"), (1e100, "1e+100")] {
            assert_eq!(six_digits(number), text);
        }
    }

    #[test]
    fn names_and_values_are_made_fit_for_the_format() {
        // util/prometheus_exporter_test.cc
        let page = |name: &'static str, label: &'static str, value: &str| {
            let mut counter = Family::counter(name, &[label]);
            counter.add(&[value], 2);
            text(vec![counter], Format::Prometheus)
        };
        for (name, label, value, expected) in [
            ("/test/path/total", "name", "abc", ":test:path:total{name=\"abc\"} 2"),
            ("/test/path/total", "name", r#""abc\""#, r#":test:path:total{name="\"abc\\\""} 2"#),
            ("/test/path/total", "my-name+1", "abc", r#":test:path:total{my_name_1="abc"} 2"#),
            ("0/path-total_count", "name", "abc", r#"_0:path:total_count{name="abc"} 2"#),
        ] {
            let page = page(name, label, value);
            assert_eq!(page.lines().last(), Some(expected), "{page}");
        }
        let mut gauge = Family::gauge("/test/path/level", &["x", "y"]);
        gauge.add(&["abc", "def"], 5);
        let expected = "# TYPE :test:path:level gauge\n:test:path:level{x=\"abc\",y=\"def\"} 5\n";
        assert_eq!(text(vec![gauge], Format::Prometheus), expected);
    }

    #[test]
    fn families_and_points_are_sorted_and_the_first_point_counts_for_reloads() {
        let mut counter = Family::counter("/b", &["x", "y"]);
        counter.add(&["q", ""], 7);
        counter.add(&["p", "z\n"], 3);
        assert_eq!(counter.first_integer(), 3);
        let mut gauge = Family::gauge("a", &[]).with_help("Says a.");
        gauge.points.push((vec![], Value::Float(1.5e9)));
        assert_eq!(gauge.first_integer(), 0);
        let expected = "# TYPE :b counter\n:b{x=\"p\",y=\"z\\n\"} 3\n:b{x=\"q\",y=\"\"} 7\n# HELP a Says a.\n\
                        # TYPE a gauge\na{} 1500000000\n";
        assert_eq!(text(vec![gauge, counter], Format::Prometheus), expected);
        assert_eq!(text(vec![], Format::Prometheus), "\n");
    }

    #[test]
    fn openmetrics_keeps_the_names_of_points() {
        static LIMITS: [f64; 2] = [0.5, 10.0];
        let mut ours = Family::counter("servable_a_total", &["x"]).with_help("Says a.");
        ours.add(&["y"], 2);
        let mut original = Family::counter("/b/count", &[]);
        original.add(&[], 3);
        let mut histogram = Family::histogram("c", &[]);
        histogram.add(&[], Distribution::new(&LIMITS));
        let expected = "# TYPE :b:count unknown\n:b:count{} 3\n# TYPE c histogram\nc_bucket{le=\"0.5\"} 0\n\
                        c_bucket{le=\"10.0\"} 0\nc_bucket{le=\"+Inf\"} 0\nc_sum{} 0\nc_count{} 0\n\
                        # HELP servable_a Says a.\n# TYPE servable_a counter\nservable_a_total{x=\"y\"} 2\n# EOF\n";
        assert_eq!(text(vec![ours, original, histogram], Format::OpenMetrics), expected);
        assert_eq!(text(vec![], Format::OpenMetrics), "# EOF\n");
    }
}

//! Every format of a fixed measurement against its golden file, and against a reader of that format.
//!
//! `UPDATE_GOLDEN=1` rewrites the files: read the difference before committing it.

use std::{cell::RefCell, collections::BTreeSet, fs, path::Path};

use hdrhistogram::serialization::Deserializer;
use html5ever::{
    tendril::{StrTendril, TendrilSink},
    tree_builder::TreeBuilderOpts,
};

use super::{Comparison, Report, ResultLines, sample, write_hdr_log};

fn report() -> Report {
    Report::in_context(&sample::measurement(), &sample::context())
}

fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if expected != actual {
        let same = expected.lines().zip(actual.lines()).take_while(|(expected, actual)| expected == actual).count();
        let line = |text: &str| text.lines().nth(same).unwrap_or("(end)").to_owned();
        let (expected, actual) = (line(&expected), line(actual));
        panic!("{}:{}\n  expected: {expected}\n  actual:   {actual}", path.display(), same + 1);
    }
}

#[test]
fn every_format_is_as_recorded() {
    let report = report();
    // The version of the program is not part of the format.
    let version = format!("<p>evenkeel {}</p>", env!("CARGO_PKG_VERSION"));
    golden("report.html", &report.to_html().replace(&version, "<p>evenkeel VERSION</p>"));
    golden("report.txt", &report.to_string());
    golden("report.json", &(serde_json::to_string_pretty(&report).unwrap() + "\n"));
    golden("report.junit.xml", &report.to_junit());
    golden("report.prom", &report.to_prometheus());
    let mut lines = Vec::new();
    let mut writer = ResultLines::new(&mut lines, sample::lanes(), sample::started());
    for result in sample::results() {
        writer.add(&result).unwrap();
    }
    golden("results.ndjson", std::str::from_utf8(&lines).unwrap());
    let mut log = Vec::new();
    write_hdr_log(&mut log, &sample::lanes(), sample::started(), sample::results()).unwrap();
    golden("results.hdr", &without_histograms(std::str::from_utf8(&log).unwrap()));
    golden("comparison.txt", &Comparison::new(&better(), &report).to_string());
    let comparison = Comparison::new(&better(), &report);
    golden("comparison.json", &(serde_json::to_string_pretty(&comparison).unwrap() + "\n"));
}

/// An HDR log whose histograms are replaced by the number of their values: how they are compressed is the library's.
fn without_histograms(log: &str) -> String {
    let line = |line: &str| match line.rsplit_once(',') {
        Some((rest, histogram)) if line.starts_with("Tag=") => {
            let bytes = sample::decode_base64(histogram);
            let histogram = Deserializer::new().deserialize::<u64, _>(&mut bytes.as_slice()).unwrap();
            format!("{rest},({} values)\n", histogram.len())
        }
        _ => format!("{line}\n"),
    };
    log.lines().map(line).collect()
}

/// The sample without its outage.
fn better() -> Report {
    let mut measurement = sample::measurement();
    let lane = &mut measurement.lanes[0];
    lane.windows.clear();
    lane.succeeded = lane.sent;
    (lane.failed, lane.rescuable, lane.in_flight) = (0, 0, 0);
    lane.longest_gap = Default::default();
    Report::new(&measurement)
}

#[test]
fn the_json_report_is_read_back() {
    let report = report();
    let json = serde_json::to_vec(&report).unwrap();
    assert_eq!(Report::from_json(&json).unwrap(), report);
}

/// Every path of keys in a JSON value, with the type at its end.
fn shape(value: &serde_json::Value, path: &str, into: &mut BTreeSet<String>) {
    use serde_json::Value;
    match value {
        Value::Object(object) => {
            // The keys of these are data.
            let data = ["causes", "codes", "errors", "servers", "servers_failed", "events_refused"];
            let is_data = data.iter().any(|name| path.ends_with(name));
            for (key, value) in object {
                shape(value, &format!("{path}.{}", if is_data { "*" } else { key }), into);
            }
            if object.is_empty() {
                into.insert(format!("{path}.*: number"));
            }
        }
        Value::Array(array) => {
            for value in array {
                shape(value, &format!("{path}[]"), into);
            }
        }
        // What may be absent shows its type elsewhere in the sample.
        Value::Null => {}
        Value::Bool(_) => _ = into.insert(format!("{path}: bool")),
        Value::Number(_) => _ = into.insert(format!("{path}: number")),
        Value::String(_) => _ = into.insert(format!("{path}: string")),
    }
}

#[test]
fn the_json_report_keeps_its_shape() {
    let mut fields = BTreeSet::new();
    shape(&serde_json::to_value(report()).unwrap(), "", &mut fields);
    let fields: Vec<String> = fields.into_iter().collect();
    // A line that goes or changes is a new version; a line that comes is not.
    golden("report.schema.txt", &(fields.join("\n") + "\n"));
}

fn elements(xml: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    roxmltree::Document::parse_with_options(xml, options).unwrap_or_else(|error| panic!("{error}\n{xml}"))
}

#[test]
fn junit_is_xml_whose_counts_are_right() {
    for (name, report) in reports() {
        let xml = report.to_junit();
        let document = elements(&xml);
        let suite = document.descendants().find(|node| node.has_tag_name("testsuite")).unwrap();
        let count = |tag: &str| document.descendants().filter(|node| node.has_tag_name(tag)).count().to_string();
        for (attribute, tag) in
            [("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")]
        {
            assert_eq!(suite.attribute(attribute), Some(count(tag).as_str()), "{name}: {attribute}");
        }
        let output = document.descendants().find(|node| node.has_tag_name("system-out")).unwrap();
        assert!(output.text().unwrap().starts_with("Requests "), "{name}");
    }
}

/// Reports that differ in what they show.
fn reports() -> Vec<(&'static str, Report)> {
    let invalid = crate::measure::Measurement {
        invalid: vec![crate::InvalidReason::Lag, crate::InvalidReason::NoRequests],
        ..sample::empty()
    };
    let mut nothing_but_failures = sample::measurement();
    for lane in &mut nothing_but_failures.lanes {
        let empty = crate::measure::LaneMeasurement::new(lane.name.clone(), lane.kind, lane.target, None);
        *lane = crate::measure::LaneMeasurement { sent: 7, failed: 7, ..empty };
    }
    vec![
        ("sample", report()),
        ("better", better()),
        ("empty", Report::new(&sample::empty())),
        ("invalid", Report::in_context(&invalid, &sample::context())),
        ("failures", Report::new(&nothing_but_failures)),
    ]
}

/// The faults html5ever finds in a page.
fn html_errors(html: &str) -> Vec<String> {
    let options = html5ever::ParseOpts {
        tree_builder: TreeBuilderOpts { exact_errors: true, ..Default::default() },
        ..Default::default()
    };
    let dom = html5ever::parse_document(markup5ever_rcdom::RcDom::default(), options).one(StrTendril::from_slice(html));
    let errors: &RefCell<Vec<_>> = &dom.errors;
    errors.borrow().iter().map(ToString::to_string).collect()
}

#[test]
fn html_is_valid_and_asks_for_nothing() {
    for (name, report) in reports() {
        let html = report.to_html();
        assert_eq!(html_errors(&html), [""; 0], "{name}");
        let document = elements(&html);
        let mut ids = BTreeSet::new();
        for node in document.descendants().filter(roxmltree::Node::is_element) {
            let tag = node.tag_name().name();
            assert!(!["script", "img", "iframe", "object", "embed", "base"].contains(&tag), "{name}: {tag}");
            for attribute in node.attributes() {
                let (key, value) = (attribute.name(), attribute.value());
                assert!(!key.starts_with("on"), "{name}: {key}");
                match key {
                    "src" => panic!("{name}: {tag} loads {value}"),
                    "href" => assert_eq!((tag, value), ("link", "data:,"), "{name}"),
                    "id" => assert!(ids.insert(value.to_owned()), "{name}: {value} twice"),
                    _ => {}
                }
            }
        }
        for node in document.descendants() {
            for id in node.attribute("aria-labelledby").into_iter().flat_map(str::split_whitespace) {
                assert!(ids.contains(id), "{name}: nothing is called {id}");
            }
            for key in ["x", "y", "width", "height", "d"] {
                let value = node.attribute(key).unwrap_or_default();
                assert!(!value.contains("NaN") && !value.contains("inf"), "{name}: {key}={value}");
                assert!(!(key == "width" || key == "height") || !value.starts_with('-'), "{name}: {key}={value}");
            }
        }
        let style = document.descendants().find(|node| node.has_tag_name(("http://www.w3.org/1999/xhtml", "style")));
        let style = style.unwrap().text().unwrap();
        assert!(!style.contains("url(") && !style.contains("@import"), "{name}");
    }
}

#[test]
fn hostile_texts_stay_texts() {
    let html = report().to_html();
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("<b>"), "{html}");
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(html.contains("&lt;img src=x onerror=alert(1)&gt;"));
}

/// Reads the exposition format: families in one piece, typed, without a sample twice.
#[test]
fn prometheus_text_is_well_formed() {
    for (name, report) in reports() {
        let text = report.to_prometheus();
        let (mut families, mut samples, mut family) = (BTreeSet::new(), BTreeSet::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split(' ').next().unwrap().to_owned();
                assert!(families.insert(family.clone()), "{name}: {family} is in pieces");
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (of, kind) = rest.split_once(' ').unwrap();
                assert!(of == family && ["gauge", "summary"].contains(&kind), "{name}: {line}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().unwrap().is_finite(), "{name}: {line}");
            assert!(samples.insert(series.to_owned()), "{name}: {series} twice");
            let metric = series.split('{').next().unwrap();
            let bare = metric.strip_suffix("_sum").or(metric.strip_suffix("_count")).unwrap_or(metric);
            assert!(metric == family || bare == family, "{name}: {line} is not of {family}");
            assert!(metric.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name}: {line}");
            if let Some((_, labels)) = series.split_once('{') {
                assert!(are_labels(labels.strip_suffix('}').unwrap()), "{name}: {line}");
            }
        }
    }
}

/// Whether a text is `name="value",...` with quotes, backslashes and line ends escaped.
fn are_labels(text: &str) -> bool {
    let mut rest = text;
    loop {
        let Some((name, value)) = rest.split_once("=\"") else { return false };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            return false;
        }
        let mut escaped = false;
        let end = value.char_indices().find(|&(_, c)| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some((end, _)) = end else { return false };
        match &value[end + 1..] {
            "" => return true,
            more => match more.strip_prefix(',') {
                Some(more) => rest = more,
                None => return false,
            },
        }
    }
}

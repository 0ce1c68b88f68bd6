use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::config::diagnostic::FieldPath;

fn value(text: &str) -> Value {
    read::<Value>(text, "y.yaml")
        .and_then(|(value, problems)| problems.finish().map(|()| value))
        .unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn errors_as<T: DeserializeOwned>(text: &str) -> Vec<String> {
    let result = read::<T>(text, "y.yaml").and_then(|(_, problems)| problems.finish());
    result.expect_err("an error").iter().map(ToString::to_string).collect()
}

fn errors(text: &str) -> Vec<String> {
    errors_as::<Value>(text)
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Sample {
    count: Option<u16>,
    size: Option<u64>,
    share: Option<f64>,
    on: Option<bool>,
    name: Option<String>,
    names: Option<Vec<String>>,
    kind: Option<Kind>,
    inner: Option<Box<Self>>,
    map: Option<BTreeMap<String, Self>>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Plain,
    Other,
    With(String),
}

fn sample_errors(text: &str) -> Vec<String> {
    errors_as::<Sample>(text)
}

#[test]
fn reads_every_style_of_yaml() {
    let text = "
# a comment
block:
  - plain
  - 'single ''quoted'''
  - \"double \\t \\u00e9\"
  - |
    literal
      text
  - >-
    folded
    text
flow: {a: [1, -2, 0x10, 1.5, true, null, ~], \"b c\": {}}
empty:
'1': number as key
2: also
";
    let expected = serde_json::json!({
        "block": ["plain", "single 'quoted'", "double \t é", "literal\n  text\n", "folded text"],
        "flow": {"a": [1, -2, 16, 1.5, true, null, null], "b c": {}},
        "empty": null,
        "1": "number as key",
        "2": "also",
    });
    assert_eq!(value(text), expected);
    assert_eq!(value(&text.replace('\n', "\r\n")), expected, "with CR LF");
    assert_eq!(value(&format!("\u{feff}{text}")), expected, "with a byte order mark");
    assert_eq!(value(&format!("---{text}...\n")), expected, "with its start and end marked");
}

#[test]
fn follows_aliases() {
    let text = "a: &one {x: [1, &two 2]}\nb: *one\nc: [*two, *one]\n*two : key\n";
    let expected = serde_json::json!({
        "a": {"x": [1, 2]},
        "b": {"x": [1, 2]},
        "c": [2, {"x": [1, 2]}],
        "2": "key",
    });
    assert_eq!(value(text), expected);
}

#[test]
fn shows_errors_behind_an_alias_where_they_are_written() {
    let text = "inner: &inner\n  count: many\nmap:\n  a: *inner\n  b: &text hello\n  c: *text\n";
    assert_eq!(
        sample_errors(text),
        [
            "y.yaml:2:10: inner.count: expected a whole number, found text",
            "y.yaml:5:12: map.b: expected a mapping, found text",
            "y.yaml:6:6: map.c: expected a mapping, found text",
        ],
        "once, though it is used twice"
    );
}

#[test]
fn refuses_aliases_that_lead_nowhere() {
    let errors_of = |text| errors(text).join("\n");
    assert!(errors_of("a: *none\n").starts_with("y.yaml:1:4: a: not YAML: "), "{}", errors_of("a: *none\n"));
    assert_eq!(errors("a: &a [1, *a]\n"), ["y.yaml:1:11: a[1]: this alias stands within its own anchor"]);
}

#[test]
fn refuses_a_billion_laughs() {
    let mut text = "l0: &l0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..30 {
        let alias = format!("*l{}", level - 1);
        text.push_str(&format!("l{level}: &l{level} [{}]\n", [alias.as_str(); 10].join(", ")));
    }
    let errors = errors(&text);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("y.yaml:5:"), "{errors:?}");
    assert!(errors[0].ends_with("aliases expand to more than 100000 values"), "{errors:?}");
}

#[test]
fn refuses_what_is_nested_too_deeply() {
    let flow = "[".repeat(65);
    assert_eq!(
        errors(&flow),
        [format!("y.yaml:1:65: {}: nested more than 64 levels deep", "[0]".repeat(64))]
    );
    let endless = errors(&"[".repeat(100_000));
    assert!(endless.len() == 1 && endless[0].contains("recursion limit"), "{endless:?}");
    let block: String = (0..65).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert!(errors(&format!("{block}{}b: 1", " ".repeat(65)))[0].contains("nested more than 64"));
    assert_eq!(value(&format!("{}{}", "[".repeat(64), "]".repeat(64))), {
        (0..63).fold(serde_json::json!([]), |inner, _| serde_json::json!([inner]))
    });
}

#[test]
fn refuses_every_duplicate_key() {
    let text = "a: 1\nb: {x: 1, 'x': 2}\na: 2\nc:\n  - {k: 1, k: 2}\n";
    assert_eq!(
        errors(text),
        [
            "y.yaml:2:11: b.x: duplicate key `x`; it is first given on line 2",
            "y.yaml:3:1: a: duplicate key `a`; it is first given on line 1",
            "y.yaml:5:12: c[0].k: duplicate key `k`; it is first given on line 5",
        ]
    );
}

#[test]
fn refuses_keys_that_are_none() {
    assert_eq!(
        errors("m:\n  [a]: 1\n  ? {b: 1}\n  : 2\n  ~: 3\n  <<: {c: 1}\n  d: 4\n"),
        [
            "y.yaml:2:3: m: a key must be a single value, not a list or mapping",
            "y.yaml:3:5: m: a key must be a single value, not a list or mapping",
            "y.yaml:5:3: m: an empty key",
            "y.yaml:6:3: m: merge keys (`<<`) are not part of YAML 1.2 and not supported",
        ]
    );
}

#[test]
fn refuses_tags_and_numbers_that_are_none() {
    assert_eq!(value("a: !!str 5\n"), serde_json::json!({"a": "5"}));
    assert_eq!(
        errors("a: !secret x\nb: !!set {}\nc: .inf\nd: [-.INF, .nan]\n"),
        [
            "y.yaml:1:12: a: tag `!secret` is not supported",
            "y.yaml:2:10: b: tag `tag:yaml.org,2002:!set` is not supported",
            "y.yaml:3:4: c: `.inf` is not a number that can be used here",
            "y.yaml:4:5: d[0]: `-.INF` is not a number that can be used here",
            "y.yaml:4:12: d[1]: `.nan` is not a number that can be used here",
        ]
    );
}

#[test]
fn refuses_text_that_is_not_yaml() {
    for (text, place) in [
        ("a:\n\tb: 1\n", "y.yaml:2:"),
        ("a: [1, 2\n", "y.yaml:2:"),
        ("a: 'open\n", "y.yaml:1:"),
        ("a: 1\n  b: 2\n", "y.yaml:2:"),
        ("a: b: c\n", "y.yaml:1:"),
        ("- a\nb: 1\n", "y.yaml:2:"),
        ("a: @x\n", "y.yaml:1:"),
    ] {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{text:?}: {errors:?}");
        assert!(errors[0].starts_with(place) && errors[0].contains("not YAML: "), "{text:?}: {errors:?}");
    }
    let errors = errors("a: 1\na: 2\nb: [\n");
    assert!(
        errors[0].contains("duplicate key") && errors[1].contains("not YAML"),
        "what came before: {errors:?}"
    );
}

#[test]
fn refuses_a_second_document() {
    assert_eq!(errors("a: 1\n---\nb: 2\n"), ["y.yaml:2:1: a second document; one file holds one"]);
}

#[test]
fn refuses_a_top_level_of_the_wrong_shape() {
    assert_eq!(sample_errors("- a\n"), ["y.yaml:1:1: expected a mapping, found a list"]);
    assert_eq!(sample_errors("hello\n"), ["y.yaml:1:1: expected a mapping, found text"]);
}

#[test]
fn an_empty_text_is_an_empty_mapping() {
    for text in ["", "\n\n", "# only a comment\n", "---\n", "~\n", "{}"] {
        let (sample, _) = read::<Sample>(text, "y.yaml").unwrap();
        assert_eq!(sample, Sample::default(), "{text:?}");
    }
}

#[test]
fn says_what_was_expected() {
    for (text, message) in [
        ("count: x", "1:8: count: expected a whole number, found text"),
        ("count: 65536", "1:8: count: expected a whole number from 0 to 65535, found 65536"),
        ("count: -1", "1:8: count: expected a whole number from 0 to 65535, found -1"),
        ("count: 1.5", "1:8: count: expected a whole number, found a number with a fraction"),
        (
            "count: 99999999999999999999",
            "1:8: count: expected a whole number, found a number that is too large",
        ),
        (
            "size: -9223372036854775808",
            "1:7: size: expected a whole number, not negative, found -9223372036854775808",
        ),
        ("size: '5'", "1:7: size: expected a whole number, found text"),
        ("share: half", "1:8: share: expected a number, found text"),
        ("on: yes", "1:5: on: expected `true` or `false`, found text"),
        ("name: 5", "1:7: name: expected text, found a number; put it in quotes if it is meant as text"),
        ("name: true", "1:7: name: expected text, found `true`; put it in quotes if it is meant as text"),
        ("name: [a]", "1:7: name: expected text, found a list"),
        ("names: a", "1:8: names: expected a list, found text"),
        ("names: [a, {b: c}]", "1:12: names[1]: expected text, found a mapping"),
        ("names: [a, ~]", "1:12: names[1]: expected text, found nothing"),
        ("inner: [1, 2]", "1:8: inner: expected a mapping, found a list"),
        ("inner: 5", "1:8: inner: expected a mapping, found a number"),
        ("map: []", "1:6: map: expected a mapping, found a list"),
        ("map: {x: }", "1:8: map.x: expected a mapping, found nothing"),
        ("kind: plian", "1:7: kind: unknown value `plian`; did you mean `plain`?"),
        ("kind: zzzzz", "1:7: kind: unknown value `zzzzz`; known here: `plain`, `other`, `with`"),
        ("kind: {wiht: x}", "1:8: kind.wiht: unknown value `wiht`; did you mean `with`?"),
        ("kind: {with: [x]}", "1:14: kind.with: expected text, found a list"),
        ("kind: {plain: x}", "1:8: kind: `plain` stands alone, without a value"),
        ("kind: with", "1:7: kind: `with` needs a value, as in `{with: …}`"),
        ("kind: [plain]", "1:7: kind: expected one of `plain`, `other`, `with`"),
        ("nmae: x", "1:1: nmae: unknown field `nmae`; did you mean `name`?"),
        (
            "inner: {inner: {cuont: 1}}",
            "1:17: inner.inner.cuont: unknown field `cuont`; did you mean `count`?",
        ),
    ] {
        assert_eq!(sample_errors(text), [format!("y.yaml:{message}")], "{text}");
    }
}

#[test]
fn goes_on_after_each_error() {
    let text =
        "count: x\nnames: [1, ok, 2]\nmap:\n  a: {on: 1}\n  b: {nam: x, share: y}\nkind: {with: [x]}\n";
    assert_eq!(
        sample_errors(text),
        [
            "y.yaml:1:8: count: expected a whole number, found text",
            "y.yaml:2:9: names[0]: expected text, found a number; put it in quotes if it is meant as text",
            "y.yaml:2:16: names[2]: expected text, found a number; put it in quotes if it is meant as text",
            "y.yaml:4:11: map.a.on: expected `true` or `false`, found a number",
            "y.yaml:5:7: map.b.nam: unknown field `nam`; did you mean `name`?",
            "y.yaml:5:22: map.b.share: expected a number, found text",
            "y.yaml:6:14: kind.with: expected text, found a list",
        ]
    );
    let (rest, _) = read::<Sample>("kind: {with: [x]}\ncount: 5\n", "y.yaml").unwrap();
    assert_eq!(
        rest,
        Sample { count: Some(5), ..Sample::default() },
        "what is good is there for further checks"
    );
}

#[test]
fn stops_after_many_errors() {
    let text: String = (0..1000).map(|field| format!("unknown{field}: 1\n")).collect();
    assert_eq!(sample_errors(&text).len(), ROUNDS_MAX);
}

#[test]
fn does_not_show_a_refused_value() {
    let shown = sample_errors("name: 12345678\ninner: s3cret\n").join("\n");
    assert!(!shown.contains("12345678") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn knows_places_of_what_is_kept_and_hides_what_was_refused() {
    let text = "names: [1, ok]\nmap:\n  a: {nmae: x}\n  b: {count: 1}\n";
    let (_, mut problems) = read::<Sample>(text, "y.yaml").unwrap();
    let root = FieldPath::Root;
    let (names, map) = (root.field("names"), root.field("map"));
    problems.report(&names.item(0), "the first that is left");
    problems.report(&map.field("a").field("name"), "hidden: most likely it is the misspelt one");
    problems.report(&map.field("a"), "hidden: part of it was refused");
    problems.report(&map.field("b").field("name"), "shown at what would hold it");
    problems.report_key(&map.field("b"), "shown at the key");
    assert!(problems.written(&map.field("a")) && !problems.written(&map.field("c")));
    let errors = problems.finish().unwrap_err();
    assert_eq!(
        errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "y.yaml:1:9: names[0]: expected text, found a number; put it in quotes if it is meant as text",
            "y.yaml:1:12: names[1]: the first that is left",
            "y.yaml:3:7: map.a.nmae: unknown field `nmae`; did you mean `name`?",
            "y.yaml:4:3: map.b: shown at the key",
            "y.yaml:4:6: map.b.name: shown at what would hold it",
        ]
    );
}

/// Any text is read or refused; none makes us panic or hang. The same seed each time, so a failure repeats.
#[test]
fn survives_any_text() {
    let pieces = [
        "a",
        "b:",
        ": ",
        "- ",
        "\n",
        "  ",
        "\t",
        "{",
        "}",
        "[",
        "]",
        ",",
        "'",
        "\"",
        "&x ",
        "*x",
        "? ",
        "|",
        ">-",
        "#",
        "!t ",
        "!!str ",
        "---",
        "...",
        "%YAML 1.2\n",
        "\r\n",
        "é",
        "\u{85}",
        "\0",
        "\\",
        "~",
        "5",
        "<<",
        "@",
        "`",
        "\u{feff}",
        "\u{2028}",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..30_000 {
        let mut text = String::new();
        for _ in 0..1 + state % 24 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        let _ = read::<Value>(&text, "y.yaml");
        let _ = read::<Sample>(&text, "y.yaml");
    }
}

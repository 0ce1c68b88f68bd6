//! `filter=`: the part of Consul's expressions that is understood here.
//!
//! Selectors (`Service.Meta.zone`, also `Service.Meta["my.key"]`), `==`, `!=`, `in`, `not in`, `contains`,
//! `not contains`, `is empty`, `is not empty`, `and`, `or`, `not` and parentheses. Regular expressions are refused.

use std::fmt;

use serde_json::Value;

use super::ask::{Ask, Problem};

const BYTES_MAX: usize = 4096;
/// Of parentheses and `not`.
const DEPTH_MAX: usize = 32;

#[derive(Debug, PartialEq)]
pub(super) enum Filter {
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Equal(Selector, String),
    /// The value is one of the selected list's, or a part of the selected text, or a key of the selected mapping.
    Holds(Selector, String),
    Empty(Selector),
}

#[derive(Debug, PartialEq)]
pub(super) struct Selector(Vec<String>);

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// The filter of a request, if it has one.
pub(super) fn of(ask: &Ask) -> Result<Option<Filter>, Problem> {
    let text = ask.parameter("filter").map(str::trim).filter(|text| !text.is_empty());
    let wrong = |why| {
        let known = "==, !=, [not] in, [not] contains, is [not] empty, and, or, not, parentheses";
        Problem::bad(format!(
            "Failed to create boolean expression evaluator: {why}; understood here: {known}"
        ))
    };
    text.map(|text| parse(text).map_err(wrong)).transpose()
}

fn parse(text: &str) -> Result<Filter, String> {
    if text.len() > BYTES_MAX {
        return Err(format!("longer than {BYTES_MAX} bytes"));
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0 };
    let filter = parser.any(0)?;
    match parser.next() {
        None => Ok(filter),
        Some(token) => Err(format!("did not expect {token}")),
    }
}

impl Filter {
    /// Whether a result, as it would be shown, is kept.
    pub(super) fn holds(&self, value: &Value) -> Result<bool, String> {
        Ok(match self {
            Self::And(a, b) => a.holds(value)? && b.holds(value)?,
            Self::Or(a, b) => a.holds(value)? || b.holds(value)?,
            Self::Not(filter) => !filter.holds(value)?,
            // Of a list of checks, one that fits is enough.
            Self::Equal(selector, wanted) => selector.of(value)?.iter().any(|found| is(found, wanted)),
            Self::Holds(selector, wanted) => selector.of(value)?.iter().any(|found| match found {
                Value::Array(items) => items.iter().any(|item| is(item, wanted)),
                Value::Object(fields) => fields.contains_key(wanted),
                Value::String(text) => text.contains(wanted.as_str()),
                _ => false,
            }),
            Self::Empty(selector) => selector.of(value)?.iter().all(|found| match found {
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                Value::String(text) => text.is_empty(),
                other => other.is_null(),
            }),
        })
    }
}

fn is(found: &Value, wanted: &str) -> bool {
    match found {
        Value::String(text) => text == wanted,
        Value::Null => wanted.is_empty(),
        other => {
            let shown = other.to_string();
            shown == wanted
        }
    }
}

impl Selector {
    /// More than one where it goes through a list.
    fn of<'a>(&self, value: &'a Value) -> Result<Vec<&'a Value>, String> {
        let mut found = vec![value];
        let mut in_own_keys = false;
        for name in &self.0 {
            let mut next = Vec::new();
            for value in found {
                let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                for item in items {
                    match item.get(name) {
                        Some(inner) => next.push(inner),
                        None if in_own_keys => {}
                        None => return Err(format!("Selector \"{self}\" is not valid")),
                    }
                }
            }
            found = next;
            in_own_keys |= name.ends_with("Meta") || name.ends_with("TaggedAddresses");
        }
        Ok(found)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(&'static str),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(text) => write!(f, "`{text}`"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Sign(sign) => write!(f, "`{sign}`"),
        }
    }
}

const SIGNS: [&str; 6] = ["==", "!=", "(", ")", "[", "]"];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            found.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else if first == '"' || first == '`' {
            let (text, after) = quoted(&rest[1..], first)?;
            found.push(Token::Text(text));
            rest = after;
        } else {
            let is_part = |c: char| c.is_alphanumeric() || "_-./:".contains(c);
            let end = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
            if end == 0 {
                return Err(format!("did not expect {first:?}"));
            }
            found.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(found)
}

fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((value, &text[at + c.len_utf8()..])),
            '\\' if quote == '"' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    Err("a text that does not end".into())
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned()
    }

    /// Past these words, if they come next.
    fn take(&mut self, words: &[&str]) -> bool {
        let comes = |(offset, word): (usize, &&str)| match self.tokens.get(self.at + offset) {
            Some(Token::Word(text)) => text.eq_ignore_ascii_case(word),
            Some(Token::Sign(sign)) => sign == word,
            _ => false,
        };
        let come = words.iter().enumerate().all(comes);
        self.at += if come { words.len() } else { 0 };
        come
    }

    fn any(&mut self, depth: usize) -> Result<Filter, String> {
        let mut filter = self.all(depth)?;
        while self.take(&["or"]) {
            filter = Filter::Or(Box::new(filter), Box::new(self.all(depth)?));
        }
        Ok(filter)
    }

    fn all(&mut self, depth: usize) -> Result<Filter, String> {
        let mut filter = self.one(depth)?;
        while self.take(&["and"]) {
            filter = Filter::And(Box::new(filter), Box::new(self.one(depth)?));
        }
        Ok(filter)
    }

    fn one(&mut self, depth: usize) -> Result<Filter, String> {
        if depth > DEPTH_MAX {
            return Err("too many parentheses".into());
        }
        if self.take(&["not"]) {
            return Ok(Filter::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take(&["("]) {
            let filter = self.any(depth + 1)?;
            return if self.take(&[")"]) { Ok(filter) } else { Err("a parenthesis is not closed".into()) };
        }
        let not = |filter| Filter::Not(Box::new(filter));
        let first = self.next().ok_or("it ends too early")?;
        let negated =
            if self.take(&["in"]) { Some(false) } else { self.take(&["not", "in"]).then_some(true) };
        if let Some(negated) = negated {
            let filter = Filter::Holds(self.selector()?, value_of(first));
            return Ok(if negated { not(filter) } else { filter });
        }
        self.at -= 1;
        let selector = self.selector()?;
        if self.take(&["is", "not", "empty"]) {
            Ok(not(Filter::Empty(selector)))
        } else if self.take(&["is", "empty"]) {
            Ok(Filter::Empty(selector))
        } else if self.take(&["=="]) {
            Ok(Filter::Equal(selector, self.value()?))
        } else if self.take(&["!="]) {
            Ok(not(Filter::Equal(selector, self.value()?)))
        } else if self.take(&["contains"]) {
            Ok(Filter::Holds(selector, self.value()?))
        } else if self.take(&["not", "contains"]) {
            Ok(not(Filter::Holds(selector, self.value()?)))
        } else {
            let next = self.next().map_or("the end".to_owned(), |token| token.to_string());
            Err(format!("after \"{selector}\", did not expect {next}"))
        }
    }

    fn value(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Sign(sign)) => Err(format!("`{sign}` is not a value")),
            Some(token) => Ok(value_of(token)),
            None => Err("a value is missing at the end".into()),
        }
    }

    fn selector(&mut self) -> Result<Selector, String> {
        let mut path: Vec<String> = match self.next() {
            Some(Token::Word(text)) => text.split('.').map(str::to_owned).collect(),
            // A JSON pointer, as Consul takes it.
            Some(Token::Text(text)) if text.starts_with('/') => {
                text[1..].split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
            }
            Some(token) => return Err(format!("{token} is not a selector")),
            None => return Err("a selector is missing at the end".into()),
        };
        while self.take(&["["]) {
            path.push(self.value()?);
            if !self.take(&["]"]) {
                return Err("a bracket is not closed".into());
            }
        }
        Ok(Selector(path))
    }
}

fn value_of(token: Token) -> String {
    match token {
        Token::Word(text) | Token::Text(text) => text,
        Token::Sign(sign) => sign.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(filter: &str) -> Result<bool, String> {
        let value = json!({
            "Node": { "Node": "n1", "Meta": {} },
            "Service": { "Port": 80, "Tags": ["a", "b-c"], "Meta": { "zone": "z1", "my.key": "v" }, "Address": "" },
            "Checks": [{ "Status": "passing", "CheckID": "x" }, { "Status": "warning", "CheckID": "y" }],
        });
        parse(filter)?.holds(&value)
    }

    #[test]
    fn common_expressions_are_understood() {
        let yes = [
            r#"Service.Meta.zone == "z1""#,
            "Service.Meta.zone == z1 and Service.Port == 80",
            r#"Service.Meta["my.key"] == v"#,
            r#""/Service/Meta/zone" == z1"#,
            r#""a" in Service.Tags"#,
            r#""x" not in Service.Tags"#,
            r#"Service.Tags contains "b-c""#,
            "zone in Service.Meta",
            "Service.Address is empty and Service.Tags is not empty",
            r#"not (Node.Node == "n2" or Service.Port != 80)"#,
            r#"Checks.Status == "warning""#,
            "Service.Meta.rack != r1",
            r#"Node.Node == "n2" or Node.Node == "n1" and Service.Port == 80"#,
        ];
        for filter in yes {
            assert_eq!(holds(filter), Ok(true), "{filter}");
            assert_eq!(holds(&format!("not ({filter})")), Ok(false), "{filter}");
        }
    }

    #[test]
    fn the_rest_is_refused_with_a_reason() {
        for (filter, why) in [
            ("Service.Meta.zone matches `z.*`", "did not expect `matches`"),
            ("Service.Zone == 1", "Selector \"Service.Zone\" is not valid"),
            ("Service.Port ==", "a value is missing"),
            ("(Service.Port == 80", "not closed"),
            ("Service.Port == 80 80", "did not expect `80`"),
            ("Service.Port == \"80", "does not end"),
            ("", "ends too early"),
            ("Service.Port > 80", "did not expect '>'"),
        ] {
            let error = holds(filter).unwrap_err();
            assert!(error.contains(why), "{filter}: {error}");
        }
        assert!(holds(&format!("{}Node.Node == n1", "not ".repeat(100))).is_err());
    }
}

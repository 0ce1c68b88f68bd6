//! Questions about a request that need a little parsing: pure functions over the head.

use std::borrow::Cow;

use crate::head::RequestHead;

/// Value of the named cookie (RFC 6265, section 4.1.1), without quotes: names are compared exactly, the first match
/// wins.
pub fn cookie<'a>(head: &'a RequestHead, name: &str) -> Option<&'a [u8]> {
    head.header_all("cookie").find_map(|line| {
        line.split(|b| *b == b';').find_map(|pair| {
            let eq = memchr::memchr(b'=', pair)?;
            (pair[..eq].trim_ascii() == name.as_bytes()).then(|| unquoted(pair[eq + 1..].trim_ascii()))
        })
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// First value of the query parameter, with `+` and percent escapes decoded.
pub fn query(path: &str, name: &str) -> Option<String> {
    let (_, query) = path.split_once('?')?;
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value).into_owned())
    })
}

/// Bytes that are not UTF-8 are replaced; escapes that are not escapes stay as they are.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escape = (byte == b'%').then(|| tail.first_chunk::<2>()).flatten().and_then(hex_pair);
        match escape {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[2..];
            }
            None => {
                out.push(if byte == b'+' { b' ' } else { byte });
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn hex_pair(pair: &[u8; 2]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::HeadLimits;

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("GET / HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
        let mut head = RequestHead::default();
        let limits = HeadLimits { bytes_max: 4096, fields_max: 16 };
        head.parse(text.as_bytes(), limits).expect("a good head");
        head
    }

    #[test]
    fn cookies_are_found_in_any_line() {
        let head = head(&[("Cookie", "a=1; session=x=y ;b; q=\"7\""), ("cookie", "late=2")]);
        assert_eq!(cookie(&head, "a"), Some(&b"1"[..]));
        assert_eq!(cookie(&head, "session"), Some(&b"x=y"[..]));
        assert_eq!(cookie(&head, "late"), Some(&b"2"[..]));
        assert_eq!(cookie(&head, "b"), None);
        assert_eq!(cookie(&head, "q"), Some(&b"7"[..]));
        assert_eq!(cookie(&head, "A"), None);
    }

    #[test]
    fn query_parameters_are_decoded() {
        let path = "/p?a=1&b=%C3%BC+x&c&a=2&d=%zz%4&%65=5#f=1";
        assert_eq!(query(path, "a").as_deref(), Some("1"));
        assert_eq!(query(path, "b").as_deref(), Some("ü x"));
        assert_eq!(query(path, "c").as_deref(), Some(""));
        assert_eq!(query(path, "d").as_deref(), Some("%zz%4"));
        assert_eq!(query(path, "e").as_deref(), Some("5"));
        assert_eq!(query(path, "f"), None);
        assert_eq!(query("/p", "a"), None);
    }
}

//! Reads JSON (RFC 8259) into whatever serde derives.
//!
//! Made for small components: with serde_json and serde_path_to_error each is 60 to 80 KiB larger. Errors carry their
//! path, and the parser of floating-point numbers is linked only where a field needs it. The text comes from the proxy,
//! so what is not JSON is reported, but not explained.

mod nested;

use serde::de::{Deserializer, Error as _, Expected, Unexpected, Visitor, value::StringDeserializer};

use nested::{Fields, Items, Variant};

use super::error::Error;

/// Nesting beyond this is refused, since the reader recurses on a small stack.
const DEPTH_MAX: u32 = 64;

pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// Nothing may follow the value.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        if self.peek() == 0 { Ok(()) } else { Err(self.malformed()) }
    }

    /// The first byte of the next token; 0 at the end.
    fn peek(&mut self) -> u8 {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.at += 1;
        }
        self.byte().unwrap_or(0)
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Error> {
        if self.take(byte) { Ok(()) } else { Err(self.malformed()) }
    }

    #[cold]
    fn malformed(&self) -> Error {
        Error::new(format!("not JSON at byte {}", self.at))
    }

    fn is_number(&mut self) -> bool {
        matches!(self.peek(), b'-' | b'0'..=b'9')
    }

    /// The text of a number or of a word.
    fn scalar(&mut self) -> &'a str {
        self.peek();
        let rest = self.text.get(self.at..).unwrap_or("");
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let length = rest.bytes().take_while(|byte| is_part(byte)).count();
        self.at += length;
        &rest[..length]
    }

    fn string(&mut self) -> Result<String, Error> {
        self.expect(b'"')?;
        let mut text = String::new();
        loop {
            let rest = self.text.get(self.at..).unwrap_or("");
            let plain = rest.bytes().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)).count();
            text.push_str(&rest[..plain]);
            self.at += plain;
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                _ => return Err(self.malformed()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        self.at += 2;
        match self.text.as_bytes().get(self.at - 1) {
            Some(b'n') => Ok('\n'),
            Some(b't') => Ok('\t'),
            Some(b'r') => Ok('\r'),
            Some(b'b') => Ok('\u{8}'),
            Some(b'f') => Ok('\u{c}'),
            Some(&byte @ (b'"' | b'\\' | b'/')) => Ok(char::from(byte)),
            Some(b'u') => {
                let first = self.hex()?;
                let code = if (0xd800..0xdc00).contains(&first)
                    && self.text.get(self.at..self.at + 2) == Some("\\u")
                {
                    self.at += 2;
                    let second = self.hex()?;
                    0x1_0000 + ((first - 0xd800) << 10) + (second.wrapping_sub(0xdc00) & 0x3ff)
                } else {
                    first
                };
                char::from_u32(code).ok_or_else(|| self.malformed())
            }
            _ => Err(self.malformed()),
        }
    }

    fn hex(&mut self) -> Result<u32, Error> {
        let digits =
            self.text.get(self.at..self.at + 4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4;
        digits.ok_or_else(|| self.malformed())
    }

    /// What stands here instead of what the visitor expects.
    fn mismatch<'de, V: Visitor<'de>>(&mut self, visitor: &V) -> Error {
        match self.peek() {
            b'{' => Error::invalid_type(Unexpected::Map, visitor),
            b'[' => Error::invalid_type(Unexpected::Seq, visitor),
            b'"' => match self.string() {
                Ok(text) => Error::invalid_type(Unexpected::Str(&text), visitor),
                Err(error) => error,
            },
            _ => match self.scalar() {
                "" => self.malformed(),
                word => Error::new(format!("invalid type: `{word}`, expected {}", visitor as &dyn Expected)),
            },
        }
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth == DEPTH_MAX {
            return Err(Error::new(format!("nested more than {DEPTH_MAX} deep")));
        }
        self.depth += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    /// Before an item of a list or an object: whether there is one.
    fn has_next(&mut self, first: &mut bool, close: u8) -> Result<bool, Error> {
        if self.take(close) {
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.expect(b',')?;
        }
        Ok(true)
    }
}

/// Methods that read an integer: the visitor checks its range.
macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let start = self.at;
            if self.is_number() {
                let text = self.scalar();
                if let Ok(number) = text.parse() {
                    return visitor.visit_u64(number);
                }
                if let Ok(number) = text.parse() {
                    return visitor.visit_i64(number);
                }
                self.at = start;
            }
            Err(self.mismatch(&visitor))
        }
    )*};
}

/// Methods that stand for another one.
macro_rules! like {
    ($($method:ident($($name:ident: $type:ty),*) => $other:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, Error> {
            $(let _ = $name;)*
            self.$other(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Reader<'_> {
    type Error = Error;

    integers! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    }

    like! {
        deserialize_f32() => deserialize_f64;
        deserialize_char() => deserialize_string;
        deserialize_str() => deserialize_string;
        deserialize_identifier() => deserialize_string;
        deserialize_bytes() => deserialize_seq;
        deserialize_byte_buf() => deserialize_seq;
        deserialize_unit_struct(name: &'static str) => deserialize_unit;
        deserialize_tuple(length: usize) => deserialize_seq;
        deserialize_tuple_struct(name: &'static str, length: usize) => deserialize_seq;
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) => deserialize_map;
        deserialize_ignored_any() => deserialize_any;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek() {
            b'{' => self.deserialize_map(visitor),
            b'[' => self.deserialize_seq(visitor),
            b'"' => self.deserialize_string(visitor),
            b't' | b'f' => self.deserialize_bool(visitor),
            b'n' => self.deserialize_unit(visitor),
            _ => {
                let start = self.at;
                let is_integer = self.scalar().bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
                self.at = start;
                if is_integer { self.deserialize_i64(visitor) } else { self.deserialize_f64(visitor) }
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.peek();
        let start = self.at;
        match self.scalar() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => {
                self.at = start;
                Err(self.mismatch(&visitor))
            }
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if !self.is_number() {
            return Err(self.mismatch(&visitor));
        }
        match self.scalar().parse::<f64>() {
            Ok(number) if number.is_finite() => visitor.visit_f64(number),
            _ => Err(self.malformed()),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.peek() != b'"' {
            return Err(self.mismatch(&visitor));
        }
        visitor.visit_string(self.string()?)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.peek();
        let start = self.at;
        if self.scalar() == "null" {
            return visitor.visit_unit();
        }
        self.at = start;
        Err(self.mismatch(&visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.peek();
        let start = self.at;
        if self.scalar() == "null" {
            return visitor.visit_none();
        }
        self.at = start;
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if !self.take(b'[') {
            return Err(self.mismatch(&visitor));
        }
        self.nested(|reader| visitor.visit_seq(Items { reader, first: true, index: 0 }))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if !self.take(b'{') {
            return Err(self.mismatch(&visitor));
        }
        self.nested(|reader| visitor.visit_map(Fields { reader, first: true, name: String::new() }))
    }

    /// `"variant"` or `{"variant": content}`.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.peek() {
            b'"' => visitor.visit_enum(StringDeserializer::new(self.string()?)),
            b'{' => {
                self.at += 1;
                let value = self.nested(|reader| visitor.visit_enum(Variant(reader)))?;
                self.expect(b'}')?;
                Ok(value)
            }
            _ => Err(self.mismatch(&visitor)),
        }
    }
}

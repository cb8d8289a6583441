//! Owns strict HTTP/1.1 framing (RFC 9112): follows the bytes that a client sends and finds the first one that makes it ambiguous where a
//! message ends. The HTTP parser behind it is lenient where the standard allows; here nothing is, so that no server behind the proxy can
//! read other messages than the proxy did (request smuggling). Keeps a few bytes of state per connection, allocates nothing.
//!
//! Refused: bare `\n` or `\r`, folded header lines, spaces around a header's name, control characters, a request line that is not
//! `method SP target SP version`, `Content-Length` together with `Transfer-Encoding`, either of them twice, a `Content-Length` that is not a plain number,
//! a `Transfer-Encoding` other than `chunked`, chunk extensions, chunk sizes of more than 16 digits, framing headers in trailers.

use std::fmt;

/// What is wrong with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A line ends with `\n` alone, or `\r` stands alone.
    BareNewline,
    /// The request line is not `method SP target SP version`, in visible ASCII.
    RequestLine,
    /// More than one empty line before a request.
    EmptyLines,
    /// A header's name has a character that is not allowed, a space before the colon included.
    HeaderName,
    /// A header's value has a control character.
    HeaderValue,
    /// A header line begins with a space: it continues the last one, or does not.
    FoldedHeader,
    /// `Content-Length` is not a plain number.
    ContentLength,
    /// `Content-Length` or `Transfer-Encoding` is given more than once.
    RepeatedFraming,
    /// `Transfer-Encoding` is not `chunked`.
    TransferEncoding,
    /// `Content-Length` and `Transfer-Encoding` together.
    BothFramings,
    /// A chunk's size is not 1 to 16 hexadecimal digits, or is followed by an extension.
    ChunkSize,
    /// A chunk is longer than its size says.
    ChunkEnd,
    /// A header in the trailers that belongs in the head.
    ForbiddenTrailer,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BareNewline => "a line does not end with CR LF",
            Self::RequestLine => "the request line is malformed",
            Self::EmptyLines => "more than one empty line before the request",
            Self::HeaderName => "a header name has a forbidden character",
            Self::HeaderValue => "a header value has a control character",
            Self::FoldedHeader => "a header line is folded",
            Self::ContentLength => "Content-Length is not a number",
            Self::RepeatedFraming => "Content-Length or Transfer-Encoding is repeated",
            Self::TransferEncoding => "Transfer-Encoding is not chunked",
            Self::BothFramings => "Content-Length and Transfer-Encoding are both given",
            Self::ChunkSize => "a chunk size is malformed or has an extension",
            Self::ChunkEnd => "a chunk does not end where its size says",
            Self::ForbiddenTrailer => "a trailer carries a framing header",
        })
    }
}

/// Longest header name that is told apart: `transfer-encoding`.
const NAME_MAX: usize = 17;
/// Longest value of a framing header that is looked at; a 64-bit number has 20 digits.
const VALUE_MAX: usize = 24;

/// Follows the requests of one connection.
#[derive(Debug, Clone)]
pub struct Framing {
    state: State,
    head: Head,
    /// Bytes of the name or framing value that is being read.
    text: Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a request. The line feed is due if `cr`; `empty` once an empty line was read.
    Start {
        cr: bool,
        empty: bool,
    },
    /// In the request line, after so many spaces.
    RequestLine {
        spaces: u8,
        last: u8,
    },
    /// After the `\r` of a line of a head or trailer.
    LineEnd,
    /// At the first byte of a line of a head or trailer.
    LineStart,
    Name,
    /// In the value of this header.
    Value(Header),
    /// After the `\r` of the empty line that ends a head or trailer.
    HeadEnd,
    /// In a body, so many bytes before its end.
    Body(u64),
    /// In a chunk's size, after so many digits.
    ChunkSize {
        digits: u8,
        size: u64,
    },
    /// After the `\r` of a chunk's size.
    ChunkSizeEnd(u64),
    /// In a chunk, so many bytes before its end.
    Chunk(u64),
    /// At the `\r` after a chunk.
    ChunkCr,
    /// At the `\n` after a chunk.
    ChunkLf,
}

const START: State = State::Start { cr: false, empty: false };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    ContentLength,
    TransferEncoding,
    Other,
}

/// What the head said about the body so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Head {
    content_length: Option<u64>,
    chunked: bool,
    trailers: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Text {
    bytes: [u8; VALUE_MAX],
    /// How many there were, which may be more than fit.
    len: usize,
}

impl Default for Framing {
    fn default() -> Self {
        Self { state: START, head: Head::default(), text: Text::default() }
    }
}

impl Framing {
    /// Before the first request of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Follows `bytes`.
    ///
    /// # Errors
    /// The first violation, and how many of the bytes come before it. The connection cannot be followed any further.
    pub fn check(&mut self, bytes: &[u8]) -> Result<(), (usize, Violation)> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match self.state {
                State::Body(left) => {
                    let taken = self.skip(left, rest, State::Body);
                    if self.state == State::Body(0) {
                        self.state = START;
                    }
                    taken
                }
                State::Chunk(left) => {
                    let taken = self.skip(left, rest, State::Chunk);
                    if self.state == State::Chunk(0) {
                        self.state = State::ChunkCr;
                    }
                    taken
                }
                State::Value(Header::Other) => {
                    let plain = rest.iter().position(|&b| !is_value_byte(b)).unwrap_or(rest.len());
                    if plain == 0 {
                        self.state = end_of_line(rest[0], Violation::HeaderValue).map_err(|v| (at, v))?;
                    }
                    plain.max(1)
                }
                _ => {
                    self.state = self.step(rest[0]).map_err(|violation| (at, violation))?;
                    1
                }
            };
        }
        Ok(())
    }

    fn skip(&mut self, left: u64, rest: &[u8], state: fn(u64) -> State) -> usize {
        let taken = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        self.state = state(left - taken as u64);
        taken
    }

    fn step(&mut self, byte: u8) -> Result<State, Violation> {
        match self.state {
            State::Start { .. } | State::RequestLine { .. } => self.request_line(byte),
            State::LineEnd => expect(byte, b'\n', Violation::BareNewline, State::LineStart),
            State::LineStart => match byte {
                b'\r' => Ok(State::HeadEnd),
                b'\n' => Err(Violation::BareNewline),
                b' ' | b'\t' => Err(Violation::FoldedHeader),
                byte if is_token(byte) => {
                    self.text.len = 0;
                    self.text.push(byte.to_ascii_lowercase());
                    Ok(State::Name)
                }
                _ => Err(Violation::HeaderName),
            },
            State::Name => match byte {
                b':' => self.begin_value(),
                byte if is_token(byte) => {
                    self.text.push(byte.to_ascii_lowercase());
                    Ok(State::Name)
                }
                _ => Err(Violation::HeaderName),
            },
            State::Value(header) => self.framing_value(header, byte),
            State::HeadEnd => {
                expect(byte, b'\n', Violation::BareNewline, ())?;
                Ok(self.after_head())
            }
            State::ChunkSize { digits, size } => chunk_size(digits, size, byte),
            State::ChunkSizeEnd(size) => {
                expect(byte, b'\n', Violation::BareNewline, ())?;
                self.head.trailers = size == 0;
                Ok(if size == 0 { State::LineStart } else { State::Chunk(size) })
            }
            State::ChunkCr => expect(byte, b'\r', Violation::ChunkEnd, State::ChunkLf),
            State::ChunkLf => {
                expect(byte, b'\n', Violation::ChunkEnd, State::ChunkSize { digits: 0, size: 0 })
            }
            State::Body(_) | State::Chunk(_) => unreachable!("bodies are skipped, not stepped through"),
        }
    }

    fn request_line(&mut self, byte: u8) -> Result<State, Violation> {
        match (self.state, byte) {
            (State::Start { cr: false, empty: false }, b'\r') => Ok(State::Start { cr: true, empty: false }),
            (State::Start { cr: true, .. }, b'\n') => Ok(State::Start { cr: false, empty: true }),
            (State::Start { cr: true, .. }, _) => Err(Violation::BareNewline),
            (State::Start { empty: true, .. }, b'\r') => Err(Violation::EmptyLines),
            (State::Start { .. }, byte) if is_token(byte) => {
                self.head = Head::default();
                Ok(State::RequestLine { spaces: 0, last: byte })
            }
            (State::RequestLine { spaces: 2, last }, b'\r') if last != b' ' => Ok(State::LineEnd),
            (State::RequestLine { spaces, last }, b' ') if last != b' ' && spaces < 2 => {
                Ok(State::RequestLine { spaces: spaces + 1, last: b' ' })
            }
            (State::RequestLine { spaces: 0, .. }, byte) if !is_token(byte) => Err(Violation::RequestLine),
            (State::RequestLine { spaces, .. }, b'!'..=b'~') => Ok(State::RequestLine { spaces, last: byte }),
            (_, b'\n') => Err(Violation::BareNewline),
            _ => Err(Violation::RequestLine),
        }
    }

    fn begin_value(&mut self) -> Result<State, Violation> {
        let name = self.text.bytes.get(..self.text.len).filter(|name| name.len() <= NAME_MAX).unwrap_or(&[]);
        let header = match name {
            b"content-length" => Header::ContentLength,
            b"transfer-encoding" => Header::TransferEncoding,
            b"host" if self.head.trailers => return Err(Violation::ForbiddenTrailer),
            _ => Header::Other,
        };
        if self.head.trailers && header != Header::Other {
            return Err(Violation::ForbiddenTrailer);
        }
        self.text.len = 0;
        Ok(State::Value(header))
    }

    fn framing_value(&mut self, header: Header, byte: u8) -> Result<State, Violation> {
        if is_value_byte(byte) {
            // Leading white space is not part of the value.
            if self.text.len > 0 || !(byte == b' ' || byte == b'\t') {
                self.text.push(byte);
            }
            return Ok(State::Value(header));
        }
        let next = end_of_line(byte, Violation::HeaderValue)?;
        match header {
            Header::ContentLength if self.head.content_length.is_some() => {
                return Err(Violation::RepeatedFraming);
            }
            Header::TransferEncoding if self.head.chunked => return Err(Violation::RepeatedFraming),
            Header::ContentLength => self.head.content_length = Some(self.text.number()?),
            Header::TransferEncoding if self.text.trimmed().eq_ignore_ascii_case(b"chunked") => {
                self.head.chunked = true
            }
            Header::TransferEncoding => return Err(Violation::TransferEncoding),
            Header::Other => {}
        }
        if self.head.content_length.is_some() && self.head.chunked {
            return Err(Violation::BothFramings);
        }
        Ok(next)
    }

    fn after_head(&mut self) -> State {
        let head = std::mem::take(&mut self.head);
        match head.content_length {
            _ if head.trailers => START,
            _ if head.chunked => State::ChunkSize { digits: 0, size: 0 },
            Some(length @ 1..) => State::Body(length),
            _ => START,
        }
    }
}

impl Text {
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
        }
        self.len = self.len.saturating_add(1);
    }

    /// The text without trailing white space; empty if it was too long.
    fn trimmed(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[]).trim_ascii_end()
    }

    fn number(&self) -> Result<u64, Violation> {
        let digits = self.trimmed();
        let text = std::str::from_utf8(digits)
            .ok()
            .filter(|_| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit));
        text.and_then(|text| text.parse().ok()).ok_or(Violation::ContentLength)
    }
}

fn chunk_size(digits: u8, size: u64, byte: u8) -> Result<State, Violation> {
    match (byte as char).to_digit(16) {
        Some(digit) if digits < 16 => {
            Ok(State::ChunkSize { digits: digits + 1, size: size << 4 | u64::from(digit) })
        }
        None if byte == b'\r' && digits > 0 => Ok(State::ChunkSizeEnd(size)),
        None if byte == b'\n' => Err(Violation::BareNewline),
        _ => Err(Violation::ChunkSize),
    }
}

fn expect<T>(byte: u8, wanted: u8, violation: Violation, then: T) -> Result<T, Violation> {
    if byte == wanted { Ok(then) } else { Err(violation) }
}

fn end_of_line(byte: u8, otherwise: Violation) -> Result<State, Violation> {
    match byte {
        b'\r' => Ok(State::LineEnd),
        b'\n' => Err(Violation::BareNewline),
        _ => Err(otherwise),
    }
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110, 5.5: visible, space, tab, or obs-text.
fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests;
